//! The target of a restore: its directories, and what is in the way.

use super::{
    Conflict, RestoreOptions, RestoreReport, Selection,
    apply::{Applier, OwnerMap, Reached, unlock},
    engine::{Act, Engine, base},
    file::{Own, WriteFailed},
    job::{Job, JobState},
    link::LinkTable,
    plan::plan,
};
use crate::{
    error::CaptureError,
    monitor::Monitor,
    report::IssueKind,
    sys::{Flags, Handle, HandleBudget, Stat, StatKind, get_flags, open_path, set_flags, stat_at},
    tree::{ChunkId, DirectoryCursor, Entry, EntryKind, Listing, Nodes},
};
use anshin_base::Problem;
use anshin_vault::Source;
use rustix::{
    fd::OwnedFd,
    fs::{AtFlags, Mode, OFlags, mkdirat, openat, syncfs, unlinkat},
    io::Errno,
};
use std::{
    ffi::{CStr, CString},
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Directories of the target that may be open at once.
pub(crate) const OPEN_DIRECTORIES: usize = 256;
/// Decoded tree objects that are kept.
pub(crate) const NODES: usize = 64;

/// Counts for the report.
#[derive(Default)]
pub(crate) struct Counts {
    pub files: AtomicU64,
    pub directories: AtomicU64,
    pub others: AtomicU64,
    pub links: AtomicU64,
    pub kept: AtomicU64,
    pub written: AtomicU64,
    pub equal: AtomicU64,
}

/// A restore that is going on.
pub(crate) struct Restorer<'o> {
    pub options: &'o RestoreOptions<'o>,
    pub owners: OwnerMap,
    pub links: LinkTable,
    pub counts: Counts,
    /// Files with several names that are to be locked once all their names are there.
    pub late: Mutex<Vec<Late>>,
    top_attributes: bool,
}

/// A file that is to be locked: where it is, its name, its flags.
pub(crate) type Late = (Arc<Job>, Box<[u8]>, u32);

/// What the policy says about a file that is in the way.
pub(crate) enum InTheWay {
    Keep,
    /// Contents are equal as far as size and time say.
    Same,
    Replace,
}

pub(super) fn restore(
    source: &dyn Source,
    root: &ChunkId,
    selection: &Selection,
    target: &Path,
    options: &RestoreOptions<'_>,
    monitor: &Monitor,
) -> Result<RestoreReport, CaptureError> {
    if options.conflict == Conflict::Refuse {
        refuse_conflicts(source, root, selection, target, options)?;
    }
    let shown = target.as_os_str().as_bytes();
    let io = |what| move |error: Errno| CaptureError::io(what, shown, error);
    let there = target.exists();
    std::fs::create_dir_all(target)
        .map_err(|error| io("create")(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    let fd = open_path(target).map_err(io("open"))?;
    let empty = std::fs::read_dir(target).is_ok_and(|mut names| names.next().is_none());
    let sync = rustix::io::fcntl_dupfd_cloexec(&fd, 0).map_err(io("open"))?;
    let handle = Handle::top(fd, &HandleBudget::new(OPEN_DIRECTORIES)).map_err(io("open"))?;

    let nodes = Nodes::new(source, NODES);
    let (entry, single) = base(&nodes, root, selection)?;
    let captured = is_captured(&entry);
    let restorer = Restorer {
        options,
        owners: OwnerMap::default(),
        links: LinkTable::default(),
        counts: Counts::default(),
        late: Mutex::default(),
        top_attributes: single.is_none() && (!there || captured && (options.in_place || empty)),
    };
    let cursor = match &entry.kind {
        EntryKind::Directory(listing) => DirectoryCursor::new(listing),
        _ => DirectoryCursor::default(),
    };
    let top = Job::new(None, Entry { name: Box::default(), ..entry }, selection.is_whole(), cursor);
    top.state().handle = Some(handle);
    let engine = Engine::new(restorer, &nodes, selection, monitor);
    let ran = engine.run(options.workers(), top, single);
    engine.act.lock_late(&engine);
    let synced = syncfs(&sync).map_err(io("flush"));
    let counts = &engine.act.counts;
    let report = RestoreReport {
        files: counts.files.load(Relaxed),
        directories: counts.directories.load(Relaxed),
        others: counts.others.load(Relaxed),
        links: counts.links.load(Relaxed),
        kept: counts.kept.load(Relaxed),
        bytes_written: counts.written.load(Relaxed),
        bytes_equal: counts.equal.load(Relaxed),
        issues: monitor.take_issues(),
    };
    ran.and(synced).map(|()| report)
}

fn refuse_conflicts(
    source: &dyn Source,
    root: &ChunkId,
    selection: &Selection,
    target: &Path,
    options: &RestoreOptions<'_>,
) -> Result<(), CaptureError> {
    let planned = plan(source, root, selection, target, options, &Monitor::new())?;
    let Some(first) = planned.in_the_way.first() else { return Ok(()) };
    let message = format!(
        "{} of the files to be restored are already in {}, for example `{}`",
        planned.in_the_way_count,
        target.display(),
        first.escape_ascii()
    );
    Err(CaptureError::problem(
        Problem::refused("restore-conflict", message)
            .hint("restore to an empty place, or choose what happens to them: skip, if-different, keep-newer, overwrite"),
    ))
}

impl Restorer<'_> {
    pub fn applier<'a>(&'a self, engine: &'a Engine<'_, Self>) -> Applier<'a> {
        Applier { nodes: engine.nodes, owners: &self.owners, options: self.options, monitor: engine.monitor }
    }

    /// The directory of the target that stands for `job`, made if need be with those above it. None if that failed.
    pub fn ensure(
        &self,
        engine: &Engine<'_, Self>,
        job: &Arc<Job>,
    ) -> Result<Option<Arc<Handle>>, CaptureError> {
        let mut way = Vec::new();
        let mut at = job;
        let mut handle = loop {
            let state = at.state();
            if state.failed {
                return Ok(None);
            }
            if let Some(handle) = &state.handle {
                break handle.clone();
            }
            drop(state);
            way.push(at);
            match &at.parent {
                Some(parent) => at = parent,
                None => return Ok(None),
            }
        };
        for job in way.into_iter().rev() {
            let mut state = job.state();
            if state.handle.is_none() && !state.failed {
                self.make(engine, job, &mut state, &handle)?;
            }
            match &state.handle {
                Some(made) => handle = made.clone(),
                None => return Ok(None),
            }
        }
        Ok(Some(handle))
    }

    /// Makes or opens one directory.
    fn make(
        &self,
        engine: &Engine<'_, Self>,
        job: &Arc<Job>,
        state: &mut JobState,
        parent: &Arc<Handle>,
    ) -> Result<(), CaptureError> {
        let name = CString::new(&*job.entry.name).expect("invariant: decoded names have no zero byte");
        let made = parent.fd().and_then(|fd| {
            state.made = match stat_at(&*fd, &name) {
                Ok(stat) if stat.kind == StatKind::Directory => false,
                Ok(stat) => match self.in_the_way(&job.entry, &stat) {
                    InTheWay::Keep => return Err(Errno::NOTDIR),
                    InTheWay::Same | InTheWay::Replace => {
                        unlinkat(&*fd, &name, AtFlags::empty())?;
                        mkdirat(&*fd, &name, Mode::RWXU).map(|()| true)?
                    }
                },
                Err(Errno::NOENT) => mkdirat(&*fd, &name, Mode::RWXU).map(|()| true)?,
                Err(error) => return Err(error),
            };
            let handle = parent.open_child(name.clone())?;
            if !state.made && self.may_change() {
                let _ = unlock(&*handle.fd()?); // if it cannot be, what is to be made in it says why
            }
            Ok(handle)
        });
        match made {
            Ok(handle) => state.handle = Some(handle),
            Err(Errno::NOSPC | Errno::DQUOT) => {
                let (path, written) = (job.path_of(b""), self.counts.written.load(Relaxed));
                return Err(CaptureError::Full { path, written });
            }
            Err(error) => {
                state.failed = true;
                let message =
                    format!("the directory cannot be made: {error}; nothing beneath it is restored");
                engine.monitor.issue(IssueKind::NotRestored, job.path_of(b""), message);
            }
        }
        Ok(())
    }

    /// Whether the policy lets anything that is there be changed.
    fn may_change(&self) -> bool {
        !matches!(self.options.conflict, Conflict::Refuse | Conflict::Skip)
    }

    pub fn in_the_way(&self, entry: &Entry, stat: &Stat) -> InTheWay {
        let equal = is_alike(entry, stat);
        match self.options.conflict {
            Conflict::Refuse | Conflict::Skip => InTheWay::Keep,
            Conflict::KeepNewer if stat.mtime > entry.attributes.mtime => InTheWay::Keep,
            Conflict::KeepNewer | Conflict::IfDifferent if equal => InTheWay::Same,
            Conflict::KeepNewer | Conflict::IfDifferent | Conflict::Overwrite => InTheWay::Replace,
        }
    }

    /// Locks the files with several names.
    fn lock_late(&self, engine: &Engine<'_, Self>) {
        for (job, name, flags) in
            std::mem::take(&mut *self.late.lock().unwrap_or_else(PoisonError::into_inner))
        {
            let lock = || {
                let fd = job.handle().ok_or(Errno::NOENT)?.fd()?;
                let name = CString::new(&*name).map_err(|_| Errno::INVAL)?;
                let file = open_existing(&fd, &name, OFlags::RDONLY)?;
                let (now, _) = get_flags(&file)?;
                set_flags(&file, now | flags & Flags::LOCKING)
            };
            if let Err(error) = lock() {
                engine.monitor.issue(
                    IssueKind::AttributeNotRestored,
                    job.path_of(&name),
                    format!("flags: {error}"),
                );
            }
        }
    }
}

/// Whether a file is the one of the snapshot, as far as size and time say.
pub(crate) fn is_alike(entry: &Entry, stat: &Stat) -> bool {
    stat.kind == StatKind::File && entry.size() == stat.size && entry.attributes.mtime == stat.mtime
}

/// Of a directory that is only on the way to what was captured, no more than owner and mode is known, and where the source was
/// elsewhere not even these: nothing that is there is changed to that.
fn is_captured(entry: &Entry) -> bool {
    entry.attributes.ctime.is_some()
}

/// Opens a file without following a link and without waiting for whoever is at the other end of a pipe.
pub(crate) fn open_existing(directory: &OwnedFd, name: &CStr, how: OFlags) -> Result<OwnedFd, Errno> {
    let flags = how | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    openat(directory, name, flags, Mode::empty())
}

impl Act for Restorer<'_> {
    type Own = Own;

    fn entry(engine: &Engine<'_, Self>, job: &Arc<Job>, entry: Entry) -> Result<(), CaptureError> {
        engine.act.restore_entry(engine, job, entry)
    }

    fn enter(engine: &Engine<'_, Self>, job: &Arc<Job>) -> Result<bool, CaptureError> {
        if job.selected && matches!(job.entry.kind, EntryKind::Directory(Listing::Unreadable)) {
            let why = "its entries could not be read when the snapshot was made";
            engine.monitor.issue(IssueKind::NeverCaptured, job.path_of(b""), why);
        }
        // What is only on the way to something is made when that is found.
        Ok(!job.selected || engine.act.ensure(engine, job)?.is_some())
    }

    fn leave(engine: &Engine<'_, Self>, job: &Arc<Job>) -> Result<(), CaptureError> {
        let this = &engine.act;
        let (handle, made) = {
            let mut state = job.state();
            (state.handle.clone(), std::mem::take(&mut state.made))
        };
        let Some(handle) = handle else { return Ok(()) };
        let wanted = match job.parent {
            None => this.top_attributes,
            Some(_) => made || job.selected && this.may_change() && is_captured(&job.entry),
        };
        if wanted {
            match handle.fd() {
                Ok(fd) => {
                    let path = || job.path_of(b"");
                    this.applier(engine).apply(Reached::Open(&fd), &job.entry.attributes, 0, &path)?;
                }
                Err(error) => {
                    let message = format!("attributes of the directory: {error}");
                    engine.monitor.issue(IssueKind::AttributeNotRestored, job.path_of(b""), message);
                }
            }
        }
        if job.parent.is_some() {
            this.counts.directories.fetch_add(1, Relaxed);
            engine.monitor.done(0);
        }
        Ok(())
    }

    fn own(engine: &Engine<'_, Self>, work: Own) -> Result<(), CaptureError> {
        engine.act.own_work(engine, work)
    }
}

impl From<Errno> for WriteFailed {
    fn from(error: Errno) -> Self {
        Self::Io(error)
    }
}
