//! Comparing blocks by checksum: the target's side, and what both sides share.

use super::{Purpose, Replica, chunk_range};
use crate::api::{LinkId, Output, Region};
use crate::layout::{BLOCK, CHUNK};
use crate::wire::{BlockSum, Message};

const BLOCK_BYTES: usize = BLOCK as usize;

/// A comparison that waits for the target's own content.
#[derive(Clone, Debug)]
pub(super) struct Comparison {
    link: LinkId,
    id: u64,
    mask: u64,
    sums: Vec<BlockSum>,
}

/// The sum by which equality is proven: 128 bits of BLAKE3, so that two different blocks are never taken for equal.
pub(super) fn sum(block: &[u8]) -> BlockSum {
    let mut out = BlockSum::default();
    out.copy_from_slice(&blake3::hash(block).as_bytes()[..16]);
    out
}

/// The blocks of a chunk that are set in `mask`, as indexes of its blocks.
pub(super) fn blocks(mask: u64) -> impl Iterator<Item = usize> {
    (0..64).filter(move |bit| mask >> bit & 1 == 1)
}

/// One block of a chunk's content.
pub(super) fn block(data: &[u8], index: usize) -> &[u8] {
    data.get(index * BLOCK_BYTES..(index + 1) * BLOCK_BYTES).unwrap_or_default()
}

impl Replica {
    pub(super) fn compare(&mut self, link: LinkId, id: u64, offset: u64, mask: u64, sums: Vec<BlockSum>) {
        let range = chunk_range(offset, mask);
        if mask == 0 || !offset.is_multiple_of(CHUNK) || range.end() > self.config.volume_bytes {
            return self.close(link, "a comparison outside the volume");
        }
        let purpose = Purpose::TargetRead(Box::new(Comparison { link, id, mask, sums }));
        self.read(purpose, Region::Data, offset, range.length);
    }

    pub(super) fn target_read(&mut self, comparison: &Comparison, data: &[u8]) {
        let Comparison { link, id, mask, sums } = comparison;
        let differ = blocks(*mask)
            .zip(sums)
            .filter(|(index, theirs)| sum(block(data, *index)) != **theirs)
            .map(|(index, _)| 1u64 << index)
            .sum();
        if self.links.contains_key(link) {
            let message = Message::Differ { id: *id, mask: differ };
            self.out.push(Output::Send { link: *link, message });
        }
    }
}
