use super::{codec::Proposal, *};
use anshin_base::{
    ByteSize, ChangeRefused, Generation, GroupChange, GroupId, LedgerIndex, Member, Millis, NodeId,
    ReplicaId, SessionId, VoterId,
};
use anshin_director::{
    Attempt, RunId, UnixMillis,
    plan::Locus,
    record::{self, Cause, Change, NewRun, VaultRecord},
};
use proptest::prelude::*;
use std::collections::BTreeMap;

const G: GroupId = GroupId(7);

fn new_node(name: &str, witness: bool) -> NewNode {
    NewNode {
        name: name.into(),
        addresses: vec!["192.0.2.1".into(), "2001:db8::1".into()],
        ports: Ports::default(),
        roles: Roles { data: !witness, witness, vault: false },
        fingerprint: "00ff".into(),
    }
}

fn token(hash: &str) -> JoinToken {
    let roles = Roles { data: true, witness: true, vault: false };
    JoinToken { hash: hash.into(), roles, expires: UnixSeconds(100), used_by: None }
}

fn volume() -> Volume {
    let replica =
        Replica { replica: Some(ReplicaId(1)), port: 7810, path: "/var/lib/anshin/volumes/data".into() };
    Volume {
        name: "data".into(),
        group: G,
        size: ByteSize(1 << 30),
        file_system: Some("ext4".into()),
        mount: Some("/srv/data".into()),
        replicas: BTreeMap::from([(NodeId(1), replica)]),
    }
}

fn member(replica: u64, session: u64) -> Member {
    Member { replica: ReplicaId(replica), session: SessionId(session) }
}

fn service() -> Service {
    Service {
        name: "db".into(),
        volume: Some("data".into()),
        mount: Some("/srv/data".into()),
        addresses: vec!["10.0.0.50/24".into()],
        resources: vec![Resource {
            name: "postgresql".into(),
            kind: ResourceKind::Systemd { unit: "postgresql@15-main.service".into() },
            parameters: BTreeMap::from([("a".into(), "b".into())]),
            operations: vec![Operation {
                name: "start".into(),
                timeout: Millis(60_000),
                interval: Millis(0),
            }],
        }],
        target: ServiceTarget::Started,
        preferred: Some(NodeId(1)),
        failures_max: 3,
        failures_expire: Millis(600_000),
        stickiness: 100,
    }
}

/// One of each kind of thing.
fn commands() -> Vec<Command> {
    // Not the default ones: those may change, the format may not.
    let timing = Timing { drift_permille: 20, ..Timing::default() };
    let site = Site { name: "prod".into(), id: 5, ca_certificate: "PEM".into(), timing };
    let decision = Decision {
        at: UnixSeconds(9),
        by: "ledger".into(),
        subject: "volume/data".into(),
        what: "promoted".into(),
        reason: "its primary is silent".into(),
    };
    let fence = FenceRecord {
        node: NodeId(2),
        at: UnixSeconds(8),
        proof: FenceProof::LeaseBound,
        reason: "silent for 1,000 ms".into(),
    };
    vec![
        Command::InitSite(site),
        Command::FirstNode(new_node("a", false)),
        Command::AddToken(token("t")),
        Command::Join { token: "t".into(), at: UnixSeconds(50), node: new_node("b", true) },
        Command::CreateVolume(volume()),
        Command::Group(GroupChange::Create { group: G, first: member(1, 11) }),
        Command::Group(GroupChange::Promote { group: G, expect: Generation(1), candidate: member(1, 11) }),
        Command::SetService(service()),
        Command::SetNodeAttribute { node: NodeId(1), name: "rack".into(), value: Some("1".into()) },
        Command::SetNodeState { node: NodeId(2), state: NodeState::Maintenance },
        Command::Fenced(fence),
        Command::Decide(decision),
    ]
}

fn built() -> State {
    let mut state = State::default();
    for (index, command) in (2..).zip(commands()) {
        state.apply(LedgerIndex(index), &command).unwrap();
    }
    state
}

/// What version 2 added: a node that serves a vault, and a change of the director's records.
fn commands_since_2() -> Vec<Command> {
    let vault = JoinToken { roles: Roles::ALL, ..token("v") };
    let roles = Roles { data: false, witness: true, vault: true };
    let node = NewNode { roles, ports: Ports { vault: 9_000, ..Ports::default() }, ..new_node("c", true) };
    vec![
        Command::AddToken(vault),
        Command::Join { token: "v".into(), at: UnixSeconds(50), node },
        Command::Director(set_vault(3)),
        Command::Director(set_plan(0)),
        Command::Director(open()),
    ]
}

fn set_vault(node: u32) -> Change {
    let (name, id, url) = ("main".into(), "1".to_owned(), "/srv/vault".to_owned());
    Change::SetVault(VaultRecord { name, id, url, node: NodeId(node), concurrent: 0 })
}

fn set_plan(expect: u64) -> Change {
    let plan = anshin_director::plan::nightly(&"main".into(), "UTC");
    let text = plan.to_json();
    Change::SetPlan {
        plan: plan.name,
        text,
        vault: "main".into(),
        expect,
        at: UnixMillis(1_000),
        restart: true,
    }
}

fn open() -> Change {
    let run = NewRun {
        plan: "nightly".into(),
        target: "service/db".into(),
        locus: Locus::Service("db".into()),
        cause: Cause::Operator("root".into()),
        occurrence: None,
        due: UnixMillis(2_000),
    };
    Change::Open { run, expect: UnixMillis(0), passed: None, at: UnixMillis(2_000) }
}

fn built_since_2() -> State {
    let mut state = built();
    for (index, command) in (50..).zip(commands_since_2()) {
        state.apply(LedgerIndex(index), &command).unwrap();
    }
    state
}

fn encoded(commands: Vec<Command>) -> Vec<u8> {
    let mut all = Vec::new();
    for (request, command) in (1..).zip(commands) {
        let bytes = Proposal { incarnation: 3, request, command }.encode();
        all.extend((bytes.len() as u32).to_le_bytes());
        all.extend(bytes);
    }
    all
}

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)).unwrap()
}

#[test]
fn version_2_of_the_snapshot_has_these_bytes() {
    let bytes = built_since_2().encode();
    crate::golden::compare("state-v2.bin", &bytes);
    assert_eq!(State::decode(&bytes).unwrap(), built_since_2());
}

#[test]
fn version_2_of_the_commands_has_these_bytes() {
    let all: Vec<Command> = commands().into_iter().chain(commands_since_2()).collect();
    crate::golden::compare("commands-v2.bin", &encoded(all));
}

#[test]
fn a_snapshot_of_version_1_is_read() {
    assert_eq!(State::decode(&golden("state-v1.bin")).unwrap(), built());
}

#[test]
fn commands_of_version_1_are_read() {
    let bytes = golden("commands-v1.bin");
    let mut rest = &bytes[..];
    let mut found = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (body, after) = after.split_at(u32::from_le_bytes(*length) as usize);
        found.push(Proposal::decode(body).unwrap().command);
        rest = after;
    }
    assert_eq!(found, commands());
    let addresses = Command::SetNodeAddresses {
        node: NodeId(2),
        addresses: vec!["192.0.2.9".into()],
        ports: Ports { join: 1, voter: 2, ..Ports::default() },
    };
    // As version 1 wrote it: incarnation, request, number of the command, fields.
    let old =
        postcard::to_stdvec(&(3u64, 4u64, 9u32, NodeId(2), ["192.0.2.9"].as_slice(), (1u16, 2u16))).unwrap();
    let read = Proposal::decode(&[&[1, 0], &old[..]].concat()).unwrap();
    assert_eq!((read.incarnation, read.request, read.command), (3, 4, addresses));
}

#[test]
fn the_director_answers_and_refuses_as_its_records_do() {
    let mut state = built_since_2();
    let opened = state.apply(LedgerIndex(80), &Command::Director(open()));
    assert_eq!(opened, Ok(Applied::Director(record::Applied::Run(RunId(2)))));
    let before = state.clone();
    let stale = state.apply(LedgerIndex(81), &Command::Director(set_plan(0)));
    assert!(matches!(stale, Err(Refused::Director(record::Refused::Stale(_)))), "{stale:?}");
    assert_eq!(state, before);
}

#[test]
fn a_node_whose_vault_is_registered_cannot_be_removed() {
    let mut state = built_since_2();
    let remove = Command::RemoveNode { node: NodeId(3) };
    let refused = state.apply(LedgerIndex(80), &remove);
    assert!(matches!(&refused, Err(Refused::InUse { by, .. }) if by == "vault main"), "{refused:?}");
    state.apply(LedgerIndex(81), &Command::Director(set_vault(1))).unwrap();
    state.apply(LedgerIndex(82), &remove).unwrap();
}

/// The whole state must fit into three quarters of an area of 16 MiB, whatever is proposed: otherwise every voter ends.
#[test]
fn the_directors_records_never_outgrow_the_ledger() {
    let mut state = built_since_2();
    let long = "x".repeat(record::TARGET_BYTES_MAX);
    let mut full = None;
    for n in 0..30_000u64 {
        let Change::Open { mut run, expect, passed, at } = open() else { panic!() };
        run.target = format!("{}{n:08}", &long[8..]).as_str().into();
        run.cause = Cause::Operator("y".repeat(10_000));
        let change = Change::Open { run, expect, passed, at };
        if let Err(refused) = state.apply(LedgerIndex(100 + n), &Command::Director(change)) {
            full = Some(refused);
            break;
        }
    }
    assert!(matches!(full, Some(Refused::Full(_))), "{full:?}");
    // Every run that was let in ends as badly as it can.
    let runs: Vec<RunId> = state.director.records().runs.keys().copied().collect();
    assert!(runs.len() > 1_000, "{}", runs.len());
    for run in runs {
        let (attempt, place, at) = (Attempt(0), record::Place::Node(NodeId(1)), UnixMillis(3_000));
        let begin = Change::Begin { run, expect: attempt, place, session: 1, at };
        let reason = "z".repeat(10_000);
        let fail = Change::Fail { run, attempt: attempt.next(), reason, at, retry: None };
        for change in [begin, fail] {
            state.apply(LedgerIndex(99_999), &Command::Director(change)).unwrap();
        }
    }
    assert!(state.encode().len() < 12 << 20, "{} bytes", state.encode().len());
    // What was remembered still counts, and what was removed makes room.
    let remove = Change::RemovePlan { plan: "nightly".into(), by: "root".into(), at: UnixMillis(4_000) };
    state.apply(LedgerIndex(100_000), &Command::Director(remove)).unwrap();
    state.apply(LedgerIndex(100_001), &Command::Director(set_plan(0))).unwrap();
    state.apply(LedgerIndex(100_002), &Command::Director(open())).unwrap();
}

#[test]
fn a_newer_version_is_named_and_not_guessed() {
    let mut bytes = built().encode();
    bytes[0] = 3;
    assert_eq!(State::decode(&bytes), Err(codec::CodecError::Version(3)));
}

#[test]
fn a_token_is_used_by_one_node_only() {
    let mut state = built();
    let again = Command::Join { token: "t".into(), at: UnixSeconds(50), node: new_node("c", false) };
    assert_eq!(state.apply(LedgerIndex(99), &again), Err(Refused::TokenUsed));
    assert_eq!(state.tokens["t"].used_by, Some(NodeId(2)));
}

#[test]
fn an_expired_token_and_a_wrong_role_are_refused() {
    let mut state = State::default();
    state.apply(LedgerIndex(2), &Command::AddToken(token("t"))).unwrap();
    let late = Command::Join { token: "t".into(), at: UnixSeconds(101), node: new_node("c", false) };
    assert_eq!(state.apply(LedgerIndex(3), &late), Err(Refused::TokenExpired));
    let witness_only = JoinToken { roles: Roles { witness: true, ..Roles::default() }, ..token("w") };
    state.apply(LedgerIndex(4), &Command::AddToken(witness_only)).unwrap();
    let wrong = Command::Join { token: "w".into(), at: UnixSeconds(1), node: new_node("c", false) };
    assert_eq!(state.apply(LedgerIndex(5), &wrong), Err(Refused::TokenRoles));
    assert!(state.nodes.is_empty());
}

#[test]
fn ids_are_never_given_twice() {
    let mut state = built();
    state.apply(LedgerIndex(50), &Command::RemoveNode { node: NodeId(2) }).unwrap();
    state.apply(LedgerIndex(51), &Command::AddToken(token("u"))).unwrap();
    let join = Command::Join { token: "u".into(), at: UnixSeconds(1), node: new_node("b", true) };
    let added = state.apply(LedgerIndex(52), &join);
    assert_eq!(added, Ok(Applied::Node { node: NodeId(3), voter: VoterId(3) }));
    let renew = Command::NewVoter { node: NodeId(3), old: VoterId(3) };
    assert_eq!(state.apply(LedgerIndex(53), &renew), Ok(Applied::Voter(VoterId(4))));
    assert_eq!(state.apply(LedgerIndex(54), &renew), Err(Refused::VoterReplaced));
}

#[test]
fn a_group_changes_only_at_its_exact_generation() {
    let mut state = built();
    let promote = |expect| {
        Command::Group(GroupChange::Promote {
            group: G,
            expect: Generation(expect),
            candidate: member(1, 12),
        })
    };
    let before = state.clone();
    assert_eq!(
        state.apply(LedgerIndex(60), &promote(1)),
        Err(Refused::Group(ChangeRefused::Generation { expected: Generation(1), current: Generation(2) }))
    );
    assert_eq!(state, before);
    state.apply(LedgerIndex(61), &promote(2)).unwrap();
    assert_eq!(state.groups[&G].index, LedgerIndex(61));
    // Of two equal changes that raced, the second finds a newer generation.
    assert!(state.apply(LedgerIndex(62), &promote(2)).is_err());
}

#[test]
fn what_others_rest_on_cannot_be_removed() {
    let mut state = built();
    let in_use = |result| matches!(result, Err(Refused::InUse { .. }));
    assert!(in_use(state.apply(LedgerIndex(70), &Command::RemoveVolume { volume: "data".into() })));
    assert!(in_use(state.apply(LedgerIndex(71), &Command::RemoveNode { node: NodeId(1) })));
    let replica = Command::RemoveReplica { volume: "data".into(), node: NodeId(1) };
    assert!(in_use(state.apply(LedgerIndex(72), &replica)));
}

#[test]
fn the_history_is_bounded() {
    let mut state = built();
    let Some(Command::Decide(decision)) = commands().pop() else { panic!() };
    for index in 0..DECISIONS_MAX as u64 + 10 {
        let decision = Decision { at: UnixSeconds(index), ..decision.clone() };
        state.apply(LedgerIndex(100 + index), &Command::Decide(decision)).unwrap();
    }
    assert_eq!(state.decisions.len(), DECISIONS_MAX);
    assert_eq!(state.decisions[0].at, UnixSeconds(10));
}

#[test]
fn places_name_every_address_with_the_replicas_port() {
    let places = built().places(G);
    assert_eq!(places[0].addresses, ["192.0.2.1:7810", "[2001:db8::1]:7810"]);
}

proptest! {
    #[test]
    fn decoding_never_panics(bytes: Vec<u8>) {
        let _ = State::decode(&bytes);
        let _ = Proposal::decode(&bytes);
        let _ = crate::Envelope::decode(&bytes);
        let _ = crate::Sign::decode(&bytes);
    }

    #[test]
    fn a_changed_byte_never_panics(at: usize, flip in 1u8..) {
        let mut bytes = built().encode();
        let at = at % bytes.len();
        bytes[at] ^= flip;
        let _ = State::decode(&bytes);
    }
}

#[test]
fn r11_the_lease_is_fixed_once_there_is_a_volume_and_silence_is_not() {
    let mut state = built();
    let timing = state.site.as_ref().unwrap().timing.clone();
    let longer = Timing { silent: Millis(5_000), heartbeat: Millis(50), ..timing.clone() };
    state.apply(LedgerIndex(90), &Command::SetTiming(longer.clone())).unwrap();
    assert_eq!(state.site.as_ref().unwrap().timing, longer);
    for unsafe_now in
        [Timing { lease: Millis(2_000), ..timing.clone() }, Timing { drift_permille: 30, ..timing }]
    {
        let refused = state.apply(LedgerIndex(91), &Command::SetTiming(unsafe_now));
        assert!(matches!(refused, Err(Refused::InUse { .. })), "{refused:?}");
        assert_eq!(state.site.as_ref().unwrap().timing, longer);
    }
}
