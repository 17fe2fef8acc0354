//! The voter process: the real engine, detector and coordinator over the simulated network and disk.

mod lead;

use crate::world::{At, Event, GROUP, MS, World};
use anshin_base::{
    LedgerEpoch, LedgerIndex, NodeId,
    local::{FromVoter, Outcome as LocalOutcome, ReplicaReport, ToVoter},
};
use anshin_ledger::{
    Applied, Command, Coordinator, Detector, Engine, Envelope, Event as EngineEvent, Input, Outcome, Output,
    Refused, Settings, Sign,
    engine::Role,
    log::{Area, DiskBatch, DiskOp, RecoverError, recover},
};
use std::collections::BTreeMap;

/// Size of each of the ledger's areas: small, so that segments are left often.
pub const LEDGER_AREA: u64 = 128 << 10;
/// The only epoch simulated here.
pub const EPOCH: LedgerEpoch = LedgerEpoch(1);
const TICK: u64 = 50 * MS;
/// A reader that got no answer asks again.
const READ_AGAIN: u64 = 700 * MS;

/// Who asked for a proposal.
#[derive(Clone, Copy, Debug)]
enum Asker {
    Volume { start: u64, request: u64 },
    Coordinator { request: u64 },
    Group,
    Members,
    Noise,
}

/// The running voter process of a node.
pub struct VoterProcess {
    /// Number of this start.
    pub start: u64,
    /// The consensus engine.
    pub engine: Engine,
    detector: Detector,
    coordinator: Option<Coordinator>,
    /// The read that proves that the state is fresh in this leadership.
    reading: Option<(u64, u64)>,
    sequence: u64,
    beat: u64,
    request_last: u64,
    asked: BTreeMap<u64, Asker>,
    /// Reads of the oracle: what was committed at least when they were asked.
    reads: BTreeMap<u64, u64>,
    batch: Option<DiskBatch>,
    /// What the local volume process last reported, and its start.
    pub report: Option<(u64, ReplicaReport)>,
    told: Option<(LedgerIndex, bool, u64, u64)>,
    ticked: u64,
}

impl World {
    /// Starts the voter process of a node, recovering its log.
    pub fn start_voter(&mut self, at: At) {
        if !self.nodes[at].powered || self.nodes[at].voter.is_some() {
            return;
        }
        if !self.scenario.bugs.trust_cache {
            for area in &mut self.nodes[at].ledger {
                let flush = area.flush();
                area.flushed(&flush);
            }
        }
        let areas: Vec<bytes::Bytes> =
            self.nodes[at].ledger.iter().map(|area| area.read(0, LEDGER_AREA as usize)).collect();
        let recovered = match recover(&areas[0], &areas[1]) {
            Ok(recovered) => recovered,
            Err(error) => return self.ledger_lost(at, &error),
        };
        // Carried out before the process says anything; a crash in between only repeats it.
        for op in &recovered.ops {
            if let DiskOp::Write { area, offset, bytes } = op {
                self.nodes[at].ledger[place(*area)].place(*offset, bytes);
            }
        }
        let witness = at >= self.scenario.data;
        let mut settings = Settings::new(self.nodes[at].voter_id, EPOCH, self.rng.id(), witness);
        settings.area_bytes = LEDGER_AREA;
        settings.entries_kept = 20;
        settings.bugs = self.scenario.bugs.engine;
        let now = self.local(at);
        let engine = match Engine::open(now, settings, recovered) {
            Ok(engine) => engine,
            Err(error) => {
                let why = format!("the ledger of node {at} does not open: {error}");
                return self.oracles.i10.violate(&why);
            }
        };
        self.oracles.ledger.opened(at, &engine);
        let silenced = engine.silenced().map(str::to_owned);
        let start = self.new_start();
        let silent = anshin_base::Millis(1_000);
        self.nodes[at].voter = Some(VoterProcess {
            start,
            engine,
            detector: Detector::new(now, silent),
            coordinator: None,
            reading: None,
            sequence: 0,
            beat: 0,
            request_last: 0,
            asked: BTreeMap::new(),
            reads: BTreeMap::new(),
            batch: None,
            report: None,
            told: None,
            ticked: self.now,
        });
        let now = self.now;
        self.trace.line(now, || format!("node {at}: voter starts"));
        let jitter = self.rng.below(TICK);
        self.after(jitter, Event::VoterTick { at, start });
        if let Some(why) = silenced {
            self.must_rejoin(at, &why);
        }
        // The volume process connects anew.
        self.volume_reports(at);
    }

    fn ledger_lost(&mut self, at: At, error: &RecoverError) {
        // No fault of the plan damages what was durable: this must not happen.
        self.oracles.i10.violate(&format!("the ledger of node {at}: {error}"));
    }

    /// The voter process's timer.
    pub fn voter_tick(&mut self, at: At, start: u64) {
        let now = self.local(at);
        let world_now = self.now;
        let Some(voter) = self.voter_of(at, start) else { return };
        if world_now - voter.ticked > 500 * MS {
            voter.detector.stood_still(now);
        }
        voter.ticked = world_now;
        self.engine(at, Input::Tick);
        self.beat(at);
        self.coordinate(at);
        self.oracle_reads(at);
        self.noise(at);
        self.after(TICK, Event::VoterTick { at, start });
    }

    fn voter_of(&mut self, at: At, start: u64) -> Option<&mut VoterProcess> {
        self.nodes[at].voter.as_mut().filter(|voter| voter.start == start)
    }

    /// A sign of life to every other node, each second tick.
    fn beat(&mut self, at: At) {
        let node = self.nodes[at].id;
        let now = self.local(at);
        let Some(voter) = &mut self.nodes[at].voter else { return };
        voter.beat += 1;
        if voter.beat % 2 != 0 {
            return;
        }
        voter.sequence += 1;
        let reports = voter.report.iter().map(|(_, report)| report.clone()).collect();
        let sign = Sign { node, start: voter.start, sequence: voter.sequence, reports };
        voter.detector.hear(now, sign.clone());
        for to in 0..self.nodes.len() {
            if to != at && self.mesh(at, to) {
                let delay = self.network.latency(&mut self.rng);
                self.after(delay, Event::Sign { at: to, sign: Box::new(sign.clone()) });
            }
        }
    }

    /// Whether a message between voters gets through: directly, or over a node that both sides reach (R13).
    fn mesh(&mut self, from: At, to: At) -> bool {
        if self.network.loss_permille > 0 && self.rng.permille(self.network.loss_permille) {
            return false;
        }
        let relay = |over: At| {
            let node = &self.nodes[over];
            node.voter.is_some()
                && !node.paused
                && self.network.direct(from, over)
                && self.network.direct(over, to)
        };
        self.network.direct(from, to)
            || (0..self.nodes.len()).any(|over| over != from && over != to && relay(over))
    }

    /// A sign of life arrived.
    pub fn voter_heard(&mut self, at: At, sign: Sign) {
        let now = self.local(at);
        let Some(mut voter) = self.nodes[at].voter.as_mut() else { return };
        let reports = sign.reports.clone();
        if voter.detector.hear(now, sign) {
            for report in reports {
                if voter.engine.highest(report.replica) != report.progress {
                    self.engine(at, Input::Report(report));
                }
                let Some(again) = self.nodes[at].voter.as_mut() else { return };
                voter = again;
            }
        }
    }

    /// A message between voters arrived.
    pub fn voter_received(&mut self, at: At, envelope: Envelope) {
        if self.nodes[at].voter.is_some() {
            self.engine(at, Input::Received(envelope));
        }
    }

    /// Hands an input to the engine and carries out what it puts out.
    fn engine(&mut self, at: At, input: Input) {
        let now = self.local(at);
        let Some(voter) = &mut self.nodes[at].voter else { return };
        let mut out = Vec::new();
        voter.engine.handle(now, input, &mut out);
        for output in out {
            self.voter_output(at, output);
            if self.nodes[at].voter.is_none() {
                return;
            }
        }
        self.tell_volume(at);
    }

    fn voter_output(&mut self, at: At, output: Output) {
        match output {
            Output::Send(envelope) => self.send_envelope(at, envelope),
            Output::Disk(batch) => self.begin_batch(at, batch),
            Output::Applied { index } | Output::Restored { index } => {
                self.trace.note(&[1, at as u64, index.0]);
                let now = self.now;
                self.trace.line(now, || format!("node {at}: applied {index}"));
                let engine = &self.nodes[at].voter.as_ref().expect("invariant: it put this out").engine;
                self.oracles.ledger.applied(at, index, engine);
                self.watch_group(at);
            }
            Output::Outcome { request, outcome } => self.outcome(at, request, outcome),
            Output::ReadReady { request } => self.read_ready(at, request),
            Output::Event(event) => self.engine_event(at, event),
        }
    }

    /// Shows the oracles the newest entry of the group.
    fn watch_group(&mut self, at: At) {
        let Some(voter) = &self.nodes[at].voter else { return };
        let Some(group) = voter.engine.state().groups.get(&GROUP) else { return };
        let nodes = &self.nodes;
        self.oracles.i1.entry(group, |replica, session| {
            let mut nodes = nodes.iter().filter(|node| node.replica == Some(replica));
            nodes.any(|node| node.volume.as_ref().is_some_and(|volume| volume.session == session))
        });
    }

    fn send_envelope(&mut self, at: At, envelope: Envelope) {
        let Some(to) = self.nodes.iter().position(|node| node.voter_id == envelope.to) else { return };
        if !self.mesh(at, to) {
            return;
        }
        if self.rng.permille(30) {
            let again = Envelope::decode(&envelope.encode());
            assert_eq!(again.as_ref(), Ok(&envelope), "a message does not survive its encoding");
        }
        let delay = self.network.latency(&mut self.rng);
        self.after(delay, Event::Mesh { at: to, envelope: Box::new(envelope) });
    }

    fn begin_batch(&mut self, at: At, batch: DiskBatch) {
        let number = batch.batch;
        let Some(voter) = &mut self.nodes[at].voter else { return };
        let start = voter.start;
        voter.batch = Some(batch);
        self.begin_step(at, start, number, 0);
    }

    fn begin_step(&mut self, at: At, start: u64, batch: u64, step: usize) {
        let node = &mut self.nodes[at];
        let Some(op) = node.voter.as_mut().and_then(|voter| voter.batch.as_mut()?.ops.get_mut(step)) else {
            return;
        };
        let delay = match op {
            DiskOp::Write { area, offset, bytes } => {
                node.ledger[place(*area)].submit(*offset, std::mem::take(bytes).into());
                50_000 + self.rng.below(100_000)
            }
            DiskOp::Flush { .. } => {
                let slow = self.rng.permille(20);
                200_000 + self.rng.below(if slow { 200 * MS } else { 2 * MS })
            }
        };
        let begins = self.now.max(self.nodes[at].stalled[1]);
        self.at(begins + delay, Event::VoterDisk { at, start, batch, step });
    }

    /// A step of the voter's batch ended.
    pub fn voter_disk(&mut self, at: At, start: u64, batch: u64, step: usize) {
        let node = &mut self.nodes[at];
        let Some(voter) = node.voter.as_mut().filter(|voter| voter.start == start) else { return };
        let Some(open) = voter.batch.as_ref().filter(|open| open.batch == batch) else { return };
        match &open.ops[step] {
            DiskOp::Write { area, .. } => node.ledger[place(*area)].complete_all(),
            DiskOp::Flush { area } => {
                let area = &mut node.ledger[place(*area)];
                let flush = area.flush();
                area.flushed(&flush);
            }
        }
        if step + 1 < open.ops.len() {
            return self.begin_step(at, start, batch, step + 1);
        }
        voter.batch = None;
        self.engine(at, Input::DiskDone { batch, durable: true });
    }

    fn engine_event(&mut self, at: At, event: EngineEvent) {
        let now = self.now;
        self.trace.line(now, || format!("node {at}: {event:?}"));
        match event {
            EngineEvent::Role(role) => {
                let Some(voter) = &mut self.nodes[at].voter else { return };
                voter.coordinator = None;
                voter.reading = None;
                if role == Role::Leader {
                    let term = voter.engine.position().0;
                    self.count("leaders");
                    self.oracles.ledger.leads(at, term);
                }
            }
            EngineEvent::MustRejoin { why } => self.must_rejoin(at, &why),
            EngineEvent::OldImage { replica, presented, seen } => {
                self.oracles.ledger.old_image(at, replica, presented, seen);
            }
            EngineEvent::DiskFailed | EngineEvent::Members { .. } | EngineEvent::NewerEpoch { .. } => {}
        }
    }

    fn outcome(&mut self, at: At, request: u64, outcome: Outcome) {
        let Some(voter) = &mut self.nodes[at].voter else { return };
        let start = voter.start;
        if let Outcome::Applied(_) = outcome {
            let index = voter.engine.applied().0;
            self.oracles.ledger.confirmed(index);
        }
        match voter.asked.remove(&request) {
            Some(Asker::Volume { start: volume, request }) => {
                let outcome = match outcome {
                    Outcome::Applied(Applied::Group(entry)) => LocalOutcome::Applied(entry),
                    Outcome::Refused(Refused::Group(why)) => LocalOutcome::Refused(why),
                    Outcome::Applied(_) | Outcome::Refused(_) | Outcome::Dropped | Outcome::Unknown => {
                        LocalOutcome::Unknown
                    }
                };
                let message = Box::new(FromVoter::Outcome { request, outcome });
                // The volume process must see the new state before the outcome that rests on it.
                self.tell_volume(at);
                self.after(20_000, Event::FromVoter { at, voter: start, volume, message });
            }
            Some(Asker::Coordinator { request }) => {
                if let Some(coordinator) = &mut voter.coordinator
                    && outcome != Outcome::Unknown
                {
                    coordinator.answered(request);
                }
            }
            Some(Asker::Group | Asker::Members | Asker::Noise) | None => {}
        }
    }

    fn ask(&mut self, at: At, asker: Asker, command: Command) {
        let Some(voter) = &mut self.nodes[at].voter else { return };
        voter.request_last += 1;
        let request = voter.request_last;
        voter.asked.insert(request, asker);
        self.engine(at, Input::Propose { request, command });
    }

    /// Something came from the volume process.
    pub fn voter_asked(&mut self, at: At, start: u64, volume: u64, message: ToVoter) {
        let Some(voter) = self.voter_of(at, start) else { return };
        match message {
            ToVoter::Report(report) => {
                let new = voter.report.as_ref().is_none_or(|(known, _)| *known != volume);
                voter.report = Some((volume, report.clone()));
                if new {
                    voter.told = None;
                }
                self.engine(at, Input::Report(report));
            }
            ToVoter::Propose { request, change } => {
                let now = self.now;
                self.trace.line(now, || format!("node {at}: volume proposes {change:?}"));
                self.ask(at, Asker::Volume { start: volume, request }, Command::Group(change));
            }
        }
    }

    /// Tells the volume process the newest state, if it changed.
    fn tell_volume(&mut self, at: At) {
        let Some(voter) = &mut self.nodes[at].voter else { return };
        let Some((volume, _)) = voter.report else { return };
        let state = voter.engine.state();
        let known = state.groups.get(&GROUP);
        let index = known.map_or(LedgerIndex(0), |known| known.index);
        let quorate = voter.engine.quorate();
        // What changes besides the entry: who the replicas are, and how far they were seen.
        let replicas = state.volumes.values().flat_map(|volume| volume.replicas.values());
        let replicas = replicas.filter_map(|place| place.replica);
        let sum = replicas.map(|replica| voter.engine.highest(replica).wrapping_add(replica.0 << 32));
        let sum = sum.fold(0, u64::wrapping_add);
        if voter.told == Some((index, quorate, sum, volume)) {
            return;
        }
        voter.told = Some((index, quorate, sum, volume));
        let places = state.places(GROUP);
        let highest =
            places.iter().map(|place| (place.replica, voter.engine.highest(place.replica))).collect();
        let entry = known.map(|known| known.entry.clone());
        let message = Box::new(FromVoter::View { epoch: EPOCH, index, entry, places, highest, quorate });
        let start = voter.start;
        self.after(20_000, Event::FromVoter { at, voter: start, volume, message });
    }

    /// The volume process's connection ended: nothing is reported any more.
    pub fn forget_report(&mut self, at: At) {
        if let Some(voter) = &mut self.nodes[at].voter {
            voter.report = None;
            voter.told = None;
        }
    }
}

/// Nodes are numbered from 1 in the ledger.
#[must_use]
pub fn node_id(at: At) -> NodeId {
    NodeId(u32::try_from(at).unwrap_or_default() + 1)
}

/// Which of a node's two disks an area of its log is.
#[must_use]
pub fn place(area: Area) -> At {
    match area {
        Area::A => 0,
        Area::B => 1,
    }
}
