//! Reading of file trees into a vault.
//!
//! Directories are tasks of a pool of workers, taken depth first, in windows of names; a directory is complete when all
//! beneath it is, and then becomes an entry of its parent. So memory and open files depend on depth and width of the
//! windows, not on the size of the tree. Every file is opened relative to its directory without following links, and what
//! was opened, not what was listed, says what it is.

mod compose;
mod contents;
mod entry;
mod exclude;
mod extents;
mod file;
mod job;
mod links;
mod names;
mod roots;
mod scan;
mod settle;
mod walk;

pub use compose::Composer;
pub use exclude::Excludes;
pub use roots::BackupRoot;
pub(crate) use roots::place;

pub(crate) use entry::{attributes_of, entry_of_handle};
pub(crate) use extents::{Extent, Extents};

use crate::{cache, error::CaptureError, monitor::Monitor, report::Issues, tree::Timestamp};
use anshin_vault::{ChunkId, Sink, chunker::Chunker};
use std::{path::PathBuf, sync::Arc};

/// How to back up.
#[derive(Clone)]
pub struct BackupOptions {
    /// Where files are cut; of the key domain that the sink writes to.
    pub chunker: Arc<Chunker>,
    /// Do not enter other file systems than those of the roots.
    pub one_file_system: bool,
    /// What to leave out.
    pub excludes: Excludes,
    /// Leave out what lies beside a valid `CACHEDIR.TAG`.
    pub exclude_caches: bool,
    /// Leave out files with the flag `d` of `chattr`.
    pub honour_nodump: bool,
    /// Capture times of last access. They change by being read, so snapshots of unchanged trees differ then.
    pub access_times: bool,
    /// How many files are worked on at once.
    pub workers: usize,
    /// Directories that may be open at once.
    pub open_directories: usize,
    /// The files cache, if there is to be one.
    pub cache: Option<CacheOptions>,
    /// The number under which the cache knows the device, for a source on one file system whose device has another number each
    /// time: a frozen point of a volume. None: the device's own.
    pub cache_device: Option<u64>,
    /// The time on this machine's clock, as files get it.
    pub now: Timestamp,
}

/// Where the files cache is and when it is believed.
#[derive(Clone, Debug)]
pub struct CacheOptions {
    /// The file. Replaced when the backup has succeeded.
    pub path: PathBuf,
    /// What the cache is for (vault, key domain, plan): a cache with another tag is not used.
    pub tag: [u8; 32],
    /// A file that was changed less than this many seconds before the backup began may change again without its times
    /// showing it, so it is read again next time. 2 covers every file system that people use.
    pub granularity_s: i64,
}

impl BackupOptions {
    /// The usual: everything, on all file systems, without cache; the clock is read.
    pub fn new(chunker: Arc<Chunker>) -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        Self {
            chunker,
            one_file_system: false,
            excludes: Excludes::default(),
            exclude_caches: false,
            honour_nodump: false,
            access_times: false,
            workers: std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 16),
            open_directories: 256,
            cache: None,
            cache_device: None,
            now: Timestamp { seconds: now.tv_sec, nanoseconds: now.tv_nsec as u32 },
        }
    }
}

/// What a backup did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BackupReport {
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Links, pipes, sockets, devices.
    pub others: u64,
    /// Files whose contents were not read, because the cache knew them.
    pub unchanged: u64,
    /// Bytes of file contents in the snapshot, without holes.
    pub bytes: u64,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// What did not go as it should.
    pub issues: Issues,
}

/// A completed backup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backup {
    /// Stands for the whole tree; what the snapshot's record names.
    pub root: ChunkId,
    /// What was done.
    pub report: BackupReport,
}

/// Backs up `roots`. Everything beneath [`Backup::root`] has been put into `sink` when this returns.
///
/// # Errors
/// If the vault does not take something, a root cannot be read, or it was cancelled. What concerns single files is in the
/// report.
pub fn backup(
    sink: &dyn Sink,
    roots: &[BackupRoot],
    options: &BackupOptions,
    monitor: &Monitor,
) -> Result<Backup, CaptureError> {
    let plan = roots::Plan::new(roots)?;
    let old =
        options.cache.as_ref().and_then(|cache| cache::FilesCache::open(&cache.path, &cache.tag, monitor));
    let new =
        options.cache.as_ref().and_then(|cache| cache::CacheWriter::create(&cache.path, &cache.tag, monitor));
    let walk = walk::Walk::new(sink, options, monitor, &plan, old, new, 0);
    let root = walk.run(&plan)?;
    Ok(Backup { root, report: walk.finish(options) })
}
