//! Writing of directories and roots.

use super::{Entry, LeafEncoder, Listing, PART_TARGET, Totals, object::KIND_ROOT, spine::Spine};
use anshin_vault::{ChunkId, Kind, Sink, VaultError};

/// A part ends behind a name whose crc32c has these bits clear: one in 512.
const CUT_MASK: u32 = (1 << 9) - 1;
const ENTRIES_MAX: u64 = 4096;

/// A part of a directory that was put into the vault.
pub struct SealedLeaf {
    /// Its id.
    pub id: ChunkId,
    /// Its body.
    pub body: Vec<u8>,
    /// Its references.
    pub refs: Vec<ChunkId>,
    /// How many entries it has.
    pub entries: u64,
}

/// Writes a directory entry by entry, in ascending order of names, in memory that does not grow with its size.
pub struct DirectoryWriter {
    leaf: LeafEncoder,
    first: Box<[u8]>,
    last: Box<[u8]>,
    spine: Spine<Box<[u8]>>,
    totals: Totals,
}

impl Default for DirectoryWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl DirectoryWriter {
    /// An empty directory.
    pub fn new() -> Self {
        Self {
            leaf: LeafEncoder::default(),
            first: Box::default(),
            last: Box::default(),
            spine: Spine::default(),
            totals: Totals::default(),
        }
    }

    /// Adds an entry, whose name must follow that of the one before. Gives the part of the directory that it completed.
    ///
    /// # Errors
    /// If the vault does not take an object.
    pub fn push(&mut self, sink: &dyn Sink, entry: &Entry) -> Result<Option<SealedLeaf>, VaultError> {
        debug_assert!(self.totals.entries == 0 || self.last < entry.name, "invariant: names ascend");
        if self.leaf.count() == 0 {
            self.first = entry.name.clone();
        }
        self.last = entry.name.clone();
        self.leaf.push(entry);
        self.totals.add(entry);
        let cut = crc32c::crc32c(&entry.name) & CUT_MASK == 0;
        if cut || self.leaf.weight() >= PART_TARGET || self.leaf.count() >= ENTRIES_MAX {
            return self.seal(sink).map(Some);
        }
        Ok(None)
    }

    fn seal(&mut self, sink: &dyn Sink) -> Result<SealedLeaf, VaultError> {
        let leaf = std::mem::take(&mut self.leaf);
        let entries = leaf.count();
        let (body, refs) = leaf.finish();
        let id = sink.put(Kind::Tree, &refs, &body)?;
        self.spine.push(sink, std::mem::take(&mut self.first), id)?;
        Ok(SealedLeaf { id, body, refs, entries })
    }

    /// Completes the directory; gives where it is, and its last part unless that was given already.
    ///
    /// # Errors
    /// If the vault does not take an object.
    pub fn finish(mut self, sink: &dyn Sink) -> Result<(Listing, Option<SealedLeaf>), VaultError> {
        let last = if self.leaf.count() > 0 { Some(self.seal(sink)?) } else { None };
        let listing = match self.spine.finish(sink)? {
            Some(id) => Listing::Stored { id, totals: self.totals },
            None => Listing::Empty,
        };
        Ok((listing, last))
    }
}

/// Puts the root of a tree into the vault: `entry` without its name. Its id stands for everything beneath.
///
/// # Errors
/// If the vault does not take it.
pub fn write_root(sink: &dyn Sink, entry: &Entry) -> Result<ChunkId, VaultError> {
    let mut leaf = LeafEncoder::default();
    leaf.push(&Entry { name: Box::default(), ..entry.clone() });
    let (body, refs) = leaf.finish_as(KIND_ROOT);
    sink.put(Kind::Tree, &refs, &body)
}
