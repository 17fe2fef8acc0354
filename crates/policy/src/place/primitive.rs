//! Chooses the node of one primitive.

use super::Placer;
use crate::world::{NodeIx, RscIx};
use crate::{Role, Score};
use std::cmp::Reverse;

impl Placer<'_, '_> {
    pub(super) fn place_primitive(&mut self, at: RscIx, prefer: Option<NodeIx>) -> Option<NodeIx> {
        if let Some(parent) = self.world[at].parent
            && !self.world[parent].placing
            && !self.world[parent].placed
        {
            self.place_one(parent, None);
            return self.world[at].assigned;
        }
        self.world[at].placing = true;
        self.follow_primaries(at);
        self.hear_dependents(at);
        self.world[at].placing = false;
        if self.world[at].next_role == Role::Stopped {
            for node in self.world.node_indices() {
                self.world[at].add_score(node, Score::NEVER);
            }
        }
        let stop_all = self.world.options.stop_all && !self.world[at].agent.is_fence_device();
        let chosen = if !self.world[at].managed {
            self.keep_unmanaged(at)
        } else if stop_all || self.world[at].orphan {
            None
        } else {
            self.choose(at, prefer)
        };
        self.assign(at, chosen);
        chosen
    }

    fn follow_primaries(&mut self, at: RscIx) {
        let mut links = self.links_of_dependent(at);
        links.sort_by_key(|i| Reverse(self.world[self.links[*i].primary].priority));
        for i in links {
            let link = self.links[i].clone();
            if link.dependent == at || !self.inside(link.dependent, link.primary) {
                self.place_one(link.primary, None);
            }
            // What only wishes must not leave the resource without any node.
            let optional = !link.score.is_mandatory();
            let before = optional.then(|| self.world[at].scores.clone());
            self.follow(at, &link);
            if let Some(before) = before
                && !self.any_available(&self.world[at].scores)
            {
                self.world[at].scores = before;
            }
        }
    }

    fn inside(&self, inner: RscIx, outer: RscIx) -> bool {
        let mut at = Some(inner);
        while let Some(a) = at {
            if a == outer {
                return true;
            }
            at = self.world[a].parent;
        }
        false
    }

    fn hear_dependents(&mut self, at: RscIx) {
        for i in self.links_of_primary(at) {
            let link = &self.links[i];
            if !link.influence || link.dependent_role.is_some_and(|r| r == Role::Promoted) {
                continue;
            }
            let factor = f64::from(link.score.value()) / 1_000_000.0;
            let mut scores = self.world[at].scores.clone();
            self.add_wishes_of(link.dependent, link, &mut scores, factor, false, &mut vec![at]);
            self.world[at].scores = scores;
        }
    }

    fn keep_unmanaged(&mut self, at: RscIx) -> Option<NodeIx> {
        let rsc = &mut self.world[at];
        rsc.next_role = rsc.role;
        if rsc.role.is_active() { rsc.current_node() } else { None }
    }

    /// The best node, if any is fit.
    fn choose(&mut self, at: RscIx, prefer: Option<NodeIx>) -> Option<NodeIx> {
        let current = self.world[at].current_node();
        let mut nodes: Vec<NodeIx> =
            self.world.node_indices().filter(|n| self.world[at].scores[n.0].is_some()).collect();
        self.limit_by_capacity(at, &mut nodes);
        self.sort_nodes(at, &mut nodes, current);
        let best = *nodes.first()?;
        let best_score = self.world[at].score(best);
        if let Some(prefer) = prefer
            && nodes.contains(&prefer)
            && self.available(at, prefer)
            && self.world[at].score(prefer) >= best_score
        {
            return Some(prefer);
        }
        if !self.available(at, best) {
            return None;
        }
        // Among equals a resource stays where it is; instances of anonymous clones are all the same.
        let unique =
            self.world.clone_above(at).is_none_or(|c| self.world[c].clone.as_ref().is_some_and(|o| o.unique));
        if unique
            && let Some(current) = current
            && self.available(at, current)
            && self.world[at].score(current) == best_score
            && best_score > Score::ZERO
        {
            return Some(current);
        }
        Some(best)
    }

    /// Best first: highest score, most free capacity, fewest resources, where it runs, name.
    pub(super) fn sort_nodes(&self, at: RscIx, nodes: &mut [NodeIx], current: Option<NodeIx>) {
        let score = |n: NodeIx| if self.world[n].can_run() { self.world[at].score(n) } else { Score::NEVER };
        let minimal = self.world.options.placing == crate::world::Placing::Minimal;
        nodes.sort_by(|a, b| {
            score(*b)
                .cmp(&score(*a))
                .then_with(|| self.compare_capacity(*a, *b))
                .then_with(|| {
                    if minimal {
                        std::cmp::Ordering::Equal
                    } else {
                        self.world[*a].placed.cmp(&self.world[*b].placed)
                    }
                })
                .then_with(|| (Some(*a) != current).cmp(&(Some(*b) != current)))
                .then_with(|| a.cmp(b))
        });
    }

    /// Records the decision.
    pub(super) fn assign(&mut self, at: RscIx, node: Option<NodeIx>) {
        let rsc = &mut self.world[at];
        rsc.placed = true;
        match node {
            None => {
                rsc.assigned = None;
                rsc.next_role = Role::Stopped;
            }
            Some(node) => {
                rsc.assigned = Some(node);
                if rsc.next_role == Role::Unknown {
                    rsc.next_role = Role::Started;
                }
                self.world[node].placed += 1;
                self.take_capacity(at, node);
            }
        }
    }

    /// Takes a decision back.
    pub(super) fn unassign(&mut self, at: RscIx) {
        for p in self.world.primitives_in(at) {
            if let Some(node) = self.world[p].assigned.take() {
                self.world[node].placed -= 1;
                self.give_capacity(p, node);
            }
            self.world[p].placed = false;
        }
        self.world[at].placed = false;
        self.world[at].assigned = None;
    }
}
