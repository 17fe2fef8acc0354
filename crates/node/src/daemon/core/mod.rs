//! The daemon's one owner of state: everything that happens arrives here as an [`Event`], in order.

mod director;
mod ears;
mod lead;
mod operations;
mod rejoin;
mod replicas;

use super::{
    director::{DirectorEvent, Keeper},
    files::Files,
    leader::Leader,
    local::LocalResources,
    messages::{Happened, Order},
    passage::Recorder,
    voter_link::{VoterEvent, VoterLink},
    world::World,
};
use crate::{paths::Paths, setup::KnownVoters, supervise::Supervisor, view::Happening, voter::protocol};
use anshin_agent::{OperationResult, Runner};
use anshin_base::{GroupId, LedgerEpoch, Millis, Mono, NodeId, Problem, VoterId};
use anshin_device::control::{VolumeEvent, VolumeStatus};
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
    /// A repeated monitor is due; the number is that of its watch.
    MonitorDue(u64, Order),
    /// A volume process told something; None when its connection ended.
    Volume(String, Option<Box<VolumeEvent>>),
    /// A volume process was asked for its status.
    VolumeStatus(String, Option<Box<VolumeStatus>>),
    /// Somebody looked for a replica's files, under this number.
    Looked(String, u64, bool),
    /// A replica's files were made, or not.
    ReplicaMade(String, Result<(), Problem>),
    /// A background proposal was decided, or not.
    Proposed(String),
    /// What a lost primary role left behind is gone, or not yet.
    TakenDown(String, Result<(), Problem>),
    /// The ledger recorded a new voter for a node that wished for one; None if it did not.
    NewVoter {
        /// Whose.
        node: NodeId,
        /// Which wish.
        wish: u64,
        /// The new id.
        voter: Option<VoterId>,
    },
    /// Something around backups.
    Director(DirectorEvent),
}

/// What is known of a volume process on this node.
#[derive(Default)]
struct VolumeHere {
    status: Option<VolumeStatus>,
    /// Its first word arrived: what it is is known.
    heard: bool,
    /// Its replica failed; it is started again when its users are gone.
    failed: bool,
    cleaning: bool,
    suspended: bool,
    /// How often in a row its status showed something that an event should have brought about.
    amiss: u32,
}

/// What the core needs.
pub struct Setup {
    /// This node, which the first world names too.
    pub me: NodeId,
    /// Its voter, as its files have it.
    pub voter_id: VoterId,
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
    /// The vault processes of this node.
    pub keeper: Arc<dyn Keeper>,
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
    /// The one watch that counts of every repeated monitor.
    watches: BTreeMap<(String, Millis), u64>,
    watch_last: u64,
    /// Orders of other daemons by number, and how they ended.
    orders: BTreeMap<u64, Option<bool>>,
    /// The same, oldest first.
    order_numbers: VecDeque<u64>,
    files: Files,
    formatting: BTreeSet<String>,
    last_primary: BTreeMap<GroupId, NodeId>,
    /// What the voter was told last.
    wanted: Option<protocol::Wanted>,
    /// Failovers and moves.
    recorder: Recorder,
    /// The ledger's epoch.
    epoch: LedgerEpoch,
    /// This node's wish for a new voter, and the last one that was granted.
    wish: Option<rejoin::Wish>,
    wished: Option<u64>,
    /// When each other daemon was heard last.
    report_heard: BTreeMap<NodeId, Mono>,
    /// What was kept last of who votes.
    known_voters: Option<KnownVoters>,
    /// The connection is one to the voter that `setup` names.
    voter_connected: bool,
    /// What this node, while it led, did about other nodes' wishes.
    granted: BTreeMap<NodeId, rejoin::Granted>,
    /// Since when nodes run another voter than the ledger's.
    other_voters: BTreeMap<NodeId, Mono>,
    /// Backups.
    backups: director::Backups,
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
        let world = World::clone(&setup.world.borrow());
        let start = crate::random_id()?;
        let backups = director::Backups::new(start, setup.keeper.clone(), setup.events.clone());
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
            watches: BTreeMap::new(),
            watch_last: 0,
            orders: BTreeMap::new(),
            order_numbers: VecDeque::new(),
            files: Files::default(),
            formatting: BTreeSet::new(),
            last_primary: BTreeMap::new(),
            wanted: None,
            recorder: Recorder::default(),
            epoch: LedgerEpoch(1),
            wish: None,
            wished: None,
            report_heard: BTreeMap::new(),
            known_voters: None,
            voter_connected: false,
            granted: BTreeMap::new(),
            other_voters: BTreeMap::new(),
            backups,
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
            Event::MonitorDue(watch, order) => self.monitor_due(watch, order),
            Event::Volume(volume, event) => self.volume_event(&volume, event.map(|event| *event)),
            Event::VolumeStatus(volume, status) => self.volume_status(&volume, status.map(|status| *status)),
            Event::Proposed(key) => {
                self.proposed.remove(&key);
            }
            Event::Looked(volume, number, there) => {
                self.files.answered(&volume, number, there);
                self.keep_volumes();
            }
            Event::ReplicaMade(volume, made) => self.replica_made(&volume, made),
            Event::TakenDown(volume, result) => self.taken_down(&volume, result),
            Event::NewVoter { node, wish, voter } => self.new_voter(node, wish, voter),
            Event::Director(event) => self.director_event(event),
        }
    }

    fn tick(&mut self) {
        let (ended, failed) = self.supervisor.tick();
        for ended in ended {
            tracing::error!(process = ended.name, how = ended.how, "a process ended and is started again");
            let why = format!("it ended with {}", ended.how);
            let what = format!("process {} is started again", ended.name);
            self.note(&self.setup.name.clone(), &what, &why);
        }
        for problem in failed {
            tracing::error!(%problem, "a process cannot be started");
        }
        if self.now().since(self.reported).0 >= REPORT_EVERY.0 {
            self.report_due = true;
            self.supervisor.bound_logs(crate::supervise::LOG_SIZE_MAX);
        }
        self.age_reports();
        self.world.ledger_age_ms = match (self.world.quorate, self.quorate_at) {
            (true, _) => 0,
            (false, Some(at)) => self.now().since(at).0,
            (false, None) => crate::view::AGE_UNKNOWN_MS,
        };
        self.keep_volumes();
        self.keep_wishing();
        if self.world.leads() {
            self.look_for_other_voters();
        }
    }

    /// After everything that happened at once: lead, report, publish.
    fn settle(&mut self) {
        if self.report_due {
            self.send_report();
        }
        self.lead();
        self.direct();
        let now = self.now();
        self.recorder.observe(&self.world, now);
        if self.report_due {
            self.send_report();
        }
        self.setup.world.send_replace(Arc::new(self.world.clone()));
    }

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
        crate::daemon::clock()
    }
}
