//! Bytes of records and changes: a version (2 bytes, little endian), then postcard.

use super::{Change, Records};
use serde::{Deserialize, Serialize};

/// The version written today.
pub const VERSION: u16 = 1;

/// Bytes that this build cannot read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Shorter than a version.
    #[error("too short")]
    Short,
    /// Written by a newer build.
    #[error("version {0} is newer than this build reads")]
    Version(u16),
    /// Not what was expected.
    #[error("malformed: {0}")]
    Malformed(String),
    /// Bytes left over.
    #[error("{0} bytes too many")]
    Trailing(usize),
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, VERSION.to_le_bytes().to_vec())
        .expect("invariant: plain data encodes into memory")
}

pub(crate) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, CodecError> {
    let (version, body) = bytes.split_first_chunk::<2>().ok_or(CodecError::Short)?;
    let version = u16::from_le_bytes(*version);
    if version != VERSION {
        return Err(CodecError::Version(version));
    }
    let (value, rest) =
        postcard::take_from_bytes(body).map_err(|error| CodecError::Malformed(error.to_string()))?;
    if rest.is_empty() { Ok(value) } else { Err(CodecError::Trailing(rest.len())) }
}

macro_rules! codec {
    ($name:ident) => {
        impl $name {
            /// Its bytes.
            #[must_use]
            pub fn encode(&self) -> Vec<u8> {
                encode(self)
            }

            /// The value in `bytes`.
            ///
            /// # Errors
            /// [`CodecError`].
            pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
                decode(bytes)
            }
        }
    };
}

codec!(Records);
codec!(Change);
