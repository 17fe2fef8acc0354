//! Three machines whose executors run real processes, under a leader. The ledger is a state that every change is applied
//! to at once; what the leader sees is what the machines report.

use super::*;
use anshin_base::{LedgerIndex, Millis};
use anshin_director::{
    UnixMillis,
    plan::{Plan, nightly},
    record::{Cause, EventKind, NewRun, Outcome, Place, RunReport},
    run::{Now, Order, Scheduler, Settings},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::{mpsc, oneshot};

struct Machine {
    up: bool,
    session: u64,
    executor: Executor,
    events: (mpsc::Sender<DirectorEvent>, mpsc::Receiver<DirectorEvent>),
}

impl Machine {
    fn new(session: u64) -> Self {
        Self { up: true, session, executor: Executor::new(session), events: mpsc::channel(100) }
    }
}

struct Site {
    scratch: Scratch,
    executable: PathBuf,
    state: State,
    index: u64,
    leader: Scheduler,
    machines: BTreeMap<NodeId, Machine>,
    primary: u64,
}

impl Site {
    /// `script` is the executor; its argument is the number of its node.
    fn new(script: &str, change: impl FnOnce(&mut Plan)) -> Self {
        let scratch = Scratch::new();
        let executable = scratch.script(script);
        let mut state = State::clone(&fixture::site().state);
        register_vault(&mut state);
        let machines = (1..=3).map(|id| (NodeId(id), Machine::new(u64::from(id)))).collect();
        let mut site =
            Self { scratch, executable, state, index: 100, leader: leader(), machines, primary: 1 };
        let mut plan = nightly(&"main".into(), "UTC");
        plan.when.clear();
        plan.retry.wait = Span(0);
        change(&mut plan);
        let text = plan.to_json();
        site.apply(Change::SetPlan {
            plan: plan.name,
            text,
            vault: plan.vault,
            expect: 0,
            at: wall(),
            restart: true,
        });
        site
    }

    fn apply(&mut self, change: Change) {
        self.index += 1;
        // A change that comes too late is refused; that is what the expectations in it are for.
        let _ = self.state.apply(LedgerIndex(self.index), &Command::Director(change));
    }

    fn open(&mut self) -> RunId {
        let run = NewRun {
            plan: "nightly".into(),
            target: "service/db".into(),
            locus: anshin_director::plan::Locus::Service("db".into()),
            cause: Cause::Operator("root".into()),
            occurrence: None,
            due: wall(),
        };
        self.apply(Change::Open { run, expect: UnixMillis(0), passed: None, at: wall() });
        self.state.director.records().run_last
    }

    fn world(&self, me: NodeId) -> World {
        let mut world = fixture::site();
        world.me = me;
        world.state = Arc::new(self.state.clone());
        fixture::set_primary(&mut world, "data", self.primary);
        fixture::serve(&mut world, "data", NodeId(self.primary as u32));
        for (id, machine) in &self.machines {
            let heard = world.heard.get_mut(id).unwrap();
            (heard.alive, heard.age_ms) = (machine.up, Some(if machine.up { 50 } else { 2_000 }));
            let report = world.reports.get_mut(id).unwrap();
            report.start = machine.session;
            report.attempts = machine.executor.reports();
        }
        world.reports.get_mut(&NodeId(3)).unwrap().vaults =
            vec![VaultReport { name: "main".into(), trouble: None, snapshots: Vec::new() }];
        world.reports.retain(|id, _| self.machines[id].up);
        world
    }

    fn look(&mut self) {
        for machine in self.machines.values_mut() {
            while let Ok(event) = machine.events.1.try_recv() {
                match event {
                    DirectorEvent::Said { run, attempt, state } => machine.executor.said(run, attempt, state),
                    DirectorEvent::Ended { run, attempt, how } => machine.executor.ended(run, attempt, &how),
                    // Of vaults and of restores in place there are none here.
                    DirectorEvent::Vault { .. }
                    | DirectorEvent::Flush { .. }
                    | DirectorEvent::StopPart { .. } => false,
                };
            }
        }
        let seen = observed(&self.world(NodeId(2)));
        let now = Now { wall: wall(), mono: crate::daemon::clock() };
        let step = self.leader.step(now, self.state.director.records(), &seen);
        for order in step.orders {
            match order {
                Order::Propose(change) => self.apply(change),
                Order::Start { place: Place::Node(node), session, work } => self.start(node, session, &work),
                Order::Stop { place: Place::Node(node), run, attempt, .. } => {
                    let machine = self.machines.get_mut(&node).unwrap();
                    if machine.up {
                        machine.executor.drop_attempt(run, attempt);
                    }
                }
                _ => {}
            }
        }
    }

    fn start(&mut self, node: NodeId, session: u64, work: &Work) {
        let world = self.world(node);
        let machine = self.machines.get_mut(&node).unwrap();
        if !machine.up {
            return;
        }
        let now = crate::daemon::clock();
        let Some(job) = machine.executor.order(now, session, work, || ready(&world, work, true)) else {
            return;
        };
        let (stopper, stop) = oneshot::channel();
        let log = self.scratch.path("backup.log");
        let arguments = vec![node.0.to_string()];
        launch(
            Launch { executable: self.executable.clone(), arguments, log, job },
            stop,
            machine.events.0.clone(),
        );
        machine.executor.started(work.run, work.attempt, stopper);
    }

    /// The machine is gone with everything that ran on it.
    fn kill(&mut self, node: u32) {
        let machine = self.machines.get_mut(&NodeId(node)).unwrap();
        *machine = Machine::new(machine.session + 10);
        machine.up = false;
    }

    async fn until<T>(&mut self, what: &str, mut shows: impl FnMut(&Self) -> Option<T>) -> T {
        let begun = std::time::Instant::now();
        loop {
            self.look();
            if let Some(found) = shows(self) {
                return found;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "no {what}: {:?}",
                self.state.director.records()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn report(&self, run: RunId) -> Option<RunReport> {
        self.state.director.records().events.iter().find_map(|event| match &event.kind {
            EventKind::Ended(report) if report.run == run => Some(report.clone()),
            _ => None,
        })
    }

    fn works(&self, node: u32) -> Option<()> {
        // Begun for sure: the process has written that it works.
        self.scratch.path(&format!("executor.works.{node}")).exists().then_some(())
    }
}

fn leader() -> Scheduler {
    Scheduler::new(Settings { again: Millis(50), ..Settings::default() })
}

fn wall() -> UnixMillis {
    UnixMillis(jiff::Timestamp::now().as_millisecond())
}

/// Works for ever on node 1, seals on others; and on node 1 as well once a file says so.
const MOVER: &str = r#"
    read -r job
    trap 'touch "$0.stopped.$1"; exit 1' TERM
    touch "$0.works.$1"
    if [ "$1" = 1 ]; then while [ ! -e "$0.go" ]; do sleep 0.05; done; fi
    echo "{\"sealed\":{\"snapshot\":\"by-$1\",\"files\":1,\"bytes\":1,\"new_bytes\":1,\"warnings\":0}}""#;

#[tokio::test]
async fn a_run_whose_node_dies_is_finished_under_its_id_by_the_node_that_takes_over() {
    let mut site = Site::new(MOVER, |_| {});
    let run = site.open();
    site.until("work on node 1", |site| site.works(1)).await;
    site.kill(1);
    // Dead, and nobody has taken over: the run does not go on, and is not given up.
    for _ in 0..10 {
        site.look();
    }
    assert_eq!(site.report(run), None);
    site.primary = 2;
    let report = site.until("end", |site| site.report(run)).await;
    assert_eq!((report.run, report.attempt, report.place), (run, Attempt(2), Some(Place::Node(NodeId(2)))));
    assert!(matches!(report.outcome, Outcome::Sealed(sealed) if sealed.snapshot == "by-2".into()));
}

#[tokio::test]
async fn a_successor_of_the_leader_lets_the_attempt_go_on() {
    let mut site = Site::new(MOVER, |_| {});
    let run = site.open();
    site.until("work on node 1", |site| site.works(1)).await;
    site.leader = leader();
    for _ in 0..10 {
        site.look();
    }
    std::fs::write(site.scratch.path("executor.go"), "").unwrap();
    let report = site.until("end", |site| site.report(run)).await;
    assert_eq!((report.attempt, report.place), (Attempt(1), Some(Place::Node(NodeId(1)))));
}

#[tokio::test]
async fn a_planned_move_ends_the_attempt_and_the_run_goes_on_there() {
    let mut site = Site::new(MOVER, |_| {});
    let run = site.open();
    site.until("work on node 1", |site| site.works(1)).await;
    let now = crate::daemon::clock();
    assert!(site.machines.get_mut(&NodeId(1)).unwrap().executor.leave(now, "data"));
    site.primary = 2;
    let report = site.until("end", |site| site.report(run)).await;
    assert_eq!((report.attempt, report.place), (Attempt(2), Some(Place::Node(NodeId(2)))));
    site.until("stopped process", |site| site.scratch.path("executor.stopped.1").exists().then_some(()))
        .await;
}

#[tokio::test]
async fn a_daemon_that_was_restarted_has_lost_its_attempts() {
    let mut site = Site::new(MOVER, |_| {});
    let run = site.open();
    site.until("work on node 1", |site| site.works(1)).await;
    std::fs::write(site.scratch.path("executor.go"), "").unwrap();
    site.kill(1);
    site.machines.get_mut(&NodeId(1)).unwrap().up = true;
    let report = site.until("end", |site| site.report(run)).await;
    assert_eq!((report.attempt, report.place), (Attempt(2), Some(Place::Node(NodeId(1)))));
}

#[tokio::test]
async fn a_cancelled_run_stops_its_process() {
    let mut site = Site::new(MOVER, |_| {});
    let run = site.open();
    site.until("work on node 1", |site| site.works(1)).await;
    site.apply(Change::Cancel { run, reason: "by root".into(), at: wall() });
    site.until("stopped process", |site| site.scratch.path("executor.stopped.1").exists().then_some(()))
        .await;
    assert!(matches!(site.report(run).unwrap().outcome, Outcome::Cancelled(_)));
    site.until("dropped attempt", |site| {
        site.machines[&NodeId(1)].executor.reports().is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_fails_is_tried_again_and_then_given_up_with_its_reason() {
    let script = r#"
        read -r job
        echo x >> "$0.tries"
        echo '{"failed":{"reason":"the disk is on fire","again":true}}'"#;
    let mut site = Site::new(script, |plan| plan.retry.attempts = 3);
    let run = site.open();
    let report = site.until("end", |site| site.report(run)).await;
    assert_eq!(report.attempt, Attempt(3));
    assert!(matches!(&report.outcome, Outcome::Failed(why) if why == "the disk is on fire"), "{report:?}");
    assert_eq!(std::fs::read_to_string(site.scratch.path("executor.tries")).unwrap(), "x\nx\nx\n");
}
