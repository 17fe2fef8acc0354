//! Being the primary, from the promotion to its end.
//!
//! ```text
//! Checking ──> Reconciling ──> Flushing ──> Waiting ──> Serving
//!  entry durable,   every member's    a first flush    a valid
//!  grant waited     open window is    by all           lease
//!  out              overwritten
//! ```
//! From any stage a newer generation with another primary ends it.

mod front;
mod members;
mod ops;
mod promote;
mod resync;

use super::disk::For;
use super::links::Part as PeerPart;
use super::{Change, Numbered, Replica, Role};
use crate::api::{Event, FrontError, Output, RequestId};
use crate::codec::Stamped;
use crate::wire::{ExtentBits, Message, Points, Range, Seq};
use anshin_base::{Generation, GroupChange, Mono, ReplicaId, SessionId};
use bytes::Bytes;
pub(super) use resync::Sync;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Data of writes that are on their way, at most; more waits in the queue, which the fronts' depth bounds.
const IN_FLIGHT_BYTES_MAX: u64 = 64 << 20;
/// Numbered operations on their way, at most. Bounds windows and what is sent again after a reconnect.
const IN_FLIGHT_MAX: usize = 1024;

/// How far the promotion is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Checking,
    Reconciling,
    Flushing,
    Waiting,
    Serving,
}

/// A numbered operation that is not on every replica yet.
#[derive(Debug)]
struct Op {
    /// None for a flush.
    change: Option<Change>,
    /// Of a flush: the progress number that everyone reaches with it.
    progress: u64,
    /// Replicas that have not confirmed it.
    waiting: BTreeSet<ReplicaId>,
    /// The own disk has not done it.
    local: bool,
    /// Whom it completes.
    requests: Vec<RequestId>,
}

/// A request of the front.
#[derive(Debug)]
struct Request {
    /// Parts not yet done.
    left: u32,
    /// A flush follows the last part.
    fua: bool,
}

/// Part of what a target says that it may lack, as in [`Message::MapPart`].
#[derive(Clone, Copy, Debug)]
struct MapPart<'a> {
    number: u64,
    virgin: bool,
    full: bool,
    last: bool,
    extents: &'a [(u32, Box<ExtentBits>)],
}

/// A read of the device.
#[derive(Clone, Copy, Debug)]
pub(in crate::replica) struct Read {
    id: RequestId,
    range: Range,
    /// How often it was repeated because a write into its range had begun.
    again: u32,
}

/// What a primary has in hand.
#[derive(Debug)]
pub(super) struct Primary {
    /// Generation of the promotion; names the numbering.
    pub reign: Generation,
    pub stage: Stage,
    /// Since when the promotion runs; members that are silent since then are removed.
    since: Mono,
    /// The entry is durable with this version of the superblock (R8).
    durable_after: u64,
    next: Seq,
    ops: BTreeMap<Seq, Op>,
    pub points: Points,
    /// The progress number given to the newest flush.
    promised: u64,
    /// Parts of writes that are not submitted yet, in order of arrival.
    parts: VecDeque<(RequestId, Change)>,
    requests: BTreeMap<RequestId, Request>,
    /// Reads not yet put out: they overlap a write that is not everywhere.
    reads: VecDeque<Read>,
    /// What reads were about that had to be repeated too often: no new write goes into it before they are done.
    claimed: BTreeMap<RequestId, Range>,
    /// Answers; given only under a valid lease (R11).
    answers: VecDeque<(RequestId, Result<Bytes, FrontError>)>,
    /// Blocks of writes in flight and of chunks being compared: start to end, never overlapping.
    busy: BTreeMap<u64, u64>,
    /// Of these, the writes.
    bytes_in_flight: u64,
    heartbeat_at: Mono,
    heartbeats: BTreeMap<u64, Mono>,
    /// End of the lease while the set is this replica alone.
    alone_until: Mono,
    /// The change that was proposed last and not answered.
    proposal: Option<(u64, GroupChange)>,
    propose_after: Mono,
    /// Members that unanswered or unknown proposals may have made (R3).
    maybe: BTreeMap<ReplicaId, SessionId>,
    /// Members whose removal was proposed and may still be recorded at any time, whatever becomes of us (R3).
    doubted: BTreeSet<ReplicaId>,
    /// A flush of our own, so that extents can cool.
    cooling: Option<Seq>,
    /// The union of all open windows (R6), once known.
    window: Option<Vec<Range>>,
    /// Windows as the members named them.
    windows: BTreeMap<ReplicaId, Vec<Range>>,
    chunk_next: u64,
    demoting: bool,
    /// Set when everything is flushed and the demotion was proposed.
    demote_flush: Option<Seq>,
    quiescing: bool,
    quiesce_flush: Option<Seq>,
    quiesced: bool,
    pub suspended: Option<String>,
}

impl Primary {
    /// Whether requests are taken.
    pub fn serving(&self) -> bool {
        self.stage == Stage::Serving
    }

    /// Numbered operations not yet confirmed by all.
    pub fn in_flight(&self) -> u32 {
        u32::try_from(self.ops.len()).unwrap_or(u32::MAX)
    }

    /// Writes on their way, and until the promotion's first flush the windows that are being reconciled.
    pub fn unsettled(&self) -> impl Iterator<Item = Range> {
        let writes = self.ops.values().filter_map(|op| op.change.as_ref()).map(Change::range);
        let windows = self.windows.values().chain(&self.window).flatten().copied();
        writes.chain(windows.filter(|_| self.stage < Stage::Waiting))
    }

    fn new(reign: Generation, now: Mono, durable_after: u64) -> Self {
        Self {
            reign,
            stage: Stage::Checking,
            since: now,
            durable_after,
            next: 1,
            ops: BTreeMap::new(),
            points: Points::default(),
            promised: 0,
            parts: VecDeque::new(),
            requests: BTreeMap::new(),
            reads: VecDeque::new(),
            claimed: BTreeMap::new(),
            answers: VecDeque::new(),
            busy: BTreeMap::new(),
            bytes_in_flight: 0,
            heartbeat_at: now,
            heartbeats: BTreeMap::new(),
            alone_until: Mono(0),
            proposal: None,
            propose_after: now,
            maybe: BTreeMap::new(),
            doubted: BTreeSet::new(),
            cooling: None,
            window: None,
            windows: BTreeMap::new(),
            chunk_next: 0,
            demoting: false,
            demote_flush: None,
            quiescing: false,
            quiesce_flush: None,
            quiesced: false,
            suspended: None,
        }
    }
}

impl Replica {
    /// Our own ledger records us as primary.
    pub(super) fn promote(&mut self) {
        let generation = self.stamp().generation();
        let durable_after = self.superblock_version;
        // What we followed so far ends; what may not be everywhere is our window (R6).
        self.stream.end_reign();
        self.stream.set_reign(generation);
        self.log.forget_wanted();
        self.log.renumber();
        let now = self.now;
        for peer in self.peers.values_mut() {
            peer.part = PeerPart::Off;
            peer.off_since = now;
            peer.reconciled = false;
            peer.lease_until = Mono(0);
            peer.sync = None;
            peer.ask_after = now;
        }
        self.role = Role::Primary;
        self.primary = Some(Box::new(Primary::new(generation, now, durable_after)));
        self.retrack();
    }

    fn pri(&mut self) -> &mut Primary {
        self.primary.as_mut().expect("invariant: only called in the role of primary")
    }

    /// Whether requests are, or were, served in this reign.
    pub(super) fn stage_serves(&self) -> bool {
        self.stage() == Stage::Serving
    }

    fn stage(&self) -> Stage {
        self.primary.as_ref().map_or(Stage::Checking, |primary| primary.stage)
    }

    pub(super) fn primary_pass(&mut self) {
        self.heartbeat();
        if self.stage() < Stage::Serving {
            self.promotion_pass();
        }
        if self.role != Role::Primary {
            return;
        }
        // An input that only moved data changes nothing about who takes part, and signs of life come often enough.
        if !self.data_only || self.stage() < Stage::Serving {
            self.attach_pass();
            self.members_pass();
            self.lease_pass();
        }
        self.sync_pass();
        if self.stage() == Stage::Serving {
            self.pump();
            self.cool_pass();
            self.hand_over_pass();
            self.answer_pass();
        }
    }

    /// The set changed, and we are still its primary.
    pub(super) fn entry_changed(&mut self, before: &Stamped) {
        let in_sync = self.in_sync();
        let old = before.entry.as_ref().map(|entry| entry.in_sync.clone()).unwrap_or_default();
        let primary = self.pri();
        // Every proposal made so far compared an older generation: none of them can be applied any more (R3).
        primary.maybe.clear();
        primary.doubted.clear();
        primary.proposal = None;
        let now = self.now;
        for (replica, session) in &old {
            if in_sync.get(replica) != Some(session) && *replica != self.superblock.replica {
                self.removed(*replica);
            }
        }
        for (replica, session) in &in_sync {
            if old.get(replica) != Some(session) && *replica != self.superblock.replica {
                self.added(*replica);
            }
        }
        self.pri().propose_after = now;
        let stamp = self.stamp().clone();
        for replica in self.peers_on() {
            self.send(replica, Message::Set(stamp.clone()));
        }
        // After the message: nothing that rests on the new set may reach a member before it.
        self.peer_left();
    }

    /// A newer generation has another primary, or none.
    pub(super) fn depose(&mut self, generation: Generation) {
        let Some(primary) = self.primary.as_ref() else { return };
        let served = primary.stage == Stage::Serving;
        // A hand-over that ends in another's promotion is over just as well: the device's users are gone.
        let planned = primary.demoting;
        // What was submitted and not confirmed by all is our open window, should the successor reconcile us.
        let window: Vec<Range> =
            primary.ops.values().filter_map(|op| op.change.as_ref()).map(Change::range).collect();
        self.depose_requests();
        self.stream.add_older(window);
        self.primary = None;
        self.log.forget_wanted();
        for peer in self.peers.values_mut() {
            peer.part = PeerPart::Off;
            peer.sync = None;
        }
        self.end_lease();
        if planned {
            self.role = Role::Secondary;
            self.fail_held(FrontError::NotPrimary);
            self.fail_with = None;
            self.event(Event::Demoted);
        } else if served {
            self.role = Role::Deposed;
            self.event(Event::Deposed { generation });
        } else {
            self.role = Role::Secondary;
        }
    }

    /// Every request that was not answered is held.
    pub(super) fn depose_requests(&mut self) {
        if let Some(primary) = self.primary.as_mut() {
            let open = std::mem::take(&mut primary.requests).into_keys();
            let reads = std::mem::take(&mut primary.reads).into_iter().map(|read| read.id);
            let answers = std::mem::take(&mut primary.answers).into_iter().map(|(id, _)| id);
            let mut held: Vec<RequestId> = open.chain(reads).chain(answers).collect();
            held.sort_unstable();
            held.dedup();
            self.held.extend(held);
        }
    }

    pub(super) fn primary_message(&mut self, replica: ReplicaId, message: Message) {
        if self.role != Role::Primary {
            return;
        }
        if !matches!(message, Message::LeaseGrant { .. } | Message::FlushWanted)
            && let Some(peer) = self.peers.get_mut(&replica)
        {
            peer.idle_beats = 0;
        }
        match message {
            Message::Attached { number, received, window } => {
                self.attached(replica, number, received, window);
            }
            Message::MapPart { number, virgin, full, last, extents } => {
                let part = MapPart { number, virgin, full, last, extents: &extents };
                self.map_part(replica, &part);
            }
            Message::Ack { reign, seq } => self.confirmed(replica, (reign, seq)),
            Message::FlushAck { reign, seq, progress } => {
                self.note_progress(replica, progress);
                self.confirmed(replica, (reign, seq));
            }
            Message::LeaseGrant { number, granted, progress } => {
                self.note_progress(replica, progress);
                if granted {
                    self.granted(replica, number);
                }
            }
            Message::Differ { id, mask } => self.differ(replica, id, mask),
            Message::Repaired { id } => self.chunk_done(replica, id),
            Message::Finished { progress } => {
                self.note_progress(replica, progress);
                self.sync_finished(replica);
            }
            Message::FlushWanted => self.cool(),
            _ => {}
        }
    }

    /// Peers that take part in the stream.
    fn peers_on(&self) -> Vec<ReplicaId> {
        self.peers.iter().filter(|(_, peer)| peer.part == PeerPart::On).map(|(id, _)| *id).collect()
    }

    /// The other members of the recorded set, and those that a proposal may have made members.
    fn others(&self) -> BTreeSet<ReplicaId> {
        let mut others: BTreeSet<_> = self.recorded().keys().copied().collect();
        if let Some(primary) = &self.primary {
            others.extend(primary.maybe.keys().copied());
        }
        others.remove(&self.superblock.replica);
        others
    }

    /// For whom a write waits (R2): every member, recorded or possible, and everyone else who takes part.
    fn waited_for(&self) -> BTreeSet<ReplicaId> {
        let mut waited = self.others();
        waited.extend(self.peers_on());
        waited
    }

    fn retrack(&mut self) {
        let tracked = self.waited_for();
        self.set_tracked(tracked);
    }

    /// A peer's link is gone.
    pub(super) fn peer_left(&mut self) {
        if self.role == Role::Primary {
            let waited = self.waited_for();
            for op in self.pri().ops.values_mut() {
                op.waiting.retain(|replica| waited.contains(replica));
            }
            self.retrack();
            self.complete_pass();
        }
    }

    pub(super) fn primary_deadline(&self) -> Option<Mono> {
        let primary = self.primary.as_ref()?;
        let mut next = primary.heartbeat_at;
        if primary.stage == Stage::Checking && self.granted_until > self.now {
            next = next.min(self.granted_until);
        }
        Some(next)
    }

    /// Prepares for a planned hand-over: the device's users are gone.
    pub(super) fn demote(&mut self) {
        self.pri().demoting = true;
    }

    pub(super) fn quiesce(&mut self, on: bool) {
        let primary = self.pri();
        primary.quiescing = on;
        primary.quiesced = false;
        primary.quiesce_flush = None;
    }

    /// Planned hand-over and quiescing: wait until nothing is open, flush, go on.
    fn hand_over_pass(&mut self) {
        let primary = self.pri();
        let still = primary.parts.is_empty() && primary.requests.is_empty() && primary.ops.is_empty();
        let quiet = primary.ops.is_empty();
        if primary.quiescing && !primary.quiesced && quiet {
            match primary.quiesce_flush {
                None => {
                    let seq = self.submit_flush(Vec::new());
                    self.pri().quiesce_flush = Some(seq);
                }
                Some(_) => {
                    self.pri().quiesced = true;
                    self.event(Event::Quiesced);
                }
            }
        }
        let now = self.now;
        let primary = self.pri();
        if !primary.demoting || !still {
            return;
        }
        let may_propose = primary.proposal.is_none() && now >= primary.propose_after;
        match primary.demote_flush {
            None => {
                let seq = self.submit_flush(Vec::new());
                self.pri().demote_flush = Some(seq);
            }
            Some(_) if may_propose => {
                // The last points, so that nobody's window stays open. The lease ends before the proposal, so that a
                // successor need not wait for what it granted.
                self.send_heartbeats();
                self.end_lease();
                // Whoever still waits for an answer is gone; none may be given once a successor may serve.
                for (id, _) in std::mem::take(&mut self.pri().answers) {
                    self.out.push(Output::FrontDone { id, result: Err(FrontError::NotPrimary) });
                }
                let change = GroupChange::Demote {
                    group: self.superblock.group,
                    expect: self.stamp().generation(),
                    proposer: self.me(),
                };
                self.propose(change);
            }
            Some(_) => {}
        }
    }

    fn own(&self, seq: Seq) -> For {
        For::Own((self.primary.as_ref().map_or(Generation(0), |primary| primary.reign), seq))
    }

    /// Whether the name is of the present numbering.
    fn current(&self, name: Numbered) -> bool {
        self.primary.as_ref().is_some_and(|primary| primary.reign == name.0)
    }
}
