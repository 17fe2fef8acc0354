//! The activity log: which extents of 4 MiB may differ between replicas without being in a dirty record (R5).
//!
//! An extent is *hot* when a durable record of the log names it. Only then may a write into it be submitted or sent. It
//! cools only when every replica that the log answers for has confirmed a flush later than its last write. Each
//! record holds the whole table, so that the newest valid one is all that a restart needs.

use crate::codec::{Malformed, Reader, Writer};
use crate::layout::{AL_OFFSET, AL_RECORDS, BLOCK, Layout};
use crate::wire::Seq;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

const MAGIC: [u8; 8] = *b"anactlg1";
const HEADER: usize = 64;
/// Most extents that enter ahead of a sequential writer: 32 MiB.
const AHEAD_MAX: u32 = 8;

/// What is known of a hot extent.
#[derive(Clone, Copy, Debug)]
struct Hot {
    /// Number of the last write into it; a flush with a higher number, confirmed by all, lets it cool.
    tag: Seq,
    /// Stamp of its last use, for choosing which to cool.
    used: u64,
}

/// The log of one replica.
#[derive(Clone, Debug)]
pub(crate) struct ActivityLog {
    layout: Layout,
    /// Number of the newest record begun; 0 if none was ever written.
    sequence: u64,
    hot: BTreeMap<u32, Hot>,
    /// Extents that writes wait for; true for those that may go beyond the usual number.
    wanted: BTreeMap<u32, bool>,
    /// Extents in the record that is being written.
    entering: BTreeSet<u32>,
    /// Extents that a sequential writer will reach next; they enter when there is room, and nobody waits for them.
    ahead: BTreeSet<u32>,
    /// The extent written last.
    last: Option<u32>,
    uses: u64,
    /// Writes wait and nothing may cool: everyone must flush first.
    starved: bool,
}

/// A record to be written.
#[derive(Debug)]
pub(crate) struct Transaction {
    /// Where in the metadata area.
    pub offset: u64,
    /// The record.
    pub record: Bytes,
    /// Extents that it no longer names; their dirty records must be durable before it is written.
    pub cooled: Vec<u32>,
}

impl ActivityLog {
    pub fn new(layout: Layout) -> Self {
        let (hot, wanted, entering, ahead) = Default::default();
        Self { layout, sequence: 0, hot, wanted, entering, ahead, last: None, uses: 0, starved: false }
    }

    /// The log as found on disk: `ring` is the whole ring. Returns it with the extents that were hot.
    pub fn load(layout: Layout, ring: &[u8]) -> (Self, BTreeSet<u32>) {
        let size = usize::try_from(layout.al_record_bytes()).expect("invariant: half a megabyte at most");
        let newest = ring.chunks(size).filter_map(|bytes| decode(bytes).ok()).max_by_key(|found| found.0);
        let mut log = Self::new(layout);
        let Some((sequence, extents)) = newest else {
            // No valid record: either none was ever written, or the very first was torn, before whose completion
            // no write was submitted. Anything but zeroes counts as a record, so that the replica is not virgin.
            log.sequence = u64::from(ring.iter().any(|byte| *byte != 0));
            return (log, BTreeSet::new());
        };
        log.sequence = sequence;
        (log, extents.into_iter().filter(|extent| *extent < layout.extents()).collect())
    }

    /// Whether no write was ever logged.
    pub fn virgin(&self) -> bool {
        self.sequence == 0
    }

    pub fn len(&self) -> usize {
        self.hot.len()
    }

    pub fn starved(&self) -> bool {
        self.starved
    }

    /// Not even what is urgent finds room: the follower's log is too small for its primary's.
    pub fn overrun(&self) -> bool {
        self.starved && self.wanted.values().any(|urgent| *urgent)
    }

    pub fn contains(&self, extent: u32) -> bool {
        self.hot.contains_key(&extent)
    }

    /// Every hot extent.
    pub fn extents(&self) -> impl Iterator<Item = u32> {
        self.hot.keys().copied()
    }

    /// Whether the extent is hot; if not, it is wanted from now on. `urgent` may go beyond the usual number of hot
    /// extents: what a follower must do, because the cooling of others waits for it.
    pub fn want(&mut self, extent: u32, urgent: bool) -> bool {
        if self.hot.contains_key(&extent) {
            return true;
        }
        if !self.entering.contains(&extent) {
            *self.wanted.entry(extent).or_default() |= urgent;
        }
        false
    }

    /// Notes a write with this number into a hot extent.
    pub fn tag(&mut self, extent: u32, seq: Seq) {
        self.uses += 1;
        let hot = self.hot.get_mut(&extent);
        let hot = hot.expect("invariant: nothing is submitted into an extent that is not hot (R5)");
        *hot = Hot { tag: hot.tag.max(seq), used: self.uses };
        self.look_ahead(extent);
    }

    /// A writer that goes from one extent into the next will go on: what follows enters before it is wanted, so that
    /// nobody waits for the log once per extent.
    fn look_ahead(&mut self, extent: u32) {
        let before = self.last.replace(extent);
        let next = extent.saturating_add(1);
        let goes_on = before.is_some_and(|before| before.checked_add(1) == Some(extent));
        if !goes_on || self.hot.contains_key(&next) || self.entering.contains(&next) {
            return;
        }
        let count = (self.layout.hot_extents / 8).min(AHEAD_MAX);
        let until = next.saturating_add(count).min(self.layout.extents());
        let (hot, entering) = (&self.hot, &self.entering);
        let new = |extent: &u32| !hot.contains_key(extent) && !entering.contains(extent);
        self.ahead = (next..until).filter(new).collect();
    }

    /// A new numbering of writes begins: what was hot cools with its first flush that all confirm.
    pub fn renumber(&mut self) {
        for hot in self.hot.values_mut() {
            hot.tag = 0;
        }
    }

    /// No write waits any more (the queue was dropped).
    pub fn forget_wanted(&mut self) {
        self.wanted.clear();
        self.ahead.clear();
        self.starved = false;
    }

    /// The next record, if one is needed. `durable` is the number of the newest flush that everyone confirmed.
    pub fn begin(&mut self, durable: Seq) -> Option<Transaction> {
        self.wanted.retain(|extent, _| !self.hot.contains_key(extent));
        self.starved &= !self.wanted.is_empty();
        if (self.wanted.is_empty() && self.ahead.is_empty()) || !self.entering.is_empty() {
            return None;
        }
        let mut ahead = std::mem::take(&mut self.ahead);
        ahead.retain(|extent| !self.hot.contains_key(extent) && !self.wanted.contains_key(extent));
        let (usual, hard) = (self.layout.hot_extents as usize, self.layout.hot_hard() as usize);
        let mut coolable: Vec<(u64, u32)> = self
            .hot
            .iter()
            .filter(|(_, hot)| hot.tag < durable)
            .map(|(extent, hot)| (hot.used, *extent))
            .collect();
        coolable.sort_unstable();
        let excess = (self.hot.len() + self.wanted.len() + ahead.len()).saturating_sub(usual);
        let cooled: Vec<u32> = coolable.into_iter().take(excess).map(|(_, extent)| extent).collect();
        for extent in &cooled {
            self.hot.remove(extent);
        }
        let mut named = self.hot.len();
        let entering = &mut self.entering;
        self.wanted.retain(|extent, urgent| {
            let room = named < if *urgent { hard } else { usual };
            if room {
                entering.insert(*extent);
                named += 1;
            }
            !room
        });
        self.starved = !self.wanted.is_empty();
        entering.extend(ahead.into_iter().take(usual.saturating_sub(named)));
        if self.entering.is_empty() && cooled.is_empty() { None } else { Some(self.record(cooled)) }
    }

    /// A record that names nothing: after the dirty records took over what was hot.
    pub fn begin_empty(&mut self) -> Transaction {
        let cooled = self.hot.keys().copied().collect();
        self.hot.clear();
        self.record(cooled)
    }

    fn record(&mut self, cooled: Vec<u32>) -> Transaction {
        self.sequence += 1;
        let extents: BTreeSet<u32> = self.hot.keys().chain(&self.entering).copied().collect();
        let offset = AL_OFFSET + self.sequence % AL_RECORDS * self.layout.al_record_bytes();
        Transaction { offset, record: encode(self.sequence, &extents), cooled }
    }

    /// The record is durable.
    pub fn commit(&mut self) {
        for extent in std::mem::take(&mut self.entering) {
            self.uses += 1;
            self.hot.insert(extent, Hot { tag: 0, used: self.uses });
        }
    }
}

/// A record, padded to whole blocks: magic, sequence, count, crc32c of all but itself, zeroes to 64, the extents in
/// ascending order.
fn encode(sequence: u64, extents: &BTreeSet<u32>) -> Bytes {
    let mut w = Writer::default();
    w.bytes(&MAGIC);
    w.u64(sequence);
    w.u32(u32::try_from(extents.len()).expect("invariant: at most hot_hard"));
    w.u32(0);
    w.0.resize(HEADER, 0);
    for extent in extents {
        w.u32(*extent);
    }
    let crc = crc32c::crc32c(&w.0);
    w.0[20..24].copy_from_slice(&crc.to_le_bytes());
    w.0.resize(w.0.len().next_multiple_of(usize::try_from(BLOCK).expect("invariant: 4,096")), 0);
    w.0.into()
}

fn decode(bytes: &[u8]) -> Result<(u64, Vec<u32>), Malformed> {
    let r = &mut Reader(bytes);
    if r.array()? != MAGIC {
        return Err(Malformed);
    }
    let (sequence, count, crc) = (r.u64()?, r.u32()? as usize, r.u32()?);
    let used = count.checked_mul(4).and_then(|body| body.checked_add(HEADER)).ok_or(Malformed)?;
    let mut record = bytes.get(..used).ok_or(Malformed)?.to_vec();
    record[20..24].fill(0);
    if crc32c::crc32c(&record) != crc {
        return Err(Malformed);
    }
    let mut body = Reader(&bytes[HEADER..used]);
    let extents = (0..count).map(|_| body.u32()).collect::<Result<_, _>>()?;
    Ok((sequence, extents))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layout() -> Layout {
        Layout::new(1 << 30, 7).unwrap()
    }

    /// Writes a transaction into a ring of bytes, or only its first `keep` bytes.
    fn put(ring: &mut [u8], transaction: &Transaction, keep: usize) {
        let at = usize::try_from(transaction.offset - AL_OFFSET).unwrap();
        let keep = keep.min(transaction.record.len());
        ring[at..at + keep].copy_from_slice(&transaction.record[..keep]);
    }

    #[test]
    fn an_extent_with_a_write_newer_than_the_confirmed_flush_stays_hot() {
        let mut log = ActivityLog::new(layout());
        for extent in 0..7 {
            assert!(!log.want(extent, false));
        }
        assert!(log.begin(0).unwrap().cooled.is_empty());
        log.commit();
        for extent in 0..7 {
            assert!(log.want(extent, false));
            log.tag(extent, u64::from(extent) + 1);
        }
        log.want(7, false);
        assert!(log.begin(1).is_none(), "extent 0 was last written by 1, and flush 1 does not cover it");
        assert!(log.starved());
        assert_eq!(log.begin(2).unwrap().cooled, [0]);
        log.commit();
        assert!(log.contains(7) && !log.contains(0));
    }

    #[test]
    fn a_torn_record_leaves_the_previous_table() {
        let mut log = ActivityLog::new(layout());
        let mut ring = vec![0; usize::try_from(layout().al_record_bytes() * AL_RECORDS).unwrap()];
        for round in 0..20 {
            let before = ActivityLog::load(layout(), &ring).1;
            assert_eq!(before, log.extents().collect());
            log.want(round, false);
            let transaction = log.begin(u64::MAX).unwrap();
            // Torn before its checksum.
            let mut torn = ring.clone();
            put(&mut torn, &transaction, 20);
            if before.is_empty() {
                assert!(!ActivityLog::load(layout(), &torn).0.virgin());
            }
            assert_eq!(ActivityLog::load(layout(), &torn).1, before);
            put(&mut ring, &transaction, usize::MAX);
            log.commit();
        }
    }

    #[test]
    fn version_1_record_has_these_bytes() {
        let bytes = encode(258, &BTreeSet::from([1, 0x0203]));
        assert_eq!(&bytes[..20], b"anactlg1\x02\x01\0\0\0\0\0\0\x02\0\0\0");
        assert_eq!(&bytes[64..72], b"\x01\0\0\0\x03\x02\0\0");
        assert_eq!(bytes.len(), 4096);
        assert_eq!(decode(&bytes), Ok((258, vec![1, 0x0203])));
    }

    proptest! {
        #[test]
        fn the_table_never_outgrows_its_room_and_a_restart_finds_it(
            ops in proptest::collection::vec((0u32..40, 0u64..4), 1..80)
        ) {
            let mut log = ActivityLog::new(layout());
            let mut ring = vec![0; usize::try_from(layout().al_record_bytes() * AL_RECORDS).unwrap()];
            let (mut seq, mut durable) = (1, 0);
            for (extent, lag) in ops {
                seq += 1;
                if log.want(extent, false) {
                    log.tag(extent, seq);
                } else if let Some(transaction) = log.begin(durable) {
                    put(&mut ring, &transaction, usize::MAX);
                    log.commit();
                    if log.want(extent, false) {
                        log.tag(extent, seq);
                    }
                }
                durable = durable.max(seq.saturating_sub(lag * 4));
                prop_assert!(log.len() <= 7);
                prop_assert_eq!(ActivityLog::load(layout(), &ring).1, log.extents().collect());
            }
        }

        #[test]
        fn decode_never_panics(bytes: Vec<u8>) {
            let _ = decode(&bytes);
            let _ = decode(&[&MAGIC[..], &bytes].concat());
        }
    }
}
