//! One resource (instance) as this run sees it.

use super::{CloneOptions, Meta, NodeIx, RscIx};
use crate::{Agent, OnFail, Operation, Resource, Role, Score};
use std::collections::{BTreeMap, BTreeSet};

/// What a resource is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Primitive,
    Group,
    Clone,
}

/// A live migration that was under way when the history was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartialMigration {
    pub(crate) source: NodeIx,
    pub(crate) target: NodeIx,
}

/// A resource, or one instance of it.
#[derive(Clone, Debug)]
pub(crate) struct Rsc<'c> {
    /// Name with instance number.
    pub(crate) id: String,
    /// The name under which its history was found.
    pub(crate) history_name: Option<String>,
    /// Name without instance number.
    pub(crate) base: String,
    pub(crate) kind: Kind,
    pub(crate) config: Option<&'c Resource>,
    pub(crate) agent: Agent,
    pub(crate) operations: &'c [Operation],
    pub(crate) parent: Option<RscIx>,
    pub(crate) children: Vec<RscIx>,
    pub(crate) meta: Meta,
    pub(crate) clone: Option<CloneOptions>,
    /// Not in the configuration (any more), or more instances than configured.
    pub(crate) orphan: bool,

    // Observed.
    pub(crate) role: Role,
    pub(crate) running_on: Vec<NodeIx>,
    pub(crate) known_on: BTreeSet<NodeIx>,
    pub(crate) managed: bool,
    pub(crate) blocked: bool,
    pub(crate) failed: bool,
    pub(crate) failure_ignored: bool,
    /// The failed instance is stopped where it is, whatever else happens.
    pub(crate) must_stop: bool,
    /// An operation that is still under way, as shown to people.
    pub(crate) pending_task: Option<&'static str>,
    pub(crate) start_pending: bool,
    /// Worst consequence of failures per node.
    pub(crate) on_fail: BTreeMap<NodeIx, OnFail>,
    pub(crate) partial_migration: Option<PartialMigration>,
    /// Stays with a node that was shut down.
    pub(crate) lock_node: Option<NodeIx>,
    /// Must be demoted before anything else because it failed and on-fail=demote.
    pub(crate) demote_first: bool,

    // Decided.
    /// Preference by node; nothing where the resource is not allowed at all.
    pub(crate) scores: Vec<Option<Score>>,
    pub(crate) assigned: Option<NodeIx>,
    pub(crate) placed: bool,
    pub(crate) placing: bool,
    pub(crate) next_role: Role,
    /// What led to `next_role`, for people.
    pub(crate) next_role_reason: Option<String>,
    pub(crate) priority: i64,
    pub(crate) promotion_score: Option<Score>,
    /// Contributions to the placement, line by line.
    pub(crate) reasons: Vec<String>,
    /// Only nodes with an exclusive discovery constraint are allowed.
    pub(crate) exclusive_discovery: bool,
    /// Nodes on which it is not looked for.
    pub(crate) undiscovered: BTreeSet<NodeIx>,
}

impl Rsc<'_> {
    /// The preference for a node; "never" where it is not allowed at all.
    pub(crate) fn score(&self, node: NodeIx) -> Score {
        self.scores.get(node.0).copied().flatten().unwrap_or(Score::NEVER)
    }

    /// Adds to the preference for a node where the resource is allowed.
    pub(crate) fn add_score(&mut self, node: NodeIx, score: Score) {
        if let Some(Some(old)) = self.scores.get_mut(node.0) {
            *old += score;
        }
    }

    /// Active anywhere.
    pub(crate) fn is_active(&self) -> bool {
        self.role.is_active() && !self.running_on.is_empty()
    }

    /// The node to prefer among those it runs on.
    pub(crate) fn current_node(&self) -> Option<NodeIx> {
        self.running_on.first().copied()
    }
}
