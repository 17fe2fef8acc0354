//! A server as the cluster sees it.

use super::{FailCount, ResourceHistory};
use std::collections::BTreeMap;

/// What kind of node this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum NodeKind {
    /// A full member that votes.
    #[default]
    Member,
    /// A node without vote, reached through a connection that is itself a resource.
    Remote,
}

/// A server with what is known of it.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Name; unique.
    pub name: String,
    /// Identifier of the membership layer; unique. The builder uses the name.
    pub id: String,
    /// Member or remote.
    pub kind: NodeKind,
    /// Takes part: reachable and ready for work.
    pub online: bool,
    /// Not known to be safely off: what ran there may still run. The text says why (it is shown as the reason of
    /// fencing). An online node can be unclean too, after a failed stop for example.
    pub unclean: Option<String>,
    /// Reached, but still joining: nothing is placed there yet.
    pub pending: bool,
    /// The node asked to leave in good order: everything is moved away from it.
    pub shutting_down: bool,
    /// Nothing may run there.
    pub standby: bool,
    /// Nothing is touched there.
    pub maintenance: bool,
    /// The node's state was reported at least once.
    pub seen: bool,
    /// The node never ran anything since it joined, so it need not be fenced; set by the CIB reader.
    pub expected_up: bool,
    /// Attributes for rules and promotion (`master-RESOURCE`), permanent and transient together.
    pub attributes: BTreeMap<String, String>,
    /// Capacities by name.
    pub utilization: BTreeMap<String, i64>,
    /// Failures counted on this node.
    pub fail_counts: Vec<FailCount>,
    /// Results of operations on this node.
    pub history: Vec<ResourceHistory>,
}

impl Node {
    /// A member that is online and clean.
    #[must_use]
    pub fn online(name: &str) -> Self {
        Self {
            name: name.into(),
            id: name.into(),
            online: true,
            seen: true,
            expected_up: true,
            ..Self::default()
        }
    }

    /// A member that is known to be off or to have stopped everything.
    #[must_use]
    pub fn offline(name: &str) -> Self {
        Self { online: false, expected_up: false, ..Self::online(name) }
    }

    /// A member that vanished: what it ran may still run until it was fenced or its leases have ended.
    #[must_use]
    pub fn lost(name: &str, why: &str) -> Self {
        Self { online: false, unclean: Some(why.into()), ..Self::online(name) }
    }

    /// Adds an attribute.
    #[must_use]
    pub fn attribute(mut self, name: &str, value: &str) -> Self {
        self.attributes.insert(name.into(), value.into());
        self
    }

    /// Records a result, newest last; `call_id`s are given in the order of calls.
    pub fn record(&mut self, resource: &str, agent: super::Agent, record: super::OperationRecord) {
        let at = match self.history.iter().position(|h| h.resource == resource) {
            Some(at) => at,
            None => {
                self.history.push(ResourceHistory::new(resource, agent));
                self.history.len() - 1
            }
        };
        self.history[at].add(record);
    }
}
