//! What the ledger says, and what follows from it: promotion, deposition, refusal of what is older (R3, R7, R8, R12).

use super::{Replica, Role};
use crate::api::{Event, LedgerView, Output};
use crate::codec::Stamped;
use anshin_base::{Mono, local::ReplicaReport};

impl Replica {
    pub(super) fn ledger_view(&mut self, view: LedgerView) {
        if self.role == Role::Opening {
            self.view = Some(view);
            return;
        }
        if self.role == Role::Failed {
            return;
        }
        let stamp = Stamped { epoch: view.epoch, index: view.index, entry: view.entry.clone() };
        let known = self.stamp();
        // R8: a ledger that fell behind what this replica stored (a voter with an old disk) is not acted on.
        let older = known.newer_than(&stamp) || (stamp.epoch == known.epoch && stamp.index < known.index);
        let foreign = stamp.entry.as_ref().is_some_and(|entry| entry.group != self.superblock.group);
        if foreign || (older && (known.epoch > stamp.epoch || view.quorate)) {
            self.event(Event::Note("the ledger's view is older than the entry stored here; ignored".into()));
        }
        if foreign {
            return;
        }
        self.check_presented(&view);
        for place in &view.places {
            self.ensure_slot(place.replica);
        }
        self.view = Some(view);
        if older {
            return;
        }
        if stamp.newer_than(self.stamp()) {
            self.learn(stamp.clone());
        }
        if self.stamp().epoch == stamp.epoch && self.stamp().index < stamp.index {
            self.superblock.stamp.index = stamp.index;
            self.touch_superblock();
        }
        let me = self.me();
        // Only our own ledger's word makes us primary; a peer's word can only depose.
        if self.role == Role::Secondary && self.stamp().entry.as_ref().is_some_and(|e| e.primary == Some(me))
        {
            self.promote();
        }
    }

    /// A peer knows more than we do. The word of an authenticated member of the group ends a reign at once (R12).
    pub(super) fn learn_from_peer(&mut self, stamp: Stamped) {
        let foreign = stamp.entry.as_ref().is_none_or(|entry| entry.group != self.superblock.group);
        if !foreign && self.role != Role::Opening {
            self.learn(stamp);
        }
    }

    /// Takes over a newer entry.
    pub(super) fn learn(&mut self, stamp: Stamped) {
        let before = std::mem::replace(&mut self.superblock.stamp, stamp);
        if before.epoch == self.superblock.stamp.epoch {
            self.superblock.stamp.index = self.superblock.stamp.index.max(before.index);
        }
        self.touch_superblock();
        if self.stamp().entry.as_ref().is_some_and(|entry| entry.primary.is_none()) {
            // Only the primary itself gives up its role, and it ends its lease before: nothing to wait out (R11).
            self.granted_until = self.now;
        }
        self.stream_learned();
        if self.role != Role::Primary {
            return;
        }
        let Some(entry) = self.stamp().entry.clone() else {
            return;
        };
        let me = self.me();
        if entry.primary == Some(me) {
            self.entry_changed(&before);
        } else {
            self.depose(entry.generation, entry.primary.is_none());
        }
    }

    /// Checks once per start that nobody has seen more of us than the disk presented (R7).
    fn check_presented(&mut self, view: &LedgerView) {
        let Some(presented) = self.superblock.presented else {
            return;
        };
        if !view.quorate {
            return;
        }
        let mine = self.superblock.replica;
        let seen = view.highest.iter().filter(|(replica, _)| *replica == mine).map(|(_, seen)| *seen).max();
        self.superblock.presented = None;
        self.checked_version = Some(self.touch_superblock());
        if let Some(seen) = seen.filter(|seen| *seen > presented && !self.bugs.trust_old_image()) {
            self.old_image(seen);
        }
    }

    /// This replica was found to be older than itself (R7): it may lack anything, towards anyone.
    pub(super) fn old_image(&mut self, seen: u64) {
        let (replica, presented) = (self.superblock.replica, self.progress_loaded);
        if !self.superblock.old_image {
            self.event(Event::OldImage { replica, presented, seen });
        }
        self.superblock.old_image = true;
        self.superblock.progress = self.superblock.progress.max(seen) + 1;
        for slot in 0..self.maps.len() {
            if self.superblock.slots[slot].replica.0 != 0 {
                self.set_full(slot);
            }
        }
        self.touch_superblock();
    }

    /// Whether this replica's content may be served after a promotion.
    pub(super) fn promotable(&self) -> bool {
        self.failure.is_none() && !self.superblock.target && !self.superblock.old_image
    }

    /// Tells the voter when something changed; a mere progress number at most once per heartbeat.
    pub(super) fn report(&mut self) {
        if self.role == Role::Opening {
            return;
        }
        let report = ReplicaReport {
            group: self.superblock.group,
            replica: self.superblock.replica,
            session: self.config.session,
            // Until it was checked, nothing higher than what the disk presented: else our own word would hide
            // that others had seen more (R7).
            progress: if self.checked { self.progress_durable } else { self.progress_loaded },
            promotable: self.promotable(),
            ledger_index: self.stamp().index,
        };
        let only_progress = self
            .reported
            .as_ref()
            .is_some_and(|old| *old == ReplicaReport { progress: old.progress, ..report.clone() });
        if self.reported.as_ref() == Some(&report) || (only_progress && self.now < self.report_after) {
            return;
        }
        self.report_after = self.now.after(self.config.heartbeat);
        self.reported = Some(report.clone());
        self.out.push(Output::Report(report));
    }

    /// How long a grantor must wait after granting (R11): longer than the lease by the drift bound.
    pub(super) fn grant_length(&self) -> anshin_base::Millis {
        let lease = self.config.lease.0;
        anshin_base::Millis(lease + (lease * u64::from(self.config.drift_permille)).div_ceil(1000))
    }

    /// The lease is over, now.
    pub(super) fn end_lease(&mut self) {
        self.write_lease(anshin_base::Generation(0), Mono(0));
    }

    pub(super) fn write_lease(&mut self, generation: anshin_base::Generation, until: Mono) {
        if self.lease_written == (generation, until) {
            return;
        }
        self.lease_written = (generation, until);
        self.lease_sequence += 1;
        self.out.push(Output::Lease(anshin_base::lease::LeaseRecord {
            group: self.superblock.group,
            generation,
            until,
            sequence: self.lease_sequence,
        }));
    }
}
