//! Spreads the instances of a clone.

use super::Placer;
use crate::world::{Kind, NodeIx, RscIx};
use crate::{Role, Score};
use std::cmp::Reverse;

impl Placer<'_, '_> {
    pub(super) fn place_clone(&mut self, at: RscIx) {
        self.world[at].placing = true;
        let Some(options) = self.world[at].clone.clone() else { return };
        for i in self.as_dependent[at.0].clone() {
            let primary = self.links[i].primary;
            self.place_one(primary, None);
        }
        if options.promotable {
            self.add_promotion_wishes(at);
        }
        let fit = self
            .world
            .node_indices()
            .filter(|n| self.world[at].scores[n.0].is_some() && self.available(at, *n))
            .count();
        let per_node_best = (options.max / fit.max(1)).max(1);
        let mut order = self.world[at].children.clone();
        self.sort_instances(&mut order);
        let mut counts = vec![0usize; self.world.nodes.len()];
        let mut placed = 0;
        for instance in order.clone() {
            if placed >= options.max || self.world[instance].orphan {
                continue;
            }
            let Some(current) = self.world.active_nodes(instance).first().copied() else { continue };
            let room = counts[current.0] < per_node_best.min(options.node_max);
            if room
                && self.available(instance, current)
                && self.place_early(instance, current, &counts, options.node_max)
            {
                counts[current.0] += 1;
                placed += 1;
            }
        }
        for instance in order {
            if self.world[instance].placed {
                continue;
            }
            if placed >= options.max || self.world[instance].orphan {
                self.ban_everywhere(instance, "more instances than wanted");
            } else {
                self.ban_full(instance, &counts, options.node_max);
            }
            if let Some(node) = self.place_one(instance, None) {
                counts[node.0] += 1;
                placed += 1;
            }
        }
        self.world[at].placing = false;
        self.world[at].placed = true;
        self.world[at].next_role = if placed > 0 { Role::Started } else { Role::Stopped };
        if options.promotable {
            self.promote_instances(at);
        }
    }

    /// Tries to leave an instance where it is.
    fn place_early(&mut self, instance: RscIx, current: NodeIx, counts: &[usize], node_max: usize) -> bool {
        let backup: Vec<(RscIx, Vec<Option<Score>>)> = self
            .world
            .resource_indices()
            .map(|r| (r, self.world[r].scores.clone()))
            .filter(|(r, _)| *r == instance || self.world.instance_of(*r) == instance)
            .collect();
        self.ban_full(instance, counts, node_max);
        let node = self.place_one(instance, Some(current));
        if node == Some(current) {
            return true;
        }
        self.unassign(instance);
        for (r, scores) in backup {
            self.world[r].scores = scores;
            let stopped_by_us = self.world[r].next_role == Role::Stopped
                && self.world[r].meta.target_role != Some(Role::Stopped);
            if stopped_by_us || self.world[r].next_role == Role::Started {
                self.world[r].next_role = Role::Unknown;
            }
        }
        false
    }

    fn ban_full(&mut self, instance: RscIx, counts: &[usize], node_max: usize) {
        for node in self.world.node_indices() {
            if counts[node.0] >= node_max {
                self.ban_on(instance, node);
            }
        }
    }

    fn ban_on(&mut self, at: RscIx, node: NodeIx) {
        self.world[at].add_score(node, Score::NEVER);
        for child in self.world[at].children.clone() {
            self.ban_on(child, node);
        }
    }

    /// Instances that have the best reason to stay come first.
    fn sort_instances(&self, order: &mut [RscIx]) {
        order.sort_by_key(|instance| {
            let active = self.world.active_nodes(*instance);
            let home = active.first().copied();
            let can_stay = home.is_some_and(|n| self.available(*instance, n));
            let members = self.world.primitives_in(*instance);
            let failed = members.iter().any(|m| self.world[*m].failed);
            let liking = home.map(|n| self.liking(*instance, n));
            (
                self.world[*instance].orphan && active.is_empty(),
                home.is_none(),
                active.len() > 1,
                !can_stay,
                Reverse(self.world[*instance].priority),
                failed,
                Reverse(liking),
                instance_number(&self.world[*instance].id),
            )
        });
    }

    fn liking(&self, instance: RscIx, node: NodeIx) -> Score {
        match self.world[instance].kind {
            Kind::Group => self
                .world
                .primitives_in(instance)
                .iter()
                .fold(Score::ZERO, |sum, m| sum + self.world[*m].score(node)),
            _ => self.world[instance].score(node),
        }
    }
}

/// The number behind the colon.
pub(super) fn instance_number(id: &str) -> usize {
    id.rsplit_once(':').and_then(|(_, n)| n.parse().ok()).unwrap_or(usize::MAX)
}
