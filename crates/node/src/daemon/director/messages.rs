//! What daemons say to each other about backups; part of [`super::super::messages`].

use crate::backup::Gap;
use anshin_director::{
    Attempt, RunId, SnapshotId, UnixMillis, VaultName,
    record::Sealed,
    run::{AttemptState, Work},
};
use serde::{Deserialize, Serialize};

/// What a node says of an attempt that it executes. It repeats its last word until it is told to drop the attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptReport {
    /// Which run.
    pub run: RunId,
    /// Which attempt.
    pub attempt: Attempt,
    /// Where it stands.
    pub state: AttemptState,
}

/// What a node says of a vault that it serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultReport {
    /// Which vault.
    pub name: VaultName,
    /// Why it cannot be written, if so.
    pub trouble: Option<String>,
    /// Newest snapshots that name a run, oldest run first; bounded.
    pub snapshots: Vec<(RunId, Attempt, Sealed)>,
}

/// What a node says of the continuous archive of the log of a service that runs there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveReport {
    /// The service.
    pub service: String,
    /// Since when it is archived by this daemon.
    pub began: UnixMillis,
    /// When last everything was in the vault.
    pub moved: Option<UnixMillis>,
    /// Why it is not now, if so.
    pub trouble: Option<String>,
    /// The newest gap, if there ever was one.
    #[serde(default)]
    pub gap: Option<Gap>,
}

/// From the leading daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DirectorMessage {
    /// Work on an attempt.
    Start {
        /// For this start of the receiving daemon only.
        session: u64,
        /// What to do.
        work: Box<Work>,
    },
    /// Stop an attempt if it still goes on, and drop it.
    Stop {
        /// Which run.
        run: RunId,
        /// Which attempt.
        attempt: Attempt,
        /// Why.
        why: String,
    },
    /// Have a vault of the receiving node give up snapshots.
    Forget {
        /// Which vault.
        vault: VaultName,
        /// Which snapshots.
        snapshots: Vec<SnapshotId>,
        /// Why.
        why: String,
    },
}
