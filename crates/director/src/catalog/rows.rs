//! What goes into the catalog and what comes out.

use super::{PathEntry, Pattern};
use crate::{
    record::{Cause, Event, Passed, Place, Sealed},
    retention::Standing,
    time::UnixMillis,
    words::{Attempt, PlanName, Position, RunId, SnapshotId, TargetKey, VaultName},
};
use anshin_base::Problem;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// How a snapshot in a vault that has pieces of a target's log names its run, for it belongs to none: `log:service/db#9c1f04ab77e0d1f2.17`
/// is the 17th of a roll. Each snapshot of a roll holds all that the ones before it hold, so that only the last is needed.
/// `log:service/db` is one by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLabel {
    /// Whose log it is.
    pub target: TargetKey,
    /// Its roll, and its number in it.
    pub roll: Option<(String, u64)>,
}

impl fmt::Display for LogLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "log:{}", self.target)?;
        self.roll.iter().try_for_each(|(roll, number)| write!(f, "#{roll}.{number}"))
    }
}

impl FromStr for LogLabel {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let read = || {
            let named = text.strip_prefix("log:")?;
            let (target, roll) = match named.rsplit_once('#') {
                None => (named, None),
                Some((target, roll)) => {
                    let (roll, number) = roll.split_once('.')?;
                    let hex = !roll.is_empty() && roll.bytes().all(|b| b.is_ascii_hexdigit());
                    let digits = number.bytes().all(|b| b.is_ascii_digit());
                    (target, Some((hex.then_some(roll)?.to_owned(), digits.then_some(number)?.parse().ok()?)))
                }
            };
            (!target.is_empty()).then(|| Self { target: target.into(), roll })
        };
        read().ok_or_else(|| Problem::new("log-label", format!("{text:?} names no log")))
    }
}

/// How a snapshot in a vault names its run: `run-17/2:service/db` is attempt 2 of run 17 of the target `service/db`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// The run.
    pub run: RunId,
    /// The attempt.
    pub attempt: Attempt,
    /// What it backed up.
    pub target: TargetKey,
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.run, self.attempt, self.target)
    }
}

impl FromStr for Label {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let read = || {
            let (front, target) = text.split_once(':')?;
            let (run, attempt) = front.strip_prefix("run-")?.split_once('/')?;
            let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
            if !digits(run) || !digits(attempt) || target.is_empty() {
                return None;
            }
            // What no database takes was never given by the records.
            let run = run.parse().ok().filter(|run| *run <= i64::MAX as u64)?;
            Some(Self { run: RunId(run), attempt: Attempt(attempt.parse().ok()?), target: target.into() })
        };
        read().ok_or_else(|| {
            Problem::new("run-label", format!("{text:?} does not name a run"))
                .hint("it was not made by a plan; `anshin snapshots show` says by whom")
        })
    }
}

/// A snapshot as a vault lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultSnapshot {
    /// In which vault.
    pub vault: VaultName,
    /// The plan it names.
    pub plan: PlanName,
    /// The run it names.
    pub label: Label,
    /// When it was sealed, by the vault's clock.
    pub at: UnixMillis,
    /// What is in it.
    pub sealed: Sealed,
}

/// Something that a catalog is made from.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// An event that the records still keep.
    Event(Event),
    /// A snapshot that a vault lists.
    Snapshot(VaultSnapshot),
}

/// How a catalog is rebuilt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rebuild {
    /// Whether what is known is kept: then it is completed (after a gap); otherwise it is emptied first.
    pub keep: bool,
    /// Vaults that are listed completely: snapshots of theirs that are known but not listed count as forgotten.
    pub complete: Vec<VaultName>,
    /// The position it stands at afterwards: that of the records the events came from.
    pub position: Position,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// With a snapshot.
    Sealed,
    /// It failed.
    Failed,
    /// It was cancelled.
    Cancelled,
}

/// A run that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRow {
    /// Which.
    pub run: RunId,
    /// Of which plan.
    pub plan: PlanName,
    /// What it backed up.
    pub target: TargetKey,
    /// Where to.
    pub vault: VaultName,
    /// Why it existed; None if only its snapshot is known.
    pub cause: Option<Cause>,
    /// The instant of the calendar.
    pub occurrence: Option<UnixMillis>,
    /// When it was to begin.
    pub due: Option<UnixMillis>,
    /// When its first attempt began.
    pub begun: Option<UnixMillis>,
    /// When its last attempt began.
    pub point: Option<UnixMillis>,
    /// When it ended.
    pub ended: UnixMillis,
    /// The last attempt.
    pub attempt: Attempt,
    /// By whom it was executed last.
    pub place: Option<Place>,
    /// How it ended.
    pub outcome: Ended,
    /// Why it did not end well.
    pub reason: Option<String>,
    /// Its snapshot.
    pub snapshot: Option<SnapshotId>,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRow {
    /// Which.
    pub snapshot: SnapshotId,
    /// Where.
    pub vault: VaultName,
    /// Of which plan.
    pub plan: PlanName,
    /// Of what.
    pub target: TargetKey,
    /// Which run made it.
    pub run: RunId,
    /// In which attempt.
    pub attempt: Attempt,
    /// Its content is not older than this; None if only the vault knows of it.
    pub point: Option<UnixMillis>,
    /// When it was sealed.
    pub sealed: UnixMillis,
    /// Files and directories in it.
    pub files: u64,
    /// Bytes of the source.
    pub bytes: u64,
    /// Bytes that were new to the vault.
    pub new_bytes: u64,
    /// Files that could not be read or changed while read.
    pub warnings: u64,
    /// Whether it counts.
    pub standing: Standing,
    /// Who holds it and why.
    pub held: Option<String>,
    /// When it was given up.
    pub forgotten: Option<UnixMillis>,
}

/// Occurrences that got no run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedRow {
    /// When that was recorded.
    pub at: UnixMillis,
    /// Which and why.
    pub passed: Passed,
}

/// Which rows are wanted. A None restricts nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of one plan.
    pub plan: Option<PlanName>,
    /// Of one target.
    pub target: Option<TargetKey>,
    /// In one vault.
    pub vault: Option<VaultName>,
    /// Ended, sealed or recorded at or after this.
    pub from: Option<UnixMillis>,
    /// … before this.
    pub to: Option<UnixMillis>,
    /// Also forgotten snapshots.
    pub forgotten: bool,
    /// At most so many rows; None: [`Filter::ROWS_MAX`].
    pub max: Option<usize>,
}

impl Filter {
    /// No answer has more rows.
    pub const ROWS_MAX: usize = 100_000;
}

/// What is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FindQuery {
    /// Which names or paths.
    pub pattern: Pattern,
    /// In snapshots of one target only.
    pub target: Option<TargetKey>,
    /// At most so many paths.
    pub max: usize,
}

/// A version of a file: the same kind, size and time in one or more snapshots on end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The first snapshot that has it.
    pub first: SnapshotId,
    /// The last snapshot that has it.
    pub last: SnapshotId,
    /// How many have it.
    pub snapshots: u64,
    /// What it is.
    pub entry: PathEntry,
}

/// A path that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// In which target.
    pub target: TargetKey,
    /// Bytes of the path.
    pub path: Vec<u8>,
    /// Its versions, oldest first; at least one.
    pub versions: Vec<Version>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Paths, by target and bytes.
    pub hits: Vec<Hit>,
    /// Whether there are more than were asked for.
    pub more: bool,
    /// Snapshots in question whose paths are not indexed: the answer says nothing of them.
    pub unindexed: Vec<SnapshotId>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_log_is_named_with_or_without_a_roll() {
        for text in ["log:service/db", "log:service/db#9c1f04ab77e0d1f2.17", "log:a#b#0.0"] {
            assert_eq!(text.parse::<LogLabel>().unwrap().to_string(), text);
        }
        let odd = ["log:", "log:#0.1", "log:db#", "log:db#.1", "log:db#0a", "log:db#0a.", "log:db#xy.1"];
        for text in odd.into_iter().chain(["log:db#0a.-1", "log:db#0a.99999999999999999999", "run-1/1:db"]) {
            assert!(text.parse::<LogLabel>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_label_reads_back_as_written() {
        let label = Label { run: RunId(17), attempt: Attempt(2), target: "image/a:/dev/sda".into() };
        assert_eq!(label.to_string(), "run-17/2:image/a:/dev/sda");
        assert_eq!(label.to_string().parse::<Label>().unwrap(), label);
    }

    proptest! {
        #[test]
        fn reading_a_label_never_panics(text in "(run-)?[0-9+/:]{0,30}.{0,20}") {
            if let Ok(label) = text.parse::<Label>() {
                prop_assert_eq!(label.to_string().parse::<Label>().unwrap(), label);
            }
        }
    }
}
