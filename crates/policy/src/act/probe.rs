//! Before anything is started, it is looked for everywhere it could run.

use super::{Actor, Edge, Task};
use crate::NodeKind;
use crate::world::{Kind, NodeIx, RscIx};

/// Exit code of "not running".
const NOT_RUNNING: i32 = 7;

impl Actor<'_, '_> {
    pub(super) fn probe(&mut self) {
        if !self.world.options.probe {
            return;
        }
        for node in self.world.node_indices() {
            let state = &self.world[node];
            if !state.online || state.pending || state.unclean.is_some() || state.kind != NodeKind::Member {
                continue;
            }
            for at in self.world.top.clone() {
                self.probe_in(at, node);
            }
        }
    }

    fn probe_in(&mut self, at: RscIx, node: NodeIx) {
        match self.world[at].kind {
            Kind::Primitive => self.probe_one(at, node),
            Kind::Group => {
                for child in self.world[at].children.clone() {
                    self.probe_in(child, node);
                }
            }
            Kind::Clone => self.probe_clone(at, node),
        }
    }

    fn probe_clone(&mut self, at: RscIx, node: NodeIx) {
        let children = self.world[at].children.clone();
        if self.world[at].clone.as_ref().is_some_and(|c| c.unique) {
            for child in children {
                self.probe_in(child, node);
            }
            return;
        }
        // Instances are alike: one of them is enough, best the one that is or will be there.
        let Some(first) = children.first().copied() else { return };
        let bases: Vec<String> =
            self.world.primitives_in(first).iter().map(|p| self.world[*p].base.clone()).collect();
        for base in bases {
            let all: Vec<RscIx> = children.iter().filter_map(|c| self.world.member(*c, &base)).collect();
            if all.iter().any(|m| self.world[*m].known_on.contains(&node)) {
                continue;
            }
            let here = all.iter().find(|m| {
                self.world[**m].running_on.contains(&node) || self.world[**m].assigned == Some(node)
            });
            if let Some(member) = here.or(all.first()).copied() {
                self.probe_one(member, node);
            }
        }
    }

    fn probe_one(&mut self, at: RscIx, node: NodeIx) {
        let rsc = &self.world[at];
        if rsc.orphan || rsc.known_on.contains(&node) || rsc.undiscovered.contains(&node) {
            return;
        }
        if rsc.exclusive_discovery && rsc.score(node).is_never() && !self.discovered_on(at, node) {
            return;
        }
        let step = self.step(at, Task::Probe, Some(node));
        self.steps[step.0].expected = NOT_RUNNING;
        self.require(step, "nothing is known of it there");
        for start in self.steps_of(at, Task::Start) {
            self.connect(Edge::sequence(step, start));
        }
        for stop in self.steps_of(at, Task::Stop) {
            if self.steps[stop.0].node == Some(node) {
                self.connect(Edge::sequence(step, stop));
            }
        }
    }

    fn discovered_on(&self, at: RscIx, node: NodeIx) -> bool {
        let mut names = vec![self.world[at].base.clone()];
        let mut up = self.world[at].parent;
        while let Some(p) = up {
            names.push(self.world[p].id.clone());
            up = self.world[p].parent;
        }
        self.world.cluster.locations.iter().any(|l| {
            l.discovery == crate::Discovery::Exclusive
                && names.contains(&l.resource)
                && l.scores.contains_key(&self.world[node].name)
        })
    }
}
