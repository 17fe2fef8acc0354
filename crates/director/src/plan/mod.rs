//! Plans: what is backed up, when, to which vault, kept how long.
//!
//! A [`Plan`] has one form for TOML, JSON, the API and the ledger (there as its JSON text, so that a plan written by an
//! older build stays readable). [`Plan::check`] says everything that is wrong with it, each with a hint.

mod check;
mod keep;
mod nightly;
mod options;
mod source;
mod text;

#[cfg(test)]
mod tests;

pub use check::Known;
pub use keep::Keep;
pub use nightly::{NIGHTLY, nightly};
pub use options::{ATTEMPTS_MAX, Hook, HookWhen, Limits, Missed, OnFailure, Overlap, Retry};
pub use source::{Inventory, Job, Locus, ServiceInfo, Source, VolumeForm};
pub use text::PLAN_BYTES_MAX;

use crate::{
    calendar::{Calendar, Spread, spread},
    time::{Span, UnixMillis},
    words::{PlanName, TargetKey, VaultName},
};
use anshin_base::Problem;
use serde::{Deserialize, Serialize};

/// Priority of a plan that names none.
pub const PRIORITY_DEFAULT: u8 = 50;
/// A backup may be this much late beyond its calendar before it counts as overdue: time to start and to run.
const GRACE: Span = Span::hours(1);

/// What is backed up, when, to which vault, kept how long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Unique.
    pub name: PlanName,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// A plan that is not enabled runs only when asked to by hand.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub enabled: bool,
    /// What is backed up; each entry has runs and snapshots of its own.
    pub what: Vec<Source>,
    /// Schedule lines; none: only by hand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub when: Vec<String>,
    /// Time zone of the lines, and of the days and weeks that are kept.
    #[serde(default = "utc")]
    pub zone: String,
    /// Starts are spread over this long, always the same for the same target.
    #[serde(default, skip_serializing_if = "is_default")]
    pub spread: Span,
    /// What becomes of occurrences at which everything was off.
    #[serde(default, skip_serializing_if = "is_default")]
    pub missed: Missed,
    /// What becomes of an occurrence while the run before still goes on.
    #[serde(default, skip_serializing_if = "is_default")]
    pub overlap: Overlap,
    /// Where snapshots go.
    pub vault: VaultName,
    /// Which snapshots are kept.
    pub keep: Keep,
    /// Run before, in order, where the source is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<Hook>,
    /// Run after, in order, where the source is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<Hook>,
    /// What happens after a failed attempt.
    #[serde(default, skip_serializing_if = "is_default")]
    pub retry: Retry,
    /// Limits of time, number and bandwidth.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: Limits,
    /// Of several runs that wait, the one with the highest number goes first.
    #[serde(default = "priority", skip_serializing_if = "is_priority")]
    pub priority: u8,
    /// The newest good backup is never to be older than this; None: what the calendar gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<Span>,
    /// A restore is to be rehearsed at least this often; None: 35 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<Span>,
    /// Put on every snapshot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

impl Plan {
    /// The plan's calendar.
    ///
    /// # Errors
    /// As [`Calendar::parse`]; never for a plan that passed [`Plan::check`].
    pub fn calendar(&self) -> Result<Calendar, Problem> {
        Calendar::parse(&self.when, &self.zone)
    }

    /// By how much `target` starts later than the calendar says.
    #[must_use]
    pub fn spread_of(&self, target: &TargetKey) -> Spread {
        spread(&self.name.0, &target.0, self.spread)
    }

    /// How old the newest good backup may be: as the plan says, or the longest time between two occurrences around `now`
    /// and a quarter more, and an hour to start and run. None for a plan that runs only by hand.
    #[must_use]
    pub fn expected_age(&self, calendar: &Calendar, now: UnixMillis) -> Option<Span> {
        if self.expect.is_some() {
            return self.expect;
        }
        if !self.enabled {
            return None;
        }
        // Some weeks back and ahead, so that a weekend of `mon..fri` counts, but a plan begun long ago does not cost more.
        let mut at = calendar.last(now).or_else(|| calendar.next(now))?;
        let mut widest = Span(0);
        for _ in 0..8 {
            let Some(earlier) = calendar.last(UnixMillis(at.0 - 1)) else { break };
            at = earlier;
        }
        for _ in 0..16 {
            let Some(next) = calendar.next(at) else { break };
            widest = widest.max(next.since(at));
            at = next;
        }
        (widest.0 > 0).then(|| Span(widest.0 + widest.0 / 4).plus(self.spread).plus(GRACE))
    }

    /// How often a restore is to be rehearsed.
    #[must_use]
    pub fn drill_every(&self) -> Span {
        self.drill.unwrap_or(Span::days(35))
    }
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}

fn utc() -> String {
    "UTC".into()
}

fn priority() -> u8 {
    PRIORITY_DEFAULT
}

fn is_priority(value: &u8) -> bool {
    *value == PRIORITY_DEFAULT
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
