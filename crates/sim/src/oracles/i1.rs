//! I1: a write acknowledged in sync mode is readable after any failure that leaves a ledger quorum and one in-sync
//! replica that did not lose its cache; a flushed one, after any that leaves one in-sync replica's disk.
//!
//! The client's model compares every read. This oracle tells it when a promotion had to rest on what was flushed, and
//! sees to it that this happens only when no recorded member could still run in its recorded session (R4). And nothing may be
//! acknowledged while a removal that the primary proposed can still be recorded: it could die then, and whoever holds what was
//! acknowledged would be no member any more (R3).

use super::{Verdict, verdict};
use anshin_base::{Generation, GroupChange, GroupEntry, Member, ReplicaId, SessionId};
use anshin_ledger::state::GroupState;
use std::collections::BTreeMap;

type Set = BTreeMap<ReplicaId, SessionId>;

/// See the module.
#[derive(Debug, Default)]
pub struct I1 {
    verdict: Verdict,
    entry: Option<GroupState>,
    total_loss: Option<u64>,
    /// What primaries proposed and the generation that it compares: while that one is the newest, it may still be recorded.
    proposed: Vec<(Generation, Member, Set)>,
}
verdict!(I1, "I1");

impl I1 {
    /// The newest entry any voter applied. `runs` says whether a replica runs in a session now.
    pub fn entry(&mut self, group: &GroupState, runs: impl Fn(ReplicaId, SessionId) -> bool) {
        if self.entry.as_ref().is_some_and(|known| known.index >= group.index) {
            return;
        }
        let before = self.entry.replace(group.clone());
        self.proposed.retain(|(expect, ..)| *expect >= group.entry.generation);
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

    /// A primary proposes a set.
    pub fn proposed(&mut self, change: &GroupChange) {
        if let GroupChange::SetMembers { expect, proposer, in_sync, .. } = change {
            let new = (*expect, *proposer, in_sync.clone());
            if !self.proposed.contains(&new) {
                self.proposed.push(new);
            }
        }
    }

    /// A primary acknowledged a write or a flush.
    pub fn acknowledged(&mut self, primary: Member) {
        let Some(newest) = self.newest() else { return };
        let open = self.proposed.iter().filter(|open| (open.0, open.1) == (newest.generation, primary));
        let mut removals = open.flat_map(|open| newest.in_sync.keys().filter(|id| !open.2.contains_key(id)));
        if let Some(removed) = removals.next().copied() {
            let what = format!(
                "{primary:?} acknowledged something while its removal of {removed} could still be recorded"
            );
            self.violate(&what);
        }
    }

    /// The sets that are recorded, or may be without anybody's further doing.
    pub fn possible_sets(&self) -> impl Iterator<Item = &Set> {
        let newest = self.newest();
        let open = self.proposed.iter().filter(move |open| Some(open.0) == newest.map(|it| it.generation));
        newest.map(|newest| &newest.in_sync).into_iter().chain(open.map(|open| &open.2))
    }

    /// The newest entry.
    #[must_use]
    pub fn newest(&self) -> Option<&GroupEntry> {
        self.entry.as_ref().map(|known| &known.entry)
    }
}
