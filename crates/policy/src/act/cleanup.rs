//! Forgets what is of no use any more: histories of removed resources, failures whose time is over.

use super::{Actor, Edge, Task};
use crate::world::Kind;

impl Actor<'_, '_> {
    pub(super) fn cleanup_history(&mut self) {
        self.delete_orphans();
        self.clear_expired_failures();
    }

    fn delete_orphans(&mut self) {
        for at in self.world.resource_indices() {
            let rsc = &self.world[at];
            if !rsc.orphan || rsc.kind != Kind::Primitive || rsc.parent.is_some() || !rsc.managed {
                continue;
            }
            let id = rsc.id.clone();
            for node in self.world.node_indices() {
                let state = &self.world[node];
                let remembered =
                    self.world.cluster.nodes[state.model].history.iter().any(|h| h.resource == id);
                if !remembered || !state.online || state.unclean.is_some() || state.pending {
                    continue;
                }
                let delete = self.step(at, Task::Delete, Some(node));
                self.require(delete, "it is not configured any more");
                if let Some(stop) = self.existing(at, Task::Stop, Some(node)) {
                    self.connect(Edge::need(stop, delete));
                }
            }
        }
    }

    fn clear_expired_failures(&mut self) {
        for expired in std::mem::take(&mut self.world.expired) {
            let state = &self.world[expired.node];
            if !state.online || state.unclean.is_some() {
                continue;
            }
            let step = self.step(expired.resource, Task::ClearFailures, Some(expired.node));
            self.require(step, "the failure is long ago");
        }
    }
}
