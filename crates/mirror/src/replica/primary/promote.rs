//! The way from the recorded promotion to the first request served (R3, R6, R11).

use super::{PeerPart, Replica, Stage, Sync};
use crate::api::Event;
use crate::bitmap::Bitmap;
use crate::wire::{Message, Range};
use anshin_base::ReplicaId;

impl Replica {
    pub(super) fn promotion_pass(&mut self) {
        if self.fail_after.is_some() {
            return;
        }
        match self.stage() {
            Stage::Checking => {
                let problem = self.why_not_yet();
                if problem.is_none() {
                    let now = self.now;
                    let primary = self.pri();
                    primary.stage = Stage::Reconciling;
                    primary.since = now;
                    for peer in self.peers.values_mut() {
                        peer.off_since = now;
                    }
                }
                self.pri().suspended = problem;
            }
            Stage::Reconciling => self.reconcile(),
            Stage::Flushing => {
                if self.pri().ops.is_empty() {
                    self.pri().stage = Stage::Waiting;
                    self.stream.forget_windows();
                    for replica in self.peers_on() {
                        self.send(replica, Message::Reconciled);
                    }
                }
            }
            Stage::Waiting => {
                if self.lease_valid() {
                    self.pri().stage = Stage::Serving;
                    self.pri().suspended = None;
                    let generation = self.stamp().generation();
                    if !self.pri().demoting {
                        self.event(Event::Serve { generation });
                    }
                }
            }
            Stage::Serving => {}
        }
    }

    /// What the promotion waits for before it touches anything.
    fn why_not_yet(&self) -> Option<String> {
        let primary = self.primary.as_ref()?;
        if self.superblock_durable < primary.durable_after {
            return Some("the promotion is being stored".into());
        }
        if self.superblock.presented.is_some() {
            return Some("the age of this replica was not checked yet: the ledger has no quorum".into());
        }
        if self.superblock.old_image {
            return Some("this replica is a restored old image and must be compared in full first".into());
        }
        if self.superblock.target {
            return Some("this replica is inconsistent: a resync into it did not end".into());
        }
        if self.now < self.granted_until && !self.bugs.skip_grant_wait() {
            return Some("the lease that was granted to the predecessor has not run out".into());
        }
        if !self.disk.idle() {
            return Some("writes of the predecessor are on their way to the disk".into());
        }
        self.lost_session()
    }

    /// This replica restarted since it was recorded, while another member did not: that one may hold acknowledged
    /// writes that were in our volatile cache (R4).
    fn lost_session(&self) -> Option<String> {
        let me = self.me();
        let in_sync = self.in_sync();
        if in_sync.get(&me.replica) == Some(&me.session) {
            return None;
        }
        self.peers
            .iter()
            .find(|(replica, peer)| peer.link.is_some() && in_sync.get(replica) == Some(&peer.session))
            .map(|(replica, _)| {
                format!(
                    "replica {replica} holds what this one may have lost in its restart: promote that one"
                )
            })
    }

    /// Overwrites each member's open window with our content; a member that does not take part is removed by
    /// [`Replica::members_pass`] meanwhile (R6).
    fn reconcile(&mut self) {
        if let Some(problem) = self.lost_session() {
            self.pri().suspended = Some(problem);
            return;
        }
        let me = self.me();
        let in_sync = self.in_sync();
        let others = self.others();
        if in_sync.get(&me.replica) != Some(&me.session) {
            self.pri().suspended = Some("the new session is being recorded".into());
            return;
        }
        let off = |replica: &ReplicaId| self.peers.get(replica).is_none_or(|peer| peer.part != PeerPart::On);
        if let Some(replica) = others.iter().find(|replica| off(replica)) {
            self.pri().suspended = Some(format!("replica {replica} has not answered yet"));
            return;
        }
        if self.pri().window.is_none() {
            let mut window = self.stream.open_window();
            window.extend(self.pri().windows.values().flatten().copied());
            self.pri().window = Some(window);
            for replica in &others {
                self.reconcile_again(*replica);
            }
        }
        let reconciled = |replica: &ReplicaId| self.peers.get(replica).is_some_and(|peer| peer.reconciled);
        if others.iter().all(reconciled) {
            self.submit_flush(Vec::new());
            self.pri().stage = Stage::Flushing;
            self.pri().suspended = Some("a first flush by every member".into());
        } else {
            self.pri().suspended = Some("writes that not every member holds are being reconciled".into());
        }
    }

    /// Starts (or, after a broken link, starts again) the reconciliation of one member.
    pub(super) fn reconcile_again(&mut self, replica: ReplicaId) {
        let Some(mut window) = self.pri().window.clone() else { return };
        window.extend(self.pri().windows.get(&replica).into_iter().flatten().copied());
        if self.bugs.skip_reconciliation() {
            window = Vec::<Range>::new();
        }
        let mut bits = Bitmap::new(self.superblock.layout);
        for range in window {
            bits.set(range);
        }
        if let Some(peer) = self.peers.get_mut(&replica) {
            peer.sync = Some(Sync::of_member(bits));
        }
    }
}
