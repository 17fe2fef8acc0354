//! How an engine is set up.

use anshin_base::{LedgerEpoch, Millis, VoterId};

/// Faults that tests can switch on, each breaking one rule, to prove that the simulator finds it. All off in every
/// build that is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bugs {
    /// Go on with a voter that holds less than it confirmed, and as one (breaks R8).
    pub trust_memory: bool,
    /// Take part right after the start, before the others have said that nothing is missing (breaks R8).
    pub hasty_start: bool,
}

/// Everything the engine must be told at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// This voter.
    pub voter: VoterId,
    /// Epoch of the ledger (R9).
    pub epoch: LedgerEpoch,
    /// Random number of this start, not 0.
    pub incarnation: u64,
    /// The witness is the last choice as leader: its election time is the longest.
    pub witness: bool,
    /// Length of the engine's tick.
    pub tick: Millis,
    /// Ticks between a leader's heartbeats.
    pub heartbeat_ticks: usize,
    /// Ticks without a leader before the quickest voter may stand for election. Each voter's own time is this plus a
    /// distinct number, so that they do not collide and a seed gives one history.
    pub election_ticks: usize,
    /// Ticks until a proposal's outcome is given up as unknown.
    pub proposal_ticks: u64,
    /// Size of each of the two areas of the log on disk, in bytes.
    pub area_bytes: u64,
    /// Entries kept behind a snapshot for voters that lag.
    pub entries_kept: u64,
    /// For proving the simulator only.
    #[doc(hidden)]
    pub bugs: Bugs,
}

impl Settings {
    /// The defaults: ticks of 50 ms, heartbeats each 100 ms, elections from 500 ms, areas of 16 MiB.
    #[must_use]
    pub fn new(voter: VoterId, epoch: LedgerEpoch, incarnation: u64, witness: bool) -> Self {
        Self {
            voter,
            epoch,
            incarnation,
            witness,
            tick: Millis(50),
            heartbeat_ticks: 2,
            election_ticks: 10,
            proposal_ticks: 100,
            area_bytes: 16 << 20,
            entries_kept: 1_000,
            bugs: Bugs::default(),
        }
    }

    /// This voter's own election time in ticks: distinct for up to seven voters with ids in a row, and longer than
    /// every data node's on a witness.
    #[must_use]
    pub fn own_election_ticks(&self) -> usize {
        let place = usize::try_from(self.voter.0 % 7).unwrap_or_default();
        self.election_ticks + 2 * place + if self.witness { 15 } else { 0 }
    }
}
