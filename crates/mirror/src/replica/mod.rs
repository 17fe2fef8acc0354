//! The replica: the one owner of all state.
//!
//! [`Replica::handle`] takes one input, changes the state, and then runs [`Replica::pass`] until nothing more can be
//! done without another input. Every part of the core lives in a file of its own as methods of the one owner:
//! reading the metadata (`open`), writing it (`meta`), operations on the data area (`disk`), connections (`links`),
//! what the ledger says (`ledger`), following a primary (`stream`), and being one (`primary`).

mod disk;
mod inspect;
mod ledger;
mod links;
mod meta;
mod open;
mod primary;
mod repair;
mod stream;

use crate::activity::ActivityLog;
use crate::api::{
    Command, Config, DiskError, Event, FrontError, FrontOp, Input, LedgerView, LinkId, Output, Region,
    RequestId, Token,
};
use crate::bitmap::Bitmap;
use crate::bugs::Bugs;
use crate::codec::Stamped;
use crate::layout::{BLOCK, SLOTS};
use crate::status::Counters;
use crate::superblock::{PeerSlot, Superblock};
use crate::wire::{Message, Range, Seq};
use anshin_base::{Generation, Member, Mono, ReplicaId, SessionId, local::ReplicaReport};
use bytes::Bytes;
use links::Peer;
use primary::Primary;
use std::collections::{BTreeMap, BTreeSet};

/// What the replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Opening,
    Secondary,
    /// Recorded as primary; `primary` holds the rest.
    Primary,
    /// Was primary; the device still stands.
    Deposed,
    Failed,
}

/// What a disk command was for.
#[derive(Clone, Debug)]
enum Purpose {
    Open(open::Wanted),
    Meta,
    /// Part of the data operation with this serial number.
    Data(u64),
    DataFlush,
    FrontRead(primary::Read),
    /// The source reads a chunk that it compares with this replica.
    SourceRead(ReplicaId, u64),
    /// The target reads a chunk that the source compares.
    TargetRead(Box<repair::Comparison>),
}

/// One node's copy of a volume.
#[derive(Debug)]
pub struct Replica {
    config: Config,
    bugs: Bugs,
    now: Mono,
    out: Vec<Output>,
    role: Role,
    superblock: Superblock,
    /// Version of the superblock in memory, and the newest that is durable.
    superblock_version: u64,
    superblock_durable: u64,
    /// The progress number in the newest durable superblock.
    progress_durable: u64,
    /// The progress number that the disk presented when this session began (R7).
    progress_loaded: u64,
    /// The superblock that says that the age was checked, and whether it is durable: only then may anyone be told a
    /// higher progress number than the one presented, or a crash would make us look older than we are.
    checked_version: Option<u64>,
    checked: bool,
    log: ActivityLog,
    maps: Vec<Bitmap>,
    meta: meta::Meta,
    disk: disk::Disk,
    tokens: BTreeMap<Token, Purpose>,
    token_next: u64,
    links: BTreeMap<LinkId, links::Link>,
    peers: BTreeMap<ReplicaId, Peer>,
    /// The replicas for which the activity log answers. What is written is marked in the dirty record of all others.
    tracked: BTreeSet<ReplicaId>,
    view: Option<LedgerView>,
    stream: stream::Stream,
    /// No other replica may serve before this: a lease was granted until then, or may have been (R11).
    granted_until: Mono,
    primary: Option<Box<Primary>>,
    /// Requests held by a deposed or failed primary.
    held: Vec<RequestId>,
    /// Held requests are answered with this from now on.
    fail_with: Option<FrontError>,
    opening: open::Opening,
    failure: Option<String>,
    counters: Counters,
    request_next: u64,
    lease_sequence: u64,
    lease_written: (Generation, Mono),
    reported: Option<ReplicaReport>,
    report_after: Mono,
    /// A progress number waits for that moment.
    report_due: bool,
    /// The replica gives up when this version of the superblock is durable, and why.
    fail_after: Option<(u64, &'static str)>,
    /// The oldest disk command that is out, and how many signs of life were sent since it became that.
    oldest_command: (Option<Token>, u64),
    wake_at: Option<Mono>,
    /// When a secondary says next that it lives.
    alive_at: Mono,
    /// The input at hand only moves data: who takes part need not be looked at again.
    data_only: bool,
}

impl Replica {
    /// Starts a replica that was made by [`crate::Format`]. It reads its metadata through `out` and greets nobody
    /// before that is done and its new session is durable.
    #[must_use]
    pub fn open(config: Config, now: Mono, out: &mut Vec<Output>) -> Self {
        Self::open_with(config, now, out, Bugs::default())
    }

    /// As [`Self::open`], with rules broken on purpose.
    #[cfg(feature = "bugs")]
    #[must_use]
    pub fn open_with_bugs(config: Config, now: Mono, out: &mut Vec<Output>, bugs: Bugs) -> Self {
        Self::open_with(config, now, out, bugs)
    }

    fn open_with(config: Config, now: Mono, out: &mut Vec<Output>, bugs: Bugs) -> Self {
        // Replaced as soon as the real one is read; the smallest layout stands in until then.
        let layout = open::placeholder_layout();
        let mut replica = Self {
            bugs,
            now,
            out: std::mem::take(out),
            role: Role::Opening,
            superblock: open::placeholder(layout, config.session),
            superblock_version: 0,
            superblock_durable: 0,
            progress_durable: 0,
            progress_loaded: 0,
            checked_version: None,
            checked: false,
            log: ActivityLog::new(layout),
            maps: (0..SLOTS).map(|_| Bitmap::new(layout)).collect(),
            meta: meta::Meta::default(),
            disk: disk::Disk::default(),
            tokens: BTreeMap::new(),
            token_next: 0,
            links: BTreeMap::new(),
            peers: BTreeMap::new(),
            tracked: BTreeSet::new(),
            view: None,
            stream: stream::Stream::default(),
            granted_until: Mono(0),
            primary: None,
            held: Vec::new(),
            fail_with: None,
            opening: open::Opening::default(),
            failure: None,
            counters: Counters::default(),
            request_next: 0,
            lease_sequence: 0,
            lease_written: (Generation(0), Mono(0)),
            reported: None,
            report_after: Mono(0),
            report_due: false,
            fail_after: None,
            oldest_command: (None, 0),
            wake_at: None,
            alive_at: now,
            data_only: false,
            config,
        };
        replica.open_start();
        std::mem::swap(out, &mut replica.out);
        replica
    }

    /// Takes one input at the time `now` and appends what is to be done to `out`, in order. `now` never goes back.
    pub fn handle(&mut self, now: Mono, input: Input, out: &mut Vec<Output>) {
        self.now = self.now.max(now);
        self.out = std::mem::take(out);
        self.data_only = moves_data(&input);
        match input {
            Input::Tick => {}
            Input::Front { id, op } => self.front(id, op),
            Input::DiskDone { token, result } => self.disk_done(token, result),
            Input::LinkUp { link } => self.link_up(link),
            Input::LinkDown { link } => self.link_down(link),
            Input::Received { link, message } => self.received(link, message),
            Input::Ledger(view) => self.ledger_view(view),
            Input::Proposed { request, outcome } => self.proposed(request, outcome),
            Input::Command(command) => self.command(command),
        }
        // The end of a pass may enable the beginning of the next without putting anything out; two that put nothing
        // out have nothing left to do. Sixteen is far beyond what chains.
        let mut quiet = 0;
        for _ in 0..16 {
            let before = self.out.len();
            self.pass();
            quiet = if self.out.len() == before { quiet + 1 } else { 0 };
            if quiet == 2 {
                break;
            }
        }
        self.report();
        self.wake();
        std::mem::swap(out, &mut self.out);
    }

    /// Does what can be done now.
    fn pass(&mut self) {
        if !self.checked && self.checked_version.is_some_and(|version| self.superblock_durable >= version) {
            self.checked = true;
            self.greet_all();
        }
        if let Some((_, why)) = self.fail_after.filter(|(version, _)| self.superblock_durable >= *version) {
            self.fail(why);
        }
        if self.own_disk_hangs() {
            self.fail("the replica's disk does not answer; another copy can take over");
        }
        match self.role {
            Role::Opening => self.open_pass(),
            Role::Failed => return,
            Role::Secondary | Role::Deposed => {
                self.alive_pass();
                self.stream_pass();
            }
            Role::Primary => self.primary_pass(),
        }
        self.disk_pass();
        self.meta_pass();
    }

    fn command(&mut self, command: Command) {
        match (command, self.role) {
            (Command::FailSuspended, Role::Deposed) => self.fail_held(FrontError::NotPrimary),
            (Command::FailSuspended, Role::Failed) => self.fail_held(FrontError::Io),
            (Command::DeviceGone, Role::Deposed) => {
                self.fail_held(FrontError::NotPrimary);
                self.fail_with = None;
                self.role = Role::Secondary;
                self.take_deferred_attach();
                if let Some(view) = self.view.clone() {
                    self.ledger_view(view);
                }
            }
            (Command::Demote, Role::Primary) => self.demote(),
            (Command::Quiesce, Role::Primary) => self.quiesce(true),
            (Command::Resume, Role::Primary) => self.quiesce(false),
            // Nothing to fail, demote or quiesce: said so that the daemon does not wait for an event in vain.
            (Command::Demote, _) => self.event(Event::Demoted),
            _ => {}
        }
    }

    fn fail_held(&mut self, error: FrontError) {
        self.fail_with = Some(error);
        for id in std::mem::take(&mut self.held) {
            self.out.push(Output::FrontDone { id, result: Err(error) });
        }
    }

    fn front(&mut self, id: RequestId, op: FrontOp) {
        match (self.role, self.fail_with) {
            (Role::Primary, _) => self.front_request(id, op),
            (Role::Deposed | Role::Failed, None) => self.held.push(id),
            (_, error) => {
                let error = error.unwrap_or(FrontError::NotPrimary);
                self.out.push(Output::FrontDone { id, result: Err(error) });
            }
        }
    }

    /// The replica cannot be trusted any more: a failed flush or write leaves unknown what is on the disk.
    fn fail(&mut self, why: &str) {
        if self.role == Role::Failed {
            return;
        }
        self.depose_requests();
        self.primary = None;
        self.role = Role::Failed;
        self.failure = Some(why.to_owned());
        self.end_lease();
        for link in std::mem::take(&mut self.links).into_keys() {
            self.out.push(Output::Close { link, why: why.to_owned() });
        }
        self.peers.values_mut().for_each(Peer::unlink);
        self.event(Event::Failed { why: why.to_owned() });
    }

    fn disk_done(&mut self, token: Token, result: Result<Bytes, DiskError>) {
        let Some(purpose) = self.tokens.remove(&token) else {
            return;
        };
        if self.role == Role::Failed {
            return;
        }
        match (purpose, result) {
            (Purpose::FrontRead(_), Err(_)) if self.another_serves() => self.leave_to_another(),
            (Purpose::FrontRead(read), result) => self.front_read_done(read, result),
            (Purpose::SourceRead(peer, id), Ok(data)) => self.source_read(peer, id, data),
            (Purpose::SourceRead(peer, _), Err(error)) => {
                self.drop_peer(peer, &format!("the source of the resync cannot be read: {error}"));
            }
            (Purpose::TargetRead(comparison), Ok(data)) => self.target_read(&comparison, &data),
            // What cannot be read is replaced; a disk gives a bad sector another place when it is written.
            (Purpose::TargetRead(comparison), Err(_)) => self.target_read(&comparison, &[]),
            (Purpose::Open(wanted), Ok(data)) => self.opened(wanted, &data),
            (Purpose::Meta, Ok(_)) => self.meta_done(),
            (Purpose::Data(serial), Ok(_)) => self.data_done(serial),
            (Purpose::DataFlush, Ok(_)) => self.data_flushed(),
            (_, Err(error)) => self.fail(&format!("the replica's disk failed: {error}")),
        }
    }

    fn token(&mut self, purpose: Purpose) -> Token {
        self.token_next += 1;
        let token = Token(self.token_next);
        self.tokens.insert(token, purpose);
        token
    }

    fn read(&mut self, purpose: Purpose, region: Region, offset: u64, length: u64) {
        let token = self.token(purpose);
        let length = u32::try_from(length).expect("invariant: reads are bounded by their makers");
        self.out.push(Output::DiskRead { token, region, offset, length });
    }

    fn event(&mut self, event: Event) {
        self.out.push(Output::Event(event));
    }

    /// This replica in its present session.
    fn me(&self) -> Member {
        Member { replica: self.superblock.replica, session: self.config.session }
    }

    /// The newest entry known.
    fn stamp(&self) -> &Stamped {
        &self.superblock.stamp
    }

    /// The recorded set.
    fn recorded(&self) -> &BTreeMap<ReplicaId, SessionId> {
        static NOBODY: BTreeMap<ReplicaId, SessionId> = BTreeMap::new();
        self.stamp().entry.as_ref().map_or(&NOBODY, |entry| &entry.in_sync)
    }

    /// A copy of the recorded set, for those who change something while they look at it.
    fn in_sync(&self) -> BTreeMap<ReplicaId, SessionId> {
        self.recorded().clone()
    }

    fn slot_of(&self, replica: ReplicaId) -> Option<usize> {
        self.superblock.slots.iter().position(|slot| slot.replica == replica)
    }

    /// The bitmap towards `replica`; a replica never met before may differ everywhere. None if all are taken by
    /// replicas that still count.
    fn ensure_slot(&mut self, replica: ReplicaId) -> Option<usize> {
        if replica.0 == 0 || replica == self.superblock.replica {
            return None;
        }
        if let Some(slot) = self.slot_of(replica) {
            return Some(slot);
        }
        let in_sync = self.recorded();
        let places = self.view.as_ref().map(|view| &view.places[..]).unwrap_or_default();
        let slot = self.superblock.slots.iter().position(|slot| {
            slot.replica.0 == 0
                || (!in_sync.contains_key(&slot.replica)
                    && !self.peers.contains_key(&slot.replica)
                    && !places.iter().any(|place| place.replica == slot.replica))
        })?;
        let full = !self.bugs.trust_newcomer();
        self.superblock.slots[slot] = PeerSlot { replica, full, highest: 0, session: SessionId(0) };
        self.maps[slot].clear_all();
        if full {
            self.maps[slot].set_all();
        }
        self.maps[slot].unsave_all();
        self.touch_superblock();
        Some(slot)
    }

    /// Everything may differ from `slot`'s replica.
    fn set_full(&mut self, slot: usize) {
        self.meta.keep_full(slot);
        self.maps[slot].set_all();
        if !self.superblock.slots[slot].full {
            self.superblock.slots[slot].full = true;
            self.touch_superblock();
        }
    }

    /// Notes in every dirty record that is not covered by the log what is about to be written (I3).
    fn mark(&mut self, range: Range) {
        for slot in 0..SLOTS {
            let owner = self.superblock.slots[slot].replica;
            if owner.0 != 0 && !self.tracked.contains(&owner) {
                self.maps[slot].set(range);
            }
        }
    }

    /// Changes for whom the log answers. Who leaves may lack everything that is hot at this moment (R5).
    fn set_tracked(&mut self, tracked: BTreeSet<ReplicaId>) {
        for replica in self.tracked.difference(&tracked).copied().collect::<Vec<_>>() {
            if let Some(slot) = self.slot_of(replica) {
                self.hot_into(slot);
            }
        }
        self.tracked = tracked;
    }

    /// Marks everything hot in the dirty record of one slot.
    fn hot_into(&mut self, slot: usize) {
        for extent in self.log.extents().collect::<Vec<_>>() {
            self.maps[slot].set_extent(extent);
        }
    }

    /// Asks for a wake-up at the next moment at which time alone changes something.
    fn wake(&mut self) {
        let next = self.next_deadline();
        if let Some(at) = next.filter(|_| next != self.wake_at) {
            self.out.push(Output::WakeAt(at));
        }
        self.wake_at = next;
    }

    fn next_deadline(&self) -> Option<Mono> {
        let own = match self.role {
            Role::Primary => self.primary_deadline(),
            Role::Secondary | Role::Deposed => {
                self.peers.values().any(|peer| peer.link.is_some()).then_some(self.alive_at)
            }
            Role::Opening | Role::Failed => None,
        };
        let report = self.report_due.then_some(self.report_after);
        own.into_iter().chain(report).min()
    }
}

/// Whether an input is one of the many that only move data.
fn moves_data(input: &Input) -> bool {
    match input {
        Input::Front { .. } | Input::DiskDone { .. } => true,
        Input::Received { message, .. } => {
            matches!(message, Message::Write { .. } | Message::Ack { .. } | Message::FlushAck { .. })
        }
        _ => false,
    }
}

/// Extents that a range touches; never more than two for a part of a write.
fn extents_of(range: Range) -> std::ops::RangeInclusive<u32> {
    let extent = |offset: u64| {
        u32::try_from(offset / crate::layout::EXTENT).expect("invariant: checked to be inside the volume")
    };
    extent(range.offset)..=extent(range.end().max(range.offset + 1) - 1)
}

/// The range of one chunk, cut at the end of the volume.
fn chunk_range(offset: u64, mask: u64) -> Range {
    let blocks = 64 - u64::from(mask.leading_zeros());
    Range { offset, length: blocks * BLOCK }
}

/// A numbered operation as a replica carries it out.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Write { offset: u64, data: Bytes },
    Zero { range: Range, unmap: bool },
}

impl Change {
    fn range(&self) -> Range {
        match self {
            Self::Write { offset, data } => Range { offset: *offset, length: data.len() as u64 },
            Self::Zero { range, .. } => *range,
        }
    }

    /// Memory that it keeps.
    fn bytes(&self) -> u64 {
        match self {
            Self::Write { data, .. } => data.len() as u64,
            Self::Zero { .. } => 0,
        }
    }
}

/// Names a numbered operation across promotions.
type Numbered = (Generation, Seq);
