//! What a restore would do, without doing it.

use super::{
    Conflict, RestoreOptions, Selection,
    engine::{Act, Engine, base},
    job::Job,
    target::{NODES, OPEN_DIRECTORIES},
    write::read_full,
};
use crate::{
    error::CaptureError,
    monitor::Monitor,
    sys::{Handle, HandleBudget, Stat, StatKind, open_path, stat_at, stat_fd},
    tree::{ChunkId, Content, ContentReader, DirectoryCursor, Entry, EntryKind, Nodes, Segment},
};
use anshin_vault::Source;
use rustix::{fd::OwnedFd, fs::OFlags, io::Errno};
use std::{
    collections::HashSet,
    ffi::CString,
    ops::ControlFlow,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

/// Examples that are kept of what is in the way.
const EXAMPLES: usize = 20;

/// What a restore would do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RestorePlan {
    /// Regular files that would be made or brought to what the snapshot has.
    pub files: u64,
    /// Directories that are meant.
    pub directories: u64,
    /// Links, pipes, sockets, devices, images.
    pub others: u64,
    /// Entries that would be left as they are.
    pub kept: u64,
    /// Bytes that would be fetched and written. Exact where nothing is there, sizes and times are equal, or ids of data can
    /// be computed; else what is there is taken to differ.
    pub bytes_to_write: u64,
    /// Bytes of contents that are there already.
    pub bytes_equal: u64,
    /// Files of which the contents were never captured.
    pub never_captured: u64,
    /// How many entries are in the way: there is something of that name already.
    pub in_the_way_count: u64,
    /// The first of them.
    pub in_the_way: Vec<Vec<u8>>,
}

struct Planner<'o> {
    options: &'o RestoreOptions<'o>,
    plan: Mutex<RestorePlan>,
    linked: Mutex<HashSet<crate::tree::LinkGroup>>,
}

/// Says what [`restore`](super::restore) would do with the same arguments. Changes nothing.
///
/// # Errors
/// If the vault or the target cannot be read, or it was cancelled.
pub fn plan(
    source: &dyn Source,
    root: &ChunkId,
    selection: &Selection,
    target: &Path,
    options: &RestoreOptions<'_>,
    monitor: &Monitor,
) -> Result<RestorePlan, CaptureError> {
    let nodes = Nodes::new(source, NODES);
    let (entry, single) = base(&nodes, root, selection)?;
    let cursor = match &entry.kind {
        EntryKind::Directory(listing) => DirectoryCursor::new(listing),
        _ => DirectoryCursor::default(),
    };
    let top = Job::new(None, Entry { name: Box::default(), ..entry }, selection.is_whole(), cursor);
    match open_path(target).and_then(|fd| Handle::top(fd, &HandleBudget::new(OPEN_DIRECTORIES))) {
        Ok(handle) => top.state().handle = Some(handle),
        Err(Errno::NOENT) => {}
        Err(error) => {
            use std::os::unix::ffi::OsStrExt;
            return Err(CaptureError::io("open", target.as_os_str().as_bytes(), error));
        }
    }
    let act = Planner { options, plan: Mutex::default(), linked: Mutex::default() };
    let engine = Engine::new(act, &nodes, selection, monitor);
    engine.run(options.workers(), top, single)?;
    Ok(engine.act.plan.into_inner().unwrap_or_else(PoisonError::into_inner))
}

impl Planner<'_> {
    fn note(&self, change: impl FnOnce(&mut RestorePlan)) {
        change(&mut self.plan.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn in_the_way(&self, job: &Job, name: &[u8]) {
        self.note(|plan| {
            plan.in_the_way_count += 1;
            if plan.in_the_way.len() < EXAMPLES {
                plan.in_the_way.push(job.path_of(name));
            }
        });
    }

    /// Bytes to be written and bytes that are there.
    fn bytes(
        &self,
        engine: &Engine<'_, Self>,
        directory: Option<&OwnedFd>,
        name: &CString,
        entry: &Entry,
        there: Option<&Stat>,
    ) -> Result<(u64, u64), CaptureError> {
        let Some(content) = entry.content() else { return Ok((0, 0)) };
        let data = content.data();
        if let Some(group) = entry.link
            && !self.linked.lock().unwrap_or_else(PoisonError::into_inner).insert(group)
        {
            return Ok((0, 0));
        }
        let (Some(stat), Some(directory)) = (there.filter(|stat| stat.kind == StatKind::File), directory)
        else {
            return Ok((data, 0));
        };
        let equal = stat.size == content.size() && stat.mtime == entry.attributes.mtime;
        if equal && self.options.conflict != Conflict::Overwrite {
            return Ok((0, data));
        }
        let (Some(naming), Ok(fd)) =
            (self.options.naming, super::target::open_existing(directory, name, OFlags::RDONLY))
        else {
            return Ok((data, 0));
        };
        if !stat_fd(&fd).is_ok_and(|opened| opened.kind == StatKind::File) {
            return Ok((data, 0));
        }
        let mut there = 0;
        if let Content::Inline(bytes) = content {
            let mut now = vec![0; bytes.len()];
            let same = read_full(&fd, &mut now, 0).is_ok_and(|count| now[..count] == **bytes);
            return Ok(if same { (0, data) } else { (data, 0) });
        }
        let _: ControlFlow<()> = ContentReader::new(engine.nodes).segments(content, |offset, segment| {
            if let Segment::Data { id, length } = segment {
                let mut now = vec![0; length.min(anshin_vault::PLAIN_SIZE_MAX as u64) as usize];
                let whole = read_full(&fd, &mut now, offset).is_ok_and(|count| count as u64 == length);
                there += if whole && naming(&now) == id { length } else { 0 };
            }
            ControlFlow::Continue(())
        })?;
        Ok((data - there, there))
    }
}

impl Act for Planner<'_> {
    type Own = std::convert::Infallible;

    fn entry(engine: &Engine<'_, Self>, job: &Arc<Job>, entry: Entry) -> Result<(), CaptureError> {
        let this = &engine.act;
        let name = CString::new(&*entry.name).expect("invariant: decoded names have no zero byte");
        let directory = job.handle().and_then(|handle| handle.fd().ok());
        let there = directory.as_ref().and_then(|fd| stat_at(&**fd, &name).ok());
        let mut kept = false;
        if let Some(stat) = &there {
            this.in_the_way(job, &entry.name);
            kept = match this.options.conflict {
                Conflict::Refuse | Conflict::Skip => true,
                Conflict::KeepNewer => stat.mtime > entry.attributes.mtime,
                Conflict::IfDifferent | Conflict::Overwrite => false,
            };
        }
        let missing = matches!(entry.content(), Some(Content::Missing { .. }));
        let (write, equal) = match kept || missing {
            true => (0, 0),
            false => this.bytes(engine, directory.as_deref(), &name, &entry, there.as_ref())?,
        };
        this.note(|plan| {
            match (&entry.kind, kept, missing) {
                (_, true, _) => plan.kept += 1,
                (_, _, true) => plan.never_captured += 1,
                (EntryKind::File(_), ..) => plan.files += 1,
                _ => plan.others += 1,
            }
            plan.bytes_to_write += write;
            plan.bytes_equal += equal;
        });
        engine.monitor.done(entry.content().map_or(0, Content::data));
        engine.settle(job.clone())
    }

    fn enter(engine: &Engine<'_, Self>, job: &Arc<Job>) -> Result<bool, CaptureError> {
        let this = &engine.act;
        if job.selected {
            this.note(|plan| plan.directories += 1);
        }
        let Some(parent) = job.parent.as_ref().and_then(|parent| parent.handle()) else { return Ok(true) };
        let name = CString::new(&*job.entry.name).expect("invariant: decoded names have no zero byte");
        match parent.open_child(name) {
            Ok(handle) => job.state().handle = Some(handle),
            Err(Errno::NOENT) => {}
            Err(_) if job.selected => this.in_the_way(job, b""),
            Err(_) => {}
        }
        Ok(true)
    }

    fn leave(_: &Engine<'_, Self>, _: &Arc<Job>) -> Result<(), CaptureError> {
        Ok(())
    }

    fn own(_: &Engine<'_, Self>, work: Self::Own) -> Result<(), CaptureError> {
        match work {}
    }
}
