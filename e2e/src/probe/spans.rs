//! Periods of time during which something was so (pure).

use std::time::{Duration, Instant};

/// When something was so, as seen by looking again and again.
///
/// A span begins with the first look that saw it and ends with the last one, so it never claims more than was seen:
/// two spans that overlap were really true at the same moment.
#[derive(Clone, Debug, Default)]
pub struct Spans {
    spans: Vec<(Instant, Instant)>,
    open: bool,
}

impl Spans {
    /// One look.
    pub fn look(&mut self, at: Instant, seen: bool) {
        match (seen, self.open, self.spans.last_mut()) {
            (true, true, Some(last)) => last.1 = at,
            (true, _, _) => self.spans.push((at, at)),
            (false, ..) => {}
        }
        self.open = seen;
    }

    /// Whether the last look saw it.
    pub fn is_so(&self) -> bool {
        self.open
    }

    /// The spans in order.
    pub fn all(&self) -> &[(Instant, Instant)] {
        &self.spans
    }

    /// The first moment at or after `from` at which it was so.
    pub fn first_after(&self, from: Instant) -> Option<Instant> {
        self.spans.iter().find(|span| span.1 >= from).map(|span| span.0.max(from))
    }

    /// The last moment at which it was so.
    pub fn last(&self) -> Option<Instant> {
        self.spans.last().map(|span| span.1)
    }

    /// Longest time for which both were so at once; none if they never were.
    pub fn overlap(&self, other: &Self) -> Option<Duration> {
        let pairs = self.spans.iter().flat_map(|a| other.spans.iter().map(move |b| (a, b)));
        let common = pairs.filter_map(|(a, b)| a.1.min(b.1).checked_duration_since(a.0.max(b.0)));
        common.max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(zero: Instant, looks: &[(u64, bool)]) -> Spans {
        let mut spans = Spans::default();
        for (at, seen) in looks {
            spans.look(zero + Duration::from_millis(*at), *seen);
        }
        spans
    }

    #[test]
    fn spans_that_follow_each_other_do_not_overlap() {
        let zero = Instant::now();
        let first = spans(zero, &[(0, true), (10, true), (20, false)]);
        let second = spans(zero, &[(0, false), (15, true), (30, true)]);
        assert_eq!(first.overlap(&second), None);
        assert_eq!(second.first_after(zero), Some(zero + Duration::from_millis(15)));
    }

    #[test]
    fn the_time_for_which_two_were_so_at_once_is_found() {
        let zero = Instant::now();
        let first = spans(zero, &[(0, true), (40, true), (50, false), (60, true), (65, true)]);
        let second = spans(zero, &[(10, true), (30, true), (35, false), (64, true), (90, true)]);
        assert_eq!(first.overlap(&second), Some(Duration::from_millis(20)));
        assert_eq!(second.overlap(&first), Some(Duration::from_millis(20)));
    }
}
