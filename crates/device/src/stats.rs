//! How long requests take.

use crate::control::Latency;
use anshin_base::{Millis, Mono};
use anshin_mirror::{FrontOp, RequestId};
use std::collections::HashMap;

#[derive(Clone, Copy)]
enum Kind {
    Read,
    Write,
    Flush,
}

/// Counts by powers of two of microseconds: enough to see a slow disk, and costs nothing.
#[derive(Default)]
struct Histogram {
    buckets: [u64; 32],
    count: u64,
    max_us: u64,
}

impl Histogram {
    fn add(&mut self, us: u64) {
        let bucket = (u64::BITS - us.leading_zeros()).min(31) as usize;
        self.buckets[bucket] += 1;
        self.count += 1;
        self.max_us = self.max_us.max(us);
    }

    fn quantile(&self, permille: u64) -> u64 {
        let wanted = (self.count * permille).div_ceil(1000);
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return 1 << bucket;
            }
        }
        self.max_us
    }

    fn latency(&self) -> Latency {
        let p50_us = if self.count == 0 { 0 } else { self.quantile(500) };
        let p99_us = if self.count == 0 { 0 } else { self.quantile(990) };
        Latency { count: self.count, p50_us, p99_us, max_us: self.max_us }
    }
}

/// Times of all requests.
#[derive(Default)]
pub struct Stats {
    open: HashMap<RequestId, (Mono, Kind)>,
    kinds: [Histogram; 3],
}

impl Stats {
    /// A request goes to the core.
    pub fn begin(&mut self, now: Mono, id: RequestId, op: &FrontOp) {
        let kind = match op {
            FrontOp::Read { .. } => Kind::Read,
            FrontOp::Flush => Kind::Flush,
            _ => Kind::Write,
        };
        self.open.insert(id, (now, kind));
    }

    /// A request was answered. Says whether it changed the volume.
    pub fn end(&mut self, now: Mono, id: RequestId) -> bool {
        let Some((since, kind)) = self.open.remove(&id) else { return false };
        self.kinds[kind as usize].add(now.0.saturating_sub(since.0) / 1000);
        matches!(kind, Kind::Write)
    }

    /// For how long the oldest request that is not answered has waited.
    #[must_use]
    pub fn waiting(&self, now: Mono) -> Millis {
        self.open.values().map(|(since, _)| now.since(*since)).max().unwrap_or_default()
    }

    /// Reads, writes, flushes.
    #[must_use]
    pub fn latencies(&self) -> [Latency; 3] {
        [self.kinds[0].latency(), self.kinds[1].latency(), self.kinds[2].latency()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_unanswered_request_tells_how_long_all_wait() {
        let at = |ms| Mono(0).after(Millis(ms));
        let mut stats = Stats::default();
        assert_eq!(stats.waiting(at(9)), Millis(0));
        stats.begin(at(1_000), RequestId(1), &FrontOp::Flush);
        stats.begin(at(2_000), RequestId(2), &FrontOp::Flush);
        assert_eq!(stats.waiting(at(5_000)), Millis(4_000));
        stats.end(at(5_000), RequestId(1));
        assert_eq!(stats.waiting(at(5_000)), Millis(3_000));
    }

    #[test]
    fn quantiles_round_up_to_powers_of_two() {
        let mut histogram = Histogram::default();
        (0..98).for_each(|_| histogram.add(100));
        (0..2).for_each(|_| histogram.add(5000));
        let latency = histogram.latency();
        assert_eq!((latency.p50_us, latency.p99_us, latency.max_us), (128, 8192, 5000));
    }
}
