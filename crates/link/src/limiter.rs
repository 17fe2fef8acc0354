//! Keeps a flood of bad connections from becoming a flood of log lines.

use anshin_base::{Millis, Mono};

/// Lets a few lines through per window and counts the rest.
#[derive(Debug)]
pub struct LogLimiter {
    lines_max: u32,
    window: Millis,
    since: Option<Mono>,
    written: u32,
    suppressed: u64,
}

impl LogLimiter {
    /// At most `lines_max` lines per `window`.
    #[must_use]
    pub fn new(lines_max: u32, window: Millis) -> Self {
        Self { lines_max, window, since: None, written: 0, suppressed: 0 }
    }

    /// Whether a line may be written now; if so, how many were left out since the last one.
    pub fn allow(&mut self, now: Mono) -> Option<u64> {
        if self.since.is_none_or(|since| now.since(since) >= self.window) {
            (self.since, self.written) = (Some(now), 0);
        }
        if self.written >= self.lines_max {
            self.suppressed += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

impl Default for LogLimiter {
    /// Five lines per ten seconds: enough to see who, too few to fill a disk.
    fn default() -> Self {
        Self::new(5, Millis(10_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_becomes_a_few_lines_and_a_count() {
        let mut limiter = LogLimiter::new(2, Millis(1000));
        let at = |ms| Mono(0).after(Millis(ms));
        assert_eq!(limiter.allow(at(0)), Some(0));
        assert_eq!(limiter.allow(at(1)), Some(0));
        for ms in 2..10 {
            assert_eq!(limiter.allow(at(ms)), None);
        }
        assert_eq!(limiter.allow(at(1000)), Some(8));
        assert_eq!(limiter.allow(at(1001)), Some(0));
    }
}
