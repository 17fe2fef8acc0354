//! The daemon's one owner of state: everything that happens arrives here as an [`Event`], in order.

use super::{
    leader::{Command, Leader},
    local::LocalResources,
    messages::{Happened, Message, NodeReport, Order, VolumeReport, Work},
    model,
    parts::{self, services},
    voter_link::{VoterEvent, VoterLink},
    volumes::{self, Leftovers},
    world::{Heard, World},
};
use crate::{paths::Paths, supervise::Supervisor, view::Happening, voter::protocol};
use anshin_agent::{Action, Operation, OperationResult, Rc, Runner, Status};
use anshin_base::{ByteSize, GroupChange, GroupId, Millis, Mono, NodeId, Problem};
use anshin_device::control::{VolumeEvent, VolumeStatus};
use anshin_ledger::{Command as LedgerCommand, State};
use anshin_mirror::RoleName;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::sync::{broadcast, mpsc, watch};

/// How often time is looked at.
const TICK: Duration = Duration::from_millis(100);
/// A report is sent at least this often.
const REPORT_EVERY: Millis = Millis(1_000);
/// Happenings kept and told to others.
const HAPPENED_MAX: usize = 200;
/// Time before making a replica is tried again.
const MAKE_AGAIN: Duration = Duration::from_secs(5);
/// Time before taking down what would not go is tried again.
const TAKE_DOWN_AGAIN: Duration = Duration::from_millis(500);
/// Events that may wait; what produces them waits then.
pub const EVENTS_MAX: usize = 4_096;

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// From the voter.
    Voter(VoterEvent),
    /// An operation ended; `asked_by` is None for a repeated monitor.
    Ended {
        /// Which leader asked.
        asked_by: Option<NodeId>,
        /// What was asked.
        order: Order,
        /// What came of it.
        result: OperationResult,
    },
    /// A repeated monitor is due.
    MonitorDue(Order),
    /// A volume process told something; None when its connection ended.
    Volume(String, Option<Box<VolumeEvent>>),
    /// A volume process was asked for its status.
    VolumeStatus(String, Option<Box<VolumeStatus>>),
    /// A replica's files were made, or not.
    ReplicaMade(String, Result<(), Problem>),
    /// A background proposal was decided, or not.
    Proposed(String),
    /// What a lost primary role left behind is gone, or not yet.
    TakenDown(String, Result<(), Problem>),
}

/// What is known of a volume process on this node.
#[derive(Default)]
struct VolumeHere {
    status: Option<VolumeStatus>,
    /// Its first word arrived: what it is is known.
    heard: bool,
    cleaning: bool,
}

/// What the core needs.
pub struct Setup {
    /// This node.
    pub me: NodeId,
    /// Its name.
    pub name: String,
    /// Its directories.
    pub paths: Paths,
    /// The program, for processes it starts.
    pub executable: PathBuf,
    /// Runs operations.
    pub runner: Runner,
    /// The way to the voter.
    pub voter: VoterLink,
    /// Where its own tasks send what happened.
    pub events: mpsc::Sender<Event>,
    /// Where every new world is published.
    pub world: watch::Sender<Arc<World>>,
    /// Where happenings are told.
    pub happenings: broadcast::Sender<Happening>,
}

/// The daemon's state.
pub struct Core {
    setup: Setup,
    world: World,
    local: LocalResources,
    supervisor: Supervisor,
    volumes: BTreeMap<String, VolumeHere>,
    leader: Option<Leader>,
    happened: VecDeque<Happened>,
    start: u64,
    sequence: u64,
    reported: Mono,
    report_due: bool,
    quorate_at: Option<Mono>,
    /// Resources an operation runs on now, and orders that wait for it.
    busy: BTreeMap<String, VecDeque<(Option<NodeId>, Order)>>,
    proposed: BTreeSet<String>,
    formatting: BTreeSet<String>,
    last_primary: BTreeMap<GroupId, NodeId>,
    /// What the voter was told last.
    wanted: Option<protocol::Wanted>,
}

impl Core {
    /// A core that knows nothing of the site yet, and of this node what an earlier daemon left.
    ///
    /// # Errors
    /// If the run directory cannot be read.
    pub fn new(setup: Setup) -> Result<Self, Problem> {
        let run = setup.paths.run.clone();
        let local = LocalResources::load(run.join("resources.json"))?;
        let supervisor = Supervisor::new(setup.executable.clone(), run.clone(), run);
        let world = World { me: setup.me, ..World::default() };
        let start = crate::random_id()?;
        let mut core = Self {
            setup,
            world,
            local,
            supervisor,
            volumes: BTreeMap::new(),
            leader: None,
            happened: VecDeque::new(),
            start,
            sequence: 0,
            reported: Mono(0),
            report_due: true,
            quorate_at: None,
            busy: BTreeMap::new(),
            proposed: BTreeSet::new(),
            formatting: BTreeSet::new(),
            last_primary: BTreeMap::new(),
            wanted: None,
        };
        core.supervisor.want("voter", &["run".into(), "voter".into()]);
        core.supervisor.want("guard", &["run".into(), "guard".into()]);
        Ok(core)
    }

    /// Handles events until their senders are gone.
    pub async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        for order in self.local.recurring() {
            self.repeat(order);
        }
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.handle(event),
                    None => return,
                },
                _ = tick.tick() => self.tick(),
            }
            while let Ok(event) = events.try_recv() {
                self.handle(event);
            }
            self.settle();
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Voter(event) => self.voter_event(event),
            Event::Ended { asked_by, order, result } => self.ended(asked_by, &order, result),
            Event::MonitorDue(order) => {
                if self.local.recurs(&order.resource, order.interval) {
                    if self.busy.contains_key(&order.resource) {
                        self.repeat(order);
                    } else {
                        self.run_order(None, order);
                    }
                }
            }
            Event::Volume(volume, event) => self.volume_event(&volume, event.map(|event| *event)),
            Event::VolumeStatus(volume, status) => {
                if let Some(here) = self.volumes.get_mut(&volume) {
                    here.status = status.map(|status| *status);
                    here.heard |= here.status.is_some();
                    self.refresh_own_report();
                }
            }
            Event::Proposed(key) => {
                self.proposed.remove(&key);
            }
            Event::ReplicaMade(volume, made) => self.replica_made(&volume, made),
            Event::TakenDown(volume, result) => self.taken_down(&volume, result),
        }
    }

    fn tick(&mut self) {
        match self.supervisor.tick() {
            Ok(ended) => {
                for ended in ended {
                    tracing::error!(process = ended.name, how = ended.how, "a process ended and is started again");
                    let why = format!("it ended with {}", ended.how);
                    self.note(&self.setup.name.clone(), &format!("process {} is started again", ended.name), &why);
                }
            }
            Err(problem) => tracing::error!(%problem, "a process cannot be started"),
        }
        if self.now().since(self.reported).0 >= REPORT_EVERY.0 {
            self.report_due = true;
        }
        self.world.ledger_age_ms = match (self.world.quorate, self.quorate_at) {
            (true, _) => 0,
            (false, Some(at)) => self.now().since(at).0,
            (false, None) => u64::MAX / 2,
        };
        self.keep_volumes();
    }

    /// After everything that happened at once: lead, report, publish.
    fn settle(&mut self) {
        if self.report_due {
            self.send_report();
        }
        self.lead();
        if self.report_due {
            self.send_report();
        }
        self.setup.world.send_replace(Arc::new(self.world.clone()));
    }

    // ---- the voter ----

    fn voter_event(&mut self, event: VoterEvent) {
        match event {
            VoterEvent::Connected => {
                self.wanted = None;
                self.report_due = true;
                self.broadcast(&Message::Ask);
            }
            VoterEvent::Lost => {
                self.world.quorate = false;
                self.world.leader = None;
            }
            VoterEvent::Ledger(state) => self.new_state(*state),
            VoterEvent::Status(status) => {
                if status.leader != self.world.leader {
                    let whom = status.leader.map_or_else(|| "nobody".into(), |node| self.world.name_of(node));
                    self.note("ledger", &format!("{whom} leads"), "");
                }
                self.world.quorate = status.quorate;
                self.world.leader = status.leader;
                if status.quorate {
                    self.quorate_at = Some(self.now());
                }
            }
            VoterEvent::Nodes(nodes) => self.nodes(nodes),
            VoterEvent::Received { from, body } => match Message::decode(&body) {
                Ok(message) => self.received(from, message),
                Err(error) => tracing::warn!(%from, %error, "a message from another daemon cannot be read"),
            },
            VoterEvent::Notice(notice) => {
                tracing::warn!(?notice, "the voter");
                self.note("ledger", &format!("{notice:?}"), "");
            }
        }
    }

    fn nodes(&mut self, nodes: Vec<protocol::NodeLiveness>) {
        let silent = self.world.state.site.as_ref().map_or(1_000, |site| site.timing.silent.0);
        for node in nodes {
            let alive = node.heard.is_some_and(|age| age < silent);
            let was = self.world.heard.get(&node.node).is_some_and(|heard| heard.alive);
            if was != alive && node.node != self.setup.me {
                let what = if alive { "is heard" } else { "is no longer heard" };
                self.note(&self.world.name_of(node.node), what, "");
            }
            let heard = Heard {
                alive,
                dead: !alive,
                age_ms: node.heard,
                relayed: node.relay.is_some(),
                replicas: node.beat.map(|beat| beat.sign.reports).unwrap_or_default(),
            };
            self.world.heard.insert(node.node, heard);
        }
        if self.world.quorate {
            self.quorate_at = Some(self.now());
        }
    }

    fn new_state(&mut self, state: State) {
        self.world.state = Arc::new(state);
        let known: BTreeSet<NodeId> = self.world.state.nodes.keys().copied().collect();
        self.world.reports.retain(|node, _| known.contains(node));
        self.keep_volumes();
    }

    // ---- other daemons ----

    fn received(&mut self, from: NodeId, message: Message) {
        match message {
            Message::Report(report) => self.take_report(from, report),
            Message::Ask => self.report_due = true,
            Message::Run(order) => {
                // An order of somebody who no longer leads is not followed: its successor plans anew.
                if self.world.leader.is_some_and(|leader| leader != from) {
                    tracing::warn!(%from, resource = order.resource, "an order of a node that does not lead");
                    return;
                }
                self.take_order(Some(from), order);
            }
            Message::Ran { request, well, report } => {
                self.take_report(from, report);
                if let Some(leader) = &mut self.leader {
                    leader.ran(request, well);
                }
            }
            Message::Cancel { resource, interval, .. } => {
                self.local.cancel(&resource, interval);
                self.refresh_own_report();
            }
            Message::CleanUp { resource } => {
                self.local.clean_up(&resource, false);
                self.refresh_own_report();
            }
        }
    }

    fn take_report(&mut self, from: NodeId, report: NodeReport) {
        if report.node != from || from == self.setup.me {
            return;
        }
        let newer = self
            .world
            .reports
            .get(&from)
            .is_none_or(|known| known.start != report.start || known.sequence < report.sequence);
        if newer {
            self.world.reports.insert(from, report);
        }
    }

    fn broadcast(&mut self, message: &Message) {
        let body = message.encode();
        let others: Vec<NodeId> = self.world.state.nodes.keys().copied().filter(|&node| node != self.setup.me).collect();
        for node in others {
            self.setup.voter.send(node, body.clone());
        }
    }

    fn own_report(&mut self) -> NodeReport {
        self.sequence += 1;
        let expected = self.world.state.volumes.iter().filter(|(_, volume)| volume.replicas.contains_key(&self.setup.me));
        let heard = expected.map(|(name, _)| name).all(|name| self.volumes.get(name).is_some_and(|here| here.heard));
        let state = self.world.state.clone();
        let volumes: Vec<VolumeReport> = self
            .volumes
            .iter()
            .filter_map(|(name, here)| {
                let volume = state.volumes.get(name)?;
                here.status.as_ref().map(|status| {
                    volumes::report(status, |replica| {
                        volume.replicas.iter().find(|(_, held)| held.replica == Some(replica)).map(|(node, _)| *node)
                    })
                })
            })
            .collect();
        NodeReport {
            node: self.setup.me,
            version: env!("CARGO_PKG_VERSION").into(),
            start: self.start,
            sequence: self.sequence,
            cleaning: self.volumes.values().any(|here| here.cleaning),
            ready: heard && !self.world.state.nodes.is_empty(),
            resources: self.local.reports(),
            volumes,
            happened: self.happened.iter().cloned().collect(),
        }
    }

    fn refresh_own_report(&mut self) {
        let report = self.own_report();
        self.world.reports.insert(self.setup.me, report);
        self.report_due = true;
    }

    fn send_report(&mut self) {
        self.report_due = false;
        self.reported = self.now();
        let report = self.own_report();
        self.world.reports.insert(self.setup.me, report.clone());
        self.broadcast(&Message::Report(report));
    }

    // ---- leading ----

    fn lead(&mut self) {
        if !self.world.leads() {
            self.leader = None;
            self.wanted = None;
            return;
        }
        let mut leader = match self.leader.take() {
            Some(leader) => leader,
            None => {
                self.broadcast(&Message::Ask);
                // Plans of a leader that knows nothing of the others yet would probe what it could have heard.
                Leader::new(self.start)
            }
        };
        let commands = if self.knows_all_living() {
            leader.step(&self.world, self.now(), jiff::Timestamp::now().as_second())
        } else {
            Vec::new()
        };
        self.leader = Some(leader);
        for command in commands {
            match command {
                Command::Send(node, Message::Run(order)) if node == self.setup.me => {
                    self.take_order(Some(node), order);
                }
                Command::Send(node, message) if node == self.setup.me => self.received(node, message),
                Command::Send(node, message) => self.setup.voter.send(node, message.encode()),
                Command::Propose(change) => self.propose_quietly(LedgerCommand::Group(change)),
                Command::Happened { subject, what, why } => self.note(&subject, &what, &why),
            }
        }
        self.tell_wanted();
        self.create_groups();
        self.forget_moves_that_arrived();
    }

    fn knows_all_living(&self) -> bool {
        self.world.state.nodes.keys().all(|&node| !self.world.alive(node) || self.world.reports.contains_key(&node))
    }

    fn tell_wanted(&mut self) {
        let state = self.world.state.clone();
        for volume in state.volumes.values() {
            if let Some(node) = self.world.primary_node(volume) {
                self.last_primary.insert(volume.group, node);
            }
        }
        let wanted = model::wanted(&self.world, &self.last_primary);
        if self.wanted.as_ref() != Some(&wanted) && self.setup.voter.wanted(wanted.clone()) {
            self.wanted = Some(wanted);
        }
    }

    /// A group begins with the replica that its node made first; the others are resynced into it.
    fn create_groups(&mut self) {
        let state = self.world.state.clone();
        for volume in state.volumes.values().filter(|volume| !state.groups.contains_key(&volume.group)) {
            let first = volume.replicas.keys().find_map(|&node| {
                let replica = volume.replicas.get(&node)?.replica?;
                let live = self.world.live_member(volume, node)?;
                (live.replica == replica).then_some(live)
            });
            if let Some(first) = first {
                let change = GroupChange::Create { group: volume.group, first };
                self.propose_quietly(LedgerCommand::Group(change));
            }
        }
    }

    /// A move leaves no constraint behind: once the service has arrived, the wish is taken back.
    fn forget_moves_that_arrived(&mut self) {
        let state = self.world.state.clone();
        for service in state.services.values() {
            let arrived = service.preferred.is_some() && super::drill::running_on(&self.world, service) == service.preferred;
            let idle = self.leader.as_ref().is_some_and(|leader| leader.transition().is_none());
            if arrived && idle {
                let command = LedgerCommand::SetServicePreferred { service: service.name.clone(), preferred: None };
                self.propose_quietly(command);
            }
        }
    }

    /// Proposes in the background; what came of it shows in the ledger. The same command is not proposed twice at once.
    fn propose_quietly(&mut self, command: LedgerCommand) {
        let key = format!("{command:?}");
        if !self.proposed.insert(key.clone()) {
            return;
        }
        let (voter, events) = (self.setup.voter.clone(), self.setup.events.clone());
        tokio::spawn(async move {
            match voter.propose(command).await {
                Ok(Ok(_)) => {}
                Ok(Err(refused)) => tracing::debug!(%refused, "the ledger refused a proposal"),
                Err(problem) => tracing::debug!(%problem, "a proposal was not decided"),
            }
            // The state that shows the change may be on its way still; proposing it again would only be refused.
            tokio::time::sleep(TICK).await;
            let _ = events.send(Event::Proposed(key)).await;
        });
    }

    // ---- operations ----

    fn take_order(&mut self, from: Option<NodeId>, order: Order) {
        if let Some(queue) = self.busy.get_mut(&order.resource) {
            queue.push_back((from, order));
            return;
        }
        self.run_order(from, order);
    }

    fn run_order(&mut self, from: Option<NodeId>, order: Order) {
        self.busy.entry(order.resource.clone()).or_default();
        let (runner, paths, events) = (self.setup.runner.clone(), self.setup.paths.clone(), self.setup.events.clone());
        let file_system = match &order.work {
            Work::Volume { volume } => self.world.state.volumes.get(volume).and_then(|volume| volume.file_system.clone()),
            Work::Agent(_) => None,
        };
        if order.operation != "monitor" {
            tracing::info!(resource = order.resource, operation = order.operation, "running");
        }
        tokio::spawn(async move {
            let result = run_operation(&runner, &paths, &order, file_system.as_deref()).await;
            let _ = events.send(Event::Ended { asked_by: from, order, result }).await;
        });
    }

    fn ended(&mut self, asked_by: Option<NodeId>, order: &Order, result: OperationResult) {
        let well = self.local.ended(order, result.clone(), jiff::Timestamp::now().as_second());
        self.note_operation(order, &result, well);
        if order.interval.0 > 0 {
            self.repeat(order.clone());
        }
        self.refresh_own_report();
        if let Some(leader) = asked_by {
            let report = self.own_report();
            self.world.reports.insert(self.setup.me, report.clone());
            if leader == self.setup.me {
                if let Some(leader) = &mut self.leader {
                    leader.ran(order.request, well);
                }
            } else {
                let message = Message::Ran { request: order.request, well, report };
                self.setup.voter.send(leader, message.encode());
            }
        }
        let next = self.busy.get_mut(&order.resource).and_then(VecDeque::pop_front);
        match next {
            Some((from, order)) => self.run_order(from, order),
            None => {
                self.busy.remove(&order.resource);
            }
        }
    }

    fn note_operation(&mut self, order: &Order, result: &OperationResult, well: bool) {
        let what = match (order.operation.as_str(), well) {
            ("start", true) => "started",
            ("stop", true) => "stopped",
            ("start", false) => "could not be started",
            ("stop", false) => "could not be stopped",
            (_, false) if order.interval.0 > 0 => "failed",
            _ => return,
        };
        let reason = result.reason.clone().unwrap_or_else(|| if well { String::new() } else { result.rc.words().into() });
        let took = if well { format!("in {}", result.duration) } else { reason };
        self.note(&order.resource, what, &took);
    }

    fn repeat(&mut self, order: Order) {
        let events = self.setup.events.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(order.interval.0)).await;
            let _ = events.send(Event::MonitorDue(order)).await;
        });
    }

    // ---- volumes of this node ----

    /// Starts what should run here and is not known yet: a process per replica, made first if it has no files.
    fn keep_volumes(&mut self) {
        let state = self.world.state.clone();
        for volume in state.volumes.values() {
            let Some(replica) = volume.replicas.get(&self.setup.me) else { continue };
            if !volumes::exists(&self.setup.paths, &volume.name) {
                self.make_replica(volume.name.clone(), volume.size, volume.group);
                continue;
            }
            if !self.volumes.contains_key(&volume.name) {
                volumes::want(&mut self.supervisor, &volume.name, replica.port);
                self.volumes.insert(volume.name.clone(), VolumeHere::default());
                self.follow(&volume.name);
            }
            let here = self.volumes.get(&volume.name).and_then(|here| here.status.as_ref());
            let on_disk = here.and_then(|status| status.replica.as_ref()).map(|replica| replica.replica);
            if let Some(id) = on_disk.filter(|&id| replica.replica != Some(id)) {
                let command =
                    LedgerCommand::ReplicaMade { volume: volume.name.clone(), node: self.setup.me, replica: id };
                self.propose_quietly(command);
            }
        }
    }

    fn make_replica(&mut self, volume: String, bytes: ByteSize, group: GroupId) {
        if !self.formatting.insert(volume.clone()) {
            return;
        }
        let (directory, events) = (self.setup.paths.volume(&volume), self.setup.events.clone());
        tokio::spawn(async move {
            let hot_extents = anshin_device::HOT_EXTENTS;
            let what = anshin_device::Create { bytes, group, hot_extents, preallocate: false };
            let made = volumes::blocking(move || anshin_device::create(&directory, &what)).await;
            if made.is_err() {
                tokio::time::sleep(MAKE_AGAIN).await;
            }
            let _ = events.send(Event::ReplicaMade(volume, made.map(|_| ()))).await;
        });
    }

    fn replica_made(&mut self, volume: &str, made: Result<(), Problem>) {
        self.formatting.remove(volume);
        match made {
            Ok(()) => self.keep_volumes(),
            Err(problem) => {
                tracing::error!(volume, %problem, "cannot make a replica");
                self.note(volume, "cannot make a copy here", &problem.message);
            }
        }
    }

    /// Two threads per volume: one waits for events, one asks for the status.
    fn follow(&self, volume: &str) {
        let path = self.setup.paths.volume_control(volume);
        let (events, name) = (self.setup.events.clone(), volume.to_owned());
        std::thread::spawn(move || {
            volumes::follow(&path, |event| {
                events.blocking_send(Event::Volume(name.clone(), event.map(Box::new))).is_ok()
            });
        });
        let (paths, events, name) = (self.setup.paths.clone(), self.setup.events.clone(), volume.to_owned());
        tokio::spawn(async move {
            loop {
                let status = volumes::status(&paths, &name).await.ok().map(Box::new);
                if events.send(Event::VolumeStatus(name.clone(), status)).await.is_err() {
                    return;
                }
                tokio::time::sleep(volumes::STATUS_EVERY).await;
            }
        });
    }

    fn volume_event(&mut self, volume: &str, event: Option<VolumeEvent>) {
        let Some(event) = event else {
            if let Some(here) = self.volumes.get_mut(volume)
                && here.status.take().is_some()
            {
                self.look_at_once(volume);
                self.refresh_own_report();
            }
            return;
        };
        match event {
            VolumeEvent::State { status } => {
                let deposed = status.replica.as_ref().is_some_and(|replica| replica.role == RoleName::Deposed);
                if let Some(here) = self.volumes.get_mut(volume) {
                    here.heard = true;
                    here.status = Some(*status);
                }
                self.refresh_own_report();
                if deposed {
                    self.begin_take_down(volume);
                }
            }
            VolumeEvent::Deposed { generation } => {
                let why = format!("generation {generation} has another primary");
                self.note(volume, "is deposed here: its users are stopped", &why);
                self.begin_take_down(volume);
            }
            VolumeEvent::Suspended { why } => self.note(volume, "holds its I/O", &why),
            VolumeEvent::Resumed => self.note(volume, "takes I/O again", ""),
            VolumeEvent::Serve { generation } => self.note(volume, &format!("serves in generation {generation}"), ""),
            VolumeEvent::ResyncDone { target, compared, sent } => {
                let name = self.replica_name(volume, target);
                let why = format!("{compared} bytes compared, {sent} bytes sent");
                self.note(volume, &format!("the copy on {name} is in sync again"), &why);
            }
            VolumeEvent::OldImage { replica, presented, seen } => {
                let name = self.replica_name(volume, replica);
                let why = format!("it presents progress {presented}, {seen} was seen");
                self.note(volume, &format!("the copy on {name} is an old image and is compared in full"), &why);
            }
            VolumeEvent::Failed { why } => {
                self.note(volume, "the copy here failed", &why);
                self.look_at_once(volume);
            }
            VolumeEvent::DeviceFailed { problem } => self.note(volume, "the device failed", &problem.message),
            VolumeEvent::Note { text } => tracing::info!(volume, text, "volume"),
            VolumeEvent::DevicePresent { .. }
            | VolumeEvent::DeviceGone
            | VolumeEvent::Demoted
            | VolumeEvent::Quiesced => {}
        }
    }

    fn replica_name(&self, volume: &str, replica: anshin_base::ReplicaId) -> String {
        let volume = self.world.state.volumes.get(volume);
        let node = volume.and_then(|volume| self.world.node_of(volume, replica));
        node.map_or_else(|| replica.to_string(), |node| self.world.name_of(node))
    }

    /// Monitors of what stands on a volume are not waited for when its process ended or failed.
    fn look_at_once(&mut self, volume: &str) {
        for order in self.local.recurring() {
            if matches!(&order.work, Work::Volume { volume: name } if name == volume)
                && !self.busy.contains_key(&order.resource)
            {
                self.run_order(None, order);
            }
        }
    }

    fn begin_take_down(&mut self, volume: &str) {
        let Some(here) = self.volumes.get_mut(volume) else { return };
        if here.cleaning {
            return;
        }
        here.cleaning = true;
        self.refresh_own_report();
        self.take_down(volume);
    }

    fn take_down(&mut self, volume: &str) {
        let mut resources = Vec::new();
        let mut mount = self.world.state.volumes.get(volume).and_then(|volume| volume.mount.clone());
        for service in services(&self.world.state).iter().filter(|service| service.volume.as_deref() == Some(volume)) {
            mount = service.mount.clone().or(mount);
            for part in parts::parts(&self.world.state, service) {
                if let Work::Agent(resource) = part.work {
                    resources.push(resource);
                }
            }
        }
        let what = Leftovers { volume: volume.to_owned(), resources, mount: mount.map(PathBuf::from) };
        let (paths, runner, events) = (self.setup.paths.clone(), self.setup.runner.clone(), self.setup.events.clone());
        tokio::spawn(async move {
            let result = volumes::take_down(&paths, &runner, &what).await;
            if result.is_err() {
                tokio::time::sleep(TAKE_DOWN_AGAIN).await;
            }
            let _ = events.send(Event::TakenDown(what.volume, result)).await;
        });
    }

    fn taken_down(&mut self, volume: &str, result: Result<(), Problem>) {
        if let Err(problem) = result {
            tracing::warn!(volume, %problem, "what stood on a deposed volume is not down yet");
            self.take_down(volume);
            return;
        }
        let now = jiff::Timestamp::now().as_second();
        for service in services(&self.world.state).iter().filter(|service| service.volume.as_deref() == Some(volume)) {
            for part in parts::parts(&self.world.state, service) {
                self.local.taken_down(&part.id, now);
            }
        }
        if let Some(here) = self.volumes.get_mut(volume) {
            here.cleaning = false;
        }
        self.note(volume, "is a secondary here again: its former users are gone", "");
        self.refresh_own_report();
    }

    // ---- small things ----

    fn note(&mut self, subject: &str, what: &str, why: &str) {
        tracing::info!(subject, what, why, "happened");
        let at = jiff::Timestamp::now();
        if self.happened.len() >= HAPPENED_MAX {
            self.happened.pop_front();
        }
        self.happened.push_back(Happened {
            at_ms: at.as_millisecond(),
            subject: subject.into(),
            what: what.into(),
            why: why.into(),
        });
        let _ = self.setup.happenings.send(Happening {
            at: at.to_string(),
            node: Some(self.setup.name.clone()),
            what: format!("{subject}: {what}"),
            why: why.into(),
        });
        self.report_due = true;
    }

    fn now(&self) -> Mono {
        super::clock()
    }
}

async fn run_operation(runner: &Runner, paths: &Paths, order: &Order, file_system: Option<&str>) -> OperationResult {
    let limit = Duration::from_millis(order.timeout.0);
    match &order.work {
        Work::Volume { volume } => match order.operation.as_str() {
            "start" => volumes::start(paths, volume, file_system, limit).await,
            "stop" => volumes::stop(paths, volume, limit).await,
            _ => volumes::monitor(paths, volume).await,
        },
        Work::Agent(resource) => {
            let action = match order.operation.as_str() {
                "start" => Action::Start,
                "stop" => Action::Stop,
                "monitor" => Action::Monitor,
                other => {
                    let why = format!("there is no operation `{other}`");
                    return OperationResult::failed(Rc::UNIMPLEMENTED, Status::Error, why);
                }
            };
            runner.run(resource, &Operation::new(action).within(order.timeout).every(order.interval)).await
        }
    }
}

