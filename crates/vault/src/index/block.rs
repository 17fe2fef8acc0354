//! Blocks of an index segment: 4,096 bytes with up to 84 sorted entries and a checksum.

use crate::object::ChunkId;
use crate::seal::SealedKind;

pub(crate) const BLOCK_SIZE: usize = 4096;
const ENTRY_SIZE: usize = 48;
pub(crate) const BLOCK_ENTRIES: usize = 84;

/// One object in one pack. `pack` is the place in the list of packs beside it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Entry {
    pub id: ChunkId,
    pub pack: u32,
    pub offset: u32,
    pub length: u32,
    pub kind: u8,
}

pub(crate) fn encode_block(group: &[Entry], out: &mut Vec<u8>) {
    let start = out.len();
    for entry in group {
        out.extend_from_slice(&entry.id.0);
        out.extend_from_slice(&entry.pack.to_le_bytes());
        out.extend_from_slice(&entry.offset.to_le_bytes());
        out.extend_from_slice(&entry.length.to_le_bytes());
        out.extend_from_slice(&[entry.kind, 0, 0, 0]);
    }
    out.resize(start + BLOCK_SIZE - 6, 0);
    let count = u16::try_from(group.len()).expect("invariant: a block holds 84");
    out.extend_from_slice(&count.to_le_bytes());
    let sum = crc32c::crc32c(&out[start..]);
    out.extend_from_slice(&sum.to_le_bytes());
}

/// Number of entries of a block; None if the block is not what was written. `checked` says that its checksum was compared before.
pub(crate) fn count_of(block: &[u8], checked: bool) -> Option<usize> {
    let body = block.get(..BLOCK_SIZE - 4)?;
    if block.len() != BLOCK_SIZE
        || (!checked && crc32c::crc32c(body).to_le_bytes() != block[BLOCK_SIZE - 4..])
    {
        return None;
    }
    let count = usize::from(u16::from_le_bytes([body[BLOCK_SIZE - 6], body[BLOCK_SIZE - 5]]));
    (count <= BLOCK_ENTRIES).then_some(count)
}

pub(crate) fn id_of(block: &[u8], place: usize) -> &[u8] {
    &block[place * ENTRY_SIZE..place * ENTRY_SIZE + 32]
}

/// One entry of a block whose count covers it; None if it names what there is not.
pub(crate) fn entry_of(block: &[u8], place: usize, packs: usize) -> Option<Entry> {
    let row = block.get(place * ENTRY_SIZE..(place + 1) * ENTRY_SIZE)?;
    let number = |at: usize| Some(u32::from_le_bytes(row.get(at..at + 4)?.try_into().ok()?));
    let id = ChunkId(row[..32].try_into().ok()?);
    let entry = Entry { id, pack: number(32)?, offset: number(36)?, length: number(40)?, kind: row[44] };
    SealedKind::from_code(entry.kind)?;
    ((entry.pack as usize) < packs).then_some(entry)
}

pub(crate) fn decode_block(block: &[u8], packs: usize) -> Option<Vec<Entry>> {
    (0..count_of(block, false)?).map(|place| entry_of(block, place, packs)).collect()
}
