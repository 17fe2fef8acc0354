//! I10: a crash at every single I/O boundary re-opens cleanly.

use super::{Verdict, verdict};
use crate::world::At;
use anshin_base::ReplicaId;
use std::collections::BTreeSet;

/// See the module.
#[derive(Debug, Default)]
pub struct I10 {
    verdict: Verdict,
    expected: BTreeSet<At>,
    images: BTreeSet<ReplicaId>,
}
verdict!(I10, "I10");

impl I10 {
    /// The plan makes a flush of this node fail: its replica may fail, once or more often.
    pub fn expect_failure(&mut self, at: At) {
        self.expected.insert(at);
    }

    /// The plan puts yesterday's copy in the place of this replica (R7).
    pub fn expect_image(&mut self, replica: ReplicaId) {
        self.images.insert(replica);
    }

    /// Whether yesterday's copy stands in the place of this replica.
    #[must_use]
    pub fn is_image(&self, replica: ReplicaId) -> bool {
        self.images.contains(&replica)
    }

    /// A replica is taken for an old image.
    pub fn old_image(&mut self, at: At, replica: ReplicaId, presented: u64, seen: u64) {
        if !self.images.contains(&replica) {
            self.violate(&format!(
                "node {at} takes {replica} for an old image ({presented} < {seen}) but it is none"
            ));
        }
    }

    /// A replica says that it cannot go on.
    pub fn failed(&mut self, at: At, replica: Option<ReplicaId>, why: &str) {
        let image = replica.is_some_and(|replica| self.images.contains(&replica));
        let known = self.expected.contains(&at) || (image && why.contains("old image"));
        if !known {
            self.violate(&format!("the replica of node {at} failed although its disk is whole: {why}"));
        }
    }
}
