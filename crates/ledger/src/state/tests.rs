use super::{codec::Proposal, *};
use anshin_base::{
    ByteSize, ChangeRefused, Generation, GroupChange, GroupId, LedgerIndex, Member, Millis, NodeId,
    ReplicaId, SessionId, VoterId,
};
use proptest::prelude::*;
use std::collections::BTreeMap;

const G: GroupId = GroupId(7);

fn new_node(name: &str, witness: bool) -> NewNode {
    NewNode {
        name: name.into(),
        addresses: vec!["192.0.2.1".into(), "2001:db8::1".into()],
        ports: Ports::default(),
        roles: Roles { data: !witness, witness },
        fingerprint: "00ff".into(),
    }
}

fn token(hash: &str) -> JoinToken {
    let roles = Roles { data: true, witness: true };
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

#[test]
fn version_1_of_the_snapshot_has_these_bytes() {
    let bytes = built().encode();
    crate::golden::compare("state-v1.bin", &bytes);
    assert_eq!(State::decode(&bytes).unwrap(), built());
}

#[test]
fn version_1_of_the_commands_has_these_bytes() {
    let mut all = Vec::new();
    for (request, command) in (1..).zip(commands()) {
        let bytes = Proposal { incarnation: 3, request, command }.encode();
        all.extend((bytes.len() as u32).to_le_bytes());
        all.extend(bytes);
    }
    crate::golden::compare("commands-v1.bin", &all);
}

#[test]
fn a_newer_version_is_named_and_not_guessed() {
    let mut bytes = built().encode();
    bytes[0] = 2;
    assert_eq!(State::decode(&bytes), Err(codec::CodecError::Version(2)));
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
    let witness_only = JoinToken { roles: Roles { data: false, witness: true }, ..token("w") };
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
    let mut place = state.volumes["data"].replicas[&NodeId(1)].clone();
    place.port += 1;
    let set = |place: &Replica| Command::SetReplica {
        volume: "data".into(),
        node: NodeId(1),
        replica: place.clone(),
    };
    state.apply(LedgerIndex(73), &set(&place)).unwrap();
    let before = state.clone();
    for other in [None, Some(ReplicaId(4_711))] {
        place.replica = other;
        assert!(in_use(state.apply(LedgerIndex(74), &set(&place))), "replaced is removed");
        assert_eq!(state, before);
    }
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
