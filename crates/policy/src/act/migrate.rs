//! Live migration in place of stop and start.

use super::{Actor, Edge, StepIx, Task};
use crate::world::{Kind, NodeIx, RscIx};

/// More rounds than any chain of dependencies is long.
const ROUNDS_MAX: usize = 100;

impl Actor<'_, '_> {
    /// Finds what can move alive. What depends on such a resource need not be restarted.
    pub(super) fn choose_migrations(&mut self) {
        self.migrating =
            self.world.resource_indices().filter(|at| self.could_migrate(*at).is_some()).collect();
        for _ in 0..ROUNDS_MAX {
            let stays: Vec<RscIx> =
                self.migrating.iter().copied().filter(|at| !self.disturbed(*at)).collect();
            if stays.len() == self.migrating.len() {
                return;
            }
            self.migrating = stays;
        }
    }

    /// From where to where a resource could be moved alive.
    fn could_migrate(&self, at: RscIx) -> Option<(NodeIx, NodeIx)> {
        let rsc = &self.world[at];
        let [from] = rsc.running_on.as_slice() else { return None };
        let to = rsc.assigned.filter(|_| rsc.next_role.is_active())?;
        let fit =
            |n: NodeIx| self.world[n].online && self.world[n].unclean.is_none() && !self.world[n].pending;
        let whole = rsc.kind == Kind::Primitive
            && rsc.meta.allow_migrate
            && rsc.managed
            && !rsc.failed
            && !rsc.start_pending
            && !self.redefined.contains(&at)
            && self.world.clone_above(at).is_none();
        (whole && to != *from && fit(*from) && fit(to)).then_some((*from, to))
    }

    /// Something it is started after, or stopped before, changes in a way that is no live migration.
    fn disturbed(&self, at: RscIx) -> bool {
        self.edges.iter().any(|edge| {
            let (first, then) = (&self.steps[edge.first.0], &self.steps[edge.then.0]);
            let other = if edge.pulls_then || edge.needs { first } else { return false };
            then.resource == Some(at)
                && then.task == Task::Start
                && other.required
                && other.resource.is_some_and(|o| o != at && !self.migrating.contains(&o))
                && matches!(other.task, Task::Start | Task::Stop | Task::Promote | Task::Demote)
        })
    }

    /// A live migration disturbs nobody else.
    pub(super) fn undisturbing(&self, source: StepIx, other: StepIx) -> bool {
        match (self.steps[source.0].resource, self.steps[other.0].resource) {
            (Some(a), Some(b)) => a != b && self.migrating.contains(&a),
            _ => false,
        }
    }

    /// Replaces start and stop of what can still move alive.
    pub(super) fn migrate_alive(&mut self) {
        for at in std::mem::take(&mut self.migrating) {
            let Some((from, to)) = self.could_migrate(at) else { continue };
            let (Some(start), Some(stop)) =
                (self.existing(at, Task::Start, Some(to)), self.existing(at, Task::Stop, Some(from)))
            else {
                continue;
            };
            let possible = |s: StepIx| self.steps[s.0].runnable && self.steps[s.0].required;
            if !possible(start) || !possible(stop) {
                continue;
            }
            let send = self.step(at, Task::MigrateTo, Some(from));
            let receive = self.step(at, Task::MigrateFrom, Some(to));
            self.require(send, "it is moved alive");
            self.require(receive, "it is moved alive");
            self.steps[start.0].pseudo = true;
            self.edges.retain(|e| !(e.first == stop && e.then == start));
            self.connect(Edge::need(send, receive));
            self.connect(Edge::need(receive, stop));
            self.connect(Edge::need(receive, start));
            // What had to happen before the start has to happen before the migration.
            let before: Vec<Edge> =
                self.edges.iter().filter(|e| e.then == start && e.first != receive).cloned().collect();
            for edge in before {
                if edge.first != stop && edge.first != send {
                    self.connect(Edge::sequence(edge.first, send));
                }
            }
            self.migrating.push(at);
        }
    }
}
