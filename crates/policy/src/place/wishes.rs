//! Wishes and bans that do not depend on where other resources are.

use super::Placer;
use crate::world::{Kind, NodeIx, RscIx, failure_limit_reached};
use crate::{Discovery, LossPolicy, Role, Score};

impl<'c> Placer<'_, 'c> {
    pub(super) fn collect_wishes(&mut self) {
        self.apply_locations();
        self.apply_health();
        for at in self.world.resource_indices() {
            if self.world[at].kind == Kind::Primitive {
                self.apply_stickiness(at);
            }
        }
        for at in self.world.resource_indices() {
            for node in self.world.node_indices() {
                if let Some(target) = failure_limit_reached(self.world, at, node) {
                    let why = format!("{} failed too often on {}", self.world[at].id, self.world[node].name);
                    self.wish_all(target, node, Score::NEVER, &why);
                }
            }
        }
        for (at, node, why) in std::mem::take(&mut self.world.bans) {
            self.wish_all(at, node, Score::NEVER, &why);
        }
        for at in self.world.resource_indices() {
            if self.world[at].exclusive_discovery {
                let allowed: Vec<NodeIx> = self.exclusive_nodes(at);
                for node in self.world.node_indices().filter(|n| !allowed.contains(n)) {
                    self.world[at].add_score(node, Score::NEVER);
                }
            }
            if let Some(lock) = self.world[at].lock_node {
                for node in self.world.node_indices().filter(|n| *n != lock) {
                    self.world[at].add_score(node, Score::NEVER);
                }
            }
        }
    }

    fn apply_locations(&mut self) {
        let cluster = self.world.cluster;
        for location in &cluster.locations {
            let Some(at) = self.world.find_resource(&location.resource) else { continue };
            match location.role {
                Some(Role::Promoted) => {
                    self.promoted_locations.push((at, location));
                    continue;
                }
                Some(Role::Stopped) => continue,
                _ => {}
            }
            if location.discovery == Discovery::Exclusive {
                self.mark_exclusive(at);
            }
            for (name, score) in &location.scores {
                let Some(node) = self.world.find_node(name) else { continue };
                if location.discovery == Discovery::Never {
                    self.mark_undiscovered(at, node);
                }
                self.wish(at, node, *score, &location.id);
            }
        }
    }

    fn mark_exclusive(&mut self, at: RscIx) {
        self.world[at].exclusive_discovery = true;
        for child in self.world[at].children.clone() {
            self.mark_exclusive(child);
        }
    }

    fn mark_undiscovered(&mut self, at: RscIx, node: NodeIx) {
        self.world[at].undiscovered.insert(node);
        for child in self.world[at].children.clone() {
            self.mark_undiscovered(child, node);
        }
    }

    fn exclusive_nodes(&self, at: RscIx) -> Vec<NodeIx> {
        let mut containers = vec![at];
        let mut up = self.world[at].parent;
        while let Some(p) = up {
            containers.push(p);
            up = self.world[p].parent;
        }
        self.world
            .cluster
            .locations
            .iter()
            .filter(|l| l.discovery == Discovery::Exclusive)
            .filter(|l| self.world.find_resource(&l.resource).is_some_and(|r| containers.contains(&r)))
            .flat_map(|l| l.scores.keys())
            .filter_map(|name| self.world.find_node(name))
            .collect()
    }

    /// Adds a wish of `at`. Members of a group are kept together, so the group's wishes are the first member's.
    fn wish(&mut self, at: RscIx, node: NodeIx, score: Score, why: &str) {
        self.add(at, node, score, why);
        let group = self.world[at].kind == Kind::Group;
        for (i, child) in self.world[at].children.clone().into_iter().enumerate() {
            self.wish(child, node, if group && i > 0 { Score::ZERO } else { score }, why);
        }
    }

    /// Adds a wish of `at` and of everything in it.
    fn wish_all(&mut self, at: RscIx, node: NodeIx, score: Score, why: &str) {
        self.add(at, node, score, why);
        for child in self.world[at].children.clone() {
            self.wish_all(child, node, score, why);
        }
    }

    fn add(&mut self, at: RscIx, node: NodeIx, score: Score, why: &str) {
        let name = self.world[node].name.clone();
        let rsc = &mut self.world[at];
        // Naming a node allows it where nothing is allowed by itself.
        let slot = &mut rsc.scores[node.0];
        *slot = Some(slot.unwrap_or(Score::ZERO) + score);
        if score != Score::ZERO {
            rsc.reasons.push(format!("{why}: {score} on {name}"));
        }
    }

    fn apply_stickiness(&mut self, at: RscIx) {
        let default = if self.world.clone_above(at).is_some() { Score::new(1) } else { Score::ZERO };
        let rsc = &self.world[at];
        let stickiness = rsc.meta.stickiness.unwrap_or(default);
        let [node] = rsc.running_on.as_slice() else { return };
        let node = *node;
        if stickiness == Score::ZERO || !rsc.managed || rsc.partial_migration.is_some() {
            return;
        }
        if rsc.scores[node.0].is_none() && !self.world.options.symmetric {
            return;
        }
        self.add(at, node, stickiness, "stays where it is");
    }

    fn apply_health(&mut self) {
        let properties = &self.world.cluster.properties;
        let strategy = properties.get("node-health-strategy").map(String::as_str).unwrap_or("none");
        let number = |name: &str, default: Score| {
            properties.get(name).and_then(|v| Score::parse(v)).unwrap_or(default)
        };
        let (green, yellow, red, base) = match strategy {
            "migrate-on-red" => (Score::ZERO, Score::ZERO, Score::NEVER, Score::ZERO),
            "only-green" => (Score::ZERO, Score::NEVER, Score::NEVER, Score::ZERO),
            "progressive" | "custom" => (
                number("node-health-green", Score::ZERO),
                number("node-health-yellow", Score::ZERO),
                number("node-health-red", Score::NEVER),
                number("node-health-base", Score::ZERO),
            ),
            _ => return,
        };
        for node in self.world.node_indices() {
            let mut health = if strategy == "progressive" { base } else { Score::ZERO };
            for (name, value) in &self.world.cluster.nodes[self.world[node].model].attributes {
                if name.starts_with("#health") {
                    health += match value.as_str() {
                        "red" => red,
                        "yellow" => yellow,
                        "green" => green,
                        other => Score::parse(other).unwrap_or(Score::ZERO),
                    };
                }
            }
            if health == Score::ZERO || strategy == "custom" {
                continue;
            }
            for at in self.world.top.clone() {
                if !self.world[at].meta.ignores_health {
                    self.wish(at, node, health, "health of the node");
                }
            }
        }
    }

    pub(super) fn apply_tickets(&mut self) {
        let cluster = self.world.cluster;
        for constraint in &cluster.ticket_constraints {
            let Some(at) = self.world.find_resource(&constraint.resource) else { continue };
            let ticket = cluster.tickets.get(&constraint.ticket);
            let granted = ticket.is_some_and(|t| t.granted);
            let standby = ticket.is_some_and(|t| t.standby);
            if granted && !standby {
                continue;
            }
            let active = !self.world.active_nodes(at).is_empty();
            let promoted_only = constraint.role == Some(Role::Promoted);
            if promoted_only {
                self.unpromotable.push(at);
            }
            let why = format!("{}: the site does not hold ticket {}", constraint.id, constraint.ticket);
            if !granted && active {
                match constraint.loss_policy {
                    LossPolicy::Stop => self.ban_everywhere(at, &why),
                    LossPolicy::Demote if !promoted_only => self.ban_everywhere(at, &why),
                    LossPolicy::Demote => {}
                    LossPolicy::Fence => {
                        self.ban_everywhere(at, &why);
                        for node in self.world.active_nodes(at) {
                            if self.world[node].unclean.is_none() {
                                self.world[node].unclean = Some("deadman ticket was lost".into());
                            }
                        }
                    }
                    LossPolicy::Freeze => {
                        for p in std::iter::once(at).chain(self.everything_in(at)) {
                            self.world[p].managed = false;
                            self.world[p].blocked = true;
                        }
                    }
                }
            } else if !promoted_only || constraint.loss_policy == LossPolicy::Stop {
                self.ban_everywhere(at, &why);
            }
        }
    }

    fn everything_in(&self, at: RscIx) -> Vec<RscIx> {
        let mut all = self.world[at].children.clone();
        for child in self.world[at].children.clone() {
            all.extend(self.everything_in(child));
        }
        all
    }
}
