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

/// Ticks for which a start that is held to be over must go on speaking, with the one that followed it silent, until it is believed to
/// be the present one: a second, well above the time for which anything is on its way.
const GOES_ON_TICKS: u64 = 20;

/// Verdict on a message's sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Hand the message on.
    Accept,
    /// A message of an earlier start that came late.
    Late,
    /// The start holds less than the peer confirmed: it is told so.
    Expelled,
}

/// Every peer's confirmations.
#[derive(Clone, Debug, Default)]
pub(super) struct Peers {
    pub seen: BTreeMap<VoterId, Seen>,
    /// Peers whose confirmation changed since it was last put into a batch.
    pub changed: Vec<VoterId>,
    past: BTreeMap<VoterId, VecDeque<u64>>,
    /// Starts that are held to be over and speak all the same, and the tick since which only they are heard.
    going_on: BTreeMap<VoterId, (u64, u64)>,
    expelled: BTreeMap<VoterId, u64>,
}

impl Peers {
    /// Judges a sender by what its disk held at its start.
    ///
    /// Within one term a voter's log only grows; a term that was durable stays; what is committed stays whatever
    /// the term. A start for which one of these does not hold is refused. If it runs, it has lost memory, and says so to its owner
    /// when it hears of the refusal. If it is over, which this voter cannot know of a start that it never heard of or forgot when it
    /// started itself, only a late message was dropped: so nobody but the start itself is to be told.
    ///
    /// Starts are random numbers: a start that was never heard of is taken for the present one, although its message may only be
    /// late and come from before the one that is known. The latter then goes on speaking, and is believed after a while.
    pub fn judge(&mut self, from: VoterId, boot: &Attest, ticks: u64) -> Verdict {
        if self.expelled.get(&from) == Some(&boot.incarnation) {
            return Verdict::Expelled;
        }
        let seen = self.seen.entry(from).or_default();
        if seen.incarnation == boot.incarnation {
            self.going_on.remove(&from);
            return Verdict::Accept;
        }
        let less_term = boot.term < seen.term;
        let less_log = boot.term == seen.index_term && boot.last < seen.index;
        let less_committed = boot.last < seen.held;
        let less = seen.incarnation != 0 && (less_term || less_log || less_committed);
        let past = self.past.entry(from).or_default();
        if past.contains(&boot.incarnation) {
            let before = self.going_on.get(&from).filter(|(start, _)| *start == boot.incarnation);
            let since = before.map_or(ticks, |(_, since)| *since);
            // Whoever comes late accuses nobody: with less than was confirmed since, it stays late.
            if less || ticks < since + GOES_ON_TICKS {
                self.going_on.insert(from, (boot.incarnation, since));
                return Verdict::Late;
            }
            past.retain(|start| *start != boot.incarnation);
        } else if less {
            self.expelled.insert(from, boot.incarnation);
            return Verdict::Expelled;
        }
        if past.len() >= PAST_MAX {
            past.pop_front();
        }
        past.push_back(seen.incarnation);
        seen.incarnation = boot.incarnation;
        self.going_on.remove(&from);
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
        self.going_on.remove(&voter);
        self.changed.retain(|changed| *changed != voter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: VoterId = VoterId(2);

    fn start(incarnation: u64, term: u64, last: u64) -> Attest {
        Attest { incarnation, term, last }
    }

    /// A peer in its first start that confirmed entry 10 in term 3, of which 8 are committed.
    fn known() -> Peers {
        let mut peers = Peers::default();
        assert_eq!(peers.judge(PEER, &start(1, 2, 5), 0), Verdict::Accept);
        peers.term(PEER, 3);
        peers.confirmed(PEER, 3, 10, 8);
        peers
    }

    #[test]
    fn a_voter_that_kept_everything_is_accepted_again() {
        assert_eq!(known().judge(PEER, &start(2, 3, 10), 0), Verdict::Accept);
    }

    #[test]
    fn a_voter_that_forgot_its_term_or_entries_is_expelled_for_good() {
        for less in [start(2, 2, 10), start(2, 3, 9), start(2, 4, 7)] {
            let mut peers = known();
            assert_eq!(peers.judge(PEER, &less, 0), Verdict::Expelled, "{less:?}");
            assert_eq!(peers.judge(PEER, &less, 0), Verdict::Expelled, "{less:?}");
        }
    }

    #[test]
    fn what_a_later_leader_took_away_is_not_missed() {
        // Entries 9 and 10 were never committed; the leader of term 4 replaced them.
        assert_eq!(known().judge(PEER, &start(2, 4, 8), 0), Verdict::Accept);
    }

    #[test]
    fn a_message_of_an_earlier_start_that_comes_late_accuses_nobody() {
        let mut peers = known();
        assert_eq!(peers.judge(PEER, &start(2, 3, 10), 0), Verdict::Accept);
        assert_eq!(peers.judge(PEER, &start(1, 2, 5), 0), Verdict::Late);
        assert_eq!(peers.judge(PEER, &start(2, 3, 10), 0), Verdict::Accept);
    }

    #[test]
    fn a_late_message_after_a_restart_of_the_judge_takes_nothing_from_the_present_start() {
        let mut peers = known();
        assert_eq!(peers.judge(PEER, &start(2, 3, 10), 0), Verdict::Accept);
        // What is on disk names the last start alone: that start 1 came before it is forgotten.
        let mut peers = Peers { seen: peers.seen, ..Peers::default() };
        assert_eq!(peers.judge(PEER, &start(1, 2, 5), 0), Verdict::Expelled);
        assert_eq!(peers.judge(PEER, &start(2, 3, 10), 0), Verdict::Accept);
    }

    #[test]
    fn the_present_start_is_heard_again_after_a_message_of_an_earlier_one_that_was_never_heard_of() {
        let mut peers = Peers::default();
        assert_eq!(peers.judge(PEER, &start(2, 3, 10), 0), Verdict::Accept);
        assert_eq!(peers.judge(PEER, &start(1, 3, 10), 1), Verdict::Accept, "it may be a new one as well");
        for tick in 2..2 + GOES_ON_TICKS {
            assert_eq!(peers.judge(PEER, &start(2, 3, 10), tick), Verdict::Late);
        }
        let later = 2 + GOES_ON_TICKS;
        assert_eq!(peers.judge(PEER, &start(2, 3, 10), later), Verdict::Accept);
        assert_eq!(peers.judge(PEER, &start(1, 3, 10), later), Verdict::Late);
        assert_eq!(peers.judge(PEER, &start(2, 3, 10), later + GOES_ON_TICKS), Verdict::Accept);
    }

    #[test]
    fn late_messages_do_not_make_a_start_the_present_one_while_the_present_one_speaks() {
        let mut peers = known();
        assert_eq!(peers.judge(PEER, &start(2, 3, 10), 0), Verdict::Accept);
        for tick in 0..5 * GOES_ON_TICKS {
            assert_eq!(peers.judge(PEER, &start(1, 3, 10), tick), Verdict::Late);
            assert_eq!(peers.judge(PEER, &start(2, 3, 10), tick), Verdict::Accept);
        }
        // Nor does one that lacks what was confirmed since.
        for tick in 0..5 * GOES_ON_TICKS {
            assert_eq!(peers.judge(PEER, &start(1, 2, 5), tick), Verdict::Late);
        }
    }
}
