//! Operations on the data area, for the own stream and for a primary's alike, and the flushes that order them.
//!
//! A flush is put out when every operation submitted before it has completed, because a disk flush covers only what
//! had completed. Flushes that are ready together share one. After each goes a higher progress number (R7), and the
//! flush is done when the number is durable. Data first, then the number: an image of the disk taken at any instant
//! that shows the number holds everything that was confirmed with it.

use super::{Change, Numbered, Purpose, Replica};
use crate::api::{Output, Region};
use crate::layout::BLOCK;
use crate::wire::Range;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

/// For whom an operation or flush is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    /// Our own numbering, as primary.
    Own(Numbered),
    /// The numbering of the primary that we follow.
    Stream(Numbered),
    /// A repair by the source of a resync, by its chunk.
    Repair(u64),
    /// The end of a resync into this replica.
    Finish,
}

#[derive(Debug)]
struct InFlight {
    what: For,
    range: Range,
    /// Disk commands that are out.
    left: u32,
}

#[derive(Debug)]
struct Running {
    /// Version of the superblock that carries the progress number; None while the data is being flushed.
    version: Option<u64>,
    /// The progress number that the flush must at least reach.
    progress: u64,
    items: Vec<For>,
}

/// What is on its way to the data area.
#[derive(Debug, Default)]
pub(super) struct Disk {
    serial_next: u64,
    in_flight: BTreeMap<u64, InFlight>,
    flushes: VecDeque<(u64, For, u64)>,
    running: Option<Running>,
}

impl Disk {
    /// Nothing is being written.
    pub fn idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    pub fn touches(&self, range: &Range) -> bool {
        self.in_flight.values().any(|op| op.range.touches(range))
    }

    /// A queued flush covers exactly what was submitted until now, and ends with at least this progress number.
    pub fn flush(&mut self, what: For, progress: u64) {
        self.flushes.push_back((self.serial_next, what, progress));
    }
}

impl Replica {
    /// Submits a change whose extents are hot. The dirty records are marked first (I3).
    pub(super) fn submit(&mut self, what: For, change: &Change) {
        let range = change.range();
        self.mark(range);
        let serial = self.start(what, range, 1);
        let token = self.token(Purpose::Data(serial));
        self.out.push(match change {
            Change::Write { offset, data } => {
                Output::DiskWrite { token, region: Region::Data, offset: *offset, data: data.clone() }
            }
            Change::Zero { range, unmap } => {
                Output::DiskZero { token, offset: range.offset, length: range.length, unmap: *unmap }
            }
        });
    }

    /// Submits the blocks of a chunk that are set in `mask`; runs of blocks are written together.
    pub(super) fn submit_blocks(&mut self, what: For, offset: u64, mask: u64, data: &Bytes) {
        let runs = runs(mask);
        let range = super::chunk_range(offset, mask);
        let left = u32::try_from(runs.len()).expect("invariant: at most 32 runs");
        let serial = self.start(what, range, left);
        let mut taken = 0;
        for (first, count) in runs {
            let bytes = usize::try_from(count * BLOCK).expect("invariant: at most one chunk");
            let (offset, data) = (offset + first * BLOCK, data.slice(taken..taken + bytes));
            taken += bytes;
            self.mark(Range { offset, length: count * BLOCK });
            let token = self.token(Purpose::Data(serial));
            self.out.push(Output::DiskWrite { token, region: Region::Data, offset, data });
        }
    }

    fn start(&mut self, what: For, range: Range, left: u32) -> u64 {
        let serial = self.disk.serial_next;
        self.disk.serial_next += 1;
        self.disk.in_flight.insert(serial, InFlight { what, range, left });
        serial
    }

    pub(super) fn data_done(&mut self, serial: u64) {
        let Some(op) = self.disk.in_flight.get_mut(&serial) else {
            return;
        };
        op.left -= 1;
        if op.left > 0 {
            return;
        }
        let what = op.what;
        self.disk.in_flight.remove(&serial);
        match what {
            For::Own(name) => self.own_written(name),
            For::Stream(name) => self.stream_written(name),
            For::Repair(id) => self.repaired(id),
            For::Finish => {}
        }
    }

    pub(super) fn disk_pass(&mut self) {
        let durable = self.superblock_durable;
        if self.disk.running.as_ref().is_some_and(|running| running.version.is_some_and(|v| durable >= v)) {
            // Before anything is confirmed that rests on the number.
            self.report();

            let items = self.disk.running.take().map(|running| running.items).unwrap_or_default();
            for what in items {
                match what {
                    For::Own(name) => self.own_flushed(name),
                    For::Stream(name) => self.stream_flushed(name),
                    For::Finish => self.finish_flushed(),
                    For::Repair(_) => {}
                }
            }
        }
        if self.disk.running.is_some() {
            return;
        }
        let first = self.disk.in_flight.keys().next().copied().unwrap_or(u64::MAX);
        let (mut items, mut progress) = (Vec::new(), 0);
        while let Some((after, what, least)) = self.disk.flushes.front().copied() {
            if first < after {
                break;
            }
            self.disk.flushes.pop_front();
            items.push(what);
            progress = progress.max(least);
        }
        if items.is_empty() {
            return;
        }
        self.counters.disk_flushes += 1;
        let token = self.token(Purpose::DataFlush);
        self.out.push(Output::DiskFlush { token, region: Region::Data });
        self.disk.running = Some(Running { version: None, progress, items });
    }

    pub(super) fn data_flushed(&mut self) {
        let Some(least) = self.disk.running.as_ref().map(|running| running.progress) else { return };
        self.superblock.progress = self.superblock.progress.saturating_add(1).max(least);
        let version = self.touch_superblock();
        if let Some(running) = &mut self.disk.running {
            running.version = Some(version);
        }
    }
}

/// Runs of set bits: first block and count.
fn runs(mask: u64) -> Vec<(u64, u64)> {
    let mut found: Vec<(u64, u64)> = Vec::new();
    for block in (0..64).filter(|bit| mask >> bit & 1 == 1) {
        match found.last_mut() {
            Some((first, count)) if *first + *count == block => *count += 1,
            _ => found.push((block, 1)),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #[test]
    fn runs_of_blocks_are_written_together() {
        assert_eq!(super::runs(0b1_0111_0001), [(0, 1), (4, 3), (8, 1)]);
        assert_eq!(super::runs(u64::MAX), [(0, 64)]);
    }
}
