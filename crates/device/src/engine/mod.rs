//! The event loop: one thread, one owner of the replica.
//!
//! A turn: wait for completions, turn them into inputs, give every input to the core, carry out its outputs in order,
//! start what was queued. Nothing in it blocks; what must block (mounting, loop devices) runs in a helper thread.

mod device;
mod outputs;
mod points;

use crate::{
    Ledger, Options,
    clock::Timer,
    control::{self, Asked, Reply, Request, VolumeEvent, VolumeStatus},
    create,
    disk::Disk,
    front::{Front, Geometry, fuse::Fuse, loopdev, nbd::Nbd},
    io::{Io, Tag},
    peer::{Peers, link::Preface},
    point::keeper::{PointId, mutates},
    ring::{Done, Fd, Op},
    standalone::Standalone,
    stats::Stats,
    voter::{self, Voter},
};
use anshin_base::{Millis, Mono, Problem, ReplicaId, SessionId};
use anshin_link::Credentials;
use anshin_mirror::{Command, Config, Input, Output, Replica};
use device::Device;
use points::Points;
use std::{collections::BTreeMap, fs::File, rc::Rc};

/// How often links, the voter and clients are looked after.
const HOUSEKEEPING: Millis = Millis(100);
/// Fronts read no new requests while a peer leaves more than this unread…
const HOLD_ABOVE: usize = 32 << 20;
/// … until it is below this.
const RELEASE_BELOW: usize = 8 << 20;

/// A control client whose request is not answered yet.
struct Waiting {
    client: u64,
    request: Request,
}

/// See the module.
pub struct Engine {
    options: Options,
    geometry: Geometry,
    io: Io,
    core: Replica,
    disk: Disk,
    peers: Peers,
    voter: Voter,
    control: control::Server,
    nbd: Option<Nbd>,
    fuse: Option<Fuse>,
    device: Device,
    points: Points,
    timer: Timer,
    lease: File,
    stats: Stats,
    inputs: Vec<Input>,
    outputs: Vec<Output>,
    waiting: Vec<Waiting>,
    wake_at: Option<Mono>,
    housekeeping: Mono,
    held: bool,
    stopped: bool,
    /// What resyncs from here took.
    resynced: BTreeMap<ReplicaId, control::Resynced>,
}

impl Engine {
    /// Opens everything. Must run on the thread that will call [`Self::run`].
    ///
    /// # Errors
    /// If something is missing, in use or refused.
    pub fn open(options: Options) -> Result<Self, Problem> {
        let identity = create::identity(&options.directory)?;
        loopdev::refuse_own_volume(&options.directory)?;
        let fail = |what: &str, error: std::io::Error| {
            Problem::new("volume-start", format!("volume {}: {what}: {error}", options.name))
        };
        std::fs::create_dir_all(&options.run).map_err(|error| fail("run directory", error))?;
        let disk = Disk::open(&options.directory)?;
        if disk.data_bytes() != identity.volume_bytes || disk.meta_bytes() < identity.meta_bytes {
            let message =
                format!("the files of volume {} do not have the sizes that its metadata tells", options.name);
            return Err(
                Problem::refused("replica-size", message).hint("never resize the files of a replica by hand")
            );
        }
        let credentials =
            options.network.as_ref().map(|network| Credentials::load(&network.identity)).transpose()?;
        let me =
            Preface { group: identity.group, replica: identity.replica, volume_bytes: identity.volume_bytes };
        let network = options.network.as_ref().zip(credentials.as_deref());
        let peers = Peers::open(me, network.map(|(network, credentials)| (network.listen, credentials)))?;
        let voter = open_voter(&options)?;
        let io = Io::new().map_err(|error| fail("io_uring", error))?;
        let timer = Timer::new().map_err(|error| fail("timer", error))?;
        let lease = File::options().create(true).truncate(false).write(true).open(options.lease_record());
        let lease = lease.map_err(|error| fail("lease record", error))?;
        let control = control::Server::open(&options.control_socket())
            .map_err(|error| fail("control socket", error))?;
        let places = loopdev::Places::new(&options.run, &options.devices, &options.name);
        places.clean_up();
        loopdev::Places::clean_up_points(&options.run, &options.devices, &options.name);
        let device = Device::new(places).map_err(|error| fail("eventfd", error))?;
        let points = Points::new(identity.volume_bytes, device.wake());
        let config = config(&options, identity.volume_bytes)?;
        let mut outputs = Vec::new();
        let core = Replica::open(config, io.now(), &mut outputs);
        let (name, bytes) = (options.name.clone(), identity.volume_bytes);
        let geometry = Geometry { name, bytes, block_bytes: disk.block_bytes(), read_only: false };
        Ok(Self {
            options,
            geometry,
            io,
            core,
            disk,
            peers,
            voter,
            control,
            nbd: None,
            fuse: None,
            device,
            points,
            timer,
            lease,
            stats: Stats::default(),
            inputs: Vec::new(),
            outputs,
            waiting: Vec::new(),
            wake_at: None,
            housekeeping: Mono(0),
            held: false,
            stopped: false,
            resynced: BTreeMap::new(),
        })
    }

    /// Runs until it is told to stop.
    ///
    /// # Errors
    /// If the ring fails.
    pub fn run(mut self) -> Result<(), Problem> {
        self.control.start(&mut self.io);
        self.peers.start(&mut self.io);
        self.read_counter(self.timer.fd(), Tag::Timer);
        self.read_counter(self.device.wake(), Tag::Wake);
        self.carry_out();
        tracing::info!(volume = self.options.name, direct_io = self.disk.direct(), "volume process runs");
        let mut done = Vec::new();
        while !self.stopped {
            self.settle();
            if let Err(error) = self.arm() {
                return Err(Problem::new("volume-timer", error.to_string()));
            }
            self.io.wait(&mut done).map_err(|error| Problem::new("volume-ring", error.to_string()))?;
            for one in done.drain(..) {
                self.completed(one);
            }
        }
        self.say_goodbye(&mut done)
    }

    /// Sends the last answers; a client that does not read them is not waited for longer than a moment.
    fn say_goodbye(&mut self, done: &mut Vec<Done<Tag>>) -> Result<(), Problem> {
        let end = self.io.now().after(HOUSEKEEPING);
        while self.control.unsent() && self.io.now() < end {
            let waited = self.timer.arm(end).and_then(|()| self.io.wait(done));
            waited.map_err(|error| Problem::new("volume-ring", error.to_string()))?;
            for one in done.drain(..).filter(|one| matches!(one.tag, Tag::Control(_) | Tag::Timer)) {
                self.completed(one);
            }
        }
        tracing::info!(volume = self.options.name, "volume process ends");
        Ok(())
    }

    /// Timer and eventfd: both are read as 8 bytes.
    fn read_counter(&mut self, fd: Fd, tag: Tag) {
        let buffer = self.io.pool.take(8);
        self.io.push(Op::Read { fd, buffer, from: 0, offset: u64::MAX }, tag);
    }

    fn completed(&mut self, done: Done<Tag>) {
        match done.tag {
            Tag::Disk(tag) => self.inputs.extend(self.disk.completed(&mut self.io, tag, done)),
            Tag::Timer => {
                self.timer.fired();
                // The core names each time once. Kept after it has passed, it would make this loop spin.
                self.wake_at = self.wake_at.filter(|at| *at > self.io.now());
                self.inputs.push(Input::Tick);
                self.read_counter(self.timer.fd(), Tag::Timer);
            }
            Tag::Wake => {
                self.read_counter(self.device.wake(), Tag::Wake);
                self.device_news();
                self.point_news();
            }
            Tag::Nbd(tag) => match &mut self.nbd {
                Some(nbd) if nbd.number() == tag.server() => nbd.completed(&mut self.io, done),
                _ => self.point_completed(done),
            },
            Tag::Fuse(tag) => match &mut self.fuse {
                Some(fuse) if fuse.number() == tag.0 => {
                    fuse.completed(&mut self.io, done);
                    if let Some(why) = fuse.take_ended() {
                        self.fuse_ended(&why);
                    }
                }
                _ => self.point_completed(done),
            },
            Tag::Point(_) => self.point_completed(done),
            Tag::Peer(_) => self.peers.completed(&mut self.io, done, &mut self.inputs),
            Tag::Voter(_) => self.voter.completed(&mut self.io, done, &mut self.inputs),
            Tag::Control(_) => {
                if let Some(asked) = self.control.completed(&mut self.io, done) {
                    self.asked(&asked);
                }
                while let Some(client) = self.control.take_gone() {
                    self.point_owner_gone(client);
                }
            }
        }
    }

    /// Gives inputs to the core until there are none, then starts what was queued.
    fn settle(&mut self) {
        let now = self.io.now();
        if now >= self.housekeeping {
            self.housekeeping = now.after(HOUSEKEEPING);
            self.peers.tick(&mut self.io, &mut self.inputs);
            self.voter.tick(&mut self.io, &mut self.inputs);
            if let Some(nbd) = &mut self.nbd {
                nbd.tick(&mut self.io);
            }
            self.points_tick();
        }
        loop {
            self.collect();
            self.points_turn();
            if self.inputs.is_empty() {
                self.peers.flush(&mut self.io, &mut self.inputs);
                if self.inputs.is_empty() {
                    break;
                }
            }
            for input in std::mem::take(&mut self.inputs) {
                if let Input::Ledger(view) = &input {
                    self.peers.set_places(&view.places);
                }
                self.core.handle(self.io.now(), input, &mut self.outputs);
                self.carry_out();
            }
        }
        self.press_back();
    }

    /// Takes the fronts' requests.
    fn collect(&mut self) {
        let now = self.io.now();
        let fronts = [
            self.nbd.as_mut().map(|nbd| nbd as &mut dyn Front),
            self.fuse.as_mut().map(|fuse| fuse as &mut dyn Front),
        ];
        for front in fronts.into_iter().flatten() {
            for (id, op) in front.requests().queue.drain(..) {
                self.stats.begin(now, id, &op);
                let op = if mutates(&op) { self.points.admit(id, op) } else { Some(op) };
                if let Some(op) = op {
                    self.inputs.push(Input::Front { id, op });
                }
            }
        }
        self.carry_points();
    }

    /// A peer that reads slowly slows the fronts down, instead of filling memory.
    fn press_back(&mut self) {
        let waiting = self.peers.waiting();
        let hold = if self.held { waiting > RELEASE_BELOW } else { waiting > HOLD_ABOVE };
        if hold != self.held {
            self.held = hold;
            if let Some(nbd) = &mut self.nbd {
                nbd.hold_back(&mut self.io, hold);
            }
            if let Some(fuse) = &mut self.fuse {
                fuse.hold_back(&mut self.io, hold);
            }
        }
    }

    fn arm(&mut self) -> std::io::Result<()> {
        let at = self.wake_at.map_or(self.housekeeping, |wake| wake.min(self.housekeeping));
        self.timer.arm(at)
    }

    fn asked(&mut self, asked: &Asked) {
        let Asked { client, request } = *asked;
        let command = match request {
            Request::Status => {
                let status = Box::new(self.status());
                return self.control.answer(&mut self.io, client, &Reply::Status { status });
            }
            Request::Subscribe => {
                self.control.subscribe(client);
                let event = VolumeEvent::State { status: Box::new(self.status()) };
                return self.control.answer(&mut self.io, client, &Reply::Event { event });
            }
            Request::PointOpen { limit_bytes, freeze } => {
                return self.point_open(client, limit_bytes, freeze);
            }
            Request::PointStatus { point } => return self.point_status(client, PointId(point)),
            Request::PointClose { point } => {
                self.point_close(PointId(point), "closed as asked");
                return self.control.answer(&mut self.io, client, &Reply::Done);
            }
            Request::FailSuspended => Command::FailSuspended,
            Request::Resume => Command::Resume,
            Request::Quiesce => {
                self.waiting.push(Waiting { client, request });
                self.inputs.push(Input::Command(Command::Quiesce));
                return;
            }
            Request::Demote | Request::Teardown | Request::Stop => {
                self.waiting.push(Waiting { client, request });
                return self.tear_down(request != Request::Teardown);
            }
        };
        self.inputs.push(Input::Command(command));
        self.control.answer(&mut self.io, client, &Reply::Done);
    }

    /// Answers everyone who waits for one of `requests`.
    fn answer_waiting(&mut self, requests: &[Request], reply: &Reply) {
        let waiting = std::mem::take(&mut self.waiting);
        for one in waiting {
            if requests.contains(&one.request) {
                self.control.answer(&mut self.io, one.client, reply);
            } else {
                self.waiting.push(one);
            }
        }
    }

    fn tell(&mut self, event: &VolumeEvent) {
        self.control.tell(&mut self.io, event);
    }

    fn status(&self) -> VolumeStatus {
        let fronts: Vec<&dyn Front> = [
            self.nbd.as_ref().map(|nbd| nbd as &dyn Front),
            self.fuse.as_ref().map(|fuse| fuse as &dyn Front),
        ]
        .into_iter()
        .flatten()
        .collect();
        let [reads, writes, flushes] = self.stats.latencies();
        VolumeStatus {
            name: self.options.name.clone(),
            bytes: self.geometry.bytes,
            pid: std::process::id(),
            replica: self.core.status(),
            device: self.device.state(),
            fronts: fronts.iter().map(|front| front.describe()).collect(),
            nbd: self.nbd.as_ref().map(|_| self.options.nbd_socket().display().to_string()),
            direct_io: self.disk.direct(),
            voter_connected: self.voter.connected(),
            links: self.peers.status(),
            resynced: self.resynced.values().copied().collect(),
            waiting_ms: self.stats.waiting(self.io.now()).0,
            points: self.points.statuses(),
            reads,
            writes,
            flushes,
        }
    }
}

fn open_voter(options: &Options) -> Result<Voter, Problem> {
    Ok(match &options.ledger {
        Ledger::Voter(path) => Voter::Socket(Box::new(voter::Client::new(path.clone()))),
        Ledger::Standalone => Voter::Standalone(Standalone::open(&options.directory)?),
    })
}

/// Every start is a new session (R4).
fn config(options: &Options, volume_bytes: u64) -> Result<Config, Problem> {
    let times = options.times;
    Ok(Config {
        volume_bytes,
        session: SessionId(create::random()?),
        peer_silent: times.peer_silent,
        lease: times.lease,
        drift_permille: times.drift_permille,
        heartbeat: times.heartbeat,
        hot_extents: options.hot_extents,
    })
}

/// A descriptor that helper threads may write to.
fn shared(fd: std::os::fd::OwnedFd) -> Fd {
    Rc::new(fd)
}
