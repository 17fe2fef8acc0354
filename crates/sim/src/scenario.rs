//! What is simulated.

use crate::{rng::Rng, world::MS};
use anshin_ledger::{coordinator, engine};
use anshin_mirror::Bugs;

/// A rule break that is switched on to prove that it is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BugSet {
    /// In the replication core.
    pub mirror: Bugs,
    /// In the coordinator.
    pub coordinator: coordinator::Bugs,
    /// In the consensus engine's owner.
    pub engine: engine::Bugs,
    /// In the voter process's store: what the process before left in the cache is taken for durable.
    pub trust_cache: bool,
}

/// A kind of cluster and what is done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// Nodes that hold a replica.
    pub data: usize,
    /// Nodes that only vote.
    pub witnesses: usize,
    /// Whether volume processes run.
    pub volumes: bool,
    /// Length of the phase with faults, in nanoseconds.
    pub faults_until: u64,
    /// Length of the phase after it, within which everything must converge.
    pub converge: u64,
    /// Faults in the first phase.
    pub faults: usize,
    /// Whether power losses hit several nodes at once.
    pub total_loss: bool,
    /// Whether replicas' disks are replaced by older copies of themselves (R7).
    pub images: bool,
    /// Whether voters' logs are replaced by older copies of themselves (R8).
    pub voter_images: bool,
    /// Whether nodes lose power soon after their voter process died and came back.
    pub relapses: bool,
    /// Whether replicas are lost for good and new ones made in their place.
    pub replacements: bool,
    /// Whether a primary is struck while the removal of its secondary is under way.
    pub strikes: bool,
    /// Whether disks stand still for a while: nothing fails, and nothing ends.
    pub stalls: bool,
    /// In a thousand: volumes of more extents than the activity log holds.
    pub large_permille: u64,
    /// Size of the volume in bytes; varied by seed.
    pub volume_bytes: u64,
    /// Hot extents of the activity log; varied by seed: with few every extent is waited for, with more it runs ahead.
    pub hot_extents: u32,
    /// Bugs switched on.
    pub bugs: BugSet,
}

/// Every scenario by name.
pub const SCENARIOS: [Scenario; 9] = [
    Scenario { name: "ledger", data: 2, witnesses: 1, volumes: false, relapses: true, ..PAIR },
    PAIR,
    Scenario { name: "three", data: 3, witnesses: 0, ..PAIR },
    Scenario { name: "strikes", strikes: true, large_permille: 0, ..PAIR },
    Scenario { name: "images", images: true, ..PAIR },
    Scenario { name: "voters", voter_images: true, ..PAIR },
    Scenario { name: "members", data: 3, witnesses: 0, replacements: true, ..PAIR },
    Scenario { name: "extents", data: 3, witnesses: 0, large_permille: 1_000, ..PAIR },
    Scenario { name: "stalls", data: 3, witnesses: 0, stalls: true, ..PAIR },
];

const PAIR: Scenario = Scenario {
    name: "pair",
    data: 2,
    witnesses: 1,
    volumes: true,
    faults_until: 12_000 * MS,
    converge: 25_000 * MS,
    faults: 6,
    total_loss: true,
    images: false,
    voter_images: false,
    relapses: false,
    replacements: false,
    strikes: false,
    stalls: false,
    large_permille: 120,
    volume_bytes: 1 << 20,
    hot_extents: 7,
    bugs: BugSet {
        mirror: NO_BUGS,
        coordinator: coordinator::Bugs { promote_unseen: false, stale_read: false },
        engine: engine::Bugs { trust_memory: false, hasty_start: false },
        trust_cache: false,
    },
};

const NO_BUGS: Bugs = Bugs {
    acknowledge_alone: false,
    cool_early: false,
    skip_reconciliation: false,
    skip_grant_wait: false,
    clear_dirty_at_connect: false,
    trust_reconnect: false,
    trust_newcomer: false,
    accept_old_session: false,
    forget_peer_hot: false,
    complete_before_removal: false,
    answer_in_doubt: false,
    write_before_log: false,
    trust_old_image: false,
};

impl Scenario {
    /// The scenario of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        SCENARIOS.into_iter().find(|scenario| scenario.name == name)
    }

    /// How many nodes there are.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.data + self.witnesses
    }

    /// What the seed decides about it.
    #[must_use]
    pub fn vary(mut self, rng: &mut Rng) -> Self {
        self.faults = 1 + rng.index(self.faults);
        self.faults_until = rng.between(5_000, 12_000) * MS;
        self.total_loss = rng.permille(500);
        // Small volumes are written densely; large ones make the activity log change extents, but comparing them costs
        // most of a run's time.
        self.hot_extents = if rng.permille(350) { 16 } else { 7 };
        self.volume_bytes = if rng.permille(self.large_permille) {
            rng.between(9, 14) << 22
        } else {
            rng.between(1, 16) << 16
        };
        self
    }
}
