//! A directory of the snapshot while something is done with it.

use crate::{
    sys::Handle,
    tree::{DirectoryCursor, Entry},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Entries taken at once of a directory.
pub(crate) const WINDOW: usize = 256;

/// A directory of the snapshot and the one of the target that stands for it.
pub(crate) struct Job {
    pub parent: Option<Arc<Job>>,
    pub entry: Entry,
    /// Everything beneath is meant.
    pub selected: bool,
    state: Mutex<JobState>,
}

#[derive(Default)]
pub(crate) struct JobState {
    pub cursor: DirectoryCursor,
    /// Entries that are still worked on, and one for the scan itself.
    pub pending: usize,
    /// The directory in the target, once it is open.
    pub handle: Option<Arc<Handle>>,
    /// It was made by this restore.
    pub made: bool,
    /// It could not be made or opened; that was reported.
    pub failed: bool,
    pub ended: bool,
}

impl Job {
    pub fn new(parent: Option<Arc<Job>>, entry: Entry, selected: bool, cursor: DirectoryCursor) -> Arc<Self> {
        let state = Mutex::new(JobState { cursor, ..JobState::default() });
        Arc::new(Self { parent, entry, selected, state })
    }

    pub fn state(&self) -> MutexGuard<'_, JobState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn handle(&self) -> Option<Arc<Handle>> {
        self.state().handle.clone()
    }

    /// Path of the entry `name` beneath the base.
    pub fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut names = vec![name];
        let mut at = self;
        while let Some(parent) = &at.parent {
            names.push(&at.entry.name);
            at = parent;
        }
        names.retain(|name| !name.is_empty());
        names.reverse();
        names.join(&b'/')
    }
}

/// As for handles: no recursion however deep the tree.
impl Drop for Job {
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some(job) = next {
            next = Arc::into_inner(job).and_then(|mut inner| inner.parent.take());
        }
    }
}
