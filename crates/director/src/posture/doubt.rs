//! [`doubts`]: newest good backups that look unlike those before them.

use crate::{
    record::{EventKind, Outcome, Records, Sealed},
    retention::{Content, unlike},
    words::{PlanName, SnapshotId, TargetKey},
};
use std::collections::BTreeMap;

/// Backups before the newest that it is compared with.
const BEFORE_MAX: usize = 20;

/// Of each target in each plan, the newest good snapshot if it looks unlike those before it that the events still tell of,
/// and why. It may be right (somebody deleted half of it on purpose), which only a person knows.
#[must_use]
pub fn doubts(records: &Records) -> BTreeMap<SnapshotId, String> {
    let mut known: BTreeMap<(&PlanName, &TargetKey), Vec<&Sealed>> = BTreeMap::new();
    for event in &records.events {
        let EventKind::Ended(report) = &event.kind else { continue };
        let Outcome::Sealed(sealed) = &report.outcome else { continue };
        known.entry((&report.plan, &report.target)).or_default().push(sealed);
    }
    let content =
        |sealed: &Sealed| Content { files: sealed.files, bytes: sealed.bytes, new_bytes: sealed.new_bytes };
    let mut out = BTreeMap::new();
    for sealed in known.into_values() {
        let Some((newest, before)) = sealed.split_last() else { continue };
        // One that was odd itself is no measure for the next.
        let mut good: Vec<Content> = Vec::new();
        for one in &before[before.len().saturating_sub(BEFORE_MAX)..] {
            if unlike(&content(one), &good).is_none() {
                good.push(content(one));
            }
        }
        if let Some(why) = unlike(&content(newest), &good) {
            out.insert(newest.snapshot.clone(), why);
        }
    }
    out
}
