//! Posture: how safe each protected thing is, in a colour and one sentence per reason; and the calendar of runs.
//!
//! Green is said only on evidence (I17): a good backup that is young enough and recorded where this node can see it.
//! What is unknown is never green.

mod doubt;
mod judge;
mod timeline;

#[cfg(test)]
mod tests;

pub use doubt::doubts;
pub use judge::{Settings, posture};
pub use timeline::{Mark, Slot, timeline};

use crate::{
    record::{Drill, LastGood},
    time::{Span, UnixMillis},
    words::{PlanName, TargetKey},
};
use serde::{Deserialize, Serialize};

/// How safe something is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Colour {
    /// Everything that was promised holds, on evidence.
    Green,
    /// Something will break, or is not known.
    #[default]
    Amber,
    /// Something that was promised does not hold.
    Red,
}

/// Whether what is looked at is the present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// The records are those of a ledger that has a leader.
    Current,
    /// They are as old as this: the node is cut off.
    AsOf(UnixMillis),
}

/// A protected thing in one plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Protected {
    /// What.
    pub target: TargetKey,
    /// By which plan; None: by none.
    pub plan: Option<PlanName>,
    /// How safe.
    pub colour: Colour,
    /// Why, one sentence each without a full stop, worst first; at least one.
    pub reasons: Vec<String>,
    /// The newest good backup.
    pub last_good: Option<LastGood>,
    /// How old its content is at most.
    pub age: Option<Span>,
    /// How old it may be.
    pub expected: Option<Span>,
    /// The newest drill.
    pub drill: Option<Drill>,
    /// When the next run is due.
    pub next: Option<UnixMillis>,
}
