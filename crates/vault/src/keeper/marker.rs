//! Finding what is live: the first half of garbage collection.

use super::domain::{Domain, prefix};
use super::read::Copies;
use crate::index::segment::{Entry, PackInfo, Segment};
use crate::index::set::stored;
use crate::object::{ChunkId, Kind, VaultError};
use crate::pack::{PackName, WriterId};
use crate::seal::{Sealed, SealedKind};
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

/// A tree that was found to be live and is to be read.
#[derive(Clone, Copy)]
struct Tree {
    id: ChunkId,
    /// There is more than one copy of it.
    several: bool,
    /// What it refers to and is not there is missed.
    needed: bool,
}

fn is_lost(error: &VaultError) -> bool {
    matches!(error, VaultError::Missing(_) | VaultError::Damaged { .. } | VaultError::NotFound(_))
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
        let mut trees = Vec::new();
        for id in roots {
            trees.extend(self.visit(&id, needed)?);
        }
        // Depth first in groups, and only trees wait: the list stays short however wide a tree is.
        while !trees.is_empty() && !self.conflict {
            let group = trees.split_off(trees.len().saturating_sub(TREES_AT_ONCE));
            let (several, single): (Vec<Tree>, Vec<Tree>) = group.into_iter().partition(|tree| tree.several);
            for (id, needed) in self.children(&single)? {
                trees.extend(self.visit(&id, needed)?);
            }
            for tree in several {
                for (id, needed) in self.children_of_all(&tree)? {
                    trees.extend(self.visit(&id, needed)?);
                }
            }
        }
        Ok(())
    }

    /// What these trees refer to, and whether it is needed.
    fn children(&mut self, trees: &[Tree]) -> Result<Vec<(ChunkId, bool)>, VaultError> {
        let ids: Vec<ChunkId> = trees.iter().map(|tree| tree.id).collect();
        let mut found = Vec::new();
        let mut take = |tree: &Tree, sealed: &Sealed| {
            found.extend(sealed.refs().map(|id| (id, tree.needed)));
        };
        match self.domain.read_many(&ids, Copies::All) {
            Ok(read) => trees.iter().zip(&read).for_each(|(tree, sealed)| take(tree, sealed)),
            Err(error) if is_lost(&error) => {
                for tree in trees {
                    match self.domain.read_any(&tree.id, Copies::All) {
                        Ok(sealed) => take(tree, &sealed),
                        Err(error) if is_lost(&error) => {
                            if tree.needed {
                                self.missing.push(tree.id);
                            }
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
            Err(error) => return Err(error),
        }
        Ok(found)
    }

    /// What all copies of a tree refer to: without its key nobody can tell which of them holds what its id says, and one
    /// writer must not be able to hide what another one's refers to. What only some of them refer to may not be missed.
    fn children_of_all(&mut self, tree: &Tree) -> Result<Vec<(ChunkId, bool)>, VaultError> {
        let mut all: Vec<Vec<ChunkId>> = Vec::new();
        for found in self.domain.index.copies(&tree.id, WriterId::MIN)? {
            if found.kind == SealedKind::Alias {
                continue;
            }
            match self.domain.read_copy(&tree.id, &found.place) {
                Ok(sealed) => all.push(sealed.refs().collect()),
                Err(error) if is_lost(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let Some(first) = all.first() else {
            let single = Tree { several: false, ..*tree };
            return self.children(&[single]);
        };
        let needed = tree.needed && all.iter().all(|refs| refs == first);
        Ok(all.into_iter().flatten().map(|id| (id, needed)).collect())
    }

    /// Marks one object; what it is, if it is a tree that was not marked before.
    fn visit(&mut self, id: &ChunkId, needed: bool) -> Result<Option<Tree>, VaultError> {
        let (mut new, mut known, mut tree) = (false, false, false);
        let mut places: Vec<(PackName, u32)> = Vec::new();
        let (mut there, mut going) = (There::default(), HashSet::new());
        for (segment, bits) in self.segments.iter().zip(&mut self.bits) {
            segment.find(self.domain.store(), id, |at, entry| {
                known = true;
                let (word, bit) = (at / 64, 1 << (at % 64));
                new |= bits[word] & bit == 0;
                bits[word] |= bit;
                tree |= entry.kind == Kind::Tree.code();
                let stored = stored(segment, &entry);
                let place = (stored.pack.name, stored.offset);
                if stored.kind != SealedKind::Alias && !places.contains(&place) {
                    places.push(place);
                }
                if self.condemned.contains(&stored.pack.name) {
                    going.insert(stored.pack.writer);
                } else {
                    there.add(stored.pack.writer, stored.kind);
                }
            })?;
        }
        let seen = |tree: bool, several: bool| tree.then_some(Tree { id: *id, several, needed });
        if known && (!new || there.spares(&going)) {
            return Ok(seen(new && tree, places.len() > 1));
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
        let first = self.outside.insert(*id) || (known && new);
        Ok(seen(first && tree, copies.len() + places.len() > 1))
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
