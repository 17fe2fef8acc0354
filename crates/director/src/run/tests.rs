//! Single decisions of the scheduler.

use super::*;
use crate::{
    plan::{Keep, Limits, Missed, Overlap, Plan, ServiceInfo, Source, nightly},
    record::{
        Applied, Cause, Change, EventKind, NewClient, Outcome, Place, Progress, Records, Sealed, VaultRecord,
        Why,
    },
    time::{Span, UnixMillis},
    words::{Attempt, ClientId, RunId, VaultName},
};
use anshin_base::{Millis, Mono, NodeId};

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const VAULT: NodeId = NodeId(3);

/// A site with a volume and service on a, a standby b, a vault at c; records and scheduler of one leader.
struct Site {
    records: Records,
    observed: Observed,
    scheduler: Scheduler,
    now: Now,
}

fn at(text: &str) -> UnixMillis {
    text.parse::<jiff::Timestamp>().unwrap().into()
}

impl Site {
    fn new(change: impl FnOnce(&mut Plan)) -> Self {
        let mut observed = Observed::default();
        for (id, name) in [(A, "a"), (B, "b"), (VAULT, "c")] {
            observed.nodes.insert(id, NodeSeen { name: name.into(), alive: true, session: Some(1) });
        }
        observed.inventory.services.push(ServiceInfo {
            name: "db".into(),
            volume: Some("data".into()),
            ..ServiceInfo::default()
        });
        observed.inventory.volumes.push("data".into());
        observed.services.insert("db".into(), A);
        observed.volumes.insert("data".into(), A);
        observed.vaults.insert("main".into(), VaultSeen::default());
        let now = Now { wall: at("2026-11-23T12:00:00Z"), mono: Mono(0) };
        let mut site = Self { records: Records::default(), observed, scheduler: Scheduler::default(), now };
        let vault =
            VaultRecord { name: "main".into(), id: "1".into(), url: "/v".into(), node: VAULT, concurrent: 0 };
        site.records.apply(&Change::SetVault(vault)).unwrap();
        let mut plan = nightly(&VaultName::from("main"), "UTC");
        plan.spread = Span(0);
        change(&mut plan);
        site.set(&plan);
        site
    }

    fn set(&mut self, plan: &Plan) {
        let expect = self.records.plans.get(&plan.name).map_or(0, |plan| plan.revision);
        let change = Change::SetPlan {
            plan: plan.name.clone(),
            text: plan.to_json(),
            vault: plan.vault.clone(),
            expect,
            at: self.now.wall,
            restart: true,
        };
        self.records.apply(&change).unwrap();
    }

    fn goes_on(&mut self, span: Span) {
        self.now.wall = self.now.wall.after(span);
        self.now.mono = self.now.mono.after(Millis(span.0 * 1_000));
    }

    fn until(&mut self, time: &str) {
        let span = at(time).since(self.now.wall);
        self.goes_on(span);
    }

    /// Looks, and applies what is proposed, until nothing more is proposed.
    fn settle(&mut self) -> Step {
        let mut orders = Vec::new();
        for _ in 0..20 {
            let mut step = self.scheduler.step(self.now, &self.records, &self.observed);
            let mut proposed = false;
            for order in &step.orders {
                if let Order::Propose(change) = order {
                    proposed = true;
                    self.records.apply(change).unwrap();
                }
            }
            orders.append(&mut step.orders);
            if !proposed {
                return Step { orders, ..step };
            }
        }
        panic!("proposes for ever");
    }

    fn says(&mut self, place: Place, run: u64, attempt: u32, state: AttemptState) {
        self.observed.attempts =
            vec![AttemptSeen { run: RunId(run), attempt: Attempt(attempt), place, session: 1, state }];
    }

    fn waits_for(&mut self) -> String {
        let step = self.settle();
        match &step.runs[..] {
            [RunView { stand: Stand::Waiting { why }, .. }] => why.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn outcomes(&self) -> Vec<(RunId, Attempt, Outcome)> {
        let ended = |event: &crate::record::Event| match &event.kind {
            EventKind::Ended(report) => Some((report.run, report.attempt, report.outcome.clone())),
            _ => None,
        };
        self.records.events.iter().filter_map(ended).collect()
    }

    fn passed(&self) -> Vec<(Why, u64)> {
        let passed = |event: &crate::record::Event| match &event.kind {
            EventKind::Passed(passed) => Some((passed.why, passed.count)),
            _ => None,
        };
        self.records.events.iter().filter_map(passed).collect()
    }
}

fn sealed(name: &str) -> Sealed {
    Sealed { snapshot: name.into(), files: 10, bytes: 1_000, new_bytes: 100, warnings: 0 }
}

fn starts(step: &Step) -> Vec<(Place, u64, u32)> {
    let start = |order: &Order| match order {
        Order::Start { place, work, .. } => Some((*place, work.run.0, work.attempt.0)),
        _ => None,
    };
    step.orders.iter().filter_map(start).collect()
}

#[test]
fn a_due_occurrence_becomes_a_run_where_the_service_is_and_ends_sealed() {
    let mut site = Site::new(|_| {});
    assert!(site.settle().runs.is_empty());
    assert_eq!(site.settle().next_due, Some(at("2026-11-23T23:00:00Z")));
    site.until("2026-11-23T23:00:01Z");
    let step = site.settle();
    assert_eq!(starts(&step), [(Place::Node(A), 1, 1)]);
    site.says(Place::Node(A), 1, 1, AttemptState::Working(Progress { bytes: 500, ..Progress::default() }));
    site.goes_on(Span(10));
    assert!(starts(&site.settle()).is_empty());
    site.says(Place::Node(A), 1, 1, AttemptState::Sealed(sealed("s1")));
    site.goes_on(Span(10));
    site.settle();
    assert_eq!(site.outcomes(), [(RunId(1), Attempt(1), Outcome::Sealed(sealed("s1")))]);
    let target = site.records.target(&"nightly".into(), &"service/db".into()).unwrap();
    assert_eq!(target.last_good.as_ref().unwrap().point, at("2026-11-23T23:00:01Z"));
    // Once only.
    site.until("2026-11-24T22:00:00Z");
    assert!(site.settle().runs.is_empty());
}

#[test]
fn the_run_of_a_dead_node_is_taken_up_by_the_node_that_holds_the_volume_now() {
    let mut site = Site::new(|_| {});
    site.until("2026-11-23T23:00:01Z");
    site.settle();
    site.says(Place::Node(A), 1, 1, AttemptState::Working(Progress::default()));
    site.goes_on(Span(60));
    site.observed.nodes.get_mut(&A).unwrap().alive = false;
    // Until another node holds the volume it waits and says for what.
    assert!(site.waits_for().contains("node a is down"));
    site.observed.volumes.insert("data".into(), B);
    site.observed.services.insert("db".into(), B);
    site.goes_on(Span(1));
    let step = site.settle();
    assert_eq!(starts(&step), [(Place::Node(B), 1, 2)]);
    assert_eq!(site.records.runs[&RunId(1)].point, Some(site.now.wall), "a new consistent point");
    // The first executor was only cut off: neither gate lets its seal through, and it is told to stop.
    assert!(site.records.admits(RunId(1), Attempt(1)).is_err());
    let late = Change::Seal { run: RunId(1), attempt: Attempt(1), sealed: sealed("old"), at: site.now.wall };
    assert!(site.records.apply(&late).is_err());
    site.says(Place::Node(A), 1, 1, AttemptState::Sealed(sealed("old")));
    site.goes_on(Span(5));
    let stops =
        |order: &Order| matches!(order, Order::Stop { place: Place::Node(A), attempt: Attempt(1), .. });
    assert!(site.settle().orders.iter().any(stops));
    site.says(Place::Node(B), 1, 2, AttemptState::Sealed(sealed("new")));
    site.settle();
    assert_eq!(site.outcomes(), [(RunId(1), Attempt(2), Outcome::Sealed(sealed("new")))]);
    // What the first one left in the vault is removed only now.
    site.observed.vaults.get_mut(&VaultName::from("main")).unwrap().snapshots = vec![
        (RunId(1), Attempt(1), sealed("old")),
        (RunId(1), Attempt(2), sealed("new")),
        (RunId(9), Attempt(1), sealed("unknown")),
    ];
    let discards: Vec<_> =
        site.settle().orders.into_iter().filter(|order| matches!(order, Order::Discard { .. })).collect();
    assert!(
        matches!(&discards[..], [Order::Discard { snapshot, .. }] if snapshot.0 == "old"),
        "{discards:?}"
    );
}

#[test]
fn a_snapshot_that_reached_the_vault_before_its_executor_died_counts() {
    let mut site = Site::new(|_| {});
    site.until("2026-11-23T23:00:01Z");
    site.settle();
    site.observed.nodes.get_mut(&A).unwrap().alive = false;
    site.settle();
    site.observed.vaults.get_mut(&VaultName::from("main")).unwrap().snapshots =
        vec![(RunId(1), Attempt(1), sealed("s1"))];
    site.goes_on(Span(5));
    site.settle();
    assert_eq!(site.outcomes(), [(RunId(1), Attempt(1), Outcome::Sealed(sealed("s1")))]);
}

#[test]
fn a_run_follows_a_service_that_is_moved_while_both_nodes_live() {
    let mut site = Site::new(|_| {});
    site.until("2026-11-23T23:00:01Z");
    site.settle();
    site.says(Place::Node(A), 1, 1, AttemptState::Working(Progress::default()));
    site.observed.volumes.insert("data".into(), B);
    site.observed.services.insert("db".into(), B);
    site.goes_on(Span(5));
    assert_eq!(starts(&site.settle()), [(Place::Node(B), 1, 2)]);
    assert_eq!(site.records.runs[&RunId(1)].trouble.as_deref(), Some("its source is now at node b"));
    assert_eq!(site.records.runs[&RunId(1)].failed, 0, "a move is no failure");
}

#[test]
fn a_restarted_daemon_has_lost_its_attempt() {
    let mut site = Site::new(|_| {});
    site.until("2026-11-23T23:00:01Z");
    site.settle();
    site.observed.nodes.get_mut(&A).unwrap().session = None;
    site.goes_on(Span(20));
    assert!(matches!(site.settle().runs[0].stand, Stand::Running { .. }), "silent for a moment is not lost");
    site.observed.nodes.get_mut(&A).unwrap().session = Some(2);
    site.goes_on(Span(5));
    assert_eq!(starts(&site.settle()), [(Place::Node(A), 1, 2)]);
}

#[test]
fn a_failed_attempt_is_tried_again_after_a_growing_pause_until_the_run_fails() {
    let mut site = Site::new(|_| {});
    site.until("2026-11-23T23:00:01Z");
    site.settle();
    let mut pauses = Vec::new();
    for attempt in 1..=3 {
        site.says(
            Place::Node(A),
            1,
            attempt,
            AttemptState::Failed { reason: "no space".into(), again: true },
        );
        site.goes_on(Span(3));
        let failed_at = site.now.wall;
        site.settle();
        site.observed.attempts.clear();
        for _ in 0..10_000 {
            if site.records.runs.is_empty() || site.records.runs[&RunId(1)].attempt.0 > attempt {
                break;
            }
            site.goes_on(Span(3));
            site.settle();
        }
        pauses.push(site.now.wall.since(failed_at).0 / 60);
    }
    assert_eq!(pauses, [5, 15, 0]);
    assert_eq!(site.outcomes(), [(RunId(1), Attempt(3), Outcome::Failed("no space".into()))]);
    assert_eq!(site.records.target(&"nightly".into(), &"service/db".into()).unwrap().failures, 1);
}

#[test]
fn what_would_fail_again_is_not_tried_again() {
    let mut site = Site::new(|_| {});
    site.until("2026-11-23T23:00:01Z");
    site.settle();
    site.says(Place::Node(A), 1, 1, AttemptState::Failed { reason: "no such plugin".into(), again: false });
    site.goes_on(Span(3));
    site.settle();
    assert_eq!(site.outcomes().len(), 1);
}

#[test]
fn while_everything_was_off_the_plan_says_what_becomes_of_what_was_missed() {
    for (missed, passed, runs) in [
        (Missed::CatchUp, vec![(Why::CaughtUp, 2)], 1),
        (Missed::Report, vec![(Why::Missed, 3)], 0),
        (Missed::Ignore, vec![(Why::Ignored, 3)], 0),
    ] {
        let mut site = Site::new(|plan| plan.missed = missed);
        site.until("2026-11-26T08:00:00Z");
        site.settle();
        assert_eq!(site.passed(), passed, "{missed:?}");
        assert_eq!(site.records.runs.len(), runs);
        if let Some(run) = site.records.runs.values().next() {
            assert_eq!(run.cause, Cause::CatchUp(3));
            assert_eq!(run.occurrence, Some(at("2026-11-25T23:00:00Z")));
        }
        // Settled: nothing is counted twice.
        site.goes_on(Span::hours(1));
        site.settle();
        assert_eq!(site.passed(), passed);
    }
}

#[test]
fn an_occurrence_during_the_run_before_is_passed_over_waits_or_replaces() {
    for (overlap, open, passed) in
        [(Overlap::Skip, vec![1], 2), (Overlap::Wait, vec![1, 2], 1), (Overlap::Replace, vec![3], 0)]
    {
        let mut site = Site::new(|plan| plan.overlap = overlap);
        for day in 23..=25 {
            site.until(&format!("2026-11-{day}T23:00:01Z"));
            site.settle();
            site.says(Place::Node(A), 1, 1, AttemptState::Working(Progress::default()));
        }
        let runs: Vec<u64> = site.records.runs.keys().map(|run| run.0).collect();
        assert_eq!(runs, open, "{overlap:?}");
        assert_eq!(site.passed().iter().filter(|(why, _)| *why == Why::Overlapped).count(), passed);
    }
}

#[test]
fn limits_hold_runs_back_and_the_more_important_goes_first() {
    let files = |on: &str| Source::Files {
        on: on.into(),
        name: None,
        paths: vec!["/".into()],
        exclude: vec![],
        one_file_system: false,
    };
    let mut site = Site::new(|plan| {
        plan.what = vec![files("a"), files("b"), files("c")];
        plan.limits = Limits { concurrent: 2, ..Limits::default() };
    });
    let mut other = nightly(&VaultName::from("main"), "UTC");
    other.name = "important".into();
    other.spread = Span(0);
    other.priority = 90;
    other.keep = Keep { last: 1, ..Keep::default() };
    other.what = vec![files("b")];
    site.set(&other);
    site.scheduler.settings.concurrent = 2;
    site.until("2026-11-23T23:00:01Z");
    let step = site.settle();
    let mut begun: Vec<_> = site
        .records
        .runs
        .values()
        .filter(|run| run.place().is_some())
        .map(|run| run.plan.0.as_str())
        .collect();
    begun.sort_unstable();
    assert_eq!(begun, ["important", "nightly"]);
    assert_eq!(starts(&step).len(), 2);
    let whys: Vec<_> = step
        .runs
        .iter()
        .filter_map(|run| match &run.stand {
            Stand::Waiting { why } => Some(why.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(whys, ["2 runs go on at the site, which is its limit"; 2]);
}

#[test]
fn a_run_whose_source_cannot_be_reached_waits_and_says_so_and_is_overdue_after_a_while() {
    let mut site = Site::new(|plan| {
        plan.what = vec![Source::Files {
            on: "web1".into(),
            name: None,
            paths: vec!["/".into()],
            exclude: vec![],
            one_file_system: false,
        }]
    });
    site.until("2026-11-23T23:00:01Z");
    assert_eq!(site.waits_for(), "there is no machine web1");
    let token =
        crate::record::ClientToken { hash: "h".into(), name: None, expires: site.now.wall.after(Span(60)) };
    site.records.apply(&Change::AddClientToken { token, at: site.now.wall }).unwrap();
    let client = NewClient { name: "web1".into(), fingerprint: "f".into(), platform: "linux".into() };
    let joined =
        site.records.apply(&Change::JoinClient { token: "h".into(), at: site.now.wall, client }).unwrap();
    assert_eq!(joined, Applied::Client(ClientId(1)));
    assert_eq!(site.waits_for(), "client web1 is not connected; waits for it");
    site.goes_on(Span::hours(3));
    assert!(site.settle().runs[0].overdue);
    site.observed.clients.insert(ClientId(1), ClientSeen { session: 7 });
    assert_eq!(starts(&site.settle()), [(Place::Client(ClientId(1)), 1, 1)]);
}

#[test]
fn a_run_is_given_up_when_its_plan_says_so() {
    let mut site = Site::new(|plan| plan.limits.wait = Some(Span::hours(2)));
    site.observed.vaults.get_mut(&VaultName::from("main")).unwrap().trouble = Some("its disk is full".into());
    site.until("2026-11-23T23:00:01Z");
    assert_eq!(site.waits_for(), "vault main: its disk is full");
    site.goes_on(Span::hours(2));
    site.settle();
    assert!(
        matches!(&site.outcomes()[..], [(_, Attempt(0), Outcome::Failed(why))] if why.contains("disk is full"))
    );
}

#[test]
fn a_run_that_takes_too_long_is_stopped_even_if_its_executor_does_not_stop_it() {
    let mut site = Site::new(|plan| plan.limits.run_time = Some(Span::hours(1)));
    site.until("2026-11-23T23:00:01Z");
    site.settle();
    site.says(Place::Node(A), 1, 1, AttemptState::Working(Progress::default()));
    site.goes_on(Span::minutes(69));
    site.settle();
    assert!(site.records.runs[&RunId(1)].place().is_some());
    site.goes_on(Span::minutes(2));
    let step = site.settle();
    assert_eq!(site.records.runs[&RunId(1)].failed, 1);
    assert!(step.orders.iter().any(|order| matches!(order, Order::Stop { attempt: Attempt(1), .. })));
}

#[test]
fn a_target_that_its_plan_no_longer_names_is_cancelled_and_forgotten() {
    let mut site = Site::new(|_| {});
    site.until("2026-11-23T23:00:01Z");
    site.settle();
    site.observed.inventory = crate::plan::Inventory::default();
    site.goes_on(Span(3));
    site.settle();
    assert!(
        matches!(&site.outcomes()[..], [(_, _, Outcome::Cancelled(why))] if why.contains("no longer names"))
    );
    assert!(site.records.targets.is_empty());
}

#[test]
fn a_clock_that_was_ahead_does_not_silence_a_plan() {
    let mut site = Site::new(|_| {});
    site.until("2036-11-23T23:00:01Z");
    site.settle();
    site.says(Place::Node(A), 1, 1, AttemptState::Sealed(sealed("s1")));
    site.goes_on(Span(3));
    site.settle();
    site.observed.attempts.clear();
    // The next leader knows the true time, ten years earlier.
    site.scheduler = Scheduler::default();
    site.now.wall = at("2026-11-24T22:59:00Z");
    site.settle();
    assert!(site.passed().contains(&(Why::ClockAhead, 0)));
    site.until("2026-11-24T23:00:01Z");
    site.settle();
    assert_eq!(site.records.runs.len(), 1);
}

#[test]
fn a_plan_of_a_newer_build_is_named_and_its_runs_wait() {
    let mut site = Site::new(|_| {});
    site.until("2026-11-23T23:00:01Z");
    site.observed.vaults.get_mut(&VaultName::from("main")).unwrap().trouble = Some("full".into());
    site.settle();
    site.records.plans.get_mut(&"nightly".into()).unwrap().text = "{\"name\":\"nightly\",\"new\":1}".into();
    site.records.plans.get_mut(&"nightly".into()).unwrap().revision += 1;
    let step = site.settle();
    assert_eq!(step.troubles.len(), 1);
    assert!(matches!(&step.runs[0].stand, Stand::Waiting { why } if why.contains("cannot be read")));
}
