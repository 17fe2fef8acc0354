//! Capturing of one file: what it is and its attributes.

use super::{
    entry,
    job::{DirectoryJob, Slot},
    links::Captured,
    walk::Walk,
};
use crate::{
    error::CaptureError,
    report::IssueKind,
    sys::{Flags, Stat, StatKind, XattrTarget, stat_fd},
    tree::{ChunkId, Content, Entry, EntryKind, LinkGroup},
};
use rustix::{
    fd::OwnedFd,
    fs::{Mode, OFlags, openat},
    io::Errno,
};
use std::{
    ffi::{CStr, CString},
    sync::Arc,
};

impl Walk<'_> {
    /// Captures whatever has the name of a slot.
    pub fn visit(&self, job: &Arc<DirectoryJob>, slot: usize) -> Result<(), CaptureError> {
        let name = job.state().window[slot].name.clone();
        self.monitor.tell(|| self.path(job, &name));
        let c_name = CString::new(&*name).expect("invariant: names come from the kernel");
        let directory = match job.handle.fd() {
            Ok(fd) => fd,
            Err(error) => return self.skip(job, slot, &name, error),
        };
        let handle = match open_handle(&directory, &c_name) {
            Ok(handle) => handle,
            Err(Errno::NOENT) => return self.fill(job, slot, Slot::default()),
            Err(error) => return self.skip(job, slot, &name, error),
        };
        let stat = match stat_fd(&handle) {
            Ok(stat) => stat,
            Err(error) => return self.skip(job, slot, &name, error),
        };
        match stat.kind {
            StatKind::File => self.regular(job, slot, name, &c_name, &directory, stat),
            StatKind::Directory => {
                let why = "it became a directory while the one it is in was read";
                self.monitor.issue(IssueKind::Changed, self.path(job, &name), why);
                self.fill(job, slot, Slot::default())
            }
            _ => self.special(job, slot, name, &handle, &stat),
        }
    }

    /// Nothing is captured of the file; says why.
    fn skip(
        &self,
        job: &Arc<DirectoryJob>,
        slot: usize,
        name: &[u8],
        error: Errno,
    ) -> Result<(), CaptureError> {
        self.monitor.issue(
            IssueKind::Unreadable,
            self.path(job, name),
            format!("it cannot be read: {error}"),
        );
        self.fill(job, slot, Slot::default())
    }

    fn group(&self, job: &DirectoryJob, stat: &Stat) -> Option<LinkGroup> {
        (stat.links > 1).then_some(LinkGroup { mount: job.mount, inode: stat.inode })
    }

    /// Links, pipes, sockets and devices, through a handle: opening them could have effects.
    fn special(
        &self,
        job: &Arc<DirectoryJob>,
        slot: usize,
        name: Box<[u8]>,
        handle: &OwnedFd,
        stat: &Stat,
    ) -> Result<(), CaptureError> {
        let kind = match entry::entry_of_handle(handle, stat) {
            Ok(Some(kind)) => kind,
            Ok(None) => return self.skip(job, slot, &name, Errno::NOTSUP),
            Err(error) => return self.skip(job, slot, &name, error),
        };
        let mut attributes = entry::attributes_of(stat, &self.owners, self.options.access_times);
        let path = || self.path(job, &name);
        attributes.xattrs = self.xattrs_of(stat, &XattrTarget::handle(handle), &path)?;
        let entry = Entry { name: name.clone(), kind, attributes, link: self.group(job, stat) };
        self.hand_in(job, slot, stat, entry, Vec::new())
    }

    pub(super) fn hand_in(
        &self,
        job: &Arc<DirectoryJob>,
        slot: usize,
        stat: &Stat,
        entry: Entry,
        closure: Vec<ChunkId>,
    ) -> Result<(), CaptureError> {
        self.count(&entry);
        self.monitor.done(entry.content().map_or(0, Content::data));
        let key = if self.cacheable(stat, &entry, &closure) { stat.inode } else { 0 };
        let name = entry.name.clone();
        self.fill(job, slot, Slot { name, entry: Some(entry), key, closure, known: None })
    }

    fn regular(
        &self,
        job: &Arc<DirectoryJob>,
        slot: usize,
        name: Box<[u8]>,
        c_name: &CStr,
        directory: &OwnedFd,
        seen: Stat,
    ) -> Result<(), CaptureError> {
        let opened = open_file(directory, c_name).and_then(|fd| Ok((stat_fd(&fd)?, fd)));
        let (stat, fd) = match opened {
            Ok((stat, fd)) if stat.kind == StatKind::File => (stat, fd),
            Err(Errno::NOENT) => return self.fill(job, slot, Slot::default()),
            Ok(_) | Err(Errno::LOOP | Errno::NXIO | Errno::NODEV) => {
                return self.skip(job, slot, &name, Errno::AGAIN); // replaced between two system calls
            }
            Err(error) => {
                let message = format!("the contents cannot be read: {error}");
                self.monitor.issue(IssueKind::Unreadable, self.path(job, &name), message);
                let kind = EntryKind::File(Content::Missing { size: seen.size });
                let attributes = entry::attributes_of(&seen, &self.owners, self.options.access_times);
                let entry = Entry { name, kind, attributes, link: self.group(job, &seen) };
                return self.hand_in(job, slot, &seen, entry, Vec::new());
            }
        };
        let link = self.group(job, &stat);
        if let Some(Captured { entry, closure, .. }) = link.and_then(|group| self.links.get(group, &stat)) {
            return self.hand_in(job, slot, &stat, Entry { name, ..entry }, closure);
        }
        let mut attributes = entry::attributes_of(&stat, &self.owners, self.options.access_times);
        let path = || self.path(job, &name);
        attributes.xattrs = self.xattrs_of(&stat, &XattrTarget::open(&fd), &path)?;
        (attributes.flags, attributes.project) = self.flags_of(&stat, &fd, &path);
        if self.options.honour_nodump && attributes.flags & Flags::NODUMP != 0 {
            return self.fill(job, slot, Slot::default());
        }
        self.contents(job, slot, name, fd, stat, attributes, link)
    }
}

/// Names a file without opening it.
fn open_handle(directory: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
    openat(directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Opens a regular file for reading, without changing its time of last access where that is allowed.
fn open_file(directory: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match openat(directory, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => openat(directory, name, flags, Mode::empty()),
        result => result,
    }
}
