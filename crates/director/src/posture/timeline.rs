//! [`timeline`]: the calendar of runs, past and to come.

use crate::{
    catalog::{Ended, PassedRow, RunRow},
    plan::{Inventory, Plan},
    record::{Records, Why},
    time::UnixMillis,
    words::{PlanName, RunId, TargetKey},
};

/// Most entries of one view.
const SLOTS_MAX: usize = 10_000;

/// What stands at a point of the calendar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A run ended with a snapshot.
    Sealed(RunId),
    /// A run failed.
    Failed(RunId, String),
    /// A run was cancelled.
    Cancelled(RunId, String),
    /// A run is open.
    Open(RunId),
    /// Occurrences got no run: how many and why.
    Passed(u64, Why, String),
    /// A run will be due.
    Planned,
}

/// One entry of the calendar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// When: when a run was or is due, or, where that is not known, when it ended.
    pub at: UnixMillis,
    /// Of which plan.
    pub plan: PlanName,
    /// For what.
    pub target: TargetKey,
    /// What.
    pub mark: Mark,
}

/// The calendar between `from` and `to`, oldest first. `runs` and `passed` are what the catalog has of that time;
/// open runs and what is to come follow from the records. True beside it if there is more than fits.
#[must_use]
pub fn timeline(
    records: &Records,
    inventory: &Inventory,
    runs: &[RunRow],
    passed: &[PassedRow],
    now: UnixMillis,
    (from, to): (UnixMillis, UnixMillis),
) -> (Vec<Slot>, bool) {
    let mut out: Vec<Slot> = runs.iter().map(of_run).collect();
    out.extend(passed.iter().map(|row| Slot {
        at: row.passed.last,
        plan: row.passed.plan.clone(),
        target: row.passed.target.clone(),
        mark: Mark::Passed(row.passed.count, row.passed.why, row.passed.reason.clone()),
    }));
    out.extend(records.runs.values().map(|run| Slot {
        at: run.due,
        plan: run.plan.clone(),
        target: run.target.clone(),
        mark: Mark::Open(run.id),
    }));
    out.retain(|slot| slot.at >= from && slot.at < to);
    let mut more = false;
    for (name, record) in &records.plans {
        let Ok(plan) = Plan::from_json(&record.text) else { continue };
        let Ok(calendar) = plan.calendar() else { continue };
        if !plan.enabled {
            continue;
        }
        for job in inventory.jobs(&plan.what) {
            let spread = plan.spread_of(&job.key);
            let settled = records.cursor(name, &job.key).unwrap_or(now).max(spread.passed(now));
            let begin = settled.max(UnixMillis(spread.passed(from).0 - 1));
            let room = SLOTS_MAX.saturating_sub(out.len());
            let until = UnixMillis(spread.passed(to).0 - 1);
            let planned = calendar.between(begin, until, room + 1);
            more |= planned.len() > room;
            out.extend(planned.into_iter().take(room).map(|at| Slot {
                at: spread.due(at),
                plan: name.clone(),
                target: job.key.clone(),
                mark: Mark::Planned,
            }));
        }
    }
    out.sort_by(|a, b| (a.at, &a.plan, &a.target).cmp(&(b.at, &b.plan, &b.target)));
    more |= out.len() > SLOTS_MAX;
    out.truncate(SLOTS_MAX);
    (out, more)
}

fn of_run(row: &RunRow) -> Slot {
    let reason = || row.reason.clone().unwrap_or_default();
    let mark = match row.outcome {
        Ended::Sealed => Mark::Sealed(row.run),
        Ended::Failed => Mark::Failed(row.run, reason()),
        Ended::Cancelled => Mark::Cancelled(row.run, reason()),
    };
    Slot { at: row.due.unwrap_or(row.ended), plan: row.plan.clone(), target: row.target.clone(), mark }
}
