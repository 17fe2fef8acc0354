//! Changes of runs.

use super::{
    Applied, Change, EventKind, LastEnd, LastGood, Outcome, Progress, Records, Refused, Run, RunReport,
    RunState, SNAPSHOT_BYTES_MAX, Sealed, TARGETS_MAX, TargetRecord,
    apply::{Result, bounded},
    cut,
};
use crate::{
    time::{Span, UnixMillis},
    words::{Attempt, RunId},
};

impl Records {
    pub(super) fn apply_run(&mut self, change: &Change) -> Result {
        match change {
            Change::Begin { run, expect, place, session, at } => {
                let known = self.waiting(*run, *expect)?;
                known.attempt = expect.next();
                known.begun = known.begun.or(Some(*at));
                known.point = Some(*at);
                let progress = Progress::default();
                known.state = RunState::Running { place: *place, session: *session, progress };
                Ok(Applied::Attempt(known.attempt))
            }
            Change::Progress { of } => {
                for (run, attempt, new) in of {
                    if let Some(known) = self.runs.get_mut(run).filter(|run| run.attempt == *attempt)
                        && let RunState::Running { progress, .. } = &mut known.state
                    {
                        *progress = *new;
                    }
                }
                Ok(Applied::Done)
            }
            Change::Lost { run, attempt, reason, not_before, .. } => {
                let known = self.running(*run, *attempt)?;
                known.lost += 1;
                known.trouble = Some(cut(reason));
                known.state = RunState::Waiting { not_before: *not_before };
                Ok(Applied::Done)
            }
            Change::Fail { run, attempt, reason, at, retry } => {
                let known = self.running(*run, *attempt)?;
                known.failed += 1;
                known.trouble = Some(cut(reason));
                match retry {
                    Some(not_before) => known.state = RunState::Waiting { not_before: *not_before },
                    None => self.end(*run, *at, Outcome::Failed(cut(reason))),
                }
                Ok(Applied::Done)
            }
            Change::Seal { run, attempt, sealed, at } => {
                // Between two attempts the last one still counts: its snapshot was in the vault before its executor died.
                let known = self.runs.get(run).ok_or_else(|| Refused::Missing(format!("open {run}")))?;
                bounded("snapshot's name", &sealed.snapshot.0, SNAPSHOT_BYTES_MAX)?;
                if known.attempt != *attempt || attempt.0 == 0 {
                    return Err(Refused::Stale(format!(
                        "{run} is at attempt {}, not {attempt}",
                        known.attempt
                    )));
                }
                self.end(*run, *at, Outcome::Sealed(sealed.clone()));
                Ok(Applied::Done)
            }
            Change::Cancel { run, reason, at } => {
                if !self.runs.contains_key(run) {
                    return Err(Refused::Missing(format!("open {run}")));
                }
                self.end(*run, *at, Outcome::Cancelled(cut(reason)));
                Ok(Applied::Done)
            }
            Change::GiveUp { run, expect, reason, at } => {
                self.waiting(*run, *expect)?;
                self.end(*run, *at, Outcome::Failed(cut(reason)));
                Ok(Applied::Done)
            }
            Change::Hasten { run, at } => {
                let known = self.runs.get_mut(run).ok_or_else(|| Refused::Missing(format!("open {run}")))?;
                let RunState::Waiting { not_before } = &mut known.state else {
                    return Err(Refused::Stale(format!("{run} is not waiting")));
                };
                *not_before = (*not_before).min(*at);
                Ok(Applied::Done)
            }
            _ => Err(Refused::Stale("no change of a run".into())),
        }
    }

    fn waiting(&mut self, run: RunId, expect: Attempt) -> Result<&mut Run> {
        let known = self.runs.get_mut(&run).ok_or_else(|| Refused::Missing(format!("open {run}")))?;
        if known.attempt != expect || !matches!(known.state, RunState::Waiting { .. }) {
            return Err(Refused::Stale(format!("{run} is at attempt {}", known.attempt)));
        }
        Ok(known)
    }

    fn running(&mut self, run: RunId, attempt: Attempt) -> Result<&mut Run> {
        self.admits(run, attempt)?;
        self.runs.get_mut(&run).ok_or_else(|| Refused::Missing(format!("open {run}")))
    }

    /// Takes a run out of the open ones and remembers how it ended.
    pub(super) fn end(&mut self, run: RunId, at: UnixMillis, outcome: Outcome) {
        let Some(run) = self.runs.remove(&run) else { return };
        let place = run.place();
        let key = (run.plan.clone(), run.target.clone());
        let room = self.targets.len() < TARGETS_MAX || self.targets.contains_key(&key);
        if self.plans.contains_key(&run.plan) && room {
            remember(self.targets.entry(key).or_default(), &run, at, &outcome);
        }
        let report = RunReport {
            run: run.id,
            plan: run.plan,
            target: run.target,
            vault: run.vault,
            cause: run.cause,
            occurrence: run.occurrence,
            due: run.due,
            begun: run.begun,
            point: run.point,
            ended: at,
            attempt: run.attempt,
            place,
            outcome,
        };
        self.happened(at, EventKind::Ended(report));
    }
}

fn remember(known: &mut TargetRecord, run: &Run, at: UnixMillis, outcome: &Outcome) {
    let trouble = match outcome {
        Outcome::Sealed(sealed) => {
            known.failures = 0;
            known.missed = 0;
            let good = last_good(run, sealed, at);
            // Two runs of a target can end in another order than they began.
            // One that was made with a clock ahead must not stay the newest for as long as that was.
            let newer = |last: &LastGood| last.point <= good.point || last.point > at.after(Span::hours(1));
            if known.last_good.as_ref().is_none_or(newer) {
                known.last_good = Some(good);
            }
            None
        }
        Outcome::Failed(reason) => {
            known.failures = known.failures.saturating_add(1);
            Some(reason.clone())
        }
        Outcome::Cancelled(reason) => Some(cut(&format!("cancelled: {reason}"))),
    };
    known.last_end = Some(LastEnd { run: run.id, at, trouble });
}

fn last_good(run: &Run, sealed: &Sealed, at: UnixMillis) -> LastGood {
    let point = run.point.unwrap_or(run.opened);
    LastGood {
        run: run.id,
        snapshot: sealed.snapshot.clone(),
        vault: run.vault.clone(),
        point,
        sealed: at,
        files: sealed.files,
        bytes: sealed.bytes,
        took: at.since(point),
        warnings: sealed.warnings,
    }
}
