//! What the leader orders.

use crate::{
    plan::{Hook, Source},
    record::{Change, Place},
    time::Span,
    words::{Attempt, PlanName, RunId, SnapshotId, TargetKey, VaultName},
};
use anshin_base::ByteSize;
use serde::{Deserialize, Serialize};

/// Something for the daemon to do. Orders may be lost, doubled and late; they are repeated while they are needed.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// Propose to the ledger; the result shows in the next records.
    Propose(Change),
    /// Tell an executor to work on an attempt. It does so only if that start of its daemon still lives, and never begins
    /// an attempt that it has begun before: asked for one that it has dropped, it says that it failed. So an attempt has
    /// one consistent point however often orders are repeated.
    Start {
        /// Who.
        place: Place,
        /// Which start of its daemon.
        session: u64,
        /// What to do.
        work: Box<Work>,
    },
    /// Tell an executor to stop an attempt if it still works on it, and to drop it.
    Stop {
        /// Who.
        place: Place,
        /// Which run.
        run: RunId,
        /// Which attempt.
        attempt: Attempt,
        /// Why.
        why: String,
    },
    /// Tell a vault to remove a snapshot of an attempt that did not count.
    Discard {
        /// Where.
        vault: VaultName,
        /// Which.
        snapshot: SnapshotId,
        /// Why.
        why: String,
    },
    /// For the log, the audit and the console.
    Happened {
        /// What it concerns: `run/17`, `plan/nightly`.
        subject: String,
        /// What.
        what: String,
        /// Why.
        why: String,
    },
}

/// What an executor needs to know of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// The run.
    pub run: RunId,
    /// The attempt: with the run the epoch under which everything is sent.
    pub attempt: Attempt,
    /// Of which plan.
    pub plan: PlanName,
    /// What it backs up.
    pub target: TargetKey,
    /// What to read.
    pub source: Source,
    /// Where to.
    pub vault: VaultName,
    /// The snapshot before, for the files cache.
    pub previous: Option<SnapshotId>,
    /// Put on the snapshot.
    pub tags: Vec<String>,
    /// To stop after this by the executor's own clock.
    pub run_time: Option<Span>,
    /// Bytes per second; 0: no limit.
    pub bandwidth: ByteSize,
    /// Commands before.
    pub before: Vec<Hook>,
    /// Commands after.
    pub after: Vec<Hook>,
}
