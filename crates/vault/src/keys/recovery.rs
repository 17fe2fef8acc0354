//! The recovery key: 160 random bits on paper, written so that a human can copy them and is told where a mistake is.
//!
//! 32 characters of Crockford's base32 (no I, L, O, U) in 8 groups of 4; each group has a fifth character that is a check
//! of the group and its place: `7K2M9-…`. Case, spaces and dashes do not matter; I and L are read as 1, O as 0, U as V.

use crate::keys::random;
use crate::object::VaultError;
use std::fmt;
use std::str::FromStr;

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const GROUPS: usize = 8;
const GROUP_LENGTH: usize = 5;

/// The printed key that opens a domain when every other key is lost.
#[derive(Clone, PartialEq, Eq)]
pub struct RecoveryKey(pub(crate) [u8; 20]);

impl RecoveryKey {
    /// A new one.
    ///
    /// # Errors
    /// If the machine gives no randomness.
    pub fn generate() -> Result<Self, VaultError> {
        Ok(Self(random()?))
    }
}

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryKey(…)")
    }
}

/// The fifth character: BLAKE3 of the group's number and its four values, modulo 32.
fn check_value(group: usize, values: &[u8]) -> u8 {
    let number = u8::try_from(group).expect("invariant: there are 8 groups");
    blake3::Hasher::new()
        .update(b"anshin recovery key v1")
        .update(&[number])
        .update(values)
        .finalize()
        .as_bytes()[0]
        % 32
}

impl fmt::Display for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (group, bits) in self.0.chunks_exact(5).enumerate() {
            // 40 bits are 8 characters: two groups.
            let bits = bits.iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
            for half in 0..2 {
                let number = 2 * group + half;
                let values: Vec<u8> =
                    (0..4).map(|at| (bits >> (35 - 20 * half - 5 * at) & 31) as u8).collect();
                if number > 0 {
                    f.write_str("-")?;
                }
                for value in values.iter().chain([&check_value(number, &values)]) {
                    write!(f, "{}", char::from(ALPHABET[usize::from(*value)]))?;
                }
            }
        }
        Ok(())
    }
}

impl FromStr for RecoveryKey {
    type Err = VaultError;

    fn from_str(text: &str) -> Result<Self, VaultError> {
        let bad = |why: String| VaultError::Key(format!("this is not a recovery key: {why}"));
        if text.len() > 1024 {
            return Err(bad("it is too long".into()));
        }
        let mut values = Vec::new();
        for character in text.chars().filter(|c| !c.is_whitespace() && *c != '-') {
            let plain = match character.to_ascii_uppercase() {
                'I' | 'L' => '1',
                'O' => '0',
                'U' => 'V',
                other => other,
            };
            let value = ALPHABET.iter().position(|known| char::from(*known) == plain);
            let value = value.ok_or_else(|| {
                bad(format!(
                    "`{character}` in group {} is never part of one",
                    values.len() / GROUP_LENGTH + 1
                ))
            })?;
            values.push(u8::try_from(value).expect("invariant: there are 32 characters"));
        }
        if values.len() != GROUPS * GROUP_LENGTH {
            return Err(bad(format!("it has {} characters instead of 40", values.len())));
        }
        let mut bits = Vec::with_capacity(32);
        for (number, group) in values.chunks_exact(GROUP_LENGTH).enumerate() {
            if check_value(number, &group[..4]) != group[4] {
                return Err(bad(format!("group {} is mistyped", number + 1)));
            }
            bits.extend_from_slice(&group[..4]);
        }
        let mut key = [0; 20];
        for (out, eight) in key.chunks_exact_mut(5).zip(bits.chunks_exact(8)) {
            let all = eight.iter().fold(0u64, |all, value| all << 5 | u64::from(*value));
            out.copy_from_slice(&all.to_be_bytes()[3..]);
        }
        Ok(Self(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn version_1_is_written_like_this() {
        assert_eq!(
            RecoveryKey(*b"anshin never loses a").to_string(),
            "C5Q71-6T398-DRG6N-WSBPS-CNS2D-0V3FQ-EDJQQ-6831A"
        );
    }

    #[test]
    fn a_mistyped_group_is_named() {
        let text = RecoveryKey([7; 20]).to_string();
        let mut wrong = text.clone().into_bytes();
        // Third group, second character.
        wrong[2 * 6 + 1] = if wrong[2 * 6 + 1] == b'0' { b'2' } else { b'0' };
        let error = String::from_utf8(wrong).unwrap().parse::<RecoveryKey>().unwrap_err();
        assert_eq!(error, VaultError::Key("this is not a recovery key: group 3 is mistyped".into()));
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_in_any_case_and_spacing(bytes: [u8; 20]) {
            let key = RecoveryKey(bytes);
            let text = key.to_string();
            prop_assert_eq!(text.parse::<RecoveryKey>().unwrap(), key.clone());
            let loose = text.to_lowercase().replace('-', " ").replace('0', "o").replace('1', "l");
            prop_assert_eq!(loose.parse::<RecoveryKey>().unwrap(), key);
        }

        #[test]
        fn reading_never_panics(text: String) {
            let _ = text.parse::<RecoveryKey>();
        }
    }
}
