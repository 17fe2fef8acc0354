//! Running seeds.

use crate::{scenario::Scenario, world::World};
use std::collections::BTreeMap;

/// What came of a seed.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Hash of everything that happened.
    pub hash: u64,
    /// Simulated time in nanoseconds.
    pub simulated: u64,
    /// What was violated, first things first.
    pub violations: Vec<String>,
    /// How often things happened.
    pub counts: BTreeMap<&'static str, u64>,
    /// The last lines of the trace, if asked for.
    pub lines: Vec<String>,
}

/// Runs one seed. A panic inside the cores is a violation like any other.
#[must_use]
pub fn seed(seed: u64, scenario: Scenario, verbose: bool) -> Report {
    let mut world = World::new(seed, scenario, verbose);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.run())).err();
    let mut violations = world.oracles.violations();
    if let Some(panic) = panicked {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        violations.push(format!("panic: {}", text.unwrap_or_default()));
    }
    Report {
        seed,
        hash: world.trace.hash(),
        simulated: world.now,
        violations,
        lines: world.trace.lines().map(str::to_owned).collect(),
        counts: world.counts,
    }
}
