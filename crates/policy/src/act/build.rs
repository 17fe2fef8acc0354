//! The steps that the change of a resource's place and role calls for.

use super::step::Phase;
use super::{Actor, Edge, StepIx, Task};
use crate::world::{Kind, MultipleActive, NodeIx, Requires, RscIx};
use crate::{QuorumPolicy, Role};

impl Actor<'_, '_> {
    pub(super) fn build_transitions(&mut self) {
        for at in self.world.resource_indices() {
            match self.world[at].kind {
                Kind::Primitive => self.build_primitive(at),
                Kind::Group | Kind::Clone => {}
            }
        }
        for at in self.world.resource_indices() {
            if self.world[at].kind != Kind::Primitive {
                self.build_container(at);
            }
        }
    }

    fn build_primitive(&mut self, at: RscIx) {
        let rsc = &self.world[at];
        let target = rsc.assigned.filter(|_| rsc.next_role.is_active());
        let active = rsc.role.is_active();
        let current = rsc.running_on.clone();
        let stays = active && target.is_some_and(|t| current.contains(&t));
        let several = current.len() > 1 && rsc.partial_migration.is_none();
        let unexpected_only = several && rsc.meta.multiple_active == MultipleActive::StopUnexpected && stays;
        let must_restart = rsc.must_stop || (several && !unexpected_only) || (active && !stays);
        let redefined = self.redefined.contains(&at);
        let must_restart = must_restart || redefined;
        let managed = rsc.managed;
        let start_again = rsc.start_pending && stays;
        let (role, next_role) = (rsc.role, rsc.next_role);
        let start = self.step(at, Task::Start, target);
        if target.is_none() {
            self.block(start, &format!("{} start", self.world[at].id));
        } else {
            self.check_start(at, start);
        }
        if managed && target.is_some() && (!stays || must_restart || start_again) {
            let why = if redefined && stays { "resource definition change" } else { "" };
            self.require(start, why);
        }
        for node in &current {
            let stop = self.step(at, Task::Stop, Some(*node));
            self.check_stop(at, stop, *node);
            let wanted = target.is_none() || must_restart || (unexpected_only && Some(*node) != target);
            if managed && wanted {
                let why = if target.is_none() {
                    "node availability"
                } else if redefined && stays {
                    "resource definition change"
                } else {
                    ""
                };
                self.require(stop, why);
            }
            if !managed {
                if self.world[at].blocked && self.world[at].failed {
                    self.require(stop, "");
                }
                self.block(stop, "unmanaged");
            }
            let expected = unexpected_only && Some(*node) != target;
            self.connect(Edge {
                pulls_then: target.is_some() && managed && !expected,
                pulls_first: (Some(*node) == target || !unexpected_only) && !start_again,
                ..Edge::need(stop, start)
            });
            if role == Role::Promoted {
                let demote = self.step(at, Task::Demote, Some(*node));
                self.check_stop(at, demote, *node);
                if managed && (next_role != Role::Promoted || Some(*node) != target) {
                    self.require(demote, "");
                }
                self.connect(Edge { pulls_first: true, needs: true, ..Edge::sequence(demote, stop) });
            }
        }
        if next_role == Role::Promoted {
            self.build_promote(at, start, target);
        }
    }

    fn build_promote(&mut self, at: RscIx, start: StepIx, target: Option<NodeIx>) {
        let promote = self.step(at, Task::Promote, target);
        if self.world[at].role != Role::Promoted && self.world[at].managed {
            self.require(promote, "");
        }
        if !self.world[at].managed {
            self.block(promote, "unmanaged");
        }
        self.connect(Edge { pulls_then: true, ..Edge::need(start, promote) });
        for demote in self.steps_of(at, Task::Demote) {
            self.connect(Edge { pulls_then: true, pulls_first: true, ..Edge::need(demote, promote) });
        }
    }

    /// Whether a start is possible at all.
    fn check_start(&mut self, at: RscIx, start: StepIx) {
        let rsc = &self.world[at];
        if !rsc.managed {
            if !rsc.role.is_active() {
                self.block(start, "unmanaged");
            }
            return;
        }
        let options = &self.world.options;
        let requires = rsc.meta.requires;
        let active = rsc.role.is_active();
        if !options.quorum && requires != Requires::Nothing {
            match options.quorum_policy {
                QuorumPolicy::Stop => {
                    self.block(start, "no quorum");
                }
                QuorumPolicy::Demote | QuorumPolicy::Fence if !active => {
                    self.block(start, "no quorum");
                }
                QuorumPolicy::Freeze if !active => {
                    self.block(start, "quorum freeze");
                }
                _ => {}
            }
        }
        if requires >= Requires::Fencing {
            for node in self.world.node_indices() {
                if let Some(fence) = self.fencing_of(node) {
                    self.connect(Edge::sequence(fence, start));
                }
            }
        }
    }

    /// A stop on a lost node is true as soon as the node is fenced, and impossible without.
    fn check_stop(&mut self, at: RscIx, stop: StepIx, node: NodeIx) {
        if let Some(fence) = self.fencing_of(node) {
            self.steps[stop.0].pseudo = true;
            if self.world[at].managed {
                self.require(stop, "");
            }
            self.connect(Edge::need(fence, stop));
        } else if !self.world[node].online {
            self.block(stop, "node is unclean");
        }
    }

    /// Markers at the beginning and end of each phase of a group or clone.
    fn build_container(&mut self, at: RscIx) {
        let members = self.world.primitives_in(at);
        for phase in Phase::ALL {
            let inner: Vec<StepIx> = members.iter().flat_map(|m| self.steps_of(*m, phase.task())).collect();
            if inner.is_empty() {
                continue;
            }
            let begin = self.step(at, Task::Begin(phase), None);
            let done = self.step(at, Task::Done(phase), None);
            self.connect(Edge::sequence(begin, done));
            for step in inner {
                self.connect(Edge { pulls_first: true, ..Edge::sequence(begin, step) });
                self.connect(Edge { pulls_then: true, ..Edge::sequence(step, done) });
            }
        }
        if self.world[at].kind == Kind::Group {
            self.order_members(at);
        }
        self.order_phases(at);
    }

    /// Stops before starts, demotions before stops, starts before promotions.
    fn order_phases(&mut self, at: RscIx) {
        let pairs = [
            (Phase::Stop, Phase::Start),
            (Phase::Demote, Phase::Stop),
            (Phase::Start, Phase::Promote),
            (Phase::Demote, Phase::Promote),
        ];
        for (first, then) in pairs {
            if let (Some(f), Some(t)) =
                (self.existing(at, Task::Done(first), None), self.existing(at, Task::Begin(then), None))
            {
                self.connect(Edge::sequence(f, t));
            }
        }
    }

    /// Members of a group start one after the other and stop in reverse.
    fn order_members(&mut self, at: RscIx) {
        let members = self.world[at].children.clone();
        for two in members.windows(2) {
            self.chain(two[0], two[1], Phase::Start, true);
            self.chain(two[1], two[0], Phase::Stop, false);
            self.chain(two[0], two[1], Phase::Promote, true);
            self.chain(two[1], two[0], Phase::Demote, false);
        }
    }

    fn chain(&mut self, first: RscIx, then: RscIx, phase: Phase, forward: bool) {
        for f in self.steps_of(first, phase.task()) {
            for t in self.steps_of(then, phase.task()) {
                let why = format!("{} {}", self.world[first].id, phase.begin_name());
                let edge = if forward {
                    Edge { pulls_then: true, why, ..Edge::need(f, t) }
                } else {
                    Edge { pulls_first: true, needs: true, why, ..Edge::sequence(f, t) }
                };
                self.connect(edge);
            }
        }
    }
}
