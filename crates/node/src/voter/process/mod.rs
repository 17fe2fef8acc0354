//! [`Voter`]: one owner of mesh, ledger and local socket.

mod clients;
mod lead;
mod open;
mod publish;

use super::{
    beat::Beat,
    bootstrap::{Bootstrap, LOST},
    disk::{Disk, Written},
    local::{self, Connection, Socket},
    peers::Peers,
    protocol::{FromVoter, Notice, ProposalOutcome, Status, VOLUME_KIND, VOLUME_VERSION, Wanted},
    request::{Origin, Requests},
};
use anshin_base::{
    ChangeRefused, LedgerEpoch, Millis, Mono, NodeId, Problem, VoterId,
    local::{FromVoter as ToVolume, Outcome as VolumeOutcome, ReplicaReport},
};
use anshin_ledger::{
    Coordinator, Detector, Engine, Envelope, Event, Input, Outcome, Output, Refused, Settings,
    engine::Role,
    log::RecoverError,
    state::{Applied, Timing},
    store::{FileStore, StoreError},
};
use anshin_link::{
    Credentials, Mesh, MeshEvent, MeshOptions, clock,
    mesh::{MeshTimes, wire::kind},
};
use open::{lock, open_engine};
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

/// The word of a volume process that has not repeated it for this long is passed on no more: the process stands still, and
/// nobody knows whether its replica is what it said. Five times the pause between two reports.
const WORD_LASTS: Millis = Millis(5_000);

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
    /// Who to be, in silence, if the ledger is lost; None: then the voter does not start.
    pub fallback: Option<Fallback>,
}

/// What a voter without a ledger knows from elsewhere.
#[derive(Clone, Debug)]
pub struct Fallback {
    /// Who it was and where the others are.
    pub bootstrap: Bootstrap,
    /// The ledger's epoch.
    pub epoch: LedgerEpoch,
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
    /// Since when each silent node is judged dead here.
    judged: BTreeMap<NodeId, Mono>,
    start: u64,
    sequence: u64,
    health: Vec<u8>,
    led_since: Option<Mono>,
    turned: Mono,
    changed: Changed,
    /// What others were told last of whether this voter knows the present.
    quorate: bool,
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
    Volume { word: Word, view: Option<ToVolume> },
    /// A daemon.
    Daemon { subscribed: bool, status: Option<Status> },
}

/// What a volume process said last.
struct Word {
    report: ReplicaReport,
    at: Mono,
    /// It says the same again from time to time. Earlier builds do not: of those silence says nothing.
    repeats: bool,
}

impl Word {
    /// Whether it still counts.
    fn lasts(&self, now: Mono) -> bool {
        !self.repeats || now.since(self.at) < WORD_LASTS
    }
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
            let gone = matches!(error, StoreError::Recover(RecoverError::Empty | RecoverError::Damaged(_)));
            let code = if gone { LOST } else { "ledger-damaged" };
            Problem::new(code, format!("the ledger of this node cannot be opened: {error}"))
                .hint("the node must rejoin with a new voter; the other nodes hold the ledger")
        })?;
        let (settings, engine) = open_engine(&bootstrap, recovered)?;
        let now = clock::now();
        let timing = engine.state().site.as_ref().map_or_else(Timing::default, |site| site.timing.clone());
        let heartbeat = std::time::Duration::from_millis(timing.heartbeat.0.max(1));
        let mesh = Mesh::start(MeshOptions {
            credentials: Arc::clone(&options.credentials),
            listen: options.listen,
            build: options.build.clone(),
            times: MeshTimes { heartbeat, ..options.times },
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
            judged: BTreeMap::new(),
            start: settings.incarnation,
            sequence: 0,
            health: Vec::new(),
            led_since: None,
            turned: now,
            changed: Changed { ledger: true, reports: true, status: true },
            quorate: false,
            failed: false,
            _lock: lock,
            bootstrap,
            settings,
            engine,
        };
        voter.ledger_changed();
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
            self.hear_all_volumes(now);
        }
        self.turned = now;
        match turn {
            Turn::Written(Some(Written { batch, durable })) => self.feed(Input::DiskDone { batch, durable }),
            Turn::Written(None) => self.failed = true,
            Turn::Tick => self.feed(Input::Tick),
            Turn::Mesh(event) => self.mesh_event(event),
            Turn::Local(arrival) => self.arrived(arrival),
        }
        // A disk that does not answer changes it without any event.
        let quorate = self.engine.quorate();
        if std::mem::replace(&mut self.quorate, quorate) != quorate {
            tracing::info!(
                quorate,
                stalled = self.engine.stalled(),
                "whether this voter knows the present changed"
            );
            self.changed.ledger = true;
            self.changed.status = true;
            self.changed.reports = true;
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
                    self.publish_ledger();
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
        if let Some(site) = &self.engine.state().site {
            self.detector.set_silent(site.timing.silent);
        }
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

    fn answer(&mut self, number: u64, outcome: Outcome) {
        match self.requests.close(number) {
            Some(Origin::Volume { connection, request }) => {
                self.publish_ledger();
                let message = ToVolume::Outcome { request, outcome: volume_outcome(outcome) };
                self.tell_raw(connection, local::encode(VOLUME_KIND, VOLUME_VERSION, &message));
            }
            Some(Origin::Daemon { connection, request }) => {
                self.publish_ledger();
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
}

/// What a volume is told of its proposal. What nobody took is as good as unknown: it reads and proposes again.
fn volume_outcome(outcome: Outcome) -> VolumeOutcome {
    match outcome {
        Outcome::Applied(Applied::Group(entry)) => VolumeOutcome::Applied(entry),
        Outcome::Refused(Refused::Group(refused)) => VolumeOutcome::Refused(refused),
        // The volume itself is gone from the configuration.
        Outcome::Refused(_) => VolumeOutcome::Refused(ChangeRefused::Existence),
        Outcome::Applied(_) | Outcome::Dropped | Outcome::Unknown => VolumeOutcome::Unknown,
    }
}
