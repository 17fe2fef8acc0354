//! Capacities of nodes and demands of resources.

use super::Placer;
use crate::Score;
use crate::world::{Kind, NodeIx, Placing, RscIx};
use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;

impl Placer<'_, '_> {
    fn counts_capacity(&self) -> bool {
        self.world.options.placing != Placing::Default
    }

    /// With capacities in play, resources that are fixed or wanted somewhere go first.
    pub(super) fn utilization_order(&self, mut order: Vec<RscIx>) -> Vec<RscIx> {
        if !self.counts_capacity() {
            return order;
        }
        let on_current = |at: RscIx| {
            let nodes = self.world.active_nodes(at);
            nodes.first().map(|n| self.wish_on(at, *n))
        };
        let best = |at: RscIx| self.world.node_indices().map(|n| self.wish_on(at, n)).max();
        order.sort_by_key(|at| {
            (Reverse(self.world[*at].priority), Reverse(on_current(*at)), Reverse(best(*at)))
        });
        order
    }

    /// What a resource and those it must run with think of a node.
    fn wish_on(&self, at: RscIx, node: NodeIx) -> Score {
        let members = self.world.primitives_in(at);
        match self.world[at].kind {
            Kind::Group => members.iter().fold(Score::ZERO, |sum, m| sum + self.world[*m].score(node)),
            _ => self.world[at].score(node),
        }
    }

    fn demand(&self, at: RscIx) -> BTreeMap<String, i64> {
        let mut total = BTreeMap::new();
        for (name, amount) in self.world[at].config.iter().flat_map(|c| &c.utilization) {
            let sum: &mut i64 = total.entry(name.clone()).or_insert(0);
            *sum = sum.saturating_add(*amount);
        }
        total
    }

    /// What must fit together: the resource and all unplaced ones it is tied to.
    fn tied_demand(&self, at: RscIx) -> BTreeMap<String, i64> {
        let mut tied = vec![at];
        let mut i = 0;
        while i < tied.len() {
            let one = tied[i];
            let links = self.as_dependent[one.0].iter().chain(&self.as_primary[one.0]);
            for link in links.map(|l| &self.links[*l]) {
                if link.score != Score::INFINITY {
                    continue;
                }
                for end in [link.dependent, link.primary] {
                    for p in self.world.primitives_in(end) {
                        let clone =
                            self.world.clone_above(p).is_some() && self.world.clone_above(one).is_none();
                        if !tied.contains(&p) && !self.world[p].placed && !clone {
                            tied.push(p);
                        }
                    }
                }
            }
            i += 1;
        }
        let mut total = BTreeMap::new();
        for one in tied {
            for (name, amount) in self.demand(one) {
                let sum: &mut i64 = total.entry(name).or_insert(0);
                *sum = sum.saturating_add(amount);
            }
        }
        total
    }

    fn fits(&self, demand: &BTreeMap<String, i64>, node: NodeIx) -> bool {
        demand
            .iter()
            .all(|(name, amount)| *amount <= self.world[node].capacity.get(name).copied().unwrap_or(0))
    }

    /// Leaves only nodes with room; if the whole of what belongs together fits nowhere, at least this one must.
    pub(super) fn limit_by_capacity(&mut self, at: RscIx, nodes: &mut Vec<NodeIx>) {
        if !self.counts_capacity() {
            return;
        }
        let usable = |n: &NodeIx| self.available(at, *n);
        let together = self.tied_demand(at);
        let mut roomy: Vec<NodeIx> = nodes.iter().copied().filter(|n| self.fits(&together, *n)).collect();
        if !roomy.iter().any(usable) {
            let alone = self.demand(at);
            roomy = nodes.iter().copied().filter(|n| self.fits(&alone, *n)).collect();
        }
        for node in nodes.iter() {
            if !roomy.contains(node) {
                self.world[at].add_score(*node, Score::NEVER);
            }
        }
        *nodes = roomy;
    }

    /// `Less` if the first node has more room.
    pub(super) fn compare_capacity(&self, a: NodeIx, b: NodeIx) -> Ordering {
        if self.world.options.placing != Placing::Balanced {
            return Ordering::Equal;
        }
        let (left, right) = (&self.world[a].capacity, &self.world[b].capacity);
        let mut balance = 0;
        let names = left.keys().chain(right.keys().filter(|k| !left.contains_key(*k)));
        for name in names {
            let amount = |c: &BTreeMap<String, i64>| c.get(name).copied().unwrap_or(0);
            balance += match amount(left).cmp(&amount(right)) {
                Ordering::Greater => 1,
                Ordering::Less => -1,
                Ordering::Equal => 0,
            };
        }
        0.cmp(&balance)
    }

    pub(super) fn take_capacity(&mut self, at: RscIx, node: NodeIx) {
        for (name, amount) in self.demand(at) {
            if let Some(left) = self.world[node].capacity.get_mut(&name) {
                *left = left.saturating_sub(amount);
            }
        }
    }

    pub(super) fn give_capacity(&mut self, at: RscIx, node: NodeIx) {
        for (name, amount) in self.demand(at) {
            if let Some(left) = self.world[node].capacity.get_mut(&name) {
                *left = left.saturating_add(amount);
            }
        }
    }
}
