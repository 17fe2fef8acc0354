//! Words that every room of anshin shares: identifiers, time, sizes, user-facing problems, the frame format,
//! the entry a replication group has in the ledger, and the lease record between a volume and the guard.
//!
//! Nothing here does I/O or reads a clock, but for the feature `testing`.

pub mod frame;
pub mod group;
pub mod ids;
pub mod lease;
pub mod local;
pub mod problem;
pub mod size;
#[cfg(feature = "testing")]
pub mod testing;
pub mod time;

pub use group::{ChangeRefused, GroupChange, GroupEntry, Member};
pub use ids::{Generation, GroupId, LedgerEpoch, LedgerIndex, NodeId, ReplicaId, SessionId, VoterId};
pub use problem::Problem;
pub use size::ByteSize;
pub use time::{Millis, Mono};
