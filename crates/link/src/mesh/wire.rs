//! What voters say to each other: `docs/formats/link.md`.
//!
//! Bodies are postcard. Fields are only ever appended; a reader ignores bytes after the last field it knows.

use crate::identity::SiteId;
use anshin_base::{LedgerEpoch, NodeId, frame::Frame};
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The version of this protocol that is spoken here, and the oldest one understood.
pub const VERSION: u16 = 1;
/// Oldest version understood.
pub const VERSION_MIN: u16 = 1;
/// Longest message that a user of the mesh can send, in bytes. A ledger snapshot is the largest.
pub const MESSAGE_LENGTH_MAX: usize = 20 << 20;
/// Longest body of a frame: a message in its relay envelope.
pub const FRAME_LENGTH_MAX: usize = MESSAGE_LENGTH_MAX + 64;
/// Most neighbours that a heartbeat tells of.
pub const NEIGHBOURS_MAX: usize = 64;

/// Which protocol a frame's body belongs to.
pub mod kind {
    /// First frame in both directions: [`super::Hello`].
    pub const HELLO: u16 = 1;
    /// [`super::Heartbeat`].
    pub const HEARTBEAT: u16 = 2;
    /// [`super::Envelope`].
    pub const RELAY: u16 = 3;
    /// Messages of the consensus engine. Kinds from here on are for the users of the mesh.
    pub const RAFT: u16 = 16;
    /// Messages between daemons.
    pub const DAEMON: u16 = 17;
    /// Other messages between voters.
    pub const VOTER: u16 = 18;
}

/// First message of either end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The sender's site.
    pub site: SiteId,
    /// The sender; must be what its certificate says.
    pub node: NodeId,
    /// Random, new at each start of the process.
    pub incarnation: u64,
    /// Oldest protocol version that it understands.
    pub version_min: u16,
    /// Newest one.
    pub version_max: u16,
    /// Its ledger's epoch.
    pub epoch: LedgerEpoch,
    /// Its build, for people.
    pub build: String,
}

impl Hello {
    /// The newest version that both ends understand.
    #[must_use]
    pub fn common_version(&self) -> Option<u16> {
        let version = self.version_max.min(VERSION);
        (version >= self.version_min.max(VERSION_MIN)).then_some(version)
    }
}

/// What the sender of a heartbeat knows of a third node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// The third node.
    pub node: NodeId,
    /// Whether the sender has a link on which it can write to that node.
    pub linked: bool,
    /// The last heartbeat that came from that node without a relay.
    pub heard: Option<Echo>,
}

/// The last direct heartbeat of a node, told back: its sender learns from it that its link works and how long the
/// way is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echo {
    /// Its `incarnation`.
    pub incarnation: u64,
    /// Its `stamp`.
    pub stamp: u64,
    /// How long ago it arrived, in nanoseconds.
    pub ago: u64,
}

/// Sent to every node every 100 ms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// As in [`Hello`].
    pub incarnation: u64,
    /// Grows by one with each heartbeat of an incarnation.
    pub sequence: u64,
    /// When it was made, on the sender's clock, in nanoseconds.
    pub stamp: u64,
    /// The sender's ledger epoch.
    pub epoch: LedgerEpoch,
    /// What the sender knows of other nodes, the receiver included.
    pub neighbours: Vec<Neighbour>,
    /// What the mesh's user has to say.
    pub payload: Bytes,
}

/// A message on its way through a third node (R13).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Who wrote it. The relay checks that it is the node on the other end of the link it came by.
    pub source: NodeId,
    /// Whom it is for.
    pub destination: NodeId,
    /// How many relays may still pass it on; 1 when sent, 0 when delivered.
    pub hops: u8,
    /// The frame kind of the message.
    pub kind: u16,
    /// The message.
    pub body: Bytes,
}

/// A frame of this protocol.
#[must_use]
pub fn frame(kind: u16, body: Bytes) -> Frame {
    Frame { kind, version: VERSION, body }
}

/// A frame with a message of this protocol as its body.
#[must_use]
pub fn encode<T: Serialize>(kind: u16, message: &T) -> Frame {
    let body = postcard::to_allocvec(message).expect("invariant: these messages have a serial form");
    frame(kind, body.into())
}

/// The message in `body`; None if it is none.
#[must_use]
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    postcard::from_bytes(body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hello() -> Hello {
        Hello {
            site: SiteId([0xaa; 16]),
            node: NodeId(3),
            incarnation: 7,
            version_min: 1,
            version_max: 2,
            epoch: LedgerEpoch(4),
            build: "0.1.0".to_owned(),
        }
    }

    fn heartbeat() -> Heartbeat {
        Heartbeat {
            incarnation: 7,
            sequence: 300,
            stamp: 9,
            epoch: LedgerEpoch(4),
            neighbours: vec![
                Neighbour {
                    node: NodeId(1),
                    linked: true,
                    heard: Some(Echo { incarnation: 1, stamp: 2, ago: 3 }),
                },
                Neighbour { node: NodeId(2), linked: false, heard: None },
            ],
            payload: Bytes::from_static(b"hi"),
        }
    }

    #[test]
    fn version_1_has_these_bytes() {
        let hello_bytes = [&[0xaa; 16][..], b"\x03\x07\x01\x02\x04\x050.1.0"].concat();
        assert_eq!(encode(kind::HELLO, &hello()).body, hello_bytes);
        assert_eq!(decode(&hello_bytes), Some(hello()));
        let heartbeat_bytes = b"\x07\xac\x02\x09\x04\x02\x01\x01\x01\x01\x02\x03\x02\0\0\x02hi";
        assert_eq!(encode(kind::HEARTBEAT, &heartbeat()).body, heartbeat_bytes.as_slice());
        assert_eq!(decode(heartbeat_bytes), Some(heartbeat()));
        let envelope = Envelope {
            source: NodeId(1),
            destination: NodeId(2),
            hops: 1,
            kind: kind::RAFT,
            body: Bytes::from_static(b"x"),
        };
        assert_eq!(encode(kind::RELAY, &envelope).body, b"\x01\x02\x01\x10\x01x".as_slice());
        assert_eq!(decode(b"\x01\x02\x01\x10\x01x"), Some(envelope));
    }

    #[test]
    fn a_field_that_a_newer_version_appends_is_ignored() {
        let mut bytes = encode(kind::HELLO, &hello()).body.to_vec();
        bytes.extend_from_slice(b"more");
        assert_eq!(decode(&bytes), Some(hello()));
    }

    #[test]
    fn the_newest_common_version_is_spoken() {
        assert_eq!(hello().common_version(), Some(1));
        assert_eq!(Hello { version_min: 2, ..hello() }.common_version(), None);
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes: Vec<u8>) {
            let _ = decode::<Hello>(&bytes);
            let _ = decode::<Heartbeat>(&bytes);
            let _ = decode::<Envelope>(&bytes);
        }
    }
}
