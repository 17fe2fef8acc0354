//! Requests of the volume's user.

use super::ops::overlaps;
use super::{IN_FLIGHT_BYTES_MAX, IN_FLIGHT_MAX, Read, Replica, Request, Stage};
use crate::api::{DiskError, FrontError, FrontOp, Output, Region, RequestId};
use crate::layout::{EXTENT, PART_MAX};
use crate::replica::{Change, Purpose, extents_of};
use crate::wire::Range;
use bytes::Bytes;
use std::collections::VecDeque;

/// Longest zeroing in one part: a whole extent, as it carries no data.
const ZERO_PART_MAX: u64 = EXTENT;

/// Parts that are looked at beyond those that cannot go yet.
const WAITING_MAX: usize = 64;

/// How often a read is repeated because of writes that begin meanwhile, before these wait for it.
const READ_AGAIN_MAX: u32 = 4;

/// Cuts a range at the ends of extents and at `part_max`.
fn cut(range: Range, part_max: u64) -> Vec<Range> {
    let mut parts = Vec::new();
    let mut offset = range.offset;
    while offset < range.end() {
        let until = range.end().min(offset + part_max).min((offset / EXTENT + 1) * EXTENT);
        parts.push(Range { offset, length: until - offset });
        offset = until;
    }
    parts
}

impl Replica {
    fn refuse_front(&mut self, id: RequestId, error: FrontError) {
        self.out.push(Output::FrontDone { id, result: Err(error) });
    }

    fn check(&self, offset: u64, length: u64) -> Option<Range> {
        let end = offset.checked_add(length)?;
        let aligned = (offset | length).is_multiple_of(512);
        (aligned && end <= self.config.volume_bytes).then_some(Range { offset, length })
    }

    pub(in crate::replica) fn front_request(&mut self, id: RequestId, op: FrontOp) {
        if self.stage() < Stage::Serving || self.pri().demoting {
            return self.refuse_front(id, FrontError::NotPrimary);
        }
        let range = match &op {
            FrontOp::Flush => Some(Range { offset: 0, length: 0 }),
            FrontOp::Read { offset, length } => self.check(*offset, u64::from(*length)),
            FrontOp::Write { offset, data, .. } => self.check(*offset, data.len() as u64),
            FrontOp::Trim { offset, length } | FrontOp::WriteZeroes { offset, length, .. } => {
                self.check(*offset, *length)
            }
        };
        let Some(range) = range else {
            return self.refuse_front(id, FrontError::Range);
        };
        match op {
            FrontOp::Flush => {
                self.counters.flushes += 1;
                self.pri().requests.insert(id, Request { left: 1, fua: false });
                self.submit_flush(vec![id]);
            }
            FrontOp::Read { .. } => {
                self.counters.reads += 1;
                self.counters.read_bytes += range.length;
                self.pri().reads.push_back(Read { id, range, again: 0 });
            }
            FrontOp::Write { data, fua, .. } => {
                let parts = cut(range, PART_MAX).into_iter().map(|part| {
                    let at = |offset: u64| {
                        usize::try_from(offset - range.offset).expect("invariant: inside the data")
                    };
                    Change::Write { offset: part.offset, data: data.slice(at(part.offset)..at(part.end())) }
                });
                self.queue(id, parts.collect(), fua, range.length);
            }
            FrontOp::Trim { .. } => self.queue_zeroes(id, range, true, false),
            FrontOp::WriteZeroes { unmap, fua, .. } => self.queue_zeroes(id, range, unmap, fua),
        }
    }

    fn queue_zeroes(&mut self, id: RequestId, range: Range, unmap: bool, fua: bool) {
        let parts = cut(range, ZERO_PART_MAX).into_iter().map(|range| Change::Zero { range, unmap });
        self.queue(id, parts.collect(), fua, range.length);
    }

    fn queue(&mut self, id: RequestId, parts: Vec<Change>, fua: bool, bytes: u64) {
        self.counters.writes += 1;
        self.counters.written_bytes += bytes;
        let left = u32::try_from(parts.len()).expect("invariant: a volume has fewer parts");
        let primary = self.pri();
        if left == 0 {
            primary.answers.push_back((id, Ok(Bytes::new())));
            return;
        }
        primary.requests.insert(id, Request { left, fua });
        primary.parts.extend(parts.into_iter().map(|part| (id, part)));
    }

    /// Submits every part whose turn has come. Overlapping writes are never in flight together, so that every replica
    /// applies them in the same order; parts that wait for a cold extent do not hold up others.
    pub(super) fn pump(&mut self) {
        self.pump_reads();
        if self.pri().quiescing || self.pri().parts.is_empty() {
            return;
        }
        let mut claims: Vec<Range> = self.claims();
        claims.extend(self.pri().claimed.values());
        let mut parts = std::mem::take(&mut self.pri().parts);
        let mut waiting: VecDeque<(RequestId, Change)> = VecDeque::new();
        // When this many wait, later ones are not looked at: keeps one pass short whatever the queue.
        while waiting.len() < WAITING_MAX {
            let primary = self.pri();
            let room = primary.bytes_in_flight < IN_FLIGHT_BYTES_MAX && primary.ops.len() < IN_FLIGHT_MAX;
            if !room {
                break;
            }
            let Some((id, change)) = parts.pop_front() else { break };
            let range = change.range();
            let free = !overlaps(&primary.busy, &range)
                && !claims.iter().any(|claim| claim.touches(&range))
                && !waiting.iter().any(|(_, earlier)| earlier.range().touches(&range));
            let hot =
                free && (self.log.want(*extents_of(range).start(), false) || self.bugs.write_before_log());
            if hot {
                self.submit_change(id, change);
            } else {
                waiting.push_back((id, change));
            }
        }
        for part in waiting.into_iter().rev() {
            parts.push_front(part);
        }
        self.pri().parts = parts;
    }

    /// Reads wait for writes in flight on the same blocks: what was read must never be taken back by a failover.
    fn pump_reads(&mut self) {
        let reads = std::mem::take(&mut self.pri().reads);
        for read in reads {
            let Read { id, range, .. } = read;
            if self.pri().writes_into(&range) {
                self.pri().reads.push_back(read);
            } else if range.length == 0 {
                self.pri().answers.push_back((id, Ok(Bytes::new())));
            } else {
                self.pri().requests.insert(id, Request { left: 1, fua: false });
                self.read(Purpose::FrontRead(read), Region::Data, range.offset, range.length);
            }
        }
    }

    pub(in crate::replica) fn front_read_done(&mut self, read: Read, result: Result<Bytes, DiskError>) {
        let Read { id, range, again } = read;
        let Some(primary) = self.primary.as_mut() else { return };
        if primary.requests.remove(&id).is_none() {
            return;
        }
        let result = match result {
            Ok(data) if data.len() as u64 == range.length => Ok(data),
            _ => Err(FrontError::Io),
        };
        // A write that began after the read may be in what was read, and be undone by a failover: read again after it.
        if result.is_ok() && primary.writes_into(&range) {
            primary.reads.push_back(Read { id, range, again: again + 1 });
            if again + 1 == READ_AGAIN_MAX {
                primary.claimed.insert(id, range);
            }
        } else {
            primary.claimed.remove(&id);
            primary.answers.push_back((id, result));
        }
    }

    /// Answers, if the lease is valid at this moment (R11). The data does not rest on the clock, only who may speak:
    /// a successor's first answer comes after our last. And only while it is known who is in the set (R3).
    pub(super) fn answer_pass(&mut self) {
        if !self.lease_valid() || self.in_doubt() {
            return;
        }
        for (id, result) in std::mem::take(&mut self.pri().answers) {
            self.out.push(Output::FrontDone { id, result });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_never_cross_an_extent_nor_exceed_their_maximum() {
        let range = Range { offset: EXTENT - 512, length: 3 * PART_MAX };
        let parts = cut(range, PART_MAX);
        assert_eq!(parts[0], Range { offset: EXTENT - 512, length: 512 });
        assert_eq!(parts.iter().map(|part| part.length).sum::<u64>(), range.length);
        assert!(parts.iter().all(|part| part.offset / EXTENT == (part.end() - 1) / EXTENT));
        assert!(parts.windows(2).all(|pair| pair[0].end() == pair[1].offset));
    }
}
