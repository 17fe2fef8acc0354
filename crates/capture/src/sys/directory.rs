//! Directories that are reached name by name, without ever following a link, however deep they lie.

use super::{Stat, StatKind, stat_fd};
use rustix::{
    fd::OwnedFd,
    fs::{CWD, Mode, OFlags, openat},
    io::{Errno, Result},
};
use std::{
    collections::VecDeque,
    ffi::CString,
    path::Path,
    sync::{Arc, Mutex, PoisonError, Weak},
};

const OPEN: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK);

/// A directory, by its parent and its name there. Its descriptor may be closed to save descriptors; it is then opened again
/// from the nearest ancestor that is open, and must still be the same directory.
pub(crate) struct Handle {
    parent: Option<Arc<Handle>>,
    /// As openat takes it; empty at the top.
    name: CString,
    stat: Stat,
    fd: Mutex<Option<Arc<OwnedFd>>>,
    budget: Arc<HandleBudget>,
    keep: bool,
}

/// Bounds how many directories are open at once: the one that was opened first is closed first, because it is the
/// shallowest of those still worked on.
pub(crate) struct HandleBudget {
    open: Mutex<VecDeque<Weak<Handle>>>,
    limit: usize,
}

impl HandleBudget {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { open: Mutex::new(VecDeque::new()), limit })
    }

    fn opened(&self, handle: &Arc<Handle>) {
        let oldest = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.push_back(Arc::downgrade(handle));
            if open.len() > self.limit { open.pop_front() } else { None }
        };
        if let Some(handle) = oldest.and_then(|weak| weak.upgrade())
            && !handle.keep
        {
            handle.fd.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}

/// Opens a directory that a user named; links on the way are followed.
pub(crate) fn open_path(path: &Path) -> Result<OwnedFd> {
    openat(CWD, path, OPEN.difference(OFlags::NOFOLLOW), Mode::empty())
}

impl Handle {
    /// The top, which stays open.
    pub fn top(fd: OwnedFd, budget: &Arc<HandleBudget>) -> Result<Arc<Self>> {
        let stat = stat_fd(&fd)?;
        let fd = Mutex::new(Some(Arc::new(fd)));
        Ok(Arc::new(Self {
            parent: None,
            name: CString::default(),
            stat,
            fd,
            budget: budget.clone(),
            keep: true,
        }))
    }

    /// The directory `name` in this one. A link of that name is not followed (`ENOTDIR`).
    pub fn open_child(self: &Arc<Self>, name: CString) -> Result<Arc<Self>> {
        let fd = openat(&*self.fd()?, &name, OPEN, Mode::empty())?;
        let stat = stat_fd(&fd)?;
        let child = Arc::new(Self {
            parent: Some(self.clone()),
            name,
            stat,
            fd: Mutex::new(Some(Arc::new(fd))),
            budget: self.budget.clone(),
            keep: false,
        });
        self.budget.opened(&child);
        Ok(child)
    }

    /// What it was when it was opened.
    pub fn stat(&self) -> &Stat {
        &self.stat
    }

    /// Its descriptor, opened again if need be.
    pub fn fd(self: &Arc<Self>) -> Result<Arc<OwnedFd>> {
        if let Some(fd) = self.fd.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            return Ok(fd.clone());
        }
        // Names from here up to the nearest ancestor that is open.
        let mut way = vec![self];
        let mut fd = loop {
            let last = way[way.len() - 1];
            let parent = last.parent.as_ref().ok_or(Errno::STALE)?;
            if let Some(fd) = parent.fd.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
                break fd.clone();
            }
            way.push(parent);
        };
        for handle in way.into_iter().rev() {
            let opened = openat(&*fd, &handle.name, OPEN, Mode::empty())?;
            let stat = stat_fd(&opened)?;
            if !stat.same_file(&handle.stat) || stat.kind != StatKind::Directory {
                return Err(Errno::STALE); // something else has taken its place
            }
            fd = Arc::new(opened);
        }
        *self.fd.lock().unwrap_or_else(PoisonError::into_inner) = Some(fd.clone());
        self.budget.opened(self);
        Ok(fd)
    }

    /// The path from the top, for messages; `name` appended.
    pub fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut names = vec![name];
        let mut at = self;
        while let Some(parent) = &at.parent {
            names.push(at.name.as_bytes());
            at = parent;
        }
        let mut path = Vec::new();
        for name in names.into_iter().rev().filter(|name| !name.is_empty()) {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
        path
    }
}

/// A chain of a million parents is dropped in a loop, not in a recursion that would overflow the stack.
impl Drop for Handle {
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some(handle) = next {
            next = Arc::into_inner(handle).and_then(|mut inner| inner.parent.take());
        }
    }
}
