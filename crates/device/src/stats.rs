//! How long requests take.

use crate::control::Latency;
use anshin_base::Mono;
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
    fn quantiles_round_up_to_powers_of_two() {
        let mut histogram = Histogram::default();
        (0..98).for_each(|_| histogram.add(100));
        (0..2).for_each(|_| histogram.add(5000));
        let latency = histogram.latency();
        assert_eq!((latency.p50_us, latency.p99_us, latency.max_us), (128, 8192, 5000));
    }
}
