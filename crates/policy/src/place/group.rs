//! Places the members of a group, first to last.

use super::Placer;
use crate::world::{NodeIx, RscIx};

impl Placer<'_, '_> {
    pub(super) fn place_group(&mut self, at: RscIx, prefer: Option<NodeIx>) -> Option<NodeIx> {
        if let Some(parent) = self.world[at].parent
            && !self.world[parent].placing
            && !self.world[parent].placed
        {
            self.place_one(parent, None);
            return self.world[at].assigned;
        }
        self.world[at].placing = true;
        let mut first = None;
        for member in self.world[at].children.clone() {
            let node = self.place_one(member, prefer);
            first = first.or(node);
        }
        self.world[at].placing = false;
        self.world[at].placed = true;
        self.world[at].assigned = first;
        let role = self.instance_role(at);
        self.world[at].next_role = role;
        first
    }
}
