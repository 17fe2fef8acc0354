//! I4: a dirty record shrinks only on positive proof of equality inside the same generation.

use super::{Verdict, verdict};

/// See the module.
#[derive(Debug, Default)]
pub struct I4 {
    verdict: Verdict,
}
verdict!(I4, "I4");
