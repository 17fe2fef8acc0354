//! Which instance of a clone a record on a node belongs to.

use super::{Kind, NodeIx, Requires, RscIx, World};
use crate::Agent;

impl World<'_> {
    /// The resource that the history called `id` on `node` is about; made up if there is none.
    pub(super) fn owner_of_history(&mut self, id: &str, agent: &Agent, node: NodeIx) -> RscIx {
        let base = strip_number(id);
        let exact = self.resources.iter().position(|r| r.id == id && r.kind == Kind::Primitive).map(RscIx);
        let by_base = self
            .resources
            .iter()
            .position(|r| r.base == base && r.kind == Kind::Primitive && r.config.is_some());
        let candidate = exact.or(by_base.map(RscIx));
        let Some(candidate) = candidate else {
            return self.add_orphan(id, agent);
        };
        let Some(clone) = self.clone_above(candidate) else {
            // A name with a number that belongs to no clone is a leftover of one.
            return if self[candidate].id == id { candidate } else { self.add_orphan(id, agent) };
        };
        let base = self[candidate].base.clone();
        if self[clone].clone.as_ref().is_some_and(|c| c.unique) {
            return match exact {
                Some(found) => found,
                None => self.surplus(clone, &base).unwrap_or(candidate),
            };
        }
        self.anonymous_instance(clone, &base, node)
    }

    fn anonymous_instance(&mut self, clone: RscIx, base: &str, node: NodeIx) -> RscIx {
        let mut free = None;
        for instance in self[clone].children.clone() {
            let Some(member) = self.member(instance, base) else { continue };
            let active = self.active_nodes(instance);
            if active.contains(&node) {
                if !self[member].running_on.contains(&node) || self[member].running_on.len() == 1 {
                    return member;
                }
            } else if free.is_none() && active.is_empty() && !self[instance].orphan {
                free = Some(member);
            }
        }
        // An instance on a lost node that needs no fencing must not use up a number that could run elsewhere.
        if self[node].unclean.is_some()
            && !self[node].online
            && free.is_some_and(|m| self[m].meta.requires < Requires::Fencing)
        {
            free = None;
        }
        match free {
            Some(member) => member,
            None => {
                let existing = self[clone].children.clone().into_iter().find_map(|instance| {
                    let member = self.member(instance, base)?;
                    let unused = self[instance].orphan && self.active_nodes(instance).is_empty();
                    unused.then_some(member)
                });
                existing.or_else(|| self.surplus(clone, base)).unwrap_or(clone)
            }
        }
    }

    fn surplus(&mut self, clone: RscIx, base: &str) -> Option<RscIx> {
        let instance = self.add_surplus_instance(clone)?;
        self.member(instance, base)
    }

    /// The primitive called `base` in `instance`.
    pub(crate) fn member(&self, instance: RscIx, base: &str) -> Option<RscIx> {
        self.primitives_in(instance).into_iter().find(|p| self[*p].base == base)
    }
}

/// `name:3` without the number.
pub(crate) fn strip_number(id: &str) -> &str {
    match id.rsplit_once(':') {
        Some((base, number)) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => base,
        _ => id,
    }
}
