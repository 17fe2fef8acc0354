//! What the ledger says, and what follows from it: promotion, deposition, refusal of what is older (R3, R7, R8, R12).

use super::{Replica, Role};
use crate::api::{Event, LedgerView, Output};
use crate::codec::Stamped;
use anshin_base::{Millis, Mono, local::ReplicaReport};

/// Time between two reports that differ in nothing but the progress number.
const REPORT_EVERY: Millis = Millis(10);

/// A healed old image counts on from so much more than was seen of it: some voter that cannot be heard at the moment may
/// have seen a little more than the one that was asked, and would never let it be promoted.
const HEALED_JUMP: u64 = 1 << 20;

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
            self.depose(entry.generation);
        }
    }

    /// Checks once per start that nobody has seen more of us than the disk presented (R7).
    fn check_presented(&mut self, view: &LedgerView) {
        if !view.quorate || self.bugs.trust_old_image() {
            if view.quorate && self.superblock.presented.take().is_some() {
                self.checked_version = Some(self.touch_superblock());
            }
            return;
        }
        let mine = self.superblock.replica;
        let seen = view.highest.iter().filter(|(replica, _)| *replica == mine).map(|(_, seen)| *seen).max();
        let Some(presented) = self.superblock.presented else {
            return self.check_again(seen.unwrap_or_default());
        };
        self.superblock.presented = None;
        self.checked_version = Some(self.touch_superblock());
        if let Some(seen) = seen.filter(|seen| *seen > presented) {
            self.old_image(seen);
        }
    }

    /// The voter that was asked at the start did not know yet what it knows now.
    fn check_again(&mut self, seen: u64) {
        if seen <= self.superblock.progress {
            return;
        }
        if self.superblock.old_image {
            self.superblock.progress = seen.saturating_add(1);
            self.touch_superblock();
        } else if self.role == Role::Primary && self.stage_serves() {
            // It has gone on already, so that this is now the content; nobody shall refuse it for ever.
            let (replica, presented) = (self.superblock.replica, self.progress_loaded);
            self.event(Event::OldImage { replica, presented, seen });
            self.superblock.progress = seen.saturating_add(HEALED_JUMP);
            self.touch_superblock();
        } else {
            self.old_image_late(seen);
        }
    }

    /// Found to be an old image only after it was taken for whole: as a member, or by a promotion that has not served
    /// yet. It starts again, in a session that nobody counts on, once it is stored that it is one.
    pub(super) fn old_image_late(&mut self, seen: u64) {
        self.old_image(seen);
        let why = "a restored old image: it starts again to be compared in full";
        self.fail_after = Some((self.superblock_version, why));
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

    /// Whether anybody counts on this session: recorded as a member or as primary.
    pub(super) fn counted_on(&self) -> bool {
        let me = self.me();
        self.role == Role::Primary || self.recorded().get(&me.replica) == Some(&me.session)
    }

    /// The source of a full comparison is done: nobody who has seen more of the image shall refuse it for ever.
    pub(super) fn healed(&mut self) {
        if std::mem::take(&mut self.superblock.old_image) {
            self.superblock.progress = self.superblock.progress.saturating_add(HEALED_JUMP);
        }
    }

    /// Whether this replica's content may be served after a promotion.
    pub(super) fn promotable(&self) -> bool {
        self.failure.is_none() && !self.superblock.target && !self.superblock.old_image
    }

    /// Tells the voter when something changed; a mere progress number at most once in [`REPORT_EVERY`], and before
    /// whatever is confirmed with it.
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
        let changed = self.reported.as_ref() != Some(&report);
        self.report_due = changed && only_progress && self.now < self.report_after;
        if !changed || self.report_due {
            return;
        }
        self.report_after = self.now.after(REPORT_EVERY);
        self.reported = Some(report.clone());
        self.out.push(Output::Report(report));
    }

    /// How long a grantor must wait after granting (R11): longer than the lease by the drift bound.
    pub(super) fn grant_length(&self) -> Millis {
        let lease = self.config.lease.0;
        Millis(lease + (lease * u64::from(self.config.drift_permille)).div_ceil(1000))
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
