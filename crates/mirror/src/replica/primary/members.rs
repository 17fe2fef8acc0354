//! Who takes part: attaching peers, changing the set in the ledger (R2, R3), leases and signs of life (R11).

use super::{MapPart, PeerPart, Replica, Stage, Sync};
use crate::api::{Event, Output};
use crate::codec::Stamped;
use crate::replica::Role;
use crate::wire::{AttachMode, Message, Range, Seq};
use anshin_base::{GroupChange, Millis, Mono, ReplicaId, SessionId, local::Outcome};
use std::collections::BTreeMap;

/// Requests for leases that are remembered; older ones would have run out anyway.
const HEARTBEATS_MAX: usize = 256;

/// A member that answers signs of life but does nothing of what it was asked (a hung disk) is proposed for removal after
/// this many times the silence that would remove it.
const STUCK_MEMBER: u64 = 10;
/// The same for a target of a resync; nobody loses anything when it goes, but writes wait for it while it stays.
const STUCK_TARGET: u64 = 3;

impl Replica {
    fn unique(&mut self) -> u64 {
        self.request_next += 1;
        self.request_next
    }

    pub(super) fn heartbeat(&mut self) {
        let now = self.now;
        if now < self.pri().heartbeat_at {
            return;
        }
        let next = self.now.after(self.config.heartbeat);
        self.pri().heartbeat_at = next;
        self.send_heartbeats();
        self.count_idle();
        let oldest = self.tokens.keys().next().copied();
        let (before, beats) = self.oldest_command;
        self.oldest_command = (oldest, if oldest == before && oldest.is_some() { beats + 1 } else { 0 });
    }

    /// Gives up, as a sector here cannot be read: it starts again to be compared in full with the copy that takes over, and
    /// gets from there what it cannot read, this sector and others that nobody has come across.
    pub(in crate::replica) fn leave_to_another(&mut self) {
        if self.fail_after.is_some() {
            return;
        }
        for slot in 0..self.maps.len() {
            if self.superblock.slots[slot].replica.0 != 0 {
                self.set_full(slot);
            }
        }
        let why =
            "the replica's disk cannot be read: another copy takes over, and this one is compared in full";
        self.fail_after = Some((self.touch_superblock(), why));
    }

    /// Whether a member takes part that can serve what this primary cannot, and the ledger can decide that it does.
    pub(in crate::replica) fn another_serves(&self) -> bool {
        let takes_part =
            |peer: &super::super::links::Peer| peer.part == PeerPart::On && !self.silent(peer.last_heard);
        let quorate = self.view.as_ref().is_some_and(|view| view.quorate);
        quorate && self.recorded().keys().any(|replica| self.peers.get(replica).is_some_and(takes_part))
    }

    /// A primary whose own disk does not answer holds every write for ever, while a member that could take over does
    /// nothing. Alone it goes on waiting: failing would help nobody. Counted like the idleness of peers.
    pub(in crate::replica) fn own_disk_hangs(&self) -> bool {
        self.primary.is_some()
            && self.oldest_command.1 > self.beats_of_silence(STUCK_MEMBER)
            && self.recorded().len() > 1
    }

    /// Notices peers that live but do nothing of what they were asked. Counted in signs of life, not in time: after a
    /// pause of this process their answers may still wait to be read.
    fn count_idle(&mut self) {
        let mut late = Vec::new();
        for replica in self.peers_on() {
            // What our own disk has not done either is no fault of the peer.
            let owes = |op: &super::Op| !op.local && op.waiting.contains(&replica);
            let owed = self.pri().ops.values().any(owes);
            let Some(peer) = self.peers.get_mut(&replica) else { continue };
            let awaited = owed || peer.sync.as_ref().is_some_and(Sync::awaits);
            peer.idle_beats = if awaited { peer.idle_beats + 1 } else { 0 };
            late.push(replica);
        }
        late.retain(|replica| self.stuck(*replica, STUCK_TARGET));
        let in_sync = self.in_sync();
        for replica in late {
            if !in_sync.contains_key(&replica) && !self.pri().maybe.contains_key(&replica) {
                self.drop_peer(replica, "it answers signs of life but does nothing of what it is asked");
            }
        }
    }

    fn stuck(&self, replica: ReplicaId, times: u64) -> bool {
        let limit = self.beats_of_silence(times);
        self.peers.get(&replica).is_some_and(|peer| peer.idle_beats > limit)
    }

    fn beats_of_silence(&self, times: u64) -> u64 {
        self.config.peer_silent.0.saturating_mul(times) / self.config.heartbeat.0.max(1)
    }

    pub(super) fn send_heartbeats(&mut self) {
        let number = self.unique();
        let (now, lease) = (self.now, self.config.lease);
        let alone = self.others().is_empty();
        let primary = self.pri();
        primary.heartbeats.insert(number, now);
        while primary.heartbeats.len() > HEARTBEATS_MAX {
            primary.heartbeats.pop_first();
        }
        if alone {
            primary.alone_until = now.after(lease);
        }
        let points = self.points_now();
        for replica in self.peers.keys().copied().collect::<Vec<_>>() {
            self.send(replica, Message::LeaseRequest { number, points });
        }
    }

    /// A peer granted the lease; it counts from the sending of the request (R11).
    pub(super) fn granted(&mut self, replica: ReplicaId, number: u64) {
        let Some(sent) = self.pri().heartbeats.get(&number).copied() else { return };
        let until = sent.after(self.config.lease);
        if let Some(peer) = self.peers.get_mut(&replica) {
            peer.lease_until = peer.lease_until.max(until);
        }
    }

    /// Until when every other member, recorded or possible, has granted. A set that is this replica alone needs no
    /// grant: nobody else could be promoted.
    pub(in crate::replica) fn lease_until(&self) -> Mono {
        let (Some(primary), Some(entry)) = (&self.primary, &self.stamp().entry) else { return Mono(0) };
        let granted = |replica| self.peers.get(replica).map_or(Mono(0), |peer| peer.lease_until);
        let members = entry.in_sync.keys().chain(primary.maybe.keys());
        let others = members.filter(|replica| **replica != self.superblock.replica);
        others.map(granted).min().unwrap_or(primary.alone_until)
    }

    pub(super) fn lease_valid(&self) -> bool {
        self.now < self.lease_until()
    }

    /// Writes the lease record and tells when requests are held and why (R10).
    pub(super) fn lease_pass(&mut self) {
        if self.stage() < Stage::Serving || self.pri().demote_flush.is_some() {
            return;
        }
        if self.others().is_empty() {
            // Renewed once per sign of life, so that the record is not rewritten with every input.
            let (until, beat) = (self.now.after(self.config.lease), self.config.heartbeat);
            let primary = self.pri();
            if primary.alone_until.after(beat) <= until {
                primary.alone_until = until;
            }
        }
        let (generation, until) = (self.stamp().generation(), self.lease_until());
        self.write_lease(generation, until);
        let why = if self.lease_valid() { self.why_in_doubt() } else { Some(self.why_suspended()) };
        match (&why, self.pri().suspended.is_some()) {
            (Some(why), false) => self.event(Event::Suspended { why: why.clone() }),
            (None, true) => self.event(Event::Resumed),
            _ => {}
        }
        self.pri().suspended = why;
    }

    fn why_suspended(&self) -> String {
        let missing: Vec<String> = self
            .others()
            .into_iter()
            .filter(|replica| self.peers.get(replica).is_none_or(|peer| peer.lease_until <= self.now))
            .map(|replica| replica.to_string())
            .collect();
        let quorate = self.view.as_ref().is_some_and(|view| view.quorate);
        let end = if quorate {
            "its removal from the in-sync set is being recorded"
        } else {
            "the ledger has no quorum, so it cannot be removed from the in-sync set: bring back that replica, or a voter"
        };
        format!("replica {} does not answer; {end}", missing.join(", "))
    }

    /// Whether the set may shrink to less than what is waited for, without us hearing of it. Nothing is answered then: we may
    /// die, the removal be recorded, and whoever has everything that was answered be no member any more (R2, R3).
    pub(super) fn in_doubt(&self) -> bool {
        let broken = self.bugs.answer_in_doubt() || self.bugs.complete_before_removal();
        self.primary.as_ref().is_some_and(|primary| !primary.doubted.is_empty()) && !broken
    }

    /// A doubt is said where it lasts: the ledger cannot end it now, or requests have been held for longer.
    fn why_in_doubt(&self) -> Option<String> {
        let primary = self.primary.as_ref().filter(|_| self.in_doubt())?;
        let quorate = self.view.as_ref().is_some_and(|view| view.quorate);
        if quorate && primary.suspended.is_none() {
            return None;
        }
        let doubted: Vec<String> = primary.doubted.iter().map(ReplicaId::to_string).collect();
        let end =
            if quorate { "it is being settled" } else { "the ledger has no quorum: bring back a voter" };
        let doubted = doubted.join(", ");
        Some(format!("whether replica {doubted} was removed from the in-sync set is not known; {end}"))
    }

    /// Asks peers to take part.
    pub(super) fn attach_pass(&mut self) {
        let stage = self.stage();
        if stage < Stage::Reconciling {
            return;
        }
        let ready: Vec<(ReplicaId, SessionId, bool)> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.link.is_some() && peer.part == PeerPart::Off)
            .filter(|(_, peer)| peer.ask_after <= self.now)
            .map(|(replica, peer)| (*replica, peer.session, peer.reconciled))
            .collect();
        for (replica, session, reconciled) in ready {
            let mode = match self.recorded().get(&replica).copied() {
                Some(recorded) if recorded == session && reconciled => AttachMode::Resume,
                Some(recorded) if recorded == session && stage == Stage::Reconciling => AttachMode::Reconcile,
                Some(_) if !self.bugs.accept_old_session() => continue,
                // Possibly a member already: the answer to the proposal comes first.
                _ if self.pri().maybe.contains_key(&replica) => continue,
                _ if stage == Stage::Serving => AttachMode::Target,
                _ => continue,
            };
            let number = self.unique();
            let (stamp, reign) = (self.stamp().clone(), self.pri().reign);
            if let Some(peer) = self.peers.get_mut(&replica) {
                peer.part = PeerPart::Asked { number, answered: false };
            }
            self.send(replica, Message::Attach { number, stamp, reign, mode });
        }
    }

    pub(super) fn attached(&mut self, replica: ReplicaId, number: u64, received: Seq, window: Vec<Range>) {
        let session = self.recorded().get(&replica).copied();
        let Some(peer) = self.peers.get_mut(&replica) else { return };
        if peer.part != (PeerPart::Asked { number, answered: false }) {
            return;
        }
        if session != Some(peer.session) {
            peer.part = PeerPart::Asked { number, answered: true };
            return;
        }
        let resume = peer.reconciled;
        if resume && received >= self.pri().next {
            return self.drop_peer(replica, "it received more than was sent");
        }
        let volume = self.config.volume_bytes;
        if window.iter().any(|range| range.offset >= volume || range.length == 0) {
            return self.drop_peer(replica, "a window outside the volume");
        }
        if resume {
            self.take_part(replica, received + 1);
            self.send_again(replica, received);
        } else {
            self.pri().windows.insert(replica, window);
            let next = self.pri().next;
            self.take_part(replica, next);
            self.reconcile_again(replica);
        }
    }

    /// From now on the peer gets everything.
    fn take_part(&mut self, replica: ReplicaId, next: Seq) {
        if let Some(peer) = self.peers.get_mut(&replica) {
            peer.part = PeerPart::On;
        }
        let points = self.points_now();
        let stamp = self.stamp().clone();
        self.send(replica, Message::Begin { next, points });
        self.send(replica, Message::Set(stamp));
        // At once, so that a lease does not wait for the next sign of life.
        self.send_heartbeats();
        self.retrack();
    }

    pub(super) fn map_part(&mut self, replica: ReplicaId, part: &MapPart<'_>) {
        let MapPart { number, virgin, full, last, extents } = *part;
        let (Some(peer), Some(slot)) = (self.peers.get(&replica), self.slot_of(replica)) else { return };
        if peer.part != (PeerPart::Asked { number, answered: true }) {
            return;
        }
        if !self.bugs.forget_peer_hot() {
            for (extent, bits) in extents {
                self.maps[slot].or(*extent, bits);
            }
            if full {
                self.set_full(slot);
            }
        }
        if !last {
            return;
        }
        // Both were zeroed when made and neither log ever named an extent: nothing was ever written to either, so
        // they are equal (I4). Both as of this attach: a copy that was empty when it greeted may have taken writes of another
        // primary since.
        let virgin = self.virgin() && virgin;
        let accept = self.bugs.accept_old_session() && self.recorded().contains_key(&replica);
        if virgin || accept {
            self.maps[slot].clear_all();
        }
        let next = self.pri().next;
        self.take_part(replica, next);
        let total = self.maps[slot].bytes();
        if let Some(peer) = self.peers.get_mut(&replica) {
            peer.sync = Some(Sync::of_target(total));
        }
    }

    /// Proposes a set that holds whoever belongs to it, if it is another than the recorded one.
    pub(super) fn members_pass(&mut self) {
        let now = self.now;
        let stage = self.stage();
        let silent = self.config.peer_silent;
        let unanswered = Millis(silent.0.saturating_mul(10));
        let primary = self.pri();
        if primary.proposal.as_ref().is_some_and(|_| now.since(primary.propose_after) > unanswered) {
            primary.proposal = None;
        }
        let quorate = self.view.as_ref().is_some_and(|view| view.quorate);
        let primary = self.pri();
        // The last flush of a hand-over may wait for a member that is gone: it can only be removed.
        let handing_over = primary.demote_flush.is_some() && primary.ops.is_empty();
        let idle = primary.proposal.is_none() && now >= primary.propose_after && !handing_over;
        if stage < Stage::Reconciling || !quorate || !idle {
            return;
        }
        let desired = self.desired(stage);
        let undecided = self.pri().maybe.keys().any(|replica| !desired.contains_key(replica));
        // Also the set as it is, where a removal may still be recorded: whichever comes first, the other is refused (R3).
        if desired == *self.recorded() && !undecided && self.pri().doubted.is_empty() {
            return;
        }
        let in_sync = self.in_sync();
        let me = self.superblock.replica;
        let removed = in_sync.iter().filter(|(replica, session)| desired.get(replica) != Some(session));
        let removed = removed.map(|(replica, _)| *replica).filter(|replica| *replica != me);
        self.pri().doubted.extend(removed);
        let added = desired.iter().filter(|(replica, _)| !in_sync.contains_key(replica));
        let added: BTreeMap<_, _> = added.map(|(replica, session)| (*replica, *session)).collect();
        self.pri().maybe.extend(added);
        // The lease now needs the grants of possible members, before they can be members.
        self.lease_pass();
        let change = GroupChange::SetMembers {
            group: self.superblock.group,
            expect: self.stamp().generation(),
            proposer: self.me(),
            in_sync: desired,
        };
        self.propose(change);
        if self.bugs.complete_before_removal() {
            self.complete_without_silent();
        }
    }

    fn complete_without_silent(&mut self) {
        let on = self.peers_on();
        for op in self.pri().ops.values_mut() {
            op.waiting.retain(|replica| on.contains(replica));
        }
        self.complete_pass();
    }

    /// The set as it should be.
    fn desired(&self, stage: Stage) -> BTreeMap<ReplicaId, SessionId> {
        let me = self.me();
        let mut desired = BTreeMap::from([(me.replica, me.session)]);
        for (replica, session) in self.recorded() {
            if *replica != me.replica && self.keeps(*replica, *session) {
                desired.insert(*replica, *session);
            }
        }
        if stage == Stage::Serving {
            for (replica, peer) in &self.peers {
                let ready = peer.sync.as_ref().is_some_and(Sync::ready);
                let stuck = self.stuck(*replica, STUCK_TARGET);
                if peer.part == PeerPart::On && ready && !stuck && !self.silent(peer.last_heard) {
                    desired.insert(*replica, peer.session);
                }
            }
        }
        desired
    }

    fn silent(&self, last: Option<Mono>) -> bool {
        last.is_none_or(|last| self.now.since(last) > self.config.peer_silent)
    }

    /// Whether a member stays: in its recorded session (R4), and heard of, or not silent for long enough.
    fn keeps(&self, replica: ReplicaId, session: SessionId) -> bool {
        let since = self.primary.as_ref().map_or(self.now, |primary| primary.since);
        let Some(peer) = self.peers.get(&replica) else {
            return !self.silent(Some(since));
        };
        if peer.link.is_some() && peer.session != session {
            return false;
        }
        if self.stuck(replica, STUCK_MEMBER) {
            return false;
        }
        if peer.part == PeerPart::On {
            return !self.silent(peer.last_heard);
        }
        // It may still find its way in for a while, unless it had fallen silent long before: a predecessor that died
        // is not waited for again after its lease has run out.
        !self.silent(Some(peer.off_since.max(since))) && !self.silent(Some(peer.last_heard.unwrap_or(since)))
    }

    pub(super) fn propose(&mut self, change: GroupChange) {
        let request = self.unique();
        let now = self.now;
        let primary = self.pri();
        primary.proposal = Some((request, change.clone()));
        primary.propose_after = now;
        self.out.push(Output::Propose { request, change });
    }

    /// What became of a proposal.
    pub(in crate::replica) fn proposed(&mut self, request: u64, outcome: Outcome) {
        if self.role != Role::Primary {
            return;
        }
        let retry = self.now.after(self.config.heartbeat);
        let primary = self.pri();
        let ours = primary.proposal.as_ref().is_some_and(|(asked, _)| *asked == request);
        if ours {
            primary.proposal = None;
            primary.propose_after = retry;
        }
        // Unknown: what it would have made stays in `maybe`, and the next proposal compares the same generation, so
        // that at most one of them is applied (R3). Refused: the view that follows says why.
        if let Outcome::Applied(entry) = outcome {
            let known = self.stamp();
            let stamp = Stamped { epoch: known.epoch, index: known.index, entry: Some(entry) };
            if stamp.newer_than(self.stamp()) {
                self.learn(stamp);
            }
        }
    }

    /// A replica is not in the set any more.
    pub(super) fn removed(&mut self, replica: ReplicaId) {
        let note = format!("replica {replica} was removed from the in-sync set");
        self.event(Event::Note(note));
        self.pri().windows.remove(&replica);
        let Some(peer) = self.peers.get_mut(&replica) else { return };
        peer.reconciled = false;
        if peer.part == PeerPart::Off {
            self.peer_left();
        } else {
            // It comes back by a new link, as the target of a resync.
            self.drop_peer(replica, "removed from the in-sync set");
        }
    }

    /// A replica became a member.
    pub(super) fn added(&mut self, replica: ReplicaId) {
        let Some(peer) = self.peers.get_mut(&replica) else { return };
        peer.reconciled = true;
        let done = peer.sync.take();
        if let Some(slot) = self.slot_of(replica)
            && self.maps[slot].is_empty()
        {
            self.meta.clear_full(slot);
        }
        if let Some(sync) = done {
            let (compared, sent) = sync.moved();
            self.event(Event::ResyncDone { target: replica, compared, sent });
        }
    }
}
