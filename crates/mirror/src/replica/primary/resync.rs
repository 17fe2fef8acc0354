//! The source's side of a resync and of a reconciliation: compare by checksum, send only what differs.
//!
//! A chunk is compared while no write into it is in flight, and no write into it is submitted before the chunk is
//! done; so its content does not change between reading it here and writing it there, and later writes are
//! applied after it.

use super::ops::{mark_busy, overlaps, unmark_busy};
use super::{PeerPart, Replica};
use crate::api::Region;
use crate::bitmap::Bitmap;
use crate::layout::{BLOCK, CHUNK};
use crate::replica::{Purpose, chunk_range, repair};
use crate::wire::{Message, Range};
use anshin_base::ReplicaId;
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::BTreeMap;

/// Chunks that are compared with one peer at the same time: 2 MiB of memory.
const CHUNKS_MAX: usize = 8;

#[derive(Debug)]
struct Chunk {
    offset: u64,
    mask: u64,
    data: Bytes,
    sent: u64,
}

/// What runs into one peer.
#[derive(Debug)]
pub(in crate::replica) struct Sync {
    /// The blocks of a reconciliation; None for a resync, which works off the dirty record.
    own: Option<Bitmap>,
    chunks: BTreeMap<u64, Chunk>,
    cursor: u64,
    /// A chunk that waits for writes in flight; no new write into it starts.
    claim: Option<Range>,
    compared: u64,
    sent: u64,
    pub total: u64,
    finish_sent: bool,
    finished: bool,
}

impl Sync {
    pub fn of_target(total: u64) -> Self {
        let (own, chunks, claim) = (None, BTreeMap::new(), None);
        Self {
            own,
            chunks,
            cursor: 0,
            claim,
            compared: 0,
            sent: 0,
            total,
            finish_sent: false,
            finished: false,
        }
    }

    pub fn of_member(bits: Bitmap) -> Self {
        let total = bits.bytes();
        Self { own: Some(bits), ..Self::of_target(total) }
    }

    /// The target has everything, durably, and may be proposed.
    pub fn ready(&self) -> bool {
        self.finished
    }

    /// Whether an answer of the peer is awaited.
    pub fn awaits(&self) -> bool {
        (self.finish_sent && !self.finished) || self.chunks.values().any(|chunk| !chunk.data.is_empty())
    }

    /// Bytes compared and sent.
    pub fn moved(&self) -> (u64, u64) {
        (self.compared, self.sent)
    }
}

impl Replica {
    /// Chunks for which writes in flight must end first.
    pub(super) fn claims(&self) -> Vec<Range> {
        self.peers.values().filter_map(|peer| peer.sync.as_ref()?.claim).collect()
    }

    pub(super) fn sync_pass(&mut self) {
        for replica in self.peers_on() {
            self.sync_peer(replica);
        }
    }

    fn sync_peer(&mut self, replica: ReplicaId) {
        let Some(slot) = self.slot_of(replica) else { return };
        loop {
            let Some(sync) = self.peers.get_mut(&replica).and_then(|peer| peer.sync.as_mut()) else { return };
            if sync.chunks.len() >= CHUNKS_MAX {
                return;
            }
            let bits = sync.own.as_ref().unwrap_or(&self.maps[slot]);
            let Some((offset, mask)) = bits.next_chunk(sync.cursor) else {
                if !sync.chunks.is_empty() {
                    return;
                }
                if bits.is_empty() {
                    return self.sync_over(replica);
                }
                sync.cursor = 0;
                continue;
            };
            let range = chunk_range(offset, mask);
            let primary = self.primary.as_mut().expect("invariant: only a primary is a source");
            if overlaps(&primary.busy, &range) {
                sync.claim = Some(range);
                return;
            }
            sync.claim = None;
            mark_busy(&mut primary.busy, &range);
            primary.chunk_next += 1;
            let id = primary.chunk_next;
            sync.cursor = offset + CHUNK;
            sync.chunks.insert(id, Chunk { offset, mask, data: Bytes::new(), sent: 0 });
            self.read(Purpose::SourceRead(replica, id), Region::Data, offset, range.length);
        }
    }

    /// Nothing is left to compare.
    fn sync_over(&mut self, replica: ReplicaId) {
        let Some(peer) = self.peers.get_mut(&replica) else { return };
        let Some(sync) = peer.sync.as_mut() else { return };
        if sync.own.is_some() {
            peer.sync = None;
            peer.reconciled = true;
        } else if !sync.finish_sent {
            sync.finish_sent = true;
            self.send(replica, Message::Finish);
        }
    }

    pub(super) fn sync_finished(&mut self, replica: ReplicaId) {
        if let Some(sync) = self.peers.get_mut(&replica).and_then(|peer| peer.sync.as_mut()) {
            sync.finished = sync.finish_sent;
        }
    }

    fn chunk(&mut self, replica: ReplicaId, id: u64) -> Option<&mut Chunk> {
        self.peers.get_mut(&replica)?.sync.as_mut()?.chunks.get_mut(&id)
    }

    pub(in crate::replica) fn source_read(&mut self, replica: ReplicaId, id: u64, data: Bytes) {
        let Some(chunk) = self.chunk(replica, id) else { return };
        let (offset, mask) = (chunk.offset, chunk.mask);
        if data.len() as u64 != chunk_range(offset, mask).length {
            return self.drop_peer(replica, "a short read of the source of the resync");
        }
        let sums = repair::blocks(mask).map(|index| repair::sum(repair::block(&data, index))).collect();
        chunk.data = data;
        self.send(replica, Message::Compare { id, offset, mask, sums });
    }

    pub(super) fn differ(&mut self, replica: ReplicaId, id: u64, mask: u64) {
        let Some(chunk) = self.chunk(replica, id) else { return };
        let mask = mask & chunk.mask;
        if mask == 0 {
            return self.chunk_done(replica, id);
        }
        let count = usize::try_from(mask.count_ones()).expect("invariant: at most 64");
        let mut data = BytesMut::with_capacity(count * usize::try_from(BLOCK).expect("invariant: 4,096"));
        for index in repair::blocks(mask) {
            data.put_slice(repair::block(&chunk.data, index));
        }
        chunk.sent = data.len() as u64;
        let offset = chunk.offset;
        self.send(replica, Message::Repair { id, offset, mask, data: data.freeze() });
    }

    /// The chunk is proven equal on both sides: only now are its bits cleared (I4).
    pub(super) fn chunk_done(&mut self, replica: ReplicaId, id: u64) {
        let Some(slot) = self.slot_of(replica) else { return };
        let Some(sync) = self.peers.get_mut(&replica).and_then(|peer| peer.sync.as_mut()) else { return };
        let Some(chunk) = sync.chunks.remove(&id) else { return };
        let compared = u64::from(chunk.mask.count_ones()) * BLOCK;
        sync.compared += compared;
        sync.sent += chunk.sent;
        self.counters.resync_compared_bytes += compared;
        self.counters.resync_sent_bytes += chunk.sent;
        sync.own.as_mut().unwrap_or(&mut self.maps[slot]).clear_chunk(chunk.offset, chunk.mask);
        unmark_busy(&mut self.pri().busy, &chunk_range(chunk.offset, chunk.mask));
    }

    /// The peer takes no part any more: its chunks are free for writes.
    pub(in crate::replica) fn end_sync(&mut self, replica: ReplicaId) {
        let Some(sync) = self.peers.get_mut(&replica).and_then(|peer| peer.sync.take()) else { return };
        if let Some(primary) = self.primary.as_mut() {
            for chunk in sync.chunks.values() {
                unmark_busy(&mut primary.busy, &chunk_range(chunk.offset, chunk.mask));
            }
        }
    }

    /// Bytes of the running resync: all, and those left.
    pub(in crate::replica) fn sync_left(&self, replica: ReplicaId) -> (u64, u64) {
        let Some(peer) = self.peers.get(&replica).filter(|peer| peer.part == PeerPart::On) else {
            return (0, 0);
        };
        let (Some(sync), Some(slot)) = (&peer.sync, self.slot_of(replica)) else { return (0, 0) };
        (sync.total, sync.own.as_ref().unwrap_or(&self.maps[slot]).bytes())
    }
}
