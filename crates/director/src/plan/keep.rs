//! [`Keep`]: which snapshots a plan keeps.

use crate::time::Span;
use serde::{Deserialize, Serialize};

/// Keep-rules. A snapshot is kept if any of them wants it. The newest good snapshot of anything still planned is kept
/// whatever they say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keep {
    /// The newest so many.
    #[serde(skip_serializing_if = "is_zero")]
    pub last: u32,
    /// The newest of each of the newest so many hours that have one.
    #[serde(skip_serializing_if = "is_zero")]
    pub hourly: u32,
    /// … days.
    #[serde(skip_serializing_if = "is_zero")]
    pub daily: u32,
    /// … weeks (from Monday).
    #[serde(skip_serializing_if = "is_zero")]
    pub weekly: u32,
    /// … months.
    #[serde(skip_serializing_if = "is_zero")]
    pub monthly: u32,
    /// … years.
    #[serde(skip_serializing_if = "is_zero")]
    pub yearly: u32,
    /// Every one made within this time before the newest good one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within: Option<Span>,
    /// Every one with one of these tags.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

impl Keep {
    /// Whether no rule counts or measures time: then nothing but the last good snapshot would be kept.
    #[must_use]
    pub fn keeps_nothing(&self) -> bool {
        let counts = [self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly];
        counts.iter().all(|&count| count == 0) && self.within.is_none_or(|within| within.0 == 0)
    }
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}
