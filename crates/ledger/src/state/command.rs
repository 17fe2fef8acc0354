//! What can be proposed to the ledger, and what comes of it.

use super::{
    Decision, FenceRecord, JoinToken, NodeState, Ports, Replica, Roles, Service, ServiceTarget, Site, Timing,
    UnixSeconds, Volume,
};
use anshin_base::{ChangeRefused, GroupChange, GroupEntry, NodeId, ReplicaId, VoterId};
use anshin_director::record;
use serde::{Deserialize, Serialize};

/// A node that asks to join; the ledger gives it its ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewNode {
    /// Host name, unique.
    pub name: String,
    /// IP addresses, most preferred first.
    pub addresses: Vec<String>,
    /// Ports on each of them.
    pub ports: Ports,
    /// What it will do.
    pub roles: Roles,
    /// SHA-256 of its certificate, hexadecimal.
    pub fingerprint: String,
}

/// A change of the ledger. Variants are only appended; their order is part of the format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// A change of a replication group's entry (R3).
    Group(GroupChange),
    /// Names the site; once.
    InitSite(Site),
    /// Replaces the times.
    SetTiming(Timing),
    /// Adds the first node, which needs no token. Refused once there is a node.
    FirstNode(NewNode),
    /// Adds a token.
    AddToken(JoinToken),
    /// Removes a token.
    RemoveToken {
        /// Hash of the token.
        hash: String,
    },
    /// Adds a node by using up a token, in one step: of two that present the same token one is refused.
    Join {
        /// Hash of the token.
        token: String,
        /// The proposer's clock, compared with the expiry.
        at: UnixSeconds,
        /// Who joins.
        node: NewNode,
    },
    /// Sets what the operator wants of a node.
    SetNodeState {
        /// Which node.
        node: NodeId,
        /// What is wanted.
        state: NodeState,
    },
    /// Sets or, with None, removes an attribute of a node.
    SetNodeAttribute {
        /// Which node.
        node: NodeId,
        /// Which attribute.
        name: String,
        /// Its value.
        value: Option<String>,
    },
    /// Replaces a node's addresses and ports.
    SetNodeAddresses {
        /// Which node.
        node: NodeId,
        /// IP addresses, most preferred first.
        addresses: Vec<String>,
        /// Ports on each of them.
        ports: Ports,
    },
    /// Gives a node whose voter lost its memory a new voter id (R8). Answered by [`Applied::Voter`].
    NewVoter {
        /// Which node.
        node: NodeId,
        /// The voter that is replaced; refused if the node has another by now.
        old: VoterId,
    },
    /// Removes a node that holds no replica.
    RemoveNode {
        /// Which node.
        node: NodeId,
    },
    /// Adds a volume.
    CreateVolume(Volume),
    /// Adds or replaces a volume's replica on a node.
    SetReplica {
        /// Which volume.
        volume: String,
        /// On which node.
        node: NodeId,
        /// The replica.
        replica: Replica,
    },
    /// Records the id that a node gave to the replica it made (`Create` of the group comes with the first).
    ReplicaMade {
        /// Which volume.
        volume: String,
        /// On which node.
        node: NodeId,
        /// The id on its disk.
        replica: ReplicaId,
    },
    /// Removes a replica that is not in the in-sync set.
    RemoveReplica {
        /// Which volume.
        volume: String,
        /// On which node.
        node: NodeId,
    },
    /// Removes a volume and its group's entry. Refused while a service stands on it.
    RemoveVolume {
        /// Which volume.
        volume: String,
    },
    /// Adds or replaces a service.
    SetService(Service),
    /// Sets what the operator wants of a service.
    SetServiceTarget {
        /// Which service.
        service: String,
        /// What is wanted.
        target: ServiceTarget,
    },
    /// Sets where a service is wanted (a planned move).
    SetServicePreferred {
        /// Which service.
        service: String,
        /// Where.
        preferred: Option<NodeId>,
    },
    /// Removes a service.
    RemoveService {
        /// Which service.
        service: String,
    },
    /// Records that a node was declared dead.
    Fenced(FenceRecord),
    /// The node is back and clean.
    Unfenced {
        /// Which node.
        node: NodeId,
    },
    /// Adds a line to the decision history.
    Decide(Decision),
    /// A change of the director's records: plans, vaults, clients, runs. Answered by [`Applied::Director`].
    Director(record::Change),
}

/// What an accepted command did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applied {
    /// Nothing to tell.
    Done,
    /// The entry right after the change.
    Group(GroupEntry),
    /// A node was added under these ids.
    Node {
        /// The node.
        node: NodeId,
        /// Its voter, to be added to the consensus group.
        voter: VoterId,
    },
    /// A node has this new voter.
    Voter(VoterId),
    /// The director's records were changed.
    Director(record::Applied),
}

/// Why a command was refused. The state is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refused {
    /// A group's change was refused.
    #[error(transparent)]
    Group(#[from] ChangeRefused),
    /// There is one of that name already.
    #[error("{0} exists already")]
    Exists(String),
    /// There is none of that name.
    #[error("there is no {0}")]
    Missing(String),
    /// The token was used before.
    #[error("the join token was used before")]
    TokenUsed,
    /// The token is too old.
    #[error("the join token has expired")]
    TokenExpired,
    /// The token does not allow these roles.
    #[error("the join token is not for this role")]
    TokenRoles,
    /// Something else rests on it.
    #[error("{what} is needed by {by}")]
    InUse {
        /// What should go.
        what: String,
        /// What needs it.
        by: String,
    },
    /// The node has another voter by now.
    #[error("the voter was replaced before")]
    VoterReplaced,
    /// A list has reached its bound.
    #[error("there are too many of {0}")]
    Full(String),
    /// A change of the director's records was refused.
    #[error(transparent)]
    Director(#[from] record::Refused),
}
