//! The time after a voter's start in which it takes no part: it asks every other voter whether it still holds what it
//! confirmed (R8).
//!
//! A voter whose disk was replaced by an older copy cannot know it. Its vote, or an entry that it is told to be committed
//! because it once was there, does harm before the one voter that knows better has heard of it. So it waits for all of
//! them; but only for a while, because whoever is dead answers never, and then is the loss that is not tolerated as well.

use super::{
    Output,
    core::Engine,
    message::{Body, Members},
};
use anshin_base::VoterId;
use raft::StateRole;
use std::collections::BTreeSet;

/// How long it waits for those that do not answer, in ticks: a second, well above any round trip.
const WAIT_TICKS: u64 = 20;

/// The voters that have not answered yet.
#[derive(Clone, Debug)]
pub(super) struct Probation {
    missing: BTreeSet<VoterId>,
    until: u64,
}

impl Probation {
    /// None for a voter that knows nobody whom it could have confirmed anything to.
    pub fn begin(members: &Members, me: VoterId) -> Option<Self> {
        let mut missing: BTreeSet<_> = members.voters.iter().chain(&members.learners).copied().collect();
        missing.remove(&me);
        (!missing.is_empty()).then_some(Self { missing, until: WAIT_TICKS })
    }
}

impl Engine {
    /// A tick of a voter that may not take part yet; false if it may.
    pub(super) fn wait_for_all(&mut self, out: &mut Vec<Output>) -> bool {
        let over = |probation: &Probation| probation.missing.is_empty() || self.ticks > probation.until;
        if self.probation.as_ref().is_none_or(over) {
            self.probation = None;
            return false;
        }
        let missing = self.probation.iter().flat_map(|probation| &probation.missing);
        out.extend(missing.map(|to| Output::Send(self.envelope(*to, Body::Probe))));
        true
    }

    /// A voter holds nothing against this start.
    pub(super) fn cleared(&mut self, from: VoterId) {
        if let Some(probation) = &mut self.probation {
            probation.missing.remove(&from);
            if probation.missing.is_empty() {
                self.probation = None;
            }
        }
    }

    /// A follower confirms to its leader what it holds; nobody asks the leader, on whose own disk a majority may rest
    /// just as well. So it tells everyone.
    pub(super) fn tell_durable(&mut self, out: &mut Vec<Output>) {
        let raft = &self.node.raft;
        let (term, index, committed) = (raft.term, raft.raft_log.persisted, raft.raft_log.committed);
        if raft.state != StateRole::Leader || term > self.durable_term || self.told == (term, index) {
            return;
        }
        self.told = (term, index);
        let Members { voters, learners } = self.members();
        for to in voters.into_iter().chain(learners).filter(|to| *to != self.settings.voter) {
            out.push(Output::Send(self.envelope(to, Body::Durable { term, index, committed })));
        }
    }
}
