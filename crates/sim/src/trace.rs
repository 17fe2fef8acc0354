//! The trace: a hash of everything that happened, and, on request, its lines.

use std::collections::VecDeque;

/// Lines kept for a report of a violation.
const LINES_MAX: usize = 4_000;

/// Folds every event into one number; two runs of one seed must end with the same.
#[derive(Clone, Debug)]
pub struct Trace {
    hash: u64,
    /// Whether lines are kept.
    pub verbose: bool,
    lines: VecDeque<String>,
}

impl Trace {
    /// An empty trace.
    #[must_use]
    pub fn new(verbose: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, verbose, lines: VecDeque::new() }
    }

    /// Notes numbers.
    pub fn note(&mut self, values: &[u64]) {
        for value in values {
            self.hash = (self.hash ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
        }
    }

    /// Notes a line; `line` is only made if lines are kept.
    pub fn line(&mut self, now: u64, line: impl FnOnce() -> String) {
        if self.verbose {
            if self.lines.len() >= LINES_MAX {
                self.lines.pop_front();
            }
            let text = format!("{:>10.3} ms  {}", now as f64 / 1e6, line());
            self.lines.push_back(text);
        }
    }

    /// The number.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The lines that were kept.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}
