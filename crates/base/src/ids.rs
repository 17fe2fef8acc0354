//! Identifiers. Each is a type of its own, so that a generation cannot be passed where a node is meant.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $repr:ty, $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $repr);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "(", $format, ")"), self.0)
            }
        }
    };
}

id!(
    /// A server of the site. Given by the ledger at join, never used again after the node was removed. 0 is no node.
    NodeId, u32, "n{}"
);
id!(
    /// A voter of the consensus engine. A voter that lost its memory comes back under a new id (R8), so this is
    /// not the node's id. 0 is no voter.
    VoterId, u64, "v{}"
);
id!(
    /// One node's copy of a replication group: random, stored on the disk (R1). An emptied disk is a new replica.
    ReplicaId, u64, "r{:016x}"
);
id!(
    /// One start of a replica: random, made at each start (R4).
    SessionId, u64, "s{:016x}"
);
id!(
    /// A replication group: one or more volumes that share generation, in-sync set and write order.
    GroupId, u64, "g{:016x}"
);
id!(
    /// An unbroken run of writes by one primary with one in-sync set. Grows by one with each change of the entry.
    Generation, u64, "{}"
);
id!(
    /// Position of an entry in the ledger's log.
    LedgerIndex, u64, "{}"
);
id!(
    /// Grows when the ledger was restarted from one survivor (R9). Part of every message between ledgers.
    LedgerEpoch, u64, "{}"
);

impl Generation {
    /// The generation after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
