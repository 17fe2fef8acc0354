//! The typed, deterministic state machine: equal logs give equal states on every voter.
//!
//! Evolution: [`Command`] and the snapshot are postcard inside a wrapper that begins with a version
//! ([`codec`]). Enum variants are only appended. A changed struct is a new version with a migration; a cluster writes
//! the version that its oldest member reads.

pub mod codec;
mod command;
mod director;
mod machine;
mod service;
mod site;
mod v1;
mod volume;

#[cfg(test)]
mod tests;

pub use command::{Applied, Command, NewNode, Refused};
pub use director::{DIRECTOR_BYTES_MAX, Director};
pub use machine::{DECISIONS_MAX, GroupState, State};
pub use service::{Operation, Resource, ResourceKind, Service, ServiceTarget};
pub use site::{
    Decision, FenceProof, FenceRecord, JoinToken, Node, NodeState, Ports, Roles, Site, Timing, UnixSeconds,
};
pub use volume::{Replica, Volume};
