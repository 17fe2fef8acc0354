//! I7: every read returns a value between the last flushed and the last written one.

use super::{Verdict, verdict};

/// See the module.
#[derive(Debug, Default)]
pub struct I7 {
    verdict: Verdict,
}
verdict!(I7, "I7");
