//! What is remembered of each protected thing.

use crate::{
    time::{Span, UnixMillis},
    words::{RunId, SnapshotId, TargetKey, VaultName},
};
use serde::{Deserialize, Serialize};

/// What is remembered of one target in one plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetRecord {
    /// Occurrences up to here have a run or a recorded reason.
    pub cursor: UnixMillis,
    /// The newest good snapshot.
    pub last_good: Option<LastGood>,
    /// How the newest run ended.
    pub last_end: Option<LastEnd>,
    /// Runs that failed since the last good one.
    pub failures: u32,
    /// Occurrences recorded as missed since the last good one.
    pub missed: u64,
}

/// The newest good snapshot of a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastGood {
    /// Its run.
    pub run: RunId,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Where it is.
    pub vault: VaultName,
    /// Its content is not older than this.
    pub point: UnixMillis,
    /// When it was sealed.
    pub sealed: UnixMillis,
    /// Files in it, for the estimate of the next run.
    pub files: u64,
    /// Bytes in it.
    pub bytes: u64,
    /// How long its attempt took.
    pub took: Span,
    /// Files that could not be read or changed while read.
    pub warnings: u64,
}

/// How the newest run of a target ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastEnd {
    /// Which run.
    pub run: RunId,
    /// When.
    pub at: UnixMillis,
    /// `sealed`, or what went wrong.
    pub trouble: Option<String>,
}

/// A snapshot that is not to be removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Where it is.
    pub vault: VaultName,
    /// Who holds it.
    pub by: String,
    /// Since when.
    pub at: UnixMillis,
    /// Why.
    pub reason: String,
}

/// What a drill rehearsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DrillKind {
    /// Restored into scratch and judged there.
    Restore,
    /// The service was really moved.
    Failover,
    /// Failover was simulated.
    Simulated,
}

/// A drill and its result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drill {
    /// What was rehearsed.
    pub target: TargetKey,
    /// How.
    pub kind: DrillKind,
    /// When it began.
    pub at: UnixMillis,
    /// From which snapshot.
    pub snapshot: Option<SnapshotId>,
    /// Whether it went well.
    pub good: bool,
    /// Age of the restored content at the drill.
    pub rpo: Option<Span>,
    /// How long until the service's own monitor was content.
    pub rto: Option<Span>,
    /// One sentence.
    pub summary: String,
}
