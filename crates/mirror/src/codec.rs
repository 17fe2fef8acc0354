//! Little-endian writing and bounded reading, shared by the wire and the disk formats.
//!
//! A `Reader` never panics and never reserves memory for a count before the bytes that it counts are known to
//! be there.

use anshin_base::{Generation, GroupEntry, GroupId, LedgerEpoch, LedgerIndex, Member, ReplicaId, SessionId};
use std::collections::BTreeMap;

/// Most members that an entry may name. The format of the bitmap slots allows fewer; this bounds decoding.
pub const MEMBERS_MAX: usize = 32;

/// Bytes that are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed bytes")]
pub struct Malformed;

/// Collects bytes.
#[derive(Debug, Default)]
pub(crate) struct Writer(pub Vec<u8>);

impl Writer {
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }
    pub fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    pub fn bytes(&mut self, value: &[u8]) {
        self.0.extend_from_slice(value);
    }
    /// A count of at most 65,535, which the callers' bounds guarantee.
    pub fn count(&mut self, value: usize) {
        self.u16(u16::try_from(value).expect("invariant: lists are bounded by their makers"));
    }
    pub fn member(&mut self, member: Member) {
        self.u64(member.replica.0);
        self.u64(member.session.0);
    }
    pub fn stamp(&mut self, stamp: &Stamped) {
        self.u64(stamp.epoch.0);
        self.u64(stamp.index.0);
        let Some(entry) = &stamp.entry else {
            return self.u8(0);
        };
        self.u8(1);
        self.u64(entry.group.0);
        self.u64(entry.generation.0);
        self.u8(u8::from(entry.primary.is_some()));
        self.member(entry.primary.unwrap_or(Member { replica: ReplicaId(0), session: SessionId(0) }));
        self.count(entry.in_sync.len());
        for (replica, session) in &entry.in_sync {
            self.member(Member { replica: *replica, session: *session });
        }
    }
}

/// Takes bytes from the front of a slice.
#[derive(Debug)]
pub(crate) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (front, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(front)
    }
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }
    pub fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }
    /// A count of items of which each takes at least `item` bytes: refused if the bytes cannot be there.
    pub fn count(&mut self, item: usize) -> Result<usize, Malformed> {
        let count = usize::from(self.u16()?);
        if count * item > self.0.len() { Err(Malformed) } else { Ok(count) }
    }
    pub fn member(&mut self) -> Result<Member, Malformed> {
        Ok(Member { replica: ReplicaId(self.u64()?), session: SessionId(self.u64()?) })
    }
    pub fn stamp(&mut self) -> Result<Stamped, Malformed> {
        let (epoch, index) = (LedgerEpoch(self.u64()?), LedgerIndex(self.u64()?));
        if !self.bool()? {
            return Ok(Stamped { epoch, index, entry: None });
        }
        let (group, generation) = (GroupId(self.u64()?), Generation(self.u64()?));
        let has_primary = self.bool()?;
        let primary = self.member()?;
        let count = self.count(16)?;
        if count > MEMBERS_MAX || (!has_primary && primary.replica.0 | primary.session.0 != 0) {
            return Err(Malformed);
        }
        let mut in_sync = BTreeMap::new();
        let mut last = None;
        for _ in 0..count {
            let member = self.member()?;
            // One encoding per value: strictly ascending, so that encode(decode(x)) = x.
            if last.is_some_and(|last| last >= member.replica) {
                return Err(Malformed);
            }
            last = Some(member.replica);
            in_sync.insert(member.replica, member.session);
        }
        let entry = GroupEntry { group, generation, primary: has_primary.then_some(primary), in_sync };
        Ok(Stamped { epoch, index, entry: Some(entry) })
    }
    pub fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

/// What a party knows of the group's entry and how new that is (R8).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamped {
    /// Epoch of the ledger (R9): a higher one replaces everything of a lower one.
    pub epoch: LedgerEpoch,
    /// Index at which the entry last changed.
    pub index: LedgerIndex,
    /// The entry, None before the group was created.
    pub entry: Option<GroupEntry>,
}

impl Stamped {
    /// The generation, 0 without an entry.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.entry.as_ref().map_or(Generation(0), |entry| entry.generation)
    }

    /// Whether `self` is newer than `other`: by epoch, then by generation, which grows with every change.
    #[must_use]
    pub fn newer_than(&self, other: &Self) -> bool {
        (self.epoch, self.generation()) > (other.epoch, other.generation())
    }
}
