//! The part of the FUSE kernel interface (include/uapi/linux/fuse.h, version 7.31 and later) that one file needs.
//! Native byte order; the structures are read and written field by field, so no layout is assumed beyond the offsets
//! given here.

use bytes::{BufMut, BytesMut};

/// Bytes of a request's header.
pub const IN_HEADER: usize = 40;
/// Header plus the arguments of a WRITE, after which its payload starts.
pub const WRITE_HEADER: usize = IN_HEADER + 40;

/// Request codes.
pub mod opcode {
    #![allow(missing_docs, reason = "names of the kernel's header")]
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const INTERRUPT: u32 = 36;
    pub const DESTROY: u32 = 38;
    pub const BATCH_FORGET: u32 = 42;
    pub const FALLOCATE: u32 = 43;
}

/// The mount's root directory.
pub const ROOT: u64 = 1;
/// The one file in it.
pub const FILE: u64 = 2;
/// The file's name.
pub const FILE_NAME: &[u8] = b"volume";

/// ASYNC_READ, BIG_WRITES, ASYNC_DIO, PARALLEL_DIROPS, MAX_PAGES. Writeback cache (bit 16) is never asked for (R17).
const INIT_FLAGS: u32 = 1 | 1 << 5 | 1 << 15 | 1 << 18 | 1 << 22;
/// DIRECT_IO and PARALLEL_DIRECT_WRITES: without the second the kernel would send one write at a time.
const OPEN_FLAGS: u32 = 1 | 1 << 6;
/// Requests that the kernel keeps under way by itself; its default of 12 is below a disk's depth.
const BACKGROUND: u16 = 256;
/// Nothing about the file ever changes.
const VALID_SECONDS: u64 = 86_400;

/// A request's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Length of the whole request.
    pub length: u32,
    /// What.
    pub opcode: u32,
    /// Repeated in the answer.
    pub unique: u64,
    /// About which node.
    pub node: u64,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

impl Header {
    /// The header at the start of `bytes`.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let length = u32_at(bytes, 0)?;
        let header =
            Self { length, opcode: u32_at(bytes, 4)?, unique: u64_at(bytes, 8)?, node: u64_at(bytes, 16)? };
        (bytes.len() >= IN_HEADER).then_some(header)
    }
}

/// Offset and length of a READ or WRITE, from its arguments.
#[must_use]
pub fn range(arguments: &[u8]) -> Option<(u64, u32)> {
    Some((u64_at(arguments, 8)?, u32_at(arguments, 16)?))
}

/// Offset, length and mode of a FALLOCATE.
#[must_use]
pub fn allocation(arguments: &[u8]) -> Option<(u64, u64, u32)> {
    Some((u64_at(arguments, 8)?, u64_at(arguments, 16)?, u32_at(arguments, 24)?))
}

/// The kernel's major and minor version in an INIT.
#[must_use]
pub fn version(arguments: &[u8]) -> Option<(u32, u32)> {
    Some((u32_at(arguments, 0)?, u32_at(arguments, 4)?))
}

/// Header of an answer with `length` further bytes; `error` is 0 or a positive errno.
#[must_use]
pub fn answer(unique: u64, error: i32, length: usize) -> [u8; 16] {
    let mut out = [0; 16];
    let total = u32::try_from(16 + length).expect("invariant: answers are bounded by max_write");
    out[..4].copy_from_slice(&total.to_ne_bytes());
    out[4..8].copy_from_slice(&(-error).to_ne_bytes());
    out[8..].copy_from_slice(&unique.to_ne_bytes());
    out
}

/// Answer to INIT: version 7.31, no read-ahead, requests of up to `max_write` bytes.
#[must_use]
pub fn init(max_write: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(64);
    out.put_u32_ne(7);
    out.put_u32_ne(31);
    out.put_u32_ne(0);
    out.put_u32_ne(INIT_FLAGS);
    out.put_u16_ne(BACKGROUND);
    out.put_u16_ne(BACKGROUND / 4 * 3);
    out.put_u32_ne(u32::try_from(max_write).expect("invariant: max_write is 1 MiB"));
    out.put_u32_ne(1);
    out.put_u16_ne(u16::try_from(max_write / 4096).expect("invariant: max_write is 1 MiB"));
    out.put_bytes(0, 64 - out.len());
    out
}

fn attributes(out: &mut BytesMut, node: u64, size: u64) {
    let (mode, size) = if node == ROOT { (0o040_700, 0) } else { (0o100_600, size) };
    for word in [node, size, size / 512, 0, 0, 0] {
        out.put_u64_ne(word);
    }
    for word in [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0] {
        out.put_u32_ne(word);
    }
}

/// Answer to LOOKUP of the file.
#[must_use]
pub fn entry(size: u64) -> BytesMut {
    let mut out = BytesMut::with_capacity(128);
    for word in [FILE, 0, VALID_SECONDS, VALID_SECONDS, 0] {
        out.put_u64_ne(word);
    }
    attributes(&mut out, FILE, size);
    out
}

/// Answer to GETATTR.
#[must_use]
pub fn attr(node: u64, size: u64) -> BytesMut {
    let mut out = BytesMut::with_capacity(104);
    out.put_u64_ne(VALID_SECONDS);
    out.put_u64_ne(0);
    attributes(&mut out, node, size);
    out
}

/// Answer to OPEN and OPENDIR.
#[must_use]
pub fn opened(node: u64) -> BytesMut {
    let mut out = BytesMut::with_capacity(16);
    out.put_u64_ne(0);
    out.put_u32_ne(if node == FILE { OPEN_FLAGS } else { 0 });
    out.put_u32_ne(0);
    out
}

/// Answer to STATFS. The loop driver takes the block size as the granularity of discards.
#[must_use]
pub fn statfs(size: u64) -> BytesMut {
    let mut out = BytesMut::with_capacity(80);
    for word in [size / 4096, 0, 0, 1, 0] {
        out.put_u64_ne(word);
    }
    for word in [4096, 255, 4096, 0] {
        out.put_u32_ne(word);
    }
    out.put_bytes(0, 24);
    out
}

/// Answer to WRITE.
#[must_use]
pub fn written(count: u32) -> BytesMut {
    let mut out = BytesMut::with_capacity(8);
    out.put_u32_ne(count);
    out.put_u32_ne(0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_the_sizes_of_the_kernels_structures() {
        assert_eq!(init(1 << 20).len(), 64);
        assert_eq!(entry(1).len(), 128);
        assert_eq!(attr(ROOT, 1).len(), 104);
        assert_eq!(opened(FILE).len(), 16);
        assert_eq!(statfs(1).len(), 80);
        assert_eq!(written(1).len(), 8);
    }

    #[test]
    fn a_short_request_is_no_request() {
        for length in 0..IN_HEADER {
            assert_eq!(Header::decode(&vec![0; length]), None);
        }
        assert_eq!(range(&[0; 19]), None);
        assert_eq!(allocation(&[0; 27]), None);
    }
}
