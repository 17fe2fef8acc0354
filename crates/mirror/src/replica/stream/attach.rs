//! Attaching to a primary's stream: whether to, as what, and when the answer may be given.

use super::{Asked, Source};
use crate::api::{LinkId, Output};
use crate::codec::Stamped;
use crate::replica::{Replica, Role};
use crate::wire::{AttachMode, MAP_EXTENTS_MAX, Message};
use anshin_base::ReplicaId;
use std::collections::BTreeSet;

impl Replica {
    /// A primary asks us to join its stream.
    pub(in crate::replica) fn attach(&mut self, link: LinkId, replica: ReplicaId, asked: Asked) {
        let names_sender =
            asked.stamp.entry.as_ref().and_then(|entry| entry.primary).is_some_and(|primary| {
                primary.replica == replica
                    && self.peers.get(&replica).is_some_and(|peer| peer.session == primary.session)
            });
        // R8: an older generation or epoch is refused, with what replaced it.
        // A newer set under the same primary is no reason: it follows in the stream.
        let primary_of = |stamp: &Stamped| stamp.entry.as_ref().and_then(|entry| entry.primary);
        let same = primary_of(self.stamp()) == primary_of(&asked.stamp);
        if self.stamp().newer_than(&asked.stamp) && !(same && self.stamp().epoch == asked.stamp.epoch) {
            let stamp = self.stamp().clone();
            return self.send(replica, Message::Newer(stamp));
        }
        if !names_sender {
            return self.close(link, "an attach by a replica that is not the recorded primary");
        }
        if self.overtaken(replica, asked.number) {
            return self.close(link, "an attach that was overtaken by a later one");
        }
        if asked.stamp.newer_than(self.stamp()) {
            self.learn(asked.stamp.clone());
        }
        match self.role {
            Role::Secondary => self.attach_now(link, replica, asked),
            // R12: only when its device is gone does a deposed primary count as clean.
            Role::Deposed => self.stream.deferred = Some((link, replica, asked)),
            Role::Opening | Role::Primary | Role::Failed => {}
        }
    }

    /// Whether a later attach of the same primary came before this one, over a link that replaced this one's. What came of the
    /// later one may be recorded by now: as the target of a resync that nobody makes any more, a member could not be promoted
    /// (R5). A session numbers its attaches upwards, whatever the link.
    fn overtaken(&mut self, replica: ReplicaId, number: u64) -> bool {
        let Some(peer) = self.peers.get_mut(&replica) else { return false };
        let overtaken = number < peer.attach_newest;
        peer.attach_newest = peer.attach_newest.max(number);
        overtaken
    }

    pub(in crate::replica) fn take_deferred_attach(&mut self) {
        if let Some((link, replica, asked)) = self.stream.deferred.take()
            && self.peers.get(&replica).is_some_and(|peer| peer.link == Some(link))
        {
            self.attach(link, replica, asked);
        }
    }

    fn attach_now(&mut self, link: LinkId, replica: ReplicaId, asked: Asked) {
        let entry = asked.stamp.entry.clone().expect("invariant: the stamp names the sender");
        let member = entry.holds(self.me());
        let allowed = match asked.mode {
            AttachMode::Resume => member && self.stream.reign == asked.reign && self.stream.began,
            AttachMode::Reconcile => member,
            AttachMode::Target => true,
        };
        if !allowed {
            return self.close(link, "an attach that does not fit what this replica holds");
        }
        if asked.mode != AttachMode::Resume {
            self.stream.end_reign();
            self.stream.reign = asked.reign;
            self.log.forget_wanted();
        }
        let mut tracked: BTreeSet<_> = entry.in_sync.keys().copied().collect();
        tracked.remove(&self.superblock.replica);
        let mut version = self.superblock_version;
        let virgin = self.virgin();
        if asked.mode == AttachMode::Target {
            // What is hot here is our own, possibly divergent, tail: the dirty records take it over, so that the
            // log's entries can from now on speak of this stream alone.
            for slot in 0..self.maps.len() {
                if self.superblock.slots[slot].replica.0 != 0 {
                    self.hot_into(slot);
                }
            }
            self.stream.forget_windows();
            self.superblock.target = true;
            self.superblock.progress = self.superblock.progress.saturating_add(1);
            version = self.touch_superblock();
        }
        self.set_tracked(tracked);
        if asked.mode != AttachMode::Resume {
            self.log.renumber();
        }
        self.stream.source = Some(Source { link, replica, asked, virgin, answer_after: Some(version) });
    }

    /// Answers an attach once nothing of an earlier stream is on its way to the disk.
    pub(super) fn answer_attach(&mut self) {
        let Some(source) = &self.stream.source else { return };
        let Some(version) = source.answer_after else { return };
        let (number, mode, link) = (source.asked.number, source.asked.mode, source.link);
        let virgin = source.virgin;
        let resume = mode == AttachMode::Resume;
        if self.superblock_durable < version || !(resume || self.disk.idle()) {
            return;
        }
        let replica = source.replica;
        if let Some(source) = &mut self.stream.source {
            source.answer_after = None;
        }
        let received = if resume { self.stream.received } else { 0 };
        let window = if mode == AttachMode::Reconcile { self.stream.open_window() } else { Vec::new() };
        self.out.push(Output::Send { link, message: Message::Attached { number, received, window } });
        if mode == AttachMode::Target {
            self.send_map(link, replica, number, virgin);
        }
    }

    /// Our dirty record towards the source; it includes what was hot (R6).
    fn send_map(&mut self, link: LinkId, replica: ReplicaId, number: u64, virgin: bool) {
        let slot = self.slot_of(replica);
        let full = self.superblock.old_image || slot.is_none_or(|slot| self.superblock.slots[slot].full);
        let mut parts = Vec::new();
        if let (Some(slot), false) = (slot, full) {
            let mut extents = Vec::new();
            for (extent, bits) in self.maps[slot].extents() {
                extents.push((extent, Box::new(*bits)));
                if extents.len() == MAP_EXTENTS_MAX {
                    parts.push(std::mem::take(&mut extents));
                }
            }
            parts.push(extents);
        } else {
            parts.push(Vec::new());
        }
        let count = parts.len();
        for (at, extents) in parts.into_iter().enumerate() {
            let message = Message::MapPart { number, virgin, full, last: at + 1 == count, extents };
            self.out.push(Output::Send { link, message });
        }
    }
}
