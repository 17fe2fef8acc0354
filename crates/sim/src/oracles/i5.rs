//! I5 (its served part): a replica that is inconsistent is never served.

use super::{Verdict, verdict};
use crate::world::At;
use anshin_mirror::Status;

/// See the module.
#[derive(Debug, Default)]
pub struct I5 {
    verdict: Verdict,
}
verdict!(I5, "I5");

impl I5 {
    /// A node begins to serve.
    pub fn serves(&mut self, at: At, status: &Status) {
        if status.inconsistent || status.old_image || status.failed.is_some() {
            self.violate(&format!("node {at} serves a replica that is not whole: {status:?}"));
        }
    }
}
