//! The key file of a domain: its secret, wrapped once for each key that may open it. Useless without one of these, so
//! a copy lies in the vault itself and a bare machine needs the vault and the recovery key only.

use super::recovery::RecoveryKey;
use super::{DomainId, DomainKeys, WRAP_OVERHEAD, random, unwrap, wrap};
use crate::coder::{Reader, checked, close, put_text};
use crate::object::VaultError;

const MAGIC: &[u8; 8] = b"anvkeys1";
const VERSION: u16 = 1;
const SLOTS_MAX: usize = 64;
const NAME_LENGTH_MAX: usize = 255;
const WRAPPED_SIZE: usize = 32 + WRAP_OVERHEAD;
/// Bounds of what a foreign key file may make this machine spend on a passphrase.
const MEMORY_KIB_MAX: u32 = 1 << 20;
const PASSES_MAX: u32 = 16;

/// What a passphrase costs to try: 64 MiB and three passes of Argon2id, a good half of a second on a small machine.
const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;

/// Something that opens a key file.
#[derive(Clone, Copy, Debug)]
pub enum Secret<'a> {
    /// 32 random bytes that a machine keeps in a file of its own.
    Machine(&'a [u8; 32]),
    /// What a human remembers.
    Passphrase(&'a str),
    /// What was printed.
    Recovery(&'a RecoveryKey),
}

/// For which kind of secret a slot is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotKind {
    /// See [`Secret::Machine`].
    Machine,
    /// See [`Secret::Passphrase`].
    Passphrase,
    /// See [`Secret::Recovery`].
    Recovery,
}

impl Secret<'_> {
    const fn kind(&self) -> SlotKind {
        match self {
            Self::Machine(_) => SlotKind::Machine,
            Self::Passphrase(_) => SlotKind::Passphrase,
            Self::Recovery(_) => SlotKind::Recovery,
        }
    }

    /// The key that wraps the domain's secret in one slot.
    fn wrapping_key(&self, salt: &[u8; 32], memory_kib: u32, passes: u32) -> Result<[u8; 32], VaultError> {
        let stretched;
        let material: &[u8] = match self {
            Self::Machine(key) => &key[..],
            Self::Recovery(key) => &key.0,
            Self::Passphrase(text) => {
                stretched = stretch(text, salt, memory_kib, passes)?;
                &stretched
            }
        };
        let mut input = salt.to_vec();
        input.extend_from_slice(material);
        Ok(blake3::derive_key("anshin vault v1 key slot", &input))
    }
}

fn stretch(text: &str, salt: &[u8; 32], memory_kib: u32, passes: u32) -> Result<[u8; 32], VaultError> {
    let failed = |error: argon2::Error| VaultError::Key(format!("the passphrase cannot be used: {error}"));
    let params = argon2::Params::new(memory_kib, passes, 1, Some(32)).map_err(failed)?;
    let mut out = [0; 32];
    argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params)
        .hash_password_into(text.as_bytes(), salt, &mut out)
        .map_err(failed)?;
    Ok(out)
}

/// One way to open a key file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slot {
    /// What opens it.
    pub kind: SlotKind,
    /// For the humans who see the list: a machine's name, a drawer.
    pub label: String,
    salt: [u8; 32],
    memory_kib: u32,
    passes: u32,
    wrapped: Vec<u8>,
}

impl Slot {
    fn clear(&self, domain: DomainId) -> Vec<u8> {
        let mut clear = domain.0.to_vec();
        clear.push(self.kind as u8 + 1);
        clear.extend_from_slice(&self.salt);
        clear.extend_from_slice(&self.memory_kib.to_le_bytes());
        clear.extend_from_slice(&self.passes.to_le_bytes());
        clear
    }

    /// Whether `secret` opens it. With a passphrase this takes a good half of a second.
    #[must_use]
    pub fn opens(&self, domain: DomainId, secret: Secret<'_>) -> bool {
        self.kind == secret.kind() && matches!(self.open(domain, secret), Ok(Some(_)))
    }

    fn make(keys: &DomainKeys, secret: Secret<'_>, label: &str) -> Result<Self, VaultError> {
        let (memory_kib, passes) =
            if secret.kind() == SlotKind::Passphrase { (MEMORY_KIB, PASSES) } else { (0, 0) };
        let (label, salt) = (label.to_owned(), random()?);
        let mut slot = Self { kind: secret.kind(), label, salt, memory_kib, passes, wrapped: Vec::new() };
        let key = secret.wrapping_key(&slot.salt, memory_kib, passes)?;
        slot.wrapped = wrap(&key, &slot.clear(keys.domain()), &keys.secret)?;
        Ok(slot)
    }

    fn open(&self, domain: DomainId, secret: Secret<'_>) -> Result<Option<DomainKeys>, VaultError> {
        let key = secret.wrapping_key(&self.salt, self.memory_kib, self.passes)?;
        let plain = unwrap(&key, &self.clear(domain), &self.wrapped);
        let Some(secret) = plain.and_then(|plain| <[u8; 32]>::try_from(plain).ok()) else { return Ok(None) };
        let keys = DomainKeys::derive(secret);
        Ok((keys.domain() == domain).then_some(keys))
    }
}

/// The key file of one domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyFile {
    /// Which domain it opens.
    pub domain: DomainId,
    /// The domain's name, as humans know it: a client's name, or that of a group that shares it.
    pub name: String,
    /// When it was written, in seconds of Unix time by its maker's clock.
    pub written: u64,
    /// The ways to open it.
    pub slots: Vec<Slot>,
}

/// A new domain: its keys, its key file, and the recovery key to print.
#[derive(Debug)]
pub struct NewDomain {
    /// The keys, open.
    pub keys: DomainKeys,
    /// To be stored with the machine and in the vault.
    pub file: KeyFile,
    /// To be printed and put away, never stored.
    pub recovery: RecoveryKey,
}

impl KeyFile {
    /// Makes a domain that `secret` and a new recovery key open. The recovery key is tested before this returns, as it will
    /// be used: typed in from its printed form and applied to the bytes that will be stored.
    ///
    /// # Errors
    /// [`VaultError::Key`] if a name is too long or the test fails.
    pub fn create(name: &str, secret: Secret<'_>, label: &str, now: u64) -> Result<NewDomain, VaultError> {
        if name.len() > NAME_LENGTH_MAX || label.len() > NAME_LENGTH_MAX {
            return Err(VaultError::Key("a name of a key is longer than 255 bytes".into()));
        }
        let keys = DomainKeys::generate()?;
        let recovery = RecoveryKey::generate()?;
        let slots = vec![
            Slot::make(&keys, secret, label)?,
            Slot::make(&keys, Secret::Recovery(&recovery), "printed")?,
        ];
        let file = Self { domain: keys.domain(), name: name.to_owned(), written: now, slots };
        let stored = Self::decode(&file.encode())?;
        let typed: RecoveryKey = recovery.to_string().parse()?;
        for secret in [secret, Secret::Recovery(&typed)] {
            let opened = stored.unlock(secret)?;
            if opened.secret != keys.secret {
                return Err(VaultError::Key(
                    "a new key did not open what it had closed; nothing was made".into(),
                ));
            }
        }
        Ok(NewDomain { keys, file, recovery })
    }

    /// The file of a domain whose keys are there, with one way to open it: for a machine that was handed the keys.
    ///
    /// # Errors
    /// [`VaultError::Key`] if a name is too long.
    pub fn of(
        keys: &DomainKeys,
        name: &str,
        secret: Secret<'_>,
        label: &str,
        now: u64,
    ) -> Result<Self, VaultError> {
        if name.len() > NAME_LENGTH_MAX || label.len() > NAME_LENGTH_MAX {
            return Err(VaultError::Key("a name of a key is longer than 255 bytes".into()));
        }
        let slots = vec![Slot::make(keys, secret, label)?];
        Ok(Self { domain: keys.domain(), name: name.to_owned(), written: now, slots })
    }

    /// Whether a recovery key opens it, so that the loss of every machine is not the loss of the data.
    #[must_use]
    pub fn has_recovery(&self) -> bool {
        self.slots.iter().any(|slot| slot.kind == SlotKind::Recovery)
    }

    /// Opens the domain.
    ///
    /// # Errors
    /// [`VaultError::Key`] with what to do if nothing in the file is opened by `secret`.
    pub fn unlock(&self, secret: Secret<'_>) -> Result<DomainKeys, VaultError> {
        for slot in self.slots.iter().filter(|slot| slot.kind == secret.kind()) {
            if let Some(keys) = slot.open(self.domain, secret)? {
                return Ok(keys);
            }
        }
        let what = match secret {
            Secret::Machine(_) => "the key of this machine",
            Secret::Passphrase(_) => "the passphrase",
            Secret::Recovery(_) => "the recovery key",
        };
        Err(VaultError::Key(format!(
            "{what} does not open the key domain `{}`{}",
            self.name,
            match secret {
                Secret::Recovery(_) => ": it belongs to another domain, or was replaced by a later one",
                _ =>
                    "; the recovery key that was printed when the domain was made opens it and makes a new key",
            }
        )))
    }

    /// What to say when the machine's key is not there at all.
    #[must_use]
    pub fn lost(&self) -> VaultError {
        VaultError::Key(format!(
            "the key of the domain `{}` is not on this machine: nothing in it can be read. The recovery key (8 groups of 5 \
             characters, printed when the domain was made) opens it and makes a new key",
            self.name
        ))
    }

    /// The same domain with one more way to open it.
    ///
    /// # Errors
    /// [`VaultError::Key`] if the keys are another domain's or there are too many ways already.
    pub fn with_slot(
        &self,
        keys: &DomainKeys,
        secret: Secret<'_>,
        label: &str,
        now: u64,
    ) -> Result<Self, VaultError> {
        if keys.domain() != self.domain {
            return Err(VaultError::Key("these keys are of another domain".into()));
        }
        if self.slots.len() >= SLOTS_MAX || label.len() > NAME_LENGTH_MAX {
            return Err(VaultError::Key("the key file has 64 keys already, or the name is too long".into()));
        }
        let mut file = self.clone();
        file.slots.push(Slot::make(keys, secret, label)?);
        file.written = now;
        Ok(file)
    }

    /// The same domain without one way to open it. Who has read the domain's secret before keeps it: see docs/formats/vault.md.
    ///
    /// # Errors
    /// [`VaultError::Refused`] if no recovery key would be left.
    pub fn without_slot(&self, at: usize, now: u64) -> Result<Self, VaultError> {
        let mut file = self.clone();
        if at >= file.slots.len() {
            return Err(VaultError::NotFound(format!("key {} of `{}`", at + 1, self.name)));
        }
        file.slots.remove(at);
        if !file.has_recovery() {
            return Err(VaultError::Refused(format!(
                "the domain `{}` would have no recovery key",
                self.name
            )));
        }
        file.written = now;
        Ok(file)
    }

    /// The file's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.domain.0);
        out.extend_from_slice(&self.written.to_le_bytes());
        put_text(&mut out, &self.name);
        crate::coder::put_count(&mut out, self.slots.len());
        for slot in &self.slots {
            out.push(slot.kind as u8 + 1);
            put_text(&mut out, &slot.label);
            out.extend_from_slice(&slot.salt);
            out.extend_from_slice(&slot.memory_kib.to_le_bytes());
            out.extend_from_slice(&slot.passes.to_le_bytes());
            out.extend_from_slice(&slot.wrapped);
        }
        close(&mut out);
        out
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`VaultError::Damaged`], [`VaultError::Version`].
    pub fn decode(bytes: &[u8]) -> Result<Self, VaultError> {
        let what = "the key file";
        let mut reader = Reader::new(checked(bytes, what)?, what);
        reader.opening(MAGIC, VERSION)?;
        let domain = DomainId(reader.array()?);
        let written = reader.u64()?;
        let name = reader.text()?;
        let count = reader.count(WRAPPED_SIZE)?;
        if count > SLOTS_MAX {
            return Err(reader.bad("it has too many keys"));
        }
        let mut slots = Vec::with_capacity(count);
        for _ in 0..count {
            let kind = match reader.u8()? {
                1 => SlotKind::Machine,
                2 => SlotKind::Passphrase,
                3 => SlotKind::Recovery,
                _ => return Err(reader.bad("it has a key of unknown kind")),
            };
            let (label, salt) = (reader.text()?, reader.array()?);
            let (memory_kib, passes) = (reader.u32()?, reader.u32()?);
            if memory_kib > MEMORY_KIB_MAX || passes > PASSES_MAX {
                return Err(reader.bad("it asks for more work than any key needs"));
            }
            let wrapped = reader.bytes(WRAPPED_SIZE)?.to_vec();
            slots.push(Slot { kind, label, salt, memory_kib, passes, wrapped });
        }
        reader.end()?;
        Ok(Self { domain, name, written, slots })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_key_of_a_domain_opens_it_and_no_other_does() {
        let machine = [5; 32];
        let new = KeyFile::create("alpha", Secret::Machine(&machine), "alpha", 1000).unwrap();
        let file = new.file.with_slot(&new.keys, Secret::Passphrase("correct horse"), "admin", 1001).unwrap();
        let file = KeyFile::decode(&file.encode()).unwrap();
        for secret in
            [Secret::Machine(&machine), Secret::Passphrase("correct horse"), Secret::Recovery(&new.recovery)]
        {
            assert_eq!(file.unlock(secret).unwrap().secret, new.keys.secret);
        }
        let other = RecoveryKey::generate().unwrap();
        for secret in [Secret::Machine(&[6; 32]), Secret::Passphrase("wrong"), Secret::Recovery(&other)] {
            assert!(matches!(file.unlock(secret), Err(VaultError::Key(_))));
        }
    }

    #[test]
    fn a_lost_key_says_what_the_recovery_key_is_for_and_that_key_makes_a_new_one() {
        let new = KeyFile::create("alpha", Secret::Machine(&[5; 32]), "alpha", 1000).unwrap();
        assert!(new.file.lost().to_string().contains("The recovery key (8 groups of 5 characters"));
        let told = new.file.unlock(Secret::Machine(&[9; 32])).unwrap_err().to_string();
        assert!(told.contains("recovery key that was printed"), "{told}");
        let keys = new.file.unlock(Secret::Recovery(&new.recovery)).unwrap();
        let again = new.file.with_slot(&keys, Secret::Machine(&[9; 32]), "new alpha", 2000).unwrap();
        assert_eq!(again.unlock(Secret::Machine(&[9; 32])).unwrap().domain(), new.keys.domain());
    }

    #[test]
    fn the_last_recovery_key_cannot_be_removed() {
        let new = KeyFile::create("alpha", Secret::Machine(&[5; 32]), "alpha", 1000).unwrap();
        assert!(matches!(new.file.without_slot(1, 0), Err(VaultError::Refused(_))));
        let left = new.file.without_slot(0, 0).unwrap();
        assert!(left.unlock(Secret::Machine(&[5; 32])).is_err());
    }

    #[test]
    fn a_flipped_bit_anywhere_in_a_key_file_is_noticed() {
        let bytes = KeyFile::create("a", Secret::Machine(&[5; 32]), "", 1).unwrap().file.encode();
        for at in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[at / 8] ^= 1 << (at % 8);
            assert!(matches!(KeyFile::decode(&bytes), Err(VaultError::Damaged { .. })), "bit {at}");
        }
    }

    proptest! {
        #[test]
        fn decoding_never_panics(mut bytes: Vec<u8>, valid_check: bool) {
            bytes.splice(0..0, *b"anvkeys1\x01\0");
            if valid_check {
                close(&mut bytes);
            }
            let _ = KeyFile::decode(&bytes);
        }
    }
}
