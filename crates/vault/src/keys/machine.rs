//! The key of a machine: 32 random bytes that it keeps in a file of its own and that open its slots in key files.
//!
//! As text: `anmk1.` and, in base64url without padding, the 32 bytes followed by the first 4 bytes of their BLAKE3, so that a
//! damaged file is told from a wrong one.

use super::file::Secret;
use crate::keys::random;
use crate::object::VaultError;
use std::fmt;
use std::str::FromStr;

const PREFIX: &str = "anmk1.";
const CHECK_SIZE: usize = 4;

/// What opens key domains on the machine that owns the data.
#[derive(Clone, PartialEq, Eq)]
pub struct MachineKey([u8; 32]);

impl MachineKey {
    /// A new one.
    ///
    /// # Errors
    /// If the machine gives no randomness.
    pub fn generate() -> Result<Self, VaultError> {
        random().map(Self)
    }

    /// It as what opens a key file.
    #[must_use]
    pub const fn secret(&self) -> Secret<'_> {
        Secret::Machine(&self.0)
    }

    /// Its text, which is the content of its file. No `Display`: nothing should print it by accident.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut bytes = self.0.to_vec();
        bytes.extend_from_slice(&blake3::hash(&self.0).as_bytes()[..CHECK_SIZE]);
        format!("{PREFIX}{}", data_encoding::BASE64URL_NOPAD.encode(&bytes))
    }
}

impl fmt::Debug for MachineKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MachineKey(…)")
    }
}

impl FromStr for MachineKey {
    type Err = VaultError;

    fn from_str(text: &str) -> Result<Self, VaultError> {
        let bad = |why: &str| VaultError::Key(format!("this is not the key of a machine: {why}"));
        let encoded = text.trim().strip_prefix(PREFIX).ok_or_else(|| bad("it does not begin with anmk1."))?;
        let bytes = data_encoding::BASE64URL_NOPAD
            .decode(encoded.as_bytes())
            .map_err(|_| bad("it holds other characters than a key does"))?;
        let Some((key, check)) =
            bytes.split_first_chunk::<32>().filter(|(_, check)| check.len() == CHECK_SIZE)
        else {
            return Err(bad("it is too short or too long"));
        };
        if blake3::hash(key).as_bytes()[..CHECK_SIZE] != *check {
            return Err(bad("it is damaged"));
        }
        Ok(Self(*key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn version_1_is_written_like_this() {
        let text = "anmk1.BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwfrr4W0";
        assert_eq!(MachineKey([7; 32]).to_text(), text);
        assert_eq!(text.parse::<MachineKey>().unwrap(), MachineKey([7; 32]));
    }

    #[test]
    fn a_damaged_key_is_told_from_a_wrong_one() {
        let text = MachineKey([7; 32]).to_text();
        let changed = text.replacen("BwcH", "BwcI", 1);
        assert!(changed.parse::<MachineKey>().unwrap_err().to_string().contains("damaged"));
    }

    proptest! {
        #[test]
        fn reading_never_panics(text: String) {
            let _ = text.parse::<MachineKey>();
            let _ = format!("{PREFIX}{text}").parse::<MachineKey>();
        }
    }
}
