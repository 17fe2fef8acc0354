//! [`Preview`]: what retention would do, for `forget --dry-run` and the console.

use super::Verdict;
use crate::words::SnapshotId;
use anshin_base::ByteSize;
use jiff::tz::TimeZone;

/// What retention would do, or does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preview {
    /// Newest first.
    pub verdicts: Vec<Verdict>,
}

impl Preview {
    /// The snapshots that would be removed.
    #[must_use]
    pub fn removed(&self) -> Vec<SnapshotId> {
        self.verdicts.iter().filter(|verdict| !verdict.keep).map(|verdict| verdict.snapshot.clone()).collect()
    }

    /// One line in total: `keeps 9 of 12 snapshots, removes 3 (1.2 GiB at least)`.
    #[must_use]
    pub fn summary(&self) -> String {
        let removed: Vec<&Verdict> = self.verdicts.iter().filter(|verdict| !verdict.keep).collect();
        let kept = self.verdicts.len() - removed.len();
        let sizes: Option<Vec<u64>> = removed.iter().map(|verdict| verdict.own_bytes).collect();
        // What only several removed ones share is freed as well and is in no single number.
        let freed = match sizes {
            Some(sizes) if !removed.is_empty() => {
                format!(
                    " ({} at least)",
                    ByteSize(sizes.iter().fold(0, |sum, size| sum.saturating_add(*size)))
                )
            }
            _ => String::new(),
        };
        format!("keeps {kept} of {} snapshots, removes {}{freed}", self.verdicts.len(), removed.len())
    }

    /// One line per snapshot: whether it stays, when it was sealed, why.
    #[must_use]
    pub fn lines(&self, zone: &TimeZone) -> Vec<String> {
        let line = |verdict: &Verdict| {
            let word = if verdict.keep { "keep  " } else { "remove" };
            let when = verdict.sealed.timestamp().map_or_else(
                || verdict.sealed.to_string(),
                |at| at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M").to_string(),
            );
            let why: Vec<String> = verdict.reasons.iter().map(ToString::to_string).collect();
            format!("{word} {} {when}  {}", verdict.snapshot, why.join("; "))
        };
        self.verdicts.iter().map(line).collect()
    }
}
