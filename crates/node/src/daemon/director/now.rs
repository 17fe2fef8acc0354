//! What the director's last look came to, for people.

use anshin_base::{Mono, Problem};
use anshin_director::{
    PlanName, UnixMillis,
    run::{RunView, Step},
};

/// What the director's last look came to.
#[derive(Clone, Debug, Default)]
pub struct DirectorNow {
    /// When it looked.
    pub at: UnixMillis,
    /// The same, for its age.
    pub looked: Mono,
    /// Where the open runs stand.
    pub runs: Vec<RunView>,
    /// Plans that this build cannot read.
    pub troubles: Vec<(PlanName, Problem)>,
    /// When the next occurrence of any calendar is due.
    pub next_due: Option<UnixMillis>,
}

impl DirectorNow {
    /// From a step.
    #[must_use]
    pub fn of(step: &Step, at: UnixMillis, looked: Mono) -> Self {
        let Step { runs, troubles, next_due, .. } = step.clone();
        Self { at, looked, runs, troubles, next_due }
    }
}
