//! The end of a run: everything must have converged (I8), and what is left must be right.

use crate::world::{At, Event, MS, World};
use anshin_ledger::engine::Role;

/// Time before the end at which the client stops, so that nothing is under way at the end.
pub const QUIET: u64 = 4_000 * MS;

/// Time between two looks whether everything has converged, and what the client gets to finish.
const PROBE: u64 = 500 * MS;

impl World {
    /// Ends the run early once everything has converged: what is under way gets a while to end.
    pub fn probe(&mut self) {
        let well = self.converged().is_ok();
        if well && self.client.stopped {
            self.at(self.now, Event::End);
        } else if well {
            self.client.stopped = true;
            self.after(2 * PROBE, Event::Probe);
        } else {
            self.after(PROBE, Event::Probe);
        }
    }

    /// How every replica stands, for the trace.
    pub fn describe(&mut self) {
        for at in 0..self.nodes.len() {
            let status = self.nodes[at].volume.as_ref().and_then(|volume| volume.replica.status());
            let now = self.now;
            self.trace.line(now, || format!("node {at}: {status:?}"));
        }
    }

    /// The end.
    pub fn finish(&mut self) {
        let proven = self.oracles.i4.proven;
        self.counts.insert("blocks proven equal", proven);
        if let Err(why) = self.converged() {
            // A removal can leave an image as the only member: standing still with a name is all that may be done (R7).
            if self.only_an_image_is_left() {
                return self.count("stuck on an old image");
            }
            return self.oracles.i8.violate(&why);
        }
        if let Some(serving) = self.client.serving() {
            self.finish_volume(serving);
        }
    }

    /// Whether there is nothing left to do, or what is missing (I8).
    fn converged(&self) -> Result<(), String> {
        let voters = || self.nodes.iter().filter_map(|node| node.voter.as_ref());
        let leaders = voters().filter(|voter| voter.engine.role() == Role::Leader).count();
        if leaders != 1 {
            return Err(format!("{leaders} leaders at the end"));
        }
        let applied: Vec<u64> = voters().map(|voter| voter.engine.applied().0).collect();
        let newest = applied.iter().max().copied().unwrap_or_default();
        if applied.len() != self.nodes.len() || applied.iter().any(|applied| *applied + 20 < newest) {
            return Err(format!("the ledgers stand at {applied:?} at the end"));
        }
        let votes = |node: &crate::world::Node| node.voter_id;
        let mut wanted: Vec<_> = self.nodes.iter().map(votes).collect();
        wanted.sort_unstable();
        let leader = voters().find(|voter| voter.engine.role() == Role::Leader);
        let members = leader.map(|leader| leader.engine.members()).unwrap_or_default();
        if members.voters != wanted || !members.learners.is_empty() {
            return Err(format!("{members:?} vote at the end and not {wanted:?}"));
        }
        if self.scenario.volumes { self.volume_converged() } else { Ok(()) }
    }

    fn only_an_image_is_left(&self) -> bool {
        let entry = self.oracles.i1.newest();
        let images = |replica: &anshin_base::ReplicaId| self.oracles.i10.is_image(*replica);
        self.client.serving().is_none() && entry.is_some_and(|entry| entry.in_sync.keys().all(images))
    }

    fn volume_converged(&self) -> Result<(), String> {
        let entry = self.oracles.i1.newest().ok_or("the group was never created")?;
        let missing = (0..self.scenario.data).filter(|at| {
            let node = &self.nodes[*at];
            let session = node.volume.as_ref().map(|volume| volume.session);
            let recorded = node.replica.and_then(|replica| entry.in_sync.get(&replica)).copied();
            session.is_none() || session != recorded
        });
        let missing: Vec<At> = missing.collect();
        let serving = self.client.serving().ok_or_else(|| format!("nobody serves at the end: {entry:?}"))?;
        if !missing.is_empty() {
            return Err(format!("nodes {missing:?} are not in sync at the end: {entry:?}"));
        }
        if self.client.stopped && self.client.open() > 0 {
            return Err(format!("{} requests hang on node {serving} at the end", self.client.open()));
        }
        if !self.client.stopped && self.client.served_at + 2_000 * MS < self.now {
            return Err(format!("node {serving} answers nothing at the end"));
        }
        Ok(())
    }

    fn finish_volume(&mut self, serving: At) {
        self.client_check_disk(serving);
        for at in (0..self.scenario.data).filter(|at| *at != serving) {
            let (one, other) = (&self.nodes[serving].areas[0], &self.nodes[at].areas[0]);
            self.oracles.i3.equal((serving, one), (at, other));
        }
    }
}
