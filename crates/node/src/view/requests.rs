//! What can be asked of a node, and what it answers.

use super::{RestoreDrill, Role};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Start a site. Carried out by the command on the first node, before any daemon runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InitRequest {
    /// Name of the new site.
    pub site: String,
    /// Name of this node; its host name if not given.
    pub node: Option<String>,
    /// Address under which other nodes reach this one; the one of the default route if not given.
    pub address: Option<String>,
}

/// A site was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InitDone {
    /// Name of the site.
    pub site: String,
    /// Name of this node.
    pub node: String,
    /// Address for other nodes.
    pub address: String,
    /// The first join token; None if the daemon is not running yet.
    pub token: Option<JoinToken>,
}

/// Join a site. Carried out by the command on the new node, before any daemon runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JoinRequest {
    /// As printed by `init` or `token create`.
    pub token: String,
    /// What the node will be for.
    pub roles: Vec<Role>,
    /// Name of this node; its host name if not given.
    pub node: Option<String>,
    /// Address under which other nodes reach this one; the one that reaches the site if not given.
    pub address: Option<String>,
}

/// A node joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JoinDone {
    /// Name of the site.
    pub site: String,
    /// Name of this node.
    pub node: String,
    /// Its number in the ledger.
    pub id: u32,
    /// A token for the next server; None if the site could not make one.
    pub token: Option<JoinToken>,
}

/// Make a join token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JoinTokenRequest {
    /// How long it can be used; the site's default if not given.
    pub valid_s: Option<u64>,
}

/// A join token. It is shown once; the site keeps only its fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JoinToken {
    /// To name it later.
    pub id: String,
    /// The token.
    pub token: String,
    /// Until when it can be used, RFC 3339.
    pub expires: String,
}

/// A token that has not been used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JoinTokenInfo {
    /// To name it.
    pub id: String,
    /// Until when it can be used, RFC 3339.
    pub expires: String,
}

/// Make a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeCreate {
    /// Its name.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// Which nodes hold a copy; empty for every data node.
    #[serde(default)]
    pub nodes: Vec<String>,
    /// Where to mount it on the primary; None for a bare device.
    pub mount: Option<String>,
    /// Which file system to make on it; None for the default if it is to be mounted.
    pub filesystem: Option<String>,
}

/// What a service runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Program {
    /// A systemd unit.
    Systemd {
        /// Its full name.
        unit: String,
    },
    /// An OCF agent.
    Ocf {
        /// `provider:type`.
        agent: String,
        /// Its parameters.
        parameters: BTreeMap<String, String>,
    },
    /// A program that is part of anshin, such as `demo`.
    BuiltIn {
        /// Which.
        what: String,
        /// Its parameters.
        parameters: BTreeMap<String, String>,
    },
    /// A program that stays in the foreground.
    Command {
        /// The program and its arguments.
        arguments: Vec<String>,
    },
}

/// Make a service (`protect`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceCreate {
    /// Its name.
    pub name: String,
    /// What it runs.
    pub program: Program,
    /// The volumes it stands on.
    pub volumes: Vec<String>,
    /// The address under which it is reached, with prefix length.
    pub address: Option<String>,
    /// Where it prefers to run.
    pub prefer: Option<String>,
}

/// Move a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceMove {
    /// Where; the best other node if not given.
    pub to: Option<String>,
}

/// Whether a service should run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceWanted {
    /// It should.
    Running,
    /// It should not.
    Stopped,
}

/// Start or stop a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceStateChange {
    /// What it should do.
    pub state: ServiceWanted,
}

/// What a node should be doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NodeWanted {
    /// Run services.
    Active,
    /// Run none: what runs there moves away.
    Standby,
    /// Be left alone: nothing there is started, stopped or recovered.
    Maintenance,
}

/// Change what a node should be doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeStateChange {
    /// What it should be doing.
    pub state: NodeWanted,
}

/// Change the times that the site runs by; what is not given stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TimingChange {
    /// After how long a node or copy counts as silent. Nodes go by it at once, a volume's processes from their next start.
    pub silence_ms: Option<u64>,
    /// How long a lease lasts. Only while there is no volume.
    pub lease_ms: Option<u64>,
    /// Between two signs of life. Processes go by it from their next start.
    pub heartbeat_ms: Option<u64>,
}

/// Rehearse.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrillRequest {
    /// Which service; the only one if not given.
    pub service: Option<String>,
    /// Whether to really move the service to another node; without it only what would happen is checked.
    #[serde(default)]
    pub failover: bool,
}

/// Where the time of a failover or move went. None for a step that was not taken or not measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrillTimes {
    /// Until the failure was noticed; none in a planned move.
    pub detection_ms: Option<u64>,
    /// Until it was decided where to go on; in a planned move, until the plan was made.
    pub decision_ms: Option<u64>,
    /// Until everything was stopped where it ran; in a planned move only.
    #[serde(default)]
    pub stop_ms: Option<u64>,
    /// Until the copy there served as primary.
    pub promotion_ms: Option<u64>,
    /// Until its file system was mounted.
    pub mount_ms: Option<u64>,
    /// Until the address was there.
    pub address_ms: Option<u64>,
    /// Until the program answered.
    pub program_ms: Option<u64>,
}

/// What a rehearsal showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrillReport {
    /// When it began, RFC 3339.
    pub at: String,
    /// Which service.
    pub service: String,
    /// Where it ran.
    pub from: String,
    /// Where it runs now, or would run.
    pub to: Option<String>,
    /// Whether the service was really moved.
    pub moved: bool,
    /// Whether it did, or would, go well.
    pub passed: bool,
    /// What was found, one sentence each.
    pub findings: Vec<String>,
    /// The measured times.
    pub times: DrillTimes,
    /// From the first step to the last; None if nothing was moved.
    pub total_ms: Option<u64>,
    /// What was brought back into scratch and judged there.
    #[serde(default)]
    pub restores: Vec<RestoreDrill>,
}

/// Why something is as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// What was asked about: a node, volume or service.
    pub subject: String,
    /// The answer, one sentence.
    pub answer: String,
    /// What it rests on.
    pub because: Vec<Reason>,
    /// What was considered and not done.
    pub rejected: Vec<Reason>,
}

/// A fact with where it comes from, or an alternative with why it was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reason {
    /// The fact or the alternative.
    pub what: String,
    /// The evidence, or why not.
    pub why: String,
}
