//! The site, its nodes, and what was decided about them.

use anshin_base::{Millis, NodeId, VoterId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Seconds since 1970 by the proposer's clock. For people and for expiry; no write rests on it (R11).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixSeconds(pub u64);

/// The site as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// The name given at `init`.
    pub name: String,
    /// Random number made at `init`; two sites of one name are still two sites.
    pub id: u64,
    /// Certificate of the site's own authority (PEM).
    pub ca_certificate: String,
    /// Times everything runs by.
    pub timing: Timing,
}

/// Every tunable time in one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// How often a sign of life is sent.
    pub heartbeat: Millis,
    /// A node or peer that was not heard for this long counts as silent.
    pub silent: Millis,
    /// How long a lease lasts from the sending of its request (R11).
    pub lease: Millis,
    /// By how much the grantor waits longer, in thousandths of the lease.
    pub drift_permille: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Self { heartbeat: Millis(100), silent: Millis(1_000), lease: Millis(900), drift_permille: 20 }
    }
}

/// TCP ports of a node's services that have one each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// HTTPS for joining.
    pub join: u16,
    /// Mesh of the voter processes.
    pub voter: u16,
    /// The vault process, on nodes that serve one.
    #[serde(default = "vault_port")]
    pub vault: u16,
}

fn vault_port() -> u16 {
    Ports::default().vault
}

impl Default for Ports {
    fn default() -> Self {
        Self { join: 7800, voter: 7801, vault: 7805 }
    }
}

/// What a node does besides voting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roles {
    /// Holds replicas and runs services.
    pub data: bool,
    /// Votes only; the last choice as leader.
    pub witness: bool,
    /// Serves a vault, whatever else it does.
    #[serde(default)]
    pub vault: bool,
}

impl Roles {
    /// Everything a node can be: what a token allows that was not made for something narrower.
    pub const ALL: Self = Self { data: true, witness: true, vault: true };

    /// Whether every role of these is also one of `other`.
    #[must_use]
    pub fn within(self, other: Self) -> bool {
        let pairs = [(self.data, other.data), (self.witness, other.witness), (self.vault, other.vault)];
        pairs.into_iter().all(|(wanted, allowed)| allowed || !wanted)
    }
}

/// What the operator wants of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeState {
    /// Takes part in everything.
    #[default]
    Active,
    /// Keeps its replicas in sync but runs no services.
    Standby,
    /// Nothing on it is started, stopped or moved.
    Maintenance,
    /// Is being emptied and will be removed.
    Leaving,
}

/// A server of the site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Given at join, never reused.
    pub id: NodeId,
    /// Host name, unique.
    pub name: String,
    /// IP addresses, most preferred first.
    pub addresses: Vec<String>,
    /// Ports on each of them.
    pub ports: Ports,
    /// What it does.
    pub roles: Roles,
    /// Its voter in the consensus engine. A node whose voter lost its memory comes back under a new one (R8).
    pub voter: VoterId,
    /// SHA-256 of its certificate, hexadecimal.
    pub fingerprint: String,
    /// What the operator wants of it.
    pub state: NodeState,
    /// Free attributes for placement rules.
    pub attributes: BTreeMap<String, String>,
}

/// A right to join, used once. The secret itself is never stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// Blake3 or SHA-256 of the secret, hexadecimal, as its maker chose; the key of the token.
    pub hash: String,
    /// What the joining node may become.
    pub roles: Roles,
    /// Not valid after this.
    pub expires: UnixSeconds,
    /// Which node used it.
    pub used_by: Option<NodeId>,
}

/// How it is known that a node does not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FenceProof {
    /// It was silent for longer than every lease it could hold; leases and generations exclude it (R11, R12).
    LeaseBound,
    /// A fence agent confirmed that it is off.
    Agent {
        /// Which agent.
        agent: String,
        /// What it said.
        output: String,
    },
    /// An operator stated it.
    Operator {
        /// Who.
        operator: String,
    },
}

/// A node that was declared dead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceRecord {
    /// Which node.
    pub node: NodeId,
    /// When it was declared.
    pub at: UnixSeconds,
    /// How this is proven.
    pub proof: FenceProof,
    /// Why it was declared.
    pub reason: String,
}

/// One line of the decision history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// When.
    pub at: UnixSeconds,
    /// Who decided: an operator or a part of anshin.
    pub by: String,
    /// What it is about: `volume/data`, `service/db`, `node/a`.
    pub subject: String,
    /// What was decided.
    pub what: String,
    /// Why.
    pub reason: String,
}
