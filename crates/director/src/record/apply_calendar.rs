//! Changes that calendars propose.

use super::{
    Applied, Cause, Change, EventKind, NewRun, Passed, RUNS_MAX, Records, Refused, Run, RunState,
    TARGET_BYTES_MAX, TARGETS_MAX, Why,
    apply::{Result, bounded},
    cut,
};
use crate::{
    time::UnixMillis,
    words::{Attempt, PlanName, TargetKey},
};

impl Records {
    pub(super) fn apply_calendar(&mut self, change: &Change) -> Result {
        match change {
            Change::Open { run, expect, passed, at } => self.open(run, *expect, passed.as_ref(), *at),
            Change::Pass { passed, expect, at } => {
                self.advance(&passed.plan, &passed.target, *expect, passed.last)?;
                self.pass(passed, *at);
                Ok(Applied::Done)
            }
            Change::SetBack { plan, target, expect, to, at } => {
                let known = self.targets.get_mut(&(plan.clone(), target.clone()));
                let known = known.ok_or_else(|| Refused::Missing(format!("{target} in plan {plan}")))?;
                if known.cursor != *expect || to >= expect {
                    return Err(Refused::Stale(format!(
                        "the calendar of {target} stands at {}",
                        known.cursor
                    )));
                }
                known.cursor = *to;
                let reason = format!("a clock had been ahead: the calendar of {target} stood at {expect}");
                let passed = Passed {
                    plan: plan.clone(),
                    target: target.clone(),
                    first: *to,
                    last: *expect,
                    count: 0,
                    why: Why::ClockAhead,
                    reason,
                };
                self.happened(*at, EventKind::Passed(passed));
                Ok(Applied::Done)
            }
            Change::Retire { plan, target } => {
                if self.runs.values().any(|run| run.plan == *plan && run.target == *target) {
                    return Err(Refused::InUse(format!("{target} has an open run")));
                }
                let key = (plan.clone(), target.clone());
                self.targets
                    .remove(&key)
                    .ok_or_else(|| Refused::Missing(format!("{target} in plan {plan}")))?;
                Ok(Applied::Done)
            }
            _ => Err(Refused::Stale("no change of a calendar".into())),
        }
    }

    fn open(&mut self, new: &NewRun, expect: UnixMillis, passed: Option<&Passed>, at: UnixMillis) -> Result {
        bounded("target's key", &new.target.0, TARGET_BYTES_MAX)?;
        let plan = self.plans.get(&new.plan).ok_or_else(|| Refused::Missing(format!("plan {}", new.plan)))?;
        let vault = plan.vault.clone();
        if self.runs.len() >= RUNS_MAX {
            return Err(Refused::TooMany("open runs".into()));
        }
        if let Some(occurrence) = new.occurrence {
            self.advance(&new.plan, &new.target, expect, occurrence)?;
            passed.into_iter().for_each(|passed| self.pass(passed, at));
        }
        self.run_last.0 += 1;
        let id = self.run_last;
        let NewRun { plan, target, locus, cause, occurrence, due } = new.clone();
        let cause = match cause {
            Cause::Operator(name) => Cause::Operator(cut(&name)),
            cause => cause,
        };
        let run = Run {
            id,
            plan,
            target,
            locus,
            vault,
            cause,
            occurrence,
            due,
            opened: at,
            begun: None,
            attempt: Attempt(0),
            point: None,
            failed: 0,
            lost: 0,
            trouble: None,
            state: RunState::Waiting { not_before: due },
        };
        self.runs.insert(id, run);
        Ok(Applied::Run(id))
    }

    /// Carries a target's calendar on to `to` if it stands at `expect`.
    fn advance(
        &mut self,
        plan: &PlanName,
        target: &TargetKey,
        expect: UnixMillis,
        to: UnixMillis,
    ) -> Result<()> {
        bounded("target's key", &target.0, TARGET_BYTES_MAX)?;
        let cursor = self.cursor(plan, target).ok_or_else(|| Refused::Missing(format!("plan {plan}")))?;
        if cursor != expect || to <= cursor {
            return Err(Refused::Stale(format!("the calendar of {target} stands at {cursor}")));
        }
        let key = (plan.clone(), target.clone());
        if !self.targets.contains_key(&key) && self.targets.len() >= TARGETS_MAX {
            return Err(Refused::TooMany("targets".into()));
        }
        self.targets.entry(key).or_default().cursor = to;
        Ok(())
    }

    /// Up to where a target's calendar is settled: occurrences until here have a run or a reason, or are none of the
    /// plan's. None if there is no such plan.
    #[must_use]
    pub fn cursor(&self, plan: &PlanName, target: &TargetKey) -> Option<UnixMillis> {
        let since = self.plans.get(plan)?.since;
        Some(self.target(plan, target).map_or(since, |known| known.cursor.max(since)))
    }

    fn pass(&mut self, passed: &Passed, at: UnixMillis) {
        let key = (passed.plan.clone(), passed.target.clone());
        if passed.why == Why::Missed
            && let Some(known) = self.targets.get_mut(&key)
        {
            known.missed = known.missed.saturating_add(passed.count);
        }
        let passed = Passed { reason: cut(&passed.reason), ..passed.clone() };
        self.happened(at, EventKind::Passed(passed));
    }
}
