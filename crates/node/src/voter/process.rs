//! [`Voter`]: one owner of mesh, ledger and local socket.

use super::{
    beat::{Beat, HEALTH_LENGTH_MAX},
    bootstrap::{Bootstrap, site_number},
    disk::{Disk, Written},
    local::{self, Connection, Slot, Socket},
    peers::{Peers, next_change, wanted_by_services},
    protocol::{
        CONTROL_LENGTH_MAX, FromVoter, KIND, NodeLiveness, Notice, ProposalOutcome, Status, ToVoter, VERSION,
        VOLUME_KIND, VOLUME_VERSION, Wanted,
    },
    request::{Origin, Requests},
};
use anshin_base::{
    Millis, Mono, NodeId, Problem, VoterId,
    frame::Frame,
    local::{FromVoter as ToVolume, Outcome as VolumeOutcome, ReplicaReport, ToVoter as FromVolume},
};
use anshin_ledger::{
    Command, Coordinator, Detector, Engine, Envelope, Event, Input, Outcome, Output, Refused, Settings, Sign,
    State,
    coordinator::{Conclusion, View},
    engine::Role,
    log::{Identity, Record, Recovered},
    state::{Applied, Timing},
    store::FileStore,
};
use anshin_link::{
    Credentials, Mesh, MeshEvent, MeshOptions, clock,
    mesh::{MeshTimes, table::Route, wire::kind},
};
use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
};
use tokio::time::{MissedTickBehavior, interval};

/// A turn that comes this late means that the process stood still, and that nobody's silence in that time counts.
const STOOD_STILL: Millis = Millis(300);
/// Between two attempts to hand leadership to the node with the most primaries.
const HAND_OVER_PAUSE: Millis = Millis(3_000);

/// How a voter process is set up.
#[derive(Clone, Debug)]
pub struct VoterOptions {
    /// Log and bootstrap (`/var/lib/anshin/voter`), made by [`super::found`] or [`super::join`].
    pub directory: PathBuf,
    /// Who this node is.
    pub credentials: Arc<Credentials>,
    /// Where other nodes reach it (port 7801).
    pub listen: Vec<SocketAddr>,
    /// The local socket (`/run/anshin/voter.sock`).
    pub socket: PathBuf,
    /// The build, told to others.
    pub build: String,
    /// Whether memory is locked and the process made exempt from the out-of-memory killer.
    pub lock_memory: bool,
    /// Times of the mesh.
    pub times: MeshTimes,
}

/// The voter process.
pub struct Voter {
    me: NodeId,
    voter: VoterId,
    build: String,
    bootstrap: Bootstrap,
    settings: Settings,
    engine: Engine,
    disk: Disk,
    mesh: Mesh,
    socket: Socket,
    clients: BTreeMap<u64, Client>,
    requests: Requests,
    peers: Peers,
    detector: Detector,
    coordinator: Coordinator,
    wanted: Option<Wanted>,
    beats: BTreeMap<NodeId, Beat>,
    start: u64,
    sequence: u64,
    health: Vec<u8>,
    led_since: Option<Mono>,
    turned: Mono,
    changed: Changed,
    failed: bool,
    /// Held so that no second voter writes the same log.
    _lock: File,
}

/// What must be told to others at the end of the turn.
#[derive(Debug, Default)]
struct Changed {
    ledger: bool,
    reports: bool,
    status: bool,
}

/// One local connection.
struct Client {
    connection: Connection,
    kind: ClientKind,
}

enum ClientKind {
    /// Has not spoken yet.
    New,
    /// A volume process.
    Volume { report: ReplicaReport, view: Option<ToVolume> },
    /// A daemon.
    Daemon { subscribed: bool, status: Option<Status> },
}

enum Turn {
    Written(Option<Written>),
    Tick,
    Mesh(MeshEvent),
    Local(local::Arrival),
}

impl Voter {
    /// Opens the log and starts to listen. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// What keeps it from running.
    pub async fn start(options: VoterOptions) -> Result<Self, Problem> {
        let bootstrap = Bootstrap::load(&options.directory)?;
        let lock = lock(&options.directory)?;
        let who = options.credentials.identity();
        if (who.site, who.node) != (bootstrap.site, bootstrap.node) {
            let message = format!("the ledger in {} is not {who}'s", options.directory.display());
            return Err(Problem::new("voter-state", message));
        }
        let (store, recovered) = FileStore::open(&options.directory).map_err(|error| {
            Problem::new("ledger-damaged", format!("the ledger of this node cannot be opened: {error}"))
                .hint("the node must rejoin with a new voter; the other nodes hold the ledger")
        })?;
        let (settings, engine) = open_engine(&bootstrap, recovered)?;
        let now = clock::now();
        let timing = engine.state().site.as_ref().map_or_else(Timing::default, |site| site.timing.clone());
        let mesh = Mesh::start(MeshOptions {
            credentials: Arc::clone(&options.credentials),
            listen: options.listen,
            build: options.build.clone(),
            times: options.times,
        })
        .await?;
        let mut voter = Self {
            me: bootstrap.node,
            voter: settings.voter,
            build: options.build,
            disk: Disk::start(store)?,
            mesh,
            socket: Socket::listen(&options.socket)?,
            clients: BTreeMap::new(),
            requests: Requests::default(),
            peers: Peers::default(),
            detector: Detector::new(now, timing.silent),
            coordinator: Coordinator::new(),
            wanted: None,
            beats: BTreeMap::new(),
            start: settings.incarnation,
            sequence: 0,
            health: Vec::new(),
            led_since: None,
            turned: now,
            changed: Changed { ledger: true, reports: true, status: true },
            failed: false,
            _lock: lock,
            bootstrap,
            settings,
            engine,
        };
        voter.publish();
        tracing::info!(node = %voter.me, voter = %voter.voter, listen = ?voter.mesh.listening(), "voter started");
        Ok(voter)
    }

    /// Runs until the disk fails.
    ///
    /// # Errors
    /// That failure: the process should be started again, and then reads what is really on the disk.
    pub async fn run(mut self) -> Result<(), Problem> {
        let mut tick = interval(std::time::Duration::from_millis(self.settings.tick.0));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.failed {
            let turn = tokio::select! {
                written = self.disk.written() => Turn::Written(written),
                _ = tick.tick() => Turn::Tick,
                event = self.mesh.next() => Turn::Mesh(event),
                arrival = self.socket.next() => Turn::Local(arrival),
            };
            self.turn(turn);
            self.publish();
        }
        Err(Problem::new("ledger-disk", "the ledger's log cannot be written")
            .hint("check the file system that holds /var/lib/anshin"))
    }

    fn turn(&mut self, turn: Turn) {
        let now = clock::now();
        if now.since(self.turned) > STOOD_STILL {
            tracing::warn!("this process stood still for {}", now.since(self.turned));
            self.detector.stood_still(now);
        }
        self.turned = now;
        match turn {
            Turn::Written(Some(Written { batch, durable })) => self.feed(Input::DiskDone { batch, durable }),
            Turn::Written(None) => self.failed = true,
            Turn::Tick => self.feed(Input::Tick),
            Turn::Mesh(event) => self.mesh_event(event),
            Turn::Local(arrival) => self.arrived(arrival),
        }
    }

    /// Hands something to the engine and carries out what it answers.
    fn feed(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut outputs = Vec::new();
            self.engine.handle(clock::now(), input, &mut outputs);
            for output in outputs {
                self.carry_out(output, &mut inputs);
            }
        }
    }

    fn carry_out(&mut self, output: Output, inputs: &mut VecDeque<Input>) {
        match output {
            Output::Send(envelope) => {
                let voter = envelope.to;
                let Some(node) = self.peers.node_of(voter) else { return };
                tracing::trace!(?envelope, "sending");
                let sent = self.mesh.send(node, kind::RAFT, envelope.encode().into());
                let unreachable = Input::Unreachable { voter };
                if sent.is_err() && !inputs.contains(&unreachable) {
                    inputs.push_back(unreachable);
                }
            }
            Output::Disk(batch) => self.disk.write(batch),
            Output::Applied { .. } | Output::Restored { .. } => self.ledger_changed(),
            Output::Outcome { request, outcome } => self.answer(request, outcome),
            Output::ReadReady { request } => {
                if let Some(Origin::Daemon { connection, request }) = self.requests.close(request) {
                    self.publish();
                    let index = self.engine.applied();
                    self.tell(connection, &FromVoter::ReadReady { request, index });
                }
            }
            Output::Event(event) => self.engine_event(event, inputs),
        }
    }

    fn engine_event(&mut self, event: Event, inputs: &mut VecDeque<Input>) {
        self.changed.status = true;
        let notice = match event {
            Event::Role(role) => {
                tracing::info!(?role, "leadership of the ledger changed");
                self.led_since = (role == Role::Leader).then(clock::now);
                if role == Role::Leader {
                    self.coordinator = Coordinator::new();
                    self.propose_first(inputs);
                }
                // Volumes are told whether the ledger is quorate.
                self.changed.ledger = true;
                return;
            }
            Event::Members { voters, learners } => {
                tracing::info!(?voters, ?learners, "who votes changed");
                return;
            }
            Event::DiskFailed => {
                self.failed = true;
                return;
            }
            Event::MustRejoin { why } => Notice::MustRejoin { why },
            Event::Expelled { voter } => Notice::Expelled { voter },
            Event::NewerEpoch { epoch } => Notice::NewerEpoch { epoch },
            Event::OldImage { replica, presented, seen } => Notice::OldImage { replica, presented, seen },
        };
        tracing::warn!(?notice, "the ledger noticed");
        self.tell_daemons(&FromVoter::Notice(notice));
    }

    /// A founder's ledger is empty until it says what the site is.
    fn propose_first(&mut self, inputs: &mut VecDeque<Input>) {
        if self.engine.state().nodes.is_empty() {
            for command in self.bootstrap.first.clone() {
                inputs.push_back(Input::Propose { request: self.requests.open(Origin::First), command });
            }
        }
    }

    fn ledger_changed(&mut self) {
        self.changed.ledger = true;
        self.changed.status = true;
        let membership = self.peers.update(&self.bootstrap, self.engine.state());
        self.mesh.set_membership(membership);
    }

    fn mesh_event(&mut self, event: MeshEvent) {
        match event {
            MeshEvent::Message { from, kind: kind::RAFT, body } => match Envelope::decode(&body) {
                Ok(envelope) if self.peers.admits(envelope.from, from) => {
                    self.feed(Input::Received(envelope))
                }
                Ok(envelope) => {
                    tracing::warn!(%from, voter = %envelope.from, "dropped a message of another node's voter");
                }
                Err(error) => tracing::warn!(%from, %error, "dropped a message between ledgers"),
            },
            MeshEvent::Message { from, kind: kind::DAEMON, body } => {
                self.tell_daemons(&FromVoter::Received { from, body: body.to_vec() });
            }
            MeshEvent::Message { .. } | MeshEvent::LinkUp(_) => {}
            MeshEvent::LinkDown(node) => {
                if let Some(voter) = self.peers.voter_of(node) {
                    self.feed(Input::Unreachable { voter });
                }
            }
            MeshEvent::Heartbeat { from, payload, .. } => match Beat::decode(&payload) {
                Some(beat) if beat.sign.node == from => self.heard(from, beat),
                _ => tracing::debug!(%from, "a heartbeat that this build cannot read"),
            },
            MeshEvent::Beat => self.beat(),
        }
    }

    /// A sign of life of a node, this one included.
    fn heard(&mut self, node: NodeId, beat: Beat) {
        let before = self.beats.get(&node);
        let known = |report: &ReplicaReport| before.is_some_and(|beat| beat.sign.reports.contains(report));
        let news: Vec<_> = beat.sign.reports.iter().filter(|report| !known(report)).cloned().collect();
        self.detector.hear(clock::now(), beat.sign.clone());
        self.beats.insert(node, beat);
        for report in news {
            // Volumes are told the highest progress that was seen.
            self.changed.ledger = true;
            self.feed(Input::Report(report));
        }
    }

    fn beat(&mut self) {
        self.refresh_beat();
        if self.engine.role() == Role::Leader {
            self.lead();
        }
        let nodes = FromVoter::Nodes(self.nodes());
        let frame = local::encode(KIND, VERSION, &nodes);
        for client in self.clients.values() {
            if matches!(client.kind, ClientKind::Daemon { subscribed: true, .. }) {
                client.connection.replace(Slot::Nodes, frame.clone());
            }
        }
    }

    /// What this node says of itself from now on.
    fn refresh_beat(&mut self) {
        self.sequence += 1;
        let mut reports = BTreeMap::new();
        for client in self.clients.values() {
            if let ClientKind::Volume { report, .. } = &client.kind {
                // Of two processes for one group the one that connected last is the living one.
                reports.insert(report.group, report.clone());
            }
        }
        let sign = Sign {
            node: self.me,
            start: self.start,
            sequence: self.sequence,
            reports: reports.into_values().collect(),
        };
        let beat = Beat {
            sign,
            voter: self.voter,
            leads: self.engine.role() == Role::Leader,
            quorate: self.engine.quorate(),
            applied: self.engine.applied(),
            health: self.health.clone(),
        };
        self.mesh.set_heartbeat(self.settings.epoch, beat.encode().into());
        self.heard(self.me, beat);
    }

    /// What the ledger's leader does at each beat.
    fn lead(&mut self) {
        let (now, me) = (clock::now(), self.voter);
        let state = self.engine.state();
        let members = self.engine.members();
        if !self.requests.waits(Origin::Members)
            && let Some(change) = next_change(state, &members, &self.engine.caught_up(), me)
        {
            tracing::info!(?change, "changing who votes");
            let request = self.requests.open(Origin::Members);
            self.feed(Input::ChangeMembers { request, change });
        }
        let state = self.engine.state();
        let wanted = self.wanted.clone().unwrap_or_else(|| wanted_by_services(state));
        let highest = |replica| self.engine.highest(replica);
        let view = View { state, detector: &self.detector, highest: &highest, wanted: &wanted };
        let proposals = self.coordinator.judge(now, &view);
        for (number, command) in proposals {
            tracing::info!(?command, "promoting");
            let request = self.requests.open(Origin::Coordinator(number));
            self.feed(Input::Propose { request, command });
        }
        self.changed.status = true;
        if let Some(to) = self.better_leader(now) {
            tracing::info!(%to, "handing leadership to the node it belongs to");
            self.led_since = Some(now);
            self.feed(Input::TransferLeader { to });
        }
    }

    /// Leadership follows the node with the most primaries (R13), and leaves a node that was removed.
    fn better_leader(&self, now: Mono) -> Option<VoterId> {
        if now.since(self.led_since?) < HAND_OVER_PAUSE {
            return None;
        }
        let state = self.engine.state();
        let members = self.engine.members();
        let primaries = state.primaries();
        let count = |node: NodeId| primaries.get(&node).copied().unwrap_or_default();
        let removed = !state.nodes.is_empty() && state.node_of_voter(self.voter).is_none();
        let candidates = state.nodes.values().filter(|node| {
            node.id != self.me && members.voters.contains(&node.voter) && self.detector.alive(now, node.id)
        });
        let best = candidates.max_by_key(|node| (count(node.id), node.roles.data, node.voter))?;
        (removed || count(best.id) > count(self.me)).then_some(best.voter)
    }

    fn answer(&mut self, number: u64, outcome: Outcome) {
        match self.requests.close(number) {
            Some(Origin::Volume { connection, request }) => {
                self.publish();
                let message = ToVolume::Outcome { request, outcome: volume_outcome(outcome) };
                self.tell_raw(connection, local::encode(VOLUME_KIND, VOLUME_VERSION, &message));
            }
            Some(Origin::Daemon { connection, request }) => {
                self.publish();
                let outcome = match outcome {
                    Outcome::Applied(applied) => ProposalOutcome::Applied(applied),
                    Outcome::Refused(refused) => ProposalOutcome::Refused(refused),
                    Outcome::Dropped => ProposalOutcome::Dropped,
                    Outcome::Unknown => ProposalOutcome::Unknown,
                };
                self.tell(connection, &FromVoter::Outcome { request, outcome });
            }
            Some(Origin::Coordinator(request)) => {
                tracing::info!(?outcome, "promotion");
                if outcome != Outcome::Unknown {
                    self.coordinator.answered(request);
                }
            }
            Some(Origin::Members | Origin::First) => tracing::debug!(?outcome, "own proposal"),
            None => {}
        }
    }

    fn arrived(&mut self, arrival: local::Arrival) {
        match arrival {
            local::Arrival::Opened { id, connection } => {
                self.clients.insert(id, Client { connection, kind: ClientKind::New });
            }
            local::Arrival::Closed { id } => self.close(id),
            local::Arrival::Frame { id, frame } => {
                let understood = match frame.kind {
                    VOLUME_KIND => local::decode(&frame, VOLUME_KIND, VOLUME_VERSION)
                        .is_some_and(|message| self.volume_said(id, message)),
                    _ => local::decode(&frame, KIND, VERSION)
                        .is_some_and(|message| self.daemon_said(id, message)),
                };
                if !understood {
                    tracing::warn!(
                        kind = frame.kind,
                        "closed a local connection: a message that makes no sense"
                    );
                    self.close(id);
                }
            }
        }
    }

    fn close(&mut self, id: u64) {
        let Some(client) = self.clients.remove(&id) else { return };
        self.requests.forget(id);
        self.changed.reports |= matches!(client.kind, ClientKind::Volume { .. });
    }

    /// False if the message makes no sense here.
    fn volume_said(&mut self, id: u64, message: FromVolume) -> bool {
        let Some(client) = self.clients.get_mut(&id) else { return true };
        match (message, &mut client.kind) {
            (FromVolume::Report(new), ClientKind::Volume { report, .. }) if new.group == report.group => {
                *report = new;
                self.changed.reports = true;
            }
            (FromVolume::Report(report), ClientKind::New) => {
                client.kind = ClientKind::Volume { report, view: None };
                self.changed.reports = true;
                self.changed.ledger = true;
            }
            (FromVolume::Propose { request, change }, ClientKind::Volume { report, .. })
                if change.group() == report.group =>
            {
                let number = self.requests.open(Origin::Volume { connection: id, request });
                self.feed(Input::Propose { request: number, command: Command::Group(change) });
            }
            _ => return false,
        }
        true
    }

    /// False if the message makes no sense here.
    fn daemon_said(&mut self, id: u64, message: ToVoter) -> bool {
        let Some(client) = self.clients.get_mut(&id) else { return true };
        match (message, &mut client.kind) {
            (ToVoter::Hello { version_min, version_max }, kind @ ClientKind::New) => {
                if !(version_min..=version_max).contains(&VERSION) {
                    tracing::warn!(
                        version_min,
                        version_max,
                        "the daemon speaks another version of the protocol"
                    );
                    return false;
                }
                *kind = ClientKind::Daemon { subscribed: false, status: None };
                let build = self.build.clone();
                let welcome =
                    FromVoter::Welcome { version: VERSION, node: self.me, voter: self.voter, build };
                self.tell(id, &welcome);
            }
            (ToVoter::Subscribe, ClientKind::Daemon { subscribed, .. }) => {
                *subscribed = true;
                self.changed.ledger = true;
                self.changed.status = true;
            }
            (message, ClientKind::Daemon { .. }) => return self.daemon_asked(id, message),
            _ => return false,
        }
        true
    }

    fn daemon_asked(&mut self, id: u64, message: ToVoter) -> bool {
        match message {
            ToVoter::Propose { request, command } => {
                let number = self.requests.open(Origin::Daemon { connection: id, request });
                self.feed(Input::Propose { request: number, command });
            }
            ToVoter::Read { request } => {
                let number = self.requests.open(Origin::Daemon { connection: id, request });
                self.feed(Input::Read { request: number });
            }
            ToVoter::Send { to, body } if body.len() <= CONTROL_LENGTH_MAX => self.send_control(id, to, body),
            ToVoter::Wanted(wanted) => self.wanted = wanted,
            ToVoter::Health(health) if health.len() <= HEALTH_LENGTH_MAX => self.health = health,
            ToVoter::HandOver { to } => {
                if let Some(to) = self.peers.voter_of(to) {
                    self.feed(Input::TransferLeader { to });
                }
            }
            ToVoter::Hello { .. } | ToVoter::Subscribe | ToVoter::Send { .. } | ToVoter::Health(_) => {
                return false;
            }
        }
        true
    }

    fn send_control(&mut self, id: u64, to: NodeId, body: Vec<u8>) {
        if to == self.me {
            self.tell_daemons(&FromVoter::Received { from: to, body });
        } else if let Err(error) = self.mesh.send(to, kind::DAEMON, body.into()) {
            self.tell(id, &FromVoter::NotSent { to, why: error.to_string() });
        }
    }

    /// Tells everyone what has changed in this turn.
    fn publish(&mut self) {
        if std::mem::take(&mut self.changed.reports) {
            self.refresh_beat();
        }
        if std::mem::take(&mut self.changed.ledger) {
            let membership = self.peers.update(&self.bootstrap, self.engine.state());
            self.mesh.set_membership(membership);
            self.publish_ledger();
        }
        if std::mem::take(&mut self.changed.status) {
            self.publish_status();
        }
    }

    fn publish_ledger(&mut self) {
        let is_daemon = |client: &Client| matches!(client.kind, ClientKind::Daemon { subscribed: true, .. });
        if self.clients.values().any(is_daemon) {
            let state = Box::new(self.engine.state().clone());
            let ledger =
                FromVoter::Ledger { epoch: self.settings.epoch, index: self.engine.applied(), state };
            let frame = local::encode(KIND, VERSION, &ledger);
            for client in self.clients.values().filter(|client| is_daemon(client)) {
                client.connection.replace(Slot::Ledger, frame.clone());
            }
        }
        for client in self.clients.values_mut() {
            if let ClientKind::Volume { report, view } = &mut client.kind {
                let new = volume_view(&self.engine, self.settings.epoch, report.group);
                if view.as_ref() != Some(&new) {
                    let frame = local::encode(VOLUME_KIND, VOLUME_VERSION, &new);
                    client.connection.replace(Slot::Ledger, frame);
                    *view = Some(new);
                }
            }
        }
    }

    fn publish_status(&mut self) {
        let now = self.status();
        let frame = local::encode(KIND, VERSION, &FromVoter::Status(now.clone()));
        for client in self.clients.values_mut() {
            if let ClientKind::Daemon { subscribed: true, status } = &mut client.kind
                && status.as_ref() != Some(&now)
            {
                client.connection.replace(Slot::Status, frame.clone());
                *status = Some(now.clone());
            }
        }
    }

    fn status(&self) -> Status {
        let members = self.engine.members();
        let (leads, leader) = match self.engine.role() {
            Role::Leader => (true, Some(self.me)),
            Role::Follower { leader } => (false, leader.and_then(|voter| self.peers.node_of(voter))),
        };
        let conclusions = self.coordinator.conclusions().iter().filter(|_| leads);
        let stuck = conclusions.filter_map(|(group, conclusion)| match conclusion {
            Conclusion::Stuck(why) => Some((*group, why.to_string())),
            _ => None,
        });
        Status {
            leads,
            leader,
            quorate: self.engine.quorate(),
            voters: members.voters,
            learners: members.learners,
            silenced: self.engine.silenced().map(str::to_owned),
            stuck: stuck.collect(),
        }
    }

    fn nodes(&self) -> Vec<NodeLiveness> {
        let own = NodeLiveness {
            node: self.me,
            heard: Some(0),
            heard_directly: Some(0),
            linked: true,
            relay: None,
            round_trip_micros: Some(0),
            incarnation: self.start,
            epoch: self.settings.epoch,
            beat: self.beats.get(&self.me).cloned(),
        };
        let others = self.mesh.liveness().into_iter().map(|peer| NodeLiveness {
            node: peer.node,
            heard: peer.heard.map(|age| age.0),
            heard_directly: peer.heard_directly.map(|age| age.0),
            linked: peer.linked,
            relay: match peer.route {
                Route::Via(relay) => Some(relay),
                Route::Direct | Route::None => None,
            },
            round_trip_micros: peer.round_trip_micros,
            incarnation: peer.incarnation,
            epoch: peer.epoch,
            beat: self.beats.get(&peer.node).cloned(),
        });
        std::iter::once(own).chain(others).collect()
    }

    fn tell(&mut self, id: u64, message: &FromVoter) {
        self.tell_raw(id, local::encode(KIND, VERSION, message));
    }

    fn tell_raw(&mut self, id: u64, frame: Frame) {
        if self.clients.get(&id).is_some_and(|client| !client.connection.answer(frame)) {
            tracing::warn!("closed a local connection that does not read its answers");
            self.close(id);
        }
    }

    fn tell_daemons(&mut self, message: &FromVoter) {
        let frame = local::encode(KIND, VERSION, message);
        let daemon = |client: &Client| matches!(client.kind, ClientKind::Daemon { .. });
        let daemons: Vec<_> =
            self.clients.iter().filter(|(_, client)| daemon(client)).map(|(id, _)| *id).collect();
        for id in daemons {
            self.tell_raw(id, frame.clone());
        }
    }
}

/// The ledger as the volume of `group` sees it.
fn volume_view(engine: &Engine, epoch: anshin_base::LedgerEpoch, group: anshin_base::GroupId) -> ToVolume {
    let state: &State = engine.state();
    let known = state.groups.get(&group);
    let places = state.places(group);
    let members = known.into_iter().flat_map(|known| known.entry.in_sync.keys().copied());
    let replicas: std::collections::BTreeSet<_> =
        places.iter().map(|place| place.replica).chain(members).collect();
    ToVolume::View {
        epoch,
        index: known.map_or_else(|| engine.applied(), |known| known.index),
        entry: known.map(|known| known.entry.clone()),
        places,
        highest: replicas.into_iter().map(|replica| (replica, engine.highest(replica))).collect(),
        quorate: engine.quorate(),
    }
}

/// What a volume is told of its proposal. What nobody took is as good as unknown: it reads and proposes again.
fn volume_outcome(outcome: Outcome) -> VolumeOutcome {
    match outcome {
        Outcome::Applied(Applied::Group(entry)) => VolumeOutcome::Applied(entry),
        Outcome::Refused(Refused::Group(refused)) => VolumeOutcome::Refused(refused),
        // The volume itself is gone from the configuration.
        Outcome::Refused(_) => VolumeOutcome::Refused(anshin_base::ChangeRefused::Existence),
        Outcome::Applied(_) | Outcome::Dropped | Outcome::Unknown => VolumeOutcome::Unknown,
    }
}

/// The engine over what the disk holds.
fn open_engine(bootstrap: &Bootstrap, recovered: Recovered) -> Result<(Settings, Engine), Problem> {
    let damaged = |why: String| Problem::new("ledger-damaged", format!("the ledger of this node: {why}"));
    let identities = recovered.records.iter().filter_map(|record| match record {
        Record::Identity(identity) => Some(*identity),
        _ => None,
    });
    let Identity { site, node, voter, epoch } =
        identities.last().ok_or_else(|| damaged("it does not say whose it is".to_owned()))?;
    if (site, node, voter) != (site_number(bootstrap.site), bootstrap.node, bootstrap.voter) {
        return Err(damaged(format!(
            "it belongs to {voter} of {node}, not to {} of {}",
            bootstrap.voter, bootstrap.node
        )));
    }
    let mut random = [0; 8];
    getrandom::fill(&mut random)
        .map_err(|error| Problem::new("randomness", format!("the machine gives no random bytes: {error}")))?;
    let incarnation = u64::from_le_bytes(random).max(1);
    let settings = Settings::new(voter, epoch, incarnation, bootstrap.witness);
    let engine = Engine::open(clock::now(), settings.clone(), recovered)
        .map_err(|error| damaged(error.to_string()))?;
    Ok((settings, engine))
}

/// Keeps a second voter away from the same directory.
fn lock(directory: &std::path::Path) -> Result<File, Problem> {
    let path = directory.join("lock");
    let failed = |error: &dyn std::fmt::Display| {
        Problem::new("voter-running", format!("{}: {error}", path.display()))
            .hint("another voter process of this node is running")
    };
    let file = File::create(&path).map_err(|error| failed(&error))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|error| failed(&error))?;
    Ok(file)
}
