//! Making a new replica.

use crate::codec::Stamped;
use crate::layout::{BLOCK, Layout, LayoutError, SLOTS};
use crate::superblock::{PeerSlot, Superblock};
use anshin_base::{GroupId, ReplicaId, SessionId};
use bytes::Bytes;

/// What a new replica shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Size of the data area in bytes, a multiple of 4,096.
    pub volume_bytes: u64,
    /// The group it belongs to.
    pub group: GroupId,
    /// Random, not 0.
    pub replica: ReplicaId,
    /// Hot extents of its activity log; the same on every replica of a group is best. 1,237 covers 4.8 GiB.
    pub hot_extents: u32,
    /// The data area is known to be all zeroes, as a fresh sparse file is. Lets the first comparison of two such
    /// replicas be left out.
    pub zeroed: bool,
}

/// What to write into a metadata area that is all zeroes (a fresh file of [`MetaImage::meta_bytes`]), then flush.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaImage {
    /// Size that the metadata area needs.
    pub meta_bytes: u64,
    /// Offset and content, in any order. Everything else stays zero.
    pub writes: Vec<(u64, Bytes)>,
}

/// Who a replica on disk is, for an owner that must know before it can open it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The group.
    pub group: GroupId,
    /// The replica.
    pub replica: ReplicaId,
    /// Size of the data area.
    pub volume_bytes: u64,
    /// Size of the metadata area.
    pub meta_bytes: u64,
}

/// Bytes at the start of the metadata area that [`identify`] wants.
pub const IDENTIFY_BYTES: usize = 2 * BLOCK as usize;

/// Who the replica is whose metadata area starts with these [`IDENTIFY_BYTES`] bytes; None if it is none.
#[must_use]
pub fn identify(start: &[u8]) -> Option<Identity> {
    let found = Superblock::newest(start).ok()?;
    Some(Identity {
        group: found.group,
        replica: found.replica,
        volume_bytes: found.layout.volume_bytes,
        meta_bytes: found.layout.meta_bytes(),
    })
}

impl Format {
    /// The metadata of the new replica.
    ///
    /// # Errors
    /// [`LayoutError`] if the sizes are not allowed.
    pub fn image(&self) -> Result<MetaImage, LayoutError> {
        let layout = Layout::new(self.volume_bytes, self.hot_extents)?;
        let first = Superblock {
            sequence: 1,
            group: self.group,
            replica: self.replica,
            session: SessionId(0),
            progress: 0,
            presented: None,
            zeroed: self.zeroed,
            target: false,
            old_image: false,
            layout,
            stamp: Stamped::default(),
            slots: [PeerSlot::default(); SLOTS],
        };
        let second = Superblock { sequence: 2, ..first.clone() };
        let writes = [first, second].map(|block| (Superblock::offset(block.sequence), block.encode())).into();
        Ok(MetaImage { meta_bytes: layout.meta_bytes(), writes })
    }
}
