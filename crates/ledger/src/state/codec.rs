//! Bytes of commands and snapshots: a version (2 bytes, little endian), then postcard.

use super::{Command, State};
use serde::{Deserialize, Serialize};

/// The version written today.
pub const VERSION: u16 = 1;

/// Bytes that are not a command or snapshot this build can read.
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

/// A command as the log carries it: who proposed it travels with it, so that the proposer recognises its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The proposer's incarnation.
    pub incarnation: u64,
    /// The proposer's number.
    pub request: u64,
    /// The change.
    pub command: Command,
}

/// Version and postcard of any value.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let out = VERSION.to_le_bytes().to_vec();
    postcard::to_extend(value, out).expect("invariant: plain data encodes into memory")
}

/// Reverse of [`encode`].
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

impl Proposal {
    /// The proposal's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// The proposal in `bytes`.
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        decode(bytes)
    }
}

impl State {
    /// The snapshot's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// The state in a snapshot.
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        decode(bytes)
    }
}
