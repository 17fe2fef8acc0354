//! The site as the scheduler sees it: services become groups, what may be promoted becomes where they may run.

use super::{
    messages::{Record, ResourceReport},
    parts::{Part, parts, services},
    world::World,
};
use crate::voter::protocol::Wanted;
use anshin_agent::Status;
use anshin_base::{GroupId, NodeId};
use anshin_ledger::state::{Node, NodeState, Service, ServiceTarget};
use anshin_policy::{
    Cluster, Discovery, FailCount, Location, Node as PolicyNode, Operation, OperationRecord, RecordStatus,
    Resource, Score, UnixSeconds,
};
use std::collections::BTreeMap;

/// How much a service wants the node that the ledger already made primary of its volume (after a failure the
/// leading voter promotes at once). Above stickiness and preference, below any ban.
const FOLLOW_PRIMARY: i64 = 100_000;
/// How much a service wants the node that an operator named. Above the default stickiness, so that a move happens.
const PREFERRED: i64 = 10_000;

/// Configuration and observed state in the scheduler's words.
#[must_use]
pub fn cluster(world: &World) -> Cluster {
    let mut cluster = Cluster::new();
    cluster.quorum = world.quorate;
    // Until machines can be fenced, generations and leases keep a lost node from writing (R11, R12).
    cluster.set("stonith-enabled", "false");
    cluster.set("no-quorum-policy", "freeze");
    cluster.set("start-failure-is-fatal", "false");
    cluster.coordinator = Some(world.name_of(world.me));
    for node in world.state.nodes.values() {
        cluster.nodes.push(policy_node(world, node));
    }
    for service in &services(&world.state) {
        cluster.resources.push(group(world, service));
        cluster.locations.extend(locations(world, service));
    }
    cluster
}

fn policy_node(world: &World, node: &Node) -> PolicyNode {
    let report = world.reports.get(&node.id);
    let mut made = if world.alive(node.id) {
        let mut made = PolicyNode::online(&node.name);
        // What was left over from a lost primary role is taken down by its own node; until then nothing is placed
        // there, and what it still holds must not look like a second running instance.
        made.pending = !settled(world, node.id);
        made
    } else {
        PolicyNode::offline(&node.name)
    };
    made.standby = matches!(node.state, NodeState::Standby | NodeState::Leaving);
    made.maintenance = node.state == NodeState::Maintenance;
    made.attributes.clone_from(&node.attributes);
    let Some(report) = report.filter(|_| made.online && !made.pending) else { return made };
    for service in &services(&world.state) {
        for part in parts(&world.state, service) {
            let Some(resource) = report.resources.iter().find(|resource| resource.id == part.id) else {
                continue;
            };
            add_history(&mut made, &part, resource);
        }
    }
    made
}

/// Whether a node's report can be planned with: it has looked at everything it may run, and holds nothing of a primary
/// role that another node has by now. It may not know of that yet; it will take it down by itself (R12).
#[must_use]
pub fn settled(world: &World, node: NodeId) -> bool {
    let Some(report) = world.reports.get(&node).filter(|report| report.ready && !report.cleaning) else {
        return false;
    };
    let elsewhere = |service: &Service| {
        let volume = service.volume.as_ref().and_then(|name| world.state.volumes.get(name));
        volume.and_then(|volume| world.primary_node(volume)).is_some_and(|primary| primary != node)
    };
    let runs = |part: &Part| {
        let known = report.resources.iter().find(|resource| resource.id == part.id);
        known.and_then(ResourceReport::running) == Some(true)
    };
    !services(&world.state)
        .iter()
        .any(|service| elsewhere(service) && parts(&world.state, service).iter().any(runs))
}

fn add_history(node: &mut PolicyNode, part: &Part, resource: &ResourceReport) {
    for record in &resource.records {
        node.record(&part.id, part.agent(), policy_record(&part.id, record));
    }
    node.fail_counts.extend(resource.failures.iter().map(|failures| FailCount {
        resource: part.id.clone(),
        operation: format!("{}_{}", failures.operation, failures.interval.0),
        count: Score::new(i64::from(failures.count)),
        last: Some(UnixSeconds(failures.last)),
    }));
}

fn policy_record(resource: &str, record: &Record) -> OperationRecord {
    let call = i64::try_from(record.call).unwrap_or(i64::MAX);
    let code = i32::from(record.result.rc.0);
    let mut made = OperationRecord::done(resource, &record.operation, record.interval.0, call, code)
        .expecting(i32::from(record.expected))
        .at(UnixSeconds(record.at));
    made.status = match record.result.status {
        Status::Done => RecordStatus::Done,
        Status::TimedOut => RecordStatus::TimedOut,
        Status::Error => RecordStatus::Error,
        Status::NotInstalled => RecordStatus::NotInstalled,
    };
    made.exit_reason = record.result.reason.clone().unwrap_or_default();
    made
}

fn group(world: &World, service: &Service) -> Resource {
    let members = parts(&world.state, service).into_iter().map(|part| {
        let mut primitive = Resource::primitive(&part.id, part.agent())
            .operation(Operation::new("start", part.start.0))
            // Without fencing a failed stop can only be shown and left to a person.
            .operation(Operation::new("stop", part.stop.0).on_fail(anshin_policy::OnFail::Block));
        if let Some((every, timeout)) = part.monitor {
            primitive = primitive.operation(Operation::monitor(every.0, timeout.0));
        }
        primitive
    });
    let mut group = Resource::group(&service.name, members.collect())
        .meta("resource-stickiness", &service.stickiness.to_string());
    if service.failures_max > 0 {
        group = group.meta("migration-threshold", &service.failures_max.to_string());
    }
    if service.failures_expire.0 > 0 {
        group = group.meta("failure-timeout", &format!("{}s", service.failures_expire.0.div_ceil(1_000)));
    }
    match service.target {
        ServiceTarget::Started => group,
        ServiceTarget::Stopped => group.meta("target-role", "Stopped"),
        ServiceTarget::Unmanaged => group.meta("is-managed", "false"),
    }
}

fn locations(world: &World, service: &Service) -> Vec<Location> {
    let mut all = Vec::new();
    for node in world.state.nodes.values() {
        if let Some(why_not) = why_not(world, service, node.id) {
            let mut never = location(service, &why_not, node, Score::NEVER);
            if !node.roles.data {
                // Nothing of it can ever have run there; its agents need not even be installed.
                never.discovery = Discovery::Never;
            }
            all.push(never);
        }
    }
    let volume = service.volume.as_ref().and_then(|name| world.state.volumes.get(name));
    let primary = volume.and_then(|volume| world.primary_node(volume));
    // A primary that died is no reason to go there; a move that an operator asked for goes before staying.
    let wanted =
        service.preferred.filter(|&node| world.alive(node) && why_not(world, service, node).is_none());
    if let Some(node) = primary.filter(|&node| world.alive(node) && wanted.is_none())
        && let Some(node) = world.state.nodes.get(&node)
    {
        all.push(location(service, "primary", node, Score::new(FOLLOW_PRIMARY)));
    }
    if let Some(node) = wanted.and_then(|node| world.state.nodes.get(&node)) {
        all.push(location(service, "preferred", node, Score::new(PREFERRED + FOLLOW_PRIMARY)));
    }
    all
}

fn location(service: &Service, what: &str, node: &Node, score: Score) -> Location {
    Location::new(&format!("{}: {what} on {}", service.name, node.name), &service.name, &node.name, score)
}

/// Where each volume should be active, for the voter that leads: it promotes as soon as it sees that a primary is gone, without
/// waiting for a daemon. `last` is where each was active before: a restart in place stays in place.
#[must_use]
pub fn wanted(world: &World, last: &BTreeMap<GroupId, NodeId>) -> Wanted {
    let mut wanted = Wanted::new();
    for service in services(&world.state) {
        let Some(volume) = service.volume.as_ref().and_then(|name| world.state.volumes.get(name)) else {
            continue;
        };
        if service.target == ServiceTarget::Stopped {
            continue;
        }
        let score =
            |node: NodeId| match (service.preferred == Some(node), last.get(&volume.group) == Some(&node)) {
                (true, _) => 2,
                (false, true) => 1,
                (false, false) => 0,
            };
        wanted.insert(volume.group, volume.replicas.keys().map(|&node| (node, score(node))).collect());
    }
    wanted
}

/// Whether a part of the service failed so often on that node that it is not tried there any more for now.
#[must_use]
pub fn gave_up(world: &World, service: &Service, node: NodeId) -> bool {
    let failed = |part: &Part| {
        let failures = world.resource(node, &part.id).map(|resource| resource.failures.as_slice());
        failures.unwrap_or_default().iter().map(|failures| failures.count).sum::<u32>()
            >= service.failures_max
    };
    service.failures_max > 0 && parts(&world.state, service).iter().any(failed)
}

/// Why a service cannot run on a node, if so: the node stores no data, or its copy of the volume cannot be promoted.
/// Policy never moves what stands on a volume to where that cannot be promoted (R10).
#[must_use]
pub fn why_not(world: &World, service: &Service, node: NodeId) -> Option<String> {
    let roles = world.state.nodes.get(&node).map(|node| node.roles);
    if !roles.is_some_and(|roles| roles.data) {
        return Some("a witness runs no services".into());
    }
    let name = service.volume.as_ref()?;
    let Some(volume) = world.state.volumes.get(name) else {
        return Some(format!("volume {name} does not exist"));
    };
    let Some(replica) = volume.replicas.get(&node).and_then(|replica| replica.replica) else {
        return Some(format!("no copy of volume {name}"));
    };
    let Some(entry) = world.entry(volume) else { return Some(format!("volume {name} is being made")) };
    if !entry.in_sync.contains_key(&replica) {
        return Some(format!("its copy of volume {name} is not in sync"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::fixture;

    #[test]
    fn a_service_is_banned_from_witnesses_and_from_copies_that_are_not_in_sync() {
        let mut world = fixture::site();
        let service = world.state.services["db"].clone();
        assert_eq!(why_not(&world, &service, NodeId(1)), None);
        assert_eq!(why_not(&world, &service, NodeId(3)), Some("a witness runs no services".into()));
        fixture::shrink_in_sync(&mut world, "data", &[1]);
        assert_eq!(
            why_not(&world, &service, NodeId(2)),
            Some("its copy of volume data is not in sync".into())
        );
    }

    #[test]
    fn nothing_is_looked_for_on_a_witness() {
        let mut world = fixture::site();
        fixture::set_primary(&mut world, "data", 1);
        fixture::run_everything(&mut world, "db", NodeId(1));
        world.reports.get_mut(&NodeId(3)).unwrap().resources.clear();
        let plan = anshin_policy::plan(&cluster(&world), UnixSeconds(1_700_000_000));
        let witness = world.name_of(NodeId(3));
        let there: Vec<_> =
            plan.actions.iter().filter(|action| action.node.as_ref() == Some(&witness)).collect();
        assert!(there.is_empty(), "{there:?}");
    }

    #[test]
    fn a_node_that_still_cleans_up_is_pending_and_its_leftovers_are_not_seen() {
        let mut world = fixture::site();
        fixture::run_everything(&mut world, "db", NodeId(1));
        if let Some(report) = world.reports.get_mut(&NodeId(1)) {
            report.cleaning = true;
        }
        let node = policy_node(&world, &world.state.nodes[&NodeId(1)]);
        assert!(node.pending && node.history.is_empty());
    }

    #[test]
    fn a_node_that_returns_and_does_not_know_yet_that_it_was_replaced_is_no_second_instance() {
        let mut world = fixture::site();
        fixture::run_everything(&mut world, "db", NodeId(1));
        fixture::set_primary(&mut world, "data", 1);
        assert!(settled(&world, NodeId(1)));
        fixture::set_primary(&mut world, "data", 2);
        assert!(!settled(&world, NodeId(1)));
        assert!(policy_node(&world, &world.state.nodes[&NodeId(1)]).pending);
    }
}
