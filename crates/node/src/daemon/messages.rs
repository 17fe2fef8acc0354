//! What the daemons of a site say to each other. The voters' mesh carries it, so it reaches a node by way of a third
//! one if need be (R13).
//!
//! Bodies are a version (2 bytes, little endian) and JSON. A daemon reads its own version and refuses others in words;
//! unknown fields are ignored and optional ones may be missing, so that two builds can differ in them during an upgrade.

use super::{
    director::{ArchiveReport, AttemptReport, DirectorMessage, VaultReport},
    passage::Passage,
};
use crate::voter::Peer;
use anshin_agent::{OperationResult, Resource};
use anshin_base::{LedgerEpoch, Millis, NodeId, VoterId};
use serde::{Deserialize, Serialize};

/// The version written today.
pub const VERSION: u16 = 1;

/// The part of a service that a node starts, stops and monitors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// Being primary of a volume and showing its device.
    Volume {
        /// The volume.
        volume: String,
    },
    /// Anything an agent runs; addresses too, which the guard holds under a volume's lease.
    Agent(Resource),
}

/// One result that is remembered of a resource on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// `start`, `stop`, `monitor`.
    pub operation: String,
    /// 0 for one-off operations.
    pub interval: Millis,
    /// Order of calls on the node.
    pub call: u64,
    /// The exit code that meant "as expected".
    pub expected: u8,
    /// What came of it.
    pub result: OperationResult,
    /// When, seconds since 1970 on that node's clock; for people and for the expiry of failures.
    pub at: i64,
}

/// Failures of one operation of a resource on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// `start`, `stop`, `monitor`.
    pub operation: String,
    /// 0 for one-off operations.
    pub interval: Millis,
    /// How many since the last clean-up.
    pub count: u32,
    /// The last one, seconds since 1970 on that node's clock.
    pub last: i64,
}

/// What a node knows of one resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceReport {
    /// `SERVICE.PART`.
    pub id: String,
    /// The newest result per operation and interval.
    pub records: Vec<Record>,
    /// Failures counted.
    pub failures: Vec<Failures>,
}

/// What a volume process says of its replica, as far as others need it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeReport {
    /// The volume.
    pub volume: String,
    /// True while the device stands and takes requests (also while they are held).
    pub serving: bool,
    /// Why requests are held, if they are.
    pub suspended: Option<String>,
    /// Why the replica cannot be used, if so.
    pub failed: Option<String>,
    /// True for a restored old image (R7).
    pub old_image: bool,
    /// For how many seconds the oldest request of a user has waited for its answer.
    #[serde(default)]
    pub waiting_s: u64,
    /// Per peer node: what it lacks at most in bytes, and how far a resync into it is (done, total).
    pub peers: Vec<PeerReport>,
}

/// What a primary knows of one other replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerReport {
    /// The node that holds it.
    pub node: NodeId,
    /// Whether the data link stands.
    pub connected: bool,
    /// What it lacks at most.
    pub behind_bytes: u64,
    /// Of a running resync: bytes done and in all.
    pub resync: Option<(u64, u64)>,
    /// What was done to bring it in sync since the primary's process started.
    #[serde(default)]
    pub resynced: Option<Resynced>,
}

/// What resyncs into one replica took, since the primary's process started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resynced {
    /// How many ended.
    pub count: u64,
    /// Bytes compared, in all and by the last one.
    pub compared: (u64, u64),
    /// Bytes sent, in all and by the last one.
    pub sent: (u64, u64),
}

/// A point of a failover or move, on the clock of the node that saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happened {
    /// Milliseconds since 1970.
    pub at_ms: i64,
    /// What it concerns: a node, volume, service or resource.
    pub subject: String,
    /// What happened.
    pub what: String,
    /// Why; empty for what needs no reason.
    pub why: String,
}

/// What happened to a volume of which a node cannot make its copy; the reason says why.
pub const CANNOT_MAKE: &str = "cannot make a copy here";

/// Everything a node tells the others about itself; sent when it changed, and once a second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Who.
    pub node: NodeId,
    /// Version of its daemon.
    pub version: String,
    /// Random number of the daemon's start.
    pub start: u64,
    /// Grows with each report of that start.
    pub sequence: u64,
    /// True while something of a lost primary role is still being taken down: nothing may be placed here (R12).
    pub cleaning: bool,
    /// True once the daemon has looked for everything that may have run before it was started.
    pub ready: bool,
    /// What it knows of resources.
    pub resources: Vec<ResourceReport>,
    /// What it knows of its replicas.
    pub volumes: Vec<VolumeReport>,
    /// The newest happenings, oldest first; bounded.
    pub happened: Vec<Happened>,
    /// The failovers and moves that this daemon saw from their beginning, oldest first; bounded.
    #[serde(default)]
    pub passages: Vec<Passage>,
    /// Why its voter is silent and must be replaced (R8), if so.
    #[serde(default)]
    pub rejoining: Option<String>,
    /// The attempts of backups that it executes.
    #[serde(default)]
    pub attempts: Vec<AttemptReport>,
    /// The vaults that it serves.
    #[serde(default)]
    pub vaults: Vec<VaultReport>,
    /// The archives of logs that it runs.
    #[serde(default)]
    pub archives: Vec<ArchiveReport>,
    /// What only the next build says: other builds must neither need nor mind it.
    #[cfg(feature = "next")]
    #[serde(default)]
    pub said_by_next: Option<String>,
}

/// An operation that the leader asks a node to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Number for the answer, unique per leading daemon's start.
    pub request: u64,
    /// `SERVICE.PART`.
    pub resource: String,
    /// What it is.
    pub work: Work,
    /// `start`, `stop`, `monitor`.
    pub operation: String,
    /// Repeat this often, until stopped; 0: once.
    pub interval: Millis,
    /// How long it may take.
    pub timeout: Millis,
    /// The exit code that means "as expected".
    pub expected: u8,
    /// What must be mounted here before this is started: an order that comes late must not start a program that would
    /// write below an empty mount point.
    #[serde(default)]
    pub needs_mount: Option<String>,
}

/// A message between daemons.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// What I am.
    Report(NodeReport),
    /// Tell me what you are: sent by a daemon that has just started or begun to lead.
    Ask,
    /// Run this.
    Run(Order),
    /// It has been run; the report already holds the result.
    Ran {
        /// The order's number.
        request: u64,
        /// True if the exit code was the expected one.
        well: bool,
        /// The node's state right after it.
        report: NodeReport,
    },
    /// End a recurring operation.
    Cancel {
        /// The resource.
        resource: String,
        /// The operation's name.
        operation: String,
        /// Its interval.
        interval: Millis,
    },
    /// My voter forgot what it confirmed (R8): give it a new id. Said again until it is answered.
    Rejoin {
        /// Random, chosen once: what tells an answer to this from one to an earlier wish.
        wish: u64,
    },
    /// A new voter id was recorded for you.
    Rejoined {
        /// The wish that is granted.
        wish: u64,
        /// The id, never used by anybody.
        voter: VoterId,
        /// The ledger's epoch.
        epoch: LedgerEpoch,
        /// The other voters.
        peers: Vec<Peer>,
    },
    /// The ledger knows another voter of yours than the one that runs: replace it.
    OtherVoter {
        /// The one that the ledger knows.
        voter: VoterId,
    },
    /// Forget failures and results of a resource.
    CleanUp {
        /// The resource.
        resource: String,
    },
    /// An order of the director.
    Director(DirectorMessage),
}

/// Bytes that are not a message this build can read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Shorter than a version.
    #[error("too short")]
    Short,
    /// Another version.
    #[error("version {0} of the daemons' messages is not known here")]
    Version(u16),
    /// Not what was expected.
    #[error("malformed: {0}")]
    Malformed(String),
}

impl Message {
    /// Version and JSON.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        serde_json::to_writer(&mut out, self).expect("invariant: plain data is JSON");
        out
    }

    /// The message in `bytes`.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let (version, body) = bytes.split_first_chunk::<2>().ok_or(MessageError::Short)?;
        let version = u16::from_le_bytes(*version);
        if version != VERSION {
            return Err(MessageError::Version(version));
        }
        serde_json::from_slice(body).map_err(|error| MessageError::Malformed(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anshin_agent::Rc;

    fn report() -> NodeReport {
        let result = OperationResult::done(Rc::OK);
        let record = Record {
            operation: "start".into(),
            interval: Millis(0),
            call: 7,
            expected: 0,
            result,
            at: 1_700_000_000,
        };
        NodeReport {
            node: NodeId(1),
            version: "0.1.0".into(),
            start: 2,
            sequence: 3,
            cleaning: false,
            ready: true,
            resources: vec![ResourceReport {
                id: "db.mount".into(),
                records: vec![record],
                failures: Vec::new(),
            }],
            volumes: Vec::new(),
            happened: Vec::new(),
            passages: Vec::new(),
            rejoining: None,
            attempts: Vec::new(),
            vaults: Vec::new(),
            archives: Vec::new(),
            #[cfg(feature = "next")]
            said_by_next: None,
        }
    }

    #[test]
    fn a_message_survives_its_encoding_and_fields_of_a_later_version() {
        let message = Message::Ran { request: 5, well: true, report: report() };
        let bytes = message.encode();
        assert_eq!(Message::decode(&bytes), Ok(message.clone()));
        let text = String::from_utf8(bytes[2..].to_vec()).unwrap();
        let text = text.replacen("\"request\":5", "\"request\":5,\"added_later\":[1]", 1);
        let later = [&bytes[..2], text.as_bytes()].concat();
        assert_eq!(Message::decode(&later), Ok(message));
    }

    #[test]
    fn other_versions_and_broken_bytes_are_refused() {
        let mut bytes = Message::Ask.encode();
        assert_eq!(Message::decode(&bytes[..1]), Err(MessageError::Short));
        bytes[0] = 9;
        assert_eq!(Message::decode(&bytes), Err(MessageError::Version(9)));
        let bytes = Message::Report(report()).encode();
        for end in 2..bytes.len() {
            assert!(Message::decode(&bytes[..end]).is_err(), "{end} bytes");
        }
    }
}
