//! What posture and what-if promise. The scenarios are also kept as JSON in `fixtures/`, for the tests of the console and
//! the command line.

use super::*;

fn node(name: &str, id: u32, role: Role) -> NodeView {
    NodeView {
        name: name.to_owned(),
        id,
        roles: vec![role],
        state: NodeState::Online,
        last_heard_ms: Some(if id == 1 { 0 } else { 60 }),
        relayed: false,
        version: Some("0.1.0".to_owned()),
        address: format!("10.0.0.1{id}"),
    }
}

fn replica(node: &str, state: ReplicaState) -> ReplicaView {
    ReplicaView {
        node: node.to_owned(),
        state,
        behind_bytes: Some(0),
        resync: None,
        last_heard_ms: Some(80),
        resynced: None,
    }
}

fn resource(name: &str, kind: &str, node: &str) -> ResourceView {
    ResourceView {
        name: name.to_owned(),
        kind: kind.to_owned(),
        state: RunState::Running,
        node: Some(node.to_owned()),
        last_result: Some("monitor ok".to_owned()),
        fail_count: 0,
    }
}

/// Two data nodes, a witness, a database on a mirrored volume; all well.
fn healthy() -> Facts {
    let voters = [("a", 1), ("b", 2), ("c", 3)].map(|(name, id)| VoterView {
        node: name.to_owned(),
        present: true,
        id,
        state: VoterState::Votes,
        why: None,
    });
    Facts {
        site: "prod".to_owned(),
        this_node: "a".to_owned(),
        at: "2026-03-02T09:30:00Z".to_owned(),
        quorum: Quorum {
            have: true,
            votes_present: 3,
            votes_needed: 2,
            voters: voters.to_vec(),
            leader: Some("a".to_owned()),
            ledger_age_ms: 40,
            stale: false,
        },
        nodes: vec![node("a", 1, Role::Data), node("b", 2, Role::Data), node("c", 3, Role::Witness)],
        volumes: vec![VolumeView {
            name: "data".to_owned(),
            size_bytes: 100 << 30,
            mount: Some("/srv/data".to_owned()),
            generation: 7,
            primary: Some("a".to_owned()),
            in_sync: vec!["a".to_owned(), "b".to_owned()],
            device: Some("/dev/anshin/data".to_owned()),
            replicas: vec![replica("a", ReplicaState::Primary), replica("b", ReplicaState::InSync)],
            suspended: None,
        }],
        backups: BackupFacts::default(),
        services: vec![ServiceView {
            name: "postgresql".to_owned(),
            state: RunState::Running,
            node: Some("a".to_owned()),
            since: Some("2026-03-01T22:04:11Z".to_owned()),
            address: Some("10.0.0.50/24".to_owned()),
            volumes: vec!["data".to_owned()],
            resources: vec![
                resource("data", "volume", "a"),
                resource("/srv/data", "ocf:heartbeat:Filesystem", "a"),
                resource("10.0.0.50/24", "address", "a"),
                resource("postgresql@15-main.service", "systemd", "a"),
            ],
            why: "a holds the primary copy of data".to_owned(),
            barred: BTreeMap::new(),
        }],
        recent: vec![Happening {
            at: "2026-03-01T22:04:11Z".to_owned(),
            node: Some("a".to_owned()),
            what: "postgresql started".to_owned(),
            why: "it was just protected, and a is the first of two equal nodes".to_owned(),
        }],
        passages: Vec::new(),
        times: Times {
            heartbeat_ms: 100,
            silence_ms: 1_000,
            lease_ms: 900,
            drift_permille: 20,
            address_left_ms: 3_000,
        },
        machine_fencing: false,
    }
}

fn lose_node(facts: &mut Facts, at: usize, ago_ms: u64) {
    facts.nodes[at].state = NodeState::Offline;
    facts.nodes[at].last_heard_ms = Some(ago_ms);
    facts.quorum.voters[at].present = false;
    facts.quorum.voters[at].state = VoterState::Silent;
    facts.quorum.votes_present -= 1;
}

/// Node a died; its service goes on on b.
fn node_dead() -> Facts {
    let mut facts = healthy();
    facts.this_node = "b".to_owned();
    facts.quorum.leader = Some("b".to_owned());
    facts.nodes[1].last_heard_ms = Some(0);
    lose_node(&mut facts, 0, 95_000);
    let volume = &mut facts.volumes[0];
    volume.generation = 9;
    volume.primary = Some("b".to_owned());
    volume.in_sync = vec!["b".to_owned()];
    volume.replicas[0] = ReplicaView {
        behind_bytes: Some(3 << 20),
        last_heard_ms: Some(95_000),
        ..replica("a", ReplicaState::Unknown)
    };
    volume.replicas[1].state = ReplicaState::Primary;
    let service = &mut facts.services[0];
    service.node = Some("b".to_owned());
    service.since = Some("2026-03-02T09:28:27Z".to_owned());
    service.resources.iter_mut().for_each(|resource| resource.node = Some("b".to_owned()));
    service.why = "a does not answer, and b held every acknowledged write of data".to_owned();
    facts.recent.insert(
        0,
        Happening {
            at: "2026-03-02T09:28:27Z".to_owned(),
            node: Some("b".to_owned()),
            what: "postgresql moved from a to b".to_owned(),
            why: "a was silent for 1.0 s, and b held every acknowledged write of data".to_owned(),
        },
    );
    facts
}

fn witness_dead() -> Facts {
    let mut facts = healthy();
    lose_node(&mut facts, 2, 310_000);
    facts
}

/// Node a is back and is being brought up to date.
fn resyncing() -> Facts {
    let mut facts = node_dead();
    facts.nodes[0].state = NodeState::Online;
    facts.nodes[0].last_heard_ms = Some(70);
    facts.quorum.voters[0].present = true;
    facts.quorum.votes_present = 3;
    facts.volumes[0].replicas[0] = ReplicaView {
        behind_bytes: Some(2 << 20),
        resync: Some(Resync {
            done_bytes: 1 << 20,
            total_bytes: 3 << 20,
            bytes_per_s: 512 << 10,
            seconds_left: Some(4),
        }),
        resynced: Some(Resynced {
            count: 2,
            compared_bytes: 12 << 20,
            sent_bytes: 5 << 20,
            last_compared_bytes: 8 << 20,
            last_sent_bytes: 1 << 20,
        }),
        ..replica("a", ReplicaState::Resyncing)
    };
    facts
}

/// b and c died at once: the primary may not go on alone.
fn suspended() -> Facts {
    let mut facts = healthy();
    lose_node(&mut facts, 1, 12_000);
    lose_node(&mut facts, 2, 12_000);
    facts.quorum = Quorum { have: false, leader: None, ledger_age_ms: 12_000, stale: true, ..facts.quorum };
    facts.volumes[0].replicas[1] = ReplicaView {
        behind_bytes: None,
        last_heard_ms: Some(12_000),
        ..replica("b", ReplicaState::Unknown)
    };
    facts.volumes[0].suspended =
        Some("b does not answer and without quorum it cannot be taken out; bring back b or c".to_owned());
    facts.services[0].state = RunState::Failed;
    facts.services[0].why = "its volume data waits; bring back b or c".to_owned();
    facts
}

/// Node b, cut off from both others, which go on without it.
fn no_quorum() -> Facts {
    let mut facts = healthy();
    facts.this_node = "b".to_owned();
    facts.nodes[1].last_heard_ms = Some(0);
    lose_node(&mut facts, 0, 48_000);
    lose_node(&mut facts, 2, 48_000);
    facts.quorum = Quorum { have: false, leader: None, ledger_age_ms: 48_000, stale: true, ..facts.quorum };
    facts.volumes[0].device = None;
    facts.volumes[0].replicas[0].last_heard_ms = Some(48_000);
    facts.volumes[0].replicas[0].behind_bytes = None;
    facts.volumes[0].replicas[1] = ReplicaView { behind_bytes: None, ..replica("b", ReplicaState::Unknown) };
    facts
}

fn scenarios() -> [(&'static str, Facts); 6] {
    [
        ("healthy", healthy()),
        ("node-dead", node_dead()),
        ("witness-dead", witness_dead()),
        ("resyncing", resyncing()),
        ("suspended", suspended()),
        ("no-quorum", no_quorum()),
    ]
}

#[test]
fn the_scenarios_are_kept_as_json_in_the_form_of_the_api() {
    for (name, facts) in scenarios() {
        let path = format!("{}/fixtures/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let text = serde_json::to_string_pretty(&facts).unwrap() + "\n";
        if std::env::var_os("ANSHIN_REGENERATE").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == text, "{path} is out of date: run this test with ANSHIN_REGENERATE=1");
        assert_eq!(serde_json::from_str::<Facts>(&kept).unwrap(), facts);
    }
}

#[test]
fn a_status_survives_json() {
    let status = SiteStatus::from_facts(resyncing());
    let text = serde_json::to_string(&status).unwrap();
    assert_eq!(serde_json::from_str::<SiteStatus>(&text).unwrap(), status);
}

fn outcome(facts: &Facts, dead: &str) -> (Level, String) {
    let events = what_if(facts);
    let event = events.iter().find(|event| event.event == format!("node {dead} dies")).unwrap();
    (event.level, event.outcome.clone())
}

#[test]
fn a_healthy_site_is_green_and_says_that_any_server_may_die() {
    let posture = posture(&healthy());
    assert_eq!(posture.level, Level::Green);
    assert_eq!(posture.sentence, "postgresql is protected: any one server may die now.");
    assert!(posture.lines.iter().all(|line| line.level == Level::Green));
    assert_eq!(outcome(&healthy(), "a"), (Level::Green, "postgresql moves to b".to_owned()));
    assert_eq!(outcome(&healthy(), "b"), (Level::Green, "everything goes on".to_owned()));
    assert_eq!(outcome(&healthy(), "c"), (Level::Green, "everything goes on".to_owned()));
}

#[test]
fn after_the_death_of_a_data_node_the_next_failure_is_named() {
    let posture = posture(&node_dead());
    assert_eq!(posture.level, Level::Amber);
    assert_eq!(
        posture.sentence,
        "Everything runs, but the next failure can stop it: node a does not answer."
    );
    let (level, text) = outcome(&node_dead(), "b");
    assert_eq!(level, Level::Red, "the only current copy is there");
    assert!(text.contains("no other copy of data is known to be current"), "{text}");
    assert!(what_if(&node_dead()).iter().all(|event| event.event != "node a dies"), "it is dead already");
}

#[test]
fn a_primary_alone_goes_on_without_quorum_because_no_member_is_left_to_lose() {
    let (level, text) = outcome(&node_dead(), "c");
    assert_eq!(level, Level::Amber);
    assert_eq!(text, "everything goes on; nothing can be decided until a voter returns");
}

#[test]
fn without_the_witness_everything_runs_but_the_next_failure_stops_it() {
    let posture = posture(&witness_dead());
    assert_eq!(posture.level, Level::Amber);
    assert_eq!(
        posture.sentence,
        "Everything runs, but the next failure can stop it: node c does not answer."
    );
    assert_eq!(outcome(&witness_dead(), "a").0, Level::Amber);
    let (level, text) = outcome(&witness_dead(), "b");
    assert_eq!(level, Level::Amber);
    assert!(text.starts_with("postgresql stops: without quorum a cannot go on alone"), "{text}");
}

#[test]
fn a_resync_is_amber_and_says_how_far_behind_the_copy_is() {
    let posture = posture(&resyncing());
    assert_eq!(posture.level, Level::Amber);
    assert!(posture.sentence.contains("the copy on a is being brought up to date, at most 2 MiB behind"));
}

#[test]
fn suspended_writes_are_red_and_say_what_to_do() {
    let posture = posture(&suspended());
    assert_eq!(posture.level, Level::Red);
    let expected = "postgresql failed on a: its volume data waits; bring back b or c (and 1 more below).";
    assert_eq!(posture.sentence, expected);
}

#[test]
fn without_quorum_nothing_is_claimed_and_the_age_is_told() {
    let posture = posture(&no_quorum());
    assert_eq!(posture.level, Level::Unknown);
    assert_eq!(
        posture.sentence,
        "This node has no quorum (1 of 2 votes): what it knows of the site is 48 s old."
    );
    assert!(what_if(&no_quorum()).iter().all(|event| event.level == Level::Unknown));
}

#[test]
fn a_site_that_protects_nothing_says_so() {
    let posture = posture(&Facts { volumes: vec![], services: vec![], ..healthy() });
    assert_eq!((posture.level, posture.sentence.as_str()), (Level::Amber, "Nothing is protected yet."));
}

#[test]
fn no_facts_at_all_are_never_green() {
    assert_eq!(posture(&Facts::default()).level, Level::Unknown);
}

/// Every way in which one fact can take the green away, each alone.
#[test]
fn every_single_doubt_takes_the_green_away() {
    type Doubt = (&'static str, fn(&mut Facts));
    let doubts: &[Doubt] = &[
        ("no quorum", |f| f.quorum.have = false),
        ("stale ledger", |f| f.quorum.stale = true),
        ("too few votes", |f| f.quorum.votes_present = 1),
        ("votes counted and voters listed disagree", |f| f.quorum.votes_present = 2),
        ("a voter is absent", |f| f.quorum.voters[2].present = false),
        ("b is offline", |f| f.nodes[1].state = NodeState::Offline),
        ("b is on standby", |f| f.nodes[1].state = NodeState::Standby),
        ("b is in maintenance", |f| f.nodes[1].state = NodeState::Maintenance),
        ("a is in maintenance", |f| f.nodes[0].state = NodeState::Maintenance),
        ("b was not heard", |f| f.nodes[1].last_heard_ms = Some(HEARD_MS_MAX + 1)),
        ("b was never heard", |f| f.nodes[1].last_heard_ms = None),
        ("the witness was not heard", |f| f.nodes[2].last_heard_ms = Some(HEARD_MS_MAX + 1)),
        ("the witness is offline", |f| f.nodes[2].state = NodeState::Offline),
        ("b is relayed", |f| f.nodes[1].relayed = true),
        ("b left the site", |f| drop(f.nodes.remove(1))),
        ("b is no data node", |f| f.nodes[1].roles = vec![Role::Witness]),
        ("no primary", |f| f.volumes[0].primary = None),
        ("suspended", |f| f.volumes[0].suspended = Some("x".to_owned())),
        ("the set has only a", |f| f.volumes[0].in_sync = vec!["a".to_owned()]),
        ("the set has only b", |f| f.volumes[0].in_sync = vec!["b".to_owned()]),
        ("the set has one more", |f| f.volumes[0].in_sync.push("d".to_owned())),
        ("one copy", |f| drop(f.volumes[0].replicas.pop())),
        ("no copy", |f| f.volumes[0].replicas.clear()),
        ("the primary's copy was not heard", |f| {
            f.volumes[0].replicas[0].last_heard_ms = Some(HEARD_MS_MAX + 1)
        }),
        ("the primary's copy is not primary", |f| f.volumes[0].replicas[0].state = ReplicaState::InSync),
        ("two primaries", |f| f.volumes[0].replicas[1].state = ReplicaState::Primary),
        ("the service is elsewhere", |f| f.services[0].node = Some("b".to_owned())),
        ("the service is nowhere", |f| f.services[0].node = None),
        ("b could not start it", |f| drop(f.services[0].barred.insert("b".to_owned(), "x".to_owned()))),
        ("a part failed", |f| f.services[0].resources[3].state = RunState::Failed),
        ("a part is unknown", |f| f.services[0].resources[0].state = RunState::Unknown),
        ("its volume is not known", |f| f.services[0].volumes.push("gone".to_owned())),
    ];
    for (name, doubt) in doubts {
        let mut facts = healthy();
        doubt(&mut facts);
        let posture = posture(&facts);
        assert_ne!(posture.level, Level::Green, "{name}: {}", posture.sentence);
        assert!(posture.sentence.len() > 10, "{name}: {}", posture.sentence);
    }
}

const REPLICA_STATES: [ReplicaState; 7] = [
    ReplicaState::Primary,
    ReplicaState::InSync,
    ReplicaState::Resyncing,
    ReplicaState::Behind,
    ReplicaState::Unknown,
    ReplicaState::OldImage,
    ReplicaState::Failed,
];
const NODE_STATES: [NodeState; 4] =
    [NodeState::Online, NodeState::Offline, NodeState::Standby, NodeState::Maintenance];

/// All combinations of what can be known of the second copy, its node and the votes: green exactly for the one in
/// which all is known to be well.
#[test]
fn green_is_said_of_exactly_the_state_in_which_all_is_well() {
    let mut seen = 0;
    let base = healthy();
    for state in REPLICA_STATES {
        for behind in [None, Some(0), Some(1)] {
            for heard in [None, Some(0), Some(HEARD_MS_MAX + 1)] {
                for member in [true, false] {
                    for node_state in NODE_STATES {
                        for votes in [3, 2, 1] {
                            for stale in [true, false] {
                                let mut facts = base.clone();
                                facts.volumes[0].replicas[1] = ReplicaView {
                                    node: "b".to_owned(),
                                    state,
                                    behind_bytes: behind,
                                    resync: None,
                                    resynced: None,
                                    last_heard_ms: heard,
                                };
                                facts.volumes[0].in_sync.truncate(if member { 2 } else { 1 });
                                facts.nodes[1].state = node_state;
                                facts.quorum.votes_present = votes;
                                facts.quorum.voters[2].present = votes == 3;
                                facts.quorum.voters[1].present = votes >= 2;
                                facts.quorum.stale = stale;
                                let current = state == ReplicaState::InSync
                                    && behind == Some(0)
                                    && heard == Some(0)
                                    && member;
                                let well = current && node_state == NodeState::Online && votes == 3 && !stale;
                                let status = SiteStatus::from_facts(facts);
                                assert_eq!(status.posture.level == Level::Green, well, "{:?}", status.facts);
                                let may_lose_a = outcome(&status.facts, "a").0;
                                assert_eq!(may_lose_a == Level::Green, well, "{:?}", status.facts);
                                if !current && votes >= 2 && !stale {
                                    assert_eq!(may_lose_a, Level::Red, "a holds the only current copy");
                                }
                                seen += 1;
                            }
                        }
                    }
                }
            }
        }
    }
    assert_eq!(seen, 7 * 3 * 3 * 2 * 4 * 3 * 2);
}

#[test]
fn a_service_that_does_not_run_is_never_green_and_broken_unless_requested() {
    let expected = [
        (RunState::Running, Level::Green),
        (RunState::Starting, Level::Red),
        (RunState::Stopping, Level::Red),
        (RunState::Stopped, Level::Amber),
        (RunState::Failed, Level::Red),
        (RunState::Blocked, Level::Red),
        (RunState::Unknown, Level::Unknown),
    ];
    for (state, level) in expected {
        let mut facts = healthy();
        facts.services[0].state = state;
        assert_eq!(posture(&facts).level, level, "{state:?}");
    }
}

#[test]
fn a_service_without_volumes_moves_to_any_node_that_may_run_it() {
    let mut facts = healthy();
    facts.services[0].volumes.clear();
    facts.volumes.clear();
    assert_eq!(outcome(&facts, "a"), (Level::Green, "postgresql moves to b".to_owned()));
    facts.nodes[1].state = NodeState::Standby;
    assert_eq!(outcome(&facts, "a").0, Level::Amber);
    assert_eq!(posture(&facts).level, Level::Amber);
}

#[test]
fn a_volume_without_a_service_is_judged_by_itself() {
    let mut facts = healthy();
    facts.services.clear();
    assert_eq!(posture(&facts).sentence, "All volumes are protected: any one server may die now.");
    assert_eq!(outcome(&facts, "a"), (Level::Green, "volume data moves to b".to_owned()));
}

#[test]
fn three_data_nodes_stay_green_while_one_of_them_is_on_standby() {
    let mut facts = healthy();
    facts.nodes[2].roles = vec![Role::Data];
    facts.volumes[0].in_sync.push("c".to_owned());
    facts.volumes[0].replicas.push(replica("c", ReplicaState::InSync));
    facts.nodes[1].state = NodeState::Standby;
    assert_eq!(posture(&facts).level, Level::Green);
    assert_eq!(outcome(&facts, "a"), (Level::Green, "postgresql moves to c".to_owned()));
}

#[test]
fn i11_a_green_site_without_machine_fencing_says_what_a_paused_server_may_do_and_for_how_long() {
    let mut facts = healthy();
    let status = SiteStatus::from_facts(facts.clone());
    assert_eq!(status.posture.level, Level::Green);
    let about_fencing = |facts: &Facts| -> Vec<Limit> {
        limits(facts).into_iter().filter(|limit| limit.subject == FENCING).collect()
    };
    let [limit] = &about_fencing(&facts)[..] else { panic!("{:?}", status.limits) };
    assert_eq!((limit.subject.as_str(), limit.bound_ms), (FENCING, Some(3_000)));
    assert!(limit.sentence.contains("up to 3 s") && limit.sentence.contains("cannot write"), "{limit:?}");
    facts.times.lease_ms = 8_000;
    assert_eq!(
        about_fencing(&facts)[0].bound_ms,
        Some(8_000),
        "a paused virtual machine wakes with its lease"
    );
    facts.machine_fencing = true;
    assert_eq!(about_fencing(&facts), []);
}

#[test]
fn i11_a_site_without_addresses_has_nothing_that_a_paused_server_could_hold() {
    let mut facts = healthy();
    facts.services[0].address = None;
    assert!(limits(&facts).iter().all(|limit| limit.subject != FENCING));
}

#[test]
fn r8_a_voter_that_is_being_replaced_is_not_counted_and_said_so() {
    let mut facts = healthy();
    let voter = &mut facts.quorum.voters[1];
    (voter.present, voter.state) = (false, VoterState::Rejoining);
    voter.why = Some("voter 1 says that this voter confirmed more than it holds".to_owned());
    facts.quorum.votes_present = 2;
    let posture = posture(&facts);
    assert_eq!(posture.level, Level::Amber);
    let line = posture.lines.iter().find(|line| line.subject == "ledger").unwrap();
    assert!(line.sentence.contains("the voter of b is being replaced"), "{line:?}");
    assert!(line.sentence.contains("next failure"), "two of three are left: {line:?}");
}
