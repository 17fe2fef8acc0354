//! What a voter's heartbeat carries over the mesh.

use anshin_base::{LedgerIndex, VoterId};
use anshin_ledger::Sign;
use serde::{Deserialize, Serialize};

/// Version of what follows in a heartbeat's payload.
const VERSION: u8 = 1;
/// Longest word of the daemon in a heartbeat, in bytes.
pub(super) const HEALTH_LENGTH_MAX: usize = 64 << 10;

/// The payload of a heartbeat. Fields are only appended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Who lives, and what its replicas say of themselves (R7).
    pub sign: Sign,
    /// The node's voter.
    pub voter: VoterId,
    /// Whether it leads the ledger.
    pub leads: bool,
    /// Whether it has heard from a leader within its election time.
    pub quorate: bool,
    /// Up to where it has applied the log.
    pub applied: LedgerIndex,
    /// What its daemon has to say to other daemons.
    pub health: Vec<u8>,
}

impl Beat {
    /// Version and postcard.
    pub(super) fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).expect("invariant: plain data encodes into memory")
    }

    /// The beat in `bytes`; None if this build cannot read it.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, body) = bytes.split_first()?;
        (*version == VERSION).then(|| postcard::from_bytes(body).ok()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anshin_base::NodeId;

    #[test]
    fn version_1_has_these_bytes_and_garbage_is_none() {
        let beat = Beat {
            sign: Sign { node: NodeId(1), start: 2, sequence: 3, reports: Vec::new() },
            voter: VoterId(4),
            leads: true,
            quorate: false,
            applied: LedgerIndex(5),
            health: vec![6],
        };
        let bytes = [1, 1, 2, 3, 0, 4, 1, 0, 5, 1, 6];
        assert_eq!(beat.encode(), bytes);
        assert_eq!(Beat::decode(&bytes), Some(beat));
        for cut in 0..bytes.len() {
            assert_eq!(Beat::decode(&bytes[..cut]), None);
        }
        assert_eq!(Beat::decode(&[2, 1, 2, 3, 0, 4, 1, 0, 5, 1, 6]), None);
    }
}
