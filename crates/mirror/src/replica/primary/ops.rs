//! Numbered operations: sent to all, waited for from all (R2), completed.

use super::{Op, Replica, Stage};
use crate::api::RequestId;
use crate::layout::BLOCK;
use crate::replica::{Change, Numbered, extents_of};
use crate::wire::{Message, Points, Range, Seq};
use anshin_base::ReplicaId;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// Whether a range of blocks overlaps one that is marked busy.
pub(super) fn overlaps(busy: &BTreeMap<u64, u64>, range: &Range) -> bool {
    let (start, end) = (range.offset / BLOCK, range.end().div_ceil(BLOCK));
    busy.range(..end).next_back().is_some_and(|(_, until)| *until > start)
}

pub(super) fn mark_busy(busy: &mut BTreeMap<u64, u64>, range: &Range) {
    busy.insert(range.offset / BLOCK, range.end().div_ceil(BLOCK));
}

pub(super) fn unmark_busy(busy: &mut BTreeMap<u64, u64>, range: &Range) {
    busy.remove(&(range.offset / BLOCK));
}

impl super::Primary {
    /// Whether a write into the range is in flight.
    pub(super) fn writes_into(&self, range: &Range) -> bool {
        overlaps(&self.busy, range)
            && self.ops.values().any(|op| op.change.as_ref().is_some_and(|c| c.range().touches(range)))
    }
}

impl Replica {
    /// The message of an operation, as sent first or again.
    fn op_message(&self, seq: Seq, change: Option<&Change>, progress: u64) -> Message {
        let points = self.points_now();
        match change {
            Some(Change::Write { offset, data }) => {
                Message::Write { seq, points, offset: *offset, data: data.clone() }
            }
            Some(Change::Zero { range, unmap }) => {
                Message::Zero { seq, points, range: *range, unmap: *unmap }
            }
            None => Message::Flush { seq, points, progress },
        }
    }

    /// How far everyone is at this moment.
    pub(super) fn points_now(&self) -> Points {
        let points = self.primary.as_ref().map_or(Points::default(), |primary| primary.points);
        Points { progress: self.progress_durable, ..points }
    }

    /// The progress number that everyone reaches with the next flush: higher than any member's. So the numbers of
    /// different replicas can be compared after a restart of all (R7).
    fn next_progress(&mut self) -> u64 {
        let members = self.waited_for();
        let slots = self.superblock.slots.iter().filter(|slot| members.contains(&slot.replica));
        let known = slots.map(|slot| slot.highest).max().unwrap_or_default();
        let primary = self.primary.as_mut().expect("invariant: only a primary numbers flushes");
        let highest = known.max(self.superblock.progress).max(primary.promised);
        primary.promised = highest.saturating_add(1);
        primary.promised
    }

    fn number(&mut self, change: Option<Change>, requests: Vec<RequestId>) -> Seq {
        let waiting = if self.bugs.acknowledge_alone() { BTreeSet::new() } else { self.waited_for() };
        let seq = self.pri().next;
        self.pri().next += 1;
        let progress = if change.is_none() { self.next_progress() } else { 0 };
        let message = self.op_message(seq, change.as_ref(), progress);
        for replica in self.peers_on() {
            self.send(replica, message.clone());
        }
        self.pri().ops.insert(seq, Op { change, progress, waiting, local: true, requests });
        seq
    }

    /// Submits a write whose extent is hot and that overlaps nothing in flight.
    pub(super) fn submit_change(&mut self, id: RequestId, change: Change) {
        let range = change.range();
        let seq = self.number(Some(change.clone()), vec![id]);
        let logged = *extents_of(range).start();
        if !self.bugs.write_before_log() || self.log.contains(logged) {
            self.log.tag(logged, seq);
        }
        let primary = self.pri();
        mark_busy(&mut primary.busy, &range);
        primary.bytes_in_flight += change.bytes();
        let what = self.own(seq);
        self.submit(what, &change);
    }

    /// Submits a flush that covers everything submitted so far, everywhere.
    pub(super) fn submit_flush(&mut self, requests: Vec<RequestId>) -> Seq {
        let seq = self.number(None, requests);
        let what = self.own(seq);
        let progress = self.pri().promised;
        self.disk.flush(what, progress);
        seq
    }

    pub(in crate::replica) fn own_written(&mut self, name: Numbered) {
        if self.current(name) {
            if let Some(op) = self.pri().ops.get_mut(&name.1) {
                op.local = false;
            }
            self.complete(name.1);
        }
    }

    pub(in crate::replica) fn own_flushed(&mut self, name: Numbered) {
        self.own_written(name);
    }

    /// A peer has done an operation.
    pub(super) fn confirmed(&mut self, replica: ReplicaId, name: Numbered) {
        if self.current(name) {
            if let Some(op) = self.pri().ops.get_mut(&name.1) {
                op.waiting.remove(&replica);
            }
            self.complete(name.1);
        }
    }

    /// Completes whatever waits for nobody any more.
    pub(super) fn complete_pass(&mut self) {
        let done: Vec<Seq> = self
            .pri()
            .ops
            .iter()
            .filter(|(_, op)| !op.local && op.waiting.is_empty())
            .map(|(seq, _)| *seq)
            .collect();
        for seq in done {
            self.complete(seq);
        }
    }

    fn complete(&mut self, seq: Seq) {
        let primary = self.pri();
        match primary.ops.get(&seq) {
            Some(op) if !op.local && op.waiting.is_empty() => {}
            _ => return,
        }
        let Some(op) = primary.ops.remove(&seq) else { return };
        if let Some(change) = &op.change {
            unmark_busy(&mut primary.busy, &change.range());
            primary.bytes_in_flight -= change.bytes();
        } else {
            primary.points.durable = primary.points.durable.max(seq);
        }
        primary.points.everywhere = primary.ops.keys().next().copied().unwrap_or(primary.next) - 1;
        if primary.cooling == Some(seq) {
            primary.cooling = None;
            // Who waits for this to cool an extent learns it at once.
            self.send_heartbeats();
        }
        for id in op.requests {
            self.request_step(id);
        }
    }

    /// One part of a request, or its flush, is done.
    fn request_step(&mut self, id: RequestId) {
        let Some(request) = self.pri().requests.get_mut(&id) else { return };
        request.left -= 1;
        if request.left > 0 {
            return;
        }
        if std::mem::take(&mut request.fua) {
            request.left = 1;
            self.submit_flush(vec![id]);
            return;
        }
        self.pri().requests.remove(&id);
        self.pri().answers.push_back((id, Ok(Bytes::new())));
    }

    /// What a member that lost its link has not confirmed is sent again, in order.
    pub(super) fn send_again(&mut self, replica: ReplicaId, received: Seq) {
        let missing: Vec<(Seq, Option<Change>, u64)> = self
            .pri()
            .ops
            .iter()
            .filter(|(seq, op)| **seq > received || op.waiting.contains(&replica))
            .map(|(seq, op)| (*seq, op.change.clone(), op.progress))
            .collect();
        for (seq, change, progress) in missing {
            let message = self.op_message(seq, change.as_ref(), progress);
            self.send(replica, message);
        }
    }

    /// Writes wait for room in the log: let everyone flush, so that extents can cool (R5).
    pub(super) fn cool_pass(&mut self) {
        if self.log.starved() {
            self.cool();
        }
    }

    pub(super) fn cool(&mut self) {
        if self.stage() >= Stage::Flushing && self.pri().cooling.is_none() {
            let seq = self.submit_flush(Vec::new());
            self.pri().cooling = Some(seq);
        }
    }
}
