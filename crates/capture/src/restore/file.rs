//! Restoring of one file.

use super::{
    apply::{Reached, unlock},
    engine::{Engine, Task},
    job::Job,
    link::Claim,
    special::remove,
    target::{InTheWay, Restorer, is_alike, open_existing},
    write::Writing,
};
use crate::{
    error::CaptureError,
    report::IssueKind,
    sys::{Flags, Handle, Stat, StatKind, get_flags, set_flags, stat_at, stat_fd},
    tree::{Content, ContentReader, Entry, EntryKind, ReadError, Segment},
};
use rustix::{
    fd::OwnedFd,
    fs::{AtFlags, Mode, OFlags, fdatasync, ftruncate, openat, unlinkat},
    io::Errno,
};
use std::{
    ffi::{CStr, CString},
    ops::ControlFlow,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{AcqRel, Relaxed},
        },
    },
};

/// The pieces of a larger file are written by several workers.
const SPREAD_MIN: u64 = 16 << 20;
/// Pieces in one task.
const BATCH: usize = 4;

/// Work that a file leads to.
pub(crate) enum Own {
    /// Write these pieces, each at its offset.
    Pieces(Arc<FileTask>, Vec<(u64, Segment)>),
}

/// Why contents could not be written.
pub(crate) enum WriteFailed {
    /// The target failed.
    Io(Errno),
    /// The snapshot is damaged there.
    Damaged(String),
    /// A reason to stop everything.
    Fatal(CaptureError),
}

impl From<ReadError> for WriteFailed {
    fn from(error: ReadError) -> Self {
        match super::engine::damage(error) {
            Ok(message) => Self::Damaged(message),
            Err(error) => Self::Fatal(error),
        }
    }
}

/// A regular file that is being written.
pub(crate) struct FileTask {
    job: Arc<Job>,
    entry: Entry,
    name: CString,
    directory: Arc<Handle>,
    fd: OwnedFd,
    /// It did not exist before; removed again if it does not become whole.
    fresh: bool,
    first: bool,
    /// Something in it was overwritten, or its size was set.
    changed: AtomicBool,
    /// Pieces that are still to be written, and one for whoever hands them out.
    pending: AtomicUsize,
    failed: Mutex<Option<WriteFailed>>,
    complete: AtomicBool,
}

impl FileTask {
    /// Removes a file that was made and did not become whole.
    fn discard(&self) {
        if self.fresh
            && !self.complete.swap(true, Relaxed)
            && let Ok(directory) = self.directory.fd()
        {
            let _ = unlinkat(&*directory, &self.name, AtFlags::empty()); // nothing more can be done
        }
    }
}

/// Also when the restore ends early.
impl Drop for FileTask {
    fn drop(&mut self) {
        self.discard();
    }
}

impl Restorer<'_> {
    /// An entry that is no directory.
    pub fn restore_entry(
        &self,
        engine: &Engine<'_, Self>,
        job: &Arc<Job>,
        entry: Entry,
    ) -> Result<(), CaptureError> {
        let Some(handle) = self.ensure(engine, job)? else { return engine.settle(job.clone()) };
        match entry.link {
            None => self.make_entry(engine, job, entry, handle, false),
            Some(group) => match self.links.claim(group, job, entry) {
                Claim::First(entry) => self.make_entry(engine, job, entry, handle, true),
                Claim::Alone(entry) => self.make_entry(engine, job, entry, handle, false),
                Claim::Waits => Ok(()),
                Claim::Link(entry, first, name) => self.link(engine, job, entry, &handle, &first, &name),
            },
        }
    }

    pub(super) fn make_entry(
        &self,
        engine: &Engine<'_, Self>,
        job: &Arc<Job>,
        entry: Entry,
        handle: Arc<Handle>,
        first: bool,
    ) -> Result<(), CaptureError> {
        let name = CString::new(&*entry.name).expect("invariant: decoded names have no zero byte");
        if matches!(entry.content(), Some(Content::Missing { .. })) {
            let why = "its contents could not be read when the snapshot was made";
            engine.monitor.issue(IssueKind::NeverCaptured, job.path_of(&entry.name), why);
            return self.done(engine, job, entry, first, false);
        }
        let directory = match handle.fd() {
            Ok(directory) => directory,
            Err(error) => return self.not_restored(engine, job, entry, first, WriteFailed::Io(error)),
        };
        let there = match stat_at(&*directory, &name) {
            Ok(stat) => Some(stat),
            Err(Errno::NOENT) => None,
            Err(error) => return self.not_restored(engine, job, entry, first, WriteFailed::Io(error)),
        };
        let way = there.as_ref().map(|stat| self.in_the_way(&entry, stat));
        if matches!(way, Some(InTheWay::Keep)) {
            self.counts.kept.fetch_add(1, Relaxed);
            engine.monitor.issue(
                IssueKind::Kept,
                job.path_of(&entry.name),
                "something is there already and stays",
            );
            return self.done(engine, job, entry, first, false);
        }
        let same = matches!(way, Some(InTheWay::Same));
        let made = match &entry.kind {
            EntryKind::File(_) | EntryKind::Image(_) => {
                match self.open_file(&directory, &name, &entry, there) {
                    Ok((fd, fresh)) => {
                        let directory = handle.clone();
                        let (job, pending, failed) = (job.clone(), AtomicUsize::new(1), Mutex::new(None));
                        let (changed, complete) = (false.into(), false.into());
                        let file = FileTask {
                            job,
                            entry,
                            name,
                            directory,
                            fd,
                            fresh,
                            first,
                            changed,
                            pending,
                            failed,
                            complete,
                        };
                        return self.contents(engine, Arc::new(file), same);
                    }
                    Err(error) => Err(error.into()),
                }
            }
            _ => self.special(engine, job, &directory, &name, &entry, there),
        };
        match made {
            Ok(()) => self.done(engine, job, entry, first, true),
            Err(error) => self.not_restored(engine, job, entry, first, error),
        }
    }

    /// Opens the file to write to. True if it was made for that.
    fn open_file(
        &self,
        directory: &OwnedFd,
        name: &CStr,
        entry: &Entry,
        there: Option<Stat>,
    ) -> Result<(OwnedFd, bool), Errno> {
        // A file with other names is left to them: they may lie elsewhere, or be another file's in the snapshot.
        let own = |stat: Stat| stat.links == 1 || (entry.link.is_some() && is_alike(entry, &stat));
        let usable = there.is_some_and(|stat| stat.kind == StatKind::File && own(stat));
        if usable {
            match open_existing(directory, name, OFlags::RDWR) {
                Ok(fd) => {
                    if stat_fd(&fd)?.kind != StatKind::File {
                        return Err(Errno::AGAIN);
                    }
                    unlock(&fd)?;
                    return Ok((fd, false));
                }
                Err(Errno::PERM) => {
                    unlock(&open_existing(directory, name, OFlags::RDONLY)?)?;
                    return open_existing(directory, name, OFlags::RDWR).map(|fd| (fd, false));
                }
                // A program that runs keeps its file; the new one gets the name.
                Err(Errno::TXTBSY) => {}
                Err(error) => return Err(error),
            }
        }
        if let Some(stat) = there {
            remove(directory, name, &stat)?;
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?;
        let early = entry.attributes.flags & Flags::BEFORE_CONTENT;
        if early != 0
            && let Ok((now, _)) = get_flags(&fd)
        {
            let _ = set_flags(&fd, now | early); // tried again, and reported, with the other attributes
        }
        Ok((fd, true))
    }

    fn writing<'w>(&'w self, engine: &'w Engine<'_, Self>, file: &'w FileTask) -> Writing<'w> {
        Writing {
            changed: &file.changed,
            nodes: engine.nodes,
            monitor: engine.monitor,
            naming: self.options.naming,
            written: &self.counts.written,
            equal: &self.counts.equal,
        }
    }

    /// Writes the contents, itself or with others.
    fn contents(
        &self,
        engine: &Engine<'_, Self>,
        file: Arc<FileTask>,
        same: bool,
    ) -> Result<(), CaptureError> {
        let content = file.entry.content().expect("invariant: only files and images have file tasks").clone();
        // One that could not be used as it was is made anew, and empty.
        if same && !file.fresh {
            self.counts.equal.fetch_add(content.data(), Relaxed);
            return self.pieces_done(engine, &file);
        }
        let spread = content.size() >= SPREAD_MIN;
        let mut batch = Vec::new();
        let reader = ContentReader::new(engine.nodes);
        let writing = self.writing(engine, &file);
        let written = if let Content::Inline(bytes) = &content {
            writing.bytes(&file.fd, file.fresh, 0, bytes)
        } else {
            let walked = reader.segments(&content, |offset, segment| {
                if spread {
                    batch.push((offset, segment));
                    if batch.len() == BATCH {
                        hand_out(engine, &file, &mut batch);
                    }
                    return ControlFlow::Continue(());
                }
                match writing.segment(&file.fd, file.fresh, offset, segment) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(error) => ControlFlow::Break(error),
                }
            });
            match walked {
                Ok(ControlFlow::Continue(())) => Ok(()),
                Ok(ControlFlow::Break(error)) => Err(error),
                Err(error) => Err(error.into()),
            }
        };
        hand_out(engine, &file, &mut batch);
        // A new file that is written from its beginning to its end has its size only with its data; one that is written in several
        // places at once, or given its size, has it before.
        if file.fresh && spread {
            file.changed.store(true, Relaxed);
        }
        let sized = written.and_then(|()| {
            // Makes a hole at the end, or cuts off what was longer.
            if stat_fd(&file.fd)?.size != content.size() {
                file.changed.store(true, Relaxed);
                ftruncate(&file.fd, content.size())?;
            }
            Ok(())
        });
        if let Err(error) = sized {
            file.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
        self.pieces_done(engine, &file)
    }

    pub fn own_work(&self, engine: &Engine<'_, Self>, work: Own) -> Result<(), CaptureError> {
        let Own::Pieces(file, pieces) = work;
        let writing = self.writing(engine, &file);
        for (offset, segment) in pieces {
            let stop = file.failed.lock().unwrap_or_else(PoisonError::into_inner).is_some();
            if stop || engine.monitor.is_cancelled() {
                break;
            }
            if let Err(error) = writing.segment(&file.fd, file.fresh, offset, segment) {
                file.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
        if engine.monitor.is_cancelled() {
            return Err(CaptureError::Cancelled);
        }
        self.pieces_done(engine, &file)
    }

    /// The last one gives the file its attributes.
    fn pieces_done(&self, engine: &Engine<'_, Self>, file: &Arc<FileTask>) -> Result<(), CaptureError> {
        if file.pending.fetch_sub(1, AcqRel) > 1 {
            return Ok(());
        }
        let mut failed = file.failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The next restore takes a file of the right size and time for done. A file system may make these durable, and lose with the
        // power what was written; only what was appended to a new file is on the disk before the file is so long.
        if failed.is_none() && file.changed.load(Relaxed) {
            failed = fdatasync(&file.fd).err().map(Into::into);
        }
        if let Some(error) = failed {
            file.discard(); // before its directory gets its times
            return self.not_restored(engine, &file.job, file.entry.clone(), file.first, error);
        }
        let defer = if file.first { Flags::LOCKING } else { 0 };
        let attributes = &file.entry.attributes;
        let path = || file.job.path_of(&file.entry.name);
        self.applier(engine).apply(Reached::Open(&file.fd), attributes, defer, &path)?;
        if attributes.flags & defer != 0 {
            let late = (file.job.clone(), file.entry.name.clone(), attributes.flags);
            self.late.lock().unwrap_or_else(PoisonError::into_inner).push(late);
        }
        file.complete.store(true, Relaxed);
        self.done(engine, &file.job, file.entry.clone(), file.first, true)
    }

    pub(super) fn not_restored(
        &self,
        engine: &Engine<'_, Self>,
        job: &Arc<Job>,
        entry: Entry,
        first: bool,
        error: WriteFailed,
    ) -> Result<(), CaptureError> {
        let path = job.path_of(&entry.name);
        let message = match error {
            WriteFailed::Fatal(error) => return Err(error),
            WriteFailed::Io(Errno::NOSPC | Errno::DQUOT) => {
                return Err(CaptureError::Full { path, written: self.counts.written.load(Relaxed) });
            }
            WriteFailed::Io(Errno::NOTEMPTY | Errno::EXIST) => {
                "a directory that is not empty is in its place".into()
            }
            WriteFailed::Io(error) => error.to_string(),
            WriteFailed::Damaged(message) => message,
        };
        engine.monitor.issue(IssueKind::NotRestored, path, message);
        self.done(engine, job, entry, first, false)
    }

    /// Counts, lets those go on that waited for this file, and settles.
    pub(super) fn done(
        &self,
        engine: &Engine<'_, Self>,
        job: &Arc<Job>,
        entry: Entry,
        first: bool,
        made: bool,
    ) -> Result<(), CaptureError> {
        if made {
            let count = if matches!(entry.kind, EntryKind::File(_)) {
                &self.counts.files
            } else {
                &self.counts.others
            };
            count.fetch_add(1, Relaxed);
        }
        engine.monitor.done(entry.content().map_or(0, Content::data));
        if let Some(group) = entry.link.filter(|_| first) {
            let made = made.then(|| (job.clone(), &*entry.name));
            let waiting = self.links.first_done(group, made);
            engine.pool.push_all(
                waiting.into_iter().map(|(job, entry)| Task::Entry(job, Box::new(entry))).collect(),
            );
        }
        engine.settle(job.clone())
    }
}

fn hand_out(engine: &Engine<'_, Restorer<'_>>, file: &Arc<FileTask>, batch: &mut Vec<(u64, Segment)>) {
    if !batch.is_empty() {
        file.pending.fetch_add(1, AcqRel);
        engine.pool.push(Task::Own(Own::Pieces(file.clone(), std::mem::take(batch))));
    }
}
