//! Makes the nodes of a world: disks, ledgers with the site's first state, and the fault plan.

use crate::{
    disk::Disk,
    voters::{EPOCH, LEDGER_AREA, node_id},
    world::{Clock, Event, GROUP, MS, Node, World},
};
use anshin_base::{ByteSize, LedgerIndex, ReplicaId, VoterId};
use anshin_ledger::{
    Command, Engine, State,
    engine::message::Members,
    log::{Area, DiskOp, Identity},
    state::{JoinToken, NewNode, Ports, Replica, Roles, Site, Timing, UnixSeconds, Volume},
};
use anshin_mirror::Format;
use std::collections::BTreeMap;

/// The site.
pub const SITE: u64 = 1;

/// Makes every node and puts the first events into the queue.
pub fn nodes(world: &mut World) {
    let scenario = world.scenario;
    let state = first_state(world);
    let voters: Vec<VoterId> = (0..scenario.nodes()).map(|at| VoterId(at as u64 + 1)).collect();
    for at in 0..scenario.nodes() {
        let identity = Identity { site: SITE, node: node_id(at), voter: voters[at], epoch: EPOCH };
        let members = Members { voters: voters.clone(), learners: Vec::new() };
        let mut ledger = [Disk::new(LEDGER_AREA), Disk::new(LEDGER_AREA)];
        let ops = Engine::found_with(identity, members, &state, LEDGER_AREA)
            .expect("invariant: the first state is small");
        for op in ops {
            if let DiskOp::Write { area, offset, bytes } = op {
                ledger[usize::from(area == Area::B)].place(offset, &bytes);
            }
        }
        let replica = (at < scenario.data).then(|| replica_id(at));
        let areas = make_replica(world, replica);
        let drift_ppm = world.rng.between(0, 400) as i64 - 200;
        let clock = Clock { offset: world.rng.below(1_000_000 * MS), drift_ppm };
        world.nodes.push(Node {
            id: node_id(at),
            voter_id: voters[at],
            replica,
            clock,
            powered: true,
            paused: false,
            backlog: Vec::new(),
            ledger,
            areas,
            voter: None,
            volume: None,
            lease: None,
            saved: None,
            saved_ledger: None,
            fresh: None,
            rejoining: false,
        });
        let delay = world.rng.below(100 * MS);
        world.after(delay, Event::StartVoter { at });
        world.after(delay + 20 * MS, Event::StartVolume { at });
    }
    for low in 0..scenario.data {
        for high in low + 1..scenario.data {
            world.after(50 * MS, Event::Connect { low, high });
        }
    }
    crate::faults::plan(world);
    world.at(scenario.faults_until, Event::Heal);
    world.at(scenario.faults_until + 2_000 * MS, Event::Probe);
    // The last moment: whoever has not converged by then is stopped and judged as it stands.
    let end = scenario.faults_until + scenario.converge;
    world.at(end - crate::finish::QUIET, Event::Quiet);
    world.at(end, Event::End);
}

/// The replica of a node.
#[must_use]
pub fn replica_id(at: usize) -> ReplicaId {
    ReplicaId(0x1000 + at as u64)
}

/// The areas of a new replica.
pub fn make_replica(world: &World, replica: Option<ReplicaId>) -> [Disk; 2] {
    let Some(replica) = replica.filter(|_| world.scenario.volumes) else {
        return [Disk::new(0), Disk::new(0)];
    };
    let (volume_bytes, hot_extents) = (world.scenario.volume_bytes, world.scenario.hot_extents);
    let format = Format { volume_bytes, group: GROUP, replica, hot_extents, zeroed: true };
    let image = format.image().expect("invariant: the scenarios' volumes can be laid out");
    let mut meta = Disk::new(image.meta_bytes);
    for (offset, bytes) in image.writes {
        meta.place(offset, &bytes);
    }
    [Disk::new(volume_bytes), meta]
}

fn first_state(world: &World) -> State {
    let scenario = world.scenario;
    let mut state = State::default();
    let site =
        Site { name: "sim".into(), id: SITE, ca_certificate: String::new(), timing: Timing::default() };
    let mut commands = vec![Command::InitSite(site)];
    for at in 0..scenario.nodes() {
        let data = at < scenario.data;
        let node = NewNode {
            name: format!("node-{at}"),
            addresses: vec![format!("192.0.2.{}", at + 1)],
            ports: Ports::default(),
            roles: Roles { data, witness: !data, vault: false },
            fingerprint: String::new(),
        };
        if at == 0 {
            commands.push(Command::FirstNode(node));
            continue;
        }
        let hash = format!("token-{at}");
        let roles = Roles::ALL;
        let token = JoinToken { hash: hash.clone(), roles, expires: UnixSeconds(1), used_by: None };
        commands.push(Command::AddToken(token));
        commands.push(Command::Join { token: hash, at: UnixSeconds(0), node });
    }
    let replicas = (0..scenario.data)
        .map(|at| (node_id(at), Replica { replica: Some(replica_id(at)), port: 7810, path: String::new() }));
    commands.push(Command::CreateVolume(Volume {
        name: "data".into(),
        group: GROUP,
        size: ByteSize(scenario.volume_bytes),
        file_system: None,
        mount: None,
        replicas: replicas.collect::<BTreeMap<_, _>>(),
    }));
    for command in commands {
        state.apply(LedgerIndex(1), &command).expect("invariant: the first commands are in order");
    }
    state
}
