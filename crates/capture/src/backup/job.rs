//! A directory that is being captured.

use super::names::Names;
use crate::{
    cache::CacheCursor,
    sys::Handle,
    tree::{Attributes, ChunkId, DirectoryWriter, Entry},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Names taken at once. Bounds memory per open directory, and how much of it is worked on in parallel.
pub(crate) const WINDOW: usize = 512;

/// A directory whose entries are being collected.
pub(crate) struct DirectoryJob {
    /// Where the finished entry goes: a slot of the parent's window.
    pub parent: Option<(Arc<DirectoryJob>, usize)>,
    /// Which root it belongs to.
    pub root: usize,
    pub handle: Arc<Handle>,
    pub name: Box<[u8]>,
    pub attributes: Attributes,
    /// Tag of the file system it lies on, for [`LinkGroup`](crate::tree::LinkGroup).
    pub mount: u64,
    /// Not the directory is captured but one file in it, which is a root.
    pub single: bool,
    /// Names the directory in the files cache.
    pub cache_key: [u8; 16],
    state: Mutex<DirectoryState>,
}

/// What changes while a directory is being captured.
#[derive(Default)]
pub(crate) struct DirectoryState {
    pub names: Option<Names>,
    /// The next name to be looked at.
    pub next: usize,
    pub window: Vec<Slot>,
    /// Slots that are still worked on, and one for the scan itself.
    pub pending: usize,
    pub writer: DirectoryWriter,
    pub cursor: CacheCursor,
    /// For each entry of the open part of the directory: its inode, 0 if it must not be cached.
    pub keys: Vec<u64>,
    /// Parts written so far.
    pub parts: u32,
    /// It could not be read.
    pub unreadable: bool,
}

/// One name of the window.
#[derive(Default)]
pub(crate) struct Slot {
    pub name: Box<[u8]>,
    /// None until it is known, and if there is nothing to capture.
    pub entry: Option<Entry>,
    /// Inode, if the entry may be cached; else 0.
    pub key: u64,
    /// What the cache knew of it.
    pub known: Option<Attributes>,
    /// Objects beneath its contents, to be remembered by the cache.
    pub closure: Vec<ChunkId>,
}

impl DirectoryJob {
    pub fn new(
        parent: Option<(Arc<DirectoryJob>, usize)>,
        root: usize,
        handle: Arc<Handle>,
        name: Box<[u8]>,
        attributes: Attributes,
        mount: u64,
        cache_key: [u8; 16],
    ) -> Self {
        let state = Mutex::default();
        Self { parent, root, handle, name, attributes, mount, single: false, cache_key, state }
    }

    pub fn state(&self) -> MutexGuard<'_, DirectoryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As for handles: no recursion however deep the tree.
impl Drop for DirectoryJob {
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some((job, _)) = next {
            next = Arc::into_inner(job).and_then(|mut inner| inner.parent.take());
        }
    }
}
