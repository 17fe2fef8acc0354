//! Going through a tree of a snapshot with several workers, directory by directory, from the bottom up.

use super::{
    Selection,
    job::{Job, WINDOW},
};
use crate::{
    error::CaptureError,
    monitor::Monitor,
    pool::Pool,
    report::IssueKind,
    tree::{
        ChunkId, DirectoryCursor, DirectoryReader, Entry, EntryKind, Listing, Nodes, ReadError, read_root,
    },
};
use anshin_base::Problem;
use anshin_vault::VaultError;
use std::sync::{Arc, Mutex, PoisonError};

/// What is done with the entries.
pub(crate) trait Act: Sync + Sized {
    /// Work that an entry leads to.
    type Own: Send;

    /// An entry that is meant and no directory. Whoever is done with it calls [`Engine::settle`].
    fn entry(engine: &Engine<'_, Self>, job: &Arc<Job>, entry: Entry) -> Result<(), CaptureError>;
    /// A directory before its entries. False to leave them out.
    fn enter(engine: &Engine<'_, Self>, job: &Arc<Job>) -> Result<bool, CaptureError>;
    /// A directory after everything beneath it.
    fn leave(engine: &Engine<'_, Self>, job: &Arc<Job>) -> Result<(), CaptureError>;
    /// Own work.
    fn own(engine: &Engine<'_, Self>, work: Self::Own) -> Result<(), CaptureError>;
}

/// Something to do.
pub(crate) enum Task<O> {
    Scan(Arc<Job>),
    Entry(Arc<Job>, Box<Entry>),
    Own(O),
}

pub(crate) struct Engine<'e, A: Act> {
    pub act: A,
    pub nodes: &'e Nodes<'e>,
    pub selection: &'e Selection,
    pub monitor: &'e Monitor,
    pub pool: Pool<Task<A::Own>>,
    failed: Mutex<Option<CaptureError>>,
}

/// Finds what a selection names. A file comes as a directory that holds nothing else.
pub(crate) fn base(
    nodes: &Nodes<'_>,
    root: &ChunkId,
    selection: &Selection,
) -> Result<(Entry, Option<Entry>), CaptureError> {
    let mut entry = read_root(nodes, root)?;
    let mut above = None;
    for (at, name) in selection.base.iter().enumerate() {
        let found = match &entry.kind {
            EntryKind::Directory(listing) => DirectoryReader::find(nodes, listing, name)?,
            _ => None,
        };
        let Some(found) = found else {
            let path = selection.base[..=at].join(&b'/');
            let message = format!("there is no `{}` in the snapshot", path.escape_ascii());
            return Err(CaptureError::problem(
                Problem::new("not-in-snapshot", message).hint("list it with `anshin snapshots show`"),
            ));
        };
        above = Some(std::mem::replace(&mut entry, found));
    }
    if entry.is_directory() {
        return Ok((entry, None));
    }
    let mut holder =
        above.unwrap_or_else(|| Entry { kind: EntryKind::Directory(Listing::Empty), ..entry.clone() });
    holder.kind = EntryKind::Directory(Listing::Empty);
    Ok((holder, Some(entry)))
}

impl<'e, A: Act> Engine<'e, A> {
    pub fn new(act: A, nodes: &'e Nodes<'e>, selection: &'e Selection, monitor: &'e Monitor) -> Self {
        Self { act, nodes, selection, monitor, pool: Pool::new(), failed: Mutex::new(None) }
    }

    /// Goes through everything beneath `top`; `single` is the only entry if a file was named.
    pub fn run(&self, workers: usize, top: Arc<Job>, single: Option<Entry>) -> Result<(), CaptureError> {
        let first = match single {
            Some(entry) => {
                top.state().pending = 1;
                top.state().ended = true;
                Task::Entry(top, Box::new(entry))
            }
            None => Task::Scan(top),
        };
        self.pool.run(workers, vec![first], |task| self.work(task));
        match self.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None if self.monitor.is_cancelled() => Err(CaptureError::Cancelled),
            None => Ok(()),
        }
    }

    fn work(&self, task: Task<A::Own>) {
        if self.monitor.is_cancelled() {
            return self.pool.close();
        }
        let result = match task {
            Task::Scan(job) => self.scan(&job),
            Task::Entry(job, entry) => self.entry(&job, *entry),
            Task::Own(work) => A::own(self, work),
        };
        if let Err(error) = result {
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            self.pool.close();
        }
    }

    fn entry(&self, job: &Arc<Job>, entry: Entry) -> Result<(), CaptureError> {
        self.monitor.tell(|| job.path_of(&entry.name));
        let EntryKind::Directory(listing) = &entry.kind else { return A::entry(self, job, entry) };
        let selected = job.selected || self.selection.matches(&job.path_of(&entry.name));
        let cursor = DirectoryCursor::new(listing);
        let below = Job::new(Some(job.clone()), entry, selected, cursor);
        if A::enter(self, &below)? {
            return self.scan(&below);
        }
        self.settle(job.clone())
    }

    /// Takes the next entries of a directory.
    fn scan(&self, job: &Arc<Job>) -> Result<(), CaptureError> {
        let mut tasks = Vec::new();
        {
            let mut state = job.state();
            while tasks.len() < WINDOW && !state.ended {
                match state.cursor.next(self.nodes) {
                    Ok(Some(entry)) => {
                        let wanted = job.selected
                            || entry.is_directory()
                            || self.selection.matches(&job.path_of(&entry.name));
                        if wanted {
                            tasks.push(Task::Entry(job.clone(), Box::new(entry)));
                        }
                    }
                    Ok(None) => state.ended = true,
                    Err(error) => {
                        let message = format!("a part of the directory cannot be read: {}", damage(error)?);
                        self.monitor.issue(IssueKind::NotRestored, job.path_of(b""), message);
                    }
                }
            }
            state.pending = tasks.len() + 1;
        }
        self.pool.push_all(tasks);
        self.settle(job.clone())
    }

    /// One thing less is pending in `job`; what that completes is left, from the bottom up.
    pub fn settle(&self, mut job: Arc<Job>) -> Result<(), CaptureError> {
        loop {
            let ended = {
                let mut state = job.state();
                state.pending -= 1;
                if state.pending > 0 {
                    return Ok(());
                }
                state.ended
            };
            if !ended {
                self.pool.push(Task::Scan(job));
                return Ok(());
            }
            A::leave(self, &job)?;
            match job.parent.clone() {
                Some(parent) => job = parent,
                None => return Ok(()),
            }
        }
    }
}

/// What is damaged or missing in the vault concerns some files, and is told for them; anything else is a reason to stop.
pub(crate) fn damage(error: ReadError) -> Result<String, CaptureError> {
    match error {
        ReadError::Damaged { .. } | ReadError::Vault(VaultError::Missing(_) | VaultError::Damaged { .. }) => {
            Ok(error.to_string())
        }
        ReadError::Vault(error) => Err(error.into()),
    }
}
