//! What comes out: a graph of actions with reasons.

use crate::{Role, Score};
use std::collections::BTreeMap;

/// Number of an action within its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActionId(pub u32);

/// What an action is for whoever carries it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActionKind {
    /// Find out whether (and in which role) a resource runs on a node.
    Probe,
    /// Start on a node.
    Start,
    /// Stop on a node.
    Stop,
    /// Give the higher role.
    Promote,
    /// Take the higher role away.
    Demote,
    /// Begin a recurring monitor.
    Monitor,
    /// End a recurring operation.
    Cancel,
    /// Tell an instance what happens to the others.
    Notify,
    /// Send a running resource away.
    MigrateTo,
    /// Receive a running resource.
    MigrateFrom,
    /// Take up changed parameters without a restart.
    Reload,
    /// Forget a resource's history on a node.
    DeleteHistory,
    /// Set failure counts of a resource on a node back to zero.
    ClearFailures,
    /// Make a node safely stop; `operation` says how (`reboot`, `off`, `on`).
    Fence,
    /// Let a node leave that asked for it.
    Shutdown,
    /// Nothing is done: a point that others wait for.
    Pseudo,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Action {
    /// Number within the plan.
    pub id: ActionId,
    /// What it is.
    pub kind: ActionKind,
    /// `RESOURCE_OPERATION_INTERVAL`, or another unique name of the step.
    pub key: String,
    /// The resource (instance), if the action concerns one.
    pub resource: Option<String>,
    /// Where it is done; the target of fencing.
    pub node: Option<String>,
    /// Name of the operation for the agent.
    pub operation: String,
    /// Milliseconds between repetitions; 0 for one-off operations.
    pub interval_ms: u64,
    /// How long it may take.
    pub timeout_ms: u64,
    /// Exit code that means "as expected".
    pub expected: i32,
    /// Parameters for the agent.
    pub parameters: BTreeMap<String, String>,
    /// Must have ended, well, before this one begins.
    pub after: Vec<ActionId>,
    /// Why it is done, as a sentence without full stop.
    pub reason: String,
}

/// Where a resource is now and will be, with the scores that decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// The resource (instance).
    pub resource: String,
    /// Where it runs now.
    pub current: Vec<String>,
    /// Role now.
    pub role: Role,
    /// Where it shall run.
    pub target: Option<String>,
    /// Role to reach.
    pub target_role: Role,
    /// Final preference by node.
    pub scores: BTreeMap<String, Score>,
    /// Why, line by line: every contribution that counted.
    pub reasons: Vec<String>,
}

/// One line of "what changes" for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Start, Stop, Move, Restart, Recover, Promote, Demote, Migrate, Reload, Fence, …
    pub verb: String,
    /// The resource or node.
    pub subject: String,
    /// From where to where, in words.
    pub detail: String,
    /// Why; empty if the verb says it all.
    pub reason: String,
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Plan {
    /// Actions; every predecessor stands before its successors.
    pub actions: Vec<Action>,
    /// The same for people.
    pub changes: Vec<Change>,
    /// Where everything is and goes.
    pub placements: Vec<Placement>,
    /// What in the configuration could not be followed.
    pub warnings: Vec<String>,
}

impl Plan {
    /// True if nothing is to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }

    /// Where `resource` shall run.
    #[must_use]
    pub fn placement(&self, resource: &str) -> Option<&Placement> {
        self.placements.iter().find(|p| p.resource == resource)
    }

    /// The action with this key on this node.
    #[must_use]
    pub fn action(&self, key: &str, node: &str) -> Option<&Action> {
        self.actions.iter().find(|a| a.key == key && a.node.as_deref() == Some(node))
    }
}
