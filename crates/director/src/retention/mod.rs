//! Retention: which snapshots are kept and why. Pure, and previewed as it is carried out.
//!
//! It cannot be talked into removing good snapshots:
//! * times are those of the server's clock at sealing, never what a client claims;
//! * only *good* snapshots count for rules. Suspicious ones (not ordered by the director, dated in the future, unlike
//!   those of the days before) neither push out good ones nor are removed by rules: they stay until a person decides, or until
//!   what is odd has been usual for weeks;
//! * lengths of time are measured from the newest good snapshot, not from now, so that a clock that runs ahead removes
//!   nothing;
//! * the newest good snapshot of anything still planned stays whatever the rules say, and so does what is held.

mod preview;
mod rules;
mod suspicion;

#[cfg(test)]
mod tests;

pub use preview::Preview;
pub use rules::{Reason, Verdict, decide};
pub use suspicion::{Content, odd};

use crate::{
    record::{Records, Sealed},
    time::{Span, UnixMillis},
    words::{Attempt, PlanName, RunId, SnapshotId, TargetKey},
};
use serde::{Deserialize, Serialize};

/// A snapshot dated this much after now was dated by a wrong clock.
const FUTURE_TOLERANCE: Span = Span::hours(1);

/// Whether a snapshot counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// It is the recorded result of a run.
    #[default]
    Good,
    /// Something is odd about it.
    Suspicious(String),
    /// Verification found damage in it.
    Damaged(String),
}

/// A snapshot as retention sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub snapshot: SnapshotId,
    /// Of which plan.
    pub plan: PlanName,
    /// Of what.
    pub target: TargetKey,
    /// When it was sealed, by the server's clock.
    pub sealed: UnixMillis,
    /// Its tags.
    pub tags: Vec<String>,
    /// Bytes that only it needs, if known: what removing it would free.
    pub own_bytes: Option<u64>,
    /// Whether it counts.
    pub standing: Standing,
    /// Who holds it and why.
    pub held: Option<String>,
}

/// What a vault says of one of its snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InVault {
    /// Which run it names.
    pub run: RunId,
    /// Which attempt it names.
    pub attempt: Attempt,
    /// What is in it.
    pub sealed: Sealed,
}

/// Judges a snapshot by what the director recorded of its run: `recorded` is the snapshot that the run ended with, if it
/// is known to have ended with one.
#[must_use]
pub fn standing(seen: &InVault, recorded: Option<&SnapshotId>) -> Standing {
    match recorded {
        Some(snapshot) if *snapshot == seen.sealed.snapshot => Standing::Good,
        Some(snapshot) => Standing::Suspicious(format!("{} is recorded with snapshot {snapshot}", seen.run)),
        None => {
            Standing::Suspicious(format!("no run is recorded that ended with it (it names {})", seen.run))
        }
    }
}

/// Who holds a snapshot and why, as [`Candidate::held`].
#[must_use]
pub fn held(records: &Records, snapshot: &SnapshotId) -> Option<String> {
    records.holds.get(snapshot).map(|hold| format!("{}: {}", hold.by, hold.reason))
}
