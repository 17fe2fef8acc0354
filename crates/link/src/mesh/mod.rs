//! The mesh of voters: one link to every other node, heartbeats, and a way round a broken link (R13).
//!
//! Every node dials every other one and writes only on the link that it dialled, so two nodes share two links and there is
//! never a question which of them counts. A new link from a node replaces the one it had.
//!
//! [`Mesh`] is driven by its owner: [`Mesh::next`] beats, routes, relays and returns what the owner must know. So a
//! process whose loop stands still also falls silent.

mod accept;
mod dial;
mod link;
pub mod table;
pub mod wire;

use crate::{clock, credentials::Credentials, identity::PeerIdentity, tls};
use accept::Listener;
use anshin_base::{LedgerEpoch, NodeId, Problem, frame::Frame};
use bytes::Bytes;
use dial::Dialer;
use link::Link;
use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};
use table::{Heard, PeerLiveness, Route, Table};
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
    time::{Interval, MissedTickBehavior, interval},
};
use wire::{Envelope, FRAME_LENGTH_MAX, Heartbeat, MESSAGE_LENGTH_MAX, kind};

/// Messages that wait for the mesh's owner; then links are read no further.
const ARRIVALS_MAX: usize = 1024;

/// The times of a mesh.
#[derive(Clone, Copy, Debug)]
pub struct MeshTimes {
    /// Between heartbeats.
    pub heartbeat: Duration,
    /// For a TCP connection to stand. Short, so that a healed cut is noticed soon: the kernel itself would repeat a
    /// lost SYN only after a second.
    pub connect: Duration,
    /// For the TLS handshake and the hello of a link.
    pub handshake: Duration,
    /// For the peer to take a message, and (by the kernel) to confirm what was sent.
    pub write: Duration,
    /// First and longest pause before dialling again.
    pub backoff: (Duration, Duration),
    /// Pause after the peer was refused or refused us: that does not heal within moments.
    pub refused: Duration,
    /// An accepted link on which nothing comes is closed after this.
    pub idle: Duration,
}

impl Default for MeshTimes {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            connect: Duration::from_millis(400),
            handshake: Duration::from_secs(1),
            write: Duration::from_secs(1),
            backoff: (Duration::from_millis(50), Duration::from_millis(200)),
            refused: Duration::from_secs(3),
            idle: Duration::from_secs(20),
        }
    }
}

/// How a mesh is set up.
#[derive(Clone, Debug)]
pub struct MeshOptions {
    /// Who this node is.
    pub credentials: Arc<Credentials>,
    /// Where other nodes reach it.
    pub listen: Vec<SocketAddr>,
    /// The build, told to peers.
    pub build: String,
    /// The times.
    pub times: MeshTimes,
}

/// Which nodes there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Every node of the site with its addresses (`host:port`), most preferred first. This node may be among them.
    pub nodes: BTreeMap<NodeId, Vec<String>>,
    /// The first number that was never given to a node. A node with a smaller number that is not in `nodes` was
    /// removed and is refused; one with this or a greater number may have joined before this node heard of it.
    pub next_node: NodeId,
}

/// What the owner of a mesh learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MeshEvent {
    /// A message for this node.
    Message {
        /// Who wrote it.
        from: NodeId,
        /// Its kind, [`wire::kind::RAFT`] or greater.
        kind: u16,
        /// The message.
        body: Bytes,
    },
    /// A heartbeat newer than all before.
    Heartbeat {
        /// Whose.
        from: NodeId,
        /// Whether it is the first of a new process.
        restarted: bool,
        /// The sender's ledger epoch.
        epoch: LedgerEpoch,
        /// What its owner had to say.
        payload: Bytes,
    },
    /// The link to a node stands.
    LinkUp(NodeId),
    /// The link to a node broke.
    LinkDown(NodeId),
    /// A heartbeat was sent; liveness may have changed with time.
    Beat,
}

/// Why a message was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There is no way to the node now.
    #[error("the node cannot be reached, neither directly nor through another node")]
    Unreachable,
    /// Too much waits for the node already.
    #[error("too many messages wait for the node")]
    Full,
    /// Longer than [`MESSAGE_LENGTH_MAX`].
    #[error("the message is too long")]
    TooLong,
}

/// What links tell the mesh.
#[derive(Debug)]
enum Arrival {
    Up { node: NodeId, dial: u64 },
    Down { node: NodeId, dial: u64 },
    Accepted { peer: PeerIdentity, reader: AbortHandle, number: u64 },
    Frame { from: NodeId, number: u64, frame: Frame },
    Closed { from: NodeId, number: u64 },
}

/// The accepted link of a node.
#[derive(Debug)]
struct Accepted {
    number: u64,
    reader: AbortHandle,
}

/// This node's end of all links.
pub struct Mesh {
    me: NodeId,
    table: Table,
    dialer: Arc<Dialer>,
    links: BTreeMap<NodeId, Link>,
    accepted: BTreeMap<NodeId, Accepted>,
    membership: Membership,
    arrivals: mpsc::Receiver<Arrival>,
    arrive: mpsc::Sender<Arrival>,
    listener: Listener,
    beat: Interval,
    epoch: watch::Sender<LedgerEpoch>,
    payload: Bytes,
    dials: u64,
}

impl Mesh {
    /// Listens and starts to know peers. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If an address cannot be listened on or the credentials cannot be used.
    pub async fn start(options: MeshOptions) -> Result<Self, Problem> {
        let me = options.credentials.identity().node;
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| {
            Problem::new("randomness", format!("the machine gives no random bytes: {error}"))
        })?;
        let incarnation = u64::from_le_bytes(random);
        let (arrive, arrivals) = mpsc::channel(ARRIVALS_MAX);
        let (epoch, epochs) = watch::channel(LedgerEpoch(0));
        let greeter = link::Greeter {
            identity: options.credentials.identity().clone(),
            incarnation,
            build: options.build,
            epoch: epochs,
            times: options.times,
        };
        let listener = Listener::start(
            &options.listen,
            tls::server_config(&options.credentials)?,
            greeter.clone(),
            arrive.clone(),
        )
        .await?;
        let dialer = Dialer::new(tls::client_config(&options.credentials)?, greeter);
        let mut beat = interval(options.times.heartbeat);
        // After a pause one heartbeat tells all that several would.
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            me,
            table: Table::new(me, incarnation),
            dialer: Arc::new(dialer),
            links: BTreeMap::new(),
            accepted: BTreeMap::new(),
            membership: Membership::default(),
            arrivals,
            arrive,
            listener,
            beat,
            epoch,
            payload: Bytes::new(),
            dials: 0,
        })
    }

    /// This node.
    #[must_use]
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// Where it listens (with the ports that the system chose where 0 was asked for).
    #[must_use]
    pub fn listening(&self) -> &[SocketAddr] {
        self.listener.addresses()
    }

    /// Says which nodes there are: new ones are dialled, links to removed ones are closed.
    pub fn set_membership(&mut self, membership: Membership) {
        if membership == self.membership {
            return;
        }
        self.membership = membership;
        for (node, addresses) in &self.membership.nodes {
            if *node == self.me {
                continue;
            }
            self.table.expect(*node);
            if self.links.get(node).is_some_and(|link| link.addresses == *addresses) {
                continue;
            }
            self.table.link_down(*node);
            self.dials += 1;
            let link = Link::start(
                Arc::clone(&self.dialer),
                *node,
                self.dials,
                addresses.clone(),
                self.arrive.clone(),
            );
            self.links.insert(*node, link);
        }
        self.drop_removed();
    }

    /// Closes the links of nodes that are no members any more.
    fn drop_removed(&mut self) {
        let nodes = &self.membership.nodes;
        let gone: Vec<_> = self.links.keys().filter(|node| !nodes.contains_key(node)).copied().collect();
        for node in gone {
            self.links.remove(&node);
            self.table.link_down(node);
        }
        let known = self.table.liveness(clock::now()).into_iter().map(|peer| peer.node);
        let removed: Vec<_> = known.filter(|node| self.was_removed(*node)).collect();
        for node in removed {
            self.table.forget(node);
            if let Some(accepted) = self.accepted.remove(&node) {
                accepted.reader.abort();
            }
        }
    }

    /// What the next heartbeats carry.
    pub fn set_heartbeat(&mut self, epoch: LedgerEpoch, payload: Bytes) {
        self.epoch.send_replace(epoch);
        self.payload = payload;
    }

    /// Sends a message by the best way there is now. It may still be lost with the link.
    ///
    /// # Errors
    /// [`SendError`]; the message is not under way then.
    pub fn send(&mut self, to: NodeId, kind: u16, body: Bytes) -> Result<(), SendError> {
        debug_assert!(kind >= kind::RAFT, "invariant: smaller kinds are the mesh's own");
        if body.len() > MESSAGE_LENGTH_MAX {
            return Err(SendError::TooLong);
        }
        match self.table.route(to, clock::now()) {
            Route::Direct => self.put(to, wire::frame(kind, body)),
            Route::Via(relay) => {
                let envelope = Envelope { source: self.me, destination: to, hops: 1, kind, body };
                self.put(relay, wire::encode(kind::RELAY, &envelope))
            }
            Route::None => Err(SendError::Unreachable),
        }
    }

    /// What is known of every other node.
    #[must_use]
    pub fn liveness(&self) -> Vec<PeerLiveness> {
        self.table.liveness(clock::now())
    }

    /// The next thing that the owner must know. Must be called again and again, or the mesh stands still; can be
    /// dropped without loss.
    pub async fn next(&mut self) -> MeshEvent {
        loop {
            tokio::select! {
                // First, so that a flood of messages does not silence this node.
                biased;
                _ = self.beat.tick() => {
                    self.send_heartbeats();
                    return MeshEvent::Beat;
                }
                arrival = self.arrivals.recv() => {
                    let arrival = arrival.expect("invariant: the mesh holds a sender itself");
                    if let Some(event) = self.arrived(arrival) {
                        return event;
                    }
                }
            }
        }
    }

    fn put(&self, to: NodeId, frame: Frame) -> Result<(), SendError> {
        self.links.get(&to).ok_or(SendError::Unreachable)?.put(frame)
    }

    fn send_heartbeats(&mut self) {
        let now = clock::now();
        let epoch = *self.epoch.borrow();
        let heartbeat = self.table.next_heartbeat(now, epoch, self.payload.clone());
        let frame = wire::encode(kind::HEARTBEAT, &heartbeat);
        for link in self.links.values() {
            link.beat(frame.clone());
        }
        // Who does not confirm the direct way is told by another one as well.
        for destination in self.table.liveness(now).into_iter().map(|peer| peer.node) {
            if let Route::Via(relay) = self.table.route(destination, now) {
                let body = frame.body.clone();
                let envelope =
                    Envelope { source: self.me, destination, hops: 1, kind: kind::HEARTBEAT, body };
                // The next heartbeat makes up for one that finds the queue full.
                let _ = self.put(relay, wire::encode(kind::RELAY, &envelope));
            }
        }
    }

    fn arrived(&mut self, arrival: Arrival) -> Option<MeshEvent> {
        match arrival {
            Arrival::Up { node, dial } => {
                self.links.get(&node).filter(|link| link.dial == dial)?;
                self.table.link_up(node, clock::now());
                Some(MeshEvent::LinkUp(node))
            }
            Arrival::Down { node, dial } => {
                self.links.get(&node).filter(|link| link.dial == dial)?;
                self.table.link_down(node);
                Some(MeshEvent::LinkDown(node))
            }
            Arrival::Accepted { peer, reader, number } => {
                if self.was_removed(peer.node) || peer.node == self.me {
                    tracing::warn!(%peer, "refused a link: the node is no member of the site any more");
                    reader.abort();
                    return None;
                }
                if let Some(old) = self.accepted.insert(peer.node, Accepted { number, reader }) {
                    old.reader.abort();
                }
                None
            }
            Arrival::Closed { from, number } => {
                if let Entry::Occupied(entry) = self.accepted.entry(from)
                    && entry.get().number == number
                {
                    entry.remove();
                }
                None
            }
            Arrival::Frame { from, number, frame } => {
                self.accepted.get(&from).filter(|accepted| accepted.number == number)?;
                self.frame(from, frame)
            }
        }
    }

    /// A frame from the node on the other end of an accepted link.
    fn frame(&mut self, from: NodeId, frame: Frame) -> Option<MeshEvent> {
        if frame.kind != kind::RELAY {
            return self.message(from, None, frame.kind, frame.body);
        }
        let Some(envelope) = wire::decode::<Envelope>(&frame.body) else {
            tracing::warn!(%from, "dropped a relayed message that cannot be read");
            return None;
        };
        if envelope.destination == self.me {
            return self.message(envelope.source, Some(from), envelope.kind, envelope.body);
        }
        if envelope.source != from || envelope.hops == 0 || self.was_removed(envelope.destination) {
            return None;
        }
        let onward = Envelope { hops: envelope.hops - 1, ..envelope };
        // One that cannot be passed on is lost like one on a broken link.
        let _ = self.put(onward.destination, wire::encode(kind::RELAY, &onward));
        None
    }

    /// A message written by `from`, which came through `via`.
    fn message(&mut self, from: NodeId, via: Option<NodeId>, kind: u16, body: Bytes) -> Option<MeshEvent> {
        if self.was_removed(from) || from == self.me {
            return None;
        }
        match kind {
            kind::HEARTBEAT => {
                let Some(heartbeat) = wire::decode::<Heartbeat>(&body) else {
                    tracing::warn!(%from, "dropped a heartbeat that cannot be read");
                    return None;
                };
                let (epoch, payload) = (heartbeat.epoch, heartbeat.payload.clone());
                let heard = self.table.heard(from, via, heartbeat, clock::now());
                let restarted = heard == Heard::Restarted;
                (restarted || heard == Heard::Newer).then_some(MeshEvent::Heartbeat {
                    from,
                    restarted,
                    epoch,
                    payload,
                })
            }
            kind if kind >= kind::RAFT => Some(MeshEvent::Message { from, kind, body }),
            // A kind that a newer version sends and that can be done without.
            _ => None,
        }
    }

    fn was_removed(&self, node: NodeId) -> bool {
        node < self.membership.next_node && !self.membership.nodes.contains_key(&node)
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        for accepted in self.accepted.values() {
            accepted.reader.abort();
        }
    }
}

// The frame's limit leaves room for the envelope's own fields.
const _: () = assert!(FRAME_LENGTH_MAX >= MESSAGE_LENGTH_MAX + 32);
