//! The catalog: the searchable record of runs, snapshots and files.
//!
//! It is a projection: of the director's events, of the snapshots in the vaults, and of the trees in these. Losing it
//! loses no data (I15): [`Catalog::rebuild`] makes it anew. One trait, so that the embedded SQLite can be exchanged for a
//! server when it is outgrown; the suite that every implementation passes is in
//! `conformance` (feature of that name). What is stored and why:
//! docs/decisions/0007.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod paths;
mod rows;
#[cfg(feature = "sqlite")]
mod sqlite;

pub use paths::{PathChange, PathEntry, PathKind, Pattern};
pub use rows::{
    Ended, Fact, Filter, FindQuery, Found, Hit, Label, LogLabel, PassedRow, Rebuild, RunRow, SnapshotRow,
    VaultSnapshot, Version,
};
#[cfg(feature = "sqlite")]
pub use sqlite::{Opened, SqliteCatalog};

use crate::{
    record::{Drill, Event},
    words::{Position, RunId, SnapshotId, TargetKey},
};
use anshin_base::Problem;

/// Why the catalog did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// Events are missing between what it holds and what it was given: rebuild it.
    #[error("the catalog is at position {have} and was given {got}: events between them are missing")]
    Gap {
        /// Its position.
        have: Position,
        /// The event's position.
        got: Position,
    },
    /// Its file is damaged: open it again, which sets it aside, and rebuild.
    #[error("the catalog is damaged: {0}")]
    Damaged(String),
    /// The snapshot is not in it.
    #[error("there is no snapshot {0}")]
    NoSnapshot(SnapshotId),
    /// Paths must come in ascending order, each once.
    #[error("paths are not in order at {0:?}")]
    Order(String),
    /// The database or its disk failed.
    #[error("catalog: {0}")]
    Store(String),
}

impl From<CatalogError> for Problem {
    fn from(error: CatalogError) -> Self {
        let message = error.to_string();
        match error {
            CatalogError::Gap { .. } => Self::new("catalog-behind", message).hint("it catches up by itself"),
            CatalogError::Damaged(_) => {
                Self::new("catalog-damaged", message).hint("it is rebuilt from the vaults; no backup is lost")
            }
            CatalogError::NoSnapshot(_) => {
                Self::new("not-found", message).hint("`anshin snapshots list` shows them")
            }
            CatalogError::Order(_) | CatalogError::Store(_) => Self::new("catalog", message)
                .hint("look at the space and health of the disk under the state directory"),
        }
    }
}

type Result<T> = std::result::Result<T, CatalogError>;

/// The searchable record of runs, snapshots and files.
pub trait Catalog: Send {
    /// Up to which event it has applied all; 0 when it is new.
    ///
    /// # Errors
    /// [`CatalogError`], as everywhere here.
    fn position(&self) -> Result<Position>;

    /// Applies one event in one transaction. False if it was applied before.
    ///
    /// # Errors
    /// [`CatalogError::Gap`] if events before it are missing; nothing is changed then.
    fn apply(&mut self, event: &Event) -> Result<bool>;

    /// Makes it anew, or completes it, from facts in any order, in one transaction; and says how many were taken.
    ///
    /// # Errors
    /// [`CatalogError`]; nothing is changed then.
    fn rebuild(&mut self, how: &Rebuild, facts: &mut dyn Iterator<Item = Fact>) -> Result<u64>;

    /// A run that has ended.
    ///
    /// # Errors
    /// [`CatalogError`].
    fn run(&self, run: RunId) -> Result<Option<RunRow>>;

    /// Runs that have ended, newest end first.
    ///
    /// # Errors
    /// [`CatalogError`].
    fn runs(&self, filter: &Filter) -> Result<Vec<RunRow>>;

    /// A snapshot, also one that was forgotten.
    ///
    /// # Errors
    /// [`CatalogError`].
    fn snapshot(&self, snapshot: &SnapshotId) -> Result<Option<SnapshotRow>>;

    /// Snapshots, newest first; forgotten ones only if asked for.
    ///
    /// # Errors
    /// [`CatalogError`].
    fn snapshots(&self, filter: &Filter) -> Result<Vec<SnapshotRow>>;

    /// Occurrences that got no run, newest first.
    ///
    /// # Errors
    /// [`CatalogError`].
    fn passed(&self, filter: &Filter) -> Result<Vec<PassedRow>>;

    /// Drills, newest first.
    ///
    /// # Errors
    /// [`CatalogError`].
    fn drills(&self, filter: &Filter) -> Result<Vec<Drill>>;

    /// Snapshots that are not forgotten and whose paths are not indexed, oldest first. Their trees are read off the hot
    /// path, where the client's data key is at hand, and given to [`Catalog::index`].
    ///
    /// # Errors
    /// [`CatalogError`].
    fn unindexed(&self, max: usize) -> Result<Vec<SnapshotId>>;

    /// The snapshot of a target that was indexed last: the base of the next difference.
    ///
    /// # Errors
    /// [`CatalogError`].
    fn index_base(&self, target: &TargetKey) -> Result<Option<SnapshotId>>;

    /// Indexes a snapshot's paths: the difference to `base`, or with None all of them. Paths ascending by bytes, each
    /// once; without a base none of them gone. `base` must be what [`Catalog::index_base`] says. Answers how many paths
    /// were left out because they are longer than [`paths::PATH_BYTES_MAX`].
    ///
    /// # Errors
    /// [`CatalogError::NoSnapshot`], [`CatalogError::Order`], and if `base` is not the last indexed one
    /// [`CatalogError::Store`]; nothing is changed then.
    fn index(
        &mut self,
        snapshot: &SnapshotId,
        base: Option<&SnapshotId>,
        changes: &mut dyn Iterator<Item = PathChange>,
    ) -> Result<u64>;

    /// Finds files by name across snapshots.
    ///
    /// # Errors
    /// [`CatalogError`].
    fn find(&self, query: &FindQuery) -> Result<Found>;
}
