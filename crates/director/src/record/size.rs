//! How large records are and become: who keeps them in memory, or on a disk of limited size, must know.

use super::{Change, Event, EventKind, Records};
use postcard::ser_flavors::Size;
use serde::Serialize;

/// What an open run may still add without asking: its trouble, its place, and what is remembered of its target.
const RUN_GROWTH: u64 = 2_000;
/// What a change adds besides its own bytes: keys, counters, instants.
const CHANGE_GROWTH: u64 = 200;
/// Snapshots of a forgetting that weigh as much as another event: about a kilobyte of names.
const SNAPSHOTS_PER_WEIGHT: usize = 8;

impl Records {
    /// Encoded bytes of everything but the events, with what open runs may still add.
    #[must_use]
    pub fn size(&self) -> u64 {
        let Self { plans, vaults, clients, tokens, runs, targets, holds, drills, .. } = self;
        let sizes = [
            size(plans),
            size(vaults),
            size(clients),
            size(tokens),
            size(runs),
            size(targets),
            size(holds),
            size(drills),
        ];
        sizes.iter().sum::<u64>() + runs.len() as u64 * RUN_GROWTH
    }
}

impl Change {
    /// By how much [`Records::size`] can grow by this change; None for one that only ends or goes on with what was
    /// accounted for when it was added.
    #[must_use]
    pub fn growth(&self) -> Option<u64> {
        let run = match self {
            Self::Open { .. } => RUN_GROWTH,
            Self::SetPlan { .. }
            | Self::SetVault(_)
            | Self::AddClientToken { .. }
            | Self::JoinClient { .. }
            | Self::Pass { .. }
            | Self::Hold { .. }
            | Self::Drilled(_) => 0,
            _ => return None,
        };
        Some(size(self) + CHANGE_GROWTH + run)
    }
}

impl Event {
    /// How many usual events it is as large as.
    pub(super) fn weight(&self) -> usize {
        match &self.kind {
            EventKind::Forgotten { snapshots, .. } => 1 + snapshots.len() / SNAPSHOTS_PER_WEIGHT,
            _ => 1,
        }
    }
}

fn size<T: Serialize + ?Sized>(value: &T) -> u64 {
    let size = postcard::serialize_with_flavor(value, Size::default());
    size.expect("invariant: plain data has a size") as u64
}
