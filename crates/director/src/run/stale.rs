//! What is left of attempts that no longer count.

use super::{
    Order, Step,
    scheduler::{Look, Scheduler},
};
use crate::{
    record::{EventKind, Outcome},
    words::{Attempt, RunId, SnapshotId},
};
use std::collections::BTreeMap;

impl Scheduler {
    pub(crate) fn stale(&mut self, look: &Look<'_>, step: &mut Step) {
        self.stop_old(look, step);
        self.discard_old(look, step);
    }

    /// Executors that speak of an attempt that is not the present one are told to drop it.
    fn stop_old(&mut self, look: &Look<'_>, step: &mut Step) {
        for seen in &look.observed.attempts {
            let why = match look.records.runs.get(&seen.run) {
                // A report that overtook the record of its own beginning.
                Some(run) if seen.attempt > run.attempt => continue,
                Some(run) if run.attempt == seen.attempt && run.place().is_some() => continue,
                Some(run) => format!("{} goes on with an attempt after {}", run.id, seen.attempt),
                None if seen.run > look.records.run_last => continue,
                None => format!("{} has ended", seen.run),
            };
            let order = Order::Stop { place: seen.place, run: seen.run, attempt: seen.attempt, why };
            let key = format!("stop {} {} {:?}", seen.run, seen.attempt, seen.place);
            self.order(look.now.mono, key, order, &mut step.orders);
        }
    }

    /// A run has one snapshot. Others that its earlier attempts left are removed, but only once the run has ended with
    /// one that counts and that is known: what is not known is never removed.
    fn discard_old(&mut self, look: &Look<'_>, step: &mut Step) {
        if look.observed.vaults.values().all(|vault| vault.snapshots.is_empty()) {
            return;
        }
        let ended: BTreeMap<RunId, (Attempt, &SnapshotId)> = look
            .records
            .events
            .iter()
            .filter_map(|event| match &event.kind {
                EventKind::Ended(report) => match &report.outcome {
                    Outcome::Sealed(sealed) => Some((report.run, (report.attempt, &sealed.snapshot))),
                    _ => None,
                },
                _ => None,
            })
            .collect();
        for (vault, seen) in &look.observed.vaults {
            for (run, attempt, sealed) in &seen.snapshots {
                let Some((good, snapshot)) = ended.get(run) else { continue };
                if sealed.snapshot == **snapshot {
                    continue;
                }
                let why = format!("attempt {attempt} of {run} did not count; attempt {good} did");
                let order = Order::Discard { vault: vault.clone(), snapshot: sealed.snapshot.clone(), why };
                self.order(look.now.mono, format!("discard {}", sealed.snapshot), order, &mut step.orders);
            }
        }
    }
}
