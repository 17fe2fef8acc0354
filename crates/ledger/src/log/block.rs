//! Blocks: the checksummed units on disk.
//!
//! ```text
//! offset size
//!      0    4  magic: "anlh" header, "anlb" batch
//!      4    2  version (1)
//!      6    2  zero
//!      8    8  sequence of the segment
//!     16    8  number of the batch within the segment; 0 is the base; for a header 1 if superseded, else 0
//!     24    4  checksum of the batch before, 0 for the base and for a header
//!     28    4  body length in bytes
//!     32    4  crc32c of everything before and of the body
//!     36    n  body, then zeroes up to a multiple of 4,096
//! ```
//! Integers are little endian. The checksum of the batch before ties the order: a batch of an earlier use of the area,
//! or one that a disk put in the wrong place, is never taken for the next one.

use crate::log::Record;

/// Blocks start at multiples of this, so that a torn write never touches a block that was durable before.
pub const BLOCK: usize = 4_096;
/// Bytes before the body.
pub(super) const HEAD: usize = 36;
const VERSION: u16 = 1;
/// Magic of a segment's header.
pub(super) const MAGIC_HEADER: [u8; 4] = *b"anlh";
/// Magic of a batch.
pub(super) const MAGIC_BATCH: [u8; 4] = *b"anlb";

/// Bytes that are not a whole block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// No block begins here.
    #[error("no block")]
    Magic,
    /// Written by a newer build.
    #[error("version {0} of the ledger's log is newer than this build reads")]
    Version(u16),
    /// The length leads out of the area.
    #[error("length {0}")]
    Length(u32),
    /// The checksum does not match.
    #[error("checksum")]
    Checksum,
    /// The body is not a list of records.
    #[error("body")]
    Body,
}

/// A block's head and body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block<'a> {
    pub magic: [u8; 4],
    pub sequence: u64,
    pub number: u64,
    pub before: u32,
    pub crc: u32,
    pub body: &'a [u8],
}

/// Bytes that a body of this length takes on disk.
pub(super) fn size_on_disk(body: usize) -> usize {
    (HEAD + body).next_multiple_of(BLOCK)
}

/// A block's bytes, padded, and its checksum.
pub(super) fn encode(magic: [u8; 4], sequence: u64, number: u64, before: u32, body: &[u8]) -> (Vec<u8>, u32) {
    let mut out = Vec::with_capacity(size_on_disk(body.len()));
    out.extend_from_slice(&magic);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&before.to_le_bytes());
    let length = u32::try_from(body.len()).expect("invariant: a batch is smaller than its area");
    out.extend_from_slice(&length.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&out), body);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(body);
    out.resize(size_on_disk(body.len()), 0);
    (out, crc)
}

/// The block at the start of `bytes`, which reach to the end of the area.
pub(super) fn decode(bytes: &[u8]) -> Result<Block<'_>, FormatError> {
    let head = bytes.first_chunk::<HEAD>().ok_or(FormatError::Magic)?;
    let magic = [head[0], head[1], head[2], head[3]];
    if magic != MAGIC_HEADER && magic != MAGIC_BATCH {
        return Err(FormatError::Magic);
    }
    let u32_at = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    let (length, crc) = (u32_at(28), u32_at(32));
    let end = HEAD.checked_add(length as usize).ok_or(FormatError::Length(length))?;
    let body = bytes.get(HEAD..end).ok_or(FormatError::Length(length))?;
    if crc32c::crc32c_append(crc32c::crc32c(&head[..32]), body) != crc {
        return Err(FormatError::Checksum);
    }
    // After the checksum: what is not ours is damage, what is ours and newer is a reason of its own.
    let version = u16::from_le_bytes([head[4], head[5]]);
    if version != VERSION {
        return Err(FormatError::Version(version));
    }
    Ok(Block { magic, sequence: u64_at(8), number: u64_at(16), before: u32_at(24), crc, body })
}

/// Records as a body.
pub(super) fn encode_records(records: &[Record]) -> Vec<u8> {
    postcard::to_stdvec(records).expect("invariant: plain data encodes into memory")
}

/// Reverse of [`encode_records`].
pub(super) fn decode_records(body: &[u8]) -> Result<Vec<Record>, FormatError> {
    let (records, rest) = postcard::take_from_bytes(body).map_err(|_| FormatError::Body)?;
    if rest.is_empty() { Ok(records) } else { Err(FormatError::Body) }
}
