//! [`Journal`]: turns records into disk commands.

use super::{
    Area, DiskOp, Record,
    block::{self, BLOCK, MAGIC_BATCH, MAGIC_HEADER},
};

/// The base does not fit: the ledger has outgrown its area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ledger needs {needed} bytes on disk but an area has {area}")]
pub struct JournalFull {
    /// Bytes of the header and base.
    pub needed: u64,
    /// Bytes of an area.
    pub area: u64,
}

/// Where the next batch goes. Pure: it only makes commands; its owner sees to it that they are carried out in order
/// and that each batch is durable before the next is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    pub(super) area_bytes: u64,
    pub(super) area: Area,
    pub(super) sequence: u64,
    pub(super) number: u64,
    pub(super) before: u32,
    pub(super) offset: u64,
}

impl Journal {
    /// A journal on empty (zeroed) areas of `area_bytes` each, and the commands that write its base.
    ///
    /// # Errors
    /// [`JournalFull`].
    pub fn create(area_bytes: u64, base: &[Record]) -> Result<(Self, Vec<DiskOp>), JournalFull> {
        let mut journal =
            Self { area_bytes, area: Area::B, sequence: 0, number: 0, before: 0, offset: BLOCK as u64 };
        // What lies in the other area from an earlier use must not be found again.
        let mut ops = vec![
            DiskOp::Write { area: Area::B, offset: 0, bytes: vec![0; BLOCK] },
            DiskOp::Flush { area: Area::B },
        ];
        ops.extend(journal.rotate(base)?);
        // There was no segment before: nothing to mark as superseded.
        ops.truncate(ops.len() - 2);
        Ok((journal, ops))
    }

    /// Whether a batch of these records fits into the segment.
    #[must_use]
    pub fn fits(&self, records: &[Record]) -> bool {
        let size = block::size_on_disk(block::encode_records(records).len()) as u64;
        self.offset + size <= self.area_bytes
    }

    /// Commands that append a batch; None if it does not fit and [`Self::rotate`] is needed.
    pub fn append(&mut self, records: &[Record]) -> Option<Vec<DiskOp>> {
        let body = block::encode_records(records);
        if self.offset + block::size_on_disk(body.len()) as u64 > self.area_bytes {
            return None;
        }
        let (bytes, crc) = block::encode(MAGIC_BATCH, self.sequence, self.number, self.before, &body);
        let area = self.area;
        let write = DiskOp::Write { area, offset: self.offset, bytes };
        self.offset += block::size_on_disk(body.len()) as u64;
        self.number += 1;
        self.before = crc;
        Some(vec![write, DiskOp::Flush { area }])
    }

    /// Commands that begin a new segment in the other area with `base`, which must hold everything.
    ///
    /// The header is written only after the base is durable, and only then is the old header marked: at every
    /// instant one valid header names a whole base, and a newest header that was lost later is noticed by the mark.
    ///
    /// # Errors
    /// [`JournalFull`]; the journal is unchanged.
    pub fn rotate(&mut self, base: &[Record]) -> Result<Vec<DiskOp>, JournalFull> {
        let body = block::encode_records(base);
        let needed = (BLOCK + block::size_on_disk(body.len())) as u64;
        // A base that leaves no room would rotate at every batch.
        if needed > self.area_bytes / 4 * 3 {
            return Err(JournalFull { needed, area: self.area_bytes });
        }
        let (old, area, sequence) = (self.area, self.area.other(), self.sequence + 1);
        let (base, crc) = block::encode(MAGIC_BATCH, sequence, 0, 0, &body);
        let header = block::encode(MAGIC_HEADER, sequence, 0, 0, &[]).0;
        let superseded = block::encode(MAGIC_HEADER, self.sequence, 1, 0, &[]).0;
        *self = Self { area, sequence, number: 1, before: crc, offset: needed, ..self.clone() };
        Ok(vec![
            DiskOp::Write { area, offset: BLOCK as u64, bytes: base },
            DiskOp::Flush { area },
            DiskOp::Write { area, offset: 0, bytes: header },
            DiskOp::Flush { area },
            DiskOp::Write { area: old, offset: 0, bytes: superseded },
            DiskOp::Flush { area: old },
        ])
    }
}
