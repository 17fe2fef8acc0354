//! Forgets what is of no use any more: histories of removed resources, failures whose time is over.

use super::{Actor, Edge, Task};
use crate::Score;
use crate::world::{FailureExpiry, Kind};

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
        for at in self.world.resource_indices() {
            if self.world[at].kind != Kind::Primitive {
                continue;
            }
            for node in self.world.node_indices() {
                let state = &self.world[node];
                if !state.online
                    || state.unclean.is_some()
                    || self.world.cluster.nodes[state.model].fail_counts.is_empty()
                {
                    continue;
                }
                let (all, _) = self.world.failures(at, node, FailureExpiry::Ignore);
                let (counting, _) = self.world.failures(at, node, FailureExpiry::Respect);
                let mine = self.world[at].running_on.contains(&node)
                    || !self.world.resource_indices().any(|o| {
                        o != at
                            && self.world[o].base == self.world[at].base
                            && (o.0 < at.0 || self.world[o].running_on.contains(&node))
                    });
                if all > Score::ZERO && counting == Score::ZERO && mine {
                    let step = self.step(at, Task::ClearFailures, Some(node));
                    self.require(step, "the failure is long ago");
                }
            }
        }
    }
}
