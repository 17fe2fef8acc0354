//! Bringing trees back: all or a part, to any place or in place.
//!
//! Directories and files are reached relative to their parent without following links, so that nobody who can write in the
//! target can lead the restore out of it. Contents come first, then owner, mode, extended attributes (a capability is lost
//! with a change of owner), times, and last the flags that lock a file. A directory gets its attributes when all beneath
//! it is done.

mod apply;
mod engine;
mod file;
mod job;
mod link;
mod plan;
mod select;
mod special;
mod target;
mod verify;
pub(crate) mod write;

pub(crate) use file::WriteFailed;
pub use plan::{RestorePlan, plan};
pub use select::Selection;
pub use verify::{VerifyReport, verify};

use crate::{error::CaptureError, monitor::Monitor, report::Issues, tree::ChunkId};
use anshin_vault::Source;
use std::path::Path;

/// What happens to a file that is already where one is to be restored. Directories are never in each other's way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Conflict {
    /// Nothing at all is restored if anything is in the way.
    #[default]
    Refuse,
    /// It stays as it is.
    Skip,
    /// Its contents are brought to those of the snapshot unless size and time of change are equal; attributes always.
    IfDifferent,
    /// It is brought to what the snapshot has; blocks that are equal are not written.
    Overwrite,
    /// It stays if it was changed later than the one in the snapshot; else as [`Conflict::IfDifferent`].
    KeepNewer,
}

/// Whom restored files belong to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Owners {
    /// The numbers in the snapshot.
    #[default]
    Numbers,
    /// The users and groups of the same names here; by number where there is no name or no such user.
    Names,
    /// Whoever restores.
    Caller,
}

/// Computes the id of data as the vault does, so that what is on disk already need not be fetched to be compared.
pub type Naming<'o> = &'o (dyn Fn(&[u8]) -> ChunkId + Sync);

/// How to restore.
#[derive(Clone, Default)]
pub struct RestoreOptions<'o> {
    /// What happens to files that are in the way.
    pub conflict: Conflict,
    /// Whom the files belong to.
    pub owners: Owners,
    /// The target is where the tree was captured: the attributes of the target directory itself are restored even if it
    /// was there and not empty.
    pub in_place: bool,
    /// Ids of data, if they can be computed.
    pub naming: Option<Naming<'o>>,
    /// How many files are worked on at once; 0 for as many as there are processors.
    pub workers: usize,
}

impl RestoreOptions<'_> {
    fn workers(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 16),
            workers => workers,
        }
    }
}

/// What a restore did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RestoreReport {
    /// Regular files that are now as in the snapshot.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Links, pipes, sockets, devices, images.
    pub others: u64,
    /// Names that were made hard links to a restored file; counted in `files` or `others` as well.
    pub links: u64,
    /// Entries that were left as they are, by policy.
    pub kept: u64,
    /// Bytes of contents that were written.
    pub bytes_written: u64,
    /// Bytes of contents that were there already.
    pub bytes_equal: u64,
    /// What did not go as it should.
    pub issues: Issues,
}

/// Restores what `selection` names of the tree `root` into the directory `target`, which is made if need be.
///
/// When it returns, everything is on stable storage. Files that could not be restored are in the report.
///
/// # Errors
/// If something is in the way and the policy is to refuse, the target is full or cannot be opened, the vault cannot be
/// read, or it was cancelled. What had been restored until then stays; files that were being written newly are removed.
pub fn restore(
    source: &dyn Source,
    root: &ChunkId,
    selection: &Selection,
    target: &Path,
    options: &RestoreOptions<'_>,
    monitor: &Monitor,
) -> Result<RestoreReport, CaptureError> {
    target::restore(source, root, selection, target, options, monitor)
}
