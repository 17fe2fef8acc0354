//! Runs that are executed: what their executors say, whether these live, how long it takes.

use super::{
    AttemptState, Meter, Order, RunView, Stand, Step, Work,
    place::{name, whereabouts},
    scheduler::{About, Look, Scheduler},
};
use crate::{
    plan::ATTEMPTS_MAX,
    record::{Change, LastGood, Place, Progress, Run, RunState, Sealed},
    time::{Span, UnixMillis},
};

/// The executor stops an attempt at its limit by its own clock; the leader, whose clock may jump, only after this more.
const RUN_TIME_GRACE: Span = Span::minutes(10);

impl Scheduler {
    pub(crate) fn watch(&mut self, look: &Look<'_>, step: &mut Step) {
        for run in look.records.runs.values() {
            if let Some(sealed) = in_vault(look, run) {
                // Its executor may be dead or cut off: what is in the vault under the present attempt counts.
                self.seal(look, run, sealed, step);
            }
            if let RunState::Running { place, session, progress } = run.state {
                self.watch_attempt(look, run, place, session, progress, step);
            }
        }
    }

    fn watch_attempt(
        &mut self,
        look: &Look<'_>,
        run: &Run,
        place: Place,
        session: u64,
        recorded: Progress,
        step: &mut Step,
    ) {
        let key = (run.id, run.attempt);
        let seen = look.observed.attempts.iter().find(|seen| {
            (seen.run, seen.attempt, seen.place, seen.session) == (run.id, run.attempt, place, session)
        });
        match seen.map(|seen| &seen.state) {
            Some(AttemptState::Sealed(sealed)) => self.seal(look, run, sealed, step),
            Some(AttemptState::Failed { reason, again }) => self.fail(look, run, reason, *again, step),
            Some(AttemptState::Working(progress)) => {
                let meter = self.meters.entry(key).or_insert_with(|| Meter::new(look.now.mono, recorded));
                meter.observe(look.now.mono, *progress);
            }
            None => {}
        }
        if let Some(reason) = self.lost(look, run, place, session) {
            self.lose(look, run, reason, step);
        } else if let Some(reason) = self.too_long(look, run) {
            self.fail(look, run, &reason, true, step);
        } else if seen.is_none() {
            self.start(look, run, place, session, step);
        }
        let last_good = last_good(look, run);
        let estimate = self.meters.get(&key).map(|meter| meter.estimate(last_good)).unwrap_or_default();
        let progress = self.meters.get(&key).map_or(recorded, Meter::progress);
        let since = run.point.unwrap_or(run.opened);
        step.runs.push(view(run, false, Stand::Running { place, since, progress, estimate }));
    }

    fn seal(&mut self, look: &Look<'_>, run: &Run, sealed: &Sealed, step: &mut Step) {
        let (attempt, at) = (run.attempt, look.now.wall);
        let change = Change::Seal { run: run.id, attempt, sealed: sealed.clone(), at };
        self.propose(look.now.mono, About::Run(run.id, attempt), change, &mut step.orders);
    }

    fn fail(&mut self, look: &Look<'_>, run: &Run, reason: &str, again: bool, step: &mut Step) {
        let retry = self.plans.get(&run.plan).map(|read| read.plan.retry).unwrap_or_default();
        let pause = retry.pause(run.failed + 1).filter(|_| again && run.attempt < ATTEMPTS_MAX);
        let at = look.now.wall;
        let retry = pause.map(|pause| at.after(pause));
        let change = Change::Fail { run: run.id, attempt: run.attempt, reason: reason.to_owned(), at, retry };
        if self.propose(look.now.mono, About::Run(run.id, run.attempt), change, &mut step.orders) {
            let what = match pause {
                Some(pause) => format!("attempt {} failed; the next one in {}", run.attempt, pause.rough()),
                None => format!("attempt {} failed; no further one", run.attempt),
            };
            step.orders.push(Order::Happened { subject: subject(run), what, why: reason.to_owned() });
        }
    }

    fn lose(&mut self, look: &Look<'_>, run: &Run, reason: String, step: &mut Step) {
        let at = look.now.wall;
        let change = if run.attempt < ATTEMPTS_MAX {
            let not_before = at.after(self.settings.lost_pause);
            Change::Lost { run: run.id, attempt: run.attempt, reason: reason.clone(), at, not_before }
        } else {
            Change::Fail { run: run.id, attempt: run.attempt, reason: reason.clone(), at, retry: None }
        };
        if self.propose(look.now.mono, About::Run(run.id, run.attempt), change, &mut step.orders) {
            let what = format!("attempt {} is lost; the run goes on with the next one", run.attempt);
            step.orders.push(Order::Happened { subject: subject(run), what, why: reason });
        }
    }

    /// Whether the attempt's executor can no longer finish it, and how that is known.
    fn lost(&mut self, look: &Look<'_>, run: &Run, place: Place, session: u64) -> Option<String> {
        let key = (run.id, run.attempt);
        let who = name(place, look.records, look.observed);
        let present = match place {
            Place::Node(id) => match look.observed.nodes.get(&id) {
                Some(node) if !node.alive => return Some(format!("{who} is down")),
                None => return Some(format!("{who} was removed")),
                Some(node) => node.session,
            },
            Place::Client(id) => {
                if look.records.clients.get(&id).is_none_or(|client| client.revoked.is_some()) {
                    return Some(format!("{who} was revoked"));
                }
                look.observed.clients.get(&id).map(|client| client.session)
            }
        };
        match present {
            Some(present) if present != session => return Some(format!("the daemon of {who} was restarted")),
            Some(_) => {
                self.silent.remove(&key);
            }
            None => {
                let since = *self.silent.entry(key).or_insert(look.now.mono);
                if look.now.mono.since(since) >= self.settings.silent {
                    return Some(format!("{who} is not heard"));
                }
            }
        }
        // One snapshot holds one instant: whoever holds the source now begins from a new point.
        match whereabouts(&run.locus, look.records, look.observed) {
            Ok((now_at, _)) if now_at != place => {
                Some(format!("its source is now at {}", name(now_at, look.records, look.observed)))
            }
            _ => None,
        }
    }

    fn too_long(&self, look: &Look<'_>, run: &Run) -> Option<String> {
        let limit = self.plans.get(&run.plan)?.plan.limits.run_time?;
        let ran = look.now.wall.since(run.point?);
        (ran > limit.plus(RUN_TIME_GRACE)).then(|| format!("it took longer than {limit}"))
    }

    /// The order to work on an attempt, repeated until its executor speaks of it.
    fn start(&mut self, look: &Look<'_>, run: &Run, place: Place, session: u64, step: &mut Step) {
        let Some(read) = self.plans.get(&run.plan) else { return };
        let job = look.jobs.get(&run.plan).and_then(|jobs| jobs.iter().find(|job| job.key == run.target));
        let Some(job) = job else { return };
        let plan = &read.plan;
        let work = Work {
            run: run.id,
            attempt: run.attempt,
            plan: run.plan.clone(),
            target: run.target.clone(),
            source: job.source.clone(),
            vault: run.vault.clone(),
            previous: last_good(look, run).map(|good| good.snapshot.clone()),
            tags: plan.tags.clone(),
            run_time: plan.limits.run_time,
            bandwidth: plan.limits.bandwidth,
            before: plan.before.clone(),
            after: plan.after.clone(),
        };
        let order = Order::Start { place, session, work: Box::new(work) };
        self.order(look.now.mono, format!("start {} {}", run.id, run.attempt), order, &mut step.orders);
    }
}

/// The snapshot of the present attempt, if the vault has one.
fn in_vault<'a>(look: &Look<'a>, run: &Run) -> Option<&'a Sealed> {
    let vault = look.observed.vaults.get(&run.vault)?;
    let found = vault.snapshots.iter().find(|(id, attempt, _)| *id == run.id && *attempt == run.attempt);
    found.map(|(_, _, sealed)| sealed)
}

pub(crate) fn last_good<'a>(look: &Look<'a>, run: &Run) -> Option<&'a LastGood> {
    look.records.target(&run.plan, &run.target)?.last_good.as_ref()
}

pub(crate) fn subject(run: &Run) -> String {
    format!("run/{}", run.id.0)
}

pub(crate) fn view(run: &Run, overdue: bool, stand: Stand) -> RunView {
    RunView {
        run: run.id,
        plan: run.plan.clone(),
        target: run.target.clone(),
        attempt: run.attempt,
        due: run.due,
        overdue,
        trouble: run.trouble.clone(),
        stand,
    }
}

/// When a waiting run may begin.
pub(crate) fn not_before(run: &Run) -> Option<UnixMillis> {
    match run.state {
        RunState::Waiting { not_before } => Some(not_before),
        RunState::Running { .. } => None,
    }
}
