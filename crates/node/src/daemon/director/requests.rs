//! The daemon's answers about plans and runs: every change becomes a change of the records in the ledger.

use super::{Catalogue, observed, retain, view};
use crate::{
    control::{Answer, plans::Plans},
    daemon::{
        site::{Site, unknown},
        world::World,
    },
    view::{
        CalendarEntry, CatalogRebuilt, EndedRunView, PlanRun, PlanSet, PlanView, RetentionVerdict,
        RetentionView, RunCancel, RunList, RunShow, RunsOpened,
    },
};
use anshin_base::Problem;
use anshin_director::{
    PlanName, RunId, Span, TargetKey, UnixMillis,
    plan::{Inventory, Job, Known, Plan},
    record::{Applied, Cause, Change, NewRun, PlanRecord, Refused, RunState},
};
use anshin_ledger::{Applied as LedgerApplied, Command, Refused as LedgerRefused};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// A change that the ledger took is shown here as soon as the own ledger has applied it.
const APPLY_LIMIT: Duration = Duration::from_secs(5);
/// Ended runs that are listed.
const ENDED_MAX: usize = 200;
/// The calendar reaches this far back and ahead.
const CALENDAR: Span = Span::days(7);
/// Entries of the calendar.
const CALENDAR_MAX: usize = 5_000;
/// Who asks: everybody who reaches the socket is the administrator.
const OPERATOR: &str = "an operator";

impl Site {
    fn plans(&self) -> Vec<PlanView> {
        let world = self.now();
        let inventory = observed(&world).inventory;
        let records = world.state.director.records();
        records.plans.iter().map(|(name, record)| plan_view(name, record, &inventory)).collect()
    }

    fn plan(&self, name: &str) -> Result<PlanView, Problem> {
        let found = self.plans().into_iter().find(|plan| plan.name == name);
        found.ok_or_else(|| unknown("plan", name, "list them: anshin plan list"))
    }

    /// Proposes a change of the records and waits until they show it here.
    pub(super) async fn direct(
        &self,
        change: Change,
        shows: impl Fn(&World) -> bool + Send,
    ) -> Result<Applied, Problem> {
        let applied = match (self.propose)(Command::Director(change)).await? {
            Ok(LedgerApplied::Director(applied)) => applied,
            Ok(_) => return Err(Problem::new("internal", "the ledger answered with something else")),
            Err(LedgerRefused::Director(refused)) => return Err(refusal(refused)),
            Err(refused) => return Err(crate::daemon::site::refusal(&refused)),
        };
        self.wait_for(APPLY_LIMIT, shows).await.ok_or_else(|| {
            Problem::new("apply-timeout", "the change is recorded, but this node does not see it yet")
        })?;
        Ok(applied)
    }

    async fn set_plan(&self, plan: &Plan, expect: u64, restart: bool) -> Result<(), Problem> {
        let change = Change::SetPlan {
            plan: plan.name.clone(),
            text: plan.to_json(),
            vault: plan.vault.clone(),
            expect,
            at: wall(),
            restart,
        };
        let shows = |world: &World| {
            let known = world.state.director.records().plans.get(&plan.name);
            known.is_some_and(|known| known.revision > expect)
        };
        self.direct(change, shows).await.map(|_| ())
    }

    async fn add_plans(&self, request: PlanSet) -> Result<Vec<PlanView>, Problem> {
        let plans = Plan::from_toml(&request.toml)?;
        if plans.is_empty() {
            return Err(Problem::new("plan-invalid", "there is no plan in what was sent"));
        }
        let world = self.now();
        let mut names = BTreeSet::new();
        for plan in &plans {
            check(&world, plan)?;
            let known = world.state.director.records().plans.contains_key(&plan.name);
            if known || !names.insert(plan.name.clone()) {
                let problem = Problem::new("plan-exists", format!("there is a plan {} already", plan.name));
                return Err(problem.hint(format!("change it: anshin plan edit {}", plan.name)));
            }
        }
        for plan in &plans {
            self.set_plan(plan, 0, true).await?;
        }
        Ok(self.plans().into_iter().filter(|plan| names.contains(&PlanName(plan.name.clone()))).collect())
    }

    async fn replace_plan(&self, name: &str, request: PlanSet) -> Result<PlanView, Problem> {
        let known = self.plan(name)?;
        let mut plans = Plan::from_toml(&request.toml)?;
        let (Some(plan), true) = (plans.pop(), plans.is_empty()) else {
            return Err(Problem::new("plan-invalid", "one plan is replaced by one plan"));
        };
        if plan.name.0 != name {
            let problem =
                Problem::new("plan-invalid", format!("plan {name} cannot be renamed to {}", plan.name));
            return Err(problem.hint("add it under the new name, then remove the old one"));
        }
        check(&self.now(), &plan)?;
        // What was missed while it was off, or by another calendar, is not this one's.
        let before = Plan::from_toml(&known.toml).ok().and_then(|mut plans| plans.pop());
        let restart = before.is_none_or(|before| {
            (before.when, before.zone, before.spread, before.enabled)
                != (plan.when.clone(), plan.zone.clone(), plan.spread, plan.enabled)
        });
        self.set_plan(&plan, request.revision.unwrap_or(known.revision), restart).await?;
        self.plan(name)
    }

    async fn remove_plan(&self, name: &str) -> Result<(), Problem> {
        let plan = PlanName(self.plan(name)?.name);
        let change = Change::RemovePlan { plan: plan.clone(), by: OPERATOR.into(), at: wall() };
        let gone = |world: &World| !world.state.director.records().plans.contains_key(&plan);
        self.direct(change, gone).await.map(|_| ())
    }

    async fn run_plan(&self, name: &str, request: PlanRun) -> Result<RunsOpened, Problem> {
        let world = self.now();
        let view = self.plan(name)?;
        let plan = Plan::from_toml(&view.toml)?.pop();
        let plan = plan.ok_or_else(|| unknown("plan", name, "list them: anshin plan list"))?;
        let jobs = chosen(observed(&world).inventory.jobs(&plan.what), &request.targets, name)?;
        let mut runs = Vec::new();
        for job in jobs {
            runs.push(self.run_target(&plan.name, job).await?.0);
        }
        Ok(RunsOpened { runs })
    }

    /// Opens a run of a target, or has the one that is open already go on.
    async fn run_target(&self, plan: &PlanName, job: Job) -> Result<RunId, Problem> {
        let world = self.now();
        let mut runs = world.state.director.records().runs.values();
        let open = runs.find(|run| run.plan == *plan && run.target == job.key);
        if let Some(run) = open {
            if matches!(run.state, RunState::Waiting { .. }) {
                self.direct(Change::Hasten { run: run.id, at: wall() }, |_| true).await?;
            }
            return Ok(run.id);
        }
        let at = wall();
        let run = NewRun {
            plan: plan.clone(),
            target: job.key,
            locus: job.locus,
            cause: Cause::Operator(OPERATOR.into()),
            occurrence: None,
            due: at,
        };
        let change = Change::Open { run, expect: UnixMillis(0), passed: None, at };
        match self.direct(change, |_| true).await? {
            Applied::Run(run) => {
                // Whoever asks for it next must find it.
                let shows = |world: &World| world.state.director.records().run_last >= run;
                self.wait_for(APPLY_LIMIT, shows).await;
                Ok(run)
            }
            _ => Err(Problem::new("internal", "the ledger answered opening a run with something else")),
        }
    }

    fn run(&self, run: u64) -> Result<RunShow, Problem> {
        let world = self.now();
        let open = view::open_runs(&world).into_iter().find(|view| view.id == run).map(RunShow::Open);
        let ended = || view::ended(&world).find(|view| view.id == run).map(RunShow::Ended);
        open.or_else(ended)
            .or_else(|| self.run_of_catalog(&world, run))
            .ok_or_else(|| unknown("run", &run.to_string(), "list them: anshin runs list"))
    }

    /// A run that ended so long ago that the ledger no longer knows it.
    fn run_of_catalog(&self, world: &World, run: u64) -> Option<RunShow> {
        let found = self.catalog.as_ref()?.run(RunId(run)).ok()??;
        Some(RunShow::Ended(view::of_catalog(world, &found.0, found.1.as_ref())))
    }

    async fn cancel(&self, run: u64, request: RunCancel) -> Result<EndedRunView, Problem> {
        if let RunShow::Ended(ended) = self.run(run)? {
            return Err(Problem::new(
                "run-ended",
                format!("run {run} has ended already, at {}", ended.ended),
            ));
        }
        let reason = match request.reason.filter(|reason| !reason.is_empty()) {
            Some(reason) => format!("by {OPERATOR}: {reason}"),
            None => format!("by {OPERATOR}"),
        };
        let gone = |world: &World| !world.state.director.records().runs.contains_key(&RunId(run));
        self.direct(Change::Cancel { run: RunId(run), reason, at: wall() }, gone).await?;
        match self.run(run)? {
            RunShow::Ended(ended) => Ok(ended),
            RunShow::Open(_) => Err(Problem::new("internal", format!("run {run} is open again"))),
        }
    }

    fn catalog_here(&self) -> Result<Arc<Catalogue>, Problem> {
        self.catalog.clone().ok_or_else(|| {
            Problem::new("catalog-here-invalid", "this node keeps no catalog").hint("ask a data node")
        })
    }

    async fn retention_of(&self, name: &str) -> Result<Vec<RetentionView>, Problem> {
        self.plan(name)?;
        let catalog = self.catalog_here()?;
        let rows = tokio::task::spawn_blocking(move || catalog.snapshots()).await;
        let rows = rows.map_err(|error| Problem::new("catalog", error.to_string()))??;
        let world = self.now();
        let decided = retain::verdicts(world.state.director.records(), &rows, wall());
        let of_plan = decided.into_iter().filter(|decided| decided.plan.0 == name);
        Ok(of_plan.map(retention_view).collect())
    }

    async fn hasten(&self, run: u64) -> Result<RunShow, Problem> {
        self.run(run)?;
        self.direct(Change::Hasten { run: RunId(run), at: wall() }, |_| true).await?;
        self.run(run)
    }

    fn calendar_now(&self) -> Vec<CalendarEntry> {
        let world = self.now();
        let records = world.state.director.records();
        view::calendar(records, &observed(&world).inventory, wall(), (CALENDAR, CALENDAR), CALENDAR_MAX)
    }
}

impl Plans for Site {
    fn plan_list(&self) -> Answer<'_, Vec<PlanView>> {
        Box::pin(async { Ok(self.plans()) })
    }

    fn plan_show<'a>(&'a self, name: &'a str) -> Answer<'a, PlanView> {
        Box::pin(async { self.plan(name) })
    }

    fn plan_add(&self, request: PlanSet) -> Answer<'_, Vec<PlanView>> {
        Box::pin(self.add_plans(request))
    }

    fn plan_replace<'a>(&'a self, name: &'a str, request: PlanSet) -> Answer<'a, PlanView> {
        Box::pin(self.replace_plan(name, request))
    }

    fn plan_remove<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(self.remove_plan(name))
    }

    fn plan_run<'a>(&'a self, name: &'a str, request: PlanRun) -> Answer<'a, RunsOpened> {
        Box::pin(self.run_plan(name, request))
    }

    fn run_list(&self) -> Answer<'_, RunList> {
        Box::pin(async {
            let world = self.now();
            let ended = view::ended(&world).take(ENDED_MAX).collect();
            Ok(RunList { open: view::open_runs(&world), ended })
        })
    }

    fn run_show(&self, run: u64) -> Answer<'_, RunShow> {
        Box::pin(async move { self.run(run) })
    }

    fn run_cancel(&self, run: u64, request: RunCancel) -> Answer<'_, EndedRunView> {
        Box::pin(self.cancel(run, request))
    }

    fn run_hasten(&self, run: u64) -> Answer<'_, RunShow> {
        Box::pin(self.hasten(run))
    }

    fn retention<'a>(&'a self, name: &'a str) -> Answer<'a, Vec<RetentionView>> {
        Box::pin(self.retention_of(name))
    }

    fn catalog_rebuild(&self) -> Answer<'_, CatalogRebuilt> {
        Box::pin(async {
            let catalog = self.catalog_here()?;
            let rebuilt = tokio::task::spawn_blocking(move || catalog.rebuild()).await;
            let facts = rebuilt.map_err(|error| Problem::new("catalog", error.to_string()))??;
            Ok(CatalogRebuilt { facts })
        })
    }

    fn calendar(&self) -> Answer<'_, Vec<CalendarEntry>> {
        Box::pin(async { Ok(self.calendar_now()) })
    }
}

fn retention_view(decided: retain::Decided) -> RetentionView {
    let summary = decided.preview.summary();
    let verdict = |verdict: anshin_director::retention::Verdict| RetentionVerdict {
        snapshot: verdict.snapshot.0,
        sealed: view::text(verdict.sealed),
        keep: verdict.keep,
        reasons: verdict.reasons.iter().map(ToString::to_string).collect(),
    };
    RetentionView {
        target: decided.target.0,
        vault: decided.vault.0,
        summary,
        snapshots: decided.preview.verdicts.into_iter().map(verdict).collect(),
    }
}

/// Everything that is wrong with a plan, as one problem.
fn check(world: &World, plan: &Plan) -> Result<(), Problem> {
    let state = &world.state;
    let records = state.director.records();
    let machines = state.nodes.values().map(|node| node.name.clone());
    let clients = records.clients.values().filter(|client| client.revoked.is_none());
    let known = Known {
        vaults: Some(records.vaults.keys().map(|name| name.0.clone()).collect()),
        machines: Some(machines.chain(clients.map(|client| client.name.0.clone())).collect()),
        services: Some(state.services.keys().cloned().collect()),
        volumes: Some(state.volumes.keys().cloned().collect()),
        // A plugin is found where the service runs, not here.
        plugins: None,
    };
    let mut found = plan.check(&known);
    if found.is_empty() {
        return Ok(());
    }
    let all: Vec<String> = found.iter().map(|problem| problem.message.clone()).collect();
    let hint = found.swap_remove(0).hint;
    let problem = Problem::new("plan-invalid", all.join("; "));
    Err(match hint {
        Some(hint) => problem.hint(hint),
        None => problem,
    })
}

fn chosen(jobs: Vec<Job>, targets: &[String], plan: &str) -> Result<Vec<Job>, Problem> {
    let has = |target: &String| jobs.iter().any(|job| job.key == TargetKey(target.clone()));
    if let Some(target) = targets.iter().find(|target| !has(target)) {
        let known: Vec<String> = jobs.iter().map(|job| job.key.to_string()).collect();
        let hint = match known.is_empty() {
            true => "nothing that it names exists now".to_owned(),
            false => format!("it backs up {}", known.join(", ")),
        };
        let problem = Problem::new("target-unknown", format!("plan {plan} does not back up `{target}`"));
        return Err(problem.hint(hint));
    }
    let wanted = |job: &Job| targets.is_empty() || targets.contains(&job.key.0);
    let jobs: Vec<Job> = jobs.into_iter().filter(wanted).collect();
    if jobs.is_empty() {
        return Err(Problem::new("target-unknown", format!("plan {plan} backs up nothing that exists now"))
            .hint("protect something first: anshin protect"));
    }
    Ok(jobs)
}

fn plan_view(name: &PlanName, record: &PlanRecord, inventory: &Inventory) -> PlanView {
    let read = Plan::from_json(&record.text).and_then(|plan| Ok((plan.calendar()?, plan)));
    let mut out = PlanView {
        name: name.0.clone(),
        revision: record.revision,
        vault: record.vault.0.clone(),
        description: String::new(),
        enabled: false,
        when: Vec::new(),
        zone: String::new(),
        targets: Vec::new(),
        next: None,
        trouble: None,
        toml: String::new(),
    };
    match read {
        Err(problem) => out.trouble = Some(problem.message),
        Ok((calendar, plan)) => {
            let jobs = inventory.jobs(&plan.what);
            let due = jobs.iter().filter_map(|job| {
                let spread = plan.spread_of(&job.key);
                calendar.next(spread.passed(wall())).map(|at| spread.due(at))
            });
            out.next = due.min().filter(|_| plan.enabled).map(view::text);
            out.targets = jobs.iter().map(|job| job.key.0.clone()).collect();
            out.toml = plan.to_toml();
            (out.description, out.enabled) = (plan.description, plan.enabled);
            (out.when, out.zone) = (plan.when, plan.zone);
        }
    }
    out
}

/// A refusal of the records, in the codes of the API.
fn refusal(refused: Refused) -> Problem {
    let message = refused.to_string();
    match refused {
        Refused::Missing(_) => Problem::new("thing-unknown", message),
        Refused::Exists(_) => Problem::new("name-exists", message).hint("choose another name"),
        Refused::Stale(_) => Problem::new("changed-busy", message).hint("look at it again, then repeat"),
        Refused::InUse(_) => Problem::refused("in-use", message),
        Refused::Token(_) => Problem::new("token-refused", message),
        Refused::TooMany(_) => Problem::new("too-many-invalid", message),
    }
}

fn wall() -> UnixMillis {
    UnixMillis(jiff::Timestamp::now().as_millisecond())
}
