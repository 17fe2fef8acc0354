//! What the leader sees of the site.

use crate::{
    plan::Inventory,
    record::{Place, Progress, Sealed},
    words::{Attempt, ClientId, RunId, VaultName},
};
use anshin_base::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSeen {
    /// Its name.
    pub name: String,
    /// Whether it counts as alive. A node that is not alive executes nothing that still counts.
    pub alive: bool,
    /// The present start of its daemon; None while it is not heard.
    pub session: Option<u64>,
}

/// A client that is connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientSeen {
    /// The present start of its daemon.
    pub session: u64,
}

/// A vault.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VaultSeen {
    /// None if it can be written; otherwise why not.
    pub trouble: Option<String>,
    /// Snapshots that name a run, at least those newer than the oldest open run.
    pub snapshots: Vec<(RunId, Attempt, Sealed)>,
}

/// What an executor says of an attempt. It repeats its last word until it is told to drop the attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptSeen {
    /// Which run.
    pub run: RunId,
    /// Which attempt.
    pub attempt: Attempt,
    /// Who says so.
    pub place: Place,
    /// In which start of its daemon.
    pub session: u64,
    /// What it says.
    pub state: AttemptState,
}

/// Where an attempt stands, by its executor's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttemptState {
    /// Under way.
    Working(Progress),
    /// Its snapshot is in the vault.
    Sealed(Sealed),
    /// It has ended without a snapshot, and none will come of it.
    Failed {
        /// Why.
        reason: String,
        /// False if another attempt would fail the same way.
        again: bool,
    },
}

/// Everything the leader sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// What the site has.
    pub inventory: Inventory,
    /// Its nodes.
    pub nodes: BTreeMap<NodeId, NodeSeen>,
    /// Clients that are connected.
    pub clients: BTreeMap<ClientId, ClientSeen>,
    /// Where services run.
    pub services: BTreeMap<String, NodeId>,
    /// Where volumes are primary.
    pub volumes: BTreeMap<String, NodeId>,
    /// The vaults.
    pub vaults: BTreeMap<VaultName, VaultSeen>,
    /// What executors say.
    pub attempts: Vec<AttemptSeen>,
}
