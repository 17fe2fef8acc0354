//! The end of a run: everything must have converged (I8), and what is left must be right.

use crate::world::{At, MS, World};
use anshin_ledger::engine::Role;

/// Time before the end at which the client stops, so that nothing is under way at the end.
pub const QUIET: u64 = 4_000 * MS;

impl World {
    /// The end.
    pub fn finish(&mut self) {
        let leaders: Vec<At> = (0..self.nodes.len())
            .filter(|at| {
                self.nodes[*at].voter.as_ref().is_some_and(|voter| voter.engine.role() == Role::Leader)
            })
            .collect();
        if leaders.len() != 1 {
            return self.oracles.i8.violate(&format!("leaders at the end: {leaders:?}"));
        }
        let applied: Vec<u64> =
            self.nodes.iter().filter_map(|node| Some(node.voter.as_ref()?.engine.applied().0)).collect();
        let newest = applied.iter().max().copied().unwrap_or_default();
        if applied.len() != self.nodes.len() || applied.iter().any(|applied| *applied + 20 < newest) {
            return self.oracles.i8.violate(&format!("the ledgers stand at {applied:?} at the end"));
        }
        if self.scenario.volumes {
            self.finish_volume();
        }
    }

    fn finish_volume(&mut self) {
        let data: Vec<At> = (0..self.scenario.data).collect();
        let Some(entry) = self.oracles.i1.newest().cloned() else {
            return self.oracles.i8.violate("the group was never created");
        };
        let missing: Vec<At> = data
            .iter()
            .copied()
            .filter(|at| {
                let node = &self.nodes[*at];
                let session = node.volume.as_ref().map(|volume| volume.session);
                let recorded = node.replica.and_then(|replica| entry.in_sync.get(&replica)).copied();
                session.is_none() || session != recorded
            })
            .collect();
        let Some(serving) = self.client.serving() else {
            return self.oracles.i8.violate(&format!("nobody serves at the end: {entry:?}"));
        };
        if !missing.is_empty() {
            return self
                .oracles
                .i8
                .violate(&format!("nodes {missing:?} are not in sync at the end: {entry:?}"));
        }
        if self.client.open() > 0 || self.client.served_at + QUIET + 2_000 * MS < self.now {
            let open = self.client.open();
            return self.oracles.i8.violate(&format!("{open} requests hang on node {serving} at the end"));
        }
        self.client_check_disk(serving);
        for at in data.into_iter().filter(|at| *at != serving) {
            let (one, other) = (&self.nodes[serving].areas[0], &self.nodes[at].areas[0]);
            self.oracles.i3.equal((serving, one), (at, other));
        }
    }
}
