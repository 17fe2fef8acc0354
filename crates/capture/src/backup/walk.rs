//! The walk over the trees: which directory is read when, and how entries come together.

use super::{
    BackupOptions, BackupReport,
    contents::FileJob,
    entry,
    job::{DirectoryJob, Slot},
    links::LinkTable,
    names::Names,
    roots::{Plan, PlannedRoot},
};
use crate::{
    cache::{CacheWriter, FilesCache},
    error::CaptureError,
    monitor::Monitor,
    pool::Pool,
    report::IssueKind,
    sys::{Flags, Handle, HandleBudget, OwnerNames, Stat, StatKind, XattrTarget, open_path, stat_at},
    tree::{Attributes, ChunkId, Content, Entry, EntryKind, Listing, Timestamp, Xattrs},
};
use anshin_base::Problem;
use anshin_vault::{Sink, VaultError};
use rustix::{fd::OwnedFd, fs::syncfs, io::Errno};
use std::{
    collections::{HashMap, HashSet},
    ffi::CString,
    os::unix::ffi::OsStrExt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

/// Something to do.
pub(crate) enum Task {
    /// Look at the next names of a directory.
    Scan(Arc<DirectoryJob>),
    /// Open the directory in this slot.
    Enter(Arc<DirectoryJob>, usize),
    /// Capture the file in this slot.
    Visit(Arc<DirectoryJob>, usize),
    /// Put a piece of a large file into the vault.
    Piece(Arc<FileJob>, usize, Vec<u8>),
}

/// Counts for the report.
#[derive(Default)]
pub(crate) struct Counts {
    pub files: AtomicU64,
    pub directories: AtomicU64,
    pub others: AtomicU64,
    pub unchanged: AtomicU64,
    pub bytes: AtomicU64,
}

pub(crate) struct Walk<'w> {
    pub sink: &'w dyn Sink,
    pub options: &'w BackupOptions,
    pub monitor: &'w Monitor,
    pub pool: Pool<Task>,
    pub owners: OwnerNames,
    pub links: LinkTable,
    pub counts: Counts,
    /// Bytes of pieces that wait to be put.
    pub waiting: AtomicU64,
    pub(super) inner: &'w [Vec<u8>],
    /// Those of them that were found.
    pub(super) reached: Mutex<HashSet<Vec<u8>>>,
    /// What the numbers of files on the first root's file system are told apart by from those of others.
    first_mount: u64,
    /// Files of which an attribute could not be read: device and number.
    unread: Mutex<HashSet<(u64, u64)>>,
    pub(super) prefixes: Vec<Vec<u8>>,
    pub(super) budget: Arc<HandleBudget>,
    pub(super) old_cache: Option<FilesCache>,
    pub(super) new_cache: Option<CacheWriter>,
    /// What was changed at or after this point is not cached.
    pub(super) horizon: Timestamp,
    /// A file system could not write what it holds in memory: what was read may be gone after a loss of power, times unchanged.
    unflushed: AtomicBool,
    pub(super) captured: Mutex<Vec<Option<Entry>>>,
    pub(super) failed: Mutex<Option<CaptureError>>,
}

impl<'w> Walk<'w> {
    pub fn new(
        sink: &'w dyn Sink,
        options: &'w BackupOptions,
        monitor: &'w Monitor,
        plan: &'w Plan,
        old_cache: Option<FilesCache>,
        new_cache: Option<CacheWriter>,
        first_mount: u64,
    ) -> Self {
        let granularity = options.cache.as_ref().map_or(0, |cache| cache.granularity_s);
        Self {
            sink,
            options,
            monitor,
            pool: Pool::new(),
            owners: OwnerNames::default(),
            links: LinkTable::default(),
            counts: Counts::default(),
            waiting: AtomicU64::new(0),
            inner: &plan.inner,
            reached: Mutex::default(),
            first_mount,
            unread: Mutex::default(),
            prefixes: plan.roots.iter().map(PlannedRoot::path).collect(),
            budget: HandleBudget::new(options.open_directories),
            old_cache,
            new_cache,
            horizon: options.now.plus_seconds(-granularity),
            unflushed: AtomicBool::new(false),
            captured: Mutex::new(plan.roots.iter().map(|_| None).collect()),
            failed: Mutex::new(None),
        }
    }

    pub fn run(&self, plan: &Plan) -> Result<ChunkId, CaptureError> {
        plan.assemble(self.sink, self.entries(plan)?, &self.owners)
    }

    /// Captures the roots, without the directories above them.
    pub fn entries(&self, plan: &Plan) -> Result<Vec<Entry>, CaptureError> {
        let mut first = Vec::new();
        let mut mounts = HashMap::new();
        for (at, root) in plan.roots.iter().enumerate() {
            first.extend(self.begin(at, root, &mut mounts)?);
        }
        self.pool.run(self.options.workers, first, |task| self.work(task));
        if let Some(error) = self.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(error);
        }
        if self.monitor.is_cancelled() {
            return Err(CaptureError::Cancelled);
        }
        let reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lost) = self.inner.iter().find(|inner| !reached.contains(*inner)) {
            let message = format!(
                "`/{}` is not there, or lies in something that is excluded or on another file system",
                lost.escape_ascii()
            );
            return Err(CaptureError::problem(Problem::new("backup-root", message).hint(
                "what is named must be captured: change the excludes, or name the directory where the other file system is mounted",
            )));
        }
        let captured = std::mem::take(&mut *self.captured.lock().unwrap_or_else(PoisonError::into_inner));
        let mut entries = Vec::with_capacity(captured.len());
        for (entry, root) in captured.into_iter().zip(&plan.roots) {
            entries.push(entry.ok_or_else(|| {
                CaptureError::io("capture", root.source.as_os_str().as_bytes(), Errno::NOENT)
            })?);
        }
        Ok(entries)
    }

    /// Completes the cache and gives the report.
    pub fn finish(self, options: &BackupOptions) -> BackupReport {
        drop(self.old_cache);
        if let (Some(cache), Some(_)) = (self.new_cache, &options.cache) {
            cache.finish(self.monitor);
        }
        let progress = self.monitor.progress();
        BackupReport {
            files: self.counts.files.into_inner(),
            directories: self.counts.directories.into_inner(),
            others: self.counts.others.into_inner(),
            unchanged: self.counts.unchanged.into_inner(),
            bytes: self.counts.bytes.into_inner(),
            bytes_read: progress.bytes_moved,
            issues: self.monitor.take_issues(),
        }
    }

    /// Opens a root. A root that is no directory is captured as the only name looked at in its parent.
    fn begin(
        &self,
        at: usize,
        root: &PlannedRoot,
        mounts: &mut HashMap<u64, u64>,
    ) -> Result<Option<Task>, CaptureError> {
        let shown = root.source.as_os_str().as_bytes();
        // The same in the next snapshot, whatever its number.
        let mut mount_of = |handle: &Handle| {
            let new = if at == 0 { self.first_mount } else { mount_tag(&self.prefixes[at]) };
            *mounts.entry(handle.stat().device).or_insert(new)
        };
        let open = |path| open_path(path).map_err(|error| CaptureError::io("open", shown, error));
        match open_path(&root.source) {
            Ok(fd) => {
                let handle = Handle::top(fd, &self.budget).map_err(|e| CaptureError::io("read", shown, e))?;
                self.flush(&handle);
                let mount = mount_of(&handle);
                let job = self.directory(None, at, handle, Box::default(), mount, None)?;
                Ok(Some(Task::Scan(Arc::new(job))))
            }
            Err(Errno::NOTDIR) => {
                let (Some(parent), Some(name)) = (root.source.parent(), root.source.file_name()) else {
                    return Err(CaptureError::io("open", shown, Errno::NOTDIR));
                };
                let handle = Handle::top(open(parent)?, &self.budget)
                    .map_err(|e| CaptureError::io("read", shown, e))?;
                self.flush(&handle);
                let mount = mount_of(&handle);
                let mut job = self.directory(None, at, handle, Box::default(), mount, None)?;
                job.single = true;
                let job = Arc::new(job);
                let name = CString::new(name.as_bytes())
                    .map_err(|_| CaptureError::io("open", shown, Errno::INVAL))?;
                {
                    let mut state = job.state();
                    state.names = Some(Names::default());
                    state.window = vec![Slot { name: name.as_bytes().into(), ..Slot::default() }];
                    state.pending = 1;
                }
                Ok(Some(Task::Visit(job, 0)))
            }
            Err(error) => Err(CaptureError::io("open", shown, error)),
        }
    }

    pub fn fail(&self, error: impl Into<CaptureError>) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error.into());
        self.pool.close();
    }

    fn work(&self, task: Task) {
        if self.monitor.is_cancelled() {
            return self.pool.close();
        }
        let result = match task {
            Task::Scan(job) => self.scan(&job),
            Task::Enter(job, slot) => self.enter(&job, slot),
            Task::Visit(job, slot) => self.visit(&job, slot),
            Task::Piece(file, at, data) => self.piece(&file, at, data),
        };
        if let Err(error) = result {
            self.fail(error);
        }
    }

    /// Path in the snapshot of an entry, without leading slash.
    pub fn path(&self, job: &DirectoryJob, name: &[u8]) -> Vec<u8> {
        joined(&self.prefixes[job.root], job.handle.path_of(name))
    }

    /// A job for an open directory: its attributes are read, or taken from the cache if nothing changed.
    fn directory(
        &self,
        parent: Option<(Arc<DirectoryJob>, usize)>,
        root: usize,
        handle: Arc<Handle>,
        name: Box<[u8]>,
        mount: u64,
        known: Option<Attributes>,
    ) -> Result<DirectoryJob, CaptureError> {
        let stat = *handle.stat();
        let mut attributes = entry::attributes_of(&stat, &self.owners, self.options.access_times);
        match known.filter(|known| known.ctime == Some(stat.ctime) && known.mtime == stat.mtime) {
            Some(known) => {
                attributes = Attributes {
                    flags: known.flags,
                    project: known.project,
                    xattrs: known.xattrs,
                    ..attributes
                };
            }
            None => {
                let fd =
                    handle.fd().map_err(|error| CaptureError::io("open", &handle.path_of(&name), error))?;
                let path = || joined(&self.prefixes[root], handle.path_of(b""));
                attributes.xattrs = self.xattrs_of(&stat, &XattrTarget::open(&*fd), &path)?;
                (attributes.flags, attributes.project) = self.flags_of(&stat, &fd, &path);
            }
        }
        let mut hasher = blake3::Hasher::new();
        match &parent {
            Some((parent, _)) => hasher.update(&parent.cache_key).update(&name),
            None => hasher.update(&self.prefixes[root]),
        };
        let mut key = [0; 16];
        key.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Ok(DirectoryJob::new(parent, root, handle, name, attributes, mount, key))
    }

    /// Opens the directory in a slot and begins with it.
    fn enter(&self, parent: &Arc<DirectoryJob>, slot: usize) -> Result<(), CaptureError> {
        let (name, known) = {
            let mut state = parent.state();
            let slot = &mut state.window[slot];
            (slot.name.clone(), slot.known.take())
        };
        let path = self.path(parent, &name);
        let c_name = CString::new(&*name).expect("invariant: names come from the kernel");
        let handle = match parent.handle.open_child(c_name) {
            Ok(handle) => handle,
            Err(Errno::NOENT) => return self.fill(parent, slot, Slot::default()),
            // No directory any more: it is what it is now.
            Err(Errno::NOTDIR | Errno::LOOP) => return self.visit(parent, slot),
            Err(error) => return self.unreadable_directory(parent, slot, &name, &error.to_string()),
        };
        let other = handle.stat().device != parent.handle.stat().device;
        let mount = if other { mount_tag(&path) } else { parent.mount };
        let root = parent.root;
        let job = self.directory(Some((parent.clone(), slot)), root, handle, name.clone(), mount, known)?;
        if self.options.honour_nodump && job.attributes.flags & Flags::NODUMP != 0 {
            return self.fill(parent, slot, Slot::default());
        }
        if other && self.options.one_file_system && !self.inner.contains(&path) {
            let kind = EntryKind::Directory(Listing::OtherFileSystem);
            let entry = Entry { name: name.clone(), kind, attributes: job.attributes.clone(), link: None };
            self.counts.directories.fetch_add(1, Relaxed);
            return self.fill(parent, slot, Slot { name, entry: Some(entry), ..Slot::default() });
        }
        if other {
            self.flush(&job.handle);
        }
        self.scan(&Arc::new(job))
    }

    fn unreadable_directory(
        &self,
        parent: &Arc<DirectoryJob>,
        slot: usize,
        name: &[u8],
        why: &str,
    ) -> Result<(), CaptureError> {
        self.monitor.issue(
            IssueKind::Unreadable,
            self.path(parent, name),
            format!("the directory cannot be read: {why}"),
        );
        let c_name = CString::new(name).expect("invariant: names come from the kernel");
        let stat = parent.handle.fd().and_then(|fd| stat_at(&*fd, &c_name));
        let entry = stat.ok().filter(|stat| stat.kind == StatKind::Directory).map(|stat| Entry {
            name: name.into(),
            kind: EntryKind::Directory(Listing::Unreadable),
            attributes: entry::attributes_of(&stat, &self.owners, self.options.access_times),
            link: None,
        });
        self.fill(parent, slot, Slot { name: name.into(), entry, ..Slot::default() })
    }

    pub fn count(&self, entry: &Entry) {
        match &entry.kind {
            EntryKind::File(content) => {
                self.counts.files.fetch_add(1, Relaxed);
                self.counts.bytes.fetch_add(content.data(), Relaxed);
            }
            EntryKind::Directory(_) => {
                self.counts.directories.fetch_add(1, Relaxed);
            }
            _ => {
                self.counts.others.fetch_add(1, Relaxed);
            }
        }
    }

    /// Has the file system under a directory write what it holds in memory. With a loss of power a file can become again what it
    /// was, and keep the time of what is lost (ext4 writes what is overwritten in place whenever it likes): the cache would
    /// take the file for what was read now, for ever.
    fn flush(&self, directory: &Arc<Handle>) {
        if self.new_cache.is_some() && !directory.fd().is_ok_and(|fd| syncfs(&*fd).is_ok()) {
            self.unflushed.store(true, Relaxed);
        }
    }

    /// The extended attributes of a file.
    pub(super) fn xattrs_of(
        &self,
        stat: &Stat,
        target: &XattrTarget<'_>,
        path: &dyn Fn() -> Vec<u8>,
    ) -> Result<Xattrs, VaultError> {
        let (xattrs, whole) = entry::xattrs_of(self.sink, target, self.monitor, path)?;
        if !whole {
            self.doubt(stat);
        }
        Ok(xattrs)
    }

    /// Flags and project of a file.
    pub(super) fn flags_of(&self, stat: &Stat, fd: &OwnedFd, path: &dyn Fn() -> Vec<u8>) -> (u32, u32) {
        entry::flags_of(fd, self.monitor, path).unwrap_or_else(|| {
            self.doubt(stat);
            (0, 0)
        })
    }

    fn doubt(&self, stat: &Stat) {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner).insert((stat.device, stat.inode));
    }

    /// Whether what was read of a file is all that there is, and on its disk: what is in doubt is read again next time.
    pub(super) fn is_sure(&self, stat: &Stat) -> bool {
        let quiet = stat.mtime < self.horizon && stat.ctime < self.horizon;
        let unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
        quiet && !self.unflushed.load(Relaxed) && !unread.contains(&(stat.device, stat.inode))
    }

    /// True if the entry may be taken from the cache next time.
    pub fn cacheable(&self, stat: &Stat, entry: &Entry, closure: &[ChunkId]) -> bool {
        let whole = match entry.content() {
            Some(Content::Missing { .. }) => false,
            Some(Content::Stored { .. }) => !closure.is_empty(),
            _ => true,
        };
        whole
            && self.is_sure(stat)
            && !self.options.access_times
            && !matches!(entry.attributes.xattrs, Xattrs::Stored(_))
    }
}

fn joined(prefix: &[u8], within: Vec<u8>) -> Vec<u8> {
    match (prefix.is_empty(), within.is_empty()) {
        (true, _) => within,
        (_, true) => prefix.to_vec(),
        _ => [prefix, &within].join(&b'/'),
    }
}

/// Names a file system within a snapshot by where it is mounted: the same in the next snapshot, whatever its number.
pub(super) fn mount_tag(path: &[u8]) -> u64 {
    let hash = blake3::hash(path);
    let mut tag = [0; 8];
    tag.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(tag).max(1)
}
