//! Runs that wait: which begins now, and what the others wait for.

use super::{
    Order, Stand, Step,
    place::{name, whereabouts},
    scheduler::{About, Look, Scheduler},
    watch::{not_before, subject, view},
};
use crate::{
    record::{Change, Place, Run},
    words::{PlanName, VaultName},
};
use std::collections::BTreeMap;

/// How many runs go on at once, by what limits them.
#[derive(Default)]
struct Going {
    all: u32,
    plans: BTreeMap<PlanName, u32>,
    vaults: BTreeMap<VaultName, u32>,
    places: BTreeMap<Place, u32>,
    targets: Vec<(PlanName, crate::TargetKey, crate::RunId)>,
}

impl Going {
    fn count(&mut self, run: &Run, place: Place) {
        self.all += 1;
        *self.plans.entry(run.plan.clone()).or_default() += 1;
        *self.vaults.entry(run.vault.clone()).or_default() += 1;
        *self.places.entry(place).or_default() += 1;
        self.targets.push((run.plan.clone(), run.target.clone(), run.id));
    }
}

impl Scheduler {
    pub(crate) fn begin(&mut self, look: &Look<'_>, step: &mut Step) {
        let mut going = Going::default();
        for run in look.records.runs.values() {
            let beginning = self.beginning.get(&run.id).map(|(_, place, _)| *place);
            if let Some(place) = run.place().or(beginning) {
                going.count(run, place);
            }
        }
        let mut waiting: Vec<&Run> = look.records.runs.values().filter(|run| run.place().is_none()).collect();
        let priority = |run: &Run| self.plans.get(&run.plan).map_or(0, |read| read.plan.priority);
        waiting.sort_by_key(|run| (std::cmp::Reverse(priority(run)), run.due, run.id));
        for run in waiting {
            if self.beginning.contains_key(&run.id) {
                let why = "about to begin".to_owned();
                step.runs.push(view(run, false, Stand::Waiting { why }));
                continue;
            }
            match self.may_begin(look, run, &going) {
                Ok((place, session)) => {
                    self.begin_run(look, run, place, session, step);
                    going.count(run, place);
                    let why = format!("begins at {}", name(place, look.records, look.observed));
                    step.runs.push(view(run, false, Stand::Waiting { why }));
                }
                Err(stand) => {
                    let late = look.now.wall.since(run.due) > self.settings.overdue;
                    let waits = matches!(*stand, Stand::Waiting { .. });
                    self.give_up(look, run, &stand, step);
                    step.runs.push(view(run, late && waits, *stand));
                }
            }
        }
    }

    fn begin_run(&mut self, look: &Look<'_>, run: &Run, place: Place, session: u64, step: &mut Step) {
        let (expect, at) = (run.attempt, look.now.wall);
        let change = Change::Begin { run: run.id, expect, place, session, at };
        if !self.propose(look.now.mono, About::Begin(run.id, expect), change, &mut step.orders) {
            return;
        }
        self.beginning.insert(run.id, (expect.next(), place, look.now.mono));
        let what =
            format!("attempt {} begins at {}", expect.next(), name(place, look.records, look.observed));
        let why = match &run.trouble {
            Some(trouble) => format!("attempt {expect}: {trouble}"),
            None => "it is due and nothing is in its way".to_owned(),
        };
        step.orders.push(Order::Happened { subject: subject(run), what, why });
    }

    /// Where the run can begin, or what it waits for.
    fn may_begin(&self, look: &Look<'_>, run: &Run, going: &Going) -> Result<(Place, u64), Box<Stand>> {
        let wait = |why: String| Box::new(Stand::Waiting { why });
        let due = not_before(run).unwrap_or(run.due);
        if look.now.wall < due {
            return Err(match &run.trouble {
                Some(trouble) => wait(format!("tries again at {due}: {trouble}")),
                None => Box::new(Stand::Planned { due }),
            });
        }
        let read = self.plans.get(&run.plan);
        let plan = &read.ok_or_else(|| wait(format!("plan {} cannot be read by this build", run.plan)))?.plan;
        let same = going.targets.iter().find(|(plan, target, _)| *plan == run.plan && *target == run.target);
        if let Some((_, _, other)) = same {
            return Err(wait(format!("{other} of the same plan and target goes on")));
        }
        let (place, session) = whereabouts(&run.locus, look.records, look.observed).map_err(wait)?;
        let vault = look.observed.vaults.get(&run.vault);
        let vault = vault.ok_or_else(|| wait(format!("vault {} is not reachable", run.vault)))?;
        if let Some(trouble) = &vault.trouble {
            return Err(wait(format!("vault {}: {trouble}", run.vault)));
        }
        let place_limit = match place {
            Place::Node(_) => self.settings.node_concurrent,
            Place::Client(id) => look.records.clients.get(&id).map_or(1, |client| client.concurrent),
        };
        let vault_limit = look.records.vaults.get(&run.vault).map_or(0, |vault| vault.concurrent);
        let at_vault = going.vaults.get(&run.vault).copied().unwrap_or(0);
        for (going, limit, what) in [
            (going.all, self.settings.concurrent, "the site".to_owned()),
            (
                going.plans.get(&run.plan).copied().unwrap_or(0),
                plan.limits.concurrent,
                format!("plan {}", run.plan),
            ),
            (at_vault, vault_limit, format!("vault {}", run.vault)),
            (
                going.places.get(&place).copied().unwrap_or(0),
                place_limit,
                name(place, look.records, look.observed),
            ),
        ] {
            if limit != 0 && going >= limit {
                return Err(wait(format!("{going} runs go on at {what}, which is its limit")));
            }
        }
        Ok((place, session))
    }

    /// A run that has waited as long as its plan allows ends as failed.
    fn give_up(&mut self, look: &Look<'_>, run: &Run, stand: &Stand, step: &mut Step) {
        let limit = self.plans.get(&run.plan).and_then(|read| read.plan.limits.wait);
        let (Some(limit), Stand::Waiting { why }) = (limit, stand) else { return };
        if look.now.wall.since(run.due) <= limit {
            return;
        }
        let reason = format!("it could not begin within {limit}: {why}");
        let change =
            Change::GiveUp { run: run.id, expect: run.attempt, reason: reason.clone(), at: look.now.wall };
        if self.propose(look.now.mono, About::Run(run.id, run.attempt), change, &mut step.orders) {
            let what = "is given up".to_owned();
            step.orders.push(Order::Happened { subject: subject(run), what, why: reason });
        }
    }
}
