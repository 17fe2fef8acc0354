//! How a plan behaves when something is missed, overlaps, fails, or takes too long.

use crate::{time::Span, words::Attempt};
use anshin_base::ByteSize;
use serde::{Deserialize, Serialize};

/// What becomes of occurrences at which everything was off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Missed {
    /// One run makes up for all of them, as soon as possible.
    #[default]
    CatchUp,
    /// They are recorded as missed, and the posture says so until the next good run.
    Report,
    /// They are recorded as passed over; nothing else.
    Ignore,
}

/// What becomes of an occurrence while the run before it still goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overlap {
    /// It is passed over, with the reason recorded.
    #[default]
    Skip,
    /// One waits; further ones are passed over.
    Wait,
    /// The run before is cancelled.
    Replace,
}

/// What happens after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Attempts altogether. An attempt that died with its node does not count.
    pub attempts: u32,
    /// Pause before the second attempt.
    pub wait: Span,
    /// Each further pause is so many times longer.
    pub factor: u32,
    /// No pause is longer.
    pub wait_max: Span,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 3, wait: Span::minutes(5), factor: 3, wait_max: Span::hours(1) }
    }
}

impl Retry {
    /// The pause after the `failed`-th failed attempt; None if it was the last.
    #[must_use]
    pub fn pause(&self, failed: u32) -> Option<Span> {
        if failed >= self.attempts {
            return None;
        }
        let factor = u64::from(self.factor.max(1)).saturating_pow(failed.saturating_sub(1));
        Some(Span(self.wait.0.saturating_mul(factor).min(self.wait_max.0)))
    }
}

/// Limits of time, number and bandwidth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// An attempt that takes longer is stopped and counts as failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_time: Option<Span>,
    /// A run that could not begin for this long after it was due is given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<Span>,
    /// Runs of this plan at once; 0: no limit but those of vaults and machines.
    pub concurrent: u32,
    /// Bytes per second of each run; 0: no limit.
    pub bandwidth: ByteSize,
}

/// When a command after a run is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HookWhen {
    /// After every attempt.
    #[default]
    Always,
    /// After a good one.
    Success,
    /// After a failed one.
    Failure,
}

/// What follows from a command that fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// The attempt fails.
    #[default]
    Fail,
    /// The attempt goes on and its report names the failure.
    Warn,
}

/// A command run before or after, as a list of program and arguments, never through a shell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// Program and arguments.
    pub run: Vec<String>,
    /// For commands after: when.
    #[serde(default)]
    pub when: HookWhen,
    /// What follows from its failure.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// Killed and failed after this.
    #[serde(default = "hook_timeout")]
    pub timeout: Span,
}

fn hook_timeout() -> Span {
    Span::minutes(10)
}

/// Attempts that a run can have at all, including those that died with their nodes.
pub const ATTEMPTS_MAX: Attempt = Attempt(1_000);
