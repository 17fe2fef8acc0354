//! Bytes of commands and snapshots: a version (2 bytes, little endian), then postcard. Older versions are read
//! (`v1`), the newest is written.

use super::{Command, State, v1};
use serde::{Deserialize, Serialize};

/// The version of commands and snapshots written today.
pub const VERSION: u16 = 2;

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
pub(crate) fn encode<T: Serialize>(version: u16, value: &T) -> Vec<u8> {
    let out = version.to_le_bytes().to_vec();
    postcard::to_extend(value, out).expect("invariant: plain data encodes into memory")
}

/// Reverse of [`encode`] for what has one version only.
pub(crate) fn decode<'a, T: Deserialize<'a>>(version: u16, bytes: &'a [u8]) -> Result<T, CodecError> {
    match split(bytes)? {
        (found, body) if found == version => whole(body),
        (found, _) => Err(CodecError::Version(found)),
    }
}

fn split(bytes: &[u8]) -> Result<(u16, &[u8]), CodecError> {
    let (version, body) = bytes.split_first_chunk::<2>().ok_or(CodecError::Short)?;
    Ok((u16::from_le_bytes(*version), body))
}

/// A value that takes all of `body`.
pub(super) fn whole<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, CodecError> {
    let (value, rest) = part(body)?;
    if rest.is_empty() { Ok(value) } else { Err(CodecError::Trailing(rest.len())) }
}

/// A value at the start of `body`, and the rest.
pub(super) fn part<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<(T, &'a [u8]), CodecError> {
    postcard::take_from_bytes(body).map_err(|error| CodecError::Malformed(error.to_string()))
}

impl Proposal {
    /// The proposal's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(VERSION, self)
    }

    /// The proposal in `bytes`.
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        match split(bytes)? {
            (VERSION, body) => whole(body),
            (1, body) => v1::proposal(body),
            (version, _) => Err(CodecError::Version(version)),
        }
    }
}

impl State {
    /// The snapshot's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(VERSION, self)
    }

    /// The state in a snapshot.
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        match split(bytes)? {
            (VERSION, body) => whole(body),
            (1, body) => v1::state(body),
            (version, _) => Err(CodecError::Version(version)),
        }
    }
}
