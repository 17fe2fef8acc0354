//! [`Run`]: one execution of a plan for one target, and its state machine.
//!
//! ```text
//!            begin n+1                    seal n
//!  Waiting ───────────────▶ Running n ──────────────▶ sealed
//!     ▲                        │   │
//!     │  lost n (node died)    │   │  fail n, no retry left
//!     │  fail n, retry         │   └─────────────────▶ failed
//!     └────────────────────────┘
//!  Waiting: gave up ─▶ failed        Waiting, Running: cancel ─▶ cancelled
//! ```
//!
//! The attempt number is the epoch: whatever an executor says of another attempt than the present one is refused, so
//! that a run has at most one sealed attempt, and a snapshot one consistent point.

use crate::{
    plan::Locus,
    time::UnixMillis,
    words::{Attempt, ClientId, PlanName, RunId, SnapshotId, TargetKey, VaultName},
};
use anshin_base::NodeId;
use serde::{Deserialize, Serialize};

/// Why a run exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// Its plan's calendar.
    Calendar,
    /// It makes up for so many occurrences at which everything was off.
    CatchUp(u64),
    /// Somebody asked for it.
    Operator(String),
}

/// Who executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Place {
    /// A node of the site.
    Node(NodeId),
    /// A client.
    Client(ClientId),
}

/// How far an attempt has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Files and directories done.
    pub files: u64,
    /// Bytes of the source done, also unchanged ones.
    pub bytes: u64,
    /// Bytes sent to the vault.
    pub sent: u64,
    /// Files in all, once known.
    pub files_total: Option<u64>,
    /// Bytes in all, once known.
    pub bytes_total: Option<u64>,
}

/// What an executor says of the snapshot it has sealed. Its consistent point is not among it: that is taken from when
/// the attempt began, by the leader's clock, so that no executor can make a backup look newer than it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Files and directories in it.
    pub files: u64,
    /// Bytes of the source.
    pub bytes: u64,
    /// Bytes that were new to the vault.
    pub new_bytes: u64,
    /// Files that could not be read or changed while read.
    pub warnings: u64,
}

/// Where a run stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunState {
    /// Nobody executes it.
    Waiting {
        /// It does not begin before this.
        not_before: UnixMillis,
    },
    /// The present attempt is executed.
    Running {
        /// By whom.
        place: Place,
        /// Which start of that daemon: a daemon that was restarted knows nothing of the attempt.
        session: u64,
        /// The newest recorded progress.
        progress: Progress,
    },
}

/// One execution of a plan for one target that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Given by the records.
    pub id: RunId,
    /// Its plan.
    pub plan: PlanName,
    /// What it backs up.
    pub target: TargetKey,
    /// Where it must run.
    pub locus: Locus,
    /// Where its snapshot goes.
    pub vault: VaultName,
    /// Why it exists.
    pub cause: Cause,
    /// The instant of the calendar; None if by hand.
    pub occurrence: Option<UnixMillis>,
    /// When it was to begin.
    pub due: UnixMillis,
    /// When it was opened.
    pub opened: UnixMillis,
    /// When its first attempt began.
    pub begun: Option<UnixMillis>,
    /// The present or last attempt; 0 before the first.
    pub attempt: Attempt,
    /// When that attempt began: its consistent point is not older than this.
    pub point: Option<UnixMillis>,
    /// Attempts that failed by themselves.
    pub failed: u32,
    /// Attempts that died with their executor.
    pub lost: u32,
    /// How the last attempt that did not succeed ended.
    pub trouble: Option<String>,
    /// Where it stands.
    pub state: RunState,
}

impl Run {
    /// The executor of the present attempt.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        match self.state {
            RunState::Running { place, .. } => Some(place),
            RunState::Waiting { .. } => None,
        }
    }
}
