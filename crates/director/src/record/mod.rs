//! What must survive: plans, vaults, clients, open runs, and the newest events, as a deterministic state machine.
//!
//! The ledger carries [`Change`]s and holds [`Records`]: equal changes give equal records on every voter. Nothing here
//! evaluates a calendar, because time zone data differ between machines; who proposes a change has done that.
//!
//! What ends leaves the records as an [`Event`] with a [`crate::Position`]; catalogs are projections of those events.
//! Encoding: docs/formats/director.md.

mod apply;
mod apply_calendar;
mod apply_run;
mod apply_snapshot;
mod change;
mod client;
mod codec;
mod event;
mod run;
mod size;
mod target;

#[cfg(test)]
mod tests;

pub use change::{Applied, Change, NewRun, Refused};
pub use client::{Client, ClientToken, NewClient, PlanRecord, VaultRecord};
pub use codec::{CodecError, VERSION};
pub use event::{Event, EventKind, Outcome, Passed, RunReport, Why};
pub use run::{Cause, Place, Progress, Run, RunState, Sealed};
pub use target::{Drill, DrillKind, Hold, LastEnd, LastGood, TargetRecord};

use crate::words::{ClientId, PlanName, Position, RunId, SnapshotId, TargetKey, VaultName};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// Events kept for catalogs that lag behind; older ones are only in catalogs. A forgetting of many snapshots counts as
/// several.
pub const EVENTS_MAX: usize = 2_000;
/// Open runs at once.
pub const RUNS_MAX: usize = 20_000;
/// Plans, vaults.
pub const PLANS_MAX: usize = 1_000;
/// Clients, and remembered targets.
pub const CLIENTS_MAX: usize = 10_000;
/// Remembered pairs of plan and target.
pub const TARGETS_MAX: usize = 50_000;
/// Holds.
pub const HOLDS_MAX: usize = 10_000;
/// Unused client tokens.
pub const TOKENS_MAX: usize = 1_000;
/// Snapshots given up by one change.
pub const FORGET_MAX: usize = 500;
/// Longest identifier of a snapshot, in bytes.
pub const SNAPSHOT_BYTES_MAX: usize = 128;
/// Longest key of a target, in bytes.
pub const TARGET_BYTES_MAX: usize = 512;
/// Longest reason or sentence stored, in bytes; longer ones are cut.
pub const TEXT_BYTES_MAX: usize = 500;

/// Everything of the director that must survive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Records {
    /// Plans.
    pub plans: BTreeMap<PlanName, PlanRecord>,
    /// Vaults.
    pub vaults: BTreeMap<VaultName, VaultRecord>,
    /// Clients, also revoked ones.
    pub clients: BTreeMap<ClientId, Client>,
    /// The last client id given.
    pub client_last: ClientId,
    /// Rights to join as a client, by hash.
    pub tokens: BTreeMap<String, ClientToken>,
    /// Runs that have not ended.
    pub runs: BTreeMap<RunId, Run>,
    /// The last run id given.
    pub run_last: RunId,
    /// What is remembered per plan and target.
    pub targets: BTreeMap<(PlanName, TargetKey), TargetRecord>,
    /// Snapshots that are not to be removed.
    pub holds: BTreeMap<SnapshotId, Hold>,
    /// The newest drill of each target.
    pub drills: BTreeMap<TargetKey, Drill>,
    /// The newest events, oldest first.
    pub events: VecDeque<Event>,
    /// Position of the newest event; 0 before the first.
    pub position: Position,
}

impl Records {
    /// The client of this name that may still connect.
    #[must_use]
    pub fn client_named(&self, name: &str) -> Option<&Client> {
        self.clients.values().find(|client| client.name.0 == name && client.revoked.is_none())
    }

    /// What is remembered of a target in a plan.
    #[must_use]
    pub fn target(&self, plan: &PlanName, target: &TargetKey) -> Option<&TargetRecord> {
        // The key is a pair of owned names; looked up by range to do without cloning both for every look.
        self.targets.get(&(plan.clone(), target.clone()))
    }

    /// Events after `position`; None if some of them are no longer kept.
    #[must_use]
    pub fn events_after(&self, position: Position) -> Option<impl Iterator<Item = &Event>> {
        let first = self.events.front().map_or(Position(self.position.0 + 1), |event| event.position);
        (position.0 + 1 >= first.0 || position >= self.position)
            .then(|| self.events.iter().filter(move |event| event.position > position))
    }
}

/// Cuts a text to [`TEXT_BYTES_MAX`], at a character.
pub(crate) fn cut(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
