//! A small site for unit tests: nodes 1 and 2 with data, witness 3, volume `data`, service `db`.

use super::{
    messages::{NodeReport, Record, ResourceReport, VolumeReport},
    parts::parts,
    world::{Heard, World},
};
use anshin_agent::{OperationResult, Rc};
use anshin_base::{
    ByteSize, Generation, GroupEntry, GroupId, LedgerIndex, Member, Millis, NodeId, ReplicaId, SessionId,
    VoterId, local::ReplicaReport,
};
use anshin_ledger::state::{
    GroupState, Node, NodeState, Ports, Replica, Resource, ResourceKind, Roles, Service, ServiceTarget, Site,
    State, Volume,
};
use std::{collections::BTreeMap, sync::Arc};

const GROUP: GroupId = GroupId(77);

fn node(id: u32, name: &str, roles: Roles) -> Node {
    Node {
        id: NodeId(id),
        name: name.into(),
        addresses: vec![format!("192.0.2.{id}")],
        ports: Ports::default(),
        roles,
        voter: VoterId(u64::from(id)),
        fingerprint: String::new(),
        state: NodeState::Active,
        attributes: BTreeMap::new(),
    }
}

fn volume() -> Volume {
    let replica =
        |id: u32| Replica { replica: Some(ReplicaId(u64::from(id))), port: 7810, path: String::new() };
    Volume {
        name: "data".into(),
        group: GROUP,
        size: ByteSize(1 << 30),
        file_system: Some("ext4".into()),
        mount: Some("/srv/data".into()),
        replicas: BTreeMap::from([(NodeId(1), replica(1)), (NodeId(2), replica(2))]),
    }
}

fn service() -> Service {
    Service {
        name: "db".into(),
        volume: Some("data".into()),
        mount: Some("/srv/data".into()),
        addresses: vec!["192.0.2.50/24".into()],
        resources: vec![Resource {
            name: "program".into(),
            kind: ResourceKind::BuiltIn { what: "demo".into() },
            parameters: BTreeMap::new(),
            operations: Vec::new(),
        }],
        target: ServiceTarget::Started,
        preferred: None,
        failures_max: 3,
        failures_expire: Millis(0),
        stickiness: 100,
    }
}

fn report(id: u32) -> NodeReport {
    NodeReport {
        node: NodeId(id),
        version: "0.1.0".into(),
        start: 1,
        sequence: 1,
        cleaning: false,
        ready: true,
        resources: Vec::new(),
        volumes: Vec::new(),
        happened: Vec::new(),
        passages: Vec::new(),
        rejoining: None,
        attempts: Vec::new(),
        vaults: Vec::new(),
        archives: Vec::new(),
        #[cfg(feature = "next")]
        said_by_next: None,
    }
}

/// The site with everybody alive, both copies in sync, node 1 leading, nothing running and no primary.
pub fn site() -> World {
    let data = Roles { data: true, ..Roles::default() };
    let witness = Roles { witness: true, ..Roles::default() };
    let mut state = State { site: Some(Site { name: "test".into(), ..Site::default() }), ..State::default() };
    for made in [node(1, "a", data), node(2, "b", data), node(3, "w", witness)] {
        state.nodes.insert(made.id, made);
    }
    state.volumes.insert("data".into(), volume());
    state.services.insert("db".into(), service());
    let in_sync = BTreeMap::from([(ReplicaId(1), SessionId(1)), (ReplicaId(2), SessionId(2))]);
    let entry = GroupEntry { group: GROUP, generation: Generation(3), primary: None, in_sync };
    state.groups.insert(GROUP, GroupState { index: LedgerIndex(9), entry });
    let mut world = World {
        me: NodeId(1),
        state: Arc::new(state),
        quorate: true,
        leader: Some(NodeId(1)),
        ..World::default()
    };
    for id in 1..=3 {
        world.reports.insert(NodeId(id), report(id));
        let replicas = if id == 3 { Vec::new() } else { vec![replica_report(id)] };
        let heard = Heard { alive: true, follows: true, age_ms: Some(50), replicas, ..Heard::default() };
        world.heard.insert(NodeId(id), heard);
    }
    world
}

fn replica_report(id: u32) -> ReplicaReport {
    ReplicaReport {
        group: GROUP,
        replica: ReplicaId(u64::from(id)),
        session: SessionId(u64::from(id)),
        progress: 5,
        promotable: true,
        ledger_index: LedgerIndex(9),
    }
}

/// Leaves only these replicas in the set.
pub fn shrink_in_sync(world: &mut World, volume: &str, keep: &[u64]) {
    let state = Arc::make_mut(&mut world.state);
    let group = state.volumes[volume].group;
    let entry = &mut state.groups.get_mut(&group).expect("the fixture's group").entry;
    entry.in_sync.retain(|replica, _| keep.contains(&replica.0));
}

/// Records who is primary.
pub fn set_primary(world: &mut World, volume: &str, id: u64) {
    let state = Arc::make_mut(&mut world.state);
    let group = state.volumes[volume].group;
    let entry = &mut state.groups.get_mut(&group).expect("the fixture's group").entry;
    entry.primary = Some(Member { replica: ReplicaId(id), session: SessionId(id) });
}

/// A node's volume process says that its device stands.
pub fn serve(world: &mut World, volume: &str, node: NodeId) {
    let report = VolumeReport {
        volume: volume.into(),
        serving: true,
        suspended: None,
        failed: None,
        old_image: false,
        peers: Vec::new(),
        waiting_s: 0,
    };
    world.reports.get_mut(&node).expect("the fixture's report").volumes.push(report);
}

/// An operator asked for a move.
pub fn prefer(world: &mut World, service: &str, node: NodeId) {
    let state = Arc::make_mut(&mut world.state);
    state.services.get_mut(service).expect("the fixture's service").preferred = Some(node);
}

/// Every part of a service was started on a node and every other node was probed.
pub fn run_everything(world: &mut World, service: &str, runs_on: NodeId) {
    let all = parts(&world.state, &world.state.services[service]);
    for (&node, report) in &mut world.reports {
        for (call, part) in all.iter().enumerate() {
            let (operation, rc, expected) =
                if node == runs_on { ("start", Rc::OK, 0) } else { ("monitor", Rc::NOT_RUNNING, 7) };
            let mut records = vec![record(operation, Millis(0), call as u64 + 1, rc, expected)];
            if let (true, Some((every, _))) = (node == runs_on, part.monitor) {
                records.push(record("monitor", every, call as u64 + 100, Rc::OK, 0));
            }
            report.resources.push(ResourceReport { id: part.id.clone(), records, failures: Vec::new() });
        }
    }
}

/// One result.
pub fn record(operation: &str, interval: Millis, call: u64, rc: Rc, expected: u8) -> Record {
    let result = OperationResult::done(rc);
    Record { operation: operation.into(), interval, call, expected, result, at: 1_700_000_000 }
}
