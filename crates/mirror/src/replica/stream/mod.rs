//! Following a primary: attaching to its stream and carrying it out in order.

mod attach;

use super::disk::For;
use super::{Change, Numbered, Replica, Role, extents_of};
use crate::api::{LinkId, Output};
use crate::codec::Stamped;
use crate::layout::{BLOCK, CHUNK, EXTENT};
use crate::wire::{AttachMode, Message, Points, Range, Seq, WINDOW_MAX};
use anshin_base::{Generation, ReplicaId};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What a primary asks for.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub number: u64,
    pub stamp: Stamped,
    pub reign: Generation,
    pub mode: AttachMode,
}

/// The link that the primary's stream comes over.
#[derive(Debug)]
struct Source {
    link: LinkId,
    replica: ReplicaId,
    asked: Asked,
    /// Nothing had been written here when it asked.
    virgin: bool,
    /// Version of the superblock that must be durable before the answer; None once answered.
    answer_after: Option<u64>,
}

/// A repair that is not submitted yet.
#[derive(Debug)]
struct Repair {
    id: u64,
    offset: u64,
    mask: u64,
    data: Bytes,
}

/// State of a replica that follows.
#[derive(Debug, Default)]
pub(super) struct Stream {
    source: Option<Source>,
    /// Whose numbering; a primary's generation of promotion.
    reign: Generation,
    began: bool,
    received: Seq,
    points: Points,
    /// Numbered operations that are not submitted yet; None is a flush.
    queue: VecDeque<(Seq, Option<Change>)>,
    /// The progress numbers to reach with the queued flushes.
    promised: BTreeMap<Seq, u64>,
    /// Repairs are apart: they may wait for a cooling that waits for a flush, which must not wait for them. The
    /// source keeps writes and repairs of one chunk from meeting.
    repairs: VecDeque<Repair>,
    /// Received and not yet done, flushes included.
    open: BTreeSet<Seq>,
    /// Writes of this reign that are not known to be everywhere (R6).
    window: BTreeMap<Seq, Range>,
    /// The same from earlier reigns, and what a reconciliation overwrote.
    older: Vec<Range>,
    finishing: bool,
    /// Tell the source that the resync is finished when this superblock is durable.
    finished_after: Option<u64>,
    /// The confirmed flush known when a further one was asked for.
    flush_asked: Option<Seq>,
    /// An attach that came before the device of the deposed primary was gone.
    deferred: Option<(LinkId, ReplicaId, Asked)>,
}

impl Stream {
    /// The newest flush that everyone confirmed, as told by the primary.
    pub fn durable(&self) -> Seq {
        self.points.durable
    }

    /// Whose numbering is followed, or was last.
    pub fn reign(&self) -> Generation {
        self.reign
    }

    /// A numbering of our own begins.
    pub fn set_reign(&mut self, reign: Generation) {
        self.reign = reign;
    }

    fn source(&self) -> Option<ReplicaId> {
        self.source.as_ref().map(|source| source.replica)
    }

    /// Everything that may not be everywhere, coalesced if there is too much of it.
    pub fn open_window(&self) -> Vec<Range> {
        let all: Vec<Range> = self.older.iter().chain(self.window.values()).copied().collect();
        coalesce(all)
    }

    pub fn add_older(&mut self, ranges: impl IntoIterator<Item = Range>) {
        self.older.extend(ranges);
        self.older = coalesce(std::mem::take(&mut self.older));
    }

    pub fn forget_windows(&mut self) {
        self.older.clear();
        self.window.clear();
    }

    /// The numbering so far ends: what was not submitted was never confirmed and is dropped; what was, may not be
    /// everywhere.
    pub fn end_reign(&mut self) {
        for (seq, _) in std::mem::take(&mut self.queue) {
            self.window.remove(&seq);
        }
        self.promised.clear();
        self.repairs.clear();
        let window = std::mem::take(&mut self.window).into_values();
        self.add_older(window);
        self.open.clear();
        self.source = None;
        self.began = false;
        self.received = 0;
        self.points = Points::default();
        self.finishing = false;
        self.finished_after = None;
        self.flush_asked = None;
    }
}

/// At most [`WINDOW_MAX`] ranges that cover the given ones.
fn coalesce(mut ranges: Vec<Range>) -> Vec<Range> {
    if ranges.len() < 64 {
        return ranges;
    }
    let mut grain = BLOCK;
    loop {
        let mut blocks: BTreeSet<u64> = BTreeSet::new();
        for range in &ranges {
            blocks.extend(range.offset / grain..range.end().div_ceil(grain));
        }
        if blocks.len() <= WINDOW_MAX || grain >= EXTENT {
            ranges = blocks.into_iter().map(|at| Range { offset: at * grain, length: grain }).collect();
            ranges.truncate(WINDOW_MAX);
            return ranges;
        }
        grain *= 32;
    }
}

impl Replica {
    pub(super) fn stream_link_down(&mut self, link: LinkId) {
        if self.stream.source.as_ref().is_some_and(|source| source.link == link) {
            self.stream.source = None;
            self.stream.finishing = false;
            self.stream.finished_after = None;
        }
        if self.stream.deferred.as_ref().is_some_and(|deferred| deferred.0 == link) {
            self.stream.deferred = None;
        }
    }

    /// The newest entry changed: a stream of another primary is over.
    pub(super) fn stream_learned(&mut self) {
        let Some(source) = &self.stream.source else { return };
        let replica = source.replica;
        let primary = self.stamp().entry.as_ref().and_then(|entry| entry.primary);
        let session = self.peers.get(&replica).map(|peer| peer.session);
        let same = primary.is_some_and(|p| p.replica == replica && Some(p.session) == session);
        // A planned hand-over records no primary; the stream just ends without anything left in it.
        if !same && primary.is_some() {
            self.stream.source = None;
            self.stream.finishing = false;
            self.stream.finished_after = None;
        }
    }

    fn points(&mut self, points: Points) {
        let known = &mut self.stream.points;
        known.everywhere = known.everywhere.max(points.everywhere);
        known.durable = known.durable.max(points.durable);
        self.stream.window = self.stream.window.split_off(&(known.everywhere + 1));
        if let Some(source) = self.stream.source() {
            // Before anything cools that rests on the primary's flush (R7).
            self.note_progress(source, points.progress);
        }
    }

    /// A message of the stream.
    pub(super) fn stream_message(&mut self, link: LinkId, message: Message) {
        let Some(source) = self.stream.source.as_ref().filter(|source| source.link == link) else {
            // Not (or no longer) attached: a deposed primary must learn that (R12).
            return self.refuse(link);
        };
        if source.answer_after.is_some() {
            return self.close(link, "a stream that began before the attach was answered");
        }
        match message {
            Message::Begin { next, points } => self.begin(link, next, points),
            Message::Write { seq, points, offset, data } => {
                self.numbered(link, seq, points, Some(Change::Write { offset, data }));
            }
            Message::Zero { seq, points, range, unmap } => {
                self.numbered(link, seq, points, Some(Change::Zero { range, unmap }));
            }
            Message::Flush { seq, points, progress } => {
                if seq > self.stream.received {
                    self.stream.promised.insert(seq, progress);
                }
                self.numbered(link, seq, points, None);
            }
            Message::Set(stamp) => self.set_in_stream(link, stamp),
            Message::Reconciled => self.stream.older.clear(),
            Message::Compare { id, offset, mask, sums } => self.compare(link, id, offset, mask, sums),
            Message::Repair { id, offset, mask, data } => self.repair(link, id, offset, mask, data),
            Message::Finish => {
                self.stream.finishing = true;
                self.disk.flush(For::Finish, 0);
            }
            _ => {}
        }
    }

    fn refuse(&mut self, link: LinkId) {
        let stamp = self.stamp().clone();
        if stamp.entry.is_some() && self.role != Role::Opening {
            self.out.push(Output::Send { link, message: Message::Newer(stamp) });
        }
    }

    fn begin(&mut self, link: LinkId, next: Seq, points: Points) {
        let resume = self.stream.source.as_ref().is_some_and(|s| s.asked.mode == AttachMode::Resume);
        if next == 0 || (resume && next != self.stream.received + 1) {
            return self.close(link, "a stream that begins at the wrong number");
        }
        if !resume {
            self.stream.received = next - 1;
        }
        self.stream.began = true;
        self.points(points);
    }

    /// A numbered write, zeroing or (None) flush.
    fn numbered(&mut self, link: LinkId, seq: Seq, points: Points, change: Option<Change>) {
        if !self.stream.began || seq == 0 || seq > self.stream.received + 1 {
            return self.close(link, "a gap in the numbering");
        }
        if let Some(change) = &change {
            let range = change.range();
            let aligned = (range.offset | range.length).is_multiple_of(512);
            let inside = aligned && range.length > 0 && range.end() <= self.config.volume_bytes;
            if !inside || *extents_of(range).start() != *extents_of(range).end() {
                return self.close(link, "a write outside the volume or across extents");
            }
        }
        self.points(points);
        if seq <= self.stream.received {
            return self.repeated(seq, change.is_none());
        }
        self.stream.received = seq;
        self.stream.open.insert(seq);
        if let Some(change) = &change {
            self.stream.window.insert(seq, change.range());
        }
        // A flush too: it covers every write received before it, so those must be submitted first.
        self.stream.queue.push_back((seq, change));
    }

    /// Something sent again after the link broke: confirmed again if it is done.
    fn repeated(&mut self, seq: Seq, flush: bool) {
        if self.stream.open.contains(&seq) {
            return;
        }
        let name = (self.stream.reign, seq);
        if flush { self.confirm_flush(name) } else { self.confirm(name) }
    }

    fn set_in_stream(&mut self, link: LinkId, stamp: Stamped) {
        let names_source = stamp.entry.as_ref().and_then(|entry| entry.primary).is_some_and(|primary| {
            self.stream.source.as_ref().is_some_and(|source| source.replica == primary.replica)
        });
        if !names_source {
            return self.close(link, "a set that does not name its sender");
        }
        if stamp.newer_than(self.stamp()) {
            self.learn(stamp.clone());
        }
        let entry = stamp.entry.expect("invariant: it names the source");
        let mut tracked: BTreeSet<_> = entry.in_sync.keys().copied().collect();
        tracked.remove(&self.superblock.replica);
        self.set_tracked(tracked.clone());
        if !entry.holds(self.me()) || !self.stream.older.is_empty() {
            return;
        }
        // Proof of equality (I4): the primary waited for every member, us included, before this was recorded.
        for replica in tracked {
            if let Some(slot) = self.ensure_slot(replica) {
                self.maps[slot].clear_all();
                self.meta.clear_full(slot);
            }
        }
    }

    pub(super) fn stream_pass(&mut self) {
        self.answer_attach();
        if self.stream.finished_after.is_some_and(|version| self.superblock_durable >= version) {
            self.stream.finished_after = None;
            let progress = self.progress_durable;
            if let Some(source) = self.stream.source() {
                self.send(source, Message::Finished { progress });
            }
        }
        self.submit_changes();
        self.submit_repairs();
        self.ask_for_flush();
    }

    fn submit_changes(&mut self) {
        while let Some((seq, change)) = self.stream.queue.pop_front() {
            let name = (self.stream.reign, seq);
            let Some(change) = change else {
                let progress = self.stream.promised.remove(&seq).unwrap_or_default();
                self.disk.flush(For::Stream(name), progress);
                continue;
            };
            let range = change.range();
            let extent = *extents_of(range).start();
            // Urgent: the primary sends only into extents that are hot there, and it tells with each write which flush
            // was confirmed by all; so what cannot cool here is hot there, and a log of the same size has room.
            if !self.log.want(extent, true) || self.disk.touches(&range) {
                self.stream.queue.push_front((seq, Some(change)));
                break;
            }
            self.log.tag(extent, seq);
            self.submit(For::Stream(name), &change);
        }
    }

    fn submit_repairs(&mut self) {
        // A reconciliation must end before anything can cool; a resync can wait for its turn.
        let urgent = !self.superblock.target;
        while let Some(repair) = self.stream.repairs.front() {
            let range = super::chunk_range(repair.offset, repair.mask);
            let extent = *extents_of(range).start();
            if !self.log.want(extent, urgent) || self.disk.touches(&range) {
                break;
            }
            let Some(repair) = self.stream.repairs.pop_front() else { break };
            // Covered only by a flush that is received after this: its number is higher.
            self.log.tag(extent, self.stream.received);
            self.submit_blocks(For::Repair(repair.id), repair.offset, repair.mask, &repair.data);
        }
    }

    /// The log is full of extents that only a flush by everyone lets cool.
    fn ask_for_flush(&mut self) {
        let durable = self.stream.durable();
        if self.log.overrun() {
            // Removed and resynced, it follows again from an empty log.
            if let Some(link) = self.stream.source.as_ref().map(|source| source.link) {
                self.close(link, "the activity log of this replica is too small for its primary's");
            }
            self.log.forget_wanted();
        } else if !self.log.starved() {
            self.stream.flush_asked = None;
        } else if self.stream.flush_asked != Some(durable)
            && let Some(source) = self.stream.source()
        {
            self.stream.flush_asked = Some(durable);
            self.send(source, Message::FlushWanted);
        }
    }

    fn repair(&mut self, link: LinkId, id: u64, offset: u64, mask: u64, data: Bytes) {
        let range = super::chunk_range(offset, mask);
        let sized = data.len() as u64 == u64::from(mask.count_ones()) * BLOCK;
        if mask == 0 || !sized || !offset.is_multiple_of(CHUNK) || range.end() > self.config.volume_bytes {
            return self.close(link, "a repair outside the volume");
        }
        if !self.superblock.target {
            // A member that is being reconciled: it now holds what another member may not hold yet (R6).
            self.stream.add_older([range]);
        }
        self.stream.repairs.push_back(Repair { id, offset, mask, data });
    }

    pub(super) fn repaired(&mut self, id: u64) {
        if let Some(source) = self.stream.source() {
            self.send(source, Message::Repaired { id });
        }
    }

    pub(super) fn stream_written(&mut self, name: Numbered) {
        self.counters.applied += 1;
        if name.0 == self.stream.reign {
            self.stream.open.remove(&name.1);
            self.confirm(name);
        }
    }

    pub(super) fn stream_flushed(&mut self, name: Numbered) {
        if name.0 == self.stream.reign {
            self.stream.open.remove(&name.1);
            self.confirm_flush(name);
        }
    }

    fn confirm(&mut self, (reign, seq): Numbered) {
        if let Some(source) = self.attached_source(reign) {
            self.send(source, Message::Ack { reign, seq });
        }
    }

    fn confirm_flush(&mut self, (reign, seq): Numbered) {
        let progress = self.progress_durable;
        if let Some(source) = self.attached_source(reign) {
            self.send(source, Message::FlushAck { reign, seq, progress });
        }
    }

    /// The primary of that reign, if we are attached to it.
    fn attached_source(&self, reign: Generation) -> Option<ReplicaId> {
        let source = self.stream.source.as_ref()?;
        (source.answer_after.is_none() && source.asked.reign == reign).then_some(source.replica)
    }

    /// Everything that came with the resync is durable: we are consistent, and equal to the source (I4, I5).
    pub(super) fn finish_flushed(&mut self) {
        let Some(source) = self.stream.source().filter(|_| self.stream.finishing) else {
            return;
        };
        self.stream.finishing = false;
        if let Some(slot) = self.slot_of(source) {
            self.maps[slot].clear_all();
            self.meta.clear_full(slot);
        }
        self.superblock.target = false;
        self.healed();
        self.stream.finished_after = Some(self.touch_superblock());
    }

    pub(super) fn lease_request(&mut self, link: LinkId, replica: ReplicaId, number: u64, points: Points) {
        let attached =
            self.stream.source.as_ref().is_some_and(|source| {
                source.link == link && source.answer_after.is_none() && self.stream.began
            });
        if attached {
            self.points(points);
        }
        let session = self.peers.get(&replica).map(|peer| peer.session);
        let primary = self.stamp().entry.as_ref().and_then(|entry| entry.primary);
        let recorded = primary.is_some_and(|p| p.replica == replica && Some(p.session) == session);
        // Also not to one that gave up the role: its last request may come late.
        let granted = attached && recorded;
        if granted {
            let until = self.now.after(self.grant_length());
            self.granted_until = self.granted_until.max(until);
        }
        if primary.is_some() && !recorded {
            // It asks as a primary, but another one is recorded (R12).
            self.refuse(link);
        }
        let progress = self.progress_durable;
        self.send(replica, Message::LeaseGrant { number, granted, progress });
    }
}
