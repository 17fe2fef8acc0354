//! Colocations between resources of this run.

use super::Placer;
use crate::world::{Kind, NodeIx, RscIx};
use crate::{Role, Score};

/// A colocation, resolved.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) id: String,
    pub(crate) dependent: RscIx,
    pub(crate) dependent_role: Option<Role>,
    pub(crate) primary: RscIx,
    pub(crate) primary_role: Option<Role>,
    pub(crate) score: Score,
    pub(crate) attribute: Option<String>,
    pub(crate) influence: bool,
}

/// Roles that mean "active in whichever way" limit nothing.
fn special(role: Option<Role>) -> Option<Role> {
    role.filter(|r| *r != Role::Started)
}

impl Placer<'_, '_> {
    pub(super) fn resolve_links(&mut self) {
        let world = &self.world;
        let mut links = Vec::new();
        for c in &world.cluster.colocations {
            let (Some(dependent), Some(primary)) =
                (world.find_resource(&c.dependent), world.find_resource(&c.primary))
            else {
                continue;
            };
            if c.score == Score::ZERO || dependent == primary {
                continue;
            }
            links.push(Link {
                id: c.id.clone(),
                dependent,
                dependent_role: special(c.dependent_role),
                primary,
                primary_role: special(c.primary_role),
                score: c.score,
                attribute: c.node_attribute.clone().filter(|a| a != "#uname"),
                influence: c.influence.unwrap_or(world[dependent].meta.critical),
            });
        }
        for at in world.resource_indices().filter(|at| world[*at].kind == Kind::Group) {
            for two in world[at].children.windows(2) {
                links.push(Link {
                    id: format!("{}: members stay together", world[at].id),
                    dependent: two[1],
                    dependent_role: None,
                    primary: two[0],
                    primary_role: None,
                    score: Score::INFINITY,
                    attribute: None,
                    influence: world[two[1]].meta.critical,
                });
            }
        }
        for (i, link) in links.iter().enumerate() {
            self.as_dependent[link.dependent.0].push(i);
            self.as_primary[link.primary.0].push(i);
        }
        self.links = links;
    }

    /// Links that bind `at` as the dependent, those of its containers included where they bind this member.
    pub(super) fn links_of_dependent(&self, at: RscIx) -> Vec<usize> {
        let mut found = self.as_dependent[at.0].clone();
        match self.world[at].kind {
            Kind::Group => {
                // The first member decides for all: it must know what binds the others.
                for member in &self.world[at].children {
                    let outside = |i: &&usize| {
                        let link = &self.links[**i];
                        link.influence && self.world[link.primary].parent != Some(at)
                    };
                    found.extend(self.as_dependent[member.0].iter().filter(outside));
                }
            }
            Kind::Clone | Kind::Primitive => {}
        }
        let Some(parent) = self.world[at].parent else { return found };
        if self.world[parent].kind != Kind::Group {
            found.extend(self.links_of_dependent(parent));
        } else if self.world[parent].children.first() == Some(&at) {
            for link in self.links_of_dependent(parent) {
                if !found.contains(&link) {
                    found.push(link);
                }
            }
        } else {
            let mandatory = |i: &usize| self.links[*i].score == Score::INFINITY;
            let above = self.containers_links(parent);
            found.extend(above.into_iter().filter(|i| mandatory(i)));
        }
        found
    }

    /// Links that bind a group, or the clone it is an instance of, as a whole.
    fn containers_links(&self, group: RscIx) -> Vec<usize> {
        let mut found = self.as_dependent[group.0].clone();
        if let Some(clone) = self.world[group].parent {
            found.extend(&self.as_dependent[clone.0]);
        }
        found
    }

    /// Links in which others depend on `at`, those of its containers included where this member stands for them.
    pub(super) fn links_of_primary(&self, at: RscIx) -> Vec<usize> {
        let mut found = self.as_primary[at.0].clone();
        let Some(parent) = self.world[at].parent else { return found };
        if self.world[parent].kind != Kind::Group || self.world[parent].children.last() == Some(&at) {
            found.extend(self.links_of_primary(parent));
        }
        found
    }

    /// The value in which nodes must agree for this link.
    pub(super) fn alike(&self, link: &Link, a: NodeIx, b: NodeIx) -> bool {
        match &link.attribute {
            None => a == b,
            Some(name) => {
                let value = |n: NodeIx| self.world.cluster.nodes[self.world[n].model].attributes.get(name);
                value(a).is_some() && value(a) == value(b)
            }
        }
    }
}
