//! Reading of a files cache.

use super::{
    END_MAGIC, FOOTER, HEADER, INDEX_ENTRY, KIND_CLOSURE, KIND_LEAF, Place, RECORD_HEAD, RECORD_MAX, beside,
    closure_hash, header, leaf_hash,
};
use crate::{
    monitor::Monitor,
    report::IssueKind,
    tree::{ChunkId, Entry, Node},
};
use std::{
    fs::{self, File},
    io::{BufReader, ErrorKind, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::Path,
};

/// What earlier backups knew. Damaged records are as if they were not there.
pub(crate) struct FilesCache {
    /// What an interrupted backup left, if anything, before the last complete one.
    volumes: Vec<Volume>,
}

struct Volume {
    file: File,
    places: Vec<Place>,
}

/// A part of a directory as it was.
pub(crate) struct CachedLeaf {
    pub device: u64,
    pub inodes: Vec<u64>,
    pub entries: Vec<Entry>,
}

/// Why a cache is not used.
enum Unusable {
    Absent,
    Because(String),
}

impl From<std::io::Error> for Unusable {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound => Self::Absent,
            _ => Self::Because(error.to_string()),
        }
    }
}

impl FilesCache {
    /// Opens the cache at `path` if it is there, whole and for `tag`; else says why not.
    pub fn open(path: &Path, tag: &[u8; 32], monitor: &Monitor) -> Option<Self> {
        let interrupted = beside(path, ".interrupted");
        // Absent unless the last backup was interrupted.
        let _ = fs::rename(beside(path, ".new"), &interrupted);
        let mut volumes = Vec::new();
        if let Ok(volume) = Volume::open(&interrupted, tag, Volume::scan) {
            volumes.push(volume);
        }
        match Volume::open(path, tag, Volume::index) {
            Ok(volume) => volumes.push(volume),
            Err(Unusable::Absent) => {}
            Err(Unusable::Because(why)) => {
                let message =
                    format!("the files cache {} is not used: {why}; everything is read", path.display());
                monitor.issue(IssueKind::Cache, Vec::new(), message);
            }
        }
        (!volumes.is_empty()).then_some(Self { volumes })
    }

    /// A part of a directory.
    pub fn leaf(&self, key: &[u8; 16], part: u32) -> Option<CachedLeaf> {
        self.records(leaf_hash(key, part), |payload| parse_leaf(payload, key, part))
    }

    /// Everything beneath a list of contents.
    pub fn closure(&self, id: &ChunkId) -> Option<Vec<ChunkId>> {
        self.records(closure_hash(id), |payload| {
            let rest = payload.strip_prefix(&[KIND_CLOSURE])?.strip_prefix(&id.0)?;
            let (ids, rest) = rest.as_chunks::<32>();
            rest.is_empty().then(|| ids.iter().map(|id| ChunkId(*id)).collect())
        })
    }

    /// The first record of this hash of which `parse` makes something.
    fn records<T>(&self, hash: u64, parse: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
        for volume in &self.volumes {
            let begin = volume.places.partition_point(|place| place.hash < hash);
            for place in volume.places[begin..].iter().take_while(|place| place.hash == hash) {
                if let Some(found) = volume.read(place).and_then(|payload| parse(&payload)) {
                    return Some(found);
                }
            }
        }
        None
    }
}

impl Volume {
    fn open(
        path: &Path,
        tag: &[u8; 32],
        places: fn(&File, u64) -> Result<Vec<Place>, Unusable>,
    ) -> Result<Self, Unusable> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        let mut found = [0; HEADER];
        file.read_exact_at(&mut found, 0).map_err(|_| Unusable::Because("it is too short".into()))?;
        let expected = header(tag);
        if found != expected {
            let why = if found[..16] != expected[..16] {
                "it is of another version"
            } else if found[16..48] != *tag {
                "it belongs to another vault or plan"
            } else {
                "its header is damaged"
            };
            return Err(Unusable::Because(why.into()));
        }
        let places = places(&file, size)?;
        Ok(Self { file, places })
    }

    /// Reads the index at the end of a complete cache.
    fn index(file: &File, size: u64) -> Result<Vec<Place>, Unusable> {
        let damaged = |what: &str| Unusable::Because(format!("{what} is damaged"));
        let mut footer = [0; FOOTER];
        let at = size.checked_sub(FOOTER as u64).ok_or_else(|| damaged("its end"))?;
        file.read_exact_at(&mut footer, at)?;
        let number = |from: usize| {
            let (bytes, _) = footer[from..].split_first_chunk().expect("invariant: within the footer");
            u64::from_le_bytes(*bytes)
        };
        let sum = |bytes: &[u8]| crc32c::crc32c(bytes).to_le_bytes();
        if footer[20..28] != *END_MAGIC || footer[28..] != sum(&footer[..28]) {
            return Err(damaged("its end"));
        }
        let (offset, count) = (number(0), number(8));
        let length = count.checked_mul(INDEX_ENTRY as u64).ok_or_else(|| damaged("its index"))?;
        if offset.checked_add(length) != Some(at) {
            return Err(damaged("its index"));
        }
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, offset)?;
        if footer[16..20] != sum(&bytes) {
            return Err(damaged("its index"));
        }
        let (entries, _) = bytes.as_chunks::<INDEX_ENTRY>();
        let places = entries.iter().map(|entry| {
            let (hash, rest) = entry.split_first_chunk().expect("invariant: 20 bytes");
            let (offset, rest) = rest.split_first_chunk().expect("invariant: 20 bytes");
            let (length, _) = rest.split_first_chunk().expect("invariant: 20 bytes");
            Place {
                hash: u64::from_le_bytes(*hash),
                offset: u64::from_le_bytes(*offset),
                length: u32::from_le_bytes(*length),
            }
        });
        Ok(places.collect())
    }

    /// Finds the records of a cache without index, up to the first that is not whole.
    fn scan(file: &File, size: u64) -> Result<Vec<Place>, Unusable> {
        let mut reader = BufReader::with_capacity(256 << 10, file);
        reader.seek(SeekFrom::Start(HEADER as u64))?;
        let mut places = Vec::new();
        let mut offset = HEADER as u64;
        let mut head = [0; RECORD_HEAD + 33];
        while offset + head.len() as u64 <= size && reader.read_exact(&mut head).is_ok() {
            let (length, payload) = head[4..].split_first_chunk().expect("invariant: 37 bytes");
            let length = u32::from_le_bytes(*length);
            let end = offset + RECORD_HEAD as u64 + u64::from(length);
            if length as usize > RECORD_MAX || (length as usize) < payload.len() || end > size {
                break;
            }
            let hash = match payload[0] {
                KIND_LEAF => {
                    let (key, rest) = payload[1..].split_first_chunk().expect("invariant: 32 bytes");
                    let (part, _) = rest.split_first_chunk().expect("invariant: 16 bytes");
                    leaf_hash(key, u32::from_le_bytes(*part))
                }
                KIND_CLOSURE => {
                    let (id, _) = payload[1..].split_first_chunk().expect("invariant: 32 bytes");
                    closure_hash(&ChunkId(*id))
                }
                _ => break,
            };
            places.push(Place { hash, offset, length });
            if reader.seek_relative(i64::from(length) - payload.len() as i64).is_err() {
                break;
            }
            offset = end;
        }
        places.sort_unstable();
        Ok(places)
    }

    /// The payload of a record, if it is whole.
    fn read(&self, place: &Place) -> Option<Vec<u8>> {
        if place.length as usize > RECORD_MAX {
            return None;
        }
        let mut bytes = vec![0; RECORD_HEAD + place.length as usize];
        self.file.read_exact_at(&mut bytes, place.offset).ok()?;
        let whole = bytes[..4] == crc32c::crc32c(&bytes[4..]).to_le_bytes()
            && bytes[4..RECORD_HEAD] == place.length.to_le_bytes();
        whole.then(|| bytes.split_off(RECORD_HEAD))
    }
}

fn parse_leaf(payload: &[u8], key: &[u8; 16], part: u32) -> Option<CachedLeaf> {
    let rest = payload.strip_prefix(&[KIND_LEAF])?.strip_prefix(key)?.strip_prefix(&part.to_le_bytes())?;
    let (device, rest) = rest.split_first_chunk()?;
    let (count, rest) = rest.split_first_chunk()?;
    let count = u32::from_le_bytes(*count) as usize;
    let (inodes, rest) = rest.split_at_checked(count.checked_mul(8)?)?;
    let (refs, rest) = rest.split_first_chunk()?;
    let refs = u32::from_le_bytes(*refs) as usize;
    let (refs, body) = rest.split_at_checked(refs.checked_mul(32)?)?;
    let refs: Vec<ChunkId> = refs.as_chunks::<32>().0.iter().map(|id| ChunkId(*id)).collect();
    let Ok(Node::Leaf(leaf)) = Node::decode(body, &refs) else { return None };
    let inodes: Vec<u64> = inodes.as_chunks::<8>().0.iter().map(|inode| u64::from_le_bytes(*inode)).collect();
    (leaf.entries.len() == inodes.len()).then(|| CachedLeaf {
        device: u64::from_le_bytes(*device),
        inodes,
        entries: leaf.entries,
    })
}
