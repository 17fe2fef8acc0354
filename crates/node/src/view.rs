//! What the public API says: the state of the site as one node knows it, and the requests and answers around it.
//!
//! [`Facts`] is what a node has observed. [`SiteStatus::from_facts`] is the only way to a status, so the posture that
//! is shown is always the one that follows from the facts shown beside it (I17).
//!
//! Lengths of time are milliseconds, sizes are bytes, points in time are RFC 3339 texts.

mod backup;
mod limits;
mod posture;
mod requests;
mod restore;
mod volume;
mod what_if;
mod words;

pub use backup::{
    BackupFacts, CalendarEntry, CalendarMark, CatalogRebuilt, EndedRunView, GoodBackup, PlanRun, PlanSet,
    PlanView, ProtectedView, RestoreDrill, RetentionVerdict, RetentionView, RunCancel, RunList, RunOutcome,
    RunShow, RunStand, RunView, RunsOpened, VaultView,
};
pub use limits::{FENCING, Limit, NO_BACKUP, limits};
pub use posture::{AGE_UNKNOWN_MS, Posture, PostureLine, age, posture};
pub use requests::{
    DrillReport, DrillRequest, DrillTimes, Explanation, InitDone, InitRequest, JoinDone, JoinRequest,
    JoinToken, JoinTokenInfo, JoinTokenRequest, NodeStateChange, NodeWanted, Program, Reason, ServiceCreate,
    ServiceMove, ServiceStateChange, ServiceWanted, TimingChange, VolumeCreate,
};
pub use restore::{RestoreStand, RestoreStart, RestoreView};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;
pub use volume::{ReplicaState, ReplicaView, Resync, Resynced, VolumeView};
pub use what_if::{WhatIf, what_if};

/// Knowledge of a replica or node older than this is not "now": nothing resting on it is shown as protected. Twice
/// the time after which a node counts as silent.
pub const HEARD_MS_MAX: u64 = 2_000;

/// The state of the site as one node knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SiteStatus {
    /// Is it safe, and what would the next failure do.
    pub posture: Posture,
    /// What the posture rests on.
    #[serde(flatten)]
    pub facts: Facts,
    /// What the death of each node would do.
    pub what_if: Vec<WhatIf>,
    /// What this site does not protect from, whatever its level.
    #[serde(default)]
    pub limits: Vec<Limit>,
}

impl SiteStatus {
    /// The status that follows from `facts`.
    #[must_use]
    pub fn from_facts(facts: Facts) -> Self {
        Self { posture: posture(&facts), what_if: what_if(&facts), limits: limits(&facts), facts }
    }
}

/// What one node has observed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Facts {
    /// Name of the site.
    pub site: String,
    /// The node that answers.
    pub this_node: String,
    /// When it looked, RFC 3339.
    pub at: String,
    /// Whether the ledger can decide.
    pub quorum: Quorum,
    /// Every configured node.
    pub nodes: Vec<NodeView>,
    /// Every configured volume.
    pub volumes: Vec<VolumeView>,
    /// Every configured service.
    pub services: Vec<ServiceView>,
    /// What happened last, newest first; bounded by the daemon.
    pub recent: Vec<Happening>,
    /// Failovers and moves, newest first; bounded by the daemon.
    #[serde(default)]
    pub passages: Vec<PassageView>,
    /// The times that everything runs by.
    #[serde(default)]
    pub times: Times,
    /// Whether a server that does not answer can be switched off from outside.
    #[serde(default)]
    pub machine_fencing: bool,
    /// Backups.
    #[serde(default)]
    pub backups: BackupFacts,
}

impl Facts {
    /// The node of that name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&NodeView> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The volume of that name.
    #[must_use]
    pub fn volume(&self, name: &str) -> Option<&VolumeView> {
        self.volumes.iter().find(|volume| volume.name == name)
    }

    /// Whether the ledger, as far as this node knows, can decide now.
    #[must_use]
    pub fn quorate(&self) -> bool {
        let present = self.quorum.voters.iter().filter(|voter| voter.present).count();
        self.quorum.have
            && !self.quorum.stale
            && self.quorum.votes_present >= self.quorum.votes_needed
            && self.quorum.votes_needed > 0
            && present >= self.quorum.votes_needed as usize
    }
}

/// The times that everything runs by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Times {
    /// Between two signs of life.
    pub heartbeat_ms: u64,
    /// A node or copy that was not heard for this long counts as silent.
    pub silence_ms: u64,
    /// How long a primary may serve after asking its copies for leave.
    pub lease_ms: u64,
    /// By how much copies wait longer than that, in thousandths.
    pub drift_permille: u32,
    /// How long the kernel keeps an address that nobody renews, at most.
    pub address_left_ms: u64,
}

/// Whether the ledger can decide, as seen from the node that answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Quorum {
    /// Whether this node hears a leader that a majority follows.
    pub have: bool,
    /// Voters heard from, this node's own included.
    pub votes_present: u32,
    /// Votes that a decision needs.
    pub votes_needed: u32,
    /// Every voter.
    pub voters: Vec<VoterView>,
    /// Node of the ledger's leader, if one is known.
    pub leader: Option<String>,
    /// How long ago this node last knew its ledger to be current.
    pub ledger_age_ms: u64,
    /// True if the ledger's contents shown here may be out of date.
    pub stale: bool,
}

/// One voter of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VoterView {
    /// The node it runs on.
    pub node: String,
    /// Whether it counts now: it was heard from just now, and votes.
    pub present: bool,
    /// Its number in the ledger.
    #[serde(default)]
    pub id: u64,
    /// What it is doing.
    #[serde(default)]
    pub state: VoterState,
    /// Why it is in that state, where that is not plain.
    #[serde(default)]
    pub why: Option<String>,
}

/// What a voter is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VoterState {
    /// Votes.
    #[default]
    Votes,
    /// Is heard, and learns what was decided before it votes.
    CatchingUp,
    /// Forgot what it confirmed; is silent and is being replaced by a new one.
    Rejoining,
    /// Is not heard.
    Silent,
}

/// What a node is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Holds replicas and runs services; votes.
    Data,
    /// Votes, stores no data.
    Witness,
    /// Serves a vault; votes.
    Vault,
}

/// What a node is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// Heard from, and may run services.
    Online,
    /// Not heard from.
    Offline,
    /// Heard from; runs no services by request.
    Standby,
    /// Heard from; what runs there is left alone by request.
    Maintenance,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Its number in the ledger.
    pub id: u32,
    /// What it is for.
    pub roles: Vec<Role>,
    /// What it is doing.
    pub state: NodeState,
    /// How long ago it was heard from; 0 for the node that answers, None for never.
    pub last_heard_ms: Option<u64>,
    /// True if it is reached only through another node.
    pub relayed: bool,
    /// The version of anshin it runs, if known.
    pub version: Option<String>,
    /// Its address for other nodes.
    pub address: String,
}

/// What a service or resource is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// Up, and its monitors say so.
    Running,
    /// On its way up.
    Starting,
    /// On its way down.
    Stopping,
    /// Down, as requested.
    Stopped,
    /// Down or broken although it should run.
    Failed,
    /// Should run, but may not run anywhere now.
    Blocked,
    /// Nobody knows.
    Unknown,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceView {
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub state: RunState,
    /// Where.
    pub node: Option<String>,
    /// Since when it is in this state, RFC 3339.
    pub since: Option<String>,
    /// The address under which it is reached, with prefix length.
    pub address: Option<String>,
    /// The volumes it stands on.
    pub volumes: Vec<String>,
    /// Its parts, in starting order.
    pub resources: Vec<ResourceView>,
    /// Why it is where it is, or why it is not running.
    pub why: String,
    /// The nodes with a copy on which it would not be started now although they live, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub barred: BTreeMap<String, String>,
}

/// One part of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResourceView {
    /// Its name.
    pub name: String,
    /// Its agent, for example `ocf:heartbeat:Filesystem`, `systemd`, `volume`, `address`.
    pub kind: String,
    /// What it is doing.
    pub state: RunState,
    /// Where.
    pub node: Option<String>,
    /// What its last operation said.
    pub last_result: Option<String>,
    /// Failures counted against it on that node.
    pub fail_count: u32,
}

/// A failover or move, point by point. Points count from `at`, on the clock of the node that saw them: of a failover the
/// last sign of life of the lost node, of a move the moment at which it was asked for. None for a point that was not
/// taken, or not reached yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PassageView {
    /// The service.
    pub service: String,
    /// Whether it was asked for; otherwise a node was lost.
    pub planned: bool,
    /// Where it ran.
    pub from: String,
    /// Where it went.
    pub to: Option<String>,
    /// The node that saw it.
    pub seen_by: String,
    /// When it began, RFC 3339.
    pub at: String,
    /// The node was judged lost; none in a move, where there is nothing to detect.
    pub detected_ms: Option<u64>,
    /// The promotion was proposed; in a move, the plan was made.
    pub decided_ms: Option<u64>,
    /// The old primary gave up its role; in a move only.
    pub released_ms: Option<u64>,
    /// The ledger recorded the new primary.
    pub promoted_ms: Option<u64>,
    /// Its device was there.
    pub device_ms: Option<u64>,
    /// Its file system was mounted.
    pub mounted_ms: Option<u64>,
    /// The address was there.
    pub address_ms: Option<u64>,
    /// The program ran.
    pub program_ms: Option<u64>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Happening {
    /// When, RFC 3339.
    pub at: String,
    /// Where; None if it concerns the site.
    pub node: Option<String>,
    /// What, one sentence.
    pub what: String,
    /// Why, one sentence; empty for what needs no reason.
    pub why: String,
}

/// How much is known of how well something is protected, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Any one server may die now.
    Green,
    /// Running, but the next failure may stop it.
    Amber,
    /// Not known: what is shown is old.
    Unknown,
    /// A promise is broken now: stopped, suspended or lost.
    Red,
}

#[cfg(test)]
mod backup_tests;
#[cfg(test)]
mod tests;
