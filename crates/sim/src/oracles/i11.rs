//! I11, the part that leases decide: two nodes never both hold the address. The address is on a node exactly while its
//! lease record is valid on its own clock (R11, R12).

use super::{Verdict, verdict};
use crate::world::At;

/// See the module.
#[derive(Debug, Default)]
pub struct I11 {
    verdict: Verdict,
}
verdict!(I11, "I11");

impl I11 {
    /// Node `at` holds the address now, and so does `other`.
    pub fn both(&mut self, at: At, other: At) {
        self.violate(&format!("nodes {at} and {other} hold the address at once"));
    }
}
