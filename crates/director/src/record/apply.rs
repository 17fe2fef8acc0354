//! How a change changes the records.

use super::{
    Applied, CLIENTS_MAX, Cause, Change, Client, ClientToken, Event, EventKind, EVENTS_MAX, HOLDS_MAX, Hold, LastEnd,
    LastGood, NewClient, NewRun, Outcome, PLANS_MAX, Passed, PlanRecord, RUNS_MAX, Records, Refused, Run, RunReport,
    RunState, Sealed, TARGETS_MAX, TOKENS_MAX, TargetRecord, Why, cut,
};
use crate::{
    plan::PLAN_BYTES_MAX,
    time::UnixMillis,
    words::{Attempt, ClientId, PlanName, Position, RunId, SnapshotId, TargetKey, VaultName},
};

type Result<T = Applied> = std::result::Result<T, Refused>;

impl Records {
    /// Carries out `change`. Deterministic: the same changes give the same records.
    ///
    /// # Errors
    /// [`Refused`]; the records are unchanged then.
    pub fn apply(&mut self, change: &Change) -> Result {
        match change {
            Change::SetPlan { plan, text, vault, expect, at, restart } => {
                self.set_plan(plan, text, vault, *expect, *at, *restart)
            }
            Change::RemovePlan { plan, by, at } => self.remove_plan(plan, by, *at),
            Change::SetVault(vault) => {
                if !self.vaults.contains_key(&vault.name) && self.vaults.len() >= PLANS_MAX {
                    return Err(Refused::TooMany("vaults".into()));
                }
                self.vaults.insert(vault.name.clone(), vault.clone());
                Ok(Applied::Done)
            }
            Change::RemoveVault { vault } => self.remove_vault(vault),
            Change::AddClientToken { token, at } => self.add_token(token, *at),
            Change::RemoveClientToken { hash } => {
                self.tokens.remove(hash).ok_or_else(|| Refused::Missing("such token".into()))?;
                Ok(Applied::Done)
            }
            Change::JoinClient { token, at, client } => self.join(token, *at, client),
            Change::SetClient { client, concurrent } => {
                self.client(*client)?.concurrent = *concurrent;
                Ok(Applied::Done)
            }
            Change::RevokeClient { client, at } => {
                let known = self.client(*client)?;
                known.revoked = known.revoked.or(Some(*at));
                Ok(Applied::Done)
            }
            Change::Open { .. } | Change::Pass { .. } | Change::SetBack { .. } | Change::Retire { .. } => {
                self.apply_calendar(change)
            }
            Change::Hold { .. } | Change::Release { .. } | Change::Drilled(_) | Change::Forget { .. } => {
                self.apply_snapshot(change)
            }
            _ => self.apply_run(change),
        }
    }

    /// Whether a snapshot of this attempt would be accepted: what a vault asks before it seals one.
    ///
    /// # Errors
    /// [`Refused::Stale`] or [`Refused::Missing`] with the reason.
    pub fn admits(&self, run: RunId, attempt: Attempt) -> Result<&Run> {
        let known = self.runs.get(&run).ok_or_else(|| Refused::Missing(format!("open {run}")))?;
        match known.state {
            RunState::Running { .. } if known.attempt == attempt => Ok(known),
            RunState::Running { .. } => Err(Refused::Stale(format!(
                "attempt {attempt} of {run} was replaced by attempt {}",
                known.attempt
            ))),
            RunState::Waiting { .. } => Err(Refused::Stale(format!("attempt {attempt} of {run} has ended"))),
        }
    }

    fn set_plan(
        &mut self,
        plan: &PlanName,
        text: &str,
        vault: &VaultName,
        expect: u64,
        at: UnixMillis,
        restart: bool,
    ) -> Result {
        if !self.vaults.contains_key(vault) {
            return Err(Refused::Missing(format!("vault {vault}")));
        }
        if text.len() > PLAN_BYTES_MAX || (expect == 0 && self.plans.len() >= PLANS_MAX) {
            return Err(Refused::TooMany("plans, or bytes in this one".into()));
        }
        let known = self.plans.get(plan);
        let revision = known.map_or(0, |known| known.revision);
        if revision != expect {
            return Err(Refused::Stale(format!("plan {plan} is at revision {revision}, not {expect}")));
        }
        let since = known.map_or(at, |known| if restart { at } else { known.since });
        let record = PlanRecord { text: text.to_owned(), vault: vault.clone(), revision: revision + 1, since };
        self.plans.insert(plan.clone(), record);
        Ok(Applied::Done)
    }

    fn remove_plan(&mut self, plan: &PlanName, by: &str, at: UnixMillis) -> Result {
        self.plans.remove(plan).ok_or_else(|| Refused::Missing(format!("plan {plan}")))?;
        let open: Vec<RunId> = self.runs.values().filter(|run| run.plan == *plan).map(|run| run.id).collect();
        for run in open {
            self.end(run, at, Outcome::Cancelled(cut(&format!("plan {plan} was removed by {by}"))));
        }
        self.targets.retain(|(name, _), _| name != plan);
        Ok(Applied::Done)
    }

    fn remove_vault(&mut self, vault: &VaultName) -> Result {
        if let Some((plan, _)) = self.plans.iter().find(|(_, plan)| plan.vault == *vault) {
            return Err(Refused::InUse(format!("vault {vault} is used by plan {plan}")));
        }
        if let Some(run) = self.runs.values().find(|run| run.vault == *vault) {
            return Err(Refused::InUse(format!("{} goes to vault {vault}", run.id)));
        }
        self.vaults.remove(vault).ok_or_else(|| Refused::Missing(format!("vault {vault}")))?;
        Ok(Applied::Done)
    }

    fn add_token(&mut self, token: &ClientToken, at: UnixMillis) -> Result {
        self.tokens.retain(|_, token| token.expires > at);
        if self.tokens.len() >= TOKENS_MAX {
            return Err(Refused::TooMany("unused tokens".into()));
        }
        self.tokens.insert(token.hash.clone(), token.clone());
        Ok(Applied::Done)
    }

    fn join(&mut self, hash: &str, at: UnixMillis, new: &NewClient) -> Result {
        let token = self.tokens.get(hash).ok_or_else(|| Refused::Token("unknown or used already".into()))?;
        if token.expires <= at {
            return Err(Refused::Token("expired".into()));
        }
        if token.name.as_ref().is_some_and(|name| *name != new.name) {
            return Err(Refused::Token(format!("it is not for {}", new.name)));
        }
        if self.client_named(&new.name.0).is_some() {
            return Err(Refused::Exists(format!("client {}", new.name)));
        }
        if self.clients.len() >= CLIENTS_MAX {
            return Err(Refused::TooMany("clients".into()));
        }
        self.tokens.remove(hash);
        self.client_last.0 += 1;
        let id = self.client_last;
        let NewClient { name, fingerprint, platform } = new.clone();
        let client = Client { id, name, fingerprint, platform, joined: at, concurrent: 1, revoked: None };
        self.clients.insert(id, client);
        Ok(Applied::Client(id))
    }

    fn client(&mut self, id: ClientId) -> Result<&mut Client> {
        self.clients.get_mut(&id).ok_or_else(|| Refused::Missing(format!("client {id}")))
    }

    fn apply_calendar(&mut self, change: &Change) -> Result {
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
                    return Err(Refused::Stale(format!("the calendar of {target} stands at {}", known.cursor)));
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
                self.targets.remove(&key).ok_or_else(|| Refused::Missing(format!("{target} in plan {plan}")))?;
                Ok(Applied::Done)
            }
            _ => Err(Refused::Stale("no change of a calendar".into())),
        }
    }

    fn open(&mut self, new: &NewRun, expect: UnixMillis, passed: Option<&Passed>, at: UnixMillis) -> Result {
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
    fn advance(&mut self, plan: &PlanName, target: &TargetKey, expect: UnixMillis, to: UnixMillis) -> Result<()> {
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

    fn apply_run(&mut self, change: &Change) -> Result {
        match change {
            Change::Begin { run, expect, place, session, at } => {
                let known = self.waiting(*run, *expect)?;
                known.attempt = expect.next();
                known.begun = known.begun.or(Some(*at));
                known.point = Some(*at);
                let progress = super::Progress::default();
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
                if known.attempt != *attempt || attempt.0 == 0 {
                    return Err(Refused::Stale(format!("{run} is at attempt {}, not {attempt}", known.attempt)));
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
    fn end(&mut self, run: RunId, at: UnixMillis, outcome: Outcome) {
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

    fn apply_snapshot(&mut self, change: &Change) -> Result {
        match change {
            Change::Hold { snapshot, vault, by, reason, at } => {
                if self.holds.len() >= HOLDS_MAX {
                    return Err(Refused::TooMany("holds".into()));
                }
                if self.holds.contains_key(snapshot) {
                    return Err(Refused::Exists(format!("a hold of snapshot {snapshot}")));
                }
                let hold = Hold { vault: vault.clone(), by: cut(by), at: *at, reason: cut(reason) };
                self.holds.insert(snapshot.clone(), hold);
                let (snapshot, vault) = (snapshot.clone(), vault.clone());
                let reason = cut(&format!("{by}: {reason}"));
                self.happened(*at, EventKind::Held { snapshot, vault, reason });
            }
            Change::Release { snapshot, by, at } => {
                let known = self.holds.remove(snapshot);
                known.ok_or_else(|| Refused::Missing(format!("hold of snapshot {snapshot}")))?;
                self.happened(*at, EventKind::Released { snapshot: snapshot.clone(), by: cut(by) });
            }
            Change::Drilled(drill) => {
                let drill = super::Drill { summary: cut(&drill.summary), ..drill.clone() };
                let newest = self.drills.get(&drill.target).is_none_or(|known| known.at <= drill.at);
                if newest {
                    if self.drills.len() >= TARGETS_MAX && !self.drills.contains_key(&drill.target) {
                        return Err(Refused::TooMany("drilled targets".into()));
                    }
                    self.drills.insert(drill.target.clone(), drill.clone());
                }
                self.happened(drill.at, EventKind::Drilled(drill));
            }
            Change::Forget { vault, snapshots, reason, at } => {
                snapshots.iter().try_for_each(|snapshot| self.may_forget(snapshot))?;
                let (vault, snapshots) = (vault.clone(), snapshots.clone());
                self.happened(*at, EventKind::Forgotten { vault, snapshots, reason: cut(reason) });
            }
            _ => return Err(Refused::Stale("no change of a snapshot".into())),
        }
        Ok(Applied::Done)
    }

    /// The last gate before a snapshot is given up, whoever decided it.
    fn may_forget(&self, snapshot: &SnapshotId) -> Result<()> {
        if let Some(hold) = self.holds.get(snapshot) {
            return Err(Refused::InUse(format!("snapshot {snapshot} is held by {}: {}", hold.by, hold.reason)));
        }
        let last = self
            .targets
            .iter()
            .find(|(_, target)| target.last_good.as_ref().is_some_and(|good| good.snapshot == *snapshot));
        if let Some(((plan, target), _)) = last {
            return Err(Refused::InUse(format!(
                "snapshot {snapshot} is the newest good one of {target} in plan {plan}"
            )));
        }
        Ok(())
    }

    fn happened(&mut self, at: UnixMillis, kind: EventKind) {
        self.position = Position(self.position.0 + 1);
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(Event { position: self.position, at, kind });
    }
}

fn remember(known: &mut TargetRecord, run: &Run, at: UnixMillis, outcome: &Outcome) {
    let trouble = match outcome {
        Outcome::Sealed(sealed) => {
            known.failures = 0;
            known.missed = 0;
            let good = last_good(run, sealed, at);
            // Two runs of a target can end in another order than they began.
            if known.last_good.as_ref().is_none_or(|last| last.point <= good.point) {
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
