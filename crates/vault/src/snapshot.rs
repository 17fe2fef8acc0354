//! Snapshots: the roots from which everything else in a vault is reached.

use crate::coder::{Reader, checked, close, hex, put_text, unhex};
use crate::keys::{DomainId, DomainKeys};
use crate::object::{ChunkId, VaultError};
use std::fmt;

const MAGIC: &[u8; 8] = b"anvsnap1";
const VERSION: u16 = 1;
const NAME_LENGTH_MAX: usize = 255;
/// Most bytes that a snapshot says about itself.
pub const META_SIZE_MAX: usize = 1 << 20;

/// A snapshot's name: random, or made by who must find it again after a crash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(pub [u8; 16]);

impl SnapshotId {
    /// A random one.
    ///
    /// # Errors
    /// If the machine gives no randomness.
    pub fn generate() -> Result<Self, VaultError> {
        crate::keys::random().map(Self)
    }

    /// Reads what `Display` writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        unhex(text).map(Self)
    }

    pub(crate) fn path(&self, domain: DomainId) -> String {
        format!("snapshots/{domain}/{self}")
    }

    pub(crate) fn intent_path(&self, domain: DomainId) -> String {
        format!("intents/{domain}/{self}")
    }

    pub(crate) fn forgotten_path(&self, domain: DomainId) -> String {
        format!("forgotten/{domain}/{self}")
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotId({})", &hex(&self.0)[..8])
    }
}

/// What a backup came to. Readable without a key.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SnapshotStats {
    /// Files and directories, or extents of an image.
    pub entries: u64,
    /// Bytes as the source has them.
    pub bytes: u64,
    /// Objects that were new to the vault.
    pub new_objects: u64,
    /// Bytes that were new to the vault, as stored.
    pub new_bytes: u64,
}

/// What a client says of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotRecord {
    /// Its name.
    pub id: SnapshotId,
    /// Whose data it holds.
    pub client: String,
    /// The plan that made it.
    pub plan: String,
    /// The run that made it.
    pub run: String,
    /// The instant whose state it holds, in nanoseconds of Unix time by the client's clock.
    pub time: i64,
    /// The object from which all others are reached.
    pub root: ChunkId,
    /// What it came to.
    pub stats: SnapshotStats,
    /// What only the client reads; its encryption also covers the fields above.
    pub meta: Vec<u8>,
}

/// A sealed snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// As the client sent it.
    pub record: SnapshotRecord,
    /// When it was sealed, in seconds of Unix time by the keeper's clock; what retention goes by.
    pub sealed: u64,
    /// When it was forgotten, if it was; it can still be remembered until garbage collection removes it.
    pub forgotten: Option<u64>,
}

/// When a snapshot was forgotten, if it goes at once: another one holds what is in it.
pub const FORGOTTEN_FOR_GOOD: u64 = 0;

impl SnapshotRecord {
    /// The clear fields, in the bytes that the encryption of `meta` authenticates.
    pub(crate) fn clear(&self) -> Vec<u8> {
        let mut out = self.id.0.to_vec();
        put_text(&mut out, &self.client);
        put_text(&mut out, &self.plan);
        put_text(&mut out, &self.run);
        out.extend_from_slice(&self.time.to_le_bytes());
        out.extend_from_slice(&self.root.0);
        let SnapshotStats { entries, bytes, new_objects, new_bytes } = self.stats;
        for number in [entries, bytes, new_objects, new_bytes] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out
    }

    /// Refuses names and descriptions that are too long.
    ///
    /// # Errors
    /// [`VaultError::TooLarge`].
    pub fn check(&self) -> Result<(), VaultError> {
        for name in [&self.client, &self.plan, &self.run] {
            if name.len() > NAME_LENGTH_MAX {
                return Err(VaultError::TooLarge {
                    what: "a name in a snapshot",
                    size: name.len(),
                    max: NAME_LENGTH_MAX,
                });
            }
        }
        if self.meta.len() > META_SIZE_MAX {
            return Err(VaultError::TooLarge {
                what: "the description of a snapshot",
                size: self.meta.len(),
                max: META_SIZE_MAX,
            });
        }
        Ok(())
    }

    /// Decrypts `meta`, which proves that no field was changed since the client sent it.
    ///
    /// # Errors
    /// [`VaultError::Damaged`].
    pub fn open_meta(&self, keys: &DomainKeys) -> Result<Vec<u8>, VaultError> {
        keys.open_meta(&self.clear(), &self.meta).ok_or_else(|| {
            VaultError::damaged(
                format!("snapshot {}", self.id),
                "it is not what the client sealed with this key",
            )
        })
    }
}

impl Snapshot {
    /// Its bytes in the storage, without the mark of forgetting.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.sealed.to_le_bytes());
        out.extend_from_slice(&self.record.clear());
        crate::coder::put_count(&mut out, self.record.meta.len());
        out.extend_from_slice(&self.record.meta);
        close(&mut out);
        out
    }

    /// Reads the bytes of the snapshot `id`.
    ///
    /// # Errors
    /// [`VaultError::Damaged`], [`VaultError::Version`].
    pub fn decode(id: SnapshotId, bytes: &[u8]) -> Result<Self, VaultError> {
        let what = format!("snapshot {id}");
        let mut reader = Reader::new(checked(bytes, &what)?, &what);
        reader.opening(MAGIC, VERSION)?;
        let sealed = reader.u64()?;
        let found = SnapshotId(reader.array()?);
        let (client, plan, run) = (reader.text()?, reader.text()?, reader.text()?);
        let time = i64::from_le_bytes(reader.array()?);
        let root = ChunkId(reader.array()?);
        let stats = SnapshotStats {
            entries: reader.u64()?,
            bytes: reader.u64()?,
            new_objects: reader.u64()?,
            new_bytes: reader.u64()?,
        };
        let meta = reader.blob()?;
        reader.end()?;
        if found != id {
            return Err(reader.bad("it lies where another belongs"));
        }
        let record = SnapshotRecord { id, client, plan, run, time, root, stats, meta };
        record.check()?;
        Ok(Self { record, sealed, forgotten: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn snapshot(meta: Vec<u8>) -> Snapshot {
        let record = SnapshotRecord {
            id: SnapshotId([1; 16]),
            client: "alpha".into(),
            plan: "nightly".into(),
            run: "r1".into(),
            time: -5,
            root: ChunkId([2; 32]),
            stats: SnapshotStats { entries: 1, bytes: 2, new_objects: 3, new_bytes: 4 },
            meta,
        };
        Snapshot { record, sealed: 77, forgotten: None }
    }

    #[test]
    fn version_1_has_these_bytes() {
        let golden = concat!(
            "616e76736e61703101004d0000000000000001010101010101010101010101010101",
            "0500616c70686107006e696768746c7902007231fbffffffffffffff",
            "0202020202020202020202020202020202020202020202020202020202020202",
            "0100000000000000020000000000000003000000000000000400000000000000",
            "0100000009f56e9fbd5ec7da98bfe35e2db24234d1",
        );
        assert_eq!(hex(&snapshot(vec![9]).encode()), golden);
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let bytes = snapshot(vec![9]).encode();
        for at in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[at / 8] ^= 1 << (at % 8);
            assert!(matches!(Snapshot::decode(SnapshotId([1; 16]), &bytes), Err(VaultError::Damaged { .. })));
        }
    }

    #[test]
    fn a_keeper_that_changes_a_field_is_noticed_by_the_client() {
        let keys = DomainKeys::derive([1; 32]);
        let mut record = snapshot(Vec::new()).record;
        record.meta = keys.seal_meta(&record.clear(), b"about").unwrap();
        assert_eq!(record.open_meta(&keys).unwrap(), b"about");
        for change in [
            |record: &mut SnapshotRecord| record.time += 1,
            |record: &mut SnapshotRecord| record.root.0[0] ^= 1,
            |record: &mut SnapshotRecord| record.plan.push('x'),
            |record: &mut SnapshotRecord| record.stats.bytes += 1,
            |record: &mut SnapshotRecord| record.id.0[0] ^= 1,
        ] {
            let mut changed = record.clone();
            change(&mut changed);
            assert!(matches!(changed.open_meta(&keys), Err(VaultError::Damaged { .. })));
        }
    }

    proptest! {
        #[test]
        fn decode_of_encode_is_the_snapshot(meta: Vec<u8>) {
            let snapshot = snapshot(meta);
            prop_assert_eq!(Snapshot::decode(SnapshotId([1; 16]), &snapshot.encode()).unwrap(), snapshot);
        }

        #[test]
        fn decoding_never_panics(bytes: Vec<u8>, keep in 0usize..180, mend: bool) {
            let mut whole = snapshot(vec![1; 20]).encode();
            whole.truncate(keep);
            whole.extend_from_slice(&bytes);
            if mend {
                close(&mut whole);
            }
            let _ = Snapshot::decode(SnapshotId([1; 16]), &whole);
        }
    }
}
