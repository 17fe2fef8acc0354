//! What the daemon and the voter of its node say to each other over the voter's Unix socket.
//!
//! Postcard in frames of [`anshin_base::frame`], of kind [`KIND`]. The daemon speaks first ([`ToVoter::Hello`]), the voter
//! answers with [`FromVoter::Welcome`] or closes. Fields and variants are only appended. Volume processes use the same
//! socket with frames of kind [`VOLUME_KIND`] and the messages of [`anshin_base::local`].

use super::beat::Beat;
use anshin_base::{GroupId, LedgerEpoch, LedgerIndex, NodeId, VoterId};
use anshin_ledger::{Applied, Command, Refused, State};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Kind of the frames of this protocol.
pub const KIND: u16 = 3;
/// Kind of the frames between volume processes and the voter.
pub const VOLUME_KIND: u16 = 2;
/// Version of this protocol; the state and the commands in it are those of the ledger's format of the same number.
pub const VERSION: u16 = 2;
/// Version of the volume processes' protocol.
pub const VOLUME_VERSION: u16 = 1;
/// Longest frame in bytes: the ledger's state, or a control message.
pub const FRAME_LENGTH_MAX: usize = 24 << 20;
/// Longest control message between daemons in bytes.
pub const CONTROL_LENGTH_MAX: usize = 16 << 20;

/// How much each replication group is wanted on each node: policy's word to whoever promotes.
pub type Wanted = BTreeMap<GroupId, BTreeMap<NodeId, i64>>;

/// From the daemon to the voter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "each is encoded as soon as it is made")]
pub enum ToVoter {
    /// First message.
    Hello {
        /// Oldest protocol version that the daemon speaks.
        version_min: u16,
        /// Newest one.
        version_max: u16,
    },
    /// Send the ledger's state, the voter's status and the table of nodes now and whenever they change.
    Subscribe,
    /// A change to propose. Answered by [`FromVoter::Outcome`].
    Propose {
        /// Chosen by the daemon.
        request: u64,
        /// What to change.
        command: Command,
    },
    /// A linearizable read: answered by [`FromVoter::ReadReady`] when the state sent last holds at least everything
    /// that was committed when this was asked; or not at all: ask again after a while.
    Read {
        /// Chosen by the daemon.
        request: u64,
    },
    /// A message for the daemon of another node (or of this one). Loss is allowed and not told, except where no way
    /// is known at once.
    Send {
        /// Whose daemon.
        to: NodeId,
        /// The message, at most [`CONTROL_LENGTH_MAX`] bytes.
        body: Vec<u8>,
    },
    /// On which nodes each group should be active and how well each suits: while this voter leads it promotes
    /// accordingly. The last word stands when the daemon is gone; before the first one, and after None, the voter goes
    /// by what the ledger says of services. A group that is missing is left without a primary once it has none.
    Wanted(Option<Wanted>),
    /// What the node's heartbeats carry for other daemons from now on, at most 64 KiB; nothing once the daemon is gone.
    Health(Vec<u8>),
    /// Hand leadership of the ledger to this node's voter, if this one leads.
    HandOver {
        /// To whom.
        to: NodeId,
    },
}

/// From the voter to the daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromVoter {
    /// Answer to [`ToVoter::Hello`].
    Welcome {
        /// The version that is spoken from now on.
        version: u16,
        /// This node.
        node: NodeId,
        /// This voter.
        voter: VoterId,
        /// The voter's build.
        build: String,
    },
    /// The newest state that this node has applied. Several changes may arrive as one.
    Ledger {
        /// Epoch of the ledger.
        epoch: LedgerEpoch,
        /// Position of the last applied entry.
        index: LedgerIndex,
        /// The state.
        state: Box<State>,
    },
    /// What became of the voter.
    Status(Status),
    /// Every node as the mesh sees it; sent with each heartbeat.
    Nodes(Vec<NodeLiveness>),
    /// Answer to a proposal.
    Outcome {
        /// The daemon's number.
        request: u64,
        /// What became of it.
        outcome: ProposalOutcome,
    },
    /// Answer to a read. The state that answers it was sent before.
    ReadReady {
        /// The daemon's number.
        request: u64,
        /// The state's position.
        index: LedgerIndex,
    },
    /// A message from another node's daemon.
    Received {
        /// Whose.
        from: NodeId,
        /// The message.
        body: Vec<u8>,
    },
    /// A message was not sent: there is no way to the node now, or too much waits for it.
    NotSent {
        /// For whom it was.
        to: NodeId,
        /// Why.
        why: String,
    },
    /// Something that an operator should know.
    Notice(Notice),
    /// This voter, which leads, decided on a new primary because the node of the old one was lost.
    Lost {
        /// The group.
        group: GroupId,
        /// The node that was lost.
        node: NodeId,
        /// Milliseconds since its last sign of life.
        heard_ago: u64,
        /// Milliseconds since it was judged dead.
        judged_ago: u64,
    },
}

/// What became of a proposal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProposalOutcome {
    /// Committed and applied.
    Applied(Applied),
    /// Committed and refused; nothing changed.
    Refused(Refused),
    /// Certainly in no log: propose again.
    Dropped,
    /// Nobody knows whether it will be applied; read before proposing again (R3).
    Unknown,
}

/// What the voter is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whether it leads.
    pub leads: bool,
    /// Which node leads, as far as known.
    pub leader: Option<NodeId>,
    /// Whether it has heard from a leader within its election time.
    pub quorate: bool,
    /// Who votes.
    pub voters: Vec<VoterId>,
    /// Who learns.
    pub learners: Vec<VoterId>,
    /// Why it is silent for ever and must rejoin under a new id (R8), if so.
    pub silenced: Option<String>,
    /// Why groups without a primary have none, by group, while this voter leads.
    pub stuck: BTreeMap<GroupId, String>,
}

/// One node as seen from here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLiveness {
    /// Which.
    pub node: NodeId,
    /// Milliseconds since its last heartbeat by any way; None if none came since this process started.
    pub heard: Option<u64>,
    /// Milliseconds since its last heartbeat without a relay.
    pub heard_directly: Option<u64>,
    /// Whether the link to it stands.
    pub linked: bool,
    /// The node that messages to it are relayed by now.
    pub relay: Option<NodeId>,
    /// Time to it and back, in microseconds.
    pub round_trip_micros: Option<u64>,
    /// Number of its voter process's start.
    pub incarnation: u64,
    /// Its ledger's epoch.
    pub epoch: LedgerEpoch,
    /// What its last heartbeat carried.
    pub beat: Option<Beat>,
}

/// Something that an operator should know. Variants are only appended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notice {
    /// This voter lost memory of what it confirmed: it is silent and must rejoin under a new id (R8).
    MustRejoin {
        /// Why.
        why: String,
    },
    /// Another voter came back with less than it had confirmed (R8). No longer sent: that voter says so itself.
    Expelled {
        /// Which voter.
        voter: VoterId,
    },
    /// Another node speaks for a newer epoch: this ledger is outdated (R9).
    NewerEpoch {
        /// The epoch.
        epoch: LedgerEpoch,
    },
    /// A replica presented less progress than was seen of it before: a restored old image (R7).
    OldImage {
        /// Which replica.
        replica: anshin_base::ReplicaId,
        /// What it presents.
        presented: u64,
        /// What was seen.
        seen: u64,
    },
}
