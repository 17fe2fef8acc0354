//! Merging of segments: fewer to look into, and without the packs that are gone.

use super::segment::{Entry, PackInfo, Run, SEGMENT_ENTRIES_MAX, Scan, Segment};
use super::set::Index;
use crate::keys::random;
use crate::object::{ChunkId, VaultError};
use crate::pack::PackName;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

/// Segments whose numbers of entries are within this factor of each other are of one class.
const CLASS_FACTOR: usize = 4;
/// So many segments of one class (or smaller ones) are merged into one of the next: an entry is rewritten once per class.
const CLASS_SEGMENTS_MAX: usize = 8;

/// Which segments should be merged now; empty if none.
pub(crate) fn choose(segments: &[Arc<Segment>]) -> Vec<Arc<Segment>> {
    let mut by_size: Vec<_> = segments.iter().filter(|segment| segment.run.parts == 1).cloned().collect();
    by_size.sort_by_key(|segment| segment.entries);
    let mut limit = 1024;
    loop {
        let class = by_size.partition_point(|segment| segment.entries <= limit);
        if class >= CLASS_SEGMENTS_MAX {
            by_size.truncate(class);
            return by_size;
        }
        if class == by_size.len() {
            return Vec::new();
        }
        limit *= CLASS_FACTOR;
    }
}

/// Writes the entries of `old` whose packs are not in `without` into new segments, which take the place of `old`.
pub(crate) fn merge(
    index: &Index,
    old: &[Arc<Segment>],
    without: &HashSet<PackName>,
) -> Result<(), VaultError> {
    let _one = index.writing();
    let total: usize = old.iter().map(|segment| segment.entries).sum();
    let mut writer = Writer {
        index,
        run: random()?,
        parts: total.div_ceil(SEGMENT_ENTRIES_MAX).max(1),
        packs: Vec::new(),
        numbers: HashMap::new(),
        entries: Vec::new(),
        new: Vec::new(),
        last: None,
    };
    let mut scans: Vec<Scan<'_>> = old.iter().map(|segment| segment.scan(&*index.store)).collect();
    let mut heap = BinaryHeap::new();
    for (at, scan) in scans.iter_mut().enumerate() {
        if let Some(entry) = scan.next().transpose()? {
            heap.push(Reverse((entry.id, at, entry)));
        }
    }
    while let Some(Reverse((id, at, entry))) = heap.pop() {
        let pack = old[at].packs[entry.pack as usize];
        if !without.contains(&pack.name) {
            writer.push(id, pack, entry, old)?;
        }
        if let Some(entry) = scans[at].next().transpose()? {
            heap.push(Reverse((entry.id, at, entry)));
        }
    }
    writer.finish(old)?;
    let new = writer.new;
    index.replace_segments(old, new);
    for segment in old {
        index.store.delete(&segment.name.path(index.domain))?;
    }
    Ok(())
}

struct Writer<'a> {
    index: &'a Index,
    run: [u8; 16],
    parts: usize,
    packs: Vec<PackInfo>,
    numbers: HashMap<PackName, u32>,
    entries: Vec<Entry>,
    new: Vec<Arc<Segment>>,
    /// The copies of the last id, because the same copy may be in several segments.
    last: Option<(ChunkId, Vec<(PackName, u32)>)>,
}

impl Writer<'_> {
    fn push(
        &mut self,
        id: ChunkId,
        pack: PackInfo,
        entry: Entry,
        old: &[Arc<Segment>],
    ) -> Result<(), VaultError> {
        let copy = (pack.name, entry.offset);
        match &mut self.last {
            Some((last, copies)) if *last == id => {
                if copies.contains(&copy) {
                    return Ok(());
                }
                copies.push(copy);
            }
            last => *last = Some((id, vec![copy])),
        }
        let next = u32::try_from(self.packs.len()).expect("invariant: segments are bounded");
        let packs = &mut self.packs;
        let number = *self.numbers.entry(pack.name).or_insert_with(|| {
            packs.push(pack);
            next
        });
        self.entries.push(Entry { pack: number, ..entry });
        if self.entries.len() == SEGMENT_ENTRIES_MAX && self.new.len() + 1 < self.parts {
            self.write(old)?;
        }
        Ok(())
    }

    fn write(&mut self, old: &[Arc<Segment>]) -> Result<(), VaultError> {
        let number = |n: usize| u32::try_from(n).expect("invariant: segments are bounded");
        let part = self.new.len();
        let last = part + 1 == self.parts;
        let supersedes = if last { old.iter().map(|segment| segment.name).collect() } else { Vec::new() };
        let run = Run { id: self.run, part: number(part), parts: number(self.parts), supersedes };
        // Copies of one object come in the order of the old segments, not of the new pack numbers.
        self.entries.sort_unstable();
        self.new.push(self.index.store_segment(&run, &self.packs, &self.entries)?);
        self.packs.clear();
        self.numbers.clear();
        self.entries.clear();
        Ok(())
    }

    /// Writes the rest; parts that duplicates and dropped packs left empty are written empty, because a run counts whole.
    fn finish(&mut self, old: &[Arc<Segment>]) -> Result<(), VaultError> {
        while self.new.len() < self.parts {
            self.write(old)?;
        }
        Ok(())
    }
}
