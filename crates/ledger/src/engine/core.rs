//! [`Engine`]: one owner of all state; inputs change it, then everything that became due is put out.

use super::{
    api::{Event, Input, Outcome, Output, Role},
    convert,
    memory::Memory,
    message::{Attest, Body, Envelope, Members, Refusal, SnapshotImage},
    peers::{Peers, Verdict},
    probation::Probation,
    settings::Settings,
    stall::Stall,
};
use crate::{
    log::{DiskOp, Identity, Journal, JournalFull, Record, Recovered},
    state::{Command, State, codec::Proposal},
};
use anshin_base::{LedgerIndex, Mono, ReplicaId, VoterId, local::ReplicaReport};
use raft::{
    Config, RawNode, ReadOnlyOption, StateRole,
    eraftpb::{HardState, Message, MessageType},
};
use std::collections::{BTreeMap, VecDeque};

/// Proposals and reads that may be open at once.
pub(super) const OPEN_MAX: usize = 1_000;
/// Largest command, encoded. Service definitions are the largest things proposed.
pub(super) const COMMAND_BYTES_MAX: usize = 256 << 10;
/// Ticks made up for at once after the owner was late; a pause must not look like a long silence of the leader.
const TICKS_LATE_MAX: u64 = 3;
/// Ticks between two thoughts about who should lead.
const PREFERENCE_TICKS: u64 = 40;
/// Records that nothing waits for (the commit index) are written at the latest after this many ticks.
pub(super) const LAZY_TICKS: u64 = 10;
/// How often a leader tells what is durable on its own disk, besides when that changes.
const TELL_AGAIN_TICKS: u64 = 20;

/// Why an engine cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The log belongs to another voter, site or epoch.
    #[error("the log is that of {0:?}")]
    Identity(Option<Identity>),
    /// The log's records contradict each other or are not readable.
    #[error("the ledger's log is damaged: {0}")]
    Damaged(String),
}

/// Messages that wait until what they depend on is durable.
pub(super) struct Held {
    pub ready: u64,
    pub messages: Vec<Message>,
}

/// The batch on its way to the disk.
pub(super) struct Open {
    pub batch: u64,
    /// How many of the held readies it makes durable.
    pub readies: usize,
    /// The term that is durable after it.
    pub term: u64,
    /// The tick at which it was begun.
    pub since: u64,
}

/// One voter's ledger.
pub struct Engine {
    pub(super) settings: Settings,
    pub(super) identity: Identity,
    pub(super) node: RawNode<Memory>,
    pub(super) state: State,
    pub(super) applied: u64,
    pub(super) applied_term: u64,
    pub(super) journal: Journal,
    pub(super) boot: Attest,
    pub(super) peers: Peers,
    pub(super) progress: BTreeMap<ReplicaId, u64>,
    /// Records that are not in a batch yet, and whether something waits for them.
    pub(super) records: Vec<Record>,
    pub(super) urgent: bool,
    pub(super) held: VecDeque<Held>,
    pub(super) open: Option<Open>,
    pub(super) stall: Stall,
    pub(super) batch_last: u64,
    pub(super) durable_term: u64,
    /// Open proposals and the tick at which they are given up.
    pub(super) proposals: BTreeMap<u64, u64>,
    /// Reads whose index is known but not yet applied.
    pub(super) reads: Vec<(u64, u64)>,
    pub(super) role: Role,
    pub(super) ticks: u64,
    pub(super) lazy_since: u64,
    /// Since the start, until the others have said that this voter lost nothing.
    pub(super) probation: Option<Probation>,
    /// Term and index that were last told to be durable here.
    pub(super) told: (u64, u64),
    ticked: Mono,
    /// Why this voter no longer speaks.
    pub(super) silenced: Option<String>,
    pub(super) failed: bool,
}

impl Engine {
    /// The disk commands that make a log for the first voter of a new site, which votes alone.
    ///
    /// # Errors
    /// [`JournalFull`] if the area is far too small.
    pub fn found(identity: Identity, area_bytes: u64) -> Result<Vec<DiskOp>, JournalFull> {
        let members = Members { voters: vec![identity.voter], learners: Vec::new() };
        Self::found_with(identity, members, &State::default(), area_bytes)
    }

    /// As [`Self::found`], beginning with these voters and this state; every voter must be founded with the same.
    ///
    /// # Errors
    /// [`JournalFull`] if the area is far too small.
    pub fn found_with(
        identity: Identity,
        members: Members,
        state: &State,
        area_bytes: u64,
    ) -> Result<Vec<DiskOp>, JournalFull> {
        // The log begins behind a snapshot at index 1: whoever joins must fetch a snapshot, and with it who votes.
        let image = SnapshotImage { index: 1, term: 1, members, state: state.encode() };
        let hard = Record::Hard { term: 1, vote: 0, commit: 1 };
        let base = [Record::Identity(identity), Record::Snapshot(image), hard];
        Journal::create(area_bytes, &base).map(|(_, ops)| ops)
    }

    /// The disk commands that make a log for a voter that joins an existing site: it knows nothing and learns.
    ///
    /// # Errors
    /// [`JournalFull`] if the area is far too small.
    pub fn join(identity: Identity, area_bytes: u64) -> Result<Vec<DiskOp>, JournalFull> {
        Journal::create(area_bytes, &[Record::Identity(identity)]).map(|(_, ops)| ops)
    }

    /// Opens the ledger that was recovered. `recovered.ops` must have been carried out before.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(now: Mono, settings: Settings, recovered: Recovered) -> Result<Self, OpenError> {
        let found = super::open::replay(recovered.records)?;
        let expected =
            |identity: &Identity| identity.voter == settings.voter && identity.epoch == settings.epoch;
        let identity = found.identity.filter(expected).ok_or(OpenError::Identity(found.identity))?;
        let applied = found.image.as_ref().map_or((0, 0), |image| (image.index, image.term));
        let state = match &found.image {
            Some(image) => {
                State::decode(&image.state).map_err(|error| OpenError::Damaged(error.to_string()))?
            }
            None => State::default(),
        };
        let memory = found.memory;
        let boot = Attest { incarnation: settings.incarnation, term: memory.hard.term, last: memory.last() };
        let durable_term = memory.hard.term;
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&raft_config(&settings, applied.0), memory, &logger)
            .map_err(|error| OpenError::Damaged(error.to_string()))?;
        let mut engine = Self {
            identity,
            node,
            state,
            applied: applied.0,
            applied_term: applied.1,
            journal: recovered.journal,
            boot,
            peers: Peers::default(),
            progress: found.progress,
            records: Vec::new(),
            urgent: false,
            held: VecDeque::new(),
            open: None,
            stall: Stall::default(),
            batch_last: 0,
            durable_term,
            proposals: BTreeMap::new(),
            reads: Vec::new(),
            role: Role::Follower { leader: None },
            ticks: 0,
            lazy_since: 0,
            probation: None,
            told: (0, 0),
            ticked: now,
            silenced: found.silenced,
            failed: false,
            settings,
        };
        engine.peers.seen = found.seen;
        if !engine.settings.bugs.trust_memory && !engine.settings.bugs.hasty_start {
            engine.probation = Probation::begin(&engine.members(), engine.settings.voter);
        }
        Ok(engine)
    }

    /// Hands in what happened and takes out what is to be done, in order.
    pub fn handle(&mut self, now: Mono, input: Input, out: &mut Vec<Output>) {
        if self.failed {
            return;
        }
        if self.silenced.is_some() {
            self.handle_silenced(input, out);
            return;
        }
        match input {
            Input::Tick => self.tick(now, out),
            Input::Received(envelope) => self.received(envelope, out),
            Input::Propose { request, command } => self.propose(request, command, out),
            Input::Read { request } => self.read(request),
            Input::ChangeMembers { request, change } => self.change_members(request, change, out),
            Input::TransferLeader { to } => {
                if self.node.raft.state == StateRole::Leader && to != self.settings.voter {
                    self.node.transfer_leader(to.0);
                }
            }
            Input::DiskDone { batch, durable } => self.disk_done(batch, durable, out),
            Input::Report(report) => self.report(&report, out),
            Input::Unreachable { voter } => self.node.report_unreachable(voter.0),
        }
        self.advance(out);
    }

    /// What the cluster has decided, as far as this voter has applied it.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Position of the last applied entry.
    #[must_use]
    pub fn applied(&self) -> LedgerIndex {
        LedgerIndex(self.applied)
    }

    /// Who leads.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether a leader was heard within its election time, and what it decides is applied here.
    #[must_use]
    pub fn quorate(&self) -> bool {
        self.silenced.is_none() && !self.stalled() && !matches!(self.role, Role::Follower { leader: None })
    }

    /// Who votes and who learns.
    #[must_use]
    pub fn members(&self) -> Members {
        convert::members(&self.node.store().conf)
    }

    /// Present term and last index of the log, durable or not.
    #[must_use]
    pub fn position(&self) -> (u64, u64) {
        (self.node.raft.term, self.node.store().last())
    }

    /// The learners that hold everything committed: they can be made voters. Leader only.
    #[must_use]
    pub fn caught_up(&self) -> Vec<VoterId> {
        if self.node.raft.state != StateRole::Leader {
            return Vec::new();
        }
        let committed = self.node.raft.raft_log.committed;
        let learners = self.members().learners.into_iter();
        let held = |voter: &VoterId| {
            self.node.raft.prs().get(voter.0).is_some_and(|progress| progress.matched >= committed)
        };
        learners.filter(held).collect()
    }

    /// Highest progress that this voter has seen of a replica (R7).
    #[must_use]
    pub fn highest(&self, replica: ReplicaId) -> u64 {
        self.progress.get(&replica).copied().unwrap_or_default()
    }

    /// Why this voter is silent for ever, if it is.
    #[must_use]
    pub fn silenced(&self) -> Option<&str> {
        self.silenced.as_deref()
    }

    /// The entries held in memory as `(index, term, checksum of the content)`, for comparison of logs in tests.
    pub fn log(&self) -> impl Iterator<Item = (u64, u64, u32)> + '_ {
        let entries = self.node.store().entries.iter();
        entries.map(|entry| (entry.index, entry.term, crc32c::crc32c(&entry.data)))
    }

    /// Index up to which the log is known to be committed.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.node.raft.raft_log.committed
    }

    fn tick(&mut self, now: Mono, out: &mut Vec<Output>) {
        let tick = self.settings.tick.0.max(1);
        let due = now.since(self.ticked).0 / tick;
        if due == 0 {
            return;
        }
        self.ticked =
            if due > TICKS_LATE_MAX { now } else { self.ticked.after(anshin_base::Millis(due * tick)) };
        for _ in 0..due.min(TICKS_LATE_MAX) {
            self.ticks += 1;
            if self.wait_for_all(out) {
                continue;
            }
            // The last time may have been lost on its way.
            if self.ticks.is_multiple_of(TELL_AGAIN_TICKS) {
                self.told = (0, 0);
                self.tell_durable(out);
            }
            // The raft crate requires that a voter that is alone has made everything durable before it can win its
            // own election.
            let durable = self.held.is_empty() && self.open.is_none();
            let alone = self.node.store().conf.get_voters().len() <= 1;
            if self.node.raft.state == StateRole::Leader || durable || !alone {
                self.node.tick();
                self.advance(out);
            }
            self.hand_on();
        }
        let given_up: Vec<u64> = self
            .proposals
            .iter()
            .filter(|(_, until)| **until <= self.ticks)
            .map(|(request, _)| *request)
            .collect();
        for request in given_up {
            self.answer(request, Outcome::Unknown, out);
        }
        if self.ticks.is_multiple_of(PREFERENCE_TICKS) {
            self.prefer_leader();
        }
    }

    /// Leadership follows the data node with the most primaries (R13); a witness leads only while it must.
    fn prefer_leader(&mut self) {
        if self.role != Role::Leader {
            return;
        }
        let fit = |voter: &VoterId| self.fit_to_lead(*voter);
        let voters = self.members().voters.into_iter().filter(fit);
        let best = voters.map(|voter| (self.weight(voter), voter)).max();
        if let Some((weight, voter)) = best
            && weight > self.weight(self.settings.voter)
        {
            self.node.transfer_leader(voter.0);
        }
    }

    /// How well leadership lies with a voter: by the primaries on its node; 0 for a witness.
    pub(super) fn weight(&self, voter: VoterId) -> usize {
        let node = self.state.node_of_voter(voter).filter(|node| node.roles.data);
        let primaries = self.state.primaries();
        node.map_or(0, |node| 1 + primaries.get(&node.id).copied().unwrap_or_default())
    }

    fn propose(&mut self, request: u64, command: Command, out: &mut Vec<Output>) {
        let proposal = Proposal { incarnation: self.settings.incarnation, request, command };
        let bytes = proposal.encode();
        let room = self.proposals.len() < OPEN_MAX && bytes.len() <= COMMAND_BYTES_MAX;
        if !room || self.node.propose(Vec::new(), bytes).is_err() {
            out.push(Output::Outcome { request, outcome: Outcome::Dropped });
            return;
        }
        self.proposals.insert(request, self.ticks + self.settings.proposal_ticks);
    }

    fn change_members(&mut self, request: u64, change: super::MemberChange, out: &mut Vec<Output>) {
        let (kind, voter) = convert::member_change(change);
        let context = convert::write_proposer((self.settings.incarnation, request));
        // One change at a time: raft would silently turn a second one into an empty entry.
        let possible = self.role == Role::Leader && !self.node.raft.has_pending_conf() && voter.0 != 0;
        let change = convert::conf_change(kind, voter);
        if !possible || self.node.propose_conf_change(context, change).is_err() {
            out.push(Output::Outcome { request, outcome: Outcome::Dropped });
            return;
        }
        self.proposals.insert(request, self.ticks + self.settings.proposal_ticks);
    }

    fn read(&mut self, request: u64) {
        if self.reads.len() < OPEN_MAX && self.node.raft.pending_read_count() < OPEN_MAX {
            let context = convert::write_proposer((self.settings.incarnation, request));
            self.node.read_index(context);
        }
    }

    /// Keeps the highest progress seen of every replica (R7).
    fn report(&mut self, report: &ReplicaReport, out: &mut Vec<Output>) {
        let seen = self.highest(report.replica);
        if report.progress > seen {
            self.seen(report.replica, report.progress);
        } else if report.progress < seen {
            let (replica, presented) = (report.replica, report.progress);
            out.push(Output::Event(Event::OldImage { replica, presented, seen }));
            // Any other voter may be the one that promotes, or the one that the replica asks for its age.
            let Members { voters, learners } = self.members();
            for to in voters.into_iter().chain(learners).filter(|to| *to != self.settings.voter) {
                out.push(Output::Send(self.envelope(to, Body::Seen { replica, progress: seen })));
            }
        }
    }

    fn seen(&mut self, replica: ReplicaId, progress: u64) {
        let known = self.progress.entry(replica).or_default();
        if progress > *known {
            *known = progress;
            self.records.push(Record::Progress { replica, progress });
        }
    }

    fn received(&mut self, envelope: Envelope, out: &mut Vec<Output>) {
        let Envelope { epoch, from, to, boot, term, body } = envelope;
        if to != self.settings.voter || from == self.settings.voter {
            return;
        }
        if epoch > self.settings.epoch {
            out.push(Output::Event(Event::NewerEpoch { epoch }));
            return;
        }
        if epoch < self.settings.epoch {
            if matches!(body, Body::Raft(_)) {
                self.refuse(from, Refusal::OldEpoch, out);
            }
            return;
        }
        match self.peers.judge(from, &boot, self.ticks) {
            Verdict::Accept => {}
            Verdict::Late => return,
            Verdict::Expelled if self.settings.bugs.trust_memory => {}
            Verdict::Expelled => {
                self.refuse(from, Refusal::Expelled { incarnation: boot.incarnation }, out);
                return;
            }
        }
        self.peers.term(from, term);
        match body {
            Body::Refused(Refusal::Expelled { incarnation }) if incarnation == self.settings.incarnation => {
                self.silence(format!("{from} says that this voter confirmed more than it holds"), out);
            }
            Body::Refused(_) => {}
            Body::Seen { replica, progress } => self.seen(replica, progress),
            Body::Probe => {
                let known = Body::Known { incarnation: boot.incarnation };
                out.push(Output::Send(self.envelope(from, known)));
            }
            Body::Known { incarnation } if incarnation == self.settings.incarnation => self.cleared(from),
            Body::Known { .. } => {}
            Body::Durable { term, index, committed } => self.peers.confirmed(from, term, index, committed),
            Body::Raft(_) if self.probation.is_some() => {}
            Body::Raft(message) => {
                let Some(message) = convert::from_wire(from, to, message) else { return };
                match super::guard::check(&self.node.raft, &message) {
                    Ok(()) => self.step(from, message),
                    Err(super::guard::Unsafe::Message) => {}
                    Err(super::guard::Unsafe::Memory(_)) if self.settings.bugs.trust_memory => {
                        self.step(from, message);
                    }
                    Err(super::guard::Unsafe::Memory(why)) => self.silence(why, out),
                }
            }
        }
    }

    fn step(&mut self, from: VoterId, message: Message) {
        let confirms = message.get_msg_type() == MessageType::MsgAppendResponse && !message.reject;
        let (term, index) = (message.term, message.index);
        // An error is a message that raft does not want at this time; the sender repeats what matters.
        let _ = self.node.step(message);
        let raft = &self.node.raft;
        if confirms && raft.state == StateRole::Leader && raft.term == term {
            self.peers.confirmed(from, term, index, raft.raft_log.committed);
        }
    }

    fn refuse(&self, to: VoterId, refusal: Refusal, out: &mut Vec<Output>) {
        out.push(Output::Send(self.envelope(to, Body::Refused(refusal))));
    }

    pub(super) fn envelope(&self, to: VoterId, body: Body) -> Envelope {
        Envelope {
            epoch: self.settings.epoch,
            from: self.settings.voter,
            to,
            boot: self.boot,
            term: self.durable_term,
            body,
        }
    }

    /// Silent from now on, and after every restart.
    fn silence(&mut self, why: String, out: &mut Vec<Output>) {
        self.records.push(Record::Silenced { why: why.clone() });
        self.urgent = true;
        self.held.clear();
        self.silenced = Some(why.clone());
        out.push(Output::Event(Event::MustRejoin { why }));
        let open: Vec<u64> = self.proposals.keys().copied().collect();
        for request in open {
            self.answer(request, Outcome::Unknown, out);
        }
        self.write(out);
    }

    fn handle_silenced(&mut self, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::DiskDone { durable: false, .. } => self.fail(out),
            Input::DiskDone { batch, .. } if self.open.as_ref().is_some_and(|open| open.batch == batch) => {
                self.open = None;
                self.held.clear();
                self.write(out);
            }
            Input::Propose { request, .. } | Input::ChangeMembers { request, .. } => {
                out.push(Output::Outcome { request, outcome: Outcome::Dropped });
            }
            _ => {}
        }
    }

    pub(super) fn fail(&mut self, out: &mut Vec<Output>) {
        self.failed = true;
        out.push(Output::Event(Event::DiskFailed));
    }

    pub(super) fn answer(&mut self, request: u64, outcome: Outcome, out: &mut Vec<Output>) {
        if self.proposals.remove(&request).is_some() {
            out.push(Output::Outcome { request, outcome });
        }
    }

    /// Everything that must be on disk to go on from here.
    pub(super) fn image(&self) -> Vec<Record> {
        let memory = self.node.store();
        let mut base = vec![Record::Identity(self.identity)];
        if self.applied > 0 {
            base.push(Record::Snapshot(self.snapshot()));
        }
        let HardState { term, vote, commit, .. } = memory.hard;
        if term > 0 {
            base.push(Record::Hard { term, vote, commit });
        }
        let entries: Vec<_> = memory.entries.iter().filter_map(convert::log_entry).collect();
        if !entries.is_empty() {
            base.push(Record::Entries(entries));
        }
        base.extend(self.peers.seen.iter().map(|(peer, seen)| Record::Seen { peer: *peer, seen: *seen }));
        let progress = self.progress.iter();
        base.extend(
            progress.map(|(replica, progress)| Record::Progress { replica: *replica, progress: *progress }),
        );
        base.extend(self.silenced.iter().map(|why| Record::Silenced { why: why.clone() }));
        base
    }

    /// The state machine as of now.
    pub(super) fn snapshot(&self) -> SnapshotImage {
        SnapshotImage {
            index: self.applied,
            term: self.applied_term,
            members: self.members(),
            state: self.state.encode(),
        }
    }
}

fn raft_config(settings: &Settings, applied: u64) -> Config {
    let own = settings.own_election_ticks();
    Config {
        id: settings.voter.0,
        election_tick: settings.election_ticks,
        heartbeat_tick: settings.heartbeat_ticks,
        min_election_tick: own,
        // A range of one: the raft crate draws from it with a generator of its own, which is so without effect.
        max_election_tick: own + 1,
        applied,
        max_size_per_msg: 256 << 10,
        max_inflight_msgs: 64,
        check_quorum: true,
        pre_vote: true,
        read_only_option: ReadOnlyOption::Safe,
        max_uncommitted_size: 8 << 20,
        max_committed_size_per_ready: 4 << 20,
        ..Config::default()
    }
}
