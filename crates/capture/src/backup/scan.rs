//! Looking at the names of a directory: what is left out, what the cache knows, what must be read.

use super::{
    job::{DirectoryJob, DirectoryState, Slot, WINDOW},
    names::Names,
    walk::{Task, Walk},
};
use crate::{
    cache::CachedEntry,
    error::CaptureError,
    report::IssueKind,
    sys::{Flags, Stat, StatKind, stat_at, stat_fd},
    tree::{ChunkId, Content, EntryKind},
};
use anshin_vault::VaultError;
use rustix::{
    fs::{Mode, OFlags, openat},
    io::Errno,
};
use std::{
    ffi::CStr,
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
};

const CACHE_TAG_NAME: &CStr = c"CACHEDIR.TAG";
/// <https://bford.info/cachedir/>
const CACHE_TAG_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

impl Walk<'_> {
    /// Looks at the next names of a directory.
    pub fn scan(&self, job: &Arc<DirectoryJob>) -> Result<(), CaptureError> {
        let mut state = std::mem::take(&mut *job.state());
        let mut tasks = Vec::new();
        if let Err(error) = self.look(job, &mut state, &mut tasks)? {
            let path = self.path(job, b"");
            self.monitor.issue(IssueKind::Unreadable, path, format!("the directory cannot be read: {error}"));
            state.unreadable = true;
            state.names = Some(Names::default());
            state.window.clear();
            tasks.clear();
        }
        state.pending = tasks.len() + 1;
        *job.state() = state;
        self.pool.push_all(tasks);
        self.settle(job.clone())
    }

    fn look(
        &self,
        job: &Arc<DirectoryJob>,
        state: &mut DirectoryState,
        tasks: &mut Vec<Task>,
    ) -> Result<Result<(), Errno>, CaptureError> {
        let fd = match job.handle.fd() {
            Ok(fd) => fd,
            Err(error) => return Ok(Err(error)),
        };
        let mut names = match state.names.take() {
            Some(names) => names,
            None => match Names::read(&*fd, self.monitor) {
                Ok(names) => names,
                Err(error) => return Ok(Err(error)),
            },
        };
        if state.next == 0 && self.options.exclude_caches && names.contains(CACHE_TAG_NAME) && is_cache(&fd) {
            names.retain_only(CACHE_TAG_NAME);
        }
        let end = names.len().min(state.next + WINDOW);
        let mut known: Vec<(usize, CachedEntry)> = Vec::new();
        for at in state.next..end {
            let name = names.get(at);
            let stat = match stat_at(&*fd, name) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue, // gone since it was listed
                Err(error) => {
                    let path = self.path(job, name.to_bytes());
                    self.monitor.issue(
                        IssueKind::Unreadable,
                        path,
                        format!("it cannot be looked at: {error}"),
                    );
                    continue;
                }
            };
            let is_directory = stat.kind == StatKind::Directory;
            if !self.options.excludes.is_empty()
                && self.options.excludes.matches(&self.path(job, name.to_bytes()), is_directory)
            {
                continue;
            }
            if !self.inner.is_empty() {
                let path = self.path(job, name.to_bytes());
                if self.inner.contains(&path) {
                    self.reached.lock().unwrap_or_else(PoisonError::into_inner).insert(path);
                }
            }
            let slot = state.window.len();
            state.window.push(Slot { name: name.to_bytes().into(), ..Slot::default() });
            let cached = self.old_cache.as_ref().and_then(|cache| {
                let device = self.options.cache_device.unwrap_or(job.handle.stat().device);
                state.cursor.find(cache, &job.cache_key, device, name.to_bytes())
            });
            match cached {
                Some(cached) if is_directory => {
                    let same = cached.inode == stat.inode;
                    state.window[slot].known = same.then_some(cached.entry.attributes);
                    tasks.push(Task::Enter(job.clone(), slot));
                }
                Some(cached) if self.is_unchanged(&cached, &stat) => known.push((slot, cached)),
                _ if is_directory => tasks.push(Task::Enter(job.clone(), slot)),
                _ => tasks.push(Task::Visit(job.clone(), slot)),
            }
        }
        (state.next, state.names) = (end, Some(names));
        let missing = self.believe(job, state, known)?;
        tasks.extend(missing.into_iter().map(|slot| Task::Visit(job.clone(), slot)));
        Ok(Ok(()))
    }

    fn is_unchanged(&self, cached: &CachedEntry, stat: &Stat) -> bool {
        let attributes = &cached.entry.attributes;
        let same_kind = match (&cached.entry.kind, stat.kind) {
            (EntryKind::File(content), StatKind::File) => content.size() == stat.size,
            (EntryKind::Symlink(_), StatKind::Symlink)
            | (EntryKind::Fifo, StatKind::Fifo)
            | (EntryKind::Socket, StatKind::Socket)
            | (EntryKind::CharDevice(_), StatKind::CharDevice)
            | (EntryKind::BlockDevice(_), StatKind::BlockDevice) => true,
            _ => false,
        };
        same_kind
            && cached.inode == stat.inode
            && attributes.mtime == stat.mtime
            && attributes.ctime == Some(stat.ctime)
            && (cached.entry.link.is_some() == (stat.links > 1))
    }

    /// Takes over what the cache knows, after the vault has said that it still has all of it. Gives the slots whose contents
    /// it has not.
    fn believe(
        &self,
        job: &DirectoryJob,
        state: &mut DirectoryState,
        known: Vec<(usize, CachedEntry)>,
    ) -> Result<Vec<usize>, VaultError> {
        let mut ids: Vec<ChunkId> = Vec::new();
        let mut ends = Vec::with_capacity(known.len());
        for (_, cached) in &known {
            ids.extend(&cached.objects);
            ends.push(ids.len());
        }
        let has = if ids.is_empty() { Vec::new() } else { self.sink.has_many(&ids)? };
        let mut missing = Vec::new();
        let mut begin = 0;
        for ((slot, cached), end) in known.into_iter().zip(ends) {
            if has[begin..end].iter().all(|has| *has) {
                self.take_over(job, &mut state.window[slot], cached);
            } else {
                missing.push(slot);
            }
            begin = end;
        }
        Ok(missing)
    }

    fn take_over(&self, job: &DirectoryJob, slot: &mut Slot, cached: CachedEntry) {
        let mut entry = cached.entry;
        if self.options.honour_nodump && entry.attributes.flags & Flags::NODUMP != 0 {
            return;
        }
        let owner = self.owners.get(entry.attributes.owner.uid, entry.attributes.owner.gid);
        entry.attributes.owner = owner;
        let bytes = entry.content().map_or(0, Content::data);
        self.count(&entry);
        self.counts.unchanged.fetch_add(u64::from(matches!(entry.kind, EntryKind::File(_))), Relaxed);
        self.monitor.done(bytes);
        self.monitor.tell(|| self.path(job, &slot.name));
        slot.key = cached.inode;
        slot.closure =
            if matches!(entry.content(), Some(Content::Stored { .. })) { cached.objects } else { Vec::new() };
        slot.entry = Some(entry);
    }
}

fn is_cache(directory: &Arc<rustix::fd::OwnedFd>) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut head = [0u8; CACHE_TAG_SIGNATURE.len()];
    openat(&**directory, CACHE_TAG_NAME, flags, Mode::empty())
        .and_then(|fd| match stat_fd(&fd)?.kind {
            StatKind::File => rustix::io::read(&fd, &mut head[..]),
            _ => Ok(0),
        })
        .is_ok_and(|length| head[..length] == *CACHE_TAG_SIGNATURE)
}
