//! I1: a write acknowledged in sync mode is readable after any failure that leaves a ledger quorum and one in-sync
//! replica that did not lose its cache; a flushed one, after any that leaves one in-sync replica's disk.
//!
//! The client's model compares every read. This oracle tells it when a promotion had to rest on what was flushed, and
//! sees to it that this happens only when no recorded member could still run in its recorded session (R4).

use super::{Verdict, verdict};
use anshin_base::{GroupEntry, ReplicaId, SessionId};
use anshin_ledger::state::GroupState;

/// See the module.
#[derive(Debug, Default)]
pub struct I1 {
    verdict: Verdict,
    entry: Option<GroupState>,
    total_loss: Option<u64>,
}
verdict!(I1, "I1");

impl I1 {
    /// The newest entry any voter applied. `runs` says whether a replica runs in a session now.
    pub fn entry(&mut self, group: &GroupState, runs: impl Fn(ReplicaId, SessionId) -> bool) {
        if self.entry.as_ref().is_some_and(|known| known.index >= group.index) {
            return;
        }
        let before = self.entry.replace(group.clone());
        let (Some(before), Some(primary)) = (before, group.entry.primary) else { return };
        let recorded = before.entry.in_sync.get(&primary.replica);
        if recorded.is_some_and(|session| *session == primary.session) {
            return;
        }
        for (replica, session) in &before.entry.in_sync {
            if runs(*replica, *session) {
                self.violate(&format!(
                    "{primary:?} was promoted after a restart although {replica} still runs in its recorded session"
                ));
            }
        }
        self.total_loss = Some(group.entry.generation.0);
    }

    /// Whether the primary that serves since `generation` rests on what was flushed; asked once.
    pub fn take_total_loss(&mut self, generation: u64) -> bool {
        let lost = self.total_loss.is_some_and(|since| since <= generation);
        if lost {
            self.total_loss = None;
        }
        lost
    }

    /// The newest entry.
    #[must_use]
    pub fn newest(&self) -> Option<&GroupEntry> {
        self.entry.as_ref().map(|known| &known.entry)
    }
}
