//! [`Meter`]: rate and remaining time of an attempt.

use crate::{
    record::{LastGood, Progress},
    time::Span,
};
use anshin_base::Mono;

/// The rate is that of about this long: short enough to follow a change, long enough not to jump.
const WINDOW_SECONDS: f64 = 30.0;
/// No remaining time is said before this: the first seconds say little.
const WARM_UP_SECONDS: f64 = 3.0;

/// What can be said of how an attempt goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    /// Bytes of the source per second.
    pub bytes_per_second: f64,
    /// Bytes sent per second.
    pub sent_per_second: f64,
    /// Share done, 0 to 1; None if the total is not known.
    pub done: Option<f64>,
    /// How much longer; None if it cannot be said.
    pub remaining: Option<Span>,
}

/// Follows the progress of one attempt on the leader's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    first: Mono,
    last: Mono,
    progress: Progress,
    bytes_rate: f64,
    sent_rate: f64,
}

impl Meter {
    /// A meter of an attempt that was first seen now.
    #[must_use]
    pub fn new(now: Mono, progress: Progress) -> Self {
        Self { first: now, last: now, progress, bytes_rate: 0.0, sent_rate: 0.0 }
    }

    /// New progress. Progress that goes back (a late message) is left out.
    pub fn observe(&mut self, now: Mono, progress: Progress) {
        let seconds = now.since(self.last).0 as f64 / 1_000.0;
        if progress.bytes < self.progress.bytes || progress.sent < self.progress.sent || seconds <= 0.0 {
            return;
        }
        let weight = if self.bytes_rate == 0.0 { 1.0 } else { 1.0 - (-seconds / WINDOW_SECONDS).exp() };
        let mix = |rate: f64, grown: u64| rate + weight * (grown as f64 / seconds - rate);
        self.bytes_rate = mix(self.bytes_rate, progress.bytes - self.progress.bytes);
        self.sent_rate = mix(self.sent_rate, progress.sent - self.progress.sent);
        self.last = now;
        self.progress = progress;
    }

    /// What can be said now. Without a total of its own the attempt is taken to be as large as the last good one.
    #[must_use]
    pub fn estimate(&self, last_good: Option<&LastGood>) -> Estimate {
        let total =
            self.progress.bytes_total.or_else(|| last_good.map(|good| good.bytes)).filter(|&total| total > 0);
        let done = total.map(|total| (self.progress.bytes as f64 / total as f64).min(1.0));
        let warm = self.last.since(self.first).0 as f64 / 1_000.0 >= WARM_UP_SECONDS;
        let remaining = match total {
            // Larger than the last one: nobody knows.
            Some(total) if warm && self.bytes_rate >= 1.0 && self.progress.bytes <= total => {
                Some(Span(((total - self.progress.bytes) as f64 / self.bytes_rate).ceil() as u64))
            }
            _ => None,
        };
        Estimate { bytes_per_second: self.bytes_rate, sent_per_second: self.sent_rate, done, remaining }
    }

    /// The newest progress.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anshin_base::Millis;
    use proptest::prelude::*;

    fn progress(bytes: u64, total: Option<u64>) -> Progress {
        Progress { bytes, sent: bytes / 2, bytes_total: total, ..Progress::default() }
    }

    #[test]
    fn an_even_pace_gives_its_rate_and_the_time_that_is_left() {
        let mut meter = Meter::new(Mono(0), progress(0, None));
        for second in 1..=60 {
            meter.observe(Mono(0).after(Millis(second * 1_000)), progress(second * 1_000, Some(100_000)));
        }
        let estimate = meter.estimate(None);
        assert!((estimate.bytes_per_second - 1_000.0).abs() < 1.0);
        assert!((estimate.sent_per_second - 500.0).abs() < 1.0);
        assert_eq!(estimate.done, Some(0.6));
        assert_eq!(estimate.remaining, Some(Span(40)));
    }

    #[test]
    fn without_a_total_the_last_good_run_is_the_measure_and_beyond_it_nothing_is_said() {
        let good = LastGood {
            run: crate::RunId(1),
            snapshot: "s".into(),
            vault: "v".into(),
            point: crate::UnixMillis(0),
            sealed: crate::UnixMillis(0),
            files: 1,
            bytes: 20_000,
            took: Span(1),
            warnings: 0,
        };
        let mut meter = Meter::new(Mono(0), progress(0, None));
        meter.observe(Mono(0).after(Millis(10_000)), progress(10_000, None));
        assert_eq!(meter.estimate(Some(&good)).remaining, Some(Span(10)));
        assert_eq!(meter.estimate(None).remaining, None);
        meter.observe(Mono(0).after(Millis(30_000)), progress(30_000, None));
        assert_eq!(meter.estimate(Some(&good)).remaining, None);
    }

    proptest! {
        #[test]
        fn nothing_that_is_observed_breaks_the_meter(
            steps in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<u64>(), any::<Option<u64>>()), 0..20)
        ) {
            let mut meter = Meter::new(Mono(0), Progress::default());
            for (at, bytes, sent, bytes_total) in steps {
                meter.observe(Mono(at), Progress { bytes, sent, bytes_total, ..Progress::default() });
                let estimate = meter.estimate(None);
                prop_assert!(estimate.bytes_per_second >= 0.0 && estimate.bytes_per_second.is_finite());
                prop_assert!(estimate.done.is_none_or(|done| (0.0..=1.0).contains(&done)));
            }
        }
    }
}
