//! I2: at most one node accepts writes in one generation; the old primary's last acknowledgement happens before the
//! new primary's first.

use super::{Verdict, verdict};
use crate::world::At;

/// See the module.
#[derive(Debug, Default)]
pub struct I2 {
    verdict: Verdict,
    /// The newest primary that acknowledged anything: its start, its node, the generation it began to serve in.
    newest: Option<(u64, At, u64)>,
}
verdict!(I2, "I2");

impl I2 {
    /// A volume process acknowledged a write, flush or read. `generation` is the one it began to serve in.
    pub fn acknowledged(&mut self, start: u64, at: At, generation: u64, what: &str) {
        match self.newest {
            Some((known, _, _)) if known == start => {}
            Some((_, other, newer)) if newer >= generation => self.violate(&format!(
                "node {at}, serving since generation {generation}, answered a {what} after node {other}, which \
                 serves since generation {newer}, had answered"
            )),
            _ => self.newest = Some((start, at, generation)),
        }
    }
}
