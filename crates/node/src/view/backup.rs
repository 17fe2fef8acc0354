//! Backups as the API shows them: plans, runs, vaults, and how well each protected thing can be brought back.

use super::Level;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a node knows of backups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackupFacts {
    /// The site's vaults.
    pub vaults: Vec<VaultView>,
    /// Everything protected and how well it can be brought back, worst first. Empty while no vault is registered.
    pub things: Vec<ProtectedView>,
    /// Runs that have not ended.
    pub runs: Vec<RunView>,
    /// Runs that ended last, newest first; bounded.
    pub ended: Vec<EndedRunView>,
    /// The calendar of the last and the next days, oldest first; bounded.
    pub calendar: Vec<CalendarEntry>,
}

/// A vault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VaultView {
    /// Its name.
    pub name: String,
    /// The node that serves it.
    pub node: String,
    /// Where its store is, without secrets.
    pub url: String,
    /// Why it cannot be written now, if so.
    pub trouble: Option<String>,
}

/// A protected thing in one plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProtectedView {
    /// What: `service/db`, `volume/data`, `files/web1`.
    pub target: String,
    /// The plan that backs it up; None: none does.
    pub plan: Option<String>,
    /// How well it can be brought back.
    pub level: Level,
    /// Why, one sentence each, worst first.
    pub reasons: Vec<String>,
    /// The newest good backup.
    pub last_good: Option<GoodBackup>,
    /// How old its content is at most, in seconds.
    pub age_s: Option<u64>,
    /// How old it may be, in seconds.
    pub expected_s: Option<u64>,
    /// The newest rehearsal of a restore.
    pub drill: Option<RestoreDrill>,
    /// When the next run is due, RFC 3339.
    pub next: Option<String>,
}

/// A good backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GoodBackup {
    /// Its run.
    pub run: u64,
    /// Its snapshot.
    pub snapshot: String,
    /// Where it is.
    pub vault: String,
    /// Its content is not older than this, RFC 3339.
    pub point: String,
    /// When it was sealed, RFC 3339.
    pub sealed: String,
    /// Files and directories in it.
    pub files: u64,
    /// Bytes in it.
    pub bytes: u64,
    /// Files that could not be read or changed while read.
    pub warnings: u64,
}

/// A rehearsal of a restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RestoreDrill {
    /// What was brought back.
    pub target: String,
    /// From which snapshot.
    pub snapshot: Option<String>,
    /// When it began, RFC 3339.
    pub at: String,
    /// Whether it went well.
    pub good: bool,
    /// Age of the restored content at the rehearsal, in seconds.
    pub rpo_s: Option<u64>,
    /// How long it took until the restored thing was judged, in seconds.
    pub rto_s: Option<u64>,
    /// In one sentence.
    pub summary: String,
}

/// Where an open run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RunStand {
    /// It is not due yet.
    Planned,
    /// Something is in its way.
    Waiting,
    /// It is executed.
    Running,
}

/// A run that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunView {
    /// Its number.
    pub id: u64,
    /// Its plan.
    pub plan: String,
    /// What it backs up.
    pub target: String,
    /// Where to.
    pub vault: String,
    /// The present or last attempt; 0 before the first.
    pub attempt: u32,
    /// Where it stands.
    pub stand: RunStand,
    /// What it waits for.
    pub why: Option<String>,
    /// Who executes it.
    pub on: Option<String>,
    /// When it was to begin, RFC 3339.
    pub due: String,
    /// Whether that is so long ago that something is wrong.
    pub overdue: bool,
    /// When its present attempt began, RFC 3339.
    pub since: Option<String>,
    /// How the last attempt that did not succeed ended.
    pub trouble: Option<String>,
    /// Files and directories done.
    pub files: u64,
    /// Bytes of the source done, also unchanged ones.
    pub bytes: u64,
    /// Bytes sent to the vault.
    pub sent_bytes: u64,
    /// Bytes in all, once known.
    pub bytes_total: Option<u64>,
    /// Bytes of the source per second.
    pub bytes_per_s: u64,
    /// Share done in percent, if that can be said.
    pub done_percent: Option<u8>,
    /// Seconds that are left, if that can be said.
    pub seconds_left: Option<u64>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RunOutcome {
    /// With a snapshot.
    Sealed,
    /// It failed for good.
    Failed,
    /// It was cancelled.
    Cancelled,
}

/// A run that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EndedRunView {
    /// Its number.
    pub id: u64,
    /// Its plan.
    pub plan: String,
    /// What it backed up.
    pub target: String,
    /// Where to.
    pub vault: String,
    /// The last attempt.
    pub attempt: u32,
    /// Who executed it last.
    pub on: Option<String>,
    /// When it was to begin, RFC 3339.
    pub due: Option<String>,
    /// When its first attempt began, RFC 3339.
    pub begun: Option<String>,
    /// Its content is not older than this, RFC 3339.
    pub point: Option<String>,
    /// When it ended, RFC 3339.
    pub ended: String,
    /// How.
    pub outcome: RunOutcome,
    /// Why it did not end well.
    pub reason: Option<String>,
    /// Its snapshot.
    pub snapshot: Option<String>,
    /// Files and directories in it.
    pub files: u64,
    /// Bytes in it.
    pub bytes: u64,
    /// Bytes that were new to the vault.
    pub new_bytes: u64,
    /// Files that could not be read or changed while read.
    pub warnings: u64,
}

/// Runs: open ones, and those that ended last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunList {
    /// Open ones, oldest first.
    pub open: Vec<RunView>,
    /// Ended ones, newest end first.
    pub ended: Vec<EndedRunView>,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum RunShow {
    /// It has not ended.
    Open(RunView),
    /// It has ended.
    Ended(EndedRunView),
}

/// A plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanView {
    /// Its name.
    pub name: String,
    /// Grows by one with each change.
    pub revision: u64,
    /// Where its snapshots go.
    pub vault: String,
    /// For people.
    pub description: String,
    /// Whether its calendar counts.
    pub enabled: bool,
    /// Schedule lines; none: only by hand.
    pub when: Vec<String>,
    /// Their time zone.
    pub zone: String,
    /// What is backed up now.
    pub targets: Vec<String>,
    /// When the next run of any target is due, RFC 3339.
    pub next: Option<String>,
    /// Why this node cannot read it, if so.
    pub trouble: Option<String>,
    /// All of it, as TOML.
    pub toml: String,
}

/// Plans to add or replace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanSet {
    /// One plan, or several as `[[plan]]`, as TOML.
    pub toml: String,
    /// To replace: the revision that was edited. One that has changed meanwhile is not overwritten.
    #[serde(default)]
    pub revision: Option<u64>,
}

/// Run a plan now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanRun {
    /// Of its targets these; none: all.
    #[serde(default)]
    pub targets: Vec<String>,
}

/// Runs that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunsOpened {
    /// Their numbers, in the order of the targets. A target whose run is open already gets no second one.
    pub runs: Vec<u64>,
}

/// Cancel a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunCancel {
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
}

/// The catalog was made anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CatalogRebuilt {
    /// Events and snapshots that it was made from.
    pub facts: u64,
}

/// What the rules of a plan say of the snapshots of one target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RetentionView {
    /// Of what.
    pub target: String,
    /// Where they are.
    pub vault: String,
    /// In one line.
    pub summary: String,
    /// Newest first.
    pub snapshots: Vec<RetentionVerdict>,
}

/// What becomes of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RetentionVerdict {
    /// Which.
    pub snapshot: String,
    /// When it was sealed, RFC 3339.
    pub sealed: String,
    /// Whether it stays.
    pub keep: bool,
    /// Why.
    pub reasons: Vec<String>,
}

/// What stands at a point of the calendar of runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CalendarMark {
    /// A run ended with a snapshot.
    Sealed,
    /// A run failed.
    Failed,
    /// A run was cancelled.
    Cancelled,
    /// A run is open.
    Open,
    /// Occurrences got no run.
    Passed,
    /// A run will be due.
    Planned,
}

/// One entry of the calendar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CalendarEntry {
    /// When, RFC 3339.
    pub at: String,
    /// Of which plan.
    pub plan: String,
    /// For what.
    pub target: String,
    /// What.
    pub mark: CalendarMark,
    /// Its run, if it has one.
    pub run: Option<u64>,
    /// Why it is so, where that is not plain.
    pub why: Option<String>,
}
