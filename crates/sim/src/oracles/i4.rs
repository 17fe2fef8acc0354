//! I4: a dirty record shrinks only on positive proof of equality inside the same generation, never because of a flag.
//!
//! After each step of a replica its dirty records are compared with those before it, over restarts too. Every block that
//! left a record towards a peer is looked up on both simulated disks: it must be the same there, or one of the two must
//! know a write into it that is on its way within their common reign, or the peer, a primary that has lost the link, must
//! name it in its own dirty record: it wrote there since. Only where the peer has restarted since the proof, or
//! gone over to another reign or a newer generation (or the record was lost in the owner's own restart), it is enough
//! that the peer's own records say that the block may differ. What is the same, but not durable, must stand in the
//! records on that disk.

use super::{Verdict, i10::I10, verdict};
use crate::{
    disk::PAGE_BYTES,
    world::{At, Node},
};
use anshin_base::{Member, ReplicaId, SessionId};
use anshin_mirror::{
    Records, Replica,
    wire::{ExtentBits, Range},
};
use std::collections::BTreeMap;

/// Bytes of an extent.
const EXTENT: u64 = 4 << 20;

type Record = BTreeMap<u32, ExtentBits>;

/// A replica's records as they were when last looked at.
#[derive(Debug)]
struct Known {
    session: SessionId,
    version: u64,
    towards: BTreeMap<ReplicaId, Towards>,
}

/// A record towards one peer.
#[derive(Debug)]
struct Towards {
    /// Changes with it, see [`Replica::record_version`].
    version: (usize, u64),
    record: Record,
}

/// See the module.
#[derive(Debug, Default)]
pub struct I4 {
    verdict: Verdict,
    known: BTreeMap<ReplicaId, Known>,
    /// Blocks that left a record and were looked up on both disks.
    pub proven: u64,
}
verdict!(I4, "I4");

/// The blocks of one extent that left a record, for one pair of replicas.
struct Left<'a> {
    owner: (ReplicaId, &'a Node),
    peer: (ReplicaId, &'a Node),
    extent: u32,
    bits: ExtentBits,
}

impl I4 {
    /// The volume process of node `at` took a step.
    pub fn watch(&mut self, at: At, nodes: &[Node], images: &I10) {
        let node = &nodes[at];
        let (Some(owner), Some(volume)) = (node.replica, &node.volume) else { return };
        let (session, version) = (volume.session, volume.replica.records_version());
        if self.known.get(&owner).is_some_and(|known| (known.session, known.version) == (session, version)) {
            return;
        }
        // While it opens, its records are those on its disk.
        if !volume.replica.is_open() {
            return;
        }
        let mut before = self.known.remove(&owner);
        let restarted = before.as_ref().is_some_and(|before| before.session != session);
        let mut now = Known { session, version, towards: BTreeMap::new() };
        // Towards a replica without a record everything may differ: a new record begins with all, one that ends shrinks
        // nothing.
        let mut everything = None;
        for peer in volume.replica.record_owners() {
            let known = before.as_mut().and_then(|before| before.towards.remove(&peer));
            let version = volume.replica.record_version(peer);
            if let Some(same) = known.as_ref().filter(|known| !restarted && known.version == version) {
                debug_assert_eq!(same.record, record(&volume.replica, peer));
                now.towards.extend(known.map(|known| (peer, known)));
                continue;
            }
            let record = record(&volume.replica, peer);
            let before = match &known {
                Some(known) => &known.record,
                None => everything.get_or_insert_with(|| all(node.areas[0].length())),
            };
            let holder = nodes.iter().find(|node| node.replica == Some(peer));
            // Of a copy put in its place nothing is known; what it holds itself is judged when it goes on.
            if let Some(holder) = holder.filter(|_| !(restarted && images.is_image(owner))) {
                for (extent, bits) in before {
                    let bits = without(bits, record.get(extent));
                    if bits.iter().any(|byte| *byte != 0) {
                        let left = Left { owner: (owner, node), peer: (peer, holder), extent: *extent, bits };
                        self.judge(&left, restarted, images.is_image(peer));
                    }
                }
            }
            now.towards.insert(peer, Towards { version, record });
        }
        self.known.insert(owner, now);
    }

    fn judge(&mut self, left: &Left<'_>, restarted: bool, peer_is_image: bool) {
        let (owner, holder) = (left.owner.1, left.peer.1);
        let strict = !restarted && left.together();
        let unsettled: Vec<Range> = [owner, holder].into_iter().flat_map(unsettled).collect();
        let mut lost = [(left.owner, left.peer.0), (left.peer, left.owner.0)]
            .map(|((replica, node), other)| (replica, node, OnDisk::new(node, other)));
        for page in left.pages() {
            self.proven += 1;
            let range = Range { offset: page * PAGE_BYTES, length: PAGE_BYTES };
            let on_its_way = unsettled.iter().any(|other| overlap(other, &range));
            let equal = owner.areas[0].same_page(&holder.areas[0], page);
            if equal || on_its_way {
                let lost = lost.iter_mut().find_map(|(replica, node, on_disk)| {
                    let volatile = equal && node.areas[0].is_volatile(page);
                    (volatile && !on_disk.covers(range.offset)).then_some(*replica)
                });
                if let Some(replica) = lost {
                    self.violate(&format!(
                        "{} ticked off block {page} towards {}, but {replica} would lose it in a power loss and its \
                         records do not say so",
                        left.owner.0, left.peer.0
                    ));
                }
                continue;
            }
            let covered = if strict {
                written_since(holder, left.owner.0, range.offset)
            } else {
                peer_is_image || covers(holder, left.owner.0, range.offset)
            };
            if !covered {
                let how = if restarted { "lost in a restart" } else { "ticked off" };
                self.violate(&format!(
                    "block {page} was {how} in the dirty record of {} towards {}, but they differ there",
                    left.owner.0, left.peer.0
                ));
                return;
            }
        }
    }
}

impl Left<'_> {
    /// Whether both run in the sessions, the reign and the generation in which the proof was made. A peer that is a
    /// generation ahead may know that the owner was removed, and then has marked what it lacks. What a secondary hears in its
    /// primary's stream of another secondary may come late: it is of the session that was recorded.
    fn together(&self) -> bool {
        let (Some(owner), Some(peer)) = (&self.owner.1.volume, &self.peer.1.volume) else { return false };
        let generation = |replica: &Replica| replica.status().map(|status| status.generation);
        owner.replica.session_of(self.peer.0) == Some(peer.session)
            && (self.first_hand() || owner.counts_on(Member { replica: self.peer.0, session: peer.session }))
            && owner.replica.reign() == peer.replica.reign()
            && generation(&peer.replica).is_some_and(|peer| generation(&owner.replica) >= Some(peer))
    }

    /// Whether one of the two is the primary that made the proof.
    fn first_hand(&self) -> bool {
        let primary = self.owner.1.volume.as_ref().and_then(|owner| owner.replica.status()?.primary);
        primary.is_some_and(|primary| [self.owner.0, self.peer.0].contains(&primary))
    }

    /// The blocks that were ever written on one of the two disks; all others are the same zeroes.
    fn pages(&self) -> Vec<u64> {
        let start = u64::from(self.extent) * EXTENT;
        let written = |node: &Node| node.areas[0].written(start, EXTENT).collect::<Vec<_>>();
        let mut pages = written(self.owner.1);
        pages.extend(written(self.peer.1));
        pages.sort_unstable();
        pages.dedup();
        pages.retain(|page| {
            let bit = usize::try_from(page - start / PAGE_BYTES).unwrap_or_default();
            self.bits[bit / 8] >> (bit % 8) & 1 == 1
        });
        pages
    }
}

fn all(volume_bytes: u64) -> Record {
    let extents = u32::try_from(volume_bytes.div_ceil(EXTENT)).unwrap_or(u32::MAX);
    (0..extents).map(|extent| (extent, [0xff; 128])).collect()
}

fn record(replica: &Replica, peer: ReplicaId) -> Record {
    replica.record(peer).map(|(extent, bits)| (extent, *bits)).collect()
}

/// The bits of `before` that are not in `now`.
fn without(before: &ExtentBits, now: Option<&ExtentBits>) -> ExtentBits {
    let mut left = *before;
    for (left, now) in left.iter_mut().zip(now.into_iter().flatten()) {
        *left &= !now;
    }
    left
}

fn overlap(one: &Range, other: &Range) -> bool {
    one.offset < other.end() && other.offset < one.end()
}

fn unsettled(node: &Node) -> Vec<Range> {
    node.volume.as_ref().map(|volume| volume.replica.unsettled()).unwrap_or_default()
}

/// Whether the difference is what the peer wrote as primary after it lost the link: no part of what was proven equal, so that
/// its own dirty record must name it. The activity log does not count: it answers only for those who take part.
fn written_since(peer: &Node, owner: ReplicaId, offset: u64) -> bool {
    let replica = peer.volume.as_ref().map(|volume| &volume.replica);
    replica.is_some_and(|replica| replica.goes_on_without(owner) && replica.names(owner, offset))
}

/// Whether a node's own records say that the block may differ from `peer`'s: as it runs, or as its disk has it.
fn covers(node: &Node, peer: ReplicaId, offset: u64) -> bool {
    match node.volume.as_ref().filter(|volume| volume.replica.is_open()) {
        Some(volume) => volume.replica.may_differ(peer, offset),
        None => OnDisk::new(node, peer).covers(offset),
    }
}

/// What the records of a node's disk say towards a peer, read when first asked.
struct OnDisk<'a> {
    node: &'a Node,
    peer: ReplicaId,
    records: Option<Option<Records>>,
}

impl<'a> OnDisk<'a> {
    fn new(node: &'a Node, peer: ReplicaId) -> Self {
        Self { node, peer, records: None }
    }

    fn covers(&mut self, offset: u64) -> bool {
        let meta = &self.node.areas[1];
        let read = || Records::read(|offset, length| meta.read_durable(offset, length));
        let records = self.records.get_or_insert_with(read);
        records.as_ref().is_none_or(|records| records.may_differ(self.peer, offset))
    }
}
