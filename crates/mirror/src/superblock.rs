//! The superblock: who this replica is and what it last knew for certain.
//!
//! Two slots of 4 KiB, written in turn; the valid one with the higher sequence number counts, so that a torn write
//! leaves the previous state. Layout in docs/formats/replica.md.

use crate::codec::{Malformed, Reader, Stamped, Writer};
use crate::layout::{BLOCK, Layout, SLOTS};
use anshin_base::{GroupId, ReplicaId, SessionId};
use bytes::Bytes;

const MAGIC: [u8; 8] = *b"anrepl01";
const VERSION: u16 = 1;
const SIZE: usize = BLOCK as usize;

/// What is kept about another replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerSlot {
    /// Which; 0 if the slot is free.
    pub replica: ReplicaId,
    /// Everything may differ, whatever the bitmap says.
    pub full: bool,
    /// Highest progress number that the peer confirmed to us (R7).
    pub highest: u64,
    /// The session in which it was confirmed: only a later session can present less.
    pub session: SessionId,
}

/// Content of a superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Grows with every write of a superblock.
    pub sequence: u64,
    /// The group.
    pub group: GroupId,
    /// This replica.
    pub replica: ReplicaId,
    /// The session that wrote this (R4).
    pub session: SessionId,
    /// Progress number (R7): grows with every confirmed flush.
    pub progress: u64,
    /// What must be presented instead of `progress`, until some party that remembers was asked (R7).
    pub presented: Option<u64>,
    /// The data area was all zeroes at creation.
    pub zeroed: bool,
    /// A resync into this replica began and did not end: it is inconsistent (I5).
    pub target: bool,
    /// Found to be a restored old image and not compared in full since (R7).
    pub old_image: bool,
    /// Shape of the metadata area.
    pub layout: Layout,
    /// Newest entry of the group that this replica knows (R8).
    pub stamp: Stamped,
    /// The other replicas, in the order of their bitmaps.
    pub slots: [PeerSlot; SLOTS],
}

impl Superblock {
    /// Where the superblock with this sequence number is written.
    #[must_use]
    pub fn offset(sequence: u64) -> u64 {
        (sequence % 2) * BLOCK
    }

    /// Exactly one block.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut w = Writer(Vec::with_capacity(SIZE));
        w.bytes(&MAGIC);
        w.u16(VERSION);
        let flags = [self.zeroed, self.target, self.old_image, self.presented.is_some()];
        w.u16(flags.iter().enumerate().map(|(bit, flag)| u16::from(*flag) << bit).sum());
        w.u32(self.layout.hot_extents);
        w.u64(self.sequence);
        w.u64(self.group.0);
        w.u64(self.replica.0);
        w.u64(self.session.0);
        w.u64(self.layout.volume_bytes);
        w.u64(self.progress);
        w.u64(self.presented.unwrap_or(0));
        // Areas of later formats, offset and length each: block checksums, the old/new pair of checksums per block in
        // flight (R16), the journal (R14) and the history (R15). None exists in format 1.
        w.bytes(&[0; 4 * 16]);
        for slot in &self.slots {
            w.u64(slot.replica.0);
            w.u64(u64::from(slot.full));
            w.u64(slot.highest);
            w.u64(slot.session.0);
        }
        w.stamp(&self.stamp);
        assert!(w.0.len() <= SIZE - 4, "invariant: an entry is bounded, so a superblock fits its block");
        w.0.resize(SIZE - 4, 0);
        let crc = crc32c::crc32c(&w.0);
        w.u32(crc);
        w.0.into()
    }

    /// The superblock in one block.
    ///
    /// # Errors
    /// [`Malformed`] if it is not one, or torn.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() != SIZE || bytes[SIZE - 4..] != crc32c::crc32c(&bytes[..SIZE - 4]).to_le_bytes() {
            return Err(Malformed);
        }
        let r = &mut Reader(&bytes[..SIZE - 4]);
        if r.array()? != MAGIC || r.u16()? != VERSION {
            return Err(Malformed);
        }
        let flags = r.u16()?;
        let flag = |bit: u16| flags >> bit & 1 == 1;
        let hot_extents = r.u32()?;
        let (sequence, group, replica) = (r.u64()?, GroupId(r.u64()?), ReplicaId(r.u64()?));
        let (session, volume_bytes) = (SessionId(r.u64()?), r.u64()?);
        let (progress, presented) = (r.u64()?, r.u64()?);
        r.take(4 * 16)?;
        let mut slots = [PeerSlot::default(); SLOTS];
        for slot in &mut slots {
            *slot = PeerSlot {
                replica: ReplicaId(r.u64()?),
                full: r.u64()? != 0,
                highest: r.u64()?,
                session: SessionId(r.u64()?),
            };
        }
        Ok(Self {
            sequence,
            group,
            replica,
            session,
            progress,
            presented: flag(3).then_some(presented),
            zeroed: flag(0),
            target: flag(1),
            old_image: flag(2),
            layout: Layout::new(volume_bytes, hot_extents).map_err(|_| Malformed)?,
            stamp: r.stamp()?,
            slots,
        })
    }

    /// The newest valid one of the two slots, which lie one after the other.
    ///
    /// # Errors
    /// [`Malformed`] if neither is valid.
    pub fn newest(both: &[u8]) -> Result<Self, Malformed> {
        both.chunks(SIZE)
            .take(2)
            .filter_map(|slot| Self::decode(slot).ok())
            .max_by_key(|found| found.sequence)
            .ok_or(Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anshin_base::{Generation, GroupEntry, LedgerEpoch, LedgerIndex, Member};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    pub(crate) fn sample(sequence: u64) -> Superblock {
        let mut slots = [PeerSlot::default(); SLOTS];
        slots[1] = PeerSlot { replica: ReplicaId(9), full: true, highest: 77, session: SessionId(3) };
        let member = Member { replica: ReplicaId(2), session: SessionId(5) };
        let entry = GroupEntry {
            group: GroupId(1),
            generation: Generation(3),
            primary: Some(member),
            in_sync: BTreeMap::from([(member.replica, member.session)]),
        };
        Superblock {
            sequence,
            group: GroupId(1),
            replica: ReplicaId(2),
            session: SessionId(4),
            progress: 6,
            presented: Some(5),
            zeroed: true,
            target: false,
            old_image: true,
            layout: Layout::new(1 << 30, 100).unwrap(),
            stamp: Stamped { epoch: LedgerEpoch(1), index: LedgerIndex(8), entry: Some(entry) },
            slots,
        }
    }

    #[test]
    fn a_torn_slot_leaves_the_previous_superblock() {
        let (old, new) = (sample(4), sample(5));
        let mut both = [old.encode(), new.encode()].concat();
        assert_eq!(Superblock::newest(&both), Ok(new));
        // Only the first sector of the new one reached the disk.
        both[4096 + 512..].fill(0);
        assert_eq!(Superblock::newest(&both), Ok(old));
        both[0] ^= 1;
        assert_eq!(Superblock::newest(&both), Err(Malformed));
    }

    #[test]
    fn version_1_has_these_bytes() {
        let bytes = sample(5).encode();
        assert_eq!(&bytes[..16], b"anrepl01\x01\0\x0d\0\x64\0\0\0");
        assert_eq!(bytes[16..24], 5u64.to_le_bytes());
        assert_eq!(crc32c::crc32c(&bytes[..4092]).to_le_bytes(), bytes[4092..]);
        assert_eq!(crc32c::crc32c(&bytes), 0x48674bc7, "the residue over a block with its own checksum");
    }

    #[test]
    fn decode_of_encode_is_the_superblock() {
        assert_eq!(Superblock::decode(&sample(5).encode()), Ok(sample(5)));
    }

    proptest! {
        #[test]
        fn decode_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 4096), plausible: bool) {
            if plausible {
                bytes[..10].copy_from_slice(b"anrepl01\x01\0");
                let crc = crc32c::crc32c(&bytes[..4092]);
                bytes[4092..].copy_from_slice(&crc.to_le_bytes());
            }
            let _ = Superblock::decode(&bytes);
        }
    }
}
