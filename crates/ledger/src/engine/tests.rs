use super::*;
use crate::{
    log::{Area, DiskOp, Identity, recover},
    state::{Applied, Command, Site},
};
use anshin_base::{GroupId, LedgerEpoch, LedgerIndex, Millis, Mono, NodeId, ReplicaId, SessionId, VoterId};
use message::{LogEntry, Payload, RaftMessage};

const AREA: u64 = 128 << 10;
const EPOCH: LedgerEpoch = LedgerEpoch(1);

/// A voter with its disk; every batch is carried out at once.
struct Voter {
    engine: Engine,
    disk: [Vec<u8>; 2],
    out: Vec<Output>,
}

impl Voter {
    fn new(voter: u64, found: bool) -> Self {
        let identity = Identity { site: 1, node: NodeId(voter as u32), voter: VoterId(voter), epoch: EPOCH };
        let ops = if found { Engine::found(identity, AREA) } else { Engine::join(identity, AREA) };
        let mut disk = [vec![0; AREA as usize], vec![0; AREA as usize]];
        write(&mut disk, &ops.unwrap());
        let settings = Settings::new(VoterId(voter), EPOCH, voter * 100, false);
        let engine = Engine::open(Mono(0), settings, recover(&disk[0], &disk[1]).unwrap()).unwrap();
        Self { engine, disk, out: Vec::new() }
    }

    fn handle(&mut self, now: Mono, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let mut out = Vec::new();
            self.engine.handle(now, input, &mut out);
            for output in out {
                if let Output::Disk(batch) = &output {
                    write(&mut self.disk, &batch.ops);
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
                    let to =
                        voters.iter_mut().find(|voter| voter.engine.boot.incarnation == envelope.to.0 * 100);
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
