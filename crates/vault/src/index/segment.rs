//! Index segments: sorted, immutable tables of where objects lie. Described in docs/formats/vault.md.
//!
//! A head that is kept in memory (packs, one fence per block, filter) and blocks of 4,096 bytes that are read when a
//! lookup needs them. The name is the hash of the head, which holds the hash of all blocks; each block has a checksum of its own.

use super::filter;
use crate::coder::{Reader, hex, unhex};
use crate::keys::DomainId;
use crate::object::{ChunkId, VaultError};
use crate::pack::{PackName, WriterId};
use crate::seal::SealedKind;
use crate::store::Store;
use bytes::Bytes;
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"anvindx1";
const VERSION: u16 = 1;
pub(crate) const BLOCK_SIZE: usize = 4096;
const ENTRY_SIZE: usize = 48;
pub(crate) const BLOCK_ENTRIES: usize = 84;
const PACK_ROW_SIZE: usize = 1 + 32 + 16 + 8;
/// Most entries of one segment: 48 MB are built in memory at once.
pub(crate) const SEGMENT_ENTRIES_MAX: usize = 1 << 20;
/// Blocks of segments up to this size are kept in memory, where they cost less than reading them again and again.
const RESIDENT_SIZE_MAX: usize = 8 << 20;
/// Blocks read at once when a segment is read from end to end.
const SCAN_BLOCKS: usize = 64;

/// A segment's name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct SegmentName(pub [u8; 32]);

impl SegmentName {
    pub(crate) fn path(&self, domain: DomainId) -> String {
        format!("index/{domain}/{}", hex(&self.0))
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        unhex(text).map(Self)
    }
}

pub(crate) fn index_prefix(domain: DomainId) -> String {
    format!("index/{domain}/")
}

/// A pack as the index knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PackInfo {
    pub name: PackName,
    pub writer: WriterId,
    pub size: u64,
}

/// One object in one pack. `pack` is the place in the list of packs beside it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Entry {
    pub id: ChunkId,
    pub pack: u32,
    pub offset: u32,
    pub length: u32,
    pub kind: u8,
}

/// What ties segments together that were written as one: all parts of a run count, or none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    pub id: [u8; 16],
    pub part: u32,
    pub parts: u32,
    /// Segments that need not be read any more once the run is complete.
    pub supersedes: Vec<SegmentName>,
}

/// A segment whose head is in memory.
pub(crate) struct Segment {
    pub name: SegmentName,
    pub run: Run,
    pub packs: Vec<PackInfo>,
    pub entries: usize,
    fences: Vec<u64>,
    filter: Bytes,
    blocks_hash: [u8; 32],
    blocks_at: u64,
    path: String,
    resident: Option<Bytes>,
}

fn prefix(id: &ChunkId) -> u64 {
    u64::from_be_bytes(id.0[..8].try_into().expect("invariant: an id has 32 bytes"))
}

/// The bytes of a segment of these packs and entries, which must be in ascending order.
pub(crate) fn build(
    domain: DomainId,
    run: &Run,
    packs: &[PackInfo],
    entries: &[Entry],
) -> (SegmentName, Vec<Bytes>) {
    debug_assert!(entries.is_sorted() && entries.len() <= SEGMENT_ENTRIES_MAX);
    let mut blocks = Vec::with_capacity(entries.len().div_ceil(BLOCK_ENTRIES) * BLOCK_SIZE);
    let mut fences = Vec::with_capacity(entries.len().div_ceil(BLOCK_ENTRIES));
    for group in entries.chunks(BLOCK_ENTRIES) {
        fences.push(prefix(&group[0].id));
        encode_block(group, &mut blocks);
    }
    let filter = filter::build(entries.iter().map(|entry| &entry.id));
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&[0; 2]);
    let length_at = head.len();
    head.extend_from_slice(&[0; 4]);
    head.extend_from_slice(&domain.0);
    head.extend_from_slice(&run.id);
    head.extend_from_slice(&run.part.to_le_bytes());
    head.extend_from_slice(&run.parts.to_le_bytes());
    head.extend_from_slice(blake3::hash(&blocks).as_bytes());
    crate::coder::put_count(&mut head, entries.len());
    crate::coder::put_count(&mut head, run.supersedes.len());
    run.supersedes.iter().for_each(|name| head.extend_from_slice(&name.0));
    crate::coder::put_count(&mut head, packs.len());
    for pack in packs {
        head.push(pack.name.kind.code());
        head.extend_from_slice(&pack.name.hash);
        head.extend_from_slice(&pack.writer.0);
        head.extend_from_slice(&pack.size.to_le_bytes());
    }
    crate::coder::put_count(&mut head, fences.len());
    fences.iter().for_each(|fence| head.extend_from_slice(&fence.to_le_bytes()));
    crate::coder::put_count(&mut head, filter.len());
    head.extend_from_slice(&filter);
    head.resize(head.len().next_multiple_of(BLOCK_SIZE), 0);
    let length = u32::try_from(head.len()).expect("invariant: heads are bounded");
    head[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    let name = SegmentName(*blake3::hash(&head).as_bytes());
    (name, vec![head.into(), blocks.into()])
}

fn encode_block(group: &[Entry], out: &mut Vec<u8>) {
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
fn count_of(block: &[u8], checked: bool) -> Option<usize> {
    let body = block.get(..BLOCK_SIZE - 4)?;
    if block.len() != BLOCK_SIZE
        || (!checked && crc32c::crc32c(body).to_le_bytes() != block[BLOCK_SIZE - 4..])
    {
        return None;
    }
    let count = usize::from(u16::from_le_bytes([body[BLOCK_SIZE - 6], body[BLOCK_SIZE - 5]]));
    (count <= BLOCK_ENTRIES).then_some(count)
}

fn id_of(block: &[u8], place: usize) -> &[u8] {
    &block[place * ENTRY_SIZE..place * ENTRY_SIZE + 32]
}

/// One entry of a block whose count covers it; None if it names what there is not.
fn entry_of(block: &[u8], place: usize, packs: usize) -> Option<Entry> {
    let row = block.get(place * ENTRY_SIZE..(place + 1) * ENTRY_SIZE)?;
    let number = |at: usize| Some(u32::from_le_bytes(row.get(at..at + 4)?.try_into().ok()?));
    let id = ChunkId(row[..32].try_into().ok()?);
    let entry = Entry { id, pack: number(32)?, offset: number(36)?, length: number(40)?, kind: row[44] };
    SealedKind::from_code(entry.kind)?;
    ((entry.pack as usize) < packs).then_some(entry)
}

fn decode_block(block: &[u8], packs: usize) -> Option<Vec<Entry>> {
    (0..count_of(block, false)?).map(|place| entry_of(block, place, packs)).collect()
}

impl Segment {
    /// Reads the head of a stored segment, and its blocks too if it is small.
    pub(crate) fn load(
        store: &dyn Store,
        domain: DomainId,
        name: SegmentName,
        size: u64,
    ) -> Result<Self, VaultError> {
        let path = name.path(domain);
        let what = "index";
        let opening = store.get_range(&path, 0, 16)?;
        let mut reader = Reader::new(&opening, what);
        reader.bytes(12)?;
        let length = reader.u32()? as usize;
        if length as u64 > size || !length.is_multiple_of(BLOCK_SIZE) {
            return Err(VaultError::damaged(what, "its head is longer than itself"));
        }
        let head = store.get_range(&path, 0, length)?;
        let mut segment = Self::decode_head(domain, name, &head)?;
        let blocks_size = segment.fences.len() * BLOCK_SIZE;
        if size != (length + blocks_size) as u64 {
            return Err(VaultError::damaged(what, "it is not as long as it says"));
        }
        if blocks_size == 0 {
            segment.resident = Some(Bytes::new());
        } else if blocks_size <= RESIDENT_SIZE_MAX {
            let blocks = store.get_range(&path, segment.blocks_at, blocks_size)?;
            if *blake3::hash(&blocks).as_bytes() != segment.blocks_hash {
                return Err(VaultError::damaged(what, "its checksum does not match"));
            }
            segment.resident = Some(blocks);
        }
        Ok(segment)
    }

    /// Checks a head of this name.
    pub(crate) fn decode_head(domain: DomainId, name: SegmentName, head: &Bytes) -> Result<Self, VaultError> {
        let mut reader = Reader::new(head, "index");
        if *blake3::hash(head).as_bytes() != name.0 {
            return Err(reader.bad("its checksum does not match"));
        }
        reader.opening(MAGIC, VERSION)?;
        reader.bytes(2)?;
        if reader.u32()? as usize != head.len() || reader.array()? != domain.0 {
            return Err(reader.bad("it lies where another belongs"));
        }
        let (id, part, parts) = (reader.array()?, reader.u32()?, reader.u32()?);
        let blocks_hash = reader.array()?;
        let entries = reader.u32()? as usize;
        let count = reader.count(32)?;
        let supersedes = (0..count).map(|_| reader.array().map(SegmentName)).collect::<Result<_, _>>()?;
        let count = reader.count(PACK_ROW_SIZE)?;
        let mut packs = Vec::with_capacity(count);
        for _ in 0..count {
            let kind = match reader.u8()? {
                0 => crate::object::Kind::Data,
                1 => crate::object::Kind::Tree,
                _ => return Err(reader.bad("it names a pack of unknown kind")),
            };
            let name = PackName { kind, hash: reader.array()? };
            packs.push(PackInfo { name, writer: WriterId(reader.array()?), size: reader.u64()? });
        }
        let count = reader.count(8)?;
        let fences: Vec<u64> = (0..count).map(|_| reader.u64()).collect::<Result<_, _>>()?;
        if part >= parts || fences.len() != entries.div_ceil(BLOCK_ENTRIES) || !fences.is_sorted() {
            return Err(reader.bad("its parts do not fit"));
        }
        let length = reader.count(1)?;
        if !length.is_multiple_of(64) {
            return Err(reader.bad("its filter does not fit"));
        }
        let filter = head.slice_ref(reader.bytes(length)?);
        Ok(Self {
            name,
            run: Run { id, part, parts, supersedes },
            packs,
            entries,
            fences,
            filter,
            blocks_hash,
            blocks_at: head.len() as u64,
            path: name.path(domain),
            resident: None,
        })
    }

    fn blocks(&self, store: &dyn Store, first: usize, count: usize) -> Result<Bytes, VaultError> {
        let (start, length) = (first * BLOCK_SIZE, count * BLOCK_SIZE);
        match &self.resident {
            Some(all) => Ok(all.slice(start..start + length)),
            None => store.get_range(&self.path, self.blocks_at + start as u64, length),
        }
    }

    fn entries_of(&self, block: &[u8]) -> Result<Vec<Entry>, VaultError> {
        decode_block(block, self.packs.len())
            .ok_or_else(|| VaultError::damaged("index", "the checksum of a block does not match"))
    }

    /// Calls `found` with the place and the entry of each copy of an object.
    pub(crate) fn find(
        &self,
        store: &dyn Store,
        id: &ChunkId,
        mut found: impl FnMut(usize, Entry),
    ) -> Result<(), VaultError> {
        if !filter::may_hold(&self.filter, id) {
            return Ok(());
        }
        let sought = prefix(id);
        let end = self.fences.partition_point(|fence| *fence <= sought);
        let start = self.fences.partition_point(|fence| *fence < sought).saturating_sub(1);
        for block in start..end {
            let bytes = self.blocks(store, block, 1)?;
            let bad = || VaultError::damaged("index", "the checksum of a block does not match");
            let count = count_of(&bytes, self.resident.is_some()).ok_or_else(bad)?;
            // Only the entry that is sought is decoded.
            let (mut low, mut high) = (0, count);
            while low < high {
                let middle = low.midpoint(high);
                if id_of(&bytes, middle) < &id.0[..] { low = middle + 1 } else { high = middle }
            }
            for place in (low..count).take_while(|place| id_of(&bytes, *place) == id.0) {
                let entry = entry_of(&bytes, place, self.packs.len()).ok_or_else(bad)?;
                found(block * BLOCK_ENTRIES + place, entry);
            }
        }
        Ok(())
    }

    /// All entries in order, block by block.
    pub(crate) fn scan<'a>(self: &'a Arc<Self>, store: &'a dyn Store) -> Scan<'a> {
        Scan { segment: self, store, block: 0, ready: Vec::new().into_iter() }
    }

    /// Compares the blocks with their hash.
    pub(crate) fn verify(&self, store: &dyn Store) -> Result<(), VaultError> {
        let mut hasher = blake3::Hasher::new();
        for first in (0..self.fences.len()).step_by(SCAN_BLOCKS) {
            let count = SCAN_BLOCKS.min(self.fences.len() - first);
            let start = self.blocks_at + (first * BLOCK_SIZE) as u64;
            hasher.update(&store.get_range(&self.path, start, count * BLOCK_SIZE)?);
        }
        if *hasher.finalize().as_bytes() == self.blocks_hash {
            return Ok(());
        }
        Err(VaultError::damaged("index", "its checksum does not match"))
    }

    /// Bytes of memory that it takes.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> usize {
        self.fences.len() * 8
            + self.filter.len()
            + self.packs.len() * size_of::<PackInfo>()
            + self.resident.as_ref().map_or(0, Bytes::len)
    }
}

/// The entries of a segment, read some blocks at a time.
pub(crate) struct Scan<'a> {
    segment: &'a Arc<Segment>,
    store: &'a dyn Store,
    block: usize,
    ready: std::vec::IntoIter<Entry>,
}

impl Iterator for Scan<'_> {
    type Item = Result<Entry, VaultError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.ready.next() {
                return Some(Ok(entry));
            }
            let count = SCAN_BLOCKS.min(self.segment.fences.len() - self.block);
            if count == 0 {
                return None;
            }
            let read = self.segment.blocks(self.store, self.block, count).and_then(|bytes| {
                let mut entries = Vec::with_capacity(count * BLOCK_ENTRIES);
                for block in bytes.chunks_exact(BLOCK_SIZE) {
                    entries.extend(self.segment.entries_of(block)?);
                }
                Ok(entries)
            });
            self.block += count;
            match read {
                Ok(entries) => self.ready = entries.into_iter(),
                Err(error) => {
                    self.block = self.segment.fences.len();
                    return Some(Err(error));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Kind;
    use crate::store::fault::FaultStore;
    use proptest::prelude::*;

    const DOMAIN: DomainId = DomainId([3; 16]);

    fn id(number: u32) -> ChunkId {
        ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    fn packs() -> Vec<PackInfo> {
        let info = |n| PackInfo {
            name: PackName { kind: Kind::Data, hash: [n; 32] },
            writer: WriterId([n; 16]),
            size: 9,
        };
        vec![info(1), info(2)]
    }

    fn entries(count: u32) -> Vec<Entry> {
        let mut entries: Vec<_> =
            (0..count).map(|n| Entry { id: id(n), pack: n % 2, offset: n, length: 50, kind: 0 }).collect();
        entries.sort_unstable();
        entries
    }

    fn run() -> Run {
        Run { id: [1; 16], part: 0, parts: 1, supersedes: vec![SegmentName([4; 32])] }
    }

    fn stored(entries: &[Entry]) -> (FaultStore, SegmentName, u64) {
        let store = FaultStore::new();
        let (name, parts) = build(DOMAIN, &run(), &packs(), entries);
        store.put(&name.path(DOMAIN), &parts).unwrap();
        let size = store.list("index/").unwrap()[0].1;
        (store, name, size)
    }

    #[test]
    fn every_object_is_found_and_no_other() {
        for count in [0, 1, 84, 85, 5000] {
            let entries = entries(count);
            let (store, name, size) = stored(&entries);
            let segment = Arc::new(Segment::load(&store, DOMAIN, name, size).unwrap());
            assert_eq!((segment.entries, &segment.packs, &segment.run), (count as usize, &packs(), &run()));
            for (at, entry) in entries.iter().enumerate() {
                let mut found = Vec::new();
                segment.find(&store, &entry.id, |place, entry| found.push((place, entry))).unwrap();
                assert_eq!(found, [(at, *entry)]);
            }
            for n in count..count + 1000 {
                segment.find(&store, &id(n), |_, _| panic!("found what is not there")).unwrap();
            }
            assert_eq!(segment.scan(&store).collect::<Result<Vec<_>, _>>().unwrap(), entries);
        }
    }

    #[test]
    fn copies_of_one_object_are_all_found_even_across_blocks() {
        let one = id(7);
        let entries: Vec<_> =
            (0..300).map(|n| Entry { id: one, pack: n % 2, offset: n / 2, length: 50, kind: 0 }).collect();
        let mut entries = entries;
        entries.sort_unstable();
        let (store, name, size) = stored(&entries);
        let segment = Segment::load(&store, DOMAIN, name, size).unwrap();
        let mut found = Vec::new();
        segment.find(&store, &one, |_, entry| found.push(entry)).unwrap();
        assert_eq!(found, entries);
    }

    #[test]
    fn a_chunk_costs_less_than_two_bytes_of_memory() {
        let (store, name, size) = stored(&entries(200_000));
        let segment = Segment::load(&store, DOMAIN, name, size).unwrap();
        assert!(segment.resident.is_none());
        assert!(segment.memory() < 2 * 200_000, "{}", segment.memory());
    }

    #[test]
    fn a_flipped_bit_anywhere_in_a_segment_is_noticed() {
        let (store, name, size) = stored(&entries(90));
        let bytes = store.get(&name.path(DOMAIN)).unwrap();
        for at in 0..bytes.len() {
            let mut bytes = bytes.to_vec();
            bytes[at] ^= 1 << (at % 8);
            store.tamper(&name.path(DOMAIN), Some(bytes.into()));
            assert!(
                matches!(Segment::load(&store, DOMAIN, name, size), Err(VaultError::Damaged { .. })),
                "byte {at}"
            );
        }
    }

    proptest! {
        /// With a name that fits whatever the bytes are.
        #[test]
        fn decoding_never_panics(bytes: Vec<u8>, block: Vec<u8>, parts: u32, counts: [u8; 5], mend: bool) {
            let mut head = MAGIC.to_vec();
            head.extend_from_slice(&VERSION.to_le_bytes());
            head.extend_from_slice(&[0; 2]);
            head.extend_from_slice(&[0; 4]);
            head.extend_from_slice(&DOMAIN.0);
            head.extend_from_slice(&[1; 16]);
            head.extend_from_slice(&0u32.to_le_bytes());
            head.extend_from_slice(&parts.to_le_bytes());
            head.extend_from_slice(&[0; 32]);
            for count in counts {
                head.extend_from_slice(&u32::from(count % 3).to_le_bytes());
                head.extend(bytes.iter().take(70));
            }
            let length = u32::try_from(head.len()).unwrap().to_le_bytes();
            head[12..16].copy_from_slice(&length);
            let name = SegmentName(*blake3::hash(&head).as_bytes());
            let _ = Segment::decode_head(DOMAIN, name, &head.into());
            let mut block = block;
            block.resize(BLOCK_SIZE, 3);
            if mend {
                let sum = crc32c::crc32c(&block[..BLOCK_SIZE - 4]).to_le_bytes();
                block[BLOCK_SIZE - 4..].copy_from_slice(&sum);
            }
            let _ = decode_block(&block, 2);
        }
    }
}
