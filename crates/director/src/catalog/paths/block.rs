//! Blocks of a segment.
//!
//! A block is: version (1 byte, now 1), number of paths (varint), then per path: bytes shared with the path before
//! (varint), length of the rest (varint), the rest, number of changes (varint), and per change: ordinal minus that of the
//! change before (varint), kind (1 byte: 0 gone, 1 file, 2 directory, 3 link, 4 special) and unless gone size (varint) and
//! seconds (zigzag varint); at the end crc32c of all before (4 bytes, little endian). Varints are LEB128.

use super::{History, PATH_BYTES_MAX, PathEntry, PathKind};

/// A block is closed once it has this many bytes.
pub const BLOCK_BYTES: usize = 32 << 10;
const VERSION: u8 = 1;

/// Bytes that are no block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The checksum does not match.
    #[error("checksum")]
    Checksum,
    /// It ends early, or a number in it is out of range.
    #[error("malformed")]
    Malformed,
    /// Written by a newer build.
    #[error("version {0} is newer than this build reads")]
    Version(u8),
}

/// Writes histories into blocks.
#[derive(Debug, Default)]
pub struct BlockWriter {
    body: Vec<u8>,
    count: u64,
    first: Vec<u8>,
    last: Vec<u8>,
}

impl BlockWriter {
    /// Adds a history; paths ascending. Answers a full block and its first path.
    pub fn add(&mut self, history: &History) -> Option<(Vec<u8>, Vec<u8>)> {
        if self.count == 0 {
            self.first.clone_from(&history.path);
            self.last.clear();
        }
        let shared = self.last.iter().zip(&history.path).take_while(|(a, b)| a == b).count();
        put(&mut self.body, shared as u64);
        put(&mut self.body, (history.path.len() - shared) as u64);
        self.body.extend_from_slice(&history.path[shared..]);
        put(&mut self.body, history.changes.len() as u64);
        let mut before = 0;
        for (ordinal, entry) in &history.changes {
            put(&mut self.body, ordinal - before);
            before = *ordinal;
            let Some(entry) = entry else {
                self.body.push(0);
                continue;
            };
            self.body.push(match entry.kind {
                PathKind::File => 1,
                PathKind::Directory => 2,
                PathKind::Link => 3,
                PathKind::Special => 4,
            });
            put(&mut self.body, entry.size);
            put(&mut self.body, (entry.modified.wrapping_shl(1) ^ (entry.modified >> 63)).cast_unsigned());
        }
        self.last.clone_from(&history.path);
        self.count += 1;
        (self.body.len() >= BLOCK_BYTES).then(|| self.take()).flatten()
    }

    /// The block that is not full yet.
    pub fn take(&mut self) -> Option<(Vec<u8>, Vec<u8>)> {
        if self.count == 0 {
            return None;
        }
        let mut out = vec![VERSION];
        put(&mut out, self.count);
        out.append(&mut self.body);
        out.extend(crc32c::crc32c(&out).to_le_bytes());
        self.count = 0;
        Some((std::mem::take(&mut self.first), out))
    }
}

/// The histories in a block. Allocates no more than a small multiple of its length.
///
/// # Errors
/// [`BlockError`].
pub fn decode_block(bytes: &[u8]) -> Result<Vec<History>, BlockError> {
    let (body, sum) = bytes.split_last_chunk::<4>().ok_or(BlockError::Malformed)?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*sum) {
        return Err(BlockError::Checksum);
    }
    let mut rest = body;
    match byte(&mut rest)? {
        VERSION => {}
        version => return Err(BlockError::Version(version)),
    }
    let count = get(&mut rest)?;
    let mut out = Vec::new();
    let mut last: Vec<u8> = Vec::new();
    for _ in 0..count {
        let shared = size(get(&mut rest)?)?;
        let length = size(get(&mut rest)?)?;
        if shared > last.len() || length > rest.len() || shared + length > PATH_BYTES_MAX {
            return Err(BlockError::Malformed);
        }
        let (suffix, after) = rest.split_at(length);
        rest = after;
        last.truncate(shared);
        last.extend_from_slice(suffix);
        let changes = read_changes(&mut rest)?;
        out.push(History { path: last.clone(), changes });
    }
    if rest.is_empty() { Ok(out) } else { Err(BlockError::Malformed) }
}

fn read_changes(rest: &mut &[u8]) -> Result<Vec<(u64, Option<PathEntry>)>, BlockError> {
    let count = get(rest)?;
    let mut changes = Vec::new();
    let mut ordinal: u64 = 0;
    for _ in 0..count {
        ordinal = ordinal.checked_add(get(rest)?).ok_or(BlockError::Malformed)?;
        let kind = match byte(rest)? {
            0 => {
                changes.push((ordinal, None));
                continue;
            }
            1 => PathKind::File,
            2 => PathKind::Directory,
            3 => PathKind::Link,
            4 => PathKind::Special,
            _ => return Err(BlockError::Malformed),
        };
        let size = get(rest)?;
        let zigzag = get(rest)?;
        let modified = (zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed();
        changes.push((ordinal, Some(PathEntry { kind, size, modified })));
    }
    Ok(changes)
}

fn size(number: u64) -> Result<usize, BlockError> {
    usize::try_from(number).ok().filter(|&number| number <= PATH_BYTES_MAX).ok_or(BlockError::Malformed)
}

fn byte(rest: &mut &[u8]) -> Result<u8, BlockError> {
    let (&first, after) = rest.split_first().ok_or(BlockError::Malformed)?;
    *rest = after;
    Ok(first)
}

fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn get(rest: &mut &[u8]) -> Result<u64, BlockError> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let next = byte(rest)?;
        let part = u64::from(next & 0x7f);
        if shift == 63 && part > 1 {
            return Err(BlockError::Malformed);
        }
        number |= part << shift;
        if next & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(BlockError::Malformed)
}
