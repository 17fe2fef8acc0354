//! What the daemon knows, as the public API shows it.

use super::{
    director,
    messages::{CANNOT_MAKE, Happened, Record, VolumeReport},
    model,
    parts::parts,
    passage::Passage,
    world::{DAEMON_SILENT_MS, World},
};
use crate::view::{
    Facts, Happening, NodeState as NodeStateView, NodeView, PassageView, Quorum, ReplicaState, ReplicaView,
    ResourceView, Resync, Resynced, Role, RunState, ServiceView, Times, VolumeView, VoterState, VoterView,
};
use anshin_agent::{Rc, guard::FROZEN_GUARD_BOUND};
use anshin_base::NodeId;
use anshin_ledger::state::{Node, NodeState, Service, ServiceTarget, Volume};
use std::collections::BTreeMap;

/// Happenings shown.
const RECENT_MAX: usize = 30;
/// A user's request that waits for so many seconds is told of: healthy disks do not take that long.
const WAITING_S: u64 = 3;
/// Failovers and moves shown.
const PASSAGES_MAX: usize = 10;

/// The facts behind a status.
#[must_use]
pub fn facts(world: &World, at: String) -> Facts {
    Facts {
        site: world.site_name(),
        this_node: world.name_of(world.me),
        at,
        quorum: quorum(world),
        nodes: world.state.nodes.values().map(|node| node_view(world, node)).collect(),
        volumes: world.state.volumes.values().map(|volume| volume_view(world, volume)).collect(),
        services: world.state.services.values().map(|service| service_view(world, service)).collect(),
        recent: recent(world),
        passages: passages(world),
        times: times(world),
        // The ledger has no devices with which a machine could be switched off: nothing can be configured yet.
        machine_fencing: false,
        backups: director::backups(
            world,
            anshin_director::UnixMillis(jiff::Timestamp::now().as_millisecond()),
        ),
    }
}

fn passages(world: &World) -> Vec<PassageView> {
    let seen =
        world.reports.iter().flat_map(|(node, report)| report.passages.iter().map(move |one| (*node, one)));
    let mut all: Vec<(NodeId, &Passage)> = seen.collect();
    all.sort_by_key(|(_, passage)| std::cmp::Reverse(passage.at_ms));
    let view = |(node, passage): (NodeId, &Passage)| PassageView {
        service: passage.service.clone(),
        planned: passage.planned,
        from: world.name_of(passage.from),
        to: passage.to.map(|to| world.name_of(to)),
        seen_by: world.name_of(node),
        at: jiff::Timestamp::from_millisecond(passage.at_ms).unwrap_or_default().to_string(),
        detected_ms: passage.detected,
        decided_ms: passage.decided,
        released_ms: passage.released,
        promoted_ms: passage.promoted,
        device_ms: passage.device,
        mounted_ms: passage.mounted,
        address_ms: passage.address,
        program_ms: passage.program,
    };
    all.into_iter().take(PASSAGES_MAX).map(view).collect()
}

fn times(world: &World) -> Times {
    let timing = world.state.site.as_ref().map(|site| site.timing.clone()).unwrap_or_default();
    Times {
        heartbeat_ms: timing.heartbeat.0,
        silence_ms: timing.silent.0,
        lease_ms: timing.lease.0,
        drift_permille: timing.drift_permille,
        address_left_ms: FROZEN_GUARD_BOUND.0,
    }
}

fn quorum(world: &World) -> Quorum {
    let voters: Vec<VoterView> = world.state.nodes.values().map(|node| voter_view(world, node)).collect();
    let present = voters.iter().filter(|voter| voter.present).count();
    // While a voter is replaced the ledger itself counts fewer.
    let voting = if world.voters.is_empty() { voters.len() } else { world.voters.len() };
    Quorum {
        have: world.quorate,
        votes_present: u32::try_from(present).unwrap_or(u32::MAX),
        votes_needed: u32::try_from(voting / 2 + 1).unwrap_or(u32::MAX),
        leader: world.leader.map(|node| world.name_of(node)),
        ledger_age_ms: world.ledger_age_ms,
        stale: !world.quorate,
        voters,
    }
}

/// A voter counts while it is heard, is the one that the ledger knows, votes, and follows the leader (R8, I17).
fn voter_view(world: &World, node: &Node) -> VoterView {
    let heard = world.heard.get(&node.id);
    let report = world.reports.get(&node.id);
    let wish = report.filter(|_| world.alive(node.id)).and_then(|report| report.rejoining.clone());
    let runs = heard.and_then(|heard| heard.voter);
    let other = runs.filter(|runs| *runs != node.voter);
    let votes = world.voters.is_empty() || world.voters.contains(&node.voter);
    let follows = heard.is_none_or(|heard| heard.follows) || !world.quorate;
    let (state, why) = match (world.alive(node.id), wish, other) {
        (false, ..) => (VoterState::Silent, None),
        (true, Some(why), _) => (VoterState::Rejoining, Some(why)),
        (true, None, Some(other)) => (
            VoterState::Rejoining,
            Some(format!("it runs {other}, and the ledger here knows {}", node.voter)),
        ),
        (true, None, None) if votes && follows => (VoterState::Votes, None),
        (true, None, None) => (VoterState::CatchingUp, None),
    };
    VoterView { node: node.name.clone(), id: node.voter.0, present: state == VoterState::Votes, state, why }
}

fn node_view(world: &World, node: &Node) -> NodeView {
    let heard = world.heard.get(&node.id);
    let mut roles = Vec::new();
    if node.roles.data {
        roles.push(Role::Data);
    }
    if node.roles.witness {
        roles.push(Role::Witness);
    }
    if node.roles.vault {
        roles.push(Role::Vault);
    }
    let state = match (world.alive(node.id), node.state) {
        (false, _) => NodeStateView::Offline,
        (true, NodeState::Active) => NodeStateView::Online,
        (true, NodeState::Standby | NodeState::Leaving) => NodeStateView::Standby,
        (true, NodeState::Maintenance) => NodeStateView::Maintenance,
    };
    NodeView {
        name: node.name.clone(),
        id: node.id.0,
        roles,
        state,
        last_heard_ms: if node.id == world.me { Some(0) } else { heard_ms(world, node.id) },
        relayed: heard.is_some_and(|heard| heard.relayed),
        version: world.reports.get(&node.id).map(|report| report.version.clone()),
        address: node.addresses.first().cloned().unwrap_or_default(),
    }
}

/// How long ago a node was heard: its voter, and its daemon, without which nothing is started there. A report is sent every
/// second and may be a little late.
fn heard_ms(world: &World, node: NodeId) -> Option<u64> {
    let voter = world.heard.get(&node).and_then(|heard| heard.age_ms)?;
    let daemon = world.report_age_ms.get(&node).copied().filter(|age| *age > DAEMON_SILENT_MS);
    Some(voter.max(daemon.unwrap_or(0)))
}

fn volume_view(world: &World, volume: &Volume) -> VolumeView {
    let entry = world.entry(volume);
    let primary = world.primary_node(volume);
    let in_sync = entry.map(|entry| entry.in_sync.keys()).into_iter().flatten();
    let in_sync: Vec<String> = in_sync
        .filter_map(|&replica| world.node_of(volume, replica))
        .map(|node| world.name_of(node))
        .collect();
    let own = volume_report(world, volume, world.me);
    let serving = primary.and_then(|node| volume_report(world, volume, node));
    VolumeView {
        name: volume.name.clone(),
        size_bytes: volume.size.0,
        mount: volume.mount.clone(),
        generation: entry.map_or(0, |entry| entry.generation.0),
        primary: primary.map(|node| world.name_of(node)),
        in_sync,
        device: own.filter(|report| report.serving).map(|_| format!("/dev/anshin/{}", volume.name)),
        replicas: volume.replicas.keys().map(|&node| replica_view(world, volume, node, primary)).collect(),
        suspended: suspended(world, volume, primary, serving).or_else(|| serving.and_then(waits)),
    }
}

/// Why a volume's I/O waits, if it does: as its primary says, or because there is none that is alive.
fn suspended(
    world: &World,
    volume: &Volume,
    primary: Option<NodeId>,
    serving: Option<&VolumeReport>,
) -> Option<String> {
    if world.entry(volume).is_none_or(|entry| entry.in_sync.is_empty()) {
        return Some(not_made_yet(world, volume));
    }
    let Some(primary) = primary else {
        return world
            .choose(volume, None)
            .err()
            .map(|why| format!("nobody can be promoted: {}", in_names(world, volume, &why)));
    };
    if !world.alive(primary) {
        let why = world.choose(volume, None).err().map(|why| in_names(world, volume, &why));
        let why = why.unwrap_or_else(|| "another copy is about to take over".into());
        return Some(format!("node {} is not heard; {why}", world.name_of(primary)));
    }
    serving.and_then(|report| report.failed.clone().or_else(|| report.suspended.clone()))
}

/// What a user's request that is not answered says of the volume.
fn waits(report: &VolumeReport) -> Option<String> {
    let why = format!("a request is not answered for {} s; the disk of a copy may hang", report.waiting_s);
    (report.waiting_s >= WAITING_S).then_some(why)
}

/// A new volume has no copies yet: which nodes cannot make theirs, and why.
fn not_made_yet(world: &World, volume: &Volume) -> String {
    let refusals = volume.replicas.keys().filter_map(|node| {
        let happened = world.reports.get(node)?.happened.iter().rev();
        let refusal =
            happened.filter(|one| one.subject == volume.name).find(|one| one.what == CANNOT_MAKE)?;
        Some(format!("{} cannot make its copy: {}", world.name_of(*node), refusal.why))
    });
    let refusals = refusals.collect::<Vec<_>>().join("; ");
    if refusals.is_empty() { "its copies are being made".into() } else { refusals }
}

fn in_names(world: &World, volume: &Volume, why: &anshin_ledger::WhyNot) -> String {
    use anshin_ledger::WhyNot;
    let names = |replicas: &[anshin_base::ReplicaId]| {
        let names = replicas.iter().filter_map(|&replica| world.node_of(volume, replica));
        names.map(|node| world.name_of(node)).collect::<Vec<_>>().join(" or ")
    };
    match why {
        WhyNot::NoMember { bring_back } => format!("bring back node {}", names(bring_back)),
        WhyNot::FurthestAway(replica) => {
            format!("every copy restarted; bring back node {}, which holds the most", names(&[*replica]))
        }
        WhyNot::Unfit(replicas) => format!("the copy on node {} cannot be used", names(replicas)),
    }
}

fn volume_report<'a>(world: &'a World, volume: &Volume, node: NodeId) -> Option<&'a VolumeReport> {
    world.reports.get(&node)?.volumes.iter().find(|report| report.volume == volume.name)
}

fn replica_view(world: &World, volume: &Volume, node: NodeId, primary: Option<NodeId>) -> ReplicaView {
    let own = volume_report(world, volume, node);
    let seen_by_primary = primary
        .filter(|&primary| world.alive(primary))
        .and_then(|primary| volume_report(world, volume, primary))
        .and_then(|report| report.peers.iter().find(|peer| peer.node == node));
    let replica = volume.replicas.get(&node).and_then(|held| held.replica);
    let recorded = replica.is_some_and(|replica| {
        world.entry(volume).is_some_and(|entry| {
            let live = world.live_member(volume, node);
            // After a restart the replica is another member: the record is about its earlier session (R4).
            live.map_or_else(|| entry.in_sync.contains_key(&replica), |live| entry.holds(live))
        })
    });
    let alive = world.alive(node);
    let is_primary = primary == Some(node);
    let state = if own.is_some_and(|report| report.old_image) {
        ReplicaState::OldImage
    } else if own.is_some_and(|report| report.failed.is_some()) {
        ReplicaState::Failed
    } else if !alive || own.is_none() {
        ReplicaState::Unknown
    } else if is_primary && own.is_some_and(|report| report.serving) {
        ReplicaState::Primary
    } else if seen_by_primary.is_some_and(|peer| peer.resync.is_some()) {
        ReplicaState::Resyncing
    } else if recorded
        && (is_primary || primary.is_none() || seen_by_primary.is_some_and(|peer| peer.connected))
    {
        ReplicaState::InSync
    } else if recorded {
        ReplicaState::Unknown
    } else {
        ReplicaState::Behind
    };
    let known_equal = matches!(state, ReplicaState::Primary | ReplicaState::InSync);
    ReplicaView {
        node: world.name_of(node),
        state,
        behind_bytes: if known_equal { Some(0) } else { seen_by_primary.map(|peer| peer.behind_bytes) },
        resync: seen_by_primary.and_then(|peer| peer.resync).map(|(done, total)| Resync {
            done_bytes: done,
            total_bytes: total,
            bytes_per_s: 0,
            seconds_left: None,
        }),
        last_heard_ms: if node == world.me {
            Some(0)
        } else {
            world.heard.get(&node).and_then(|heard| heard.age_ms)
        },
        resynced: seen_by_primary.and_then(|peer| peer.resynced).map(|resynced| Resynced {
            count: resynced.count,
            compared_bytes: resynced.compared.0,
            sent_bytes: resynced.sent.0,
            last_compared_bytes: resynced.compared.1,
            last_sent_bytes: resynced.sent.1,
        }),
    }
}

fn service_view(world: &World, service: &Service) -> ServiceView {
    let all = parts(&world.state, service);
    let resources: Vec<ResourceView> = all
        .iter()
        .map(|part| {
            let runs_on = running_on(world, &part.id);
            let node = runs_on.or_else(|| running_on(world, &all[0].id));
            let report = node.and_then(|node| world.resource(node, &part.id));
            let newest = report.and_then(|report| report.records.iter().max_by_key(|record| record.call));
            let failures =
                report.map_or(0, |report| report.failures.iter().map(|failures| failures.count).sum());
            let bad = newest.is_some_and(is_bad);
            ResourceView {
                name: part.id.clone(),
                kind: part.kind(),
                state: match (runs_on, bad) {
                    (_, true) => RunState::Failed,
                    (Some(_), false) => RunState::Running,
                    (None, false) => RunState::Stopped,
                },
                node: runs_on.map(|node| world.name_of(node)),
                last_result: newest.map(|record| {
                    let why = record.result.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
                    format!("{} {}{why}", record.operation, record.result.rc)
                }),
                fail_count: failures,
            }
        })
        .collect();
    let up = resources.iter().filter(|resource| resource.state == RunState::Running).count();
    let (state, why) = run_state(world, service, &resources, up);
    let last = all.last().and_then(|part| running_on(world, &part.id).map(|node| (node, part.id.clone())));
    let since = last.and_then(|(node, id)| {
        let report = world.resource(node, &id)?;
        let started = report
            .records
            .iter()
            .filter(|record| record.operation == "start")
            .map(|record| record.at)
            .max()?;
        jiff::Timestamp::from_second(started).ok().map(|at| at.to_string())
    });
    ServiceView {
        name: service.name.clone(),
        state,
        node: resources.iter().rev().find_map(|resource| resource.node.clone()),
        since,
        address: service.addresses.first().cloned(),
        volumes: service.volume.iter().cloned().collect(),
        resources,
        why,
        barred: barred(world, service),
    }
}

/// Where policy would not start the service now, though the node lives and may run services: it failed there too often or
/// cannot run there at all, or the node is not done with what it held before.
fn barred(world: &World, service: &Service) -> BTreeMap<String, String> {
    let living = world.state.nodes.values().filter(|node| node.roles.data && world.alive(node.id));
    let of_node = |node: &Node| {
        let why = parts(&world.state, service).iter().find_map(|part| {
            let resource = world.resource(node.id, &part.id)?;
            let once = || resource.records.iter().filter(|record| record.interval.0 == 0);
            let newest = once().max_by_key(|record| record.call);
            let stays = newest.filter(|record| record.operation == "stop" && record.result.rc != Rc::OK);
            stays
                .or_else(|| once().find(|record| is_hopeless(record)))
                .map(|record| format!("{}: {} {}", part.id, record.operation, record.result.rc))
        });
        let given_up =
            || model::gave_up(world, service, node.id).then(|| "it failed there too often".to_owned());
        let unsettled = || {
            let known = world.reports.contains_key(&node.id) && !model::settled(world, node.id);
            known.then(|| "that node still looks at or takes down what it held".to_owned())
        };
        Some((node.name.clone(), why.or_else(given_up).or_else(unsettled)?))
    };
    living.filter_map(of_node).collect()
}

/// Whether a look or a start found that the agent, the program or a setting is not there: policy does not start the part on its
/// node before another such result has come.
fn is_hopeless(record: &Record) -> bool {
    let lacking = [Rc::ARGUMENTS, Rc::UNIMPLEMENTED, Rc::PERMISSION, Rc::NOT_INSTALLED, Rc::NOT_CONFIGURED];
    record.operation != "stop" && lacking.contains(&record.result.rc) && record.result.rc.0 != record.expected
}

/// Whether a result shows a failure. One that was looked for and found there, or not there, was found: neither is one.
fn is_bad(record: &Record) -> bool {
    let probe = record.operation == "monitor" && record.interval.0 == 0;
    let found = [Rc::OK, Rc::NOT_RUNNING].contains(&record.result.rc);
    record.result.rc.0 != record.expected && !(probe && found)
}

fn run_state(world: &World, service: &Service, resources: &[ResourceView], up: usize) -> (RunState, String) {
    if !world.quorate && up == 0 {
        return (RunState::Unknown, "this node hears no quorum and does not know".into());
    }
    if service.target == ServiceTarget::Stopped {
        let state = if up == 0 { RunState::Stopped } else { RunState::Stopping };
        return (state, "an operator stopped it".into());
    }
    if let Some(failed) = resources.iter().find(|resource| resource.state == RunState::Failed) {
        let result = failed.last_result.clone().unwrap_or_default();
        return (RunState::Failed, format!("{}: {result}", failed.name));
    }
    let volume = service.volume.as_ref().and_then(|name| world.state.volumes.get(name));
    let held = volume.and_then(|volume| {
        let primary = world.primary_node(volume);
        suspended(world, volume, primary, primary.and_then(|node| volume_report(world, volume, node)))
    });
    if let Some(why) = held {
        return (RunState::Blocked, why);
    }
    if up == resources.len() && up > 0 {
        let node = resources[0].node.clone().unwrap_or_default();
        let others = world
            .state
            .nodes
            .keys()
            .filter(|&&node| world.alive(node) && model::why_not(world, service, node).is_none());
        let why = match others.count() {
            0 | 1 => format!("only {node} can run it now"),
            count => format!("{node} holds the volume; {count} nodes can run it"),
        };
        return (RunState::Running, why);
    }
    let blocked: Vec<String> = world
        .state
        .nodes
        .values()
        .filter_map(|node| {
            let why = if world.alive(node.id) {
                model::why_not(world, service, node.id)
            } else {
                Some("not heard".into())
            };
            why.map(|why| format!("{}: {why}", node.name))
        })
        .collect();
    if blocked.len() == world.state.nodes.len() {
        return (RunState::Blocked, format!("no node can run it: {}", blocked.join("; ")));
    }
    (RunState::Starting, "its parts are being started".into())
}

/// The node on which a resource runs, as far as living nodes say.
fn running_on(world: &World, id: &str) -> Option<NodeId> {
    let running = world.reports.keys().filter(|&&node| world.alive(node));
    running.copied().find(|&node| {
        world.resource(node, id).and_then(super::messages::ResourceReport::running) == Some(true)
    })
}

fn recent(world: &World) -> Vec<Happening> {
    let mut all: Vec<(i64, Happening)> = Vec::new();
    for (&node, report) in &world.reports {
        for Happened { at_ms, subject, what, why } in &report.happened {
            let at = jiff::Timestamp::from_millisecond(*at_ms).unwrap_or_default().to_string();
            let what = format!("{subject}: {what}");
            all.push((*at_ms, Happening { at, node: Some(world.name_of(node)), what, why: why.clone() }));
        }
    }
    all.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    all.into_iter().take(RECENT_MAX).map(|(_, happening)| happening).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::{fixture, world::OwnNames};
    use anshin_base::Millis;

    #[test]
    fn before_the_first_quorum_a_node_knows_its_names_from_its_own_file() {
        let own = OwnNames { site: "prod".into(), node: "a".into() };
        let world = World { me: NodeId(1), own, ..World::default() };
        let facts = facts(&world, String::new());
        assert_eq!((facts.site.as_str(), facts.this_node.as_str()), ("prod", "a"));
    }

    #[test]
    fn what_a_first_look_finds_is_no_failure_and_what_it_cannot_tell_is_one() {
        let probe = |rc| is_bad(&fixture::record("monitor", Millis(0), 1, rc, 7));
        assert!(!probe(Rc::OK) && !probe(Rc::NOT_RUNNING) && probe(Rc::GENERIC));
        assert!(is_bad(&fixture::record("monitor", Millis(5_000), 1, Rc::NOT_RUNNING, 0)));
        assert!(is_bad(&fixture::record("start", Millis(0), 1, Rc::NOT_RUNNING, 0)));
    }

    #[test]
    fn i17_a_node_that_could_not_start_a_service_is_named() {
        let mut world = fixture::site();
        fixture::set_primary(&mut world, "data", 1);
        fixture::run_everything(&mut world, "db", NodeId(1));
        let service = world.state.services["db"].clone();
        assert_eq!(barred(&world, &service), BTreeMap::new());
        let b = world.name_of(NodeId(2));
        let mount = parts(&world.state, &service)[1].id.clone();
        let with = |change: &dyn Fn(&mut crate::daemon::messages::ResourceReport)| {
            let mut world = world.clone();
            let report = world.reports.get_mut(&NodeId(2)).unwrap();
            change(report.resources.iter_mut().find(|resource| resource.id == mount).unwrap());
            barred(&world, &service).remove(&b)
        };
        let lacks = with(&|mount| {
            mount.records = vec![fixture::record("monitor", Millis(0), 1, Rc::NOT_INSTALLED, 7)];
        });
        assert!(lacks.unwrap().starts_with(&mount));
        let lacked = with(&|mount| {
            mount.records.push(fixture::record("start", Millis(0), 8, Rc::NOT_INSTALLED, 0));
            mount.records.push(fixture::record("stop", Millis(0), 9, Rc::OK, 0));
        });
        assert!(lacked.unwrap().contains("start"));
        let stays = with(&|mount| mount.records.push(fixture::record("stop", Millis(0), 9, Rc::GENERIC, 0)));
        assert!(stays.unwrap().contains("stop"));
        let failures = |count| crate::daemon::messages::Failures {
            operation: "start".into(),
            interval: Millis(0),
            count,
            last: 0,
        };
        assert!(with(&|mount| mount.failures = vec![failures(3)]).is_some());
        assert_eq!(with(&|mount| mount.failures = vec![failures(2)]), None);
    }

    #[test]
    fn i17_a_node_whose_daemon_says_nothing_was_not_heard_just_now() {
        let mut world = fixture::site();
        let heard = |world: &World| node_view(world, &world.state.nodes[&NodeId(2)]).last_heard_ms;
        world.heard.get_mut(&NodeId(2)).unwrap().age_ms = Some(10);
        world.report_age_ms.insert(NodeId(2), DAEMON_SILENT_MS);
        assert_eq!(heard(&world), Some(10));
        world.report_age_ms.insert(NodeId(2), DAEMON_SILENT_MS + 1);
        assert_eq!(heard(&world), Some(DAEMON_SILENT_MS + 1));
    }

    #[test]
    fn i17_a_request_that_nobody_answers_is_told_of() {
        let report = |waiting_s| VolumeReport {
            volume: "data".into(),
            serving: true,
            suspended: None,
            failed: None,
            old_image: false,
            waiting_s,
            peers: Vec::new(),
        };
        assert_eq!(waits(&report(2)), None);
        assert!(waits(&report(4)).unwrap().contains("for 4 s"));
    }

    #[test]
    fn a_volume_without_copies_says_who_cannot_make_one_and_why() {
        let mut world = fixture::site();
        let state = std::sync::Arc::make_mut(&mut world.state);
        state.groups.clear();
        let volume = state.volumes["data"].clone();
        assert_eq!(suspended(&world, &volume, None, None).unwrap(), "its copies are being made");
        let refusal = Happened {
            at_ms: 1,
            subject: "data".into(),
            what: CANNOT_MAKE.into(),
            why: "no space left on device".into(),
        };
        world.reports.get_mut(&NodeId(2)).unwrap().happened.push(refusal);
        let why = suspended(&world, &volume, None, None).unwrap();
        assert_eq!(why, "b cannot make its copy: no space left on device");
    }
}
