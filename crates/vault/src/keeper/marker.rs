//! Finding what is live: the first half of garbage collection.

use super::domain::{Domain, prefix};
use super::read::Copies;
use crate::index::segment::{Entry, PackInfo, Segment};
use crate::index::set::stored;
use crate::object::{ChunkId, Kind, VaultError};
use crate::pack::{PackName, WriterId};
use crate::seal::SealedKind;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Trees read at once.
const TREES_AT_ONCE: usize = 64;

/// How much of a pack is needed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub pack: PackInfo,
    pub live: u64,
    pub dead: u64,
}

/// Finds what is live: one bit for each entry of the segments there were when it began. Objects that came later lie in packs
/// that are not judged.
pub(crate) struct Marker<'a> {
    domain: &'a Domain,
    segments: Arc<Vec<Arc<Segment>>>,
    bits: Vec<Vec<u64>>,
    /// Visited objects that are in none of the segments.
    outside: HashSet<ChunkId>,
    /// Needed by a snapshot and not there.
    missing: Vec<ChunkId>,
    pub condemned: HashSet<PackName>,
    /// Something newly found to be live lies in condemned packs only.
    pub conflict: bool,
}

/// Copies of one object that stay.
#[derive(Default)]
struct There {
    /// An alias alone is nobody's copy.
    object: bool,
    writers: HashSet<WriterId>,
}

impl There {
    fn add(&mut self, writer: WriterId, kind: SealedKind) {
        self.object |= kind != SealedKind::Alias;
        self.writers.insert(writer);
    }

    /// Whether the copies of these writers are not needed: the object itself stays, and so does the word of each, without
    /// which its client could not read the object.
    fn spares(&self, going: &HashSet<WriterId>) -> bool {
        self.object && going.is_subset(&self.writers)
    }
}

impl<'a> Marker<'a> {
    pub(crate) fn new(domain: &'a Domain) -> Self {
        let segments = domain.index.segments();
        let bits = segments
            .iter()
            .map(|segment| vec![0; segment.entries.next_multiple_of(84).div_ceil(64)])
            .collect();
        Self {
            domain,
            segments,
            bits,
            outside: HashSet::new(),
            missing: Vec::new(),
            condemned: HashSet::new(),
            conflict: false,
        }
    }

    /// An error if something that a snapshot needs is missing.
    pub(crate) fn complete(&self) -> Result<(), VaultError> {
        match self.missing.first() {
            None => Ok(()),
            Some(id) => Err(VaultError::Refused(format!(
                "nothing is collected while {} objects that snapshots need are missing or damaged, the first is {id}",
                self.missing.len()
            ))),
        }
    }

    /// Marks all that is reachable. `needed` says that what is not there is missed.
    pub(crate) fn mark(&mut self, roots: Vec<ChunkId>, needed: bool) -> Result<(), VaultError> {
        let mut waiting = roots;
        while !waiting.is_empty() && !self.conflict {
            let mut trees = Vec::new();
            for id in std::mem::take(&mut waiting) {
                if let Some(true) = self.visit(&id, needed)? {
                    trees.push(id);
                }
            }
            // Depth first in groups: the list of what waits stays short in a wide tree.
            for group in trees.chunks(TREES_AT_ONCE) {
                self.children(group, needed, &mut waiting)?;
            }
        }
        Ok(())
    }

    fn children(
        &mut self,
        trees: &[ChunkId],
        needed: bool,
        waiting: &mut Vec<ChunkId>,
    ) -> Result<(), VaultError> {
        match self.domain.read_many(trees, Copies::All) {
            Ok(read) => read.iter().for_each(|sealed| waiting.extend(sealed.refs())),
            Err(VaultError::Missing(_) | VaultError::Damaged { .. } | VaultError::NotFound(_)) => {
                for id in trees {
                    match self.domain.read_any(id, Copies::All) {
                        Ok(sealed) => waiting.extend(sealed.refs()),
                        Err(
                            VaultError::Missing(_) | VaultError::Damaged { .. } | VaultError::NotFound(_),
                        ) => {
                            if needed {
                                self.missing.push(*id);
                            }
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Marks one object: None if it was marked before or is not there, otherwise whether it is a tree.
    fn visit(&mut self, id: &ChunkId, needed: bool) -> Result<Option<bool>, VaultError> {
        let (mut new, mut known, mut tree) = (false, false, false);
        let (mut there, mut going) = (There::default(), HashSet::new());
        for (segment, bits) in self.segments.iter().zip(&mut self.bits) {
            segment.find(self.domain.store(), id, |at, entry| {
                known = true;
                let (word, bit) = (at / 64, 1 << (at % 64));
                new |= bits[word] & bit == 0;
                bits[word] |= bit;
                tree |= entry.kind == Kind::Tree.code();
                let stored = stored(segment, &entry);
                if self.condemned.contains(&stored.pack.name) {
                    going.insert(stored.pack.writer);
                } else {
                    there.add(stored.pack.writer, stored.kind);
                }
            })?;
        }
        if known && (!new || there.spares(&going)) {
            return Ok(new.then_some(tree));
        }
        // Put since the marking began, or only in condemned packs as far as the segments know.
        let copies = self.domain.index.copies(id, WriterId::MIN)?;
        let mut there = There::default();
        copies.iter().for_each(|found| there.add(found.writer, found.kind));
        if !there.spares(&going) {
            self.conflict |= known;
            if !known && needed {
                self.missing.push(*id);
            }
            return Ok(None);
        }
        tree |= copies.iter().any(|found| found.kind == SealedKind::Object(Kind::Tree));
        Ok((self.outside.insert(*id) || (known && new)).then_some(tree))
    }

    /// The objects of the segments that sessions were told are there.
    pub(crate) fn pinned(&self, pins: &HashSet<u64>) -> Result<Vec<ChunkId>, VaultError> {
        let mut found = Vec::new();
        if pins.is_empty() {
            return Ok(found);
        }
        for segment in self.segments.iter() {
            for entry in segment.scan(self.domain.store()) {
                let id = entry?.id;
                if pins.contains(&prefix(&id)) {
                    found.push(id);
                }
            }
        }
        Ok(found)
    }

    /// Calls `each` with every entry, its pack, and whether it is live.
    fn entries(&self, mut each: impl FnMut(PackInfo, Entry, bool)) -> Result<(), VaultError> {
        for (segment, bits) in self.segments.iter().zip(&self.bits) {
            for (at, entry) in segment.scan(self.domain.store()).enumerate() {
                let entry = entry?;
                let live = bits[at / 64] & (1 << (at % 64)) != 0;
                each(stored(segment, &entry).pack, entry, live);
            }
        }
        Ok(())
    }

    /// How much of each pack is live. Packs that must not be relied on anyway are left out.
    pub(crate) fn usage(&self) -> Result<HashMap<PackName, Usage>, VaultError> {
        let avoided = self.domain.index.avoided();
        let mut packs: HashMap<PackName, Usage> = HashMap::new();
        self.entries(|pack, entry, live| {
            if avoided.packs.contains(&pack.name) {
                return;
            }
            let usage = packs.entry(pack.name).or_insert(Usage { pack, live: 0, dead: 0 });
            let length = u64::from(entry.length);
            if live {
                usage.live += length;
            } else {
                usage.dead += length;
            }
        })?;
        Ok(packs)
    }

    pub(crate) fn live_in(&self, packs: &HashSet<PackName>) -> Result<Vec<(PackInfo, Entry)>, VaultError> {
        let mut found = Vec::new();
        self.entries(|pack, entry, live| {
            if live && packs.contains(&pack.name) {
                found.push((pack, entry));
            }
        })?;
        Ok(found)
    }
}
