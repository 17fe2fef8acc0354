//! What peers confirmed to this voter, and whether one that returns still holds it (R8).

use super::message::Attest;
use anshin_base::VoterId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// The newest confirmation of a peer; kept on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The start of the peer that was last accepted.
    pub incarnation: u64,
    /// The highest term it said was durable.
    pub term: u64,
    /// The term in which it confirmed `index`.
    pub index_term: u64,
    /// The highest index it confirmed in that term.
    pub index: u64,
    /// Of what it confirmed, up to where it was committed: no later leader can have taken that away again.
    pub held: u64,
}

/// Starts of one peer that are remembered as over.
const PAST_MAX: usize = 16;

/// Verdict on a message's sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Hand the message on.
    Accept,
    /// A message of an earlier start that came late.
    Late,
    /// The peer holds less than it confirmed. `first` if this was not known before.
    Expelled { first: bool },
}

/// Every peer's confirmations.
#[derive(Clone, Debug, Default)]
pub(super) struct Peers {
    pub seen: BTreeMap<VoterId, Seen>,
    /// Peers whose confirmation changed since it was last put into a batch.
    pub changed: Vec<VoterId>,
    past: BTreeMap<VoterId, VecDeque<u64>>,
    expelled: BTreeMap<VoterId, u64>,
}

impl Peers {
    /// Judges a sender by what its disk held at its start.
    ///
    /// Within one term a voter's log only grows; a term that was durable stays; what is committed stays whatever
    /// the term. A peer for which one of these does not hold has lost memory.
    pub fn judge(&mut self, from: VoterId, boot: &Attest) -> Verdict {
        if self.expelled.get(&from) == Some(&boot.incarnation) {
            return Verdict::Expelled { first: false };
        }
        let seen = self.seen.entry(from).or_default();
        if seen.incarnation == boot.incarnation {
            return Verdict::Accept;
        }
        let past = self.past.entry(from).or_default();
        if past.contains(&boot.incarnation) {
            return Verdict::Late;
        }
        let less_term = boot.term < seen.term;
        let less_log = boot.term == seen.index_term && boot.last < seen.index;
        let less_committed = boot.last < seen.held;
        if seen.incarnation != 0 && (less_term || less_log || less_committed) {
            self.expelled.insert(from, boot.incarnation);
            return Verdict::Expelled { first: true };
        }
        if past.len() >= PAST_MAX {
            past.pop_front();
        }
        past.push_back(seen.incarnation);
        seen.incarnation = boot.incarnation;
        self.mark(from);
        Verdict::Accept
    }

    /// The peer said that `term` is durable.
    pub fn term(&mut self, from: VoterId, term: u64) {
        let seen = self.seen.entry(from).or_default();
        if term > seen.term {
            seen.term = term;
            self.mark(from);
        }
    }

    /// The peer confirmed to us, who lead in `term`, to hold everything up to `index`.
    pub fn confirmed(&mut self, from: VoterId, term: u64, index: u64, committed: u64) {
        let seen = self.seen.entry(from).or_default();
        let before = *seen;
        if (term, index) > (seen.index_term, seen.index) {
            (seen.index_term, seen.index) = (term, index);
        }
        seen.held = seen.held.max(index.min(committed));
        if *seen != before {
            self.mark(from);
        }
    }

    fn mark(&mut self, from: VoterId) {
        if !self.changed.contains(&from) {
            self.changed.push(from);
        }
    }

    /// A voter that was removed for good.
    pub fn forget(&mut self, voter: VoterId) {
        self.seen.remove(&voter);
        self.past.remove(&voter);
        self.changed.retain(|changed| *changed != voter);
    }
}
