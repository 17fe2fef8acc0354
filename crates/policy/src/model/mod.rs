//! What the scheduler is told: configuration and observed state as plain data, made either by the CIB reader or by
//! a program through the builders here.

mod cluster;
mod constraint;
mod history;
mod node;
mod operation;
mod resource;

pub use cluster::{Cluster, QuorumPolicy, Ticket, UnixSeconds};
pub use constraint::{
    Colocation, Discovery, Location, LossPolicy, Order, OrderEnd, OrderKind, OrderSet, OrderSets,
    TicketConstraint,
};
pub use history::{FailCount, OperationRecord, RecordStatus, ResourceHistory};
pub use node::{Node, NodeKind};
pub use operation::{OnFail, Operation};
pub use resource::{Agent, Body, Resource};

/// What an instance of a resource is, or is to be, on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Role {
    /// Nothing is known.
    #[default]
    Unknown,
    /// Not active.
    Stopped,
    /// Active; of resources without roles.
    Started,
    /// Active in the lower of the two roles.
    Unpromoted,
    /// Active in the higher of the two roles.
    Promoted,
}

impl Role {
    /// Reads the names in use today and the older ones.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "stopped" => Some(Self::Stopped),
            "started" => Some(Self::Started),
            "unpromoted" | "slave" => Some(Self::Unpromoted),
            "promoted" | "master" => Some(Self::Promoted),
            _ => None,
        }
    }

    /// The name as shown to people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "Unknown",
            Self::Stopped => "Stopped",
            Self::Started => "Started",
            Self::Unpromoted => "Unpromoted",
            Self::Promoted => "Promoted",
        }
    }

    /// True if something is running in this role.
    #[must_use]
    pub fn is_active(self) -> bool {
        self > Self::Stopped
    }
}
