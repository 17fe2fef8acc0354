//! Placement: decides for every resource where it shall run, and in which role.
//!
//! In this order: wishes and bans are collected ([`wishes`]), then resources are placed one after the other by
//! priority. A primary resource of a colocation is placed before its dependents ([`link`]), but listens to their
//! wishes ([`listen`]).

mod clone;
mod follow;
mod group;
mod link;
mod listen;
mod primitive;
mod promote;
mod utilization;
mod wishes;

pub(crate) use link::Link;

use crate::world::{Kind, NodeIx, RscIx, World};
use crate::{Location, Role, Score};

/// The state of one placement run.
pub(crate) struct Placer<'w, 'c> {
    pub(crate) world: &'w mut World<'c>,
    pub(crate) links: Vec<Link>,
    /// Links in which a resource is the dependent, by resource.
    as_dependent: Vec<Vec<usize>>,
    /// Links in which a resource is the primary, by resource.
    as_primary: Vec<Vec<usize>>,
    /// Preferences that count for the promoted role only.
    promoted_locations: Vec<(RscIx, &'c Location)>,
    /// Resources that must not be promoted for want of a ticket.
    unpromotable: Vec<RscIx>,
}

/// Places everything; gives back the colocations as resolved.
pub(crate) fn place<'c>(world: &mut World<'c>) {
    let mut placer = Placer {
        links: Vec::new(),
        as_dependent: vec![Vec::new(); world.resources.len()],
        as_primary: vec![Vec::new(); world.resources.len()],
        promoted_locations: Vec::new(),
        unpromotable: Vec::new(),
        world,
    };
    placer.set_wanted_roles();
    placer.resolve_links();
    placer.collect_wishes();
    placer.apply_tickets();
    for at in placer.placing_order() {
        placer.place_one(at, None);
    }
}

impl Placer<'_, '_> {
    fn set_wanted_roles(&mut self) {
        for at in self.world.resource_indices() {
            let rsc = &mut self.world[at];
            if rsc.orphan {
                continue;
            }
            if let Some(role @ (Role::Stopped | Role::Unpromoted)) = rsc.meta.target_role {
                rsc.next_role = role;
            }
        }
    }

    /// Resources without parents: by priority, then as configured.
    fn placing_order(&self) -> Vec<RscIx> {
        let mut order = self.world.top.clone();
        order.sort_by_key(|at| std::cmp::Reverse(self.world[*at].priority));
        self.utilization_order(order)
    }

    /// Places `at`; `prefer` is a node to take if nothing better turns up.
    pub(crate) fn place_one(&mut self, at: RscIx, prefer: Option<NodeIx>) -> Option<NodeIx> {
        if self.world[at].placed || self.world[at].placing {
            return self.world[at].assigned;
        }
        match self.world[at].kind {
            Kind::Primitive => self.place_primitive(at, prefer),
            Kind::Group => self.place_group(at, prefer),
            Kind::Clone => {
                self.place_clone(at);
                None
            }
        }
    }

    /// True if the node can take the resource: it is fit and not banned.
    pub(crate) fn available(&self, at: RscIx, node: NodeIx) -> bool {
        self.world[node].can_run() && self.world[at].score(node) >= Score::ZERO
    }

    /// True if any node can take a resource with these preferences.
    pub(crate) fn any_available(&self, scores: &[Option<Score>]) -> bool {
        scores
            .iter()
            .enumerate()
            .any(|(i, s)| s.is_some_and(|s| s >= Score::ZERO) && self.world.nodes[i].can_run())
    }

    /// Bans `at` and all in it from every node.
    pub(crate) fn ban_everywhere(&mut self, at: RscIx, why: &str) {
        for node in self.world.node_indices() {
            self.world[at].add_score(node, Score::NEVER);
        }
        self.world[at].reasons.push(why.to_owned());
        for child in self.world[at].children.clone() {
            self.ban_everywhere(child, why);
        }
    }
}
