//! Tells instances of a clone what happens to the others.

use super::step::Phase;
use super::{Actor, Edge, StepIx, Task};
use crate::world::{Kind, NodeIx, RscIx};

impl Actor<'_, '_> {
    pub(super) fn notify(&mut self) {
        for at in self.world.resource_indices() {
            let wants =
                self.world[at].kind == Kind::Clone && self.world[at].clone.as_ref().is_some_and(|c| c.notify);
            if wants {
                for phase in Phase::ALL {
                    self.notify_phase(at, phase);
                }
            }
        }
    }

    fn notify_phase(&mut self, clone: RscIx, phase: Phase) {
        let members = self.world.primitives_in(clone);
        let steps: Vec<StepIx> = members
            .iter()
            .flat_map(|m| self.steps_of(*m, phase.task()))
            .filter(|s| self.steps[s.0].required && self.steps[s.0].runnable)
            .collect();
        if steps.is_empty() {
            return;
        }
        for member in members {
            for node in self.world[member].running_on.clone() {
                if self.reachable(node) {
                    let before = self.step(member, Task::NotifyBefore(phase), Some(node));
                    self.require(before, "others are about to change");
                    for step in &steps {
                        self.connect(Edge::sequence(before, *step));
                    }
                }
            }
            let rsc = &self.world[member];
            let Some(node) = rsc.assigned.filter(|_| rsc.next_role.is_active()) else { continue };
            let stays = rsc.running_on.contains(&node);
            if self.reachable(node) && (stays || self.will(member, Task::Start, node)) {
                let after = self.step(member, Task::NotifyAfter(phase), Some(node));
                self.require(after, "others have changed");
                for step in &steps {
                    self.connect(Edge::sequence(*step, after));
                }
            }
        }
    }

    fn reachable(&self, node: NodeIx) -> bool {
        self.world[node].online && self.world[node].unclean.is_none()
    }
}
