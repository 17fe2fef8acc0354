//! A tiny world for directed scenarios: a few replicas, disks that lose what was not flushed, links that can be cut or
//! held, and a trivial ideal ledger. Every message goes through the codec.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "each test file uses its own part of the harness"
)]

pub mod disk;

use anshin_base::{
    ChangeRefused, Generation, GroupChange, GroupEntry, GroupId, LedgerEpoch, LedgerIndex, Member, Millis,
    Mono, NodeId, ReplicaId, SessionId,
    local::{Outcome, ReplicaPlace},
};
use anshin_mirror::wire::{self, HEADER_SIZE, Message};
use anshin_mirror::{
    Command, Config, DiskError, Event, Format, FrontError, FrontOp, Input, LedgerView, LinkId, Output,
    Replica, RequestId, RoleName, Status,
};
use bytes::Bytes;
use disk::Disk;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub const GROUP: GroupId = GroupId(0xa11);
pub const MIB: u64 = 1 << 20;

/// A small repeatable source of choices.
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

pub struct Node {
    pub disk: Disk,
    pub replica: Option<Replica>,
    pub session: SessionId,
    pub answers: BTreeMap<RequestId, Result<Bytes, FrontError>>,
    pub events: Vec<Event>,
    pub serving: bool,
    pub hears_ledger: bool,
    pub lease_until: Mono,
    pub promotable: bool,
    /// Proposals get no answer but `Unknown`, though they are applied.
    pub answers_lost: bool,
    disk_queue: VecDeque<Output>,
}

#[derive(Default)]
pub struct Link {
    pub id: u64,
    pub cut: bool,
    /// Messages stay on the way: from the lower node, from the higher node.
    pub hold: [bool; 2],
    up: bool,
    queues: [VecDeque<Message>; 2],
}

pub struct World {
    pub now: Mono,
    pub nodes: Vec<Node>,
    pub links: BTreeMap<(usize, usize), Link>,
    pub entry: Option<GroupEntry>,
    pub index: u64,
    pub epoch: u64,
    pub quorate: bool,
    pub highest: BTreeMap<ReplicaId, u64>,
    pub bugs: Bugs,
    pub dice: Option<Dice>,
    pub volume_bytes: u64,
    pub peer_silent: Millis,
    pub sent: Vec<(usize, usize, Message)>,
    /// Inputs that wait for the outputs before them to be carried out.
    inbox: VecDeque<(usize, Input)>,
    proposals: VecDeque<(usize, u64, GroupChange)>,
    request_next: u64,
    link_next: u64,
    session_next: u64,
}

#[cfg(feature = "bugs")]
pub use anshin_mirror::Bugs;
#[cfg(not(feature = "bugs"))]
#[derive(Clone, Copy, Default)]
pub struct Bugs {}

pub fn id(node: usize) -> ReplicaId {
    ReplicaId(node as u64 + 1)
}

impl World {
    pub fn new(count: usize) -> Self {
        Self::sized(count, 64 * MIB, 16)
    }

    pub fn sized(count: usize, volume_bytes: u64, hot_extents: u32) -> Self {
        let mut world = Self {
            now: Mono(1_000_000_000),
            nodes: Vec::new(),
            links: BTreeMap::new(),
            entry: None,
            index: 0,
            epoch: 1,
            quorate: true,
            highest: BTreeMap::new(),
            bugs: Bugs::default(),
            dice: None,
            volume_bytes,
            peer_silent: Millis(1000),
            sent: Vec::new(),
            inbox: VecDeque::new(),
            proposals: VecDeque::new(),
            request_next: 0,
            link_next: 0,
            session_next: 100,
        };
        for node in 0..count {
            let format = Format { volume_bytes, group: GROUP, replica: id(node), hot_extents, zeroed: true };
            let disk = Disk::new(volume_bytes, &format.image().unwrap());
            world.nodes.push(Node {
                disk,
                replica: None,
                session: SessionId(0),
                answers: BTreeMap::new(),
                events: Vec::new(),
                serving: false,
                hears_ledger: true,
                lease_until: Mono(0),
                promotable: false,
                answers_lost: false,
                disk_queue: VecDeque::new(),
            });
            for other in 0..node {
                world.links.insert((other, node), Link::default());
            }
        }
        world
    }

    /// All nodes started, the group made with node 0 as primary, and everyone in sync.
    pub fn in_sync(count: usize) -> Self {
        let mut world = Self::new(count);
        world.bring_in_sync();
        world
    }

    pub fn bring_in_sync(&mut self) {
        for node in 0..self.nodes.len() {
            self.start(node);
        }
        self.settle();
        let first = Member { replica: id(0), session: self.nodes[0].session };
        self.change(&GroupChange::Create { group: GROUP, first }).unwrap();
        self.promote(0);
        self.run(3000);
        assert_eq!(self.set(), (0..self.nodes.len()).collect::<Vec<_>>(), "everyone joins");
    }

    pub fn start(&mut self, node: usize) {
        self.session_next += 1;
        let session = SessionId(self.session_next);
        let config = Config {
            volume_bytes: self.volume_bytes,
            session,
            peer_silent: self.peer_silent,
            lease: Millis(900),
            drift_permille: 10,
            heartbeat: Millis(100),
            hot_extents: 16,
        };
        let mut out = Vec::new();
        #[cfg(feature = "bugs")]
        let replica = Replica::open_with_bugs(config, self.now, &mut out, self.bugs);
        #[cfg(not(feature = "bugs"))]
        let replica = Replica::open(config, self.now, &mut out);
        self.nodes[node].session = session;
        self.nodes[node].replica = Some(replica);
        self.act(node, out);
        self.view(node);
    }

    /// The process dies; what was not flushed is kept or lost as `keep` says.
    pub fn crash(&mut self, node: usize, keep: disk::Keep) {
        let found = &mut self.nodes[node];
        found.replica = None;
        found.serving = false;
        found.disk_queue.clear();
        found.disk.crash(keep, &mut Dice(self.now.0));
        self.inbox.retain(|(to, _)| *to != node);
        self.proposals.retain(|(from, ..)| *from != node);
        for pair in self.pairs(node) {
            self.down(pair);
        }
    }

    fn pairs(&self, node: usize) -> Vec<(usize, usize)> {
        self.links.keys().filter(|(a, b)| *a == node || *b == node).copied().collect()
    }

    fn down(&mut self, pair: (usize, usize)) {
        let link = self.links.get_mut(&pair).unwrap();
        let (up, id) = (std::mem::take(&mut link.up), LinkId(link.id));
        link.queues.iter_mut().for_each(VecDeque::clear);
        if up {
            for node in [pair.0, pair.1] {
                self.input(node, Input::LinkDown { link: id });
            }
        }
    }

    pub fn cut(&mut self, a: usize, b: usize) {
        let pair = (a.min(b), a.max(b));
        self.links.get_mut(&pair).unwrap().cut = true;
        self.down(pair);
    }

    pub fn heal(&mut self, a: usize, b: usize) {
        self.links.get_mut(&(a.min(b), a.max(b))).unwrap().cut = false;
    }

    /// Holds back (or lets go) what `from` says to `to`.
    pub fn hold(&mut self, from: usize, to: usize, on: bool) {
        let link = self.links.get_mut(&(from.min(to), from.max(to))).unwrap();
        link.hold[usize::from(from > to)] = on;
    }

    /// Cuts a node off from everything.
    pub fn isolate(&mut self, node: usize) {
        for (a, b) in self.pairs(node) {
            self.cut(a, b);
        }
        self.nodes[node].hears_ledger = false;
    }

    pub fn rejoin(&mut self, node: usize) {
        for (a, b) in self.pairs(node) {
            self.heal(a, b);
        }
        self.nodes[node].hears_ledger = true;
        self.view(node);
    }

    fn connect(&mut self) {
        for pair in self.links.keys().copied().collect::<Vec<_>>() {
            let alive = [pair.0, pair.1].iter().all(|node| self.nodes[*node].replica.is_some());
            let link = &self.links[&pair];
            if alive && !link.up && !link.cut {
                self.link_next += 1;
                let id = self.link_next;
                let link = self.links.get_mut(&pair).unwrap();
                (link.id, link.up) = (id, true);
                for node in [pair.0, pair.1] {
                    self.input(node, Input::LinkUp { link: LinkId(id) });
                }
            }
        }
    }

    pub fn input(&mut self, node: usize, input: Input) {
        let now = self.now;
        let Some(replica) = &mut self.nodes[node].replica else { return };
        let mut out = Vec::new();
        replica.handle(now, input, &mut out);
        self.act(node, out);
    }

    pub fn command(&mut self, node: usize, command: Command) {
        self.input(node, Input::Command(command));
        self.settle();
    }

    fn act(&mut self, node: usize, out: Vec<Output>) {
        for output in out {
            match output {
                Output::DiskRead { .. }
                | Output::DiskWrite { .. }
                | Output::DiskZero { .. }
                | Output::DiskFlush { .. } => self.nodes[node].disk_queue.push_back(output),
                Output::Send { link, message } => self.post(node, link, message),
                Output::Close { link, .. } => {
                    let pair = self.links.iter().find(|(_, found)| found.id == link.0 && found.up);
                    if let Some(pair) = pair.map(|(pair, _)| *pair) {
                        let found = self.links.get_mut(&pair).unwrap();
                        found.up = false;
                        found.queues.iter_mut().for_each(VecDeque::clear);
                        let other = if pair.0 == node { pair.1 } else { pair.0 };
                        self.inbox.push_back((other, Input::LinkDown { link }));
                    }
                }
                Output::Propose { request, change } => self.proposals.push_back((node, request, change)),
                Output::FrontDone { id, result } => {
                    let before = self.nodes[node].answers.insert(id, result);
                    assert_eq!(before, None, "a request is answered once");
                }
                Output::Report(report) => {
                    let seen = self.highest.entry(report.replica).or_default();
                    *seen = (*seen).max(report.progress);
                    self.nodes[node].promotable = report.promotable;
                }
                Output::Lease(record) => self.nodes[node].lease_until = record.until,
                Output::WakeAt(_) => {}
                Output::Event(event) => {
                    match event {
                        Event::Serve { .. } => self.nodes[node].serving = true,
                        Event::Deposed { .. } | Event::Demoted | Event::Failed { .. } => {
                            self.nodes[node].serving = false;
                        }
                        _ => {}
                    }
                    self.nodes[node].events.push(event);
                }
            }
        }
    }

    fn post(&mut self, node: usize, link: LinkId, message: Message) {
        let encoded = message.encode_header();
        let header = wire::decode_header(&encoded[..HEADER_SIZE]).unwrap();
        let payload = message.payload().cloned().unwrap_or_default();
        let decoded = Message::from_parts(header, &encoded[HEADER_SIZE..], payload).unwrap();
        assert_eq!(decoded, message);
        let Some((pair, found)) = self.links.iter_mut().find(|(_, found)| found.id == link.0 && found.up)
        else {
            return;
        };
        let side = usize::from(node == pair.1);
        let other = if side == 0 { pair.1 } else { pair.0 };
        self.sent.push((node, other, decoded.clone()));
        if self.sent.len() > 20_000 {
            self.sent.drain(..10_000);
        }
        found.queues[side].push_back(decoded);
    }

    /// Applies a change as the ideal ledger.
    pub fn change(&mut self, change: &GroupChange) -> Result<GroupEntry, ChangeRefused> {
        let entry = GroupEntry::apply(self.entry.as_ref(), change)?;
        self.index += 1;
        self.entry = Some(entry.clone());
        self.views();
        Ok(entry)
    }

    fn proposal(&mut self, node: usize, request: u64, change: &GroupChange) {
        let outcome = if !self.quorate || !self.nodes[node].hears_ledger {
            Outcome::Unknown
        } else {
            match GroupEntry::apply(self.entry.as_ref(), change) {
                Ok(entry) => {
                    self.index += 1;
                    self.entry = Some(entry.clone());
                    if self.nodes[node].answers_lost { Outcome::Unknown } else { Outcome::Applied(entry) }
                }
                Err(refused) => Outcome::Refused(refused),
            }
        };
        let applied = !matches!(outcome, Outcome::Refused(_));
        self.input(node, Input::Proposed { request, outcome });
        if applied {
            self.views();
        }
    }

    pub fn views(&mut self) {
        for node in 0..self.nodes.len() {
            self.view(node);
        }
    }

    pub fn make_view(&self, node: usize) -> LedgerView {
        let place = |node: usize| ReplicaPlace {
            replica: id(node),
            node: NodeId(u32::try_from(node).unwrap() + 1),
            addresses: Vec::new(),
        };
        LedgerView {
            epoch: LedgerEpoch(self.epoch),
            index: LedgerIndex(self.index),
            entry: self.entry.clone(),
            places: (0..self.nodes.len()).map(place).collect(),
            highest: self.highest.iter().map(|(replica, seen)| (*replica, *seen)).collect(),
            quorate: self.quorate && self.nodes[node].hears_ledger,
        }
    }

    pub fn view(&mut self, node: usize) {
        if self.nodes[node].hears_ledger {
            let view = self.make_view(node);
            self.input(node, Input::Ledger(view));
        }
    }

    /// The ledger loses or regains its quorum.
    pub fn quorum(&mut self, on: bool) {
        self.quorate = on;
        self.views();
        self.settle();
    }

    pub fn promote(&mut self, node: usize) {
        let candidate = Member { replica: id(node), session: self.nodes[node].session };
        let expect = self.generation();
        self.change(&GroupChange::Promote { group: GROUP, expect, candidate }).unwrap();
        self.settle();
    }

    pub fn generation(&self) -> Generation {
        self.entry.as_ref().unwrap().generation
    }

    /// The nodes of the recorded set.
    pub fn set(&self) -> Vec<usize> {
        let entry = self.entry.as_ref().unwrap();
        (0..self.nodes.len()).filter(|node| entry.in_sync.contains_key(&id(*node))).collect()
    }

    /// Whether a node is recorded in its present session.
    pub fn member(&self, node: usize) -> bool {
        let member = Member { replica: id(node), session: self.nodes[node].session };
        self.entry.as_ref().unwrap().holds(member)
    }

    /// Carries out one thing that is due; false if nothing is.
    pub fn step(&mut self) -> bool {
        if let Some((node, input)) = self.inbox.pop_front() {
            self.input(node, input);
            return true;
        }
        if let Some((node, request, change)) = self.proposals.pop_front() {
            self.proposal(node, request, &change);
            return true;
        }
        self.connect();
        let mut choices: Vec<(usize, usize)> = Vec::new();
        for (node, found) in self.nodes.iter().enumerate() {
            if !found.disk_queue.is_empty() && !found.disk.held {
                choices.push((node, usize::MAX));
            }
        }
        for ((a, b), link) in &self.links {
            for (side, (from, to)) in [(*a, *b), (*b, *a)].into_iter().enumerate() {
                if link.up && !link.hold[side] && !link.queues[side].is_empty() {
                    choices.push((from, to));
                }
            }
        }
        if choices.is_empty() {
            return false;
        }
        let at = match &mut self.dice {
            Some(dice) => usize::try_from(dice.roll(choices.len() as u64)).unwrap(),
            None => 0,
        };
        let (from, to) = choices[at];
        if to == usize::MAX {
            self.disk_step(from);
        } else {
            let pair = (from.min(to), from.max(to));
            let link = self.links.get_mut(&pair).unwrap();
            let message = link.queues[usize::from(from > to)].pop_front().unwrap();
            let link = LinkId(link.id);
            self.input(to, Input::Received { link, message });
        }
        true
    }

    fn disk_step(&mut self, node: usize) {
        let count = self.nodes[node].disk_queue.len() as u64;
        let at = match &mut self.dice {
            Some(dice) => usize::try_from(dice.roll(count)).unwrap(),
            None => 0,
        };
        let command = self.nodes[node].disk_queue.remove(at).unwrap();
        let (token, result) = self.nodes[node].disk.carry_out(&command);
        self.input(node, Input::DiskDone { token, result });
    }

    /// Everything that is due without time passing.
    pub fn settle(&mut self) {
        for _ in 0..2_000_000 {
            if !self.step() {
                return;
            }
        }
        panic!("the world does not come to rest");
    }

    /// Lets time pass, in steps of 10 ms.
    pub fn run(&mut self, millis: u64) {
        for _ in 0..millis / 10 {
            self.now = self.now.after(Millis(10));
            for node in 0..self.nodes.len() {
                self.input(node, Input::Tick);
            }
            self.settle();
        }
    }

    /// The primary is cut off and node 1 promoted: when node 0's lease ends, and when node 1 first serves.
    pub fn succession(&mut self) -> (Mono, Mono) {
        self.run(100);
        self.isolate(0);
        let ends = self.nodes[0].lease_until;
        self.promote(1);
        for _ in 0..400 {
            self.run(10);
            if self.nodes[1].lease_until > self.now {
                break;
            }
        }
        (ends, self.now)
    }

    pub fn request(&mut self, node: usize, op: FrontOp) -> RequestId {
        self.request_next += 1;
        let id = RequestId(self.request_next);
        self.input(node, Input::Front { id, op });
        id
    }

    pub fn write(&mut self, node: usize, offset: u64, byte: u8, length: usize) -> RequestId {
        let data = Bytes::from(vec![byte; length]);
        self.request(node, FrontOp::Write { offset, data, fua: false })
    }

    /// A write of one block that must succeed now.
    pub fn put(&mut self, node: usize, offset: u64, byte: u8) {
        let id = self.write(node, offset, byte, 4096);
        self.settle();
        assert_eq!(self.answer(node, id), Some(Ok(Bytes::new())), "a write to node {node}");
    }

    pub fn flush(&mut self, node: usize) {
        let id = self.request(node, FrontOp::Flush);
        self.settle();
        assert_eq!(self.answer(node, id), Some(Ok(Bytes::new())), "a flush on node {node}: {}", self.dump());
    }

    pub fn answer(&self, node: usize, id: RequestId) -> Option<Result<Bytes, FrontError>> {
        self.nodes[node].answers.get(&id).cloned()
    }

    /// The byte that a block is filled with, as read through the front.
    pub fn get(&mut self, node: usize, offset: u64) -> u8 {
        let id = self.request(node, FrontOp::Read { offset, length: 4096 });
        self.settle();
        let data = self.answer(node, id).expect("the read is answered").expect("the read succeeds");
        assert!(data.iter().all(|byte| *byte == data[0]), "a block is written whole");
        data[0]
    }

    pub fn status(&self, node: usize) -> Status {
        self.nodes[node].replica.as_ref().unwrap().status().unwrap()
    }

    /// For the message of a failed assertion.
    pub fn dump(&self) -> String {
        let mut text = format!("now {:?} entry {:?}\n", self.now, self.entry);
        for (node, found) in self.nodes.iter().enumerate() {
            let status = found.replica.as_ref().and_then(Replica::status);
            let held = found.disk_queue.len();
            text += &format!("node {node} lease {:?} disk {held}: {status:?}\n", found.lease_until);
            let events = found.events.iter().rev().take(6).collect::<Vec<_>>();
            text += &format!("  events, newest first: {events:?}\n");
        }
        for (pair, link) in &self.links {
            let waiting = link.queues.iter().map(VecDeque::len).collect::<Vec<_>>();
            text +=
                &format!("link {pair:?} up {} cut {} hold {:?} {waiting:?}\n", link.up, link.cut, link.hold);
        }
        let beat = |m: &Message| matches!(m, Message::LeaseRequest { .. } | Message::LeaseGrant { .. });
        for (from, to, message) in self.sent.iter().rev().filter(|sent| !beat(&sent.2)).take(30) {
            let mut line = format!("{message:?}");
            line.truncate(150);
            text += &format!("  {from}->{to} {line}\n");
        }
        text
    }

    pub fn role_or_opening(&self, node: usize) -> RoleName {
        let replica = self.nodes[node].replica.as_ref().unwrap();
        replica.status().map_or(RoleName::Opening, |status| status.role)
    }

    pub fn role(&self, node: usize) -> RoleName {
        self.status(node).role
    }

    pub fn replica(&self, node: usize) -> &Replica {
        self.nodes[node].replica.as_ref().unwrap()
    }

    pub fn events(&self, node: usize, wanted: impl Fn(&Event) -> bool) -> usize {
        self.nodes[node].events.iter().filter(|event| wanted(event)).count()
    }

    /// Blocks in which two nodes differ, as they would be read now.
    pub fn differences(&self, a: usize, b: usize) -> BTreeSet<u64> {
        self.nodes[a].disk.differences(&self.nodes[b].disk)
    }

    /// I3: wherever two replicas that are running differ, one of them says so.
    pub fn assert_covered(&self) {
        for a in 0..self.nodes.len() {
            for b in a + 1..self.nodes.len() {
                let (Some(left), Some(right)) = (&self.nodes[a].replica, &self.nodes[b].replica) else {
                    continue;
                };
                if left.status().is_none() || right.status().is_none() {
                    continue;
                }
                for offset in self.differences(a, b) {
                    assert!(
                        left.may_differ(id(b), offset) || right.may_differ(id(a), offset),
                        "I3: block {offset} differs between {a} and {b} and nobody knows"
                    );
                }
            }
        }
    }

    pub fn assert_equal(&self) {
        for node in 1..self.nodes.len() {
            let differ = self.differences(0, node);
            assert!(differ.is_empty(), "node {node} differs from node 0 at {differ:?}");
        }
    }
}

pub fn io() -> DiskError {
    DiskError::Io
}
