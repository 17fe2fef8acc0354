//! Data links to the other replicas: TCP with mutual TLS 1.3.
//!
//! One link per pair: the replica with the smaller id dials, again and again; the other listens. A link is refused unless the
//! certificate's node is the one where the ledger places the replica that the preface names.

pub mod decoder;
pub mod link;
#[cfg(test)]
mod tests;
pub mod tls;

use crate::{
    io::{Io, Tag as IoTag},
    ring::{Done, Fd, Op},
    stream::{accepted, hang_up},
};
use anshin_base::{Millis, Mono, Problem, ReplicaId, local::ReplicaPlace};
use anshin_link::Credentials;
use anshin_mirror::{Input, LinkId, wire::Message};
use link::{Link, Preface, Stage};
use rustls::{ClientConfig, ServerConfig};
use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, TcpListener},
    rc::Rc,
    sync::Arc,
};
use tls::Tls;

/// What a completion is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// The listening socket.
    Accept,
    /// A connection that this side makes.
    Connect(u64),
    /// A receive.
    Receive(u64),
    /// A send.
    Send(u64),
}

/// Between two attempts to reach a replica.
const REDIAL: Millis = Millis(150);
/// From the first SYN to the preface; also how long a stranger may take.
const SETUP: Millis = Millis(2_000);
/// Signs of life come ten times a second; a link that is silent this long is dead, whatever TCP still hopes for.
const SILENCE: Millis = Millis(2_000);
/// Connections that have not shown who they are.
const STRANGERS_MAX: usize = 32;
/// A peer that leaves this much unread is cut off; the core's own windows stay far below it.
const WAITING_MAX: usize = 256 << 20;

struct Secure {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

/// All links of this replica.
pub struct Peers {
    me: Preface,
    secure: Option<Secure>,
    listener: Option<Fd>,
    places: Vec<ReplicaPlace>,
    links: HashMap<u64, Link>,
    next: u64,
    /// When each replica was last dialled, and how often.
    dialled: HashMap<ReplicaId, (Mono, usize)>,
}

/// A link in the status.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LinkStatus {
    /// To which replica.
    pub replica: Option<ReplicaId>,
    /// Where it is.
    pub address: String,
    /// Whether the core uses it.
    pub up: bool,
    /// Bytes waiting to be sent.
    pub waiting_bytes: u64,
}

impl Peers {
    /// Listens at `listen` with the node's credentials; None for a volume that has no peers.
    ///
    /// # Errors
    /// If the address cannot be had or the credentials cannot be used.
    pub fn open(me: Preface, network: Option<(SocketAddr, &Credentials)>) -> Result<Self, Problem> {
        let (mut secure, mut listener) = (None, None);
        if let Some((listen, credentials)) = network {
            let client = anshin_link::tls::client_config(credentials)?;
            let server = anshin_link::tls::server_config(credentials)?;
            secure = Some(Secure { client, server });
            let socket = TcpListener::bind(listen).map_err(|error| {
                Problem::new("listen", format!("cannot listen on {listen} for other replicas: {error}"))
            })?;
            listener = Some(Rc::new(socket.into()));
        }
        let (places, links, dialled) = (Vec::new(), HashMap::new(), HashMap::new());
        Ok(Self { me, secure, listener, places, links, next: 1, dialled })
    }

    /// Starts accepting.
    pub fn start(&mut self, io: &mut Io) {
        if let Some(fd) = &self.listener {
            io.push(Op::Accept { fd: fd.clone() }, IoTag::Peer(Tag::Accept));
        }
    }

    /// Where the replicas are, from the ledger. Links to replicas that are gone from it are closed.
    pub fn set_places(&mut self, places: &[ReplicaPlace]) {
        if self.places != places {
            self.places = places.to_vec();
            for link in self.links.values() {
                if link.replica.is_some_and(|replica| places.iter().all(|place| place.replica != replica)) {
                    hang_up(&link.fd);
                }
            }
        }
    }

    /// Dials whom it should reach and drops what is silent. To be called every 100 ms or so.
    pub fn tick(&mut self, io: &mut Io, inputs: &mut Vec<Input>) {
        let now = io.now();
        let late = |link: &Link| match link.stage {
            Stage::Up => now.since(link.heard) > SILENCE,
            _ => now.since(link.since) > SETUP,
        };
        let dead: Vec<_> = self.links.values().filter(|link| late(link)).map(|link| link.id).collect();
        for id in dead {
            self.close(id, "silent for too long", inputs);
        }
        let wanted: Vec<_> =
            self.places.iter().filter(|place| place.replica > self.me.replica).cloned().collect();
        for place in wanted {
            let linked = self.links.values().any(|link| link.replica == Some(place.replica));
            let (last, attempts) = self.dialled.get(&place.replica).copied().unwrap_or_default();
            if linked || now.since(last) < REDIAL || place.addresses.is_empty() {
                continue;
            }
            self.dialled.insert(place.replica, (now, attempts.wrapping_add(1)));
            let address = &place.addresses[attempts % place.addresses.len()];
            if let Err(error) = self.dial(io, place.replica, address) {
                tracing::debug!(%error, address, "cannot dial a replica");
            }
        }
    }

    fn dial(&mut self, io: &mut Io, replica: ReplicaId, address: &str) -> Result<(), String> {
        let secure = self.secure.as_ref().ok_or("no credentials")?;
        let target: SocketAddr = address.parse().map_err(|_| format!("`{address}` is not address:port"))?;
        let family = if target.is_ipv4() {
            rustix::net::AddressFamily::INET
        } else {
            rustix::net::AddressFamily::INET6
        };
        let flags = rustix::net::SocketFlags::CLOEXEC;
        let kind = rustix::net::SocketType::STREAM;
        let socket =
            rustix::net::socket_with(family, kind, flags, None).map_err(|error| error.to_string())?;
        let name = anshin_link::tls::server_name();
        let tls = Tls::dial(secure.client.clone(), name).map_err(|error| error.to_string())?;
        let id = self.next;
        self.next += 1;
        let fd: Fd = Rc::new(socket);
        let mut link = Link::new(id, fd.clone(), tls, address.into(), io);
        link.stage = Stage::Connecting;
        link.replica = Some(replica);
        self.links.insert(id, link);
        io.push(Op::Connect { fd, address: target }, IoTag::Peer(Tag::Connect(id)));
        Ok(())
    }

    /// A completion.
    pub fn completed(&mut self, io: &mut Io, done: Done<IoTag>, inputs: &mut Vec<Input>) {
        let IoTag::Peer(tag) = done.tag else { return };
        match tag {
            Tag::Accept => self.welcome(io, done.result),
            Tag::Connect(id) => match done.result {
                Ok(_) => {
                    if let Some(link) = self.links.get_mut(&id) {
                        tune(&link.fd);
                        link.stage = Stage::Handshake;
                    }
                    self.arrived(io, id, None, 0, inputs);
                }
                Err(_) => {
                    self.links.remove(&id);
                }
            },
            Tag::Receive(id) => match done.result {
                Ok(0) => self.close(id, "the peer closed the connection", inputs),
                Ok(count) => self.arrived(io, id, done.buffer, count as usize, inputs),
                Err(error) => self.close(id, &error.to_string(), inputs),
            },
            Tag::Send(id) => {
                let Some(link) = self.links.get_mut(&id) else { return };
                if let Err(error) = link.sent(done.result) {
                    self.close(id, &error.to_string(), inputs);
                }
            }
        }
    }

    fn welcome(&mut self, io: &mut Io, result: io::Result<u32>) {
        self.start(io);
        let fd = match result {
            Ok(fd) => accepted(fd),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a data link");
                return;
            }
        };
        let strangers = self.links.values().filter(|link| link.replica.is_none()).count();
        let Some(secure) = self.secure.as_ref().filter(|_| strangers < STRANGERS_MAX) else {
            tracing::warn!("refused a data link: too many connections that have not shown who they are");
            return;
        };
        tune(&fd);
        let peer = rustix::net::getpeername(&*fd)
            .ok()
            .flatten()
            .and_then(|address| SocketAddr::try_from(address).ok());
        let peer = peer.map_or_else(|| "unknown".into(), |address| address.to_string());
        match Tls::accept(secure.server.clone()) {
            Ok(tls) => {
                let id = self.next;
                self.next += 1;
                let mut link = Link::new(id, fd, tls, peer, io);
                link.receive(io);
                self.links.insert(id, link);
            }
            Err(error) => tracing::error!(%error, "cannot use the node's credentials for a data link"),
        }
    }

    fn arrived(
        &mut self,
        io: &mut Io,
        id: u64,
        buffer: Option<crate::buffer::Buffer>,
        count: usize,
        inputs: &mut Vec<Input>,
    ) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let arrived = match link.received(io, buffer, count, self.me) {
            Ok(arrived) => arrived,
            Err(why) => {
                // Sends the alert, if there is one, so that the peer's log says why too.
                let _ = link.flush(io);
                return self.close(id, &why, inputs);
            }
        };
        if let Some(preface) = arrived.preface
            && let Err(why) = self.admit(id, preface, inputs)
        {
            return self.close(id, &why, inputs);
        }
        let messages = arrived.messages.into_iter();
        inputs.extend(messages.map(|message| Input::Received { link: LinkId(id), message }));
        if let Some(link) = self.links.get_mut(&id) {
            link.receive(io);
        }
    }

    /// The preface is there: is it the replica it should be?
    fn admit(&mut self, id: u64, preface: Preface, inputs: &mut Vec<Input>) -> Result<(), String> {
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        let Preface { group, replica, volume_bytes } = preface;
        if group != self.me.group {
            return Err(format!("it serves group {group}, not {}", self.me.group));
        }
        if volume_bytes != self.me.volume_bytes {
            return Err(format!("its volume has {volume_bytes} bytes, ours {}", self.me.volume_bytes));
        }
        if replica == self.me.replica || link.replica.is_some_and(|expected| expected != replica) {
            return Err(format!("replica {replica} is not the one expected there"));
        }
        let node = link.node();
        let placed = self.places.iter().find(|place| place.replica == replica).map(|place| place.node);
        if placed.is_none() || node != placed {
            return Err(format!("the ledger does not place replica {replica} on that node"));
        }
        link.replica = Some(replica);
        link.stage = Stage::Up;
        tracing::info!(%replica, peer = link.peer, "data link up");
        let older =
            |other: &&Link| other.replica == Some(replica) && other.id != id && other.stage == Stage::Up;
        let older: Vec<_> = self.links.values().filter(older).map(|link| link.id).collect();
        for other in older {
            self.close(other, "replaced by a newer link", inputs);
        }
        inputs.push(Input::LinkUp { link: LinkId(id) });
        Ok(())
    }

    /// Closes a link and tells the core if it knew of it.
    pub fn close(&mut self, id: u64, why: &str, inputs: &mut Vec<Input>) {
        let Some(link) = self.links.remove(&id) else { return };
        hang_up(&link.fd);
        match (link.stage, link.replica) {
            (Stage::Up, Some(replica)) => {
                tracing::warn!(%replica, peer = link.peer, why, "data link down");
                inputs.push(Input::LinkDown { link: LinkId(id) });
            }
            (Stage::Connecting, _) => {}
            (_, Some(replica)) => tracing::warn!(%replica, peer = link.peer, why, "data link not made"),
            _ => tracing::warn!(peer = link.peer, why, "refused a data link"),
        }
    }

    /// Queues a message of the core. One to a link that is gone is dropped: its end is on the way to the core.
    pub fn send(&mut self, id: LinkId, message: &Message, inputs: &mut Vec<Input>) {
        let Some(link) = self.links.get_mut(&id.0) else { return };
        let result = link.send(message);
        let full = link.waiting() > WAITING_MAX;
        if let Err(why) = result {
            self.close(id.0, &why, inputs);
        } else if full {
            self.close(id.0, "the peer does not keep up", inputs);
        }
    }

    /// End of the engine's turn: starts sends.
    pub fn flush(&mut self, io: &mut Io, inputs: &mut Vec<Input>) {
        let mut broken = Vec::new();
        for link in self.links.values_mut() {
            if let Err(why) = link.flush(io) {
                broken.push((link.id, why));
            }
        }
        for (id, why) in broken {
            self.close(id, &why, inputs);
        }
    }

    /// The most that waits on one link, for back-pressure.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.links.values().map(Link::waiting).max().unwrap_or(0)
    }

    /// For the status.
    #[must_use]
    pub fn status(&self) -> Vec<LinkStatus> {
        let one = |link: &Link| LinkStatus {
            replica: link.replica,
            address: link.peer.clone(),
            up: link.stage == Stage::Up,
            waiting_bytes: link.waiting() as u64,
        };
        let mut links: Vec<_> = self.links.values().map(one).collect();
        links.sort_by(|a, b| (a.replica, &a.address).cmp(&(b.replica, &b.address)));
        links
    }
}

/// Small messages must not wait for large ones to be acknowledged.
fn tune(fd: &Fd) {
    if let Err(error) = rustix::net::sockopt::set_tcp_nodelay(&**fd, true) {
        tracing::warn!(%error, "cannot set TCP_NODELAY");
    }
}
