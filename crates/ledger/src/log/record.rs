//! What a batch of the log holds.

use crate::engine::{
    Seen,
    message::{LogEntry, SnapshotImage},
};
use anshin_base::{LedgerEpoch, NodeId, ReplicaId, VoterId};
use serde::{Deserialize, Serialize};

/// Whose log this is. Part of every base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// [`crate::state::Site::id`].
    pub site: u64,
    /// The node.
    pub node: NodeId,
    /// The voter.
    pub voter: VoterId,
    /// Epoch of the ledger (R9).
    pub epoch: LedgerEpoch,
}

/// One record; a later one replaces an earlier one of its kind. Variants are only appended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// First record of every base.
    Identity(Identity),
    /// The state machine up to an index; every earlier entry is gone with it.
    Snapshot(SnapshotImage),
    /// Term, vote and commit index of the consensus engine.
    Hard {
        /// Present term.
        term: u64,
        /// Voted for, 0 for nobody.
        vote: u64,
        /// Known to be committed.
        commit: u64,
    },
    /// Entries in a row. They replace every entry from the first one's index on.
    Entries(Vec<LogEntry>),
    /// What a peer has confirmed to this voter (R8).
    Seen {
        /// The peer.
        peer: VoterId,
        /// The newest confirmation.
        seen: Seen,
    },
    /// The highest progress seen of a replica (R7).
    Progress {
        /// The replica.
        replica: ReplicaId,
        /// Its number.
        progress: u64,
    },
    /// This voter was expelled and stays silent for ever.
    Silenced {
        /// Why.
        why: String,
    },
}
