//! [`doubts`]: newest good backups that look unlike those before them.

use crate::{
    record::{EventKind, Outcome, Records, Sealed},
    retention::{Content, odd},
    time::UnixMillis,
    words::{PlanName, SnapshotId, TargetKey},
};
use std::collections::BTreeMap;

/// Of each target in each plan, the newest good snapshot if it looks unlike those before it that the events still tell of,
/// and why. It may be right (somebody deleted half of it on purpose), which only a person knows.
#[must_use]
pub fn doubts(records: &Records) -> BTreeMap<SnapshotId, String> {
    let mut known: BTreeMap<(&PlanName, &TargetKey), Vec<(UnixMillis, &Sealed)>> = BTreeMap::new();
    for event in &records.events {
        let EventKind::Ended(report) = &event.kind else { continue };
        let Outcome::Sealed(sealed) = &report.outcome else { continue };
        known.entry((&report.plan, &report.target)).or_default().push((event.at, sealed));
    }
    let content = |(at, sealed): &(UnixMillis, &Sealed)| {
        (*at, Content { files: sealed.files, bytes: sealed.bytes, new_bytes: sealed.new_bytes })
    };
    let doubt = |sealed: Vec<(UnixMillis, &Sealed)>| {
        let why = odd(&sealed.iter().map(content).collect::<Vec<_>>())?;
        Some((sealed.last()?.1.snapshot.clone(), why))
    };
    known.into_values().filter_map(doubt).collect()
}
