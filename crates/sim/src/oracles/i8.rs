//! I8: once faults stop, everything converges to healthy without a human.

use super::{Verdict, verdict};

/// See the module.
#[derive(Debug, Default)]
pub struct I8 {
    verdict: Verdict,
}
verdict!(I8, "I8");
