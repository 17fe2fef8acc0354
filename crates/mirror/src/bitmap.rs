//! The dirty record towards one other replica: one bit per block of 4 KiB that it may lack (I3, I4).
//!
//! In memory only extents with a bit set take space. On disk a bitmap is a row of pages of 4 KiB, each with its own
//! checksum; a torn or damaged page is read as all dirty, which costs a comparison and is always safe.

use crate::layout::{BLOCK, CHUNK, EXTENT, EXTENT_BLOCKS, Layout, PAGE_EXTENTS};
use crate::wire::{ExtentBits, Range};
use anshin_base::ReplicaId;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

const MAGIC: [u8; 4] = *b"anbm";
const HEADER: usize = 128;
const EXTENT_BYTES: usize = 128;
/// The checksum is the last word of the page's header.
const CRC_AT: usize = HEADER - 4;

/// One bitmap.
#[derive(Clone, Debug)]
pub(crate) struct Bitmap {
    layout: Layout,
    extents: BTreeMap<u32, Box<ExtentBits>>,
    blocks: u64,
    /// Pages whose bits on disk may be other than those in memory.
    unsaved: BTreeSet<u32>,
    /// Grows whenever a bit changes.
    version: u64,
}

fn page_of(extent: u32) -> u32 {
    u32::try_from(u64::from(extent) / PAGE_EXTENTS).expect("invariant: fewer pages than extents")
}

fn ones(bits: &ExtentBits) -> u64 {
    bits.iter().map(|byte| u64::from(byte.count_ones())).sum()
}

impl Bitmap {
    pub fn new(layout: Layout) -> Self {
        Self { layout, extents: BTreeMap::new(), blocks: 0, unsaved: BTreeSet::new(), version: 0 }
    }

    /// Bytes of the volume that the other replica may lack.
    pub fn bytes(&self) -> u64 {
        self.blocks * BLOCK
    }

    /// Grows whenever a bit changes.
    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn is_empty(&self) -> bool {
        self.blocks == 0
    }

    /// The bits of one extent that lie inside the volume.
    fn inside(&self, extent: u32) -> ExtentBits {
        let left = self.layout.volume_bytes.saturating_sub(u64::from(extent) * EXTENT) / BLOCK;
        let mut bits = [0xff; EXTENT_BYTES];
        for block in left..EXTENT_BLOCKS {
            let at = usize::try_from(block).expect("invariant: at most 1,024");
            bits[at / 8] &= !(1 << (at % 8));
        }
        bits
    }

    /// Adds bits of one extent; those outside the volume are ignored.
    pub fn or(&mut self, extent: u32, bits: &ExtentBits) {
        if extent >= self.layout.extents() {
            return;
        }
        let inside = self.inside(extent);
        let mine = self.extents.entry(extent).or_insert_with(|| Box::new([0; EXTENT_BYTES]));
        let before = ones(mine);
        for ((mine, more), inside) in mine.iter_mut().zip(bits).zip(inside) {
            *mine |= more & inside;
        }
        let added = ones(mine) - before;
        if ones(mine) == 0 {
            self.extents.remove(&extent);
        }
        if added > 0 {
            self.blocks += added;
            self.version += 1;
            self.unsaved.insert(page_of(extent));
        }
    }

    pub fn set_extent(&mut self, extent: u32) {
        self.or(extent, &[0xff; EXTENT_BYTES]);
    }

    pub fn set_all(&mut self) {
        for extent in 0..self.layout.extents() {
            self.set_extent(extent);
        }
    }

    /// Sets every block that the range touches.
    pub fn set(&mut self, range: Range) {
        if range.length == 0 {
            return;
        }
        let end = range.end().min(self.layout.volume_bytes);
        let (mut block, last) = (range.offset / BLOCK, end.div_ceil(BLOCK));
        while block < last {
            let extent = u32::try_from(block / EXTENT_BLOCKS).expect("invariant: inside the volume");
            let until = last.min((u64::from(extent) + 1) * EXTENT_BLOCKS);
            let mut bits = [0; EXTENT_BYTES];
            while block < until {
                let at = usize::try_from(block % EXTENT_BLOCKS).expect("invariant: at most 1,023");
                bits[at / 8] |= 1 << (at % 8);
                block += 1;
            }
            self.or(extent, &bits);
        }
    }

    /// Clears the blocks of one chunk. Only on proof of equality (I4).
    pub fn clear_chunk(&mut self, offset: u64, mask: u64) {
        let extent = u32::try_from(offset / EXTENT).expect("invariant: inside the volume");
        let Some(bits) = self.extents.get_mut(&extent) else {
            return;
        };
        let at = usize::try_from(offset % EXTENT / BLOCK / 8).expect("invariant: at most 127");
        let before = ones(bits);
        for (byte, clear) in bits[at..at + 8].iter_mut().zip(mask.to_le_bytes()) {
            *byte &= !clear;
        }
        let left = ones(bits);
        if left < before {
            self.blocks -= before - left;
            self.version += 1;
            self.unsaved.insert(page_of(extent));
        }
        if left == 0 {
            self.extents.remove(&extent);
        }
    }

    /// Forgets every bit. Only on proof of equality (I4).
    pub fn clear_all(&mut self) {
        self.unsaved.extend(self.extents.keys().map(|extent| page_of(*extent)));
        self.extents.clear();
        self.blocks = 0;
        self.version += 1;
    }

    /// The first chunk at or after `from` with a bit set: its offset and mask.
    pub fn next_chunk(&self, from: u64) -> Option<(u64, u64)> {
        let first = u32::try_from(from / EXTENT).ok()?;
        for (extent, bits) in self.extents.range(first..) {
            let base = u64::from(*extent) * EXTENT;
            for (index, bytes) in bits.chunks_exact(8).enumerate() {
                let offset = base + index as u64 * CHUNK;
                let mask = u64::from_le_bytes(bytes.try_into().expect("invariant: chunks of 8"));
                if mask != 0 && offset >= from {
                    return Some((offset, mask));
                }
            }
        }
        None
    }

    /// Whether the block at this offset is marked.
    pub fn contains(&self, offset: u64) -> bool {
        let Ok(extent) = u32::try_from(offset / EXTENT) else {
            return false;
        };
        let at = usize::try_from(offset % EXTENT / BLOCK).expect("invariant: at most 1,023");
        self.extents.get(&extent).is_some_and(|bits| bits[at / 8] >> (at % 8) & 1 == 1)
    }

    /// Every extent with a bit set.
    pub fn extents(&self) -> impl Iterator<Item = (u32, &ExtentBits)> {
        self.extents.iter().map(|(extent, bits)| (*extent, &**bits))
    }

    /// Whether the page that covers this extent must be written before the extent may cool.
    pub fn take_unsaved_of(&mut self, extent: u32) -> Option<u32> {
        let page = page_of(extent);
        self.unsaved.remove(&page).then_some(page)
    }

    /// Every page to be written; they count as saved from here on.
    pub fn take_unsaved(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.unsaved)
    }

    /// Makes every page with a bit set count as unsaved.
    pub fn unsave_used(&mut self) {
        self.unsaved.extend(self.extents.keys().map(|extent| page_of(*extent)));
    }

    /// Makes every page count as unsaved, so that all are written.
    pub fn unsave_all(&mut self) {
        self.unsaved = (0..self.layout.pages()).collect();
    }

    /// One page as it goes to disk.
    pub fn encode_page(&self, owner: ReplicaId, page: u32) -> Bytes {
        let mut out = vec![0; usize::try_from(BLOCK).expect("invariant: 4,096")];
        out[..4].copy_from_slice(&MAGIC);
        out[4..6].copy_from_slice(&1u16.to_le_bytes());
        out[8..12].copy_from_slice(&page.to_le_bytes());
        out[16..24].copy_from_slice(&owner.0.to_le_bytes());
        let first = u64::from(page) * PAGE_EXTENTS;
        for (at, slot) in out[HEADER..].chunks_exact_mut(EXTENT_BYTES).enumerate() {
            let extent = u32::try_from(first + at as u64).ok();
            if let Some(bits) = extent.and_then(|extent| self.extents.get(&extent)) {
                slot.copy_from_slice(&bits[..]);
            }
        }
        let crc = page_crc(&out);
        out[CRC_AT..HEADER].copy_from_slice(&crc.to_le_bytes());
        out.into()
    }

    /// Takes in one page from disk. All zeroes is a page that was never written, which is clean; anything else that is
    /// not a good page of this owner is all dirty.
    pub fn load_page(&mut self, owner: ReplicaId, page: u32, bytes: &[u8]) {
        if bytes.iter().all(|byte| *byte == 0) {
            return;
        }
        let first = u64::from(page) * PAGE_EXTENTS;
        let good = bytes.len() as u64 == BLOCK
            && bytes[..4] == MAGIC
            && bytes[4..6] == 1u16.to_le_bytes()
            && bytes[8..12] == page.to_le_bytes()
            && bytes[16..24] == owner.0.to_le_bytes()
            && bytes[CRC_AT..HEADER] == page_crc(bytes).to_le_bytes();
        for at in 0..PAGE_EXTENTS {
            let Ok(extent) = u32::try_from(first + at) else { break };
            if good {
                let from = HEADER + usize::try_from(at).expect("invariant: below 31") * EXTENT_BYTES;
                let bits: &ExtentBits =
                    bytes[from..from + EXTENT_BYTES].try_into().expect("invariant: 128 bytes");
                self.or(extent, bits);
            } else {
                self.set_extent(extent);
            }
        }
        if good {
            self.unsaved.remove(&page);
        }
    }
}

fn page_crc(page: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&page[..CRC_AT]), &page[HEADER..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layout() -> Layout {
        // Not a whole number of extents, and more than one page.
        Layout::new(40 * EXTENT + 3 * BLOCK, 7).unwrap()
    }

    proptest! {
        #[test]
        fn behaves_like_a_set_of_blocks(ops in proptest::collection::vec((any::<bool>(), 0u64..41 * 1024, 1u64..3000), 1..30)) {
            let layout = layout();
            let total = layout.volume_bytes / BLOCK;
            let mut bitmap = Bitmap::new(layout);
            let mut model = BTreeSet::new();
            for (set, block, count) in ops {
                if set {
                    bitmap.set(Range { offset: block * BLOCK, length: count * BLOCK });
                    model.extend((block..block + count).filter(|block| *block < total));
                } else if block < total {
                    let chunk = block / 64;
                    bitmap.clear_chunk(chunk * CHUNK, count);
                    model.retain(|b| b / 64 != chunk || count >> (b % 64) & 1 == 0);
                }
            }
            prop_assert_eq!(bitmap.bytes(), model.len() as u64 * BLOCK);
            let mut found = BTreeSet::new();
            let mut from = 0;
            while let Some((offset, mask)) = bitmap.next_chunk(from) {
                found.extend((0..64).filter(|bit| mask >> bit & 1 == 1).map(|bit| offset / BLOCK + bit));
                from = offset + CHUNK;
            }
            prop_assert_eq!(&found, &model);
            let owner = ReplicaId(3);
            let mut again = Bitmap::new(layout);
            for page in 0..layout.pages() {
                again.load_page(owner, page, &bitmap.encode_page(owner, page));
            }
            prop_assert_eq!(&again.extents, &bitmap.extents);
            prop_assert!(again.unsaved.is_empty());
        }

        #[test]
        fn a_torn_page_reads_as_all_dirty(cut in 1usize..8) {
            let owner = ReplicaId(3);
            let mut bitmap = Bitmap::new(layout());
            bitmap.set_extent(0);
            bitmap.set_extent(30);
            let mut bytes = bitmap.encode_page(owner, 0).to_vec();
            bytes[cut * 512..].fill(0);
            let mut again = Bitmap::new(layout());
            again.load_page(owner, 0, &bytes);
            prop_assert_eq!(again.bytes(), 31 * EXTENT);
        }
    }

    #[test]
    fn partial_blocks_are_set_whole_and_never_beyond_the_volume() {
        let mut bitmap = Bitmap::new(layout());
        bitmap.set(Range { offset: 4095, length: 2 });
        assert_eq!(bitmap.bytes(), 2 * BLOCK);
        bitmap.set_all();
        assert_eq!(bitmap.bytes(), layout().volume_bytes);
    }

    #[test]
    fn a_page_of_another_replica_reads_as_all_dirty() {
        let bytes = Bitmap::new(layout()).encode_page(ReplicaId(3), 1);
        let mut again = Bitmap::new(layout());
        again.load_page(ReplicaId(4), 1, &bytes);
        assert_eq!(again.bytes(), layout().volume_bytes - 31 * EXTENT);
    }

    #[test]
    fn version_1_page_has_these_bytes() {
        let mut bitmap = Bitmap::new(layout());
        bitmap.set(Range { offset: EXTENT, length: 1 });
        let bytes = bitmap.encode_page(ReplicaId(0x0102), 0);
        assert_eq!(&bytes[..24], b"anbm\x01\0\0\0\0\0\0\0\0\0\0\0\x02\x01\0\0\0\0\0\0");
        assert_eq!(bytes[128 + 128], 1);
        assert_eq!(bytes.iter().skip(128).filter(|byte| **byte != 0).count(), 1);
    }
}
