//! What happened, in order: the history that catalogs are projected from.

use super::{Cause, Drill, Place, Sealed};
use crate::{
    time::UnixMillis,
    words::{Attempt, PlanName, Position, RunId, SnapshotId, TargetKey, VaultName},
};
use serde::{Deserialize, Serialize};

/// Something that happened and is remembered for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its place in the order.
    pub position: Position,
    /// When, by the leader's clock.
    pub at: UnixMillis,
    /// What.
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// A run ended.
    Ended(RunReport),
    /// Occurrences of a calendar got no run.
    Passed(Passed),
    /// A drill was held.
    Drilled(Drill),
    /// A snapshot was put under a hold.
    Held {
        /// Which.
        snapshot: SnapshotId,
        /// Where.
        vault: VaultName,
        /// By whom and why.
        reason: String,
    },
    /// A hold ended.
    Released {
        /// Which.
        snapshot: SnapshotId,
        /// By whom.
        by: String,
    },
    /// Snapshots were given up; the vault may remove what only they needed.
    Forgotten {
        /// Where.
        vault: VaultName,
        /// Which.
        snapshots: Vec<SnapshotId>,
        /// By whom and by which rule.
        reason: String,
    },
    /// A plan was removed.
    Unplanned {
        /// Which.
        plan: PlanName,
        /// By whom.
        by: String,
    },
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// With a snapshot.
    Sealed(Sealed),
    /// It failed for good.
    Failed(String),
    /// It was cancelled.
    Cancelled(String),
}

/// A run from its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunReport {
    /// Which run.
    pub run: RunId,
    /// Its plan.
    pub plan: PlanName,
    /// What it backed up.
    pub target: TargetKey,
    /// Where to.
    pub vault: VaultName,
    /// Why it existed.
    pub cause: Cause,
    /// The instant of the calendar.
    pub occurrence: Option<UnixMillis>,
    /// When it was to begin.
    pub due: UnixMillis,
    /// When its first attempt began.
    pub begun: Option<UnixMillis>,
    /// When the last attempt began: the snapshot's content is not older than this.
    pub point: Option<UnixMillis>,
    /// When it ended.
    pub ended: UnixMillis,
    /// The last attempt.
    pub attempt: Attempt,
    /// By whom it was executed last.
    pub place: Option<Place>,
    /// How it ended.
    pub outcome: Outcome,
}

/// Why occurrences got no run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// Nobody was there to begin them, and the plan asks for a report.
    Missed,
    /// Nobody was there to begin them; a later run makes up for them.
    CaughtUp,
    /// Nobody was there to begin them, and the plan does not mind.
    Ignored,
    /// The run before was still going on.
    Overlapped,
    /// The leader's clock had been ahead; these may have run already.
    ClockAhead,
}

/// Occurrences of a calendar that got no run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    /// Of which plan.
    pub plan: PlanName,
    /// For which target.
    pub target: TargetKey,
    /// The first of them.
    pub first: UnixMillis,
    /// The last of them.
    pub last: UnixMillis,
    /// How many; more than are counted if it is 10,000.
    pub count: u64,
    /// Why.
    pub why: Why,
    /// In one sentence.
    pub reason: String,
}
