//! Restoring of what has no contents, and of further names of a file.

use super::{
    apply::{Reached, unlock},
    engine::Engine,
    file::WriteFailed,
    job::Job,
    target::{InTheWay, Restorer, open_existing},
};
use crate::{
    error::CaptureError,
    report::IssueKind,
    sys::{Handle, Stat, StatKind, stat_at},
    tree::{Entry, EntryKind},
};
use rustix::{
    fd::OwnedFd,
    fs::{AtFlags, FileType, Mode, OFlags, linkat, makedev, mknodat, openat, symlinkat, unlinkat},
    io::Errno,
};
use std::{
    ffi::{CStr, CString},
    sync::{Arc, atomic::Ordering::Relaxed},
};

impl Restorer<'_> {
    /// Links, pipes, sockets, devices.
    pub fn special(
        &self,
        engine: &Engine<'_, Self>,
        job: &Arc<Job>,
        directory: &OwnedFd,
        name: &CStr,
        entry: &Entry,
        there: Option<Stat>,
    ) -> Result<(), WriteFailed> {
        if let Some(stat) = there {
            remove(directory, name, &stat)?;
        }
        let mode = Mode::RUSR | Mode::WUSR;
        let make = |kind, device| mknodat(directory, name, kind, mode, device);
        match &entry.kind {
            EntryKind::Symlink(target) => symlinkat(&**target, directory, name)?,
            EntryKind::Fifo => make(FileType::Fifo, 0)?,
            EntryKind::Socket => make(FileType::Socket, 0)?,
            EntryKind::CharDevice(device) => {
                make(FileType::CharacterDevice, makedev(device.major, device.minor))?
            }
            EntryKind::BlockDevice(device) => {
                make(FileType::BlockDevice, makedev(device.major, device.minor))?
            }
            EntryKind::File(_) | EntryKind::Image(_) | EntryKind::Directory(_) => {
                return Err(Errno::INVAL.into());
            }
        }
        let handle =
            openat(directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let reached = match entry.kind {
            EntryKind::Symlink(_) => Reached::Link(&handle),
            _ => Reached::Handle(&handle),
        };
        let path = || job.path_of(&entry.name);
        self.applier(engine).apply(reached, &entry.attributes, 0, &path).map_err(WriteFailed::Fatal)
    }

    /// Makes one more name for a file that was restored.
    pub fn link(
        &self,
        engine: &Engine<'_, Self>,
        job: &Arc<Job>,
        entry: Entry,
        handle: &Arc<Handle>,
        first: &Arc<Job>,
        first_name: &[u8],
    ) -> Result<(), CaptureError> {
        let name = CString::new(&*entry.name).expect("invariant: decoded names have no zero byte");
        let old_name = CString::new(first_name).expect("invariant: decoded names have no zero byte");
        let linked = || -> Result<bool, Errno> {
            let (new, old) = (handle.fd()?, first.handle().ok_or(Errno::NOENT)?.fd()?);
            let original = stat_at(&*old, &old_name)?;
            match stat_at(&*new, &name) {
                Ok(stat) if stat.same_file(&original) => return Ok(true),
                Ok(stat) => match self.in_the_way(&entry, &stat) {
                    InTheWay::Keep => return Ok(false),
                    InTheWay::Same | InTheWay::Replace => remove(&new, &name, &stat)?,
                },
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
            linkat(&*old, &old_name, &*new, &name, AtFlags::empty())?;
            // The name could have been given to another file meanwhile.
            if stat_at(&*new, &name)?.same_file(&original) { Ok(true) } else { Err(Errno::STALE) }
        };
        match linked() {
            Ok(true) => {
                self.counts.links.fetch_add(1, Relaxed);
                self.done(engine, job, entry, false, true)
            }
            Ok(false) => {
                self.counts.kept.fetch_add(1, Relaxed);
                engine.monitor.issue(
                    IssueKind::Kept,
                    job.path_of(&entry.name),
                    "something is there already and stays",
                );
                self.done(engine, job, entry, false, false)
            }
            Err(error @ (Errno::NOSPC | Errno::DQUOT)) => {
                self.not_restored(engine, job, entry, false, WriteFailed::Io(error))
            }
            Err(error) => {
                let message =
                    format!("it cannot be linked to its other name ({error}) and becomes a file of its own");
                engine.monitor.issue(IssueKind::AttributeNotRestored, job.path_of(&entry.name), message);
                self.make_entry(engine, job, entry, handle.clone(), false)
            }
        }
    }
}

/// Removes what is in the way; a directory only if it is empty.
pub(super) fn remove(directory: &OwnedFd, name: &CStr, stat: &Stat) -> Result<(), Errno> {
    let flags = if stat.kind == StatKind::Directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    match unlinkat(directory, name, flags) {
        Err(Errno::PERM) if stat.kind == StatKind::File => {
            unlock(&open_existing(directory, name, OFlags::RDONLY)?)?;
            unlinkat(directory, name, flags)
        }
        result => result,
    }
}
