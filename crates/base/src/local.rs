//! What a volume process and the voter of its node say to each other over a Unix socket.
//!
//! The voter process holds the ledger and every link for control traffic, and outlives a restart of the control daemon;
//! so a primary can remove a silent member even while the daemon is gone (R17). Messages are postcard inside
//! [`crate::frame`] frames.

use crate::{
    group::{ChangeRefused, GroupChange, GroupEntry},
    ids::{GroupId, LedgerEpoch, LedgerIndex, NodeId, ReplicaId, SessionId},
};
use serde::{Deserialize, Serialize};

/// Where a replica of the group lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaPlace {
    /// The replica, once its node has made it.
    pub replica: ReplicaId,
    /// On which node.
    pub node: NodeId,
    /// `address:port` of the volume process's data link, most preferred first.
    pub addresses: Vec<String>,
}

/// What is known of one replica: sent by its volume process to its voter, spread by liveness messages (R7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaReport {
    /// The group.
    pub group: GroupId,
    /// The replica.
    pub replica: ReplicaId,
    /// Its present session.
    pub session: SessionId,
    /// The highest progress number it has made durable.
    pub progress: u64,
    /// False for a replica that must not be promoted: an old image, a damaged one, one still being resynced.
    pub promotable: bool,
    /// The newest ledger index of the group stored on the replica; it refuses an older ledger (R8).
    pub ledger_index: LedgerIndex,
}

/// From a volume process to the voter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToVoter {
    /// First message: which group this process serves, and its report. Also sent whenever the report changes.
    Report(ReplicaReport),
    /// A change to propose. Answered by [`FromVoter::Outcome`] with the same number, unless the link breaks first,
    /// which means unknown (R3).
    Propose {
        /// Chosen by the sender.
        request: u64,
        /// What to change.
        change: GroupChange,
    },
}

/// What became of a proposal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Committed and applied; this is the entry right after it.
    Applied(GroupEntry),
    /// Committed in the log but refused by the compare; the present entry follows by [`FromVoter::View`].
    Refused(ChangeRefused),
    /// Nobody knows whether it will be applied; read before proposing again (R3).
    Unknown,
}

/// From the voter to a volume process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromVoter {
    /// The newest state of the group that this node's ledger has applied. Sent at once and at every change.
    View {
        /// Epoch of the ledger.
        epoch: LedgerEpoch,
        /// Index at which the entry last changed.
        index: LedgerIndex,
        /// The entry; None before the group's creation.
        entry: Option<GroupEntry>,
        /// Every configured replica of the group.
        places: Vec<ReplicaPlace>,
        /// Highest progress number that any party has seen, per replica (R7).
        highest: Vec<(ReplicaId, u64)>,
        /// Whether this node's ledger has heard from a leader within its election time.
        quorate: bool,
    },
    /// Answer to a proposal.
    Outcome {
        /// The sender's number.
        request: u64,
        /// What became of it.
        outcome: Outcome,
    },
}
