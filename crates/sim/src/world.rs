//! The world: simulated time, the queue of events, the nodes with their clocks, disks and processes.

use crate::{
    client::Client, disk::Disk, faults::Fault, links::Links, network::Network, oracles::Oracles, rng::Rng,
    scenario::Scenario, trace::Trace, volumes::VolumeProcess, voters::VoterProcess,
};
use anshin_base::{
    GroupId, Mono, NodeId, ReplicaId, VoterId,
    lease::LeaseRecord,
    local::{FromVoter, ToVoter},
};
use anshin_ledger::{Envelope, Sign};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

/// One millisecond of simulated time.
pub const MS: u64 = 1_000_000;
/// The replication group of the volume.
pub const GROUP: GroupId = GroupId(7);

/// A place in [`World::nodes`].
pub type At = usize;

/// Something that happens at a time. Events for a process carry its incarnation: those of a dead one are dropped.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the variants say it")]
pub enum Event {
    /// The voter process's timer.
    VoterTick { at: At, start: u64 },
    /// A message between voters.
    Mesh { at: At, envelope: Box<Envelope> },
    /// A sign of life.
    Sign { at: At, sign: Box<Sign> },
    /// A step of the voter's disk batch ended.
    VoterDisk { at: At, start: u64, batch: u64, step: usize },
    /// From a volume process to the voter of its node.
    ToVoter { at: At, voter: u64, volume: u64, message: Box<ToVoter> },
    /// From the voter to the volume process of its node.
    FromVoter { at: At, voter: u64, volume: u64, message: Box<FromVoter> },
    /// The volume process's own timer.
    VolumeWake { at: At, start: u64, number: u64 },
    /// A disk command of the volume process ended.
    VolumeDisk { at: At, start: u64, number: u64 },
    /// Something moves on a link between volume processes.
    Link(crate::links::LinkEvent),
    /// The pair of nodes tries to connect.
    Connect { low: At, high: At },
    /// The daemon has killed the programs and unmounted on a deposed node.
    Cleaned { at: At, start: u64 },
    /// The client thinks of something to do.
    Client { attached: u64 },
    /// A process comes back.
    StartVoter { at: At },
    /// A process comes back.
    StartVolume { at: At },
    /// The operator looks after the replica that replaces a lost one.
    Replace { at: At },
    /// The daemon looks after the voter that replaces one without memory.
    Rejoin { at: At },
    /// A step of the fault plan.
    Fault { number: usize },
    /// A paused node goes on.
    Continue { at: At },
    /// A node is switched on.
    Power { at: At },
    /// The client stops.
    Quiet,
    /// Has everything converged already?
    Probe,
    /// The faults are over.
    Heal,
    /// The run ends.
    End,
}

/// A node's own clock: an offset and a drift against the world's.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// What it shows at the world's beginning.
    pub offset: u64,
    /// How much it gains, in millionths.
    pub drift_ppm: i64,
}

impl Clock {
    /// The node's time.
    #[must_use]
    pub fn local(&self, now: u64) -> Mono {
        let drift = (i128::from(now) * i128::from(self.drift_ppm)) / 1_000_000;
        let local = i128::from(now) + drift + i128::from(self.offset);
        Mono(u64::try_from(local).unwrap_or_default())
    }

    /// The world's time at which the node's clock shows `mono`, rounded up.
    #[must_use]
    pub fn world(&self, mono: Mono) -> u64 {
        let local = i128::from(mono.0) - i128::from(self.offset);
        let world = local * 1_000_000 / (1_000_000 + i128::from(self.drift_ppm)) + 1_000;
        u64::try_from(world).unwrap_or_default()
    }
}

/// A server.
pub struct Node {
    /// Its id in the ledger.
    pub id: NodeId,
    /// Its voter.
    pub voter_id: VoterId,
    /// Its replica, if it holds one.
    pub replica: Option<ReplicaId>,
    /// Its clock.
    pub clock: Clock,
    /// Whether it has power.
    pub powered: bool,
    /// Whether it stands still (SIGSTOP of everything, or a stalled hypervisor).
    pub paused: bool,
    /// What arrived while it stood still.
    pub backlog: Vec<Event>,
    /// The ledger's two areas.
    pub ledger: [Disk; 2],
    /// The replica's data and metadata areas.
    pub areas: [Disk; 2],
    /// Until when the disk does nothing: for the replica, and for the voter.
    pub stalled: [u64; 2],
    /// Yesterday's copy of the areas.
    pub saved: Option<[Disk; 2]>,
    /// Yesterday's copy of the ledger.
    pub saved_ledger: Option<[Disk; 2]>,
    /// The replica that is being made in the place of a lost one.
    pub fresh: Option<ReplicaId>,
    /// Whether the voter lost memory of what it confirmed, and waits for a new id.
    pub rejoining: bool,
    /// The voter process.
    pub voter: Option<VoterProcess>,
    /// The volume process.
    pub volume: Option<VolumeProcess>,
    /// The lease record on its tmpfs: it outlives the volume process, not the power.
    pub lease: Option<LeaseRecord>,
}

struct Queued {
    time: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.time, self.order).cmp(&(other.time, other.order))
    }
}

/// Everything there is.
pub struct World {
    /// Simulated time in nanoseconds.
    pub now: u64,
    /// Chance.
    pub rng: Rng,
    /// What is simulated.
    pub scenario: Scenario,
    /// The servers.
    pub nodes: Vec<Node>,
    /// Who reaches whom.
    pub network: Network,
    /// Connections between volume processes.
    pub links: Links,
    /// The user of the volume.
    pub client: Client,
    /// What must hold.
    pub oracles: Oracles,
    /// What happened.
    pub trace: Trace,
    /// The fault plan.
    pub faults: Vec<Fault>,
    /// Whether the faults are over.
    pub healed: bool,
    /// No fault of the plan strikes before this: one that is tolerated is being got over.
    pub calm_until: u64,
    /// The generation in which everything was last seen to be well, and since when.
    pub well: Option<(u64, u64)>,
    /// Numbers for processes' starts.
    pub start_last: u64,
    /// Counts for the report.
    pub counts: BTreeMap<&'static str, u64>,
    queue: BinaryHeap<Reverse<Queued>>,
    order: u64,
    ended: bool,
}

impl World {
    /// The world of a seed, before anything happened.
    #[must_use]
    pub fn new(seed: u64, scenario: Scenario, verbose: bool) -> Self {
        let mut rng = Rng::new(seed);
        let scenario = scenario.vary(&mut rng);
        let mut world = Self {
            now: 0,
            nodes: Vec::new(),
            network: Network::new(scenario.nodes(), &mut rng),
            links: Links::default(),
            client: Client::new(&scenario),
            oracles: Oracles::default(),
            trace: Trace::new(verbose),
            faults: Vec::new(),
            healed: false,
            calm_until: 0,
            well: None,
            start_last: 0,
            counts: BTreeMap::new(),
            queue: BinaryHeap::new(),
            order: 0,
            ended: false,
            rng,
            scenario,
        };
        crate::build::nodes(&mut world);
        world
    }

    /// Runs to the end of the scenario, or to the first violation.
    pub fn run(&mut self) {
        while let Some(Reverse(next)) = self.queue.pop() {
            self.now = next.time;
            self.happen(next.event);
            if self.ended || self.oracles.violated() {
                break;
            }
        }
        self.describe();
    }

    /// Puts an event into the queue.
    pub fn at(&mut self, time: u64, event: Event) {
        self.order += 1;
        self.queue.push(Reverse(Queued { time: time.max(self.now), order: self.order, event }));
    }

    /// Puts an event into the queue, `delay` from now.
    pub fn after(&mut self, delay: u64, event: Event) {
        self.at(self.now + delay, event);
    }

    /// The node's clock now.
    #[must_use]
    pub fn local(&self, at: At) -> Mono {
        self.nodes[at].clock.local(self.now)
    }

    /// Where a node is.
    #[must_use]
    pub fn place(&self, node: NodeId) -> Option<At> {
        self.nodes.iter().position(|known| known.id == node)
    }

    /// Counts something for the report.
    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_insert(0) += 1;
    }

    fn happen(&mut self, event: Event) {
        if let Some(at) = self.on_node(&event)
            && self.nodes[at].paused
        {
            self.nodes[at].backlog.push(event);
            return;
        }
        match event {
            Event::VoterTick { at, start } => self.voter_tick(at, start),
            Event::Mesh { at, envelope } => self.voter_received(at, *envelope),
            Event::Sign { at, sign } => self.voter_heard(at, *sign),
            Event::VoterDisk { at, start, batch, step } => self.voter_disk(at, start, batch, step),
            Event::ToVoter { at, voter, volume, message } => self.voter_asked(at, voter, volume, *message),
            Event::FromVoter { at, voter, volume, message } => self.volume_told(at, voter, volume, *message),
            Event::VolumeWake { at, start, number } => self.volume_wake(at, start, number),
            Event::VolumeDisk { at, start, number } => self.volume_disk(at, start, number),
            Event::Link(event) => self.link_event(event),
            Event::Connect { low, high } => self.connect(low, high),
            Event::Cleaned { at, start } => self.volume_cleaned(at, start),
            Event::Client { attached } => self.client_think(attached),
            Event::StartVoter { at } => self.start_voter(at),
            Event::StartVolume { at } => self.start_volume(at),
            Event::Replace { at } => self.replace_replica(at),
            Event::Rejoin { at } => self.rejoin_voter(at),
            Event::Fault { number } => self.fault(number),
            Event::Continue { at } => self.continue_node(at),
            Event::Power { at } => self.power(at),
            Event::Quiet => self.client.stopped = true,
            Event::Probe => self.probe(),
            Event::Heal => self.heal(),
            Event::End => {
                self.ended = true;
                self.finish();
            }
        }
    }

    /// Which node's processes an event needs to be running.
    fn on_node(&self, event: &Event) -> Option<At> {
        match event {
            Event::VoterTick { at, .. }
            | Event::Mesh { at, .. }
            | Event::Sign { at, .. }
            | Event::VoterDisk { at, .. }
            | Event::ToVoter { at, .. }
            | Event::FromVoter { at, .. }
            | Event::VolumeWake { at, .. }
            | Event::VolumeDisk { at, .. }
            | Event::Cleaned { at, .. }
            | Event::StartVoter { at }
            | Event::StartVolume { at } => Some(*at),
            Event::Link(event) => Some(self.links.receiver(event)),
            Event::Client { attached } => self.client.node(*attached),
            _ => None,
        }
    }

    /// A new number for a process's start.
    pub fn new_start(&mut self) -> u64 {
        self.start_last += 1;
        self.start_last
    }
}
