//! Calendars: which occurrences are due, and what becomes of them.

use super::{
    Order, Step,
    scheduler::{About, Look, Scheduler},
};
use crate::{
    plan::{Job, Missed, Overlap},
    record::{Cause, Change, NewRun, Passed, RunState, Why},
    time::{Span, UnixMillis},
    words::{PlanName, RunId},
};

/// Missed occurrences are counted up to here; that many means: at least.
pub const COUNTED_MAX: usize = 10_000;
/// A calendar that stands further in the future than this was carried there by a wrong clock.
const CLOCK_TOLERANCE: Span = Span::hours(1);

/// Occurrences of one target that are due and have neither a run nor a reason.
struct Due {
    expect: UnixMillis,
    first: UnixMillis,
    last: UnixMillis,
    count: u64,
    /// When the last one was to begin.
    due: UnixMillis,
    /// Whether it was due a moment ago, not long ago.
    on_time: bool,
}

impl Scheduler {
    pub(crate) fn calendars(&mut self, look: &Look<'_>, step: &mut Step) {
        for (name, jobs) in &look.jobs {
            self.set_back_plan(look, name, step);
            for job in jobs {
                self.target(look, name, job, step);
            }
            self.retire(look, name, jobs, step);
        }
    }

    /// A plan that was set by a leader whose clock was ahead would sleep until then.
    fn set_back_plan(&mut self, look: &Look<'_>, name: &PlanName, step: &mut Step) {
        let Some(record) = look.records.plans.get(name) else { return };
        let at = look.now.wall;
        if record.since > at.after(CLOCK_TOLERANCE) {
            let (text, vault) = (record.text.clone(), record.vault.clone());
            let change = Change::SetPlan {
                plan: name.clone(),
                text,
                vault,
                expect: record.revision,
                at,
                restart: true,
            };
            self.propose(look.now.mono, About::Plan(name.clone()), change, &mut step.orders);
        }
    }

    fn target(&mut self, look: &Look<'_>, name: &PlanName, job: &Job, step: &mut Step) {
        let Some(read) = self.plans.get(name).filter(|read| read.plan.enabled) else { return };
        let Some(expect) = look.records.cursor(name, &job.key) else { return };
        let (now, mono) = (look.now.wall, look.now.mono);
        let about = About::Target(name.clone(), job.key.clone());
        if expect > now.after(CLOCK_TOLERANCE) {
            let (plan, target) = (name.clone(), job.key.clone());
            let change = Change::SetBack { plan, target, expect, to: now, at: now };
            self.propose(mono, about, change, &mut step.orders);
            return;
        }
        if let Some((known, next)) = self.quiet.get(&about)
            && *known == expect
            && next.is_none_or(|next| now < next)
        {
            step.sooner(*next);
            return;
        }
        let spread = read.plan.spread_of(&job.key);
        let passed = spread.passed(now);
        let next = read.calendar.next(expect.max(passed)).map(|next| spread.due(next));
        step.sooner(next);
        if read.calendar.next(expect).is_none_or(|next| next > passed) {
            self.quiet.insert(about, (expect, next));
            return;
        }
        let found = read.calendar.between(expect, passed, COUNTED_MAX);
        let (Some(&first), Some(last)) = (found.first(), read.calendar.last(passed)) else { return };
        let due = spread.due(last);
        let on_time = now.since(due) <= self.settings.on_time;
        let due = Due { expect, first, last, count: found.len() as u64, due, on_time };
        let (missed, overlap) = (read.plan.missed, read.plan.overlap);
        let open = open_runs(look, name, job);
        if overlap == Overlap::Replace && !open.is_empty() {
            // The run is opened once the one before is seen to have ended.
            self.replace(look, &open, due.last, step);
            return;
        }
        let change = match overlapping(look, overlap, &open) {
            Some(reason) => pass(look, name, job, &due, Why::Overlapped, reason),
            None if !due.on_time && missed != Missed::CatchUp => {
                pass(look, name, job, &due, why(missed), late_reason(&due))
            }
            None => open_run(look, name, job, &due, missed),
        };
        if !self.propose(mono, about, change.clone(), &mut step.orders) {
            return;
        }
        step.orders.push(happened(name, job, &change));
    }

    fn replace(&mut self, look: &Look<'_>, open: &[RunId], by: UnixMillis, step: &mut Step) {
        for run in open.iter().filter_map(|run| look.records.runs.get(run)) {
            let reason = format!("replaced by the run of {by}");
            let change = Change::Cancel { run: run.id, reason, at: look.now.wall };
            self.propose(look.now.mono, About::Run(run.id, run.attempt), change, &mut step.orders);
        }
    }

    /// Targets that the plan no longer names are not remembered; their open runs are cancelled.
    fn retire(&mut self, look: &Look<'_>, name: &PlanName, jobs: &[Job], step: &mut Step) {
        let named = |key: &crate::TargetKey| jobs.iter().any(|job| job.key == *key);
        for run in look.records.runs.values().filter(|run| run.plan == *name && !named(&run.target)) {
            let reason = format!("plan {name} no longer names {}", run.target);
            let change = Change::Cancel { run: run.id, reason, at: look.now.wall };
            self.propose(look.now.mono, About::Run(run.id, run.attempt), change, &mut step.orders);
        }
        // Names sort first in the key, so a plan's targets lie together.
        let from = (name.clone(), crate::TargetKey::default());
        let known = look.records.targets.range(from..).take_while(|((plan, _), _)| plan == name);
        for ((plan, target), _) in known.filter(|((_, target), _)| !named(target)) {
            let open = look.records.runs.values().any(|run| run.plan == *plan && run.target == *target);
            if !open {
                let about = About::Target(plan.clone(), target.clone());
                let change = Change::Retire { plan: plan.clone(), target: target.clone() };
                self.propose(look.now.mono, about, change, &mut step.orders);
            }
        }
    }
}

fn open_runs(look: &Look<'_>, plan: &PlanName, job: &Job) -> Vec<RunId> {
    let runs = look.records.runs.values();
    runs.filter(|run| run.plan == *plan && run.target == job.key).map(|run| run.id).collect()
}

/// Why no run can be opened beside those that are open already.
fn overlapping(look: &Look<'_>, overlap: Overlap, open: &[RunId]) -> Option<String> {
    let first = open.first()?;
    match overlap {
        Overlap::Skip => Some(format!("{first} had not ended yet")),
        Overlap::Replace => None,
        Overlap::Wait => {
            let fresh = |run: &&RunId| {
                look.records
                    .runs
                    .get(run)
                    .is_some_and(|run| run.attempt.0 == 0 && matches!(run.state, RunState::Waiting { .. }))
            };
            open.iter().find(fresh).map(|run| format!("{run} was waiting already"))
        }
    }
}

fn why(missed: Missed) -> Why {
    match missed {
        Missed::CatchUp => Why::CaughtUp,
        Missed::Report => Why::Missed,
        Missed::Ignore => Why::Ignored,
    }
}

fn late_reason(due: &Due) -> String {
    format!("nobody was there to begin it at {}", due.due)
}

fn pass(look: &Look<'_>, plan: &PlanName, job: &Job, due: &Due, why: Why, reason: String) -> Change {
    let (plan, target) = (plan.clone(), job.key.clone());
    let passed = Passed { plan, target, first: due.first, last: due.last, count: due.count, why, reason };
    Change::Pass { passed, expect: due.expect, at: look.now.wall }
}

fn open_run(look: &Look<'_>, plan: &PlanName, job: &Job, due: &Due, missed: Missed) -> Change {
    let caught_up = if due.on_time { due.count - 1 } else { due.count };
    let cause = match (missed, caught_up) {
        (_, 0) | (Missed::Report | Missed::Ignore, _) => Cause::Calendar,
        (Missed::CatchUp, count) => Cause::CatchUp(count),
    };
    let run = NewRun {
        plan: plan.clone(),
        target: job.key.clone(),
        locus: job.locus.clone(),
        cause,
        occurrence: Some(due.last),
        due: due.due,
    };
    let passed = (due.count > 1).then(|| Passed {
        plan: plan.clone(),
        target: job.key.clone(),
        first: due.first,
        // The newest of them; the run itself is of the last occurrence.
        last: UnixMillis(due.last.0 - 1),
        count: due.count - 1,
        why: why(missed),
        reason: "nobody was there to begin them".into(),
    });
    Change::Open { run, expect: due.expect, passed, at: look.now.wall }
}

fn happened(plan: &PlanName, job: &Job, change: &Change) -> Order {
    let (what, why) = match change {
        Change::Open { run, .. } => match run.cause {
            Cause::CatchUp(count) => {
                (format!("opens a run of {}", job.key), format!("makes up for {count} missed occurrences"))
            }
            _ => (format!("opens a run of {}", job.key), "its calendar".to_owned()),
        },
        Change::Pass { passed, .. } => {
            (format!("passes over {} occurrences of {}", passed.count, job.key), passed.reason.clone())
        }
        _ => (format!("changes {}", job.key), String::new()),
    };
    Order::Happened { subject: format!("plan/{plan}"), what, why }
}
