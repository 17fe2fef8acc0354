//! How finished entries become directories, from the bottom up.

use super::{
    job::{DirectoryJob, DirectoryState, Slot},
    walk::{Task, Walk},
};
use crate::{
    error::CaptureError,
    tree::{Content, Entry, EntryKind, Listing, SealedLeaf, Xattrs},
};
use std::sync::{Arc, PoisonError};

impl Walk<'_> {
    /// Puts a finished entry into its slot.
    pub fn fill(&self, job: &Arc<DirectoryJob>, at: usize, filled: Slot) -> Result<(), CaptureError> {
        job.state().window[at] = filled;
        self.settle(job.clone())
    }

    /// One thing less is pending in `job`. If that was the last, the directory goes on or becomes an entry of its parent,
    /// and so on upwards.
    pub fn settle(&self, mut job: Arc<DirectoryJob>) -> Result<(), CaptureError> {
        loop {
            let state = {
                let mut state = job.state();
                state.pending -= 1;
                if state.pending > 0 {
                    return Ok(());
                }
                self.flush_window(&job, &mut state)?;
                if state.names.as_ref().is_some_and(|names| state.next < names.len()) {
                    drop(state);
                    self.pool.push(Task::Scan(job));
                    return Ok(());
                }
                std::mem::take(&mut *state)
            };
            let Some(entry) = self.complete(&job, state)? else { return Ok(()) };
            let Some((parent, slot)) = job.parent.clone() else {
                self.captured.lock().unwrap_or_else(PoisonError::into_inner)[job.root] = Some(entry);
                return Ok(());
            };
            {
                let sure = self.is_sure(job.handle.stat());
                let cached = sure && !matches!(entry.attributes.xattrs, Xattrs::Stored(_));
                let key = if cached { job.handle.stat().inode } else { 0 };
                let name = job.name.clone();
                parent.state().window[slot] = Slot { name, entry: Some(entry), key, ..Slot::default() };
            }
            job = parent;
        }
    }

    /// Writes the entries of the window in order.
    fn flush_window(&self, job: &DirectoryJob, state: &mut DirectoryState) -> Result<(), CaptureError> {
        if job.single {
            self.captured.lock().unwrap_or_else(PoisonError::into_inner)[job.root] =
                state.window[0].entry.take();
            return Ok(());
        }
        for slot in std::mem::take(&mut state.window) {
            let Some(entry) = slot.entry else { continue };
            if let (Some(cache), Some(Content::Stored { id, .. })) = (&self.new_cache, entry.content())
                && slot.key != 0
            {
                cache.closure(id, &slot.closure);
            }
            state.keys.push(slot.key);
            if let Some(leaf) = state.writer.push(self.sink, &entry)? {
                self.remember(job, state, &leaf);
            }
        }
        Ok(())
    }

    fn remember(&self, job: &DirectoryJob, state: &mut DirectoryState, leaf: &SealedLeaf) {
        let keys: Vec<u64> = state.keys.drain(..leaf.entries as usize).collect();
        if let Some(cache) = &self.new_cache {
            cache.leaf(
                &job.cache_key,
                state.parts,
                self.options.cache_device.unwrap_or(job.handle.stat().device),
                &keys,
                leaf,
            );
        }
        state.parts += 1;
    }

    /// The entry of a directory all of whose entries are written. None if a root of one file was captured instead.
    fn complete(&self, job: &DirectoryJob, mut state: DirectoryState) -> Result<Option<Entry>, CaptureError> {
        if job.single {
            return Ok(None);
        }
        let (mut listing, leaf) = std::mem::take(&mut state.writer).finish(self.sink)?;
        if let Some(leaf) = leaf {
            self.remember(job, &mut state, &leaf);
        }
        if state.unreadable {
            listing = Listing::Unreadable;
        }
        let kind = EntryKind::Directory(listing);
        let entry = Entry { name: job.name.clone(), kind, attributes: job.attributes.clone(), link: None };
        self.count(&entry);
        self.monitor.done(0);
        Ok(Some(entry))
    }
}
