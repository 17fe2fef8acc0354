//! Spreading starts over time, so that a hundred clients do not begin in the same second.

use crate::time::{Span, UnixMillis};

/// By how much one target of a plan starts later than the calendar says: always the same for the same plan and target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spread(pub Span);

/// The delay of `target` in `plan` if starts are spread over `width`: 0 ≤ delay < width, even over many targets.
#[must_use]
pub fn spread(plan: &str, target: &str, width: Span) -> Spread {
    if width.0 == 0 {
        return Spread(Span(0));
    }
    let mut hasher = blake3::Hasher::new();
    // The length keeps ("a", "bc") and ("ab", "c") apart.
    hasher.update(&(plan.len() as u64).to_le_bytes()).update(plan.as_bytes()).update(target.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    Spread(Span(u64::from_le_bytes(first) % width.0))
}

impl Spread {
    /// When the occurrence `at` starts.
    #[must_use]
    pub fn due(self, at: UnixMillis) -> UnixMillis {
        at.after(self.0)
    }

    /// The newest instant whose occurrences have all started by `now`.
    #[must_use]
    pub fn passed(self, now: UnixMillis) -> UnixMillis {
        now.before(self.0)
    }
}
