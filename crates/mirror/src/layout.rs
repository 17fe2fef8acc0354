//! Where things lie in the metadata area, and the grains in which the core counts. See docs/formats/replica.md.

/// Grain of the dirty record, of comparison and of repair, in bytes.
pub const BLOCK: u64 = 4096;
/// Grain of the activity log, in bytes.
pub const EXTENT: u64 = 4 << 20;
/// How much is compared at a time in a resync, in bytes: 64 blocks, so that one mask fits 64 bits.
pub const CHUNK: u64 = 64 * BLOCK;
/// Longest numbered write, in bytes; longer requests are cut, so that one part is on its way to the peer's disk while the
/// next is being sent. A part never crosses an extent.
pub const PART_MAX: u64 = 256 << 10;
/// Blocks of one extent.
pub const EXTENT_BLOCKS: u64 = EXTENT / BLOCK;
/// Bitmaps kept: one per other replica of the group.
pub const SLOTS: usize = 7;
/// Largest volume: extents are numbered with 32 bits and a bitmap page index must stay one too.
pub const VOLUME_MAX: u64 = 1 << 50;
/// Fewest hot extents of an activity log; below this every write waits for the log.
pub const HOT_MIN: u32 = 7;
/// Most hot extents: a record of the log stays within half a megabyte.
pub const HOT_MAX: u32 = 32_000;
/// Records in the ring of the activity log. Only the newest counts; the rest survive a torn one.
pub const AL_RECORDS: u64 = 8;
/// Where the ring of the activity log starts; the space before it is kept for superblocks.
pub const AL_OFFSET: u64 = 64 << 10;
/// Extents covered by one page of a bitmap: 31 times 128 bytes, after a header of 128.
pub const PAGE_EXTENTS: u64 = 31;

/// Positions in the metadata area of one replica, all derived from two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Size of the data area.
    pub volume_bytes: u64,
    /// Hot extents that the log tries to stay within; it has room for [`Self::hot_hard`].
    pub hot_extents: u32,
}

/// Why a replica cannot be laid out so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Not a multiple of 4,096, zero, or too large.
    #[error("a volume has between 4 KiB and 1 PiB, in multiples of 4 KiB")]
    VolumeSize,
    /// Outside its bounds.
    #[error("the activity log holds between 7 and 32,000 hot extents")]
    HotExtents,
}

impl Layout {
    /// Checks the two numbers.
    ///
    /// # Errors
    /// [`LayoutError`]
    pub fn new(volume_bytes: u64, hot_extents: u32) -> Result<Self, LayoutError> {
        if volume_bytes == 0 || !volume_bytes.is_multiple_of(BLOCK) || volume_bytes > VOLUME_MAX {
            return Err(LayoutError::VolumeSize);
        }
        if !(HOT_MIN..=HOT_MAX).contains(&hot_extents) {
            return Err(LayoutError::HotExtents);
        }
        Ok(Self { volume_bytes, hot_extents })
    }

    /// Extents of the volume; the last may be short.
    #[must_use]
    pub fn extents(&self) -> u32 {
        u32::try_from(self.volume_bytes.div_ceil(EXTENT)).expect("invariant: volumes are at most VOLUME_MAX")
    }

    /// Most extents that a record of the log can hold. Beyond `hot_extents` only repairs of a reconciliation go,
    /// which must not wait for a cooling that itself waits for them.
    #[must_use]
    pub fn hot_hard(&self) -> u32 {
        self.hot_extents * 4 + 64
    }

    /// Room of one record of the log, in bytes.
    #[must_use]
    pub fn al_record_bytes(&self) -> u64 {
        (64 + 4 * u64::from(self.hot_hard())).next_multiple_of(BLOCK)
    }

    /// Where the bitmaps start.
    #[must_use]
    pub fn bitmap_offset(&self) -> u64 {
        AL_OFFSET + AL_RECORDS * self.al_record_bytes()
    }

    /// Pages of one bitmap.
    #[must_use]
    pub fn pages(&self) -> u32 {
        u32::try_from(u64::from(self.extents()).div_ceil(PAGE_EXTENTS))
            .expect("invariant: fewer pages than extents")
    }

    /// Where a page of a bitmap lies.
    #[must_use]
    pub fn page_offset(&self, slot: usize, page: u32) -> u64 {
        self.bitmap_offset() + (slot as u64 * u64::from(self.pages()) + u64::from(page)) * BLOCK
    }

    /// Size of the metadata area.
    #[must_use]
    pub fn meta_bytes(&self) -> u64 {
        self.page_offset(SLOTS, 0)
    }
}
