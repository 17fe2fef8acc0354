//! What is to be run.

use super::Operation;
use std::collections::BTreeMap;

/// Which program runs a resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Agent {
    /// `ocf`, `systemd`, `lsb`, `stonith`, …
    pub class: String,
    /// Vendor of an `ocf` agent; empty where there is none.
    pub provider: String,
    /// Name of the agent.
    pub name: String,
}

impl Agent {
    /// An agent by its three names.
    #[must_use]
    pub fn new(class: &str, provider: &str, name: &str) -> Self {
        Self { class: class.into(), provider: provider.into(), name: name.into() }
    }

    /// True for fence devices.
    #[must_use]
    pub fn is_fence_device(&self) -> bool {
        self.class == "stonith"
    }
}

/// What a resource is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// One thing with an agent.
    Primitive {
        /// Its program.
        agent: Agent,
        /// Its configured operations.
        operations: Vec<Operation>,
    },
    /// Members that run on one node, started in order and stopped in reverse.
    Group(Vec<Resource>),
    /// The same thing on several nodes; `promotable=true` among the meta attributes gives it two roles.
    Clone(Box<Resource>),
}

/// A resource with its options.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// Unique name.
    pub id: String,
    /// What it is.
    pub body: Body,
    /// Meta attributes by their documented names (`target-role`, `resource-stickiness`, `is-managed`, …).
    pub meta: BTreeMap<String, String>,
    /// Parameters for the agent.
    pub parameters: BTreeMap<String, String>,
    /// Parameters that differ on single nodes, by node name.
    pub node_parameters: BTreeMap<String, BTreeMap<String, String>>,
    /// What it takes of nodes' capacities.
    pub utilization: BTreeMap<String, i64>,
}

impl Resource {
    fn new(id: &str, body: Body) -> Self {
        Self {
            id: id.into(),
            body,
            meta: BTreeMap::new(),
            parameters: BTreeMap::new(),
            node_parameters: BTreeMap::new(),
            utilization: BTreeMap::new(),
        }
    }

    /// A primitive.
    #[must_use]
    pub fn primitive(id: &str, agent: Agent) -> Self {
        Self::new(id, Body::Primitive { agent, operations: Vec::new() })
    }

    /// A group of `members`, started in this order.
    #[must_use]
    pub fn group(id: &str, members: Vec<Self>) -> Self {
        Self::new(id, Body::Group(members))
    }

    /// A clone of `inner`.
    #[must_use]
    pub fn clone_of(id: &str, inner: Self) -> Self {
        Self::new(id, Body::Clone(Box::new(inner)))
    }

    /// The same resource with a meta attribute.
    #[must_use]
    pub fn meta(mut self, name: &str, value: &str) -> Self {
        self.meta.insert(name.into(), value.into());
        self
    }

    /// The same resource with a parameter for its agent.
    #[must_use]
    pub fn parameter(mut self, name: &str, value: &str) -> Self {
        self.parameters.insert(name.into(), value.into());
        self
    }

    /// The same primitive with an operation; no effect on groups and clones.
    #[must_use]
    pub fn operation(mut self, operation: Operation) -> Self {
        if let Body::Primitive { operations, .. } = &mut self.body {
            operations.push(operation);
        }
        self
    }
}
