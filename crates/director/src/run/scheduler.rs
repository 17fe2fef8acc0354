//! [`Scheduler`]: the leader's view of plans and runs, and its decisions.

use super::{Meter, Observed, Order, RunView};
use crate::{
    calendar::Calendar,
    plan::{Job, Plan},
    record::{Change, Records},
    time::{Span, UnixMillis},
    words::{Attempt, PlanName, RunId, TargetKey},
};
use anshin_base::{Millis, Mono, Problem};
use std::collections::BTreeMap;

/// The time, on two clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// What the calendar says. May jump.
    pub wall: UnixMillis,
    /// What pauses are measured by.
    pub mono: Mono,
}

/// Times and numbers that the scheduler goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// An occurrence that nobody began for this long counts as missed.
    pub on_time: Span,
    /// A run that waits longer is shown as overdue.
    pub overdue: Span,
    /// A client or daemon that is not heard for this long has lost its attempts.
    pub silent: Millis,
    /// Orders and proposals are repeated after this.
    pub again: Millis,
    /// Progress is recorded in the ledger this often.
    pub progress: Millis,
    /// The pause before the attempt after one that died.
    pub lost_pause: Span,
    /// Runs at once, of all; 0: no limit.
    pub concurrent: u32,
    /// Runs of one node at once; 0: no limit. A client's are in its record.
    pub node_concurrent: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            on_time: Span::minutes(15),
            overdue: Span::hours(1),
            silent: Millis(10 * 60_000),
            again: Millis(2_000),
            progress: Millis(15_000),
            lost_pause: Span(0),
            concurrent: 64,
            node_concurrent: 2,
        }
    }
}

/// What one look came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// What to do.
    pub orders: Vec<Order>,
    /// Where the open runs stand.
    pub runs: Vec<RunView>,
    /// Plans that could not be read (written by a newer build), and why.
    pub troubles: Vec<(PlanName, Problem)>,
    /// When the next occurrence is due; look again then, or when something changes.
    pub next_due: Option<UnixMillis>,
}

impl Step {
    pub(crate) fn sooner(&mut self, due: Option<UnixMillis>) {
        self.next_due = match (self.next_due, due) {
            (Some(known), Some(due)) => Some(known.min(due)),
            (known, due) => known.or(due),
        };
    }
}

/// A plan as the scheduler reads it.
#[derive(Debug)]
pub(crate) struct Read {
    revision: u64,
    pub plan: Plan,
    pub calendar: Calendar,
}

/// What a proposal is about; the same one is not made again before the ledger had time to answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum About {
    Plan(PlanName),
    Target(PlanName, TargetKey),
    Run(RunId, Attempt),
    Begin(RunId, Attempt),
    Progress,
}

/// The scheduler's state. All of it can be lost: it only saves repetition.
#[derive(Debug, Default)]
pub struct Scheduler {
    pub(crate) settings: Settings,
    pub(crate) plans: BTreeMap<PlanName, Read>,
    /// Targets of which nothing is due: where their calendar stands, and when something will be.
    pub(crate) quiet: BTreeMap<About, (UnixMillis, Option<UnixMillis>)>,
    /// Proposals that may be on their way, and since when.
    pub(crate) proposed: BTreeMap<About, Mono>,
    /// Begun attempts that the records may not show yet, with the place they count for.
    pub(crate) beginning: BTreeMap<RunId, (Attempt, crate::record::Place, Mono)>,
    /// Orders to executors and vaults, and when they were last given.
    pub(crate) ordered: BTreeMap<String, Mono>,
    /// Attempts whose executor is not heard, and since when.
    pub(crate) silent: BTreeMap<(RunId, Attempt), Mono>,
    pub(crate) meters: BTreeMap<(RunId, Attempt), Meter>,
    progress_recorded: Option<Mono>,
}

/// One look at everything.
pub(crate) struct Look<'a> {
    pub now: Now,
    pub records: &'a Records,
    pub observed: &'a Observed,
    /// What each readable plan backs up.
    pub jobs: BTreeMap<PlanName, Vec<Job>>,
}

impl Scheduler {
    /// A scheduler with these settings.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, ..Self::default() }
    }

    /// Looks at records and site and decides what to do now. `records` must be those of a leader that has applied
    /// everything its predecessors committed.
    pub fn step(&mut self, now: Now, records: &Records, observed: &Observed) -> Step {
        let mut step = Step { troubles: self.read_plans(records), ..Step::default() };
        let inventory = &observed.inventory;
        let jobs =
            self.plans.iter().map(|(name, read)| (name.clone(), inventory.jobs(&read.plan.what))).collect();
        let look = Look { now, records, observed, jobs };
        self.forget_old(&look);
        self.calendars(&look, &mut step);
        self.watch(&look, &mut step);
        self.begin(&look, &mut step);
        self.stale(&look, &mut step);
        self.record_progress(&look, &mut step);
        step.runs.sort_by_key(|view| view.run);
        step
    }

    /// A plan by name, if it could be read.
    #[must_use]
    pub fn plan(&self, name: &PlanName) -> Option<&Plan> {
        self.plans.get(name).map(|read| &read.plan)
    }

    fn read_plans(&mut self, records: &Records) -> Vec<(PlanName, Problem)> {
        self.plans.retain(|name, read| {
            records.plans.get(name).is_some_and(|known| known.revision == read.revision)
        });
        let mut troubles = Vec::new();
        for (name, record) in &records.plans {
            if self.plans.contains_key(name) {
                continue;
            }
            self.quiet.retain(|about, _| !matches!(about, About::Target(plan, _) if plan == name));
            let read = Plan::from_json(&record.text).and_then(|plan| {
                let calendar = plan.calendar()?;
                Ok(Read { revision: record.revision, plan, calendar })
            });
            match read {
                Ok(read) => {
                    self.plans.insert(name.clone(), read);
                }
                Err(problem) => troubles.push((name.clone(), problem)),
            }
        }
        troubles
    }

    fn forget_old(&mut self, look: &Look<'_>) {
        let (now, again) = (look.now.mono, self.settings.again);
        let current = |run: &RunId, attempt: &Attempt| {
            look.records.runs.get(run).is_some_and(|run| run.attempt == *attempt && run.place().is_some())
        };
        self.proposed.retain(|_, at| now.since(*at) < again);
        self.ordered.retain(|_, at| now.since(*at) < again);
        self.beginning.retain(|run, (attempt, _, at)| {
            let waits = look.records.runs.get(run).is_some_and(|run| run.attempt < *attempt);
            waits && now.since(*at) < again
        });
        self.silent.retain(|(run, attempt), _| current(run, attempt));
        self.meters.retain(|(run, attempt), _| current(run, attempt));
    }

    /// Proposes unless the same was proposed a moment ago. True if it was.
    pub(crate) fn propose(
        &mut self,
        now: Mono,
        about: About,
        change: Change,
        orders: &mut Vec<Order>,
    ) -> bool {
        if self.proposed.contains_key(&about) {
            return false;
        }
        self.proposed.insert(about, now);
        orders.push(Order::Propose(change));
        true
    }

    /// Gives an order unless it was given a moment ago.
    pub(crate) fn order(&mut self, now: Mono, key: String, order: Order, orders: &mut Vec<Order>) {
        if self.ordered.contains_key(&key) {
            return;
        }
        self.ordered.insert(key, now);
        orders.push(order);
    }

    /// Carries progress into the ledger now and then, so that it survives the leader.
    fn record_progress(&mut self, look: &Look<'_>, step: &mut Step) {
        let now = look.now.mono;
        if self.progress_recorded.is_some_and(|at| now.since(at) < self.settings.progress) {
            return;
        }
        let changed = self.meters.iter().filter_map(|((run, attempt), meter)| {
            let known = look.records.runs.get(run)?;
            let crate::record::RunState::Running { progress, .. } = known.state else { return None };
            (progress != meter.progress()).then(|| (*run, *attempt, meter.progress()))
        });
        let of: Vec<_> = changed.collect();
        self.progress_recorded = Some(now);
        if !of.is_empty() {
            self.propose(now, About::Progress, Change::Progress { of }, &mut step.orders);
        }
    }
}
