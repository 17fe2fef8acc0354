//! Who is alive: signs of life between the voter processes, and the detector that judges their absence.

use crate::state::codec::{self, CodecError};
use anshin_base::{Millis, Mono, NodeId, local::ReplicaReport};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version of signs of life.
const VERSION: u16 = 1;
/// Replicas a node can report in one sign of life.
const REPORTS_MAX: usize = 1_000;

/// A sign of life of one node, sent to every other each heartbeat and passed on by any that hears it (R13).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sign {
    /// Whose.
    pub node: NodeId,
    /// Random number of the voter process's start, then a count: a copy that comes late over a relay is recognised.
    pub start: u64,
    /// Grows by one with each sign.
    pub sequence: u64,
    /// What its replicas say of themselves (R7).
    pub reports: Vec<ReplicaReport>,
}

impl Sign {
    /// Version and postcard.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(VERSION, self)
    }

    /// The sign in `bytes`.
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let sign: Self = codec::decode(VERSION, bytes)?;
        if sign.reports.len() > REPORTS_MAX {
            return Err(CodecError::Malformed(format!("{} reports", sign.reports.len())));
        }
        Ok(sign)
    }
}

/// What is known of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// When its newest sign arrived, on the hearer's clock.
    pub at: Mono,
    /// The sign.
    pub sign: Sign,
}

/// Remembers the newest sign of every node and judges silence.
#[derive(Clone, Debug)]
pub struct Detector {
    silent: Millis,
    started: Mono,
    heard: BTreeMap<NodeId, Heard>,
}

impl Detector {
    /// A detector that has heard nobody yet. Nobody counts as silent before it has listened for `silent` itself.
    #[must_use]
    pub fn new(now: Mono, silent: Millis) -> Self {
        Self { silent, started: now, heard: BTreeMap::new() }
    }

    /// A sign arrived. Returns false for one that is older than what was heard already.
    pub fn hear(&mut self, now: Mono, sign: Sign) -> bool {
        if let Some(known) = self.heard.get(&sign.node)
            && known.sign.start == sign.start
            && known.sign.sequence >= sign.sequence
        {
            return false;
        }
        self.heard.insert(sign.node, Heard { at: now, sign });
        true
    }

    /// Another time counts as silence from now on.
    pub fn set_silent(&mut self, silent: Millis) {
        self.silent = silent;
    }

    /// The judging process itself stood still (SIGSTOP, suspend) from `since` to now: nobody could be heard in that
    /// time, so nobody's silence counts.
    pub fn stood_still(&mut self, now: Mono) {
        self.started = now;
    }

    /// Whether `node` was heard recently.
    #[must_use]
    pub fn alive(&self, now: Mono, node: NodeId) -> bool {
        self.heard.get(&node).is_some_and(|known| now.since(known.at) < self.silent)
    }

    /// Whether `node` has been silent for long enough to be judged dead. Neither alive nor dead is "not yet known".
    #[must_use]
    pub fn dead(&self, now: Mono, node: NodeId) -> bool {
        !self.alive(now, node) && now.since(self.started) >= self.silent
    }

    /// Since when `node` is silent; None if it was never heard.
    #[must_use]
    pub fn last_heard(&self, node: NodeId) -> Option<Mono> {
        self.heard.get(&node).map(|known| known.at)
    }

    /// The reports of all nodes that are alive.
    pub fn reports(&self, now: Mono) -> impl Iterator<Item = (NodeId, &ReplicaReport)> {
        let alive = self.heard.iter().filter(move |(node, _)| self.alive(now, **node));
        alive.flat_map(|(node, known)| known.sign.reports.iter().map(|report| (*node, report)))
    }

    /// Everything heard, for the status.
    #[must_use]
    pub fn heard(&self) -> &BTreeMap<NodeId, Heard> {
        &self.heard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(1);

    fn at(ms: u64) -> Mono {
        Mono(0).after(Millis(ms))
    }

    fn sign(start: u64, sequence: u64) -> Sign {
        Sign { node: NODE, start, sequence, reports: Vec::new() }
    }

    #[test]
    fn nobody_is_dead_before_the_detector_has_listened_long_enough() {
        let detector = Detector::new(at(0), Millis(1_000));
        assert!(!detector.alive(at(500), NODE) && !detector.dead(at(500), NODE));
        assert!(detector.dead(at(1_000), NODE));
    }

    #[test]
    fn silence_is_judged_from_the_newest_sign() {
        let mut detector = Detector::new(at(0), Millis(1_000));
        assert!(detector.hear(at(900), sign(7, 2)));
        assert!(!detector.hear(at(950), sign(7, 1)), "an older one over a relay");
        assert!(detector.alive(at(1_899), NODE));
        assert!(detector.dead(at(1_900), NODE));
    }

    #[test]
    fn a_detector_that_stood_still_accuses_nobody() {
        let mut detector = Detector::new(at(0), Millis(1_000));
        detector.hear(at(100), sign(7, 1));
        detector.stood_still(at(9_000));
        assert!(!detector.dead(at(9_500), NODE));
        assert!(detector.dead(at(10_000), NODE));
    }
}
