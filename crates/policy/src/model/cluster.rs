//! The whole of what the scheduler knows.

use super::{Colocation, Location, Node, Order, OrderSets, Resource, TicketConstraint};
use std::collections::BTreeMap;

/// Seconds since 1970-01-01 00:00:00 UTC, of whichever clock the caller trusts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixSeconds(pub i64);

/// What a partition without quorum does with its resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum QuorumPolicy {
    /// Stop everything.
    #[default]
    Stop,
    /// Carry on as if there were quorum.
    Ignore,
    /// Keep what runs, start nothing.
    Freeze,
    /// Demote what is promoted, stop the rest that needs quorum only where it would have to start.
    Demote,
    /// Fence the own partition.
    Fence,
}

/// The right to run a set of resources, granted to a site.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Ticket {
    /// This site holds the ticket.
    pub granted: bool,
    /// The ticket is to be given up in good order.
    pub standby: bool,
}

/// Configuration and observed state: the input of [`crate::plan`].
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// This partition may decide.
    pub quorum: bool,
    /// Site-wide options by their documented names, e.g. `stonith-enabled`, `no-quorum-policy`,
    /// `symmetric-cluster`, `maintenance-mode`. Missing ones have their documented defaults.
    pub properties: BTreeMap<String, String>,
    /// Defaults of resources' meta attributes.
    pub resource_defaults: BTreeMap<String, String>,
    /// Defaults of operations' options.
    pub operation_defaults: BTreeMap<String, String>,
    /// Servers, in any order.
    pub nodes: Vec<Node>,
    /// Resources, in the order of the configuration (which breaks ties).
    pub resources: Vec<Resource>,
    /// Where resources like to run.
    pub locations: Vec<Location>,
    /// What runs with what.
    pub colocations: Vec<Colocation>,
    /// What happens before what.
    pub orders: Vec<Order>,
    /// The same for sets.
    pub order_sets: Vec<OrderSets>,
    /// What needs a ticket.
    pub ticket_constraints: Vec<TicketConstraint>,
    /// State of the tickets by name.
    pub tickets: BTreeMap<String, Ticket>,
    /// Name of the node that makes this plan, if that matters for fencing.
    pub coordinator: Option<String>,
}

impl Cluster {
    /// A quorate cluster without nodes and resources; fencing as documented is on, call
    /// [`Cluster::set`]`("stonith-enabled", "false")` where data are fenced by other means.
    #[must_use]
    pub fn new() -> Self {
        Self { quorum: true, ..Self::default() }
    }

    /// Sets a site-wide option.
    pub fn set(&mut self, name: &str, value: &str) -> &mut Self {
        self.properties.insert(name.into(), value.into());
        self
    }

    /// The node called `name`.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|n| n.name == name)
    }

    /// The node called `name`, to change it.
    pub fn node_mut(&mut self, name: &str) -> Option<&mut Node> {
        self.nodes.iter_mut().find(|n| n.name == name)
    }
}
