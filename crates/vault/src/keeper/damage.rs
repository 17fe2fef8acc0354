//! What was found damaged, on record in the storage: so that it is not relied on by anyone who opens the vault later, and the next
//! backup puts it anew.
//!
//! `damaged/DOMAIN/HASH` lists objects by pack and offset, and whole packs. Each verification looks at everything again and leaves one
//! list that is true; until then every list counts, because relying on too little only costs sending again.

use super::domain::Domain;
use crate::coder::{Reader, checked, close, hex, put_count};
use crate::keys::DomainId;
use crate::object::VaultError;
use crate::pack::PackName;
use std::collections::{BTreeMap, BTreeSet, HashSet};

const MAGIC: &[u8; 8] = b"anvdmgd1";
const VERSION: u16 = 1;
/// Pack (kind 1, hash 32) and offset (4).
const ENTRY_SIZE: usize = 37;
/// Stands for a pack as a whole: no object begins there.
const WHOLE: u32 = u32::MAX;

/// Objects and whole packs that are damaged.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Damage {
    pub objects: BTreeSet<(PackName, u32)>,
    pub packs: BTreeSet<PackName>,
}

/// The lists that were read, by their names.
pub(crate) type Recorded = BTreeMap<String, Damage>;

pub(crate) fn prefix(domain: DomainId) -> String {
    format!("damaged/{domain}/")
}

/// Whether a name in the room is one of a list.
pub(crate) fn is_name(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl Damage {
    fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        put_count(&mut out, self.objects.len() + self.packs.len());
        let whole = self.packs.iter().map(|pack| (*pack, WHOLE));
        for (pack, offset) in self.objects.iter().copied().chain(whole) {
            out.push(pack.kind.code());
            out.extend_from_slice(&pack.hash);
            out.extend_from_slice(&offset.to_le_bytes());
        }
        close(&mut out);
        out
    }

    fn decode(bytes: &[u8], what: &str) -> Result<Self, VaultError> {
        let mut reader = Reader::new(checked(bytes, what)?, what);
        reader.opening(MAGIC, VERSION)?;
        let mut damage = Self::default();
        for _ in 0..reader.count(ENTRY_SIZE)? {
            let kind = match reader.u8()? {
                0 => crate::object::Kind::Data,
                1 => crate::object::Kind::Tree,
                _ => return Err(reader.bad("it names a pack of unknown kind")),
            };
            let pack = PackName { kind, hash: reader.array()? };
            match reader.u32()? {
                WHOLE => drop(damage.packs.insert(pack)),
                offset => drop(damage.objects.insert((pack, offset))),
            }
        }
        reader.end()?;
        Ok(damage)
    }
}

impl Domain {
    /// Reads lists that are new, drops those that are gone. One that is itself damaged says nothing; a verification replaces it.
    pub(crate) fn read_damage(&self) -> Result<(), VaultError> {
        let listed: Vec<String> =
            self.store().list(&prefix(self.id))?.into_iter().map(|(name, _)| name).collect();
        let mut recorded = self.recorded();
        recorded.retain(|name, _| listed.contains(name));
        for name in listed {
            if recorded.contains_key(&name) {
                continue;
            }
            match self.store().get(&name).and_then(|bytes| Damage::decode(&bytes, &name)) {
                Ok(damage) => drop(recorded.insert(name, damage)),
                Err(VaultError::NotFound(_) | VaultError::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// All that is on record as damaged.
    pub(crate) fn known_damage(&self) -> Damage {
        let mut all = Damage::default();
        for damage in self.recorded().values() {
            all.objects.extend(&damage.objects);
            all.packs.extend(&damage.packs);
        }
        all
    }

    /// Puts on record what a verification of everything found, in place of what earlier ones did.
    pub(crate) fn record_damage(
        &self,
        objects: &BTreeSet<(PackName, u32)>,
        packs: &HashSet<PackName>,
    ) -> Result<(), VaultError> {
        let found = Damage { objects: objects.clone(), packs: packs.iter().copied().collect() };
        let before: Vec<String> =
            self.store().list(&prefix(self.id))?.into_iter().map(|(name, _)| name).collect();
        let bytes = found.encode();
        let own = format!("{}{}", prefix(self.id), hex(blake3::hash(&bytes).as_bytes()));
        if found != Damage::default() {
            match self.store().put(&own, &[bytes.into()]) {
                Ok(()) | Err(VaultError::Exists(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let superseded: Vec<String> =
            before.into_iter().filter(|name| *name != own || found == Damage::default()).collect();
        self.store().delete_many(&superseded)?;
        let mut recorded = self.recorded();
        recorded.clear();
        if found != Damage::default() {
            recorded.insert(own, found);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Kind;
    use proptest::prelude::*;

    #[test]
    fn version_1_has_these_bytes() {
        let pack = |kind, byte| PackName { kind, hash: [byte; 32] };
        let damage = Damage {
            objects: BTreeSet::from([(pack(Kind::Data, 1), 64)]),
            packs: BTreeSet::from([pack(Kind::Tree, 2)]),
        };
        let mut expected = b"anvdmgd1\x01\0\x02\0\0\0\0".to_vec();
        expected.extend_from_slice(&[1; 32]);
        expected.extend_from_slice(&64u32.to_le_bytes());
        expected.push(1);
        expected.extend_from_slice(&[2; 32]);
        expected.extend_from_slice(&[255; 4]);
        close(&mut expected);
        assert_eq!(damage.encode(), expected);
        assert_eq!(Damage::decode(&expected, "a list"), Ok(damage));
    }

    proptest! {
        #[test]
        fn decoding_never_panics(mut bytes: Vec<u8>, mend: bool) {
            bytes.splice(0..0, *b"anvdmgd1\x01\0");
            if mend {
                close(&mut bytes);
            }
            let _ = Damage::decode(&bytes, "a list");
        }
    }
}
