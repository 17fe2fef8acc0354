//! Looking at a replica: for the status, and for the oracles of a test.

use super::{Replica, Role};
use crate::bitmap::Bitmap;
use crate::layout::EXTENT;
use crate::replica::links::Part;
use crate::status::{PeerStatus, RoleName, Status};
use crate::wire::{ExtentBits, Range};
use anshin_base::{Generation, ReplicaId, SessionId};

impl Replica {
    /// What it is now; None while its metadata is still being read.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        if self.role == Role::Opening {
            return None;
        }
        let in_sync: Vec<ReplicaId> = self.recorded().keys().copied().collect();
        let primary = self.stamp().entry.as_ref().and_then(|entry| entry.primary);
        Some(Status {
            group: self.superblock.group,
            replica: self.superblock.replica,
            session: self.config.session,
            role: self.role_name(),
            generation: self.stamp().generation().0,
            primary: primary.map(|member| member.replica),
            peers: self.peer_statuses(&in_sync),
            in_sync,
            lease_until: self.primary.as_ref().map(|_| self.lease_until()),
            suspended: self.primary.as_ref().and_then(|primary| primary.suspended.clone()),
            failed: self.failure.clone(),
            promotable: self.promotable(),
            inconsistent: self.superblock.target,
            old_image: self.superblock.old_image,
            progress: self.progress_durable,
            hot_extents: u32::try_from(self.log.len()).unwrap_or(u32::MAX),
            in_flight: self.primary.as_ref().map_or(0, |primary| primary.in_flight()),
            counters: self.counters,
        })
    }

    fn role_name(&self) -> RoleName {
        match self.role {
            Role::Opening => RoleName::Opening,
            Role::Secondary => RoleName::Secondary,
            Role::Primary if self.primary.as_ref().is_some_and(|p| p.serving()) => RoleName::Primary,
            Role::Primary => RoleName::Promoting,
            Role::Deposed => RoleName::Deposed,
            Role::Failed => RoleName::Failed,
        }
    }

    fn peer_statuses(&self, in_sync: &[ReplicaId]) -> Vec<PeerStatus> {
        let slots = self.superblock.slots.iter().enumerate().filter(|(_, kept)| kept.replica.0 != 0);
        slots
            .map(|(slot, kept)| {
                let replica = kept.replica;
                let peer = self.peers.get(&replica);
                let member = in_sync.contains(&replica);
                let (total, left) = self.sync_left(replica);
                PeerStatus {
                    replica,
                    session: peer.filter(|peer| peer.link.is_some()).map(|peer| peer.session),
                    connected: peer.is_some_and(|peer| peer.link.is_some()),
                    in_sync: member,
                    attached: peer.is_some_and(|peer| peer.part == Part::On),
                    dirty_bytes: if member { 0 } else { self.maps[slot].bytes() },
                    resync_total_bytes: total,
                    resync_left_bytes: left,
                    last_heard: peer.and_then(|peer| peer.last_heard),
                    progress: kept.highest,
                }
            })
            .collect()
    }

    /// Whether this replica's records say that the block at `offset` may differ from `peer`'s: by the dirty record,
    /// or because its extent is hot. The invariant I3 is that of two replicas that differ, one says so.
    #[must_use]
    pub fn may_differ(&self, peer: ReplicaId, offset: u64) -> bool {
        let hot = u32::try_from(offset / EXTENT).is_ok_and(|extent| self.log.contains(extent));
        hot || match self.slot_of(peer) {
            None => true,
            Some(slot) => self.maps[slot].contains(offset) || self.role == Role::Opening,
        }
    }

    /// Whether its metadata was read.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.role != Role::Opening
    }

    /// Grows whenever a dirty record changes, within one start of the replica.
    #[must_use]
    pub fn records_version(&self) -> u64 {
        self.maps.iter().map(Bitmap::version).sum()
    }

    /// Changes whenever the dirty record towards `peer` does, within one start of the replica.
    #[must_use]
    pub fn record_version(&self, peer: ReplicaId) -> (usize, u64) {
        self.slot_of(peer).map_or((usize::MAX, 0), |slot| (slot, self.maps[slot].version()))
    }

    /// Every replica towards which a dirty record is kept. Towards any other, everything may differ.
    pub fn record_owners(&self) -> impl Iterator<Item = ReplicaId> {
        self.superblock.slots.iter().map(|slot| slot.replica).filter(|replica| replica.0 != 0)
    }

    /// The dirty record towards `peer`: every extent in it and its blocks. What is hot stands in the activity log and
    /// not here.
    pub fn record(&self, peer: ReplicaId) -> impl Iterator<Item = (u32, &ExtentBits)> {
        self.slot_of(peer).into_iter().flat_map(|slot| self.maps[slot].extents())
    }

    /// Whether the dirty record towards `peer` names the block at `offset`.
    #[must_use]
    pub fn names(&self, peer: ReplicaId, offset: u64) -> bool {
        self.slot_of(peer).is_some_and(|slot| self.maps[slot].contains(offset))
    }

    /// Whether this is a primary in whose stream `peer` takes no part at present.
    #[must_use]
    pub fn goes_on_without(&self, peer: ReplicaId) -> bool {
        self.primary.is_some() && self.peers.get(&peer).is_none_or(|peer| peer.part != Part::On)
    }

    /// The numbering of writes that this replica makes or follows, or followed last.
    #[must_use]
    pub fn reign(&self) -> Generation {
        self.primary.as_ref().map_or_else(|| self.stream.reign(), |primary| primary.reign)
    }

    /// The session in which a peer last greeted.
    #[must_use]
    pub fn session_of(&self, peer: ReplicaId) -> Option<SessionId> {
        self.peers.get(&peer).map(|peer| peer.session)
    }

    /// Where this replica may hold or be about to hold, within its reign, what another member does not (R6).
    #[must_use]
    pub fn unsettled(&self) -> Vec<Range> {
        let own = self.primary.iter().flat_map(|primary| primary.unsettled());
        self.stream.open_window().into_iter().chain(own).collect()
    }
}
