//! How a change changes the records.

use super::{
    Applied, CLIENTS_MAX, Change, Client, ClientToken, EVENTS_MAX, Event, EventKind, NewClient, Outcome,
    PLANS_MAX, PlanRecord, Records, Refused, Run, RunState, TOKENS_MAX, cut,
};
use crate::{
    plan::PLAN_BYTES_MAX,
    time::UnixMillis,
    words::{Attempt, ClientId, PlanName, Position, RunId, VaultName},
};

pub(super) type Result<T = Applied> = std::result::Result<T, Refused>;

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
        let record =
            PlanRecord { text: text.to_owned(), vault: vault.clone(), revision: revision + 1, since };
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

    pub(super) fn happened(&mut self, at: UnixMillis, kind: EventKind) {
        self.position = Position(self.position.0 + 1);
        self.events.push_back(Event { position: self.position, at, kind });
        let mut weight: usize = self.events.iter().map(Event::weight).sum();
        while weight > EVENTS_MAX
            && let Some(oldest) = self.events.pop_front()
        {
            weight -= oldest.weight();
        }
    }
}

/// What comes from outside and is kept must have a bound.
pub(super) fn bounded(what: &str, text: &str, bytes_max: usize) -> Result<()> {
    if text.len() > bytes_max {
        return Err(Refused::TooMany(format!("bytes in the {what}: {}", text.len())));
    }
    Ok(())
}
