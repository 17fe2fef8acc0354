//! Writing of a files cache while a backup runs.

use super::{FOOTER, INDEX_ENTRY, KIND_CLOSURE, KIND_LEAF, Place, beside, closure_hash, header, leaf_hash};
use crate::{
    monitor::Monitor,
    report::IssueKind,
    tree::{ChunkId, SealedLeaf},
};
use std::{
    fs::{self, File},
    io::{BufWriter, Result, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// The cache of the backup that is running. What an interrupted one has written stays beside the cache and is used next time.
pub(crate) struct CacheWriter {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    file: BufWriter<File>,
    offset: u64,
    places: Vec<Place>,
    /// The cache is a help: if it cannot be written the backup goes on without.
    failed: Option<std::io::Error>,
}

impl CacheWriter {
    /// Begins a new cache. None, with an issue, if that cannot be done.
    pub fn create(path: &Path, tag: &[u8; 32], monitor: &Monitor) -> Option<Self> {
        let create = || {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            let mut file = BufWriter::with_capacity(256 << 10, File::create(beside(path, ".new"))?);
            file.write_all(&header(tag))?;
            Ok(file)
        };
        match create() {
            Ok(file) => {
                let state = State { file, offset: super::HEADER as u64, places: Vec::new(), failed: None };
                Some(Self { path: path.into(), state: Mutex::new(state) })
            }
            Err(error) => {
                note(monitor, path, &error);
                None
            }
        }
    }

    /// Adds a part of a directory; `inodes` are those of its entries.
    pub fn leaf(&self, key: &[u8; 16], part: u32, device: u64, inodes: &[u64], leaf: &SealedLeaf) {
        let mut payload = Vec::with_capacity(41 + inodes.len() * 8 + leaf.refs.len() * 32 + leaf.body.len());
        payload.push(KIND_LEAF);
        payload.extend_from_slice(key);
        payload.extend_from_slice(&part.to_le_bytes());
        payload.extend_from_slice(&device.to_le_bytes());
        payload.extend_from_slice(&(inodes.len() as u32).to_le_bytes());
        for inode in inodes {
            payload.extend_from_slice(&inode.to_le_bytes());
        }
        payload.extend_from_slice(&(leaf.refs.len() as u32).to_le_bytes());
        for id in &leaf.refs {
            payload.extend_from_slice(&id.0);
        }
        payload.extend_from_slice(&leaf.body);
        self.append(leaf_hash(key, part), &payload);
    }

    /// Adds what lies beneath a list of contents.
    pub fn closure(&self, id: &ChunkId, objects: &[ChunkId]) {
        let mut payload = Vec::with_capacity(33 + objects.len() * 32);
        payload.push(KIND_CLOSURE);
        payload.extend_from_slice(&id.0);
        for object in objects {
            payload.extend_from_slice(&object.0);
        }
        self.append(closure_hash(id), &payload);
    }

    fn append(&self, hash: u64, payload: &[u8]) {
        let Ok(length) = u32::try_from(payload.len()) else { return };
        let mut head = [0; 8];
        head[4..].copy_from_slice(&length.to_le_bytes());
        let sum = crc32c::crc32c_append(crc32c::crc32c(&head[4..]), payload);
        head[..4].copy_from_slice(&sum.to_le_bytes());
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.failed.is_some() {
            return;
        }
        let written = state.file.write_all(&head).and_then(|()| state.file.write_all(payload));
        match written {
            Ok(()) => {
                let offset = state.offset;
                state.places.push(Place { hash, offset, length });
                state.offset += (head.len() + payload.len()) as u64;
            }
            Err(error) => state.failed = Some(error),
        }
    }

    /// Completes the cache and puts it in the place of the old one.
    pub fn finish(self, monitor: &Monitor) {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = complete(state, &self.path) {
            note(monitor, &self.path, &error);
        }
    }
}

fn complete(mut state: State, path: &Path) -> Result<()> {
    if let Some(error) = state.failed {
        return Err(error);
    }
    state.places.sort_unstable();
    let mut index = Vec::with_capacity(state.places.len() * INDEX_ENTRY);
    for place in &state.places {
        index.extend_from_slice(&place.hash.to_le_bytes());
        index.extend_from_slice(&place.offset.to_le_bytes());
        index.extend_from_slice(&place.length.to_le_bytes());
    }
    let mut footer = [0; FOOTER];
    footer[..8].copy_from_slice(&state.offset.to_le_bytes());
    footer[8..16].copy_from_slice(&(state.places.len() as u64).to_le_bytes());
    footer[16..20].copy_from_slice(&crc32c::crc32c(&index).to_le_bytes());
    footer[20..28].copy_from_slice(super::END_MAGIC);
    let sum = crc32c::crc32c(&footer[..28]);
    footer[28..].copy_from_slice(&sum.to_le_bytes());
    state.file.write_all(&index)?;
    state.file.write_all(&footer)?;
    state.file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_data()?;
    fs::rename(beside(path, ".new"), path)?;
    // It only held what this one holds as well.
    let _ = fs::remove_file(beside(path, ".interrupted"));
    Ok(())
}

fn note(monitor: &Monitor, path: &Path, error: &std::io::Error) {
    let message = format!(
        "the files cache {} was not written: {error}; the next backup reads everything",
        path.display()
    );
    monitor.issue(IssueKind::Cache, Vec::new(), message);
}
