//! Chooses which instances of a promotable clone get the higher role.

use super::Placer;
use super::clone::instance_number;
use crate::world::{NodeIx, RscIx};
use crate::{QuorumPolicy, Role, Score};
use std::cmp::Reverse;

impl Placer<'_, '_> {
    /// The promotion score that the agent left on the node, if any.
    fn recorded_score(&self, instance: RscIx, node: NodeIx) -> Option<Score> {
        let attributes = &self.world.cluster.nodes[self.world[node].model].attributes;
        let mut total: Option<Score> = None;
        for member in self.world.primitives_in(instance) {
            let rsc = &self.world[member];
            let names = [format!("master-{}", rsc.id), format!("master-{}", rsc.base)];
            let found = names.iter().find_map(|n| attributes.get(n)).and_then(|v| Score::parse(v));
            if let Some(score) = found {
                total = Some(total.unwrap_or(Score::ZERO) + score);
            }
        }
        total
    }

    /// Instances like nodes on which they could be promoted.
    pub(super) fn add_promotion_wishes(&mut self, clone: RscIx) {
        for instance in self.world[clone].children.clone() {
            for node in self.world.node_indices() {
                let Some(score) = self.recorded_score(instance, node) else { continue };
                if score > Score::ZERO && self.score_applies(instance, node) {
                    let speaker = self.world.primitives_in(instance).first().copied().unwrap_or(instance);
                    if !self.world[speaker].score(node).is_never() {
                        self.world[speaker].add_score(node, score);
                    }
                    if speaker != instance {
                        self.world[instance].add_score(node, score);
                    }
                }
            }
        }
    }

    /// A score left on a node counts for the instance that is (or was) there, or for any if none is.
    fn score_applies(&self, instance: RscIx, node: NodeIx) -> bool {
        let members = self.world.primitives_in(instance);
        if members.iter().any(|m| self.world[*m].running_on.contains(&node)) {
            return true;
        }
        let Some(clone) = self.world[instance].parent else { return true };
        let elsewhere = self.world[clone]
            .children
            .iter()
            .any(|other| *other != instance && self.world.active_nodes(*other).contains(&node));
        !elsewhere || !members.iter().any(|m| self.world[*m].is_active())
    }

    pub(super) fn promote_instances(&mut self, clone: RscIx) {
        let Some(options) = self.world[clone].clone.clone() else { return };
        let mut ranked: Vec<(RscIx, Score)> = Vec::new();
        let mut row = vec![None; self.world.nodes.len()];
        for instance in self.world[clone].children.clone() {
            let score = self.promotion_score(clone, instance);
            if let (Some(node), Some(score)) = (self.home(instance), score) {
                let slot: &mut Option<Score> = &mut row[node.0];
                *slot = Some(slot.map_or(score, |old: Score| old.max(score)));
            }
            ranked.push((instance, score.unwrap_or(Score::NEVER)));
        }
        let extra = self.role_wishes(clone, &row);
        for (instance, score) in &mut ranked {
            if let Some(node) = self.home(*instance) {
                *score += extra[node.0];
            }
            self.world[*instance].promotion_score = Some(*score);
        }
        ranked.sort_by_key(|(instance, score)| {
            let role = self.world.primitives_in(*instance).iter().map(|m| self.world[*m].role).max();
            (Reverse(*score), Reverse(role), instance_number(&self.world[*instance].id))
        });
        let mut per_node = vec![0usize; self.world.nodes.len()];
        let mut promoted = 0;
        for (instance, score) in ranked {
            let Some(node) = self.home(instance) else { continue };
            let chosen = promoted < options.promoted_max
                && per_node[node.0] < options.promoted_node_max
                && self.may_promote(instance, node, score);
            if chosen {
                promoted += 1;
                per_node[node.0] += 1;
            }
            self.set_role(instance, if chosen { Role::Promoted } else { Role::Unpromoted });
        }
        if promoted > 0 {
            self.world[clone].next_role = Role::Promoted;
        }
    }

    fn home(&self, instance: RscIx) -> Option<NodeIx> {
        let members = self.world.primitives_in(instance);
        members.first().and_then(|m| self.world[*m].assigned)
    }

    fn promotion_score(&self, clone: RscIx, instance: RscIx) -> Option<Score> {
        let node = self.home(instance)?;
        let mut score = self.recorded_score(instance, node).unwrap_or(Score::new(-1));
        for (at, location) in &self.promoted_locations {
            let mine = *at == clone || *at == instance || self.world.instance_of(*at) == instance;
            if mine && let Some(wish) = location.scores.get(&self.world[node].name) {
                score += *wish;
            }
        }
        Some(score)
    }

    /// What colocations with the promoted role add on each node.
    fn role_wishes(&mut self, clone: RscIx, row: &[Option<Score>]) -> Vec<Score> {
        let mut extra = vec![Score::ZERO; self.world.nodes.len()];
        for i in self.as_dependent[clone.0].clone() {
            let link = self.links[i].clone();
            if link.dependent_role != Some(Role::Promoted) {
                continue;
            }
            self.place_one(link.primary, None);
            let hosts = self.hosts(link.primary, link.primary_role);
            for node in self.world.node_indices() {
                let hosted = hosts.iter().any(|h| self.alike(&link, *h, node));
                if hosted {
                    extra[node.0] += link.score;
                } else if link.score == Score::INFINITY {
                    extra[node.0] += Score::NEVER;
                }
            }
        }
        let mut links = self.as_primary[clone.0].clone();
        links.retain(|i| self.links[*i].primary_role == Some(Role::Promoted) && self.links[*i].influence);
        for i in links {
            let link = self.links[i].clone();
            let factor = f64::from(link.score.value()) / 1_000_000.0;
            let before: Vec<Option<Score>> = row.iter().zip(&extra).map(|(r, e)| r.map(|r| r + *e)).collect();
            let mut scores = before.clone();
            self.add_wishes_of(link.dependent, &link, &mut scores, factor, true, &mut vec![clone]);
            for (n, slot) in extra.iter_mut().enumerate() {
                if let (Some(old), Some(new)) = (before[n], scores[n]) {
                    *slot = if new.is_never() {
                        Score::NEVER
                    } else if new == Score::INFINITY && old != Score::INFINITY {
                        Score::INFINITY
                    } else {
                        *slot + Score::new(i64::from(new.value()) - i64::from(old.value()))
                    };
                }
            }
        }
        extra
    }

    /// Nodes where `at` will run in the given role.
    fn hosts(&self, at: RscIx, role: Option<Role>) -> Vec<NodeIx> {
        self.world
            .primitives_in(at)
            .into_iter()
            .filter(|p| role.is_none_or(|r| self.world[*p].next_role == r))
            .filter_map(|p| self.world[p].assigned)
            .collect()
    }

    fn may_promote(&self, instance: RscIx, node: NodeIx, score: Score) -> bool {
        let members = self.world.primitives_in(instance);
        let running = members.iter().map(|m| self.world[*m].role).max().unwrap_or(Role::Stopped);
        if members.iter().any(|m| !self.world[*m].managed) {
            return running == Role::Promoted;
        }
        if score < Score::ZERO || self.world[instance].orphan {
            return false;
        }
        let wanted =
            |m: &RscIx| !matches!(self.world[*m].meta.target_role, Some(Role::Unpromoted | Role::Stopped));
        if !members.iter().all(wanted) {
            return false;
        }
        let clone = self.world.uppermost(instance);
        if self.unpromotable.iter().any(|u| *u == clone || *u == instance || members.contains(u)) {
            return false;
        }
        let options = &self.world.options;
        if !options.quorum && options.quorum_policy == QuorumPolicy::Demote {
            return false;
        }
        if !options.quorum && options.quorum_policy == QuorumPolicy::Freeze && running != Role::Promoted {
            return false;
        }
        self.world[node].can_run()
    }

    fn set_role(&mut self, instance: RscIx, role: Role) {
        for at in self.world.primitives_in(instance) {
            if self.world[at].assigned.is_some() && self.world[at].managed {
                self.world[at].next_role = role;
            }
        }
        self.world[instance].next_role = role;
    }
}
