//! One possible step.

use super::Actor;
use crate::world::{NodeIx, RscIx};

/// Position of a step in [`Actor::steps`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StepIx(pub(crate) usize);

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Task {
    Start,
    Stop,
    Promote,
    Demote,
    MigrateTo,
    MigrateFrom,
    Probe,
    Monitor,
    Cancel,
    Reload,
    Delete,
    ClearFailures,
    NotifyBefore(Phase),
    NotifyAfter(Phase),
    Fence,
    Shutdown,
    /// A container begins with, or is done with, a phase.
    Begin(Phase),
    Done(Phase),
}

/// What all instances of a container do together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Phase {
    Start,
    Stop,
    Promote,
    Demote,
}

impl Phase {
    pub(crate) const ALL: [Self; 4] = [Self::Demote, Self::Stop, Self::Start, Self::Promote];

    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "start" => Some(Self::Start),
            "stop" => Some(Self::Stop),
            "promote" => Some(Self::Promote),
            "demote" => Some(Self::Demote),
            _ => None,
        }
    }

    pub(crate) fn task(self) -> Task {
        match self {
            Self::Start => Task::Start,
            Self::Stop => Task::Stop,
            Self::Promote => Task::Promote,
            Self::Demote => Task::Demote,
        }
    }

    /// The phase that undoes this one.
    pub(crate) fn opposite(self) -> Self {
        match self {
            Self::Start => Self::Stop,
            Self::Stop => Self::Start,
            Self::Promote => Self::Demote,
            Self::Demote => Self::Promote,
        }
    }

    pub(crate) fn begin_name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Promote => "promote",
            Self::Demote => "demote",
        }
    }

    pub(crate) fn done_name(self) -> &'static str {
        match self {
            Self::Start => "running",
            Self::Stop => "stopped",
            Self::Promote => "promoted",
            Self::Demote => "demoted",
        }
    }
}

impl Task {
    /// The name of the operation, as in keys.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Promote => "promote",
            Self::Demote => "demote",
            Self::MigrateTo => "migrate_to",
            Self::MigrateFrom => "migrate_from",
            Self::Probe | Self::Monitor => "monitor",
            Self::Cancel => "cancel",
            Self::Reload => "reload-agent",
            Self::Delete => "delete",
            Self::ClearFailures => "clear_failcount",
            Self::NotifyBefore(_) | Self::NotifyAfter(_) => "notify",
            Self::Fence => "stonith",
            Self::Shutdown => "do_shutdown",
            Self::Begin(phase) => phase.begin_name(),
            Self::Done(phase) => phase.done_name(),
        }
    }
}

/// A step that may or may not be taken.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) resource: Option<RscIx>,
    pub(crate) node: Option<NodeIx>,
    pub(crate) task: Task,
    pub(crate) interval_ms: u64,
    pub(crate) required: bool,
    pub(crate) runnable: bool,
    /// Nothing is executed: the step is true by itself (fencing stopped it) or marks a point.
    pub(crate) pseudo: bool,
    /// Why it is required.
    pub(crate) reason: Option<String>,
    /// Why it cannot be done.
    pub(crate) blocked_by: Option<String>,
    /// Exit code that means "as expected".
    pub(crate) expected: i32,
    /// `reboot`, `off` for fencing.
    pub(crate) how: String,
}

impl Actor<'_, '_> {
    /// The step, made if it is not there yet: not required, runnable.
    pub(super) fn step(&mut self, resource: RscIx, task: Task, node: Option<NodeIx>) -> StepIx {
        self.step_every(resource, task, node, 0)
    }

    /// The same for recurring ones.
    pub(super) fn step_every(
        &mut self,
        resource: RscIx,
        task: Task,
        node: Option<NodeIx>,
        interval_ms: u64,
    ) -> StepIx {
        let key = (Some(resource), task, node, interval_ms);
        if let Some(at) = self.index.get(&key) {
            return *at;
        }
        let at = self.push(Some(resource), task, node, interval_ms);
        self.index.insert(key, at);
        at
    }

    /// A step that belongs to a node.
    pub(super) fn node_step(&mut self, task: Task, node: NodeIx) -> StepIx {
        let key = (None, task, Some(node), 0);
        if let Some(at) = self.index.get(&key) {
            return *at;
        }
        let at = self.push(None, task, Some(node), 0);
        self.index.insert(key, at);
        at
    }

    /// The step, if it was made.
    pub(super) fn existing(&self, resource: RscIx, task: Task, node: Option<NodeIx>) -> Option<StepIx> {
        self.index.get(&(Some(resource), task, node, 0)).copied()
    }

    /// The fencing of a node, if it was planned.
    pub(super) fn fencing_of(&self, node: NodeIx) -> Option<StepIx> {
        self.index.get(&(None, Task::Fence, Some(node), 0)).copied()
    }

    fn push(
        &mut self,
        resource: Option<RscIx>,
        task: Task,
        node: Option<NodeIx>,
        interval_ms: u64,
    ) -> StepIx {
        self.steps.push(Step {
            resource,
            node,
            task,
            interval_ms,
            required: false,
            runnable: true,
            pseudo: matches!(task, Task::Begin(_) | Task::Done(_)),
            reason: None,
            blocked_by: None,
            expected: 0,
            how: String::new(),
        });
        StepIx(self.steps.len() - 1)
    }

    /// Marks a step as required.
    pub(super) fn require(&mut self, at: StepIx, why: &str) -> bool {
        let step = &mut self.steps[at.0];
        if step.required {
            return false;
        }
        step.required = true;
        if !why.is_empty() {
            step.reason.get_or_insert_with(|| why.to_owned());
        }
        true
    }

    /// Marks a step as impossible.
    pub(super) fn block(&mut self, at: StepIx, why: &str) -> bool {
        let step = &mut self.steps[at.0];
        if !step.runnable {
            return false;
        }
        step.runnable = false;
        step.blocked_by.get_or_insert_with(|| why.to_owned());
        true
    }

    /// All steps of a resource with this task.
    pub(super) fn steps_of(&self, resource: RscIx, task: Task) -> Vec<StepIx> {
        let low = (Some(resource), task, None, 0);
        self.index
            .range(low..)
            .take_while(|((r, t, _, _), _)| *r == Some(resource) && *t == task)
            .map(|(_, at)| *at)
            .collect()
    }
}
