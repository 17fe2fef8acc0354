//! What voters say to each other: own types, postcard behind a version. The raft crate's protobuf codec never sees
//! foreign bytes.

use crate::state::codec::{self, CodecError};
use anshin_base::{LedgerEpoch, ReplicaId, VoterId};
use serde::{Deserialize, Serialize};

/// The version of envelopes.
const VERSION: u16 = 1;
/// Largest encoded envelope: a snapshot plus its frame.
pub const ENVELOPE_BYTES_MAX: usize = 20 << 20;
/// Bytes that are not an envelope.
pub type MessageError = CodecError;

/// What a voter's disk held when it started: compared with what it had confirmed before (R8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attest {
    /// Random number of the start.
    pub incarnation: u64,
    /// Hard-state term at the start.
    pub term: u64,
    /// Last index of the log at the start.
    pub last: u64,
}

/// A message between voters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Epoch of the sender's ledger (R9).
    pub epoch: LedgerEpoch,
    /// Sender.
    pub from: VoterId,
    /// Receiver.
    pub to: VoterId,
    /// What the sender's disk held when it started.
    pub boot: Attest,
    /// The sender's present term, durable.
    pub term: u64,
    /// The message proper.
    pub body: Body,
}

/// Variants are only appended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// For the consensus engine.
    Raft(RaftMessage),
    /// Your messages are not accepted.
    Refused(Refusal),
    /// This replica presented less progress than was seen of it: so much was seen (R7).
    Seen {
        /// Which replica.
        replica: ReplicaId,
        /// The highest progress number that the sender has seen of it.
        progress: u64,
    },
    /// Do I still hold what I confirmed to you? Answered by `Known` or `Refused`.
    Probe,
    /// As far as the sender knows, you do.
    Known {
        /// The start that asked.
        incarnation: u64,
    },
    /// The sender, who leads in `term`, holds everything up to `index` durably.
    Durable {
        /// The term.
        term: u64,
        /// The last index.
        index: u64,
        /// Its commit index.
        committed: u64,
    },
}

/// Why a voter's messages are not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// You confirmed more than you now hold: rejoin under a new id (R8).
    Expelled {
        /// The start that was refused.
        incarnation: u64,
    },
    /// Your ledger is of an older epoch; the envelope names the present one (R9).
    OldEpoch,
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Position.
    pub index: u64,
    /// Term of the leader that made it.
    pub term: u64,
    /// What it holds.
    pub payload: Payload,
}

/// Content of an entry. Variants are only appended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// A new leader's first entry.
    Empty,
    /// A [`codec::Proposal`], encoded.
    Proposal(Vec<u8>),
    /// A change of who votes.
    Members {
        /// The proposer's incarnation and number.
        proposer: (u64, u64),
        /// 0 adds a voter, 1 removes, 2 adds a learner.
        kind: u8,
        /// Whom.
        voter: VoterId,
    },
}

/// Who votes and who learns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Voters, ascending.
    pub voters: Vec<VoterId>,
    /// Learners, ascending.
    pub learners: Vec<VoterId>,
}

/// A snapshot of the state machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotImage {
    /// Position of the last command in it.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
    /// Who voted then.
    pub members: Members,
    /// [`crate::State::encode`].
    pub state: Vec<u8>,
}

/// The consensus engine's message; fields as in raft's own, see the crate's documentation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftMessage {
    /// Number of the kind in raft's protocol.
    pub kind: u8,
    /// Term; 0 in proposals and reads passed on to the leader.
    pub term: u64,
    /// Term of the entry before `entries`.
    pub log_term: u64,
    /// Index of the entry before `entries`.
    pub index: u64,
    /// Log entries.
    pub entries: Vec<LogEntry>,
    /// The sender's commit index.
    pub commit: u64,
    /// Term of the entry there.
    pub commit_term: u64,
    /// For a voter that is too far behind.
    pub snapshot: Option<SnapshotImage>,
    /// Index from which a snapshot is asked for.
    pub request_snapshot: u64,
    /// Refused.
    pub reject: bool,
    /// Where the logs may agree.
    pub reject_hint: u64,
    /// Names a read, or marks a vote after a hand-over.
    pub context: Vec<u8>,
    /// For votes.
    pub priority: i64,
}

impl Envelope {
    /// Version and postcard.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(VERSION, self)
    }

    /// The envelope in `bytes`.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        if bytes.len() > ENVELOPE_BYTES_MAX {
            return Err(CodecError::Malformed(format!("{} bytes", bytes.len())));
        }
        codec::decode(VERSION, bytes)
    }
}
