//! I10: a crash at every single I/O boundary re-opens cleanly.

use super::{Verdict, verdict};
use crate::world::At;
use std::collections::BTreeSet;

/// See the module.
#[derive(Debug, Default)]
pub struct I10 {
    verdict: Verdict,
    expected: BTreeSet<At>,
}
verdict!(I10, "I10");

impl I10 {
    /// The plan makes a flush of this node fail: its replica may fail, once or more often.
    pub fn expect_failure(&mut self, at: At) {
        self.expected.insert(at);
    }

    /// A replica says that it cannot go on.
    pub fn failed(&mut self, at: At, why: &str) {
        if !self.expected.contains(&at) {
            self.violate(&format!("the replica of node {at} failed although its disk is whole: {why}"));
        }
    }
}
