//! Backups: the director's part of the core ([`crate::daemon::director`]).

use super::{Core, Event};
use crate::daemon::{
    director::{
        ArchiveReport, Archives, DirectorEvent, DirectorMessage, DirectorNow, Executor, Keeper, KeeperSeen,
        Launch, VaultReport, job, launch, observed, wanted_archives, watch,
    },
    messages::Message,
    parts::{parts, services},
};
use anshin_agent::release;
use anshin_base::{Millis, Mono, NodeId};
use anshin_director::{
    SnapshotId, Span, UnixMillis, VaultName,
    plan::nightly,
    record::{Change, Place},
    run::{Now, Order, Scheduler, Work},
};
use anshin_ledger::Command as LedgerCommand;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

/// How often runs and calendars are looked at, by the leader and by the others.
const LOOK_EVERY: Millis = Millis(500);
/// A proposal of the default plan that shows no effect is repeated after this.
const NIGHTLY_AGAIN: Millis = Millis(5_000);
/// A vault is told to give up what was given up within this time, if it still has it.
const FORGOTTEN_FOR: Span = Span::hours(24);
/// Events of backups that may wait.
const EVENTS_MAX: usize = 1_024;
/// Snapshots of a vault that a report names.
const SNAPSHOTS_REPORTED: usize = 50;
/// Snapshots that a vault is asked to give up at once.
const GIVEN_UP_AT_ONCE: usize = 500;

/// What the core keeps of backups.
pub struct Backups {
    scheduler: Scheduler,
    executor: Executor,
    archives: Archives,
    looked: Mono,
    /// Whether the last look was a leader's.
    led: bool,
    events: mpsc::Sender<DirectorEvent>,
    keeper: Arc<dyn Keeper>,
    /// Vaults of this node that are looked at.
    watched: BTreeMap<VaultName, JoinHandle<()>>,
    /// What was seen of them last.
    vaults: BTreeMap<VaultName, KeeperSeen>,
    /// When the default plan was proposed last.
    nightly: Option<Mono>,
}

impl Backups {
    /// Nothing yet, of the daemon's start `session`. What happens is sent on to `core`.
    pub fn new(session: u64, keeper: Arc<dyn Keeper>, core: mpsc::Sender<Event>) -> Self {
        let (events, mut queue) = mpsc::channel(EVENTS_MAX);
        tokio::spawn(async move {
            while let Some(event) = queue.recv().await {
                if core.send(Event::Director(event)).await.is_err() {
                    return;
                }
            }
        });
        Self {
            scheduler: Scheduler::default(),
            executor: Executor::new(session),
            archives: Archives::default(),
            looked: Mono(0),
            led: false,
            events,
            keeper,
            watched: BTreeMap::new(),
            vaults: BTreeMap::new(),
            nightly: None,
        }
    }

    /// What this node says of its attempts.
    pub fn attempts(&self) -> Vec<crate::daemon::director::AttemptReport> {
        self.executor.reports()
    }

    /// What this node says of the archives that it runs.
    pub fn archives(&self) -> Vec<ArchiveReport> {
        self.archives.reports()
    }

    /// What this node says of its vaults.
    pub fn vaults(&self) -> Vec<VaultReport> {
        let report = |(name, seen): (&VaultName, &KeeperSeen)| {
            let skip = seen.snapshots.len().saturating_sub(SNAPSHOTS_REPORTED);
            VaultReport {
                name: name.clone(),
                trouble: seen.trouble.clone(),
                snapshots: seen.snapshots[skip..]
                    .iter()
                    .map(|one| (one.label.run, one.label.attempt, one.sealed.clone()))
                    .collect(),
            }
        };
        self.vaults.iter().map(report).collect()
    }
}

impl Core {
    /// Looks at runs and calendars; the leader carries out what comes of it.
    pub(super) fn direct(&mut self) {
        let leads = self.world.leads();
        let mono = self.now();
        if mono.since(self.backups.looked) < LOOK_EVERY && leads == self.backups.led || !self.world.quorate {
            return;
        }
        if leads && !self.backups.led {
            // What it believed to have proposed while another led, nobody proposed.
            self.backups.scheduler = Scheduler::default();
        }
        (self.backups.looked, self.backups.led) = (mono, leads);
        self.keep_watching();
        let log = self.setup.paths.run.join("archive.log");
        let wall = UnixMillis(jiff::Timestamp::now().as_millisecond());
        let archives = wanted_archives(&self.world);
        self.backups.archives.keep(mono, wall, archives, &self.setup.executable, &log);
        let state = self.world.state.clone();
        let seen = observed(&self.world);
        let step = self.backups.scheduler.step(Now { wall, mono }, state.director.records(), &seen);
        self.world.director = Arc::new(DirectorNow::of(&step, wall, mono));
        // Orders of a leader that has not heard of everybody yet would be for attempts that others already speak of.
        if leads && self.knows_all_living() {
            self.plan_nightly(wall);
            step.orders.into_iter().for_each(|order| self.carry_out(order));
        }
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            Order::Propose(change) => self.propose_quietly(LedgerCommand::Director(change)),
            Order::Start { place, session, work } => {
                self.tell_place(place, DirectorMessage::Start { session, work });
            }
            Order::Stop { place, run, attempt, why } => {
                self.tell_place(place, DirectorMessage::Stop { run, attempt, why });
            }
            Order::Discard { vault, snapshot, why } => self.give_up(&vault, vec![snapshot], why),
            Order::Happened { subject, what, why } => self.note(&subject, &what, &why),
        }
    }

    /// Has the node that serves a vault give up snapshots.
    pub(super) fn give_up(&mut self, vault: &VaultName, snapshots: Vec<SnapshotId>, why: String) {
        let node = self.world.state.director.records().vaults.get(vault).map(|vault| vault.node);
        if let Some(node) = node {
            self.tell_place(
                Place::Node(node),
                DirectorMessage::Forget { vault: vault.clone(), snapshots, why },
            );
        }
    }

    fn tell_place(&mut self, place: Place, message: DirectorMessage) {
        match place {
            Place::Node(node) if node == self.setup.me => self.director_message(node, message),
            Place::Node(node) => self.setup.voter.send(node, Message::Director(message).encode()),
            // A client that is connected would have to be seen first.
            Place::Client(client) => tracing::debug!(%client, "no way to a client"),
        }
    }

    /// From the leading daemon.
    pub(super) fn director_message(&mut self, from: NodeId, message: DirectorMessage) {
        // What an executor works on is decided by attempt numbers; but what a vault gives up is gone.
        if self.world.leader.is_some_and(|leader| leader != from) {
            tracing::warn!(%from, "an order for backups of a node that does not lead");
            return;
        }
        match message {
            DirectorMessage::Start { session, work } => self.start_attempt(session, &work),
            DirectorMessage::Stop { run, attempt, why } => {
                if self.backups.executor.drop_attempt(run, attempt) {
                    tracing::info!(%run, %attempt, why, "an attempt is dropped");
                    self.refresh_own_report();
                }
            }
            DirectorMessage::Forget { vault, snapshots, why } => {
                let keeper = self.backups.keeper.clone();
                tokio::spawn(async move {
                    if let Err(problem) = keeper.forget(&vault, snapshots, false, &why).await {
                        tracing::warn!(%vault, %problem, "a vault does not give up snapshots; it is asked again");
                    }
                });
            }
        }
    }

    fn start_attempt(&mut self, session: u64, work: &Work) {
        let (world, paths, now) = (&self.world, &self.setup.paths, self.now());
        let prepare = || job(world, paths, &|mount| release::is_mounted(mount), work);
        let prepared = self.backups.executor.order(now, session, work, prepare);
        if let Some(job) = prepared {
            let (run, attempt) = (work.run, work.attempt);
            let (stopper, stop) = oneshot::channel();
            let log = self.setup.paths.run.join("backup.log");
            let executable = self.setup.executable.clone();
            let arguments = vec!["run".into(), "backup".into()];
            launch(Launch { executable, arguments, log, job }, stop, self.backups.events.clone());
            self.backups.executor.started(run, attempt, stopper);
            self.note(
                &format!("run/{}", run.0),
                &format!("attempt {attempt} of {} begins here", work.target),
                "",
            );
        }
        self.refresh_own_report();
    }

    /// A part of a service is about to be stopped: what reads from its volume must not hold it back.
    pub(super) fn leave_before(&mut self, order: &crate::daemon::messages::Order) {
        use crate::daemon::messages::Work;
        let below = match &order.work {
            Work::Volume { .. } => true,
            Work::Agent(resource) => resource.kind == "Filesystem",
        };
        let service = order.resource.rsplit_once('.').map(|(service, _)| service);
        let all = services(&self.world.state);
        let service = all.iter().find(|known| Some(known.name.as_str()) == service);
        if let Some(volume) = service.and_then(|service| service.volume.clone()).filter(|_| below) {
            self.leave_volume(&volume);
        }
    }

    /// A volume is about to leave this node.
    pub(super) fn leave_volume(&mut self, volume: &str) {
        let all = services(&self.world.state);
        for service in all.iter().filter(|service| service.volume.as_deref() == Some(volume)) {
            self.backups.archives.leave(&service.name);
        }
        if self.backups.executor.leave(self.now(), volume) {
            self.note(
                volume,
                "the backup of it is stopped here",
                "the volume leaves this node; the run goes on where it is then",
            );
        }
    }

    pub(super) fn director_event(&mut self, event: DirectorEvent) {
        let news = match event {
            DirectorEvent::Said { run, attempt, state } => self.backups.executor.said(run, attempt, state),
            DirectorEvent::Ended { run, attempt, how } => self.backups.executor.ended(run, attempt, &how),
            DirectorEvent::Flush { service, done } => {
                let moved = self.backups.archives.flush(&service);
                tokio::spawn(async move {
                    let archived = match moved {
                        Some(moved) => moved.await.is_ok(),
                        None => false,
                    };
                    let _ = done.send(archived);
                });
                false
            }
            DirectorEvent::StopPart { resource, why } => {
                self.stop_part(&resource, &why);
                false
            }
            DirectorEvent::Vault { vault, seen } => {
                self.give_up_forgotten(&vault, &seen);
                let known = self.backups.vaults.insert(vault, seen.clone());
                known.as_ref() != Some(&seen)
            }
        };
        if news {
            self.refresh_own_report();
        }
    }

    /// Stops a part of a service here, and leaves it to the leader to see that and to have it started again.
    fn stop_part(&mut self, resource: &str, why: &str) {
        let state = self.world.state.clone();
        let mut all = services(&state).into_iter().flat_map(|service| parts(&state, &service));
        let Some(part) = all.find(|part| part.id == resource) else { return };
        self.note(resource, "is stopped for a moment", why);
        let order = crate::daemon::messages::Order {
            request: 0,
            resource: part.id,
            work: part.work,
            operation: "stop".into(),
            interval: Millis(0),
            timeout: part.stop,
            expected: 0,
            needs_mount: None,
        };
        self.take_order(None, order);
    }

    /// What the ledger says was given up and the vault still has goes now: whoever recorded it may have died before it could
    /// tell the vault. Only for a while, and not what somebody took back.
    fn give_up_forgotten(&mut self, vault: &VaultName, seen: &KeeperSeen) {
        let since = UnixMillis(jiff::Timestamp::now().as_millisecond()).before(FORGOTTEN_FOR);
        let records = self.world.state.director.records();
        let forgotten: BTreeSet<&SnapshotId> = records.forgotten(vault, since).collect();
        let there = seen.snapshots.iter().map(|one| &one.sealed.snapshot);
        // Taken back by somebody since.
        let given_up = |id: &&SnapshotId| forgotten.contains(id) && !records.holds.contains_key(*id);
        let left = there.filter(given_up).chain(&seen.logs_done);
        // More than fits one question to the vault goes with the next looks.
        let left: Vec<SnapshotId> = left.take(GIVEN_UP_AT_ONCE).cloned().collect();
        let twice: Vec<SnapshotId> = seen.logs_held_twice.iter().take(GIVEN_UP_AT_ONCE).cloned().collect();
        self.have_forgotten(vault, left, false, "it was given up by the rules of its plan");
        self.have_forgotten(vault, twice, true, "a later snapshot of the log holds it too");
    }

    fn have_forgotten(&self, vault: &VaultName, left: Vec<SnapshotId>, for_good: bool, why: &'static str) {
        if left.is_empty() {
            return;
        }
        let (keeper, vault) = (self.backups.keeper.clone(), vault.clone());
        tokio::spawn(async move {
            if let Err(problem) = keeper.forget(&vault, left, for_good, why).await {
                tracing::warn!(%vault, %problem, "a vault does not give up snapshots; it is asked again");
            }
        });
    }

    /// The first vault comes with a plan: every night everything. A site that ever had one is left alone.
    fn plan_nightly(&mut self, at: UnixMillis) {
        let records = self.world.state.director.records();
        let untouched = records.plans.is_empty() && records.position.0 == 0;
        let Some(vault) = records.vaults.keys().next().filter(|_| untouched) else { return };
        let zone = jiff::tz::TimeZone::system().iana_name().unwrap_or("UTC").to_owned();
        let plan = nightly(vault, &zone);
        let (text, vault) = (plan.to_json(), plan.vault.clone());
        let change = Change::SetPlan { plan: plan.name, text, vault, expect: 0, at, restart: true };
        let (mono, about) = (self.now(), "the first plan");
        if self.backups.nightly.is_none_or(|asked| mono.since(asked) >= NIGHTLY_AGAIN) {
            self.backups.nightly = Some(mono);
            self.note("plan/nightly", &format!("{about} is made"), "there is a vault and no plan yet");
            self.propose_quietly(LedgerCommand::Director(change));
        }
    }

    /// Looks at the vaults that the ledger says are served here, and at no others.
    fn keep_watching(&mut self) {
        let records = self.world.state.director.records();
        let mine: Vec<VaultName> = records
            .vaults
            .values()
            .filter(|vault| vault.node == self.setup.me)
            .map(|vault| vault.name.clone())
            .collect();
        let backups = &mut self.backups;
        backups.watched.retain(|name, watcher| {
            let wanted = mine.contains(name);
            if !wanted {
                watcher.abort();
            }
            wanted
        });
        backups.vaults.retain(|name, _| mine.contains(name));
        for name in mine {
            let (keeper, events) = (backups.keeper.clone(), backups.events.clone());
            backups.watched.entry(name.clone()).or_insert_with(|| watch(keeper, name, events));
        }
    }
}
