//! Comparing what is on disk with a snapshot, by reading both.

use super::{
    Owners, RestoreOptions, Selection,
    engine::{Act, Engine, base, damage},
    job::Job,
    target::{NODES, OPEN_DIRECTORIES, open_existing},
    write::read_full,
};
use crate::{
    backup::{Extent, Extents, entry_of_handle},
    error::CaptureError,
    monitor::Monitor,
    report::{IssueKind, Issues},
    sys::{Handle, HandleBudget, Stat, StatKind, XattrTarget, get_flags, list_xattrs, open_path, stat_fd},
    tree::{
        ChunkId, Content, ContentReader, DirectoryCursor, Entry, EntryKind, LinkGroup, Nodes, Segment,
        read_xattrs,
    },
};
use anshin_vault::Source;
use rustix::{
    fd::OwnedFd,
    fs::{Advice, Mode, OFlags, fadvise, openat, syncfs},
    io::Errno,
};
use std::{
    collections::HashMap,
    ffi::CString,
    ops::ControlFlow,
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// What a comparison found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VerifyReport {
    /// Entries that were compared.
    pub entries: u64,
    /// Bytes of contents that were compared.
    pub bytes: u64,
    /// Every difference is an issue of kind [`IssueKind::Differs`].
    pub issues: Issues,
}

impl VerifyReport {
    /// True if no difference was found and nothing was left uncompared.
    pub fn is_equal(&self) -> bool {
        self.issues.is_empty()
    }
}

struct Verifier<'o> {
    options: &'o RestoreOptions<'o>,
    entries: AtomicU64,
    bytes: AtomicU64,
    links: Mutex<HashMap<LinkGroup, (u64, u64)>>,
}

/// Compares `target` with what `selection` names of the tree `root`: that everything is there, with equal attributes and
/// contents. Contents are read from the disk again, not from memory. What else is in the target does not matter.
///
/// # Errors
/// If the vault or the target cannot be read at all, or it was cancelled.
pub fn verify(
    source: &dyn Source,
    root: &ChunkId,
    selection: &Selection,
    target: &Path,
    options: &RestoreOptions<'_>,
    monitor: &Monitor,
) -> Result<VerifyReport, CaptureError> {
    let nodes = Nodes::new(source, NODES);
    let (entry, single) = base(&nodes, root, selection)?;
    let cursor = match &entry.kind {
        EntryKind::Directory(listing) => DirectoryCursor::new(listing),
        _ => DirectoryCursor::default(),
    };
    let io = |error| CaptureError::io("open", target.as_os_str().as_bytes(), error);
    let fd = open_path(target).map_err(io)?;
    syncfs(&fd).map_err(io)?; // so that what was written can be dropped from memory
    let top = Job::new(None, Entry { name: Box::default(), ..entry }, selection.is_whole(), cursor);
    top.state().handle = Some(Handle::top(fd, &HandleBudget::new(OPEN_DIRECTORIES)).map_err(io)?);
    let act =
        Verifier { options, entries: AtomicU64::new(0), bytes: AtomicU64::new(0), links: Mutex::default() };
    let engine = Engine::new(act, &nodes, selection, monitor);
    engine.run(options.workers(), top, single)?;
    Ok(VerifyReport {
        entries: engine.act.entries.load(Relaxed),
        bytes: engine.act.bytes.load(Relaxed),
        issues: monitor.take_issues(),
    })
}

/// Why an entry is not equal, or could not be compared.
enum Unequal {
    Differs(String),
    Fatal(CaptureError),
}

impl From<Errno> for Unequal {
    fn from(error: Errno) -> Self {
        Self::Differs(match error {
            Errno::NOENT => "it is not there".into(),
            error => format!("it cannot be read: {error}"),
        })
    }
}

impl From<crate::tree::ReadError> for Unequal {
    fn from(error: crate::tree::ReadError) -> Self {
        match damage(error) {
            Ok(message) => Self::Differs(message),
            Err(error) => Self::Fatal(error),
        }
    }
}

fn differs<T>(what: impl Into<String>) -> Result<T, Unequal> {
    Err(Unequal::Differs(what.into()))
}

impl Verifier<'_> {
    fn compare(&self, engine: &Engine<'_, Self>, job: &Job, entry: &Entry) -> Result<(), Unequal> {
        let name = CString::new(&*entry.name).expect("invariant: decoded names have no zero byte");
        let directory = job.handle().ok_or(Errno::NOENT)?.fd()?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = openat(&*directory, &name, flags, Mode::empty())?;
        let stat = stat_fd(&handle)?;
        self.same_links(entry, &stat)?;
        match &entry.kind {
            EntryKind::File(content) | EntryKind::Image(content) => {
                if stat.kind != StatKind::File {
                    return differs("it is not a regular file");
                }
                let fd = open_existing(&directory, &name, OFlags::RDONLY)?;
                self.attributes(engine, entry, &stat, &XattrTarget::open(&fd), Some(&fd))?;
                self.contents(engine, content, &fd, &stat)
            }
            kind => {
                if entry_of_handle(&handle, &stat)?.as_ref() != Some(kind) {
                    return differs("it is of another kind, or leads elsewhere");
                }
                self.attributes(engine, entry, &stat, &XattrTarget::handle(&handle), None)
            }
        }
    }

    fn same_links(&self, entry: &Entry, stat: &Stat) -> Result<(), Unequal> {
        let Some(group) = entry.link else { return Ok(()) };
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let first = *links.entry(group).or_insert((stat.device, stat.inode));
        if first == (stat.device, stat.inode) {
            Ok(())
        } else {
            differs("it is not the same file as its other names")
        }
    }

    fn attributes(
        &self,
        engine: &Engine<'_, Self>,
        entry: &Entry,
        stat: &Stat,
        target: &XattrTarget<'_>,
        open: Option<&OwnedFd>,
    ) -> Result<(), Unequal> {
        let attributes = &entry.attributes;
        let owner = (attributes.owner.uid, attributes.owner.gid);
        if stat.kind != StatKind::Symlink && stat.mode != attributes.mode {
            return differs(format!("mode {:o} instead of {:o}", stat.mode, attributes.mode));
        }
        if self.options.owners == Owners::Numbers && (stat.uid, stat.gid) != owner {
            return differs(format!("owner {}:{} instead of {}:{}", stat.uid, stat.gid, owner.0, owner.1));
        }
        if stat.mtime != attributes.mtime {
            return differs(format!("time of change {} instead of {}", stat.mtime, attributes.mtime));
        }
        let wanted = read_xattrs(engine.nodes, &attributes.xattrs)?;
        let (mut now, _) = list_xattrs(target)?;
        now.sort_by(|a, b| a.name.cmp(&b.name));
        now.retain(|xattr| {
            *xattr.name != *b"security.selinux" || wanted.iter().any(|w| w.name == xattr.name)
        });
        if now != wanted {
            return differs("extended attributes");
        }
        if let Some(fd) = open {
            let (flags, project) = get_flags(fd)?;
            if (flags, project) != (attributes.flags, attributes.project) {
                return differs(format!("flags {flags:#x} instead of {:#x}", attributes.flags));
            }
        }
        Ok(())
    }

    fn contents(
        &self,
        engine: &Engine<'_, Self>,
        content: &Content,
        fd: &OwnedFd,
        stat: &Stat,
    ) -> Result<(), Unequal> {
        if stat.size != content.size() {
            return differs(format!("size {} instead of {}", stat.size, content.size()));
        }
        let _ = fadvise(fd, 0, None, Advice::DontNeed); // advice
        if let Content::Inline(bytes) = content {
            let mut now = vec![0; bytes.len()];
            self.bytes.fetch_add(bytes.len() as u64, Relaxed);
            let same = read_full(fd, &mut now, 0)? == now.len() && now == **bytes;
            return if same { Ok(()) } else { differs("contents") };
        }
        let mut buffer = Vec::new();
        let walked = ContentReader::new(engine.nodes).segments(content, |offset, segment| {
            if engine.monitor.is_cancelled() {
                return ControlFlow::Break(Unequal::Fatal(CaptureError::Cancelled));
            }
            match self.piece(engine, fd, offset, segment, &mut buffer) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => ControlFlow::Break(error),
            }
        })?;
        match walked {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(error) => Err(error),
        }
    }

    fn piece(
        &self,
        engine: &Engine<'_, Self>,
        fd: &OwnedFd,
        offset: u64,
        segment: Segment,
        buffer: &mut Vec<u8>,
    ) -> Result<(), Unequal> {
        let (id, length) = match segment {
            Segment::Hole { length } => return zeroes(fd, offset, length, buffer),
            Segment::Data { id, length } => (id, length),
        };
        if length > anshin_vault::PLAIN_SIZE_MAX as u64 {
            return differs("a piece in the snapshot is larger than any object");
        }
        buffer.resize(length as usize, 0);
        let whole = read_full(fd, buffer, offset)? == buffer.len();
        self.bytes.fetch_add(length, Relaxed);
        let same = whole
            && match self.options.naming {
                Some(naming) => naming(buffer) == id,
                None => engine.nodes.data(&id, length)? == *buffer,
            };
        if same { Ok(()) } else { differs(format!("contents between {offset} and {}", offset + length)) }
    }
}

/// A hole need not be one in the target, but must read as zero.
fn zeroes(fd: &OwnedFd, offset: u64, length: u64, buffer: &mut Vec<u8>) -> Result<(), Unequal> {
    for extent in Extents::within(fd, offset, offset + length) {
        let Extent::Data { mut offset, length } = extent? else { continue };
        let end = offset + length;
        while offset < end {
            buffer.resize((end - offset).min(1 << 20) as usize, 0);
            let count = read_full(fd, buffer, offset)?;
            if count == 0 || buffer[..count].iter().any(|byte| *byte != 0) {
                return differs(format!("contents behind {offset}, where there should be a hole"));
            }
            offset += count as u64;
        }
    }
    Ok(())
}

impl Act for Verifier<'_> {
    type Own = std::convert::Infallible;

    fn entry(engine: &Engine<'_, Self>, job: &Arc<Job>, entry: Entry) -> Result<(), CaptureError> {
        let this = &engine.act;
        if !matches!(entry.content(), Some(Content::Missing { .. })) {
            match this.compare(engine, job, &entry) {
                Ok(()) => {}
                Err(Unequal::Fatal(error)) => return Err(error),
                Err(Unequal::Differs(message)) => {
                    engine.monitor.issue(IssueKind::Differs, job.path_of(&entry.name), message);
                }
            }
            this.entries.fetch_add(1, Relaxed);
        }
        engine.monitor.done(entry.content().map_or(0, Content::data));
        engine.settle(job.clone())
    }

    fn enter(engine: &Engine<'_, Self>, job: &Arc<Job>) -> Result<bool, CaptureError> {
        let Some(parent) = job.parent.as_ref().and_then(|parent| parent.handle()) else { return Ok(false) };
        let name = CString::new(&*job.entry.name).expect("invariant: decoded names have no zero byte");
        match parent.open_child(name) {
            Ok(handle) => {
                job.state().handle = Some(handle);
                Ok(true)
            }
            Err(error) => {
                if job.selected {
                    let message = format!("the directory cannot be opened: {error}");
                    engine.monitor.issue(IssueKind::Differs, job.path_of(b""), message);
                }
                // What is only on the way may be missing with nothing beneath that is meant.
                Ok(!job.selected)
            }
        }
    }

    fn leave(engine: &Engine<'_, Self>, job: &Arc<Job>) -> Result<(), CaptureError> {
        let Some(handle) = job.handle().filter(|_| job.selected && job.parent.is_some()) else {
            return Ok(());
        };
        let this = &engine.act;
        let compare = || {
            let fd = handle.fd()?;
            this.attributes(engine, &job.entry, handle.stat(), &XattrTarget::open(&*fd), Some(&fd))
        };
        match compare() {
            Ok(()) => {}
            Err(Unequal::Fatal(error)) => return Err(error),
            Err(Unequal::Differs(message)) => {
                engine.monitor.issue(IssueKind::Differs, job.path_of(b""), message)
            }
        }
        this.entries.fetch_add(1, Relaxed);
        engine.monitor.done(0);
        Ok(())
    }

    fn own(_: &Engine<'_, Self>, work: Self::Own) -> Result<(), CaptureError> {
        match work {}
    }
}
