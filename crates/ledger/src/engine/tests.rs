use super::*;
use crate::state::State;
use crate::{
    log::{Area, DiskOp, Identity, recover},
    state::{Applied, Command, Site},
};
use anshin_base::{GroupId, LedgerEpoch, LedgerIndex, Millis, Mono, NodeId, ReplicaId, SessionId, VoterId};
use message::{LogEntry, Members, Payload, RaftMessage};

const AREA: u64 = 128 << 10;
const EPOCH: LedgerEpoch = LedgerEpoch(1);

mod stall;

/// A voter with its disk; every batch is carried out at once, unless the disk hangs.
struct Voter {
    engine: Engine,
    disk: [Vec<u8>; 2],
    out: Vec<Output>,
    hangs: bool,
    /// The batch that the hanging disk has not answered.
    unanswered: Option<u64>,
}

impl Voter {
    fn new(voter: u64, found: bool) -> Self {
        let identity = Identity { site: 1, node: NodeId(voter as u32), voter: VoterId(voter), epoch: EPOCH };
        let ops = if found { Engine::found(identity, AREA) } else { Engine::join(identity, AREA) };
        let mut disk = [vec![0; AREA as usize], vec![0; AREA as usize]];
        write(&mut disk, &ops.unwrap());
        Self::start(voter, disk, voter * 100, Mono(0))
    }

    fn start(voter: u64, disk: [Vec<u8>; 2], incarnation: u64, now: Mono) -> Self {
        let settings = Settings::new(VoterId(voter), EPOCH, incarnation, false);
        let engine = Engine::open(now, settings, recover(&disk[0], &disk[1]).unwrap()).unwrap();
        Self { engine, disk, out: Vec::new(), hangs: false, unanswered: None }
    }

    /// Voters of one site, in this order.
    fn site(order: [u64; 3]) -> Vec<Self> {
        let members = Members { voters: vec![VoterId(1), VoterId(2), VoterId(3)], learners: Vec::new() };
        let found = |voter: u64| {
            let identity =
                Identity { site: 1, node: NodeId(voter as u32), voter: VoterId(voter), epoch: EPOCH };
            let ops = Engine::found_with(identity, members.clone(), &State::default(), AREA).unwrap();
            let mut disk = [vec![0; AREA as usize], vec![0; AREA as usize]];
            write(&mut disk, &ops);
            Self::start(voter, disk, voter * 100, Mono(0))
        };
        order.map(found).into()
    }

    fn set(&mut self, now: Mono, request: u64, name: &str) {
        let command = Command::InitSite(Site { name: name.into(), ..Site::default() });
        self.handle(now, Input::Propose { request, command });
    }

    fn handle(&mut self, now: Mono, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let mut out = Vec::new();
            self.engine.handle(now, input, &mut out);
            for output in out {
                if let Output::Disk(batch) = &output {
                    write(&mut self.disk, &batch.ops);
                    if self.hangs {
                        self.unanswered = Some(batch.batch);
                        continue;
                    }
                    inputs.push(Input::DiskDone { batch: batch.batch, durable: true });
                } else {
                    self.out.push(output);
                }
            }
        }
    }
}

fn write(disk: &mut [Vec<u8>; 2], ops: &[DiskOp]) {
    for op in ops {
        if let DiskOp::Write { area, offset, bytes } = op {
            let at = *offset as usize;
            disk[usize::from(*area == Area::B)][at..at + bytes.len()].copy_from_slice(bytes);
        }
    }
}

/// Lets time pass and carries messages until nothing moves.
fn pass(voters: &mut [Voter], now: &mut Mono, ms: u64) -> Vec<Output> {
    let mut seen = Vec::new();
    for _ in 0..ms / 50 {
        *now = now.after(Millis(50));
        for voter in &mut *voters {
            voter.handle(*now, Input::Tick);
        }
        for _ in 0..20 {
            let out: Vec<Output> =
                voters.iter_mut().flat_map(|voter| std::mem::take(&mut voter.out)).collect();
            for output in out {
                if let Output::Send(envelope) = output {
                    let to = voters.iter_mut().find(|voter| voter.engine.settings.voter == envelope.to);
                    if let Some(to) = to {
                        to.handle(*now, Input::Received(envelope));
                    }
                } else {
                    seen.push(output);
                }
            }
        }
    }
    seen
}

fn outcome(seen: &[Output], wanted: u64) -> Option<Outcome> {
    seen.iter().find_map(|output| match output {
        Output::Outcome { request, outcome } if *request == wanted => Some(outcome.clone()),
        _ => None,
    })
}

#[test]
fn a_new_site_begins_with_one_voter_and_others_learn_before_they_vote() {
    let mut now = Mono(0);
    let mut voters = vec![Voter::new(1, true)];
    pass(&mut voters, &mut now, 2_000);
    assert_eq!(voters[0].engine.role(), Role::Leader);
    let command = Command::InitSite(Site { name: "prod".into(), ..Site::default() });
    voters[0].handle(now, Input::Propose { request: 1, command });
    let seen = pass(&mut voters, &mut now, 200);
    assert_eq!(outcome(&seen, 1), Some(Outcome::Applied(Applied::Done)));

    voters.push(Voter::new(2, false));
    let change = MemberChange::AddLearner(VoterId(2));
    voters[0].handle(now, Input::ChangeMembers { request: 2, change });
    pass(&mut voters, &mut now, 2_000);
    assert_eq!(voters[0].engine.members().learners, [VoterId(2)]);
    assert_eq!(voters[1].engine.state(), voters[0].engine.state());
    assert_eq!(voters[0].engine.caught_up(), [VoterId(2)]);

    let change = MemberChange::Promote(VoterId(2));
    voters[0].handle(now, Input::ChangeMembers { request: 3, change });
    pass(&mut voters, &mut now, 1_000);
    assert_eq!(voters[1].engine.members().voters, [VoterId(1), VoterId(2)]);
}

#[test]
fn a_read_is_answered_after_everything_before_it() {
    let mut now = Mono(0);
    let mut voters = vec![Voter::new(1, true)];
    pass(&mut voters, &mut now, 2_000);
    voters[0].handle(now, Input::Read { request: 5 });
    let seen = pass(&mut voters, &mut now, 200);
    assert!(seen.contains(&Output::ReadReady { request: 5 }));
}

#[test]
fn other_epochs_are_refused_and_reported() {
    let mut voter = Voter::new(1, true);
    let envelope = |epoch| Envelope {
        epoch: LedgerEpoch(epoch),
        from: VoterId(2),
        to: VoterId(1),
        boot: Attest { incarnation: 7, term: 1, last: 1 },
        term: 1,
        body: Body::Raft(RaftMessage { kind: 8, term: 9, ..RaftMessage::default() }),
    };
    voter.handle(Mono(1), Input::Received(envelope(0)));
    let refused = |output: &Output| {
        matches!(output, Output::Send(Envelope { body: Body::Refused(Refusal::OldEpoch), .. }))
    };
    assert!(voter.out.iter().any(refused));
    voter.handle(Mono(2), Input::Received(envelope(2)));
    assert!(voter.out.contains(&Output::Event(Event::NewerEpoch { epoch: LedgerEpoch(2) })));
    assert_eq!(voter.engine.position().0, 1, "neither message reached the engine");
}

#[test]
fn an_expelled_voter_is_silent_also_after_its_next_start() {
    let mut voter = Voter::new(1, true);
    let body = Body::Refused(Refusal::Expelled { incarnation: 100 });
    let boot = Attest { incarnation: 7, term: 1, last: 1 };
    let envelope = Envelope { epoch: EPOCH, from: VoterId(2), to: VoterId(1), boot, term: 1, body };
    voter.handle(Mono(1), Input::Received(envelope));
    assert!(voter.out.iter().any(|output| matches!(output, Output::Event(Event::MustRejoin { .. }))));
    let recovered = recover(&voter.disk[0], &voter.disk[1]).unwrap();
    let settings = Settings::new(VoterId(1), EPOCH, 300, false);
    let again = Engine::open(Mono(2), settings, recovered).unwrap();
    assert!(again.silenced().is_some());
}

/// Closes: a leader and one follower decide, the leader comes back with an old log, and before the follower hears of it
/// the third voter, which knows nothing of the decision, is elected with its vote.
#[test]
fn r8_a_rolled_back_voter_elects_nobody_while_one_that_knows_better_lives() {
    let mut now = Mono(0);
    let mut voters = Voter::site([2, 1, 3]);
    pass(&mut voters, &mut now, 3_000);
    assert_eq!(voters[1].engine.role(), Role::Leader);
    let yesterday = voters[1].disk.clone();
    voters[1].set(now, 1, "prod");
    let seen = pass(&mut voters[1..], &mut now, 200);
    assert_eq!(outcome(&seen, 1), Some(Outcome::Applied(Applied::Done)), "decided by 1 and 3");

    // Voter 2, which knows nothing, is about to stand for election, and asks voter 1 before that has asked anyone.
    pass(&mut voters[..1], &mut now, 500);
    voters[1] = Voter::start(1, yesterday, 101, now);
    let seen = pass(&mut voters, &mut now, 5_000);
    let rejoins = |output: &Output| matches!(output, Output::Event(Event::MustRejoin { .. }));
    assert_eq!(seen.iter().filter(|output| rejoins(output)).count(), 1);
    assert!(voters[1].engine.silenced().is_some());
    for voter in [0, 2] {
        let name = voters[voter].engine.state().site.as_ref().map(|site| site.name.clone());
        assert_eq!(name.as_deref(), Some("prod"));
    }
}

/// Closes: a leader tells a rolled-back voter, of which it only remembers what it once held, what is committed.
#[test]
fn r8_a_rolled_back_voter_applies_nothing_that_was_not_decided() {
    let mut now = Mono(0);
    let mut voters = Voter::site([1, 2, 3]);
    pass(&mut voters, &mut now, 3_000);
    // Voter 1 leads, and alone takes in what nobody else hears of.
    for request in 1..6 {
        voters[0].set(now, request, "never");
    }
    pass(&mut voters[..1], &mut now, 100);
    let image = voters[0].disk.clone();
    pass(&mut voters[1..], &mut now, 3_000);
    voters[1].set(now, 6, "prod");
    pass(&mut voters[1..], &mut now, 200);
    pass(&mut voters, &mut now, 2_000);
    assert_eq!(voters[0].engine.state(), voters[1].engine.state());

    voters[0] = Voter::start(1, image, 101, now);
    for _ in 0..60 {
        pass(&mut voters, &mut now, 50);
        let name = voters[0].engine.state().site.as_ref().map(|site| site.name.clone());
        assert_eq!(name, None);
    }
    assert!(voters[0].engine.silenced().is_some());
}

#[test]
fn restarted_voters_go_on_without_the_one_that_stays_dead() {
    let mut now = Mono(0);
    let mut voters = Voter::site([1, 2, 3]);
    pass(&mut voters, &mut now, 3_000);
    let mut again: Vec<Voter> = voters
        .iter()
        .take(2)
        .map(|voter| {
            let id = voter.engine.settings.voter.0;
            Voter::start(id, voter.disk.clone(), id * 100 + 1, now)
        })
        .collect();
    pass(&mut again, &mut now, 900);
    let led = |voters: &[Voter]| voters.iter().any(|voter| voter.engine.role() == Role::Leader);
    assert!(!led(&again), "voter 3 may know better");
    pass(&mut again, &mut now, 2_000);
    assert!(led(&again));
}

/// Closes: an old image that asks, or is promoted by, the one voter that had not seen what it once was.
#[test]
fn what_one_voter_has_seen_of_a_replica_the_others_remember() {
    let report = |progress| anshin_base::local::ReplicaReport {
        group: GroupId(7),
        replica: ReplicaId(5),
        session: SessionId(1),
        progress,
        promotable: true,
        ledger_index: LedgerIndex(1),
    };
    let mut now = Mono(0);
    let mut voters = vec![Voter::new(1, true), Voter::new(2, false)];
    pass(&mut voters, &mut now, 2_000);
    let change = MemberChange::AddLearner(VoterId(2));
    voters[0].handle(now, Input::ChangeMembers { request: 2, change });
    pass(&mut voters, &mut now, 2_000);
    voters[1].handle(now, Input::Report(report(9)));
    assert_eq!(voters[0].engine.highest(ReplicaId(5)), 0);
    voters[1].handle(now, Input::Report(report(4)));
    pass(&mut voters, &mut now, 100);
    assert_eq!(voters[0].engine.highest(ReplicaId(5)), 9);
    let recovered = recover(&voters[0].disk[0], &voters[0].disk[1]).unwrap();
    let again = Engine::open(now, Settings::new(VoterId(1), EPOCH, 300, false), recovered).unwrap();
    assert_eq!(again.highest(ReplicaId(5)), 9, "and durably");
}

#[test]
fn version_1_of_a_message_has_these_bytes() {
    let entries = vec![
        LogEntry { index: 8, term: 2, payload: Payload::Empty },
        LogEntry { index: 9, term: 2, payload: Payload::Proposal(vec![1, 2, 3]) },
        LogEntry {
            index: 10,
            term: 3,
            payload: Payload::Members { proposer: (1, 2), kind: 2, voter: VoterId(300) },
        },
    ];
    let raft =
        RaftMessage { kind: 3, term: 3, log_term: 2, index: 7, entries, commit: 7, ..RaftMessage::default() };
    let envelope = Envelope {
        epoch: EPOCH,
        from: VoterId(1),
        to: VoterId(2),
        boot: Attest { incarnation: 5, term: 2, last: 7 },
        term: 3,
        body: Body::Raft(raft),
    };
    crate::golden::compare("envelope-v1.bin", &envelope.encode());
    assert_eq!(Envelope::decode(&envelope.encode()), Ok(envelope));
}
