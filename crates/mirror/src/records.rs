//! What the metadata on a disk say may differ, read without opening the replica.

use crate::activity::ActivityLog;
use crate::bitmap::Bitmap;
use crate::layout::{AL_OFFSET, AL_RECORDS, BLOCK, EXTENT};
use crate::superblock::Superblock;
use anshin_base::ReplicaId;
use std::collections::{BTreeMap, BTreeSet};

/// The activity log and the dirty records as a start would find them.
#[derive(Clone, Debug)]
pub struct Records {
    hot: BTreeSet<u32>,
    /// None where everything may differ.
    towards: BTreeMap<ReplicaId, Option<Bitmap>>,
}

impl Records {
    /// Reads them from the metadata area; `read` takes an offset and a length in bytes. None if no superblock is valid.
    pub fn read<B: AsRef<[u8]>>(read: impl Fn(u64, u64) -> B) -> Option<Self> {
        let superblock = Superblock::newest(read(0, 2 * BLOCK).as_ref()).ok()?;
        let layout = superblock.layout;
        let ring = read(AL_OFFSET, AL_RECORDS * layout.al_record_bytes());
        let (_, hot) = ActivityLog::load(layout, ring.as_ref());
        let mut towards = BTreeMap::new();
        for (slot, kept) in superblock.slots.iter().enumerate().filter(|(_, kept)| kept.replica.0 != 0) {
            let map = (!kept.full && !superblock.old_image).then(|| {
                let mut map = Bitmap::new(layout);
                for page in 0..layout.pages() {
                    map.load_page(kept.replica, page, read(layout.page_offset(slot, page), BLOCK).as_ref());
                }
                map
            });
            towards.insert(kept.replica, map);
        }
        Some(Self { hot, towards })
    }

    /// Whether they say that the block at `offset` may differ from `peer`'s.
    #[must_use]
    pub fn may_differ(&self, peer: ReplicaId, offset: u64) -> bool {
        let hot = u32::try_from(offset / EXTENT).is_ok_and(|extent| self.hot.contains(&extent));
        let record = self.towards.get(&peer).and_then(Option::as_ref);
        hot || record.is_none_or(|record| record.contains(offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Format;
    use anshin_base::GroupId;

    #[test]
    fn a_new_replica_says_that_anyone_may_differ_and_garbage_says_nothing() {
        let format = Format {
            volume_bytes: 1 << 20,
            group: GroupId(1),
            replica: ReplicaId(2),
            hot_extents: 7,
            zeroed: true,
        };
        let image = format.image().unwrap();
        let mut meta = vec![0u8; usize::try_from(image.meta_bytes).unwrap()];
        for (offset, bytes) in image.writes {
            let at = usize::try_from(offset).unwrap();
            meta[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        let read = |offset: u64, length: u64| {
            meta[usize::try_from(offset).unwrap()..usize::try_from(offset + length).unwrap()].to_vec()
        };
        assert!(Records::read(read).unwrap().may_differ(ReplicaId(3), 0));
        assert!(Records::read(|_, length| vec![7; usize::try_from(length).unwrap()]).is_none());
    }
}
