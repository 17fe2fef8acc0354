//! The fault plan: what the seed does to the cluster, and how it is undone.

use crate::world::{At, Event, MS, World};

/// One fault.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the variants say it")]
pub enum Fault {
    /// Nodes lose power, and come back later.
    PowerLoss { nodes: Vec<At>, back: Vec<u64> },
    /// The voter process dies.
    KillVoter { at: At, back: u64 },
    /// The volume process dies.
    KillVolume { at: At, back: u64 },
    /// A node stands still.
    Pause { at: At, length: u64 },
    /// Directions are cut.
    Cut { pairs: Vec<(At, At)> },
    /// Directions are whole again.
    Mend { pairs: Vec<(At, At)> },
    /// Every link between volume processes breaks.
    BreakLinks,
    /// Messages between voters get lost.
    Loss { permille: u64 },
    /// The next flush of a volume process fails.
    FlushFails { at: At },
    /// A copy of a replica is put aside.
    SaveImage { at: At },
    /// The node loses power, and its replica comes back as the copy put aside.
    RestoreImage { at: At, back: u64 },
    /// A copy of a voter's log is put aside.
    SaveLedger { at: At },
    /// The node loses power, and its voter's log comes back as the copy put aside.
    RestoreLedger { at: At, back: u64 },
    /// A node's disk does nothing for a while: the replica's, and with `ledger` also that of its voter.
    Stall { at: At, length: u64, ledger: bool },
    /// A replica is lost for good.
    LoseReplica { at: At },
}

/// Makes the plan of a world from its seed.
pub fn plan(world: &mut World) {
    let until = world.scenario.faults_until;
    for _ in 0..world.scenario.faults {
        // The first second is left for the first promotion; sometimes not.
        let from = if world.rng.permille(800) { 1_500 * MS } else { 0 };
        let time = world.rng.between(from, until - 500 * MS);
        choose(world, time, until);
    }
    if world.scenario.strikes {
        let data = world.rng.index(world.scenario.data);
        let time = world.rng.between(1_200 * MS, 2_500 * MS);
        strike_after_return(world, time, until, data);
    }
    if world.scenario.images {
        let at = world.rng.index(world.scenario.data);
        let save = world.rng.between(500 * MS, until / 2);
        let restore = world.rng.between(save + 500 * MS, until - 100 * MS);
        let back = world.rng.between(50 * MS, 2_000 * MS);
        add(world, save, Fault::SaveImage { at });
        add(world, restore, Fault::RestoreImage { at, back });
    }
    if world.scenario.voter_images {
        let at = world.rng.index(world.scenario.nodes());
        let save = world.rng.between(500 * MS, until / 2);
        let restore = world.rng.between(save + 100 * MS, until - 100 * MS);
        let back = world.rng.between(50 * MS, 1_000 * MS);
        add(world, save, Fault::SaveLedger { at });
        add(world, restore, Fault::RestoreLedger { at, back });
    }
    if world.scenario.relapses {
        for _ in 0..2 {
            let at = world.rng.index(world.scenario.nodes());
            let time = world.rng.between(1_000 * MS, until - 500 * MS);
            relapse(world, time, until, at);
        }
    }
    if world.scenario.stalls {
        for _ in 0..world.rng.between(1, 3) {
            let at = world.rng.index(world.scenario.data);
            let time = world.rng.between(500 * MS, until - 500 * MS);
            let longest = if world.rng.permille(300) { 12_000 * MS } else { 3_000 * MS };
            let length = world.rng.between(50 * MS, longest).min(until - time);
            let ledger = world.rng.permille(500);
            add(world, time, Fault::Stall { at, length, ledger });
        }
    }
    if world.scenario.replacements {
        for _ in 0..world.rng.between(1, 2) {
            let at = world.rng.index(world.scenario.data);
            let time = world.rng.between(1_500 * MS, until - 500 * MS);
            add(world, time, Fault::LoseReplica { at });
        }
    }
}

fn choose(world: &mut World, time: u64, until: u64) {
    let nodes = world.nodes_planned();
    let at = world.rng.index(nodes);
    let data = world.rng.index(world.scenario.data);
    let length = world.rng.between(100 * MS, 6_000 * MS);
    let back = world.rng.between(50 * MS, 3_000 * MS);
    match world.rng.below(13) {
        0 | 1 => add(world, time, Fault::PowerLoss { nodes: vec![at], back: vec![back] }),
        2 if world.scenario.total_loss => {
            let all = 0..nodes;
            let hit: Vec<At> = all.filter(|_| world.rng.permille(800)).collect();
            let back = hit.iter().map(|_| world.rng.between(50 * MS, 4_000 * MS)).collect();
            add(world, time, Fault::PowerLoss { nodes: hit, back });
        }
        2 | 3 => add(world, time, Fault::KillVolume { at: data, back: back / 3 }),
        4 => add(world, time, Fault::KillVoter { at, back: back / 2 }),
        5 => add(world, time, Fault::Pause { at, length }),
        6 | 7 => {
            // A node is cut off, whole or in one direction.
            let kind = world.rng.below(4);
            let others = (0..nodes).filter(|other| *other != at);
            let pairs = others.flat_map(|other| match kind {
                0 => vec![(at, other)],
                1 => vec![(other, at)],
                _ => vec![(at, other), (other, at)],
            });
            let pairs = pairs.collect();
            cut(world, time, length, until, pairs);
        }
        8 => {
            // One edge of the triangle (R13), or one direction of it.
            let other = (data + 1 + world.rng.index(nodes - 1)) % nodes;
            let mut pairs = vec![(data, other)];
            if world.rng.permille(700) {
                pairs.push((other, data));
            }
            cut(world, time, length, until, pairs);
        }
        9 => add(world, time, Fault::BreakLinks),
        10 if nodes > 2 && world.rng.permille(500) => strike(world, time, until, data),
        10 if nodes > 2 => strike_after_return(world, time, until, data),
        11 => {
            let permille = world.rng.between(50, 400);
            add(world, time, Fault::Loss { permille });
            add(world, (time + length).min(until), Fault::Loss { permille: 0 });
        }
        _ => add(world, time, Fault::FlushFails { at: data }),
    }
}

/// A primary loses its secondary, and dies while the removal of it is being recorded over a bad network.
fn strike(world: &mut World, time: u64, until: u64, data: At) {
    let pairs: Vec<_> =
        (0..world.scenario.data).filter(|at| *at != data).flat_map(|at| [(at, data), (data, at)]).collect();
    cut(world, time, 4_000 * MS, until, pairs);
    let removal = (time + 850 * MS).min(until);
    add(world, removal, Fault::Loss { permille: 400 });
    add(world, (removal + 2_000 * MS).min(until), Fault::Loss { permille: 0 });
    let death = removal + world.rng.between(50 * MS, 400 * MS);
    add(world, death.min(until), Fault::PowerLoss { nodes: vec![data], back: vec![2_000 * MS] });
}

/// A primary loses its secondary for just long enough to propose its removal, but nobody records it; the secondary comes
/// back and grants the lease, and the primary dies: whatever it answered rests on the secondary, a member all the time.
fn strike_after_return(world: &mut World, time: u64, until: u64, data: At) {
    let pairs: Vec<_> =
        (0..world.scenario.data).filter(|at| *at != data).flat_map(|at| [(at, data), (data, at)]).collect();
    let length = world.rng.between(1_050 * MS, 1_600 * MS);
    cut(world, time, length, until, pairs);
    // What is on its way is lost with the connection, so that the secondary comes back without it.
    let broken = world.rng.between(5 * MS, 300 * MS);
    add(world, (time + broken).min(until), Fault::BreakLinks);
    add(world, (time + broken + 900 * MS).min(until), Fault::Loss { permille: 1_000 });
    add(world, (time + 3_500 * MS).min(until), Fault::Loss { permille: 0 });
    let death = time + length + world.rng.between(5 * MS, 700 * MS);
    add(world, death.min(until), Fault::PowerLoss { nodes: vec![data], back: vec![3_000 * MS] });
}

/// Every voter process dies at once, so that one is elected anew; one dies again while it writes that down, comes back, and its
/// node loses power: what it read back after its second start was not yet on the disk.
fn relapse(world: &mut World, time: u64, until: u64, at: At) {
    for other in 0..world.nodes_planned() {
        add(world, time, Fault::KillVoter { at: other, back: 50 * MS });
    }
    let again = time + world.rng.between(800 * MS, 2_000 * MS);
    add(world, again.min(until), Fault::KillVoter { at, back: 20 * MS });
    let power = again + world.rng.between(30 * MS, 500 * MS);
    add(world, power.min(until), Fault::PowerLoss { nodes: vec![at], back: vec![100 * MS] });
}

fn cut(world: &mut World, time: u64, length: u64, until: u64, pairs: Vec<(At, At)>) {
    add(world, time, Fault::Cut { pairs: pairs.clone() });
    add(world, (time + length).min(until), Fault::Mend { pairs });
}

fn add(world: &mut World, time: u64, fault: Fault) {
    let number = world.faults.len();
    world.faults.push(fault);
    world.at(time, Event::Fault { number });
}

impl World {
    /// How many nodes the scenario has, also before they are made.
    fn nodes_planned(&self) -> usize {
        self.scenario.nodes()
    }

    /// A fault of the plan.
    pub fn fault(&mut self, number: usize) {
        if self.healed {
            return;
        }
        let fault = self.faults[number].clone();
        let now = self.now;
        let undoes = matches!(fault, Fault::Mend { .. } | Fault::Loss { permille: 0 });
        if now < self.calm_until && !undoes {
            return;
        }
        self.trace.line(now, || format!("FAULT {fault:?}"));
        self.trace.note(&[4, number as u64]);
        match fault {
            Fault::PowerLoss { nodes, back } => {
                for (at, back) in nodes.into_iter().zip(back) {
                    self.lose_power(at);
                    self.after(back, Event::Power { at });
                }
            }
            Fault::KillVoter { at, back } => {
                self.kill_voter(at);
                self.after(back, Event::StartVoter { at });
            }
            Fault::KillVolume { at, back } => {
                self.kill_volume(at, false);
                self.after(back, Event::StartVolume { at });
            }
            Fault::Pause { at, length } => {
                self.nodes[at].paused = true;
                self.after(length, Event::Continue { at });
            }
            Fault::Cut { pairs } => {
                pairs.into_iter().for_each(|(from, to)| self.network.set_cut(from, to, true))
            }
            Fault::Mend { pairs } => {
                pairs.into_iter().for_each(|(from, to)| self.network.set_cut(from, to, false))
            }
            Fault::BreakLinks => self.links.ids().into_iter().for_each(|id| self.link_break(id)),
            Fault::Loss { permille } => self.network.loss_permille = permille,
            Fault::SaveImage { at } => {
                let mut copy = self.nodes[at].areas.clone();
                for disk in &mut copy {
                    disk.power_lost(&mut self.rng);
                }
                self.nodes[at].saved = Some(copy);
            }
            Fault::RestoreImage { at, back } => self.restore_image(at, back),
            Fault::SaveLedger { at } => self.save_ledger(at),
            Fault::RestoreLedger { at, back } => self.restore_ledger(number, at, back),
            Fault::LoseReplica { at } => self.lose_replica(number, at),
            Fault::Stall { at, length, ledger } => {
                self.nodes[at].stalled[0] = self.nodes[at].stalled[0].max(now + length);
                if ledger {
                    self.nodes[at].stalled[1] = self.nodes[at].stalled[1].max(now + length);
                }
                // A primary gives up what does not answer at all, so that another copy can take over.
                self.oracles.i10.expect_failure(at);
            }
            Fault::FlushFails { at } => {
                if let Some(volume) = &mut self.nodes[at].volume {
                    volume.flush_fails = true;
                    self.oracles.i10.expect_failure(at);
                }
            }
        }
    }

    /// Puts the copy in place, if that is within what must be tolerated: another member of the set has its own disk. So it must
    /// also be in every set that may still be recorded: a removal that is in some log counts as recorded before the copy was put
    /// in place, as nobody can tell the two apart afterwards (docs/decisions/0008).
    fn restore_image(&mut self, at: At, back: u64) {
        let own = self.nodes[at].replica;
        let i1 = &self.oracles.i1;
        let others = i1.newest().is_some()
            && i1.possible_sets().all(|set| set.keys().any(|replica| Some(*replica) != own));
        let Some(saved) = self.nodes[at].saved.take().filter(|_| others) else { return };
        self.lose_power(at);
        self.nodes[at].areas = saved;
        if let Some(replica) = own {
            self.oracles.i10.expect_image(replica);
        }
        self.count("old images placed");
        self.after(back, Event::Power { at });
    }

    /// Everything on the node stops at this instant, and its disks lose what was not flushed.
    pub fn lose_power(&mut self, at: At) {
        self.nodes[at].powered = false;
        self.nodes[at].paused = false;
        self.nodes[at].backlog.clear();
        self.nodes[at].lease = None;
        self.nodes[at].voter = None;
        self.kill_volume(at, true);
        let node = &mut self.nodes[at];
        for disk in node.ledger.iter_mut().chain(&mut node.areas) {
            disk.power_lost(&mut self.rng);
        }
    }

    /// The node is switched on.
    pub fn power(&mut self, at: At) {
        if !self.nodes[at].powered {
            self.nodes[at].powered = true;
            let delay = self.rng.below(200 * MS);
            self.after(delay, Event::StartVoter { at });
            let delay = self.rng.below(300 * MS);
            self.after(delay, Event::StartVolume { at });
        }
    }

    /// The voter process of a node dies.
    pub fn kill_voter(&mut self, at: At) {
        if self.nodes[at].voter.take().is_some() {
            for disk in &mut self.nodes[at].ledger {
                disk.process_died(&mut self.rng);
            }
            self.volume_lost_voter(at);
        }
    }

    /// A paused node goes on, with everything that arrived meanwhile.
    pub fn continue_node(&mut self, at: At) {
        if std::mem::replace(&mut self.nodes[at].paused, false) {
            for event in std::mem::take(&mut self.nodes[at].backlog) {
                self.after(0, event);
            }
        }
    }

    /// The faults are over.
    pub fn heal(&mut self) {
        let now = self.now;
        self.trace.line(now, || "HEAL".into());
        self.healed = true;
        self.network.mend();
        for at in 0..self.nodes.len() {
            self.continue_node(at);
            self.power(at);
            self.after(500 * MS, Event::StartVoter { at });
            self.after(500 * MS, Event::StartVolume { at });
        }
    }
}
