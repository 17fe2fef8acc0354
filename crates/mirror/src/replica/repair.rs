//! Comparing blocks by checksum: the target's side, and what both sides share.

use super::{Purpose, Replica, chunk_range};
use crate::api::{LinkId, Output, Region};
use crate::layout::{BLOCK, CHUNK};
use crate::wire::{BlockSum, Message};
use std::sync::LazyLock;

const BLOCK_BYTES: usize = BLOCK as usize;

/// A comparison that waits for the target's own content.
#[derive(Clone, Debug)]
pub(super) struct Comparison {
    link: LinkId,
    id: u64,
    mask: u64,
    sums: Vec<BlockSum>,
}

const ZEROES: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// The sum by which equality is proven: 128 bits of BLAKE3, so that two different blocks are never taken for equal.
/// Much of most volumes was never written: the sum of zeroes is remembered, as finding them is far quicker than hashing.
pub(super) fn sum(block: &[u8]) -> BlockSum {
    static OF_ZEROES: LazyLock<BlockSum> = LazyLock::new(|| hash(&ZEROES));
    if block == ZEROES { *OF_ZEROES } else { hash(block) }
}

fn hash(block: &[u8]) -> BlockSum {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remembered_sum_of_zeroes_is_the_one_that_hashing_gives() {
        assert_eq!(sum(&ZEROES), hash(&ZEROES));
        let mut last = ZEROES;
        last[BLOCK_BYTES - 1] = 1;
        assert_eq!(sum(&last), hash(&last));
        assert_ne!(sum(&last), sum(&ZEROES));
        assert_eq!(sum(&[]), hash(&[]), "a short read is no block of zeroes");
    }
}
