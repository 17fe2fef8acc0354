//! Members that go for good and the new ones in their place: what a disaster does to one node while the others are well,
//! and what the operator and the daemon then do, by the commands that the product has for it.
//!
//! A voter with an old log, or a replica without its disk, is the one failure that a site of this size tolerates. So each
//! strikes only while everyone else is well, and the plan's other faults wait until it is got over.

use crate::{
    build::{SITE, make_replica},
    disk::Disk,
    voters::{EPOCH, LEDGER_AREA, node_id},
    world::{At, Event, MS, World},
};
use anshin_base::{ReplicaId, VoterId};
use anshin_ledger::{
    Command, Engine,
    engine::Role,
    log::{DiskOp, Identity},
    state::Replica,
};

/// Time between two looks of operator and daemon, and between two attempts of a fault that has to wait.
const LOOK: u64 = 300 * MS;
/// How long everything must have been well before a replica is lost: longer than a removal under way takes.
const WELL: u64 = 2_000 * MS;
/// How long a restored voter takes to be found out, at most.
const FOUND_OUT: u64 = 4_000 * MS;
/// The volume's name in the ledger.
const VOLUME: &str = "data";

impl World {
    /// The leading voter that acts for operator and daemons.
    fn leading(&self) -> Option<At> {
        let leads = |at: &At| {
            let node = &self.nodes[*at];
            !node.paused && node.voter.as_ref().is_some_and(|voter| voter.engine.role() == Role::Leader)
        };
        let term = |at: &At| self.nodes[*at].voter.as_ref().map(|voter| voter.engine.position().0);
        (0..self.nodes.len()).filter(leads).max_by_key(term)
    }

    /// Whether every voter runs and reaches every other.
    fn voters_well(&self) -> bool {
        let runs = |node: &crate::world::Node| node.voter.is_some() && !node.paused && !node.rejoining;
        self.network.whole() && self.leading().is_some() && self.nodes.iter().all(runs)
    }

    /// Tries a fault again later.
    fn later(&mut self, number: usize) {
        if self.now + LOOK < self.scenario.faults_until {
            self.after(LOOK, Event::Fault { number });
        }
    }

    /// A copy of a voter's log as a power loss at this instant would leave it.
    pub fn save_ledger(&mut self, at: At) {
        let mut copy = self.nodes[at].ledger.clone();
        for disk in &mut copy {
            disk.power_lost(&mut self.rng);
        }
        self.nodes[at].saved_ledger = Some(copy);
    }

    /// The node loses power and comes back with the copy of its voter's log (R8).
    pub fn restore_ledger(&mut self, number: usize, at: At, back: u64) {
        if self.nodes[at].saved_ledger.is_none() {
            return;
        }
        if !self.voters_well() {
            return self.later(number);
        }
        let Some(saved) = self.nodes[at].saved_ledger.take() else { return };
        self.lose_power(at);
        self.nodes[at].ledger = saved;
        self.oracles.ledger.expect_rollback(at);
        self.calm_until = self.now + back + FOUND_OUT;
        self.count("old voters placed");
        self.after(back, Event::Power { at });
    }

    /// The voter of a node says that it must rejoin.
    pub fn must_rejoin(&mut self, at: At, why: &str) {
        self.oracles.ledger.must_rejoin(at, why);
        if !std::mem::replace(&mut self.nodes[at].rejoining, true) {
            self.calm_until = u64::MAX;
            self.after(LOOK, Event::Rejoin { at });
        }
    }

    /// The daemon has the node given a new voter, and makes it.
    pub fn rejoin_voter(&mut self, at: At) {
        let other = self.leading().filter(|leader| *leader != at && self.nodes[at].powered);
        let state =
            other.and_then(|leader| self.nodes[leader].voter.as_ref()).map(|voter| voter.engine.state());
        let known = state.and_then(|state| state.nodes.get(&node_id(at))).map(|node| node.voter);
        let old = self.nodes[at].voter_id;
        match (other, known) {
            (Some(_), Some(new)) if new != old => return self.join_voter(at, new),
            (Some(leader), Some(_)) => self.demand(leader, Command::NewVoter { node: node_id(at), old }),
            _ => {}
        }
        self.after(LOOK, Event::Rejoin { at });
    }

    fn join_voter(&mut self, at: At, voter: VoterId) {
        self.kill_voter(at);
        let identity = Identity { site: SITE, node: node_id(at), voter, epoch: EPOCH };
        let mut ledger = [Disk::new(LEDGER_AREA), Disk::new(LEDGER_AREA)];
        for op in Engine::join(identity, LEDGER_AREA).expect("invariant: an empty log fits") {
            if let DiskOp::Write { area, offset, bytes } = op {
                ledger[crate::voters::place(area)].place(offset, &bytes);
            }
        }
        let node = &mut self.nodes[at];
        (node.ledger, node.voter_id, node.rejoining) = (ledger, voter, false);
        self.oracles.ledger.rejoined(at);
        self.calm_until = self.now + LOOK;
        self.count("voters rejoined");
        self.start_voter(at);
    }

    /// A replica's disk is gone for good, if another member has everything.
    pub fn lose_replica(&mut self, number: usize, at: At) {
        let generation = self.replicas_well().filter(|_| self.voters_well());
        self.well = match (generation, self.well) {
            (Some(now), Some((before, since))) if now == before => Some((now, since)),
            (Some(now), _) => Some((now, self.now)),
            (None, _) => None,
        };
        if self.well.is_none_or(|(_, since)| self.now < since + WELL) {
            return self.later(number);
        }
        self.well = None;
        let power = self.rng.permille(500);
        self.kill_volume(at, power);
        let fresh = ReplicaId(0x2000 + self.new_start());
        let node = &mut self.nodes[at];
        node.replica = None;
        node.areas = [Disk::new(0), Disk::new(0)];
        node.fresh = Some(fresh);
        self.calm_until = u64::MAX;
        self.count("replicas lost");
        self.after(LOOK, Event::Replace { at });
    }

    /// The group's generation, if every replica runs as a member in its recorded session.
    fn replicas_well(&self) -> Option<u64> {
        let entry = self.oracles.i1.newest()?;
        let recorded = |node: &crate::world::Node| {
            let volume = node.volume.as_ref().filter(|volume| !volume.flush_fails)?;
            (entry.in_sync.get(&node.replica?) == Some(&volume.session)).then_some(())
        };
        let well = self.nodes[..self.scenario.data].iter().all(|node| recorded(node).is_some());
        (well && self.client.serving().is_some()).then_some(entry.generation.0)
    }

    /// The operator takes the lost replica out of the configuration, and the node makes a new one.
    pub fn replace_replica(&mut self, at: At) {
        let Some(fresh) = self.nodes[at].fresh else { return };
        let (node, volume) = (node_id(at), VOLUME.to_owned());
        if let Some(leader) = self.leading() {
            let voter = self.nodes[leader].voter.as_ref();
            let places =
                voter.and_then(|voter| voter.engine.state().volumes.get(VOLUME)).map(|known| &known.replicas);
            let known = places.map(|places| places.get(&node).map(|place| place.replica));
            let command = match known {
                Some(None) => {
                    let replica = Replica { replica: None, port: 7810, path: String::new() };
                    Some(Command::SetReplica { volume, node, replica })
                }
                Some(Some(None)) => Some(Command::ReplicaMade { volume, node, replica: fresh }),
                Some(Some(Some(found))) if found == fresh => return self.start_fresh(at, fresh),
                // Refused as long as it is in the set.
                Some(Some(Some(_))) => Some(Command::RemoveReplica { volume, node }),
                None => None,
            };
            if let Some(command) = command {
                self.demand(leader, command);
            }
        }
        self.after(LOOK, Event::Replace { at });
    }

    fn start_fresh(&mut self, at: At, fresh: ReplicaId) {
        self.nodes[at].areas = make_replica(self, Some(fresh));
        let node = &mut self.nodes[at];
        (node.replica, node.fresh) = (Some(fresh), None);
        self.calm_until = self.now;
        self.count("replicas replaced");
        self.start_volume(at);
    }
}
