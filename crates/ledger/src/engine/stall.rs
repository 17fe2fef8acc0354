//! A disk that takes a write and does not end it: neither success nor failure, for seconds or for ever.
//!
//! Such a voter harms more than one that is dead. What it hears it cannot make durable, so it applies nothing, and what
//! it shows as the present is the past. As leader it would go on: the others' disks commit what it proposes, while all
//! that rests on its own state (promotions, plans) stands still. So its word does not count as present any more, and it
//! hands leadership to a voter that holds everything.

use super::core::Engine;
use crate::log::Record;
use anshin_base::VoterId;
use raft::StateRole;

/// Ticks after which an unfinished write keeps this voter from the present: two seconds, above what a busy disk with a
/// spinning platter takes for its slowest flush.
const BEHIND_TICKS: u64 = 40;
/// Ticks after which a leader hands leadership on: three seconds.
const HAND_ON_TICKS: u64 = 60;
/// Ticks between two candidates: a hand-over that was not taken up is given up after an election time, a second at most.
const NEXT_TICKS: u64 = 20;

/// What is remembered of a slow disk.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stall {
    /// The last write took longer than a healthy disk does.
    slow: bool,
    /// The tick of the last attempt to hand leadership on, and how many there were.
    tried: u64,
    attempts: usize,
}

impl Engine {
    /// Whether what is applied here may be long past, because the disk does not end what it was given.
    #[must_use]
    pub fn stalled(&self) -> bool {
        self.stall.slow || self.unfinished() >= BEHIND_TICKS
    }

    /// Whether this voter, which leads, may hand leadership to another one: it answers, and holds all that is committed.
    #[must_use]
    pub fn fit_to_lead(&self, voter: VoterId) -> bool {
        let raft = &self.node.raft;
        let holds = raft
            .prs()
            .get(voter.0)
            .is_some_and(|progress| progress.recent_active && progress.matched >= raft.raft_log.committed);
        raft.state == StateRole::Leader
            && voter != self.settings.voter
            && holds
            && self.members().voters.contains(&voter)
    }

    /// Ticks since the write that is under way was begun. Ticks of this process, not time: after a pause the disk's
    /// answer may still wait to be read.
    fn unfinished(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| self.ticks.saturating_sub(open.since))
    }

    /// A write ended. One that took long says nothing of the next: the disk is well when a write has ended in time, and
    /// if there is nothing to write, something is.
    pub(super) fn judge_disk(&mut self) {
        self.stall = Stall { slow: self.unfinished() >= BEHIND_TICKS, ..Stall::default() };
        let hard = &self.node.store().hard;
        if self.stall.slow && hard.term > 0 {
            let (term, vote, commit) = (hard.term, hard.vote, hard.commit);
            self.records.push(Record::Hard { term, vote, commit });
            self.urgent = true;
        }
    }

    /// A leader whose write does not end: the best of those that can lead is asked, then the next.
    pub(super) fn hand_on(&mut self) {
        let tried = self.ticks.saturating_sub(self.stall.tried) < NEXT_TICKS;
        if tried || self.unfinished() < HAND_ON_TICKS || self.node.raft.state != StateRole::Leader {
            return;
        }
        let mut fit: Vec<VoterId> = self.members().voters;
        fit.retain(|voter| self.fit_to_lead(*voter));
        fit.sort_by_key(|voter| std::cmp::Reverse((self.weight(*voter), *voter)));
        if !fit.is_empty() {
            let to = fit[self.stall.attempts % fit.len()];
            self.stall.tried = self.ticks;
            self.stall.attempts += 1;
            self.node.transfer_leader(to.0);
        }
    }
}
