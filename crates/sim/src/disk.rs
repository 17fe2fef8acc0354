//! A disk with a volatile cache: at a power loss each write that was not flushed is independently old, new, or torn.

use crate::rng::Rng;
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;

const PAGE: usize = 4_096;
/// Bytes of a page, which is also a block of the dirty records.
pub const PAGE_BYTES: u64 = PAGE as u64;
/// What places that were never written read as. As long as the longest read that is common, a chunk of a comparison.
static BLANK: [u8; 256 << 10] = [0; 256 << 10];

/// Zeroes, without memory of their own unless there are very many.
#[must_use]
pub fn zeroes(length: usize) -> Bytes {
    BLANK.get(..length).map_or_else(|| vec![0; length].into(), Bytes::from_static)
}

/// Bytes, of which only the pages that were ever written take memory. A page shares the memory of the write that covered it
/// whole, as do copies of it: disks of different replicas often hold the very same bytes.
#[derive(Clone, Debug, Default)]
struct Pages {
    length: usize,
    /// Of [`PAGE`] bytes each.
    pages: BTreeMap<usize, Bytes>,
}

impl Pages {
    fn write(&mut self, offset: usize, bytes: &Bytes) {
        let mut taken = 0;
        while taken < bytes.len() {
            let (number, within) = ((offset + taken) / PAGE, (offset + taken) % PAGE);
            let take = (bytes.len() - taken).min(PAGE - within);
            let part = bytes.slice(taken..taken + take);
            taken += take;
            if take == PAGE {
                self.pages.insert(number, part);
                continue;
            }
            let before = self.pages.entry(number).or_insert_with(|| zeroes(PAGE));
            let mut page =
                std::mem::take(before).try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
            page[within..within + take].copy_from_slice(&part);
            *before = page.freeze();
        }
    }

    fn page(&self, number: usize) -> &[u8] {
        self.pages.get(&number).map_or(&BLANK[..PAGE], |page| &page[..])
    }

    fn read(&self, offset: usize, length: usize) -> Bytes {
        let (first, last) = (offset / PAGE, (offset + length).div_ceil(PAGE));
        if first + 1 == last {
            let page = self.pages.get(&first);
            return page
                .map_or_else(|| zeroes(length), |page| page.slice(offset % PAGE..offset % PAGE + length));
        }
        let mut pages = self.pages.range(first..last).peekable();
        if pages.peek().is_none() {
            return zeroes(length);
        }
        let mut out = Vec::with_capacity(length);
        for (number, page) in pages {
            let start = number * PAGE;
            let (from, to) = (start.max(offset), (start + PAGE).min(offset + length));
            out.resize(from - offset, 0);
            out.extend_from_slice(&page[from - start..to - start]);
        }
        out.resize(length, 0);
        out.into()
    }
}

/// Whether two pages are the same; quickly if they are the same memory.
fn same(one: &[u8], other: &[u8]) -> bool {
    std::ptr::eq(one, other) || one == other
}

/// A write that a power loss may undo.
#[derive(Clone, Debug)]
struct Pending {
    id: u64,
    offset: usize,
    bytes: Bytes,
    /// Visible to reads: its completion was handed in.
    complete: bool,
    /// A flush of it failed: no later flush makes it durable.
    poisoned: bool,
}

/// One file on a disk.
#[derive(Clone, Debug)]
pub struct Disk {
    durable: Pages,
    current: Pages,
    pending: Vec<Pending>,
    id_last: u64,
}

/// A flush under way covers the writes that were complete when it was issued.
#[derive(Clone, Debug)]
pub struct Flush(Vec<u64>);

impl Disk {
    /// A disk of zeroes.
    #[must_use]
    pub fn new(length: u64) -> Self {
        let length = usize::try_from(length).expect("invariant: simulated disks are small");
        let blank = Pages { length, pages: BTreeMap::new() };
        Self { durable: blank.clone(), current: blank, pending: Vec::new(), id_last: 0 }
    }

    /// Size in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.current.length as u64
    }

    /// What a read returns.
    #[must_use]
    pub fn read(&self, offset: u64, length: usize) -> Bytes {
        self.current.read(usize::try_from(offset).expect("invariant: simulated disks are small"), length)
    }

    /// Writes durably at once: for making a disk before the run.
    pub fn place(&mut self, offset: u64, bytes: &[u8]) {
        let id = self.submit(offset, Bytes::copy_from_slice(bytes));
        self.complete(id);
        let flush = self.flush();
        self.flushed(&flush);
    }

    /// The pages of a range, by number, that were ever written.
    pub fn written(&self, offset: u64, length: u64) -> impl Iterator<Item = u64> {
        let page = |offset: u64| usize::try_from(offset / PAGE_BYTES).unwrap_or(usize::MAX);
        let last = page((offset + length).next_multiple_of(PAGE_BYTES));
        self.current.pages.range(page(offset)..last).map(|(number, _)| *number as u64)
    }

    /// What one page returns.
    #[must_use]
    pub fn page(&self, number: u64) -> &[u8] {
        self.current.page(usize::try_from(number).unwrap_or(usize::MAX))
    }

    /// Whether a page is the same on both disks.
    #[must_use]
    pub fn same_page(&self, other: &Self, number: u64) -> bool {
        same(self.page(number), other.page(number))
    }

    /// Whether a power loss may take or tear something of the page.
    #[must_use]
    pub fn is_volatile(&self, page: u64) -> bool {
        let (start, end) = (page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
        let pending = self.pending.iter().filter(|write| !write.bytes.is_empty());
        pending
            .map(|write| (write.offset as u64, write.bytes.len() as u64))
            .any(|(at, length)| at < end && at + length > start)
    }

    /// What a read returns after a power loss that takes everything that was not flushed.
    #[must_use]
    pub fn read_durable(&self, offset: u64, length: u64) -> Bytes {
        let small = |bytes: u64| usize::try_from(bytes).expect("invariant: simulated disks are small");
        self.durable.read(small(offset), small(length))
    }

    /// First difference between what two disks return.
    #[must_use]
    pub fn differs(&self, other: &Self) -> Option<u64> {
        let pages = self.current.pages.keys().chain(other.current.pages.keys());
        pages
            .copied()
            .filter(|page| !same(self.current.page(*page), other.current.page(*page)))
            .min()
            .map(|page| (page * PAGE) as u64)
    }

    /// Puts a write on its way; returns its name for [`Self::complete`].
    ///
    /// # Panics
    /// If the write leads over the end: a bug of the core, which knows its sizes.
    pub fn submit(&mut self, offset: u64, bytes: Bytes) -> u64 {
        let offset = usize::try_from(offset).expect("invariant: simulated disks are small");
        assert!(offset + bytes.len() <= self.current.length, "a write beyond the end of the disk");
        self.id_last += 1;
        let id = self.id_last;
        self.pending.push(Pending { id, offset, bytes, complete: false, poisoned: false });
        id
    }

    /// The write is accepted: reads see it from now on.
    pub fn complete(&mut self, id: u64) {
        // Pushed in the order of their ids.
        if let Ok(at) = self.pending.binary_search_by_key(&id, |write| write.id) {
            let write = &mut self.pending[at];
            write.complete = true;
            self.current.write(write.offset, &write.bytes);
        }
    }

    /// Every write on its way is accepted: for an owner that writes one at a time.
    pub fn complete_all(&mut self) {
        let ids: Vec<u64> =
            self.pending.iter().filter(|write| !write.complete).map(|write| write.id).collect();
        for id in ids {
            self.complete(id);
        }
    }

    /// Begins a flush.
    #[must_use]
    pub fn flush(&self) -> Flush {
        let covered = self.pending.iter().filter(|write| write.complete && !write.poisoned);
        Flush(covered.map(|write| write.id).collect())
    }

    /// The flush ended well.
    pub fn flushed(&mut self, flush: &Flush) {
        let durable = &mut self.durable;
        self.pending.retain(|write| {
            let covered = flush.0.binary_search(&write.id).is_ok();
            if covered {
                durable.write(write.offset, &write.bytes);
            }
            !covered
        });
    }

    /// The flush failed: what it covered may never reach the disk, and a later success proves nothing.
    pub fn flush_failed(&mut self, flush: &Flush) {
        for write in &mut self.pending {
            write.poisoned |= flush.0.binary_search(&write.id).is_ok();
        }
    }

    /// The owner starts anew after a failed flush. It must read the disk and not a cache of it (direct I/O, or the
    /// page cache dropped first): what the failed flush covered is old, new or torn from now on, as the disk has it.
    pub fn reopen_after_failure(&mut self, rng: &mut Rng) {
        let mut truth = self.durable.clone();
        let mut kept = Vec::new();
        for write in std::mem::take(&mut self.pending) {
            if !write.poisoned {
                truth.write(write.offset, &write.bytes);
                kept.push(write);
                continue;
            }
            for at in (0..write.bytes.len()).step_by(512) {
                if rng.permille(500) {
                    let sector = write.bytes.slice(at..write.bytes.len().min(at + 512));
                    truth.write(write.offset + at, &sector);
                    self.durable.write(write.offset + at, &sector);
                }
            }
        }
        self.pending = kept;
        self.current = truth;
    }

    /// The process died: writes under way may or may not have been taken; the cache stays.
    pub fn process_died(&mut self, rng: &mut Rng) {
        let mut kept = Vec::new();
        for mut write in std::mem::take(&mut self.pending) {
            if !write.complete {
                if rng.permille(500) {
                    continue;
                }
                self.current.write(write.offset, &write.bytes);
                write.complete = true;
            }
            kept.push(write);
        }
        self.pending = kept;
    }

    /// Power loss: every write that was not flushed is independently old, new, or torn at 512 or 4,096 bytes.
    pub fn power_lost(&mut self, rng: &mut Rng) {
        // Mostly one fate for all; sometimes each its own. Both kinds find different bugs.
        let common = rng.below(4);
        for write in std::mem::take(&mut self.pending) {
            let fate = if common < 2 { common } else { rng.below(3) };
            let unit = match fate {
                0 => continue,
                1 => write.bytes.len().max(1),
                _ if rng.permille(500) => 512,
                _ => 4_096,
            };
            // Units are counted from the disk's start, as its sectors are.
            let mut at = 0;
            while at < write.bytes.len() {
                let to_edge = unit - (write.offset + at) % unit;
                let end = if fate == 1 { write.bytes.len() } else { (at + to_edge).min(write.bytes.len()) };
                if fate == 1 || rng.permille(500) {
                    self.durable.write(write.offset + at, &write.bytes.slice(at..end));
                }
                at = end;
            }
        }
        self.current = self.durable.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_flushed_survives_and_what_was_not_may_go() {
        let mut lost = 0;
        for seed in 0..50 {
            let mut rng = Rng::new(seed);
            let mut disk = Disk::new(8_192);
            let first = disk.submit(0, Bytes::from_static(&[1; 4_096]));
            disk.complete(first);
            let flush = disk.flush();
            disk.flushed(&flush);
            let second = disk.submit(4_096, Bytes::from_static(&[2; 4_096]));
            disk.complete(second);
            assert_eq!(disk.read(4_096, 1)[..], [2]);
            disk.power_lost(&mut rng);
            assert!(disk.read(0, 4_096).iter().all(|byte| *byte == 1));
            lost += usize::from(disk.read(4_096, 4_096).contains(&0));
        }
        assert!(lost > 5);
    }

    #[test]
    fn a_flush_covers_only_what_was_complete_before_it() {
        let mut disk = Disk::new(4_096);
        let early = disk.flush();
        let write = disk.submit(0, Bytes::from_static(&[1; 512]));
        disk.complete(write);
        disk.flushed(&early);
        assert_eq!(disk.durable.read(0, 1)[..], [0]);
    }

    #[test]
    fn after_a_failed_flush_a_later_success_proves_nothing() {
        let mut disk = Disk::new(4_096);
        let write = disk.submit(0, Bytes::from_static(&[1; 512]));
        disk.complete(write);
        let flush = disk.flush();
        disk.flush_failed(&flush);
        let again = disk.flush();
        disk.flushed(&again);
        assert_eq!(disk.durable.read(0, 1)[..], [0]);
    }
}
