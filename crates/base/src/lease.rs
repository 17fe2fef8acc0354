//! The lease record: how a volume process tells the guard until when its primary may be trusted (R11, R12).
//!
//! A file of [`LeaseRecord::SIZE`] bytes on tmpfs per group, rewritten in place by the volume process and polled by
//! the guard. It carries its own checksum, so a reader that meets a half-written record sees that and reads
//! again. The daemon is not involved: a frozen daemon neither extends nor shortens a lease.

use crate::{
    ids::{Generation, GroupId},
    time::Mono,
};

/// What the volume process last wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRecord {
    /// Whose lease.
    pub group: GroupId,
    /// The generation in which this replica is, or was, primary; 0 if it is not primary.
    pub generation: Generation,
    /// Until when reads and addresses may be served, on this node's CLOCK_BOOTTIME. 0 if not primary.
    pub until: Mono,
    /// Number of the record, so that a reader can see progress.
    pub sequence: u64,
}

const MAGIC: [u8; 8] = *b"anlease1";

impl LeaseRecord {
    /// Bytes of the encoded record.
    pub const SIZE: usize = 64;

    /// The record's bytes: magic, group, generation, until, sequence (little endian), zeroes, crc32c of all before.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[..8].copy_from_slice(&MAGIC);
        let fields = [self.group.0, self.generation.0, self.until.0, self.sequence];
        for (slot, field) in out[8..40].chunks_exact_mut(8).zip(fields) {
            slot.copy_from_slice(&field.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out[..60]);
        out[60..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The record in `bytes`, or None if they are not a whole record.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::SIZE] = bytes.try_into().ok()?;
        let crc = u32::from_le_bytes(bytes[60..].try_into().ok()?);
        if bytes[..8] != MAGIC || crc32c::crc32c(&bytes[..60]) != crc {
            return None;
        }
        let field = |at: usize| bytes[at..at + 8].try_into().ok().map(u64::from_le_bytes);
        Some(Self {
            group: GroupId(field(8)?),
            generation: Generation(field(16)?),
            until: Mono(field(24)?),
            sequence: field(32)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_encoding_and_a_flipped_bit_is_seen() {
        let record =
            LeaseRecord { group: GroupId(1), generation: Generation(2), until: Mono(3), sequence: 4 };
        let bytes = record.encode();
        assert_eq!(LeaseRecord::decode(&bytes), Some(record));
        for at in 0..bytes.len() {
            let mut broken = bytes;
            broken[at] ^= 1;
            assert_eq!(LeaseRecord::decode(&broken), None, "byte {at}");
        }
        assert_eq!(LeaseRecord::decode(&bytes[1..]), None);
    }
}
