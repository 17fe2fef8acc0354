//! Proving the prover: every bug that can be switched on must be found within a bounded number of seeds.

use crate::{
    run,
    scenario::{BugSet, Scenario},
};
use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

/// A rule break with a name.
#[derive(Clone, Copy)]
pub struct Bug {
    /// Its name on the command line.
    pub name: &'static str,
    /// The scenario in which it is looked for.
    pub scenario: &'static str,
    set: fn(&mut BugSet),
}

impl Bug {
    /// This bug and no other.
    #[must_use]
    pub fn set(&self) -> BugSet {
        let mut set = BugSet::default();
        (self.set)(&mut set);
        set
    }
}

/// Every bug.
pub const BUGS: [Bug; 18] = [
    Bug { name: "acknowledge-alone", scenario: "three", set: |set| set.mirror.acknowledge_alone = true },
    Bug { name: "cool-early", scenario: "extents", set: |set| set.mirror.cool_early = true },
    Bug { name: "skip-reconciliation", scenario: "three", set: |set| set.mirror.skip_reconciliation = true },
    Bug { name: "skip-grant-wait", scenario: "three", set: |set| set.mirror.skip_grant_wait = true },
    Bug {
        name: "clear-dirty-at-connect",
        scenario: "three",
        set: |set| set.mirror.clear_dirty_at_connect = true,
    },
    Bug { name: "trust-reconnect", scenario: "three", set: |set| set.mirror.trust_reconnect = true },
    Bug { name: "accept-old-session", scenario: "three", set: |set| set.mirror.accept_old_session = true },
    Bug { name: "forget-peer-hot", scenario: "extents", set: |set| set.mirror.forget_peer_hot = true },
    Bug {
        name: "complete-before-removal",
        scenario: "strikes",
        set: |set| set.mirror.complete_before_removal = true,
    },
    Bug { name: "answer-in-doubt", scenario: "strikes", set: |set| set.mirror.answer_in_doubt = true },
    Bug { name: "write-before-log", scenario: "extents", set: |set| set.mirror.write_before_log = true },
    Bug { name: "trust-old-image", scenario: "images", set: |set| set.mirror.trust_old_image = true },
    Bug { name: "trust-newcomer", scenario: "members", set: |set| set.mirror.trust_newcomer = true },
    Bug { name: "trust-memory", scenario: "voters", set: |set| set.engine.trust_memory = true },
    Bug { name: "hasty-start", scenario: "voters", set: |set| set.engine.hasty_start = true },
    Bug { name: "trust-cache", scenario: "ledger", set: |set| set.trust_cache = true },
    Bug { name: "promote-unseen", scenario: "three", set: |set| set.coordinator.promote_unseen = true },
    Bug { name: "stale-read", scenario: "three", set: |set| set.coordinator.stale_read = true },
];

/// The bug of that name.
#[must_use]
pub fn bug(name: &str) -> Option<Bug> {
    BUGS.into_iter().find(|bug| bug.name == name)
}

/// The seed that found a bug.
#[derive(Clone, Debug)]
pub struct Found {
    /// The seed.
    pub seed: u64,
    /// What it violated.
    pub violation: String,
}

/// Looks for a bug in the seeds `from..to`; the smallest seed found by the time all threads have stopped.
#[must_use]
pub fn find(bug: &Bug, from: u64, to: u64, threads: usize) -> Option<Found> {
    let scenario = Scenario { bugs: bug.set(), ..Scenario::named(bug.scenario)? };
    let next = AtomicU64::new(from);
    let found: Mutex<Option<Found>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= to {
                        return;
                    }
                    let violation = run::seed(seed, scenario, false).violations.into_iter().next();
                    if let (Some(violation), Ok(mut found)) = (violation, found.lock()) {
                        next.store(to, Ordering::Relaxed);
                        if found.as_ref().is_none_or(|known| seed < known.seed) {
                            *found = Some(Found { seed, violation });
                        }
                    }
                }
            });
        }
    });
    found.into_inner().ok().flatten()
}
