//! The scheduler in a hostile world: executors, leaders and links die at random, two leaders believe to lead, messages are
//! lost, doubled and late, the vault's gate looks at old records. What must hold all the time:
//!
//! * of every run at most one attempt is sealed, and what is recorded is what that attempt put into the vault;
//! * an attempt has one consistent point, not older than recorded;
//! * every occurrence of the calendar gets a run or a recorded reason, and no occurrence two runs;
//!
//! and once faults stop: every run ends, and nothing but recorded snapshots is left of ended runs that were sealed.

use super::*;
use crate::{
    calendar::Calendar,
    plan::{Hook, Inventory, Missed, Overlap, Plan, ServiceInfo, Source, nightly},
    record::{
        Change, ClientToken, EventKind, NewClient, Outcome, Place, Progress, Records, RunState, Sealed,
        VaultRecord,
    },
    time::{Span, UnixMillis},
    words::{Attempt, ClientId, PlanName, RunId, SnapshotId, TargetKey},
};
use anshin_base::{Millis, Mono, NodeId};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const TICK: Span = Span(20);
const PLACES: [Place; 4] =
    [Place::Node(NodeId(1)), Place::Node(NodeId(2)), Place::Node(NodeId(3)), Place::Client(ClientId(1))];

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

#[derive(Clone)]
enum Task {
    Working { left: u64, instant: UnixMillis },
    Sealed(Sealed),
    Failed,
}

/// A machine that executes attempts.
#[derive(Default)]
struct Executor {
    up: bool,
    /// Cut off: works on, but nobody hears it nor does it hear anybody but the vault.
    cut: bool,
    session: u64,
    begun: BTreeMap<RunId, Attempt>,
    tasks: BTreeMap<(RunId, Attempt), Task>,
}

struct World {
    rng: Rng,
    faults: bool,
    now: UnixMillis,
    mono: u64,
    records: Records,
    /// What the vault's gate and a leader that was replaced look at.
    old_records: Records,
    leaders: Vec<Scheduler>,
    executors: BTreeMap<Place, Executor>,
    primary: Option<NodeId>,
    vault: Vec<(RunId, Attempt, Sealed, UnixMillis)>,
    proposals: Vec<(u64, Change)>,
    orders: Vec<(u64, Order)>,
    tick: u64,
    snapshots: u64,
    /// Every event ever, since the records keep only the newest.
    history: Vec<crate::record::Event>,
    opened: BTreeMap<(PlanName, TargetKey, UnixMillis), RunId>,
    instants: BTreeMap<(RunId, Attempt), UnixMillis>,
}

fn plan(rng: &mut Rng) -> Plan {
    let mut plan = nightly(&"main".into(), "Europe/Berlin");
    plan.when = vec!["hourly :07".into(), "every 2h".into()];
    plan.spread = Span(rng.below(600));
    plan.missed = [Missed::CatchUp, Missed::Report, Missed::Ignore][rng.below(3) as usize];
    plan.overlap = [Overlap::Skip, Overlap::Wait, Overlap::Replace][rng.below(3) as usize];
    plan.limits.concurrent = rng.below(3) as u32;
    plan.before = vec![Hook {
        run: vec!["true".into()],
        when: crate::plan::HookWhen::Always,
        on_failure: crate::plan::OnFailure::Fail,
        timeout: Span(1),
    }];
    for on in ["web1", "c"] {
        plan.what.push(Source::Files {
            on: on.into(),
            name: None,
            paths: vec!["/".into()],
            exclude: vec![],
            one_file_system: false,
        });
    }
    plan
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed | 1);
        let now = UnixMillis(1_792_800_000_000 + (rng.below(10 * 86_400) * 1_000) as i64);
        let mut records = Records::default();
        let vault = VaultRecord {
            name: "main".into(),
            id: "1".into(),
            url: "/v".into(),
            node: NodeId(3),
            concurrent: 2,
        };
        let plan = plan(&mut rng);
        let token = ClientToken { hash: "h".into(), name: None, expires: now.after(Span(60)) };
        let client = NewClient { name: "web1".into(), fingerprint: "f".into(), platform: "linux".into() };
        for change in [
            Change::SetVault(vault),
            Change::SetPlan {
                plan: plan.name.clone(),
                text: plan.to_json(),
                vault: "main".into(),
                expect: 0,
                at: now,
                restart: true,
            },
            Change::AddClientToken { token, at: now },
            Change::JoinClient { token: "h".into(), at: now, client },
        ] {
            records.apply(&change).unwrap();
        }
        let executor = |_| Executor { up: true, session: 1, ..Executor::default() };
        Self {
            rng,
            faults: true,
            now,
            mono: 0,
            old_records: records.clone(),
            records,
            leaders: vec![Scheduler::default()],
            executors: PLACES.iter().map(|&place| (place, executor(place))).collect(),
            primary: Some(NodeId(1)),
            vault: Vec::new(),
            proposals: Vec::new(),
            orders: Vec::new(),
            tick: 0,
            snapshots: 0,
            history: Vec::new(),
            opened: BTreeMap::new(),
            instants: BTreeMap::new(),
        }
    }

    fn one_tick(&mut self) {
        self.tick += 1;
        self.now = self.now.after(TICK);
        self.mono += TICK.0 * 1_000;
        if self.faults {
            self.break_things();
        } else {
            self.heal();
        }
        self.deliver();
        self.work();
        self.lead();
        if self.rng.chance(30) || !self.faults {
            self.old_records = self.records.clone();
        }
    }

    fn break_things(&mut self) {
        for place in PLACES {
            let (crash, cut) = (self.rng.below(400) == 0, self.rng.below(300) == 0);
            let back = self.rng.chance(3);
            let executor = self.executors.get_mut(&place).unwrap();
            if executor.up && crash {
                executor.up = false;
                executor.tasks.clear();
                executor.begun.clear();
            } else if !executor.up && back {
                executor.up = true;
                executor.session += 1;
            }
            executor.cut = if executor.cut { !back } else { cut };
        }
        let dead = |world: &Self, id| !world.heard(Place::Node(id));
        match self.primary {
            Some(id) if dead(self, id) => self.primary = None,
            None if self.rng.chance(20) => {
                self.primary = [NodeId(1), NodeId(2)].into_iter().find(|&id| !dead(self, id));
            }
            // A planned move.
            Some(id) if self.rng.below(500) == 0 => {
                let other = NodeId(3 - id.0);
                self.primary = if dead(self, other) { Some(id) } else { Some(other) };
            }
            _ => {}
        }
        match self.rng.below(300) {
            0 => self.leaders.clear(),
            1 => self.leaders = vec![Scheduler::default()],
            // The one before does not know yet: it goes on with old records.
            2 if self.leaders.len() == 1 => self.leaders.push(Scheduler::default()),
            3 if self.leaders.len() > 1 => {
                self.leaders.remove(0);
            }
            4..=9 if self.leaders.is_empty() => self.leaders.push(Scheduler::default()),
            _ => {}
        }
    }

    fn heal(&mut self) {
        for executor in self.executors.values_mut() {
            executor.cut = false;
            if !executor.up {
                executor.up = true;
                executor.session += 1;
            }
        }
        self.primary = self.primary.or(Some(NodeId(1)));
        self.leaders.truncate(1);
        if self.leaders.is_empty() {
            self.leaders.push(Scheduler::default());
        }
    }

    fn heard(&self, place: Place) -> bool {
        let executor = &self.executors[&place];
        executor.up && !executor.cut
    }

    /// Proposals and orders that arrive now: late, some twice, some never.
    fn deliver(&mut self) {
        let tick = self.tick;
        let (now, later) =
            std::mem::take(&mut self.proposals).into_iter().partition::<Vec<_>, _>(|(at, _)| *at <= tick);
        self.proposals = later;
        for (_, change) in now {
            self.apply(&change);
        }
        let (now, later) =
            std::mem::take(&mut self.orders).into_iter().partition::<Vec<_>, _>(|(at, _)| *at <= tick);
        self.orders = later;
        for (_, order) in now {
            self.carry_out(order);
        }
    }

    fn apply(&mut self, change: &Change) {
        let before = self.records.clone();
        let Ok(applied) = self.records.apply(change) else {
            assert_eq!(self.records, before, "a refused change leaves the records as they are");
            return;
        };
        if let (Change::Open { run, .. }, crate::record::Applied::Run(id)) = (change, applied) {
            let key = (run.plan.clone(), run.target.clone(), run.occurrence.unwrap());
            assert_eq!(self.opened.insert(key, id), None, "an occurrence got two runs");
        }
        let fresh = self.records.events_after(before.position).unwrap().cloned().collect::<Vec<_>>();
        for event in fresh {
            self.check(&event);
            self.history.push(event);
        }
    }

    fn check(&self, event: &crate::record::Event) {
        let EventKind::Ended(report) = &event.kind else { return };
        let before = self
            .history
            .iter()
            .any(|event| matches!(&event.kind, EventKind::Ended(known) if known.run == report.run));
        assert!(!before, "{} ended twice", report.run);
        if let Outcome::Sealed(sealed) = &report.outcome {
            let found: Vec<_> = self
                .vault
                .iter()
                .filter(|(run, attempt, ..)| (*run, *attempt) == (report.run, report.attempt))
                .collect();
            assert_eq!(found.len(), 1, "an attempt left one snapshot");
            assert_eq!(found[0].2, *sealed);
            assert!(found[0].3 >= report.point.unwrap(), "content older than recorded");
        }
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            Order::Start { place, session, work } => {
                let (now, left) = (self.now, 1 + self.rng.below(60));
                let executor = self.executors.get_mut(&place).unwrap();
                if !executor.up || executor.cut || executor.session != session {
                    return;
                }
                let key = (work.run, work.attempt);
                if executor.begun.get(&work.run).is_some_and(|begun| *begun >= work.attempt) {
                    executor.tasks.entry(key).or_insert(Task::Failed);
                    return;
                }
                executor.begun.insert(work.run, work.attempt);
                executor.tasks.insert(key, Task::Working { left, instant: now });
                assert_eq!(self.instants.insert(key, now), None, "an attempt began twice");
            }
            Order::Stop { place, run, attempt, .. } => {
                let executor = self.executors.get_mut(&place).unwrap();
                if executor.up && !executor.cut {
                    executor.tasks.remove(&(run, attempt));
                }
            }
            Order::Discard { snapshot, .. } => {
                let good = self.history.iter().any(|event| {
                    matches!(&event.kind, EventKind::Ended(report)
                        if matches!(&report.outcome, Outcome::Sealed(sealed) if sealed.snapshot == snapshot))
                });
                assert!(!good, "a recorded snapshot was discarded");
                self.vault.retain(|(_, _, sealed, _)| sealed.snapshot != snapshot);
            }
            Order::Propose(_) | Order::Happened { .. } => {}
        }
    }

    /// Attempts go on; also those of executors that are cut off: only the vault's gate is between them and a seal.
    fn work(&mut self) {
        let places: Vec<Place> = PLACES.to_vec();
        for place in places {
            let executor = self.executors.get_mut(&place).unwrap();
            for (&(run, attempt), task) in &mut executor.tasks {
                let Task::Working { left, instant } = task else { continue };
                *left -= 1;
                if self.faults && self.rng.chance(1) {
                    *task = Task::Failed;
                } else if *left == 0 {
                    if self.old_records.admits(run, attempt).is_err()
                        && self.records.admits(run, attempt).is_err()
                    {
                        *task = Task::Failed;
                        continue;
                    }
                    self.snapshots += 1;
                    let snapshot = SnapshotId(format!("s{}", self.snapshots));
                    let sealed = Sealed { snapshot, bytes: 1_000, ..Sealed::default() };
                    self.vault.push((run, attempt, sealed.clone(), *instant));
                    *task = Task::Sealed(sealed);
                }
            }
        }
    }

    fn lead(&mut self) {
        let newest = self.leaders.len().saturating_sub(1);
        for at in 0..self.leaders.len() {
            let observed = self.observed();
            let records = if at == newest { self.records.clone() } else { self.old_records.clone() };
            let now = Now { wall: self.now, mono: Mono(0).after(Millis(self.mono)) };
            let step = self.leaders[at].step(now, &records, &observed);
            for order in step.orders {
                let copies = if !self.faults { 1 } else { [0, 1, 1, 1, 1, 2][self.rng.below(6) as usize] };
                for _ in 0..copies {
                    let at = self.tick + if self.faults { self.rng.below(8) } else { 1 };
                    match &order {
                        Order::Propose(change) => self.proposals.push((at, change.clone())),
                        order => self.orders.push((at, order.clone())),
                    }
                }
            }
        }
    }

    fn observed(&mut self) -> Observed {
        let mut observed = Observed {
            inventory: Inventory {
                services: vec![ServiceInfo {
                    name: "db".into(),
                    volume: Some("data".into()),
                    ..ServiceInfo::default()
                }],
                volumes: vec!["data".into()],
            },
            ..Observed::default()
        };
        for place in PLACES {
            let heard = self.heard(place);
            let executor = &self.executors[&place];
            match place {
                Place::Node(id) => {
                    let name = ["a", "b", "c"][id.0 as usize - 1].into();
                    let session = heard.then_some(executor.session);
                    observed.nodes.insert(id, NodeSeen { name, alive: heard, session });
                }
                Place::Client(id) => {
                    if heard {
                        observed.clients.insert(id, ClientSeen { session: executor.session });
                    }
                }
            }
            for (&(run, attempt), task) in &executor.tasks {
                if !heard || (self.faults && self.rng.chance(20)) {
                    continue;
                }
                let state = match task {
                    Task::Working { left, .. } => {
                        AttemptState::Working(Progress { bytes: 1_000 - left, ..Progress::default() })
                    }
                    Task::Sealed(sealed) => AttemptState::Sealed(sealed.clone()),
                    Task::Failed => AttemptState::Failed { reason: "it broke".into(), again: true },
                };
                observed.attempts.push(AttemptSeen { run, attempt, place, session: executor.session, state });
            }
        }
        if let Some(node) = self.primary {
            observed.volumes.insert("data".into(), node);
        }
        if self.heard(Place::Node(NodeId(3))) || !self.faults {
            let snapshots =
                self.vault.iter().map(|(run, attempt, sealed, _)| (*run, *attempt, sealed.clone())).collect();
            observed.vaults.insert("main".into(), VaultSeen { trouble: None, snapshots });
        }
        observed
    }

    /// Every occurrence that was due an hour ago has a run or a reason, and never both.
    fn every_occurrence_is_accounted_for(&self, begun: UnixMillis) {
        let plan = Plan::from_json(&self.records.plans[&PlanName::from("nightly")].text).unwrap();
        let calendar: Calendar = plan.calendar().unwrap();
        for target in ["service/db", "files/web1", "files/c"] {
            let target = TargetKey::from(target);
            for occurrence in calendar.between(begun, self.now.before(Span::hours(1)), 100_000) {
                let run = self.opened.contains_key(&(plan.name.clone(), target.clone(), occurrence));
                let reasons = self.history.iter().filter(|event| {
                    matches!(&event.kind, EventKind::Passed(passed)
                        if passed.target == target && (passed.first..=passed.last).contains(&occurrence))
                });
                assert_eq!(reasons.count() + usize::from(run), 1, "{target} at {occurrence}");
            }
        }
    }
}

fn hostile(seed: u64, ticks: u64) {
    let mut world = World::new(seed);
    let begun = world.now;
    for _ in 0..ticks {
        world.one_tick();
    }
    world.faults = false;
    // Two hours of peace: everything that was open has ended; what is open now was opened in them.
    let healed = world.now;
    for _ in 0..3 * 3_600 / TICK.0 {
        world.one_tick();
    }
    world.every_occurrence_is_accounted_for(begun);
    for run in world.records.runs.values() {
        assert!(run.opened > healed, "{} does not end: {:?}", run.id, run);
    }
    let sealed: BTreeSet<_> = world
        .history
        .iter()
        .filter_map(|event| match &event.kind {
            EventKind::Ended(report) => match &report.outcome {
                Outcome::Sealed(sealed) => Some((report.run, sealed.snapshot.clone())),
                _ => None,
            },
            _ => None,
        })
        .collect();
    assert!(!sealed.is_empty());
    let ended: BTreeSet<RunId> = sealed.iter().map(|(run, _)| *run).collect();
    for (run, _, snapshot, _) in &world.vault {
        assert!(
            !ended.contains(run) || sealed.contains(&(*run, snapshot.snapshot.clone())),
            "{} is left of {run}",
            snapshot.snapshot
        );
    }
    let going =
        world.records.runs.values().filter(|run| matches!(run.state, RunState::Running { .. })).count();
    assert!(going <= 2, "the vault's limit");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn whoever_dies_whenever_no_run_is_sealed_twice_nothing_due_is_forgotten_and_everything_ends(seed in any::<u64>()) {
        hostile(seed, 2_500);
    }
}
