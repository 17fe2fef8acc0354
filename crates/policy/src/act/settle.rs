//! Follows needs and consequences along the edges until nothing changes.

use super::{Actor, Edge, StepIx, Task};
use crate::Role;
use crate::world::{Kind, RscIx};

/// More rounds than any chain of consequences is long; a circle of orders ends here.
const ROUNDS_MAX: usize = 1_000;

impl Actor<'_, '_> {
    pub(super) fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let mut changed = self.follow_edges();
            changed |= self.check_any_of();
            for at in self.world.resource_indices() {
                if self.world[at].kind == Kind::Primitive && self.world[at].managed {
                    changed |= self.settle_resource(at);
                }
            }
            if !changed {
                return;
            }
        }
        self.world.warnings.push("orders contradict each other; some were not followed".into());
    }

    fn follow_edges(&mut self) -> bool {
        let mut changed = false;
        for i in 0..self.edges.len() {
            let edge = self.edges[i].clone();
            let (first, then) = (&self.steps[edge.first.0], &self.steps[edge.then.0]);
            let (first_runnable, first_required, then_required) =
                (first.runnable, first.required, then.required);
            let counts = edge.needs || edge.needs_if_required && then_required;
            // A step that is not needed stands in nobody's way, unless it is the start of what does not run.
            let stands_in_way = !first_runnable && (first_required || self.would_be_needed(edge.first));
            if counts && stands_in_way {
                changed |= self.block(edge.then, &worded("unrunnable", &edge.why));
            }
            if edge.pulls_then
                && self.whole(&edge)
                && !self.undisturbing(edge.first, edge.then)
                && first_required
                && first_runnable
                && !then_required
                && self.possible(edge.then)
            {
                changed |= self.require(edge.then, &worded("required", &edge.why));
            }
            if edge.pulls_first
                && self.whole(&edge)
                && !self.undisturbing(edge.then, edge.first)
                && self.whole(&edge)
                && !self.undisturbing(edge.then, edge.first)
                && then_required
                && !first_required
                && self.possible(edge.first)
            {
                changed |= self.require(edge.first, &worded("required", &edge.why));
            }
        }
        changed
    }

    /// A start or promotion that is impossible blocks what builds on it even if nobody asks for it.
    fn would_be_needed(&self, at: StepIx) -> bool {
        matches!(self.steps[at.0].task, Task::Start | Task::Promote | Task::Done(_))
    }

    /// What depends on a clone is not disturbed while some of its instances go on.
    fn whole(&self, edge: &Edge) -> bool {
        let Some((clone, task)) = edge.whole else { return true };
        let mut steps = self.world.primitives_in(clone).into_iter().flat_map(|p| self.steps_of(p, task));
        steps.all(|s| self.steps[s.0].required || self.steps[s.0].node.is_none())
    }

    /// Nobody forces anything on what is not managed.
    fn possible(&self, at: StepIx) -> bool {
        let step = &self.steps[at.0];
        match (step.resource, step.task) {
            (Some(r), Task::Start | Task::Stop | Task::Promote | Task::Demote) => {
                self.world[r].managed && step.node.is_some()
            }
            _ => true,
        }
    }

    fn check_any_of(&mut self) -> bool {
        let mut changed = false;
        for i in 0..self.any_of.len() {
            let (firsts, then, min, why) = self.any_of[i].clone();
            let able =
                firsts.iter().filter(|f| self.steps[f.0].runnable && self.steps[f.0].node.is_some()).count();
            if able < min {
                changed |= self.block(then, &worded("unrunnable", &why));
            }
        }
        changed
    }

    fn settle_resource(&mut self, at: RscIx) -> bool {
        let active = self.world[at].role.is_active();
        let mut changed = false;
        for start in self.steps_of(at, Task::Start) {
            let step = &self.steps[start.0];
            if !active || step.node.is_none() {
                continue;
            }
            let (required, runnable) = (step.required, step.runnable);
            let why = step.blocked_by.clone().or_else(|| step.reason.clone()).unwrap_or_default();
            let node = step.node;
            if !runnable
                || required
                    && !self.world[at].start_pending
                    && self.world[at].running_on.contains(&node.unwrap_or(crate::world::NodeIx(0)))
            {
                for stop in self.steps_of(at, Task::Stop) {
                    if !self.steps[stop.0].required {
                        changed |= self.require(stop, &why);
                    }
                }
            }
        }
        if self.world[at].role == Role::Promoted {
            for promote in self.steps_of(at, Task::Promote) {
                let (runnable, why) =
                    (self.steps[promote.0].runnable, self.steps[promote.0].blocked_by.clone());
                if !runnable {
                    for demote in self.steps_of(at, Task::Demote) {
                        changed |= self.require(demote, why.as_deref().unwrap_or_default());
                    }
                }
            }
        }
        changed
    }
}

/// Why something is forced or impossible, as people read it.
fn worded(how: &str, what: &str) -> String {
    if what.is_empty() { String::new() } else { format!("{how} {what}") }
}
