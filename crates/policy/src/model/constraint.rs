//! Relations between resources, and between resources and nodes.

use super::Role;
use crate::Score;
use std::collections::BTreeMap;

/// Whether a resource is looked for on a node before it is started anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Discovery {
    /// Yes.
    #[default]
    Always,
    /// No: it cannot be there.
    Never,
    /// Only on the nodes named by such constraints, and it runs nowhere else.
    Exclusive,
}

/// How much a resource likes nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct Location {
    /// Unique name.
    pub id: String,
    /// The resource, group or clone.
    pub resource: String,
    /// Counts only for this role (`Promoted`), if given.
    pub role: Option<Role>,
    /// Preference by node name; nodes not named are not affected.
    pub scores: BTreeMap<String, Score>,
    /// Whether the resource is looked for there.
    pub discovery: Discovery,
}

impl Location {
    /// A preference of `resource` for (or against) `node`.
    #[must_use]
    pub fn new(id: &str, resource: &str, node: &str, score: Score) -> Self {
        Self {
            id: id.into(),
            resource: resource.into(),
            role: None,
            scores: BTreeMap::from([(node.to_owned(), score)]),
            discovery: Discovery::Always,
        }
    }
}

/// The dependent resource is placed with (or apart from) the primary one.
#[derive(Clone, Debug, PartialEq)]
pub struct Colocation {
    /// Unique name.
    pub id: String,
    /// Is placed after the other.
    pub dependent: String,
    /// Counts only while the dependent one has this role.
    pub dependent_role: Option<Role>,
    /// Is placed first.
    pub primary: String,
    /// Counts only where the primary one has this role.
    pub primary_role: Option<Role>,
    /// INFINITY: only together; negative: rather apart.
    pub score: Score,
    /// Nodes are alike if they agree in this attribute; `#uname` if missing.
    pub node_attribute: Option<String>,
    /// Whether the dependent one's wishes move the primary one; by the dependent's `critical` if missing.
    pub influence: Option<bool>,
}

impl Colocation {
    /// `dependent` runs only where `primary` runs (INFINITY), or with the given preference.
    #[must_use]
    pub fn new(id: &str, dependent: &str, primary: &str, score: Score) -> Self {
        Self {
            id: id.into(),
            dependent: dependent.into(),
            dependent_role: None,
            primary: primary.into(),
            primary_role: None,
            score,
            node_attribute: None,
            influence: None,
        }
    }
}

/// How strict an order is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OrderKind {
    /// The second needs the first.
    #[default]
    Mandatory,
    /// Only if both happen anyway.
    Optional,
    /// Never both at the same time, in whichever order.
    Serialize,
}

/// One end of an order: an action of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderEnd {
    /// The resource, group or clone.
    pub resource: String,
    /// `start`, `stop`, `promote` or `demote`.
    pub action: String,
}

/// `first` happens before `then`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Unique name.
    pub id: String,
    /// Comes first.
    pub first: OrderEnd,
    /// Comes second.
    pub then: OrderEnd,
    /// How strict.
    pub kind: OrderKind,
    /// The reverse holds for the opposite actions.
    pub symmetrical: bool,
    /// For a clone as `first`: all of its instances are needed (else one is enough).
    pub require_all: bool,
}

impl Order {
    /// `first` is started before `then`, and stopped after it.
    #[must_use]
    pub fn new(id: &str, first: &str, then: &str) -> Self {
        let end = |r: &str| OrderEnd { resource: r.into(), action: "start".into() };
        Self {
            id: id.into(),
            first: end(first),
            then: end(then),
            kind: OrderKind::Mandatory,
            symmetrical: true,
            require_all: true,
        }
    }
}

/// One of the sets of an order between sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderSet {
    /// Unique name.
    pub id: String,
    /// Members.
    pub resources: Vec<String>,
    /// What is done with them.
    pub action: String,
    /// Members one after the other; else in parallel.
    pub sequential: bool,
    /// All members are needed by what follows; else one is enough.
    pub require_all: bool,
}

/// Sets that follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderSets {
    /// Unique name.
    pub id: String,
    /// How strict.
    pub kind: OrderKind,
    /// The reverse holds for the opposite actions.
    pub symmetrical: bool,
    /// The sets, first to last.
    pub sets: Vec<OrderSet>,
}

/// What happens to resources whose ticket was taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LossPolicy {
    /// They are stopped.
    #[default]
    Stop,
    /// They are demoted.
    Demote,
    /// The nodes that run them are fenced.
    Fence,
    /// They are left alone.
    Freeze,
}

/// A resource needs a ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketConstraint {
    /// Unique name.
    pub id: String,
    /// The resource, group or clone.
    pub resource: String,
    /// Only this role needs it.
    pub role: Option<Role>,
    /// The ticket's name.
    pub ticket: String,
    /// What happens without it.
    pub loss_policy: LossPolicy,
}
