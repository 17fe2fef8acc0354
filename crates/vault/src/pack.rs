//! Packs: immutable files of sealed objects of one key domain, one writer and one kind.
//!
//! ```text
//! offset size
//!      0    8  "anvpack1"
//!      8    2  version, 1
//!     10    1  0 data, 1 trees
//!     11    5  zero
//!     16   16  key domain
//!     32   16  writer
//!     48   16  random: no two packs have the same name, not even with the same content
//!     64       sealed objects, one behind the other
//!              table: id (32), offset (4), length (4), kind (1) of each, in ascending order of ids
//!  end-56    4  number of objects
//!  end-52    4  zero
//!  end-48    8  length of the whole pack
//!  end-40   32  BLAKE3 of the first 64 bytes, the table, and the 16 bytes before this
//!   end-8    8  "anvpend1"
//! ```
//! The hash is the pack's name. Each sealed object carries its own check, so every byte is covered by one or the other.

use crate::coder::{Reader, hex, unhex};
use crate::keys::{DomainId, random};
use crate::object::{ChunkId, Kind, VaultError};
use crate::seal::{HEADER_SIZE as RECORD_HEADER, SEALED_SIZE_MAX, Sealed, SealedKind};
use crate::store::Store;
use bytes::Bytes;
use std::collections::HashSet;
use std::fmt;

const MAGIC: &[u8; 8] = b"anvpack1";
const END_MAGIC: &[u8; 8] = b"anvpend1";
const VERSION: u16 = 1;
/// Bytes before the first object.
pub(crate) const HEADER_SIZE: usize = 64;
const ROW_SIZE: usize = 41;
const TRAILER_SIZE: usize = 56;
/// A pack is closed when it has grown to this: large enough that requests cost little, small enough to keep two in memory.
pub const PACK_SIZE_TARGET: usize = 32 << 20;
/// Most objects of a pack, so that its table stays small beside it.
pub(crate) const PACK_OBJECTS_MAX: usize = 1 << 16;
/// No pack is longer: target, one object more, and the table.
pub(crate) const PACK_SIZE_MAX: usize =
    PACK_SIZE_TARGET + SEALED_SIZE_MAX + PACK_OBJECTS_MAX * ROW_SIZE + 4096;
/// Read from the end of a pack at first; enough for the table of most.
const TAIL_SIZE: usize = 64 << 10;

/// Who wrote a pack: a client within its domain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriterId(pub [u8; 16]);

impl WriterId {
    /// Lies before and after all others, for ranges.
    pub(crate) const MIN: Self = Self([0; 16]);
    pub(crate) const MAX: Self = Self([255; 16]);

    /// The writer with this client name.
    #[must_use]
    pub fn of(client: &str) -> Self {
        let key = blake3::derive_key("anshin vault v1 writer", client.as_bytes());
        Self(key[..16].try_into().expect("invariant: a key has 32 bytes"))
    }
}

impl fmt::Debug for WriterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WriterId({})", &hex(&self.0)[..8])
    }
}

/// A pack's name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackName {
    /// What is in it.
    pub kind: Kind,
    /// Hash of its header and table.
    pub hash: [u8; 32],
}

impl fmt::Display for PackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.kind == Kind::Tree { 't' } else { 'd' };
        write!(f, "{kind}-{}", hex(&self.hash))
    }
}

impl fmt::Debug for PackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackName({})", &self.to_string()[..10])
    }
}

impl PackName {
    /// Reads what `Display` writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let kind = match text.split_at_checked(2)?.0 {
            "t-" => Kind::Tree,
            "d-" => Kind::Data,
            _ => return None,
        };
        Some(Self { kind, hash: unhex(&text[2..])? })
    }

    /// The object of the storage.
    pub(crate) fn path(&self, domain: DomainId) -> String {
        format!("packs/{domain}/{self}")
    }
}

/// Where the packs of a domain lie.
pub(crate) fn packs_prefix(domain: DomainId) -> String {
    format!("packs/{domain}/")
}

/// One row of a pack's table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Row {
    pub id: ChunkId,
    pub offset: u32,
    pub length: u32,
    pub kind: SealedKind,
}

/// A pack's header and table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Contents {
    pub name: PackName,
    pub writer: WriterId,
    pub size: u64,
    pub rows: Vec<Row>,
}

/// A pack that is being filled.
pub(crate) struct PackBuilder {
    kind: Kind,
    domain: DomainId,
    writer: WriterId,
    records: Vec<Sealed>,
    size: usize,
}

/// A pack ready to be stored.
pub(crate) struct FinishedPack {
    pub contents: Contents,
    pub parts: Vec<Bytes>,
}

/// In which packs an object belongs.
pub(crate) const fn pack_kind(kind: SealedKind) -> Kind {
    match kind {
        SealedKind::Object(kind) => kind,
        SealedKind::Alias => Kind::Data,
    }
}

impl PackBuilder {
    pub(crate) const fn new(kind: Kind, domain: DomainId, writer: WriterId) -> Self {
        Self { kind, domain, writer, records: Vec::new(), size: HEADER_SIZE }
    }

    pub(crate) fn push(&mut self, sealed: Sealed) {
        self.size += sealed.bytes().len();
        self.records.push(sealed);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(crate) fn is_full(&self, target: usize) -> bool {
        self.size >= target || self.records.len() >= PACK_OBJECTS_MAX
    }

    /// The pack's bytes. Of two objects with the same id the first is taken.
    pub(crate) fn finish(mut self) -> Result<FinishedPack, VaultError> {
        let mut seen = HashSet::with_capacity(self.records.len());
        self.records.retain(|sealed| seen.insert(sealed.id()));
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.push(self.kind.code());
        header.extend_from_slice(&[0; 5]);
        header.extend_from_slice(&self.domain.0);
        header.extend_from_slice(&self.writer.0);
        header.extend_from_slice(&random::<16>()?);
        let mut rows = Vec::with_capacity(self.records.len());
        let mut offset = HEADER_SIZE;
        for sealed in &self.records {
            let length = sealed.bytes().len();
            let fit = |value: usize| u32::try_from(value).expect("invariant: packs are bounded");
            rows.push(Row { id: sealed.id(), offset: fit(offset), length: fit(length), kind: sealed.kind() });
            offset += length;
        }
        rows.sort_unstable_by_key(|row| row.id);
        let mut tail = Vec::with_capacity(rows.len() * ROW_SIZE + TRAILER_SIZE);
        for row in &rows {
            tail.extend_from_slice(&row.id.0);
            tail.extend_from_slice(&row.offset.to_le_bytes());
            tail.extend_from_slice(&row.length.to_le_bytes());
            tail.push(row.kind.code());
        }
        let size = (offset + tail.len() + TRAILER_SIZE) as u64;
        crate::coder::put_count(&mut tail, rows.len());
        tail.extend_from_slice(&[0; 4]);
        tail.extend_from_slice(&size.to_le_bytes());
        let hash = *blake3::Hasher::new().update(&header).update(&tail).finalize().as_bytes();
        tail.extend_from_slice(&hash);
        tail.extend_from_slice(END_MAGIC);
        let name = PackName { kind: self.kind, hash };
        let mut parts = Vec::with_capacity(self.records.len() + 2);
        parts.push(Bytes::from(header));
        parts.extend(self.records.iter().map(|sealed| sealed.bytes().clone()));
        parts.push(Bytes::from(tail));
        Ok(FinishedPack { contents: Contents { name, writer: self.writer, size, rows }, parts })
    }
}

impl Contents {
    /// Reads header and table of a stored pack.
    pub(crate) fn load(
        store: &dyn Store,
        domain: DomainId,
        name: PackName,
        size: u64,
    ) -> Result<Self, VaultError> {
        let what = format!("pack {name}");
        let path = name.path(domain);
        let whole = usize::try_from(size).unwrap_or(usize::MAX);
        if !(HEADER_SIZE + TRAILER_SIZE..=PACK_SIZE_MAX).contains(&whole) {
            return Err(VaultError::damaged(what, format!("no pack is {size} bytes long")));
        }
        let header = store.get_range(&path, 0, HEADER_SIZE)?;
        let mut tail_size = whole.min(TAIL_SIZE);
        let mut tail = store.get_range(&path, (whole - tail_size) as u64, tail_size)?;
        let needed = table_size(&tail, &what)? + TRAILER_SIZE;
        if needed > tail_size {
            if needed > whole {
                return Err(VaultError::damaged(what, "its table is longer than itself"));
            }
            tail_size = needed;
            tail = store.get_range(&path, (whole - tail_size) as u64, tail_size)?;
        }
        Self::decode(domain, name, size, &header, &tail[tail.len() - needed..])
    }

    /// Table and trailer of a whole pack; None if it is too short for what it says.
    pub(crate) fn tail_of(pack: &[u8]) -> Option<&[u8]> {
        let size = table_size(pack, "a pack").ok()? + TRAILER_SIZE;
        pack.len().checked_sub(size).filter(|at| *at >= HEADER_SIZE).map(|at| &pack[at..])
    }

    /// Checks header and tail (table and trailer) of a pack of this name and size.
    pub(crate) fn decode(
        domain: DomainId,
        name: PackName,
        size: u64,
        header: &[u8],
        tail: &[u8],
    ) -> Result<Self, VaultError> {
        let what = format!("pack {name}");
        let bad = |why: &str| VaultError::damaged(&*what, why);
        let before_hash = tail.len().checked_sub(40).ok_or_else(|| bad("it ends too early"))?;
        let (hashed, end) = tail.split_at(before_hash);
        let hash = *blake3::Hasher::new().update(header).update(hashed).finalize().as_bytes();
        if hash != name.hash || end[..32] != hash || end[32..] != END_MAGIC[..] {
            return Err(bad("its header or table does not match its name"));
        }
        let mut reader = Reader::new(header, &what);
        reader.opening(MAGIC, VERSION)?;
        let (kind, zero, of) = (reader.u8()?, reader.array::<5>()?, reader.array()?);
        let writer = WriterId(reader.array()?);
        if kind != name.kind.code() || zero != [0; 5] || of != domain.0 {
            return Err(bad("it lies where another pack belongs"));
        }
        let mut reader = Reader::new(hashed, &what);
        let count = (hashed.len().saturating_sub(16)) / ROW_SIZE;
        let mut rows: Vec<Row> = Vec::with_capacity(count);
        for _ in 0..count {
            let id = ChunkId(reader.array()?);
            let (offset, length) = (reader.u32()?, reader.u32()?);
            let kind = SealedKind::from_code(reader.u8()?)
                .ok_or_else(|| bad("an object in it is of unknown kind"))?;
            if rows.last().is_some_and(|last| last.id >= id) || pack_kind(kind) != name.kind {
                return Err(bad("its table is out of order"));
            }
            rows.push(Row { id, offset, length, kind });
        }
        if reader.u32()? as usize != count || reader.u32()? != 0 || reader.u64()? != size {
            return Err(bad("its table does not fit its length"));
        }
        reader.end()?;
        check_layout(&rows, size, tail.len())
            .ok_or_else(|| bad("its objects do not lie one behind the other"))?;
        Ok(Self { name, writer, size, rows })
    }
}

/// Size of the table, from the trailer at the end of `tail`.
fn table_size(tail: &[u8], what: &str) -> Result<usize, VaultError> {
    let trailer = tail.len().checked_sub(TRAILER_SIZE).map(|at| &tail[at..]);
    let mut reader = Reader::new(trailer.unwrap_or_default(), what);
    let count = reader.u32()? as usize;
    if count > PACK_OBJECTS_MAX {
        return Err(reader.bad("its table is longer than any"));
    }
    Ok(count * ROW_SIZE)
}

/// Whether the objects fill the pack from header to table without gap or overlap.
fn check_layout(rows: &[Row], size: u64, tail_size: usize) -> Option<()> {
    let mut by_offset: Vec<(u32, u32)> = rows.iter().map(|row| (row.offset, row.length)).collect();
    by_offset.sort_unstable();
    let mut at = HEADER_SIZE as u64;
    for (offset, length) in by_offset {
        if u64::from(offset) != at || (length as usize) < RECORD_HEADER || length as usize > SEALED_SIZE_MAX {
            return None;
        }
        at += u64::from(length);
    }
    (at + tail_size as u64 == size).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::chunk_id;
    use crate::keys::DomainKeys;
    use crate::store::fault::FaultStore;
    use proptest::prelude::*;

    const DOMAIN: DomainId = DomainId([3; 16]);

    fn pack(count: usize) -> FinishedPack {
        let keys = DomainKeys::derive([1; 32]);
        let mut builder = PackBuilder::new(Kind::Data, DOMAIN, WriterId::of("alpha"));
        for number in 0..count {
            let plain = number.to_le_bytes();
            builder.push(Sealed::seal(
                &keys,
                &chunk_id(&keys.id, Kind::Data, &[], &plain),
                Kind::Data,
                &[],
                &plain,
            ));
        }
        builder.finish().unwrap()
    }

    #[test]
    fn header_and_table_are_read_back_whatever_their_length() {
        for count in [1, 3, 2000] {
            let (store, made) = (FaultStore::new(), pack(count));
            store.put(&made.contents.name.path(DOMAIN), &made.parts).unwrap();
            let size = store.list("packs/").unwrap()[0].1;
            let read = Contents::load(&store, DOMAIN, made.contents.name, size).unwrap();
            assert_eq!(read, made.contents);
            for row in &read.rows {
                let bytes =
                    store.get_range(&read.name.path(DOMAIN), u64::from(row.offset), row.length as usize);
                assert_eq!(Sealed::parse(bytes.unwrap()).unwrap().id(), row.id);
            }
        }
    }

    #[test]
    fn equal_packs_have_different_names_so_that_a_damaged_one_never_stands_for_a_new_one() {
        assert_ne!(pack(1).contents.name, pack(1).contents.name);
    }

    #[test]
    fn names_are_read_back() {
        let name = pack(1).contents.name;
        assert_eq!(PackName::parse(&name.to_string()), Some(name));
        for bad in ["", "d-", "x-00", "d-zz", "é-0"] {
            assert_eq!(PackName::parse(bad), None);
        }
    }

    #[test]
    fn a_flipped_bit_in_header_or_table_is_noticed() {
        let made = pack(3);
        let (header, tail) = (made.parts[0].to_vec(), made.parts[4].to_vec());
        for at in 0..(header.len() + tail.len()) * 8 {
            let (mut header, mut tail) = (header.clone(), tail.clone());
            let byte = at / 8;
            if byte < header.len() {
                header[byte] ^= 1 << (at % 8);
            } else {
                tail[byte - header.len()] ^= 1 << (at % 8);
            }
            let read = Contents::decode(DOMAIN, made.contents.name, made.contents.size, &header, &tail);
            assert!(matches!(read, Err(VaultError::Damaged { .. })), "bit {at}");
        }
    }

    proptest! {
        /// With a name that fits whatever the bytes are: the hash must not be the only thing that protects the decoder.
        #[test]
        fn decoding_never_panics(rows in 0usize..4, bytes: Vec<u8>, header: [u8; 54], count: u32, size: u64, fit: bool) {
            let mut head = MAGIC.to_vec();
            head.extend_from_slice(&VERSION.to_le_bytes());
            head.extend_from_slice(&header);
            let mut tail = bytes.clone();
            tail.resize(if fit { rows * ROW_SIZE } else { bytes.len() }, 1);
            tail.extend_from_slice(&(if fit { u32::try_from(rows).unwrap() } else { count }).to_le_bytes());
            tail.extend_from_slice(&[0; 4]);
            tail.extend_from_slice(&size.to_le_bytes());
            let hash = *blake3::Hasher::new().update(&head).update(&tail).finalize().as_bytes();
            tail.extend_from_slice(&hash);
            tail.extend_from_slice(END_MAGIC);
            let name = PackName { kind: Kind::Data, hash };
            let _ = Contents::decode(DOMAIN, name, size, &head, &tail);
            let store = FaultStore::new();
            store.put(&name.path(DOMAIN), &[head.into(), tail.into()]).unwrap();
            let stored = store.list("").unwrap()[0].1;
            let _ = Contents::load(&store, DOMAIN, name, stored);
            let _ = Contents::load(&store, DOMAIN, name, size);
        }
    }
}
