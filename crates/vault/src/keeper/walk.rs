//! Walking from a snapshot's root to all that it refers to, without any key.

use super::domain::Domain;
use super::read::Copies;
use crate::object::{ChunkId, Kind, VaultError};
use crate::pack::WriterId;
use crate::seal::SealedKind;
use std::collections::HashSet;

/// Trees read at once: their references stay within some megabytes.
const TREES_AT_ONCE: usize = 64;

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
        let mut level = vec![root];
        while !level.is_empty() {
            let mut trees = Vec::new();
            for id in level {
                if known.contains(&id) || seen.contains(&id) {
                    continue;
                }
                match self.index.own_stored_kind(&id, writer)? {
                    None => return Err(VaultError::Missing(id)),
                    Some(SealedKind::Object(Kind::Data)) => {}
                    Some(SealedKind::Object(Kind::Tree) | SealedKind::Alias) => {
                        seen.insert(id);
                        trees.push(id);
                    }
                }
            }
            // What the base has at the next level, but only below trees that are not in both.
            let differ: Vec<ChunkId> = base_level.into_iter().filter(|id| !seen.contains(id)).collect();
            base_level = if trees.is_empty() {
                Vec::new()
            } else {
                self.children(&differ, Copies::All).unwrap_or_default()
            };
            known.extend(&base_level);
            base_level.retain(|id| {
                !matches!(self.index.own_kind(id, writer), Ok(Some(SealedKind::Object(Kind::Data))))
            });
            level = self.children(&trees, copies)?;
        }
        Ok(())
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
