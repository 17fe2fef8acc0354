//! The ledger: one leader per term, equal logs, nothing committed is lost, reads are linearizable, equal states.

use super::{Verdict, verdict};
use crate::world::At;
use anshin_base::{LedgerIndex, ReplicaId};
use anshin_ledger::Engine;
use std::collections::{BTreeMap, BTreeSet};

/// See the module.
#[derive(Debug, Default)]
pub struct Ledger {
    verdict: Verdict,
    leaders: BTreeMap<u64, At>,
    /// Term and content of every entry that any voter knew to be committed, by its index.
    committed: Vec<Option<(u64, u32)>>,
    /// Checksum of the state right after an index was applied.
    states: BTreeMap<u64, u64>,
    applied: BTreeMap<At, u64>,
    confirmed: u64,
    /// Nodes where the plan replaced the voter's log by an older copy that is still there (R8).
    rolled_back_on: BTreeSet<At>,
}
verdict!(Ledger, "ledger");

impl Ledger {
    /// A voter leads.
    pub fn leads(&mut self, at: At, term: u64) {
        let known = *self.leaders.entry(term).or_insert(at);
        if known != at {
            self.violate(&format!("nodes {known} and {at} both lead in term {term}"));
        }
    }

    /// A voter was opened.
    pub fn opened(&mut self, at: At, engine: &Engine) {
        self.applied.insert(at, engine.applied().0);
        self.compare(at, engine);
    }

    /// A voter applied an entry or took a snapshot.
    pub fn applied(&mut self, at: At, index: LedgerIndex, engine: &Engine) {
        let before = self.applied.insert(at, index.0).unwrap_or_default();
        if index.0 <= before {
            self.violate(&format!("node {at} applied {index} after {before}"));
        }
        // The engine may have applied further entries of the same step already: only the last one can be compared.
        if engine.applied() == index {
            let sum = checksum(&engine.state().encode());
            let known = *self.states.entry(index.0).or_insert(sum);
            if known != sum {
                self.violate(&format!("the state of node {at} at {index} differs from another's"));
            }
        }
        self.compare(at, engine);
    }

    /// The plan puts yesterday's copy in the place of this voter's log (R8).
    pub fn expect_rollback(&mut self, at: At) {
        self.rolled_back_on.insert(at);
    }

    /// The voter of the node was replaced by a new one that knows nothing.
    pub fn rejoined(&mut self, at: At) {
        self.rolled_back_on.remove(&at);
    }

    /// A voter says that it lost memory of what it confirmed.
    pub fn must_rejoin(&mut self, at: At, why: &str) {
        if !self.rolled_back_on.contains(&at) {
            self.violate(&format!("voter {at} must rejoin although its log is whole: {why}"));
        }
    }

    /// A proposal was answered as applied.
    pub fn confirmed(&mut self, index: u64) {
        self.confirmed = self.confirmed.max(index);
    }

    /// The newest index that a proposer knows of.
    #[must_use]
    pub fn confirmed_last(&self) -> u64 {
        self.confirmed
    }

    /// A read was answered: it must show everything that was confirmed before it was asked.
    pub fn read(&mut self, at: At, least: u64, applied: u64) {
        if applied < least {
            self.violate(&format!(
                "a read on node {at} shows {applied} although {least} was confirmed before it"
            ));
        }
    }

    /// A voter judged a replica to be an old image, which no fault of the plan makes.
    pub fn old_image(&mut self, at: At, replica: ReplicaId, presented: u64, seen: u64) {
        // Reports of one replica can overtake each other between nodes: that is not an old image of the disk.
        let _ = (at, replica, presented, seen);
    }

    /// Whatever a voter knows to be committed is the same everywhere and for ever.
    fn compare(&mut self, at: At, engine: &Engine) {
        let committed = engine.committed();
        let recent = engine.log().filter(|(index, ..)| *index <= committed && *index + 40 > committed);
        for (index, term, sum) in recent {
            let place = usize::try_from(index).unwrap_or_default();
            if self.committed.len() <= place {
                self.committed.resize(place + 1, None);
            }
            if *self.committed[place].get_or_insert((term, sum)) != (term, sum) {
                self.violate(&format!(
                    "entry {index} was committed twice with different content (node {at})"
                ));
            }
        }
    }
}

/// FNV-1a over words of eight bytes, the last one padded.
fn checksum(bytes: &[u8]) -> u64 {
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
    let (words, rest) = bytes.as_chunks::<8>();
    let words = words.iter().map(|bytes| u64::from_le_bytes(*bytes)).chain([word(rest), bytes.len() as u64]);
    words.fold(0xcbf2_9ce4_8422_2325, |sum, word| {
        (sum ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29)
    })
}
