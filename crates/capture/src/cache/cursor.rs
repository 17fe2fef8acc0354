//! Going through a directory of the cache in step with the directory itself.

use super::FilesCache;
use crate::tree::{ChunkId, Content, Entry, Segment};

/// An entry as it was, with what must still be in the vault for it to be believed.
pub(crate) struct CachedEntry {
    pub entry: Entry,
    pub inode: u64,
    pub objects: Vec<ChunkId>,
}

/// Where in a directory of the cache one is. Names must be asked for in ascending order.
#[derive(Default)]
pub(crate) struct CacheCursor {
    part: u32,
    /// What is left of the part, the next entry last.
    left: Vec<(Entry, u64)>,
    ended: bool,
}

impl CacheCursor {
    /// What the cache knows of `name`, if the directory is still on the same device.
    pub fn find(
        &mut self,
        cache: &FilesCache,
        key: &[u8; 16],
        device: u64,
        name: &[u8],
    ) -> Option<CachedEntry> {
        loop {
            while self.left.last().is_some_and(|(entry, _)| *entry.name < *name) {
                self.left.pop();
            }
            match self.left.last() {
                Some((entry, _)) if *entry.name == *name => break,
                Some(_) => return None,
                None if self.ended => return None,
                None => self.load(cache, key, device),
            }
        }
        let (entry, inode) = self.left.pop()?;
        if inode == 0 {
            return None;
        }
        let objects = match entry.content() {
            Some(Content::Segments(list)) => list
                .iter()
                .filter_map(|segment| match segment {
                    Segment::Data { id, .. } => Some(*id),
                    Segment::Hole { .. } => None,
                })
                .collect(),
            Some(Content::Stored { id, .. }) => cache.closure(id)?,
            _ => Vec::new(),
        };
        Some(CachedEntry { entry, inode, objects })
    }

    fn load(&mut self, cache: &FilesCache, key: &[u8; 16], device: u64) {
        match cache.leaf(key, self.part) {
            Some(leaf) if leaf.device == device => {
                self.left = leaf.entries.into_iter().zip(leaf.inodes).rev().collect();
                self.part += 1;
            }
            _ => self.ended = true,
        }
    }
}
