//! I3: wherever two replicas differ, at least one side's dirty record (or an active activity-log extent) covers the
//! difference. At the end, when all are in sync and nothing is under way, no difference may be left at all.

use super::{Verdict, verdict};
use crate::{disk::Disk, world::At};

/// See the module.
#[derive(Debug, Default)]
pub struct I3 {
    verdict: Verdict,
}
verdict!(I3, "I3");

impl I3 {
    /// Two replicas that are in sync, with nothing under way.
    pub fn equal(&mut self, (one, first): (At, &Disk), (other, second): (At, &Disk)) {
        if let Some(offset) = first.differs(second) {
            self.violate(&format!("nodes {one} and {other} are in sync but differ at byte {offset}"));
        }
    }
}
