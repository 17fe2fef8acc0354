//! Where open runs stand, for people.

use super::Estimate;
use crate::{
    record::{Place, Progress},
    time::UnixMillis,
    words::{Attempt, PlanName, RunId, TargetKey},
};

/// Where a run stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Stand {
    /// It is not due yet.
    Planned {
        /// When it is.
        due: UnixMillis,
    },
    /// It could begin but for this.
    Waiting {
        /// For what, in one sentence.
        why: String,
    },
    /// It is executed.
    Running {
        /// By whom.
        place: Place,
        /// Since when.
        since: UnixMillis,
        /// How far.
        progress: Progress,
        /// How fast and how much longer.
        estimate: Estimate,
    },
}

/// An open run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunView {
    /// Which.
    pub run: RunId,
    /// Of which plan.
    pub plan: PlanName,
    /// What it backs up.
    pub target: TargetKey,
    /// The present or last attempt.
    pub attempt: Attempt,
    /// When it was to begin.
    pub due: UnixMillis,
    /// Whether it was to begin so long ago that something is wrong.
    pub overdue: bool,
    /// How the last attempt that did not succeed ended.
    pub trouble: Option<String>,
    /// Where it stands.
    pub stand: Stand,
}
