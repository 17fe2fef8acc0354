//! A filter that says of most absent ids that they are absent, with ten bits of memory for each present one.
//!
//! A blocked Bloom filter: an id sets 6 bits of one block of 512 bits. Ids are keyed hashes, so their own bytes choose
//! block and bits. About one absent id in a hundred passes.

use crate::object::ChunkId;

const BLOCK_SIZE: usize = 64;
const BITS_PER_ID: usize = 10;
const PROBES: usize = 6;

fn block_of(id: &ChunkId, blocks: usize) -> usize {
    // Bytes other than those the order of ids begins with, so that a part of all ids still spreads over all blocks.
    let number = u64::from_le_bytes(id.0[8..16].try_into().expect("invariant: an id has 32 bytes"));
    ((u128::from(number) * blocks as u128) >> 64) as usize
}

fn bits_of(id: &ChunkId) -> impl Iterator<Item = usize> + '_ {
    (0..PROBES)
        .map(|probe| usize::from(u16::from_le_bytes([id.0[16 + 2 * probe], id.0[17 + 2 * probe]])) % 512)
}

/// The filter of these ids.
pub(crate) fn build<'a>(ids: impl ExactSizeIterator<Item = &'a ChunkId>) -> Vec<u8> {
    let blocks = (ids.len() * BITS_PER_ID).div_ceil(8 * BLOCK_SIZE);
    let mut filter = vec![0; blocks * BLOCK_SIZE];
    for id in ids {
        let block = block_of(id, blocks) * BLOCK_SIZE;
        for bit in bits_of(id) {
            filter[block + bit / 8] |= 1 << (bit % 8);
        }
    }
    filter
}

/// False only if the id is not among those of the filter.
pub(crate) fn may_hold(filter: &[u8], id: &ChunkId) -> bool {
    let blocks = filter.len() / BLOCK_SIZE;
    if blocks == 0 {
        return false;
    }
    let block = block_of(id, blocks) * BLOCK_SIZE;
    bits_of(id).all(|bit| filter[block + bit / 8] & (1 << (bit % 8)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> ChunkId {
        ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    #[test]
    fn no_present_id_is_denied_and_few_absent_ones_pass() {
        let present: Vec<_> = (0..10_000).map(id).collect();
        let filter = build(present.iter());
        assert!(filter.len() * 8 <= 10_100 * BITS_PER_ID);
        assert!(present.iter().all(|id| may_hold(&filter, id)));
        let passed = (10_000..110_000).filter(|number| may_hold(&filter, &id(*number))).count();
        assert!(passed < 2500, "{passed} of 100,000");
        assert!(!may_hold(&build([].iter()), &id(0)));
    }
}
