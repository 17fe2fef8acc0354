//! The files cache: what the last backup knew, so that unchanged files need not be read.
//!
//! It holds, part by part, the directories that were written, with the inode of every entry. Whether the vault still has the
//! contents is always asked. The file is only read where it is needed; in memory is one index entry of 24 bytes per part of a
//! directory.
//!
//! # Layout (integers little endian)
//! *Header*, 52 bytes: `anshinfc`, version (4), zero (4), tag (32), crc32c of these (4). *Records*: crc32c of what follows (4),
//! length of the payload (4), payload. A payload is `1`, the directory's key (16), number of the part (4), device (8),
//! entries (4), their inodes (8 each, 0 for *do not believe*), references (4 for their number, 32 each), body of the tree object;
//! or `2`, the id of a list of contents (32), every object beneath it (32 each). *Index*: hash of the key (8), offset (8) and
//! length (4) of each record, sorted. *Footer*, 32 bytes: offset and number of index entries (8 each), crc32c of the index
//! (4), `anfcend1`, crc32c of the 28 bytes before (4).
//!
//! A cache without footer is what an interrupted backup left behind; its records are as good as others.

mod cursor;
mod reader;
mod writer;

pub(crate) use cursor::{CacheCursor, CachedEntry};
pub(crate) use reader::FilesCache;
pub(crate) use writer::CacheWriter;

use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"anshinfc";
const END_MAGIC: &[u8; 8] = b"anfcend1";
const VERSION: u32 = 2;
const HEADER: usize = 52;
const FOOTER: usize = 32;
const INDEX_ENTRY: usize = 20;
const RECORD_HEAD: usize = 8;
const KIND_LEAF: u8 = 1;
const KIND_CLOSURE: u8 = 2;
/// A record is longer than its tree object by little; closures are bounded by what a content writer remembers.
const RECORD_MAX: usize = 64 << 20;

/// Where a record is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Place {
    hash: u64,
    offset: u64,
    length: u32,
}

fn header(tag: &[u8; 32]) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..48].copy_from_slice(tag);
    let sum = crc32c::crc32c(&bytes[..48]);
    bytes[48..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn leaf_hash(key: &[u8; 16], part: u32) -> u64 {
    let (head, _) = key.split_first_chunk().expect("invariant: a key has 16 bytes");
    u64::from_le_bytes(*head) ^ u64::from(part).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn closure_hash(id: &crate::tree::ChunkId) -> u64 {
    let (head, _) = id.0.split_first_chunk().expect("invariant: an id has 32 bytes");
    !u64::from_le_bytes(*head)
}

/// A file beside the cache.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
