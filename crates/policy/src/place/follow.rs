//! A dependent follows its primary once that is placed.

use super::{Link, Placer};
use crate::world::{Kind, NodeIx, RscIx};
use crate::{Role, Score};

impl Placer<'_, '_> {
    /// Changes the preferences of `at` by where the primary of `link` was placed.
    pub(super) fn follow(&mut self, at: RscIx, link: &Link) {
        if self.world[at].placed {
            return;
        }
        if let Some(role) = link.dependent_role
            && role != self.world[at].next_role
        {
            return;
        }
        match self.world[link.primary].kind {
            Kind::Primitive => self.follow_one(at, link, link.primary),
            Kind::Group => {
                let members = &self.world[link.primary].children;
                let member = if link.score == Score::INFINITY { members.last() } else { members.first() };
                if let Some(member) = member.copied() {
                    self.follow_one(at, link, member);
                }
            }
            Kind::Clone => self.follow_clone(at, link),
        }
    }

    fn follow_one(&mut self, at: RscIx, link: &Link, primary: RscIx) {
        if !self.world[primary].placed {
            return;
        }
        if let Some(role) = link.primary_role
            && self.world[primary].next_role != role
        {
            return;
        }
        self.move_scores(at, link, self.world[primary].assigned, primary);
    }

    fn move_scores(&mut self, at: RscIx, link: &Link, target: Option<NodeIx>, primary: RscIx) {
        let name = self.world[primary].id.clone();
        let Some(target) = target else {
            if link.score == Score::INFINITY {
                for node in self.world.node_indices() {
                    self.world[at].add_score(node, Score::NEVER);
                }
                self.world[at].reasons.push(format!("{}: {name} does not run anywhere", link.id));
            }
            return;
        };
        for node in self.world.node_indices() {
            if self.alike(link, node, target) {
                self.world[at].add_score(node, link.score);
            } else if link.score == Score::INFINITY {
                self.world[at].add_score(node, Score::NEVER);
            }
        }
        let place = &self.world[target].name;
        let reason = format!("{}: {name} runs on {place} ({})", link.id, link.score);
        self.world[at].reasons.push(reason);
    }

    fn follow_clone(&mut self, at: RscIx, link: &Link) {
        let clone = link.primary;
        if !self.world[clone].placed {
            return;
        }
        let wanted = |role: Role| link.primary_role.is_none_or(|want| want == role);
        let hosts: Vec<(RscIx, NodeIx)> = self.world[clone]
            .children
            .iter()
            .filter_map(|instance| {
                let node = self.world[*instance].assigned.or_else(|| {
                    self.world.primitives_in(*instance).first().and_then(|p| self.world[*p].assigned)
                })?;
                let blocked = self.world.primitives_in(*instance).iter().any(|p| self.world[*p].blocked);
                (!blocked && wanted(self.instance_role(*instance))).then_some((*instance, node))
            })
            .collect();
        if link.score == Score::INFINITY {
            for node in self.world.node_indices() {
                let hosted = hosts.iter().any(|(_, n)| self.alike(link, *n, node));
                if !hosted {
                    self.world[at].add_score(node, Score::NEVER);
                }
            }
            let name = self.world[clone].id.clone();
            self.world[at].reasons.push(format!("{}: only where {name} runs", link.id));
            return;
        }
        for (instance, node) in hosts {
            self.move_scores(at, link, Some(node), instance);
        }
    }

    pub(super) fn instance_role(&self, instance: RscIx) -> Role {
        self.world
            .primitives_in(instance)
            .iter()
            .map(|p| self.world[*p].next_role)
            .max()
            .unwrap_or(Role::Stopped)
    }
}
