//! Walking from a snapshot's root to all that it refers to, without any key.

use super::domain::Domain;
use super::read::Copies;
use crate::index::set::Place;
use crate::object::{ChunkId, Kind, VaultError};
use crate::pack::WriterId;
use crate::seal::SealedKind;
use std::collections::HashSet;

/// Trees read at once: their references stay within some megabytes.
const TREES_AT_ONCE: usize = 64;

/// How much a snapshot refers to. What several snapshots share counts for each.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Reach {
    /// Objects.
    pub objects: u64,
    /// Those of them that are trees.
    pub trees: u64,
    /// Their bytes as stored: compressed and encrypted.
    pub stored_bytes: u64,
}

impl Domain {
    /// Checks that all that is reachable from `root` is there as the word of `writer`, except for what is
    /// also reachable from `base`: the root of a snapshot that is kept, which garbage collection keeps whole.
    ///
    /// The two trees are compared level by level, so the work grows with what has changed.
    ///
    /// # Errors
    /// [`VaultError::Missing`] with the first object that is not there.
    pub(crate) fn check_complete(
        &self,
        root: ChunkId,
        base: Option<ChunkId>,
        writer: WriterId,
    ) -> Result<(), VaultError> {
        let copies = Copies::Of(writer);
        let mut known: HashSet<ChunkId> = base.iter().copied().collect();
        let mut base_level: Vec<ChunkId> = base.into_iter().collect();
        let mut seen: HashSet<ChunkId> = HashSet::new();
        // Data is looked up as it is met and not gathered: there is much of it. True for what must be read.
        let must_read = |id: &ChunkId, known: &HashSet<ChunkId>, seen: &mut HashSet<ChunkId>| {
            if known.contains(id) || seen.contains(id) {
                return Ok(false);
            }
            match self.index.own_stored_kind(id, writer)? {
                None => Err(VaultError::Missing(*id)),
                Some(SealedKind::Object(Kind::Data)) => Ok(false),
                Some(SealedKind::Object(Kind::Tree) | SealedKind::Alias) => Ok(seen.insert(*id)),
            }
        };
        let mut trees = Vec::new();
        if must_read(&root, &known, &mut seen)? {
            trees.push(root);
        }
        while !trees.is_empty() {
            // What the base has at the next level, but only below trees that are not in both.
            let differ: Vec<ChunkId> = base_level.into_iter().filter(|id| !seen.contains(id)).collect();
            base_level = self.children(&differ, Copies::All).unwrap_or_default();
            known.extend(&base_level);
            base_level.retain(|id| {
                !matches!(self.index.own_kind(id, writer), Ok(Some(SealedKind::Object(Kind::Data))))
            });
            let mut next = Vec::new();
            for group in trees.chunks(TREES_AT_ONCE) {
                for sealed in self.read_many(group, copies)? {
                    for id in sealed.refs() {
                        if must_read(&id, &known, &mut seen)? {
                            next.push(id);
                        }
                    }
                }
            }
            trees = next;
        }
        Ok(())
    }

    /// Counts what is reachable from `root`, without a key.
    pub(crate) fn reach(&self, root: ChunkId) -> Result<Reach, VaultError> {
        let mut reach = Reach::default();
        let mut seen: HashSet<ChunkId> = HashSet::new();
        let mut level = vec![root];
        while !level.is_empty() {
            let mut trees = Vec::new();
            for id in level {
                if !seen.insert(id) {
                    continue;
                }
                let copies = self.index.copies(&id, WriterId::MIN)?;
                let found = copies.iter().find(|found| found.kind != SealedKind::Alias);
                let found = found.ok_or(VaultError::Missing(id))?;
                reach.objects += 1;
                reach.stored_bytes += match &found.place {
                    Place::Held(sealed) => sealed.bytes().len() as u64,
                    Place::Stored(stored) => u64::from(stored.length),
                };
                if found.kind == SealedKind::Object(Kind::Tree) {
                    reach.trees += 1;
                    trees.push(id);
                }
            }
            level = self.children(&trees, Copies::All)?;
        }
        Ok(reach)
    }

    /// All that these objects refer to, each once.
    fn children(&self, trees: &[ChunkId], copies: Copies) -> Result<Vec<ChunkId>, VaultError> {
        let mut all = HashSet::new();
        for group in trees.chunks(TREES_AT_ONCE) {
            for sealed in self.read_many(group, copies)? {
                all.extend(sealed.refs());
            }
        }
        Ok(all.into_iter().collect())
    }
}
