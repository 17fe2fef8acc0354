//! The NBD server on a Unix socket, for virtual machines and tools.

pub mod codec;
mod connection;
pub mod handshake;

use crate::{
    front::{Front, Geometry, NBD, Requests},
    io::{Io, Tag as IoTag},
    ring::Done,
    stream::{UnixDoor, accepted, hang_up},
};
use anshin_base::Millis;
use anshin_mirror::{FrontError, RequestId};
use bytes::Bytes;
use connection::Connection;
pub use connection::pieces;
use std::{collections::HashMap, io, path::Path};

/// More connections than this are refused; nbdcopy opens 4, qemu up to 16.
const CONNECTIONS_MAX: usize = 64;
/// Bytes under way for all clients together; above it none is read further.
const UNDER_WAY_MAX: u64 = 256 << 20;
/// A client that has not finished its handshake by then is dropped.
const HANDSHAKE: Millis = Millis(10_000);

/// What a completion is about. Numbers of connections go on from the server's number in their upper half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// The listening socket of the server with this number.
    Accept(u64),
    /// A receive of a connection.
    Receive(u64),
    /// A send of a connection.
    Send(u64),
}

impl Tag {
    /// The number of the server that it belongs to.
    #[must_use]
    pub fn server(self) -> u64 {
        match self {
            Self::Accept(number) => number,
            Self::Receive(connection) | Self::Send(connection) => connection >> 32,
        }
    }
}

/// The server. Made when the replica starts to serve, dropped when it ends.
pub struct Nbd {
    number: u64,
    geometry: Geometry,
    door: UnixDoor,
    connections: HashMap<u64, Connection>,
    next: u64,
    requests: Requests,
    /// Which connection, and which of its requests, an id of the core belongs to.
    open: HashMap<RequestId, (u64, connection::Piece)>,
    held: bool,
}

impl Nbd {
    /// Listens at `path`. Request and connection numbers have `number` in their upper half, so that a late answer or completion
    /// of another server is never taken for one of this.
    ///
    /// # Errors
    /// If the socket cannot be made.
    pub fn open(path: &Path, geometry: Geometry, number: u64) -> io::Result<Self> {
        let first = number << 32;
        Ok(Self {
            number,
            geometry,
            door: UnixDoor::open(path)?,
            connections: HashMap::new(),
            next: first,
            requests: Requests::new(first * crate::front::FRONTS + NBD),
            open: HashMap::new(),
            held: false,
        })
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// How many are connected.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.connections.len()
    }

    /// Drops clients that dawdle in their handshake, and reads on where all clients together had too much under way.
    pub fn tick(&mut self, io: &mut Io) {
        let now = io.now();
        for connection in self.connections.values() {
            if connection.in_handshake_since().is_some_and(|since| now.since(since) > HANDSHAKE) {
                tracing::warn!("an NBD client did not finish its handshake; closing");
                hang_up(connection.fd());
            }
        }
        if !self.full() {
            self.read_on(io);
        }
    }

    fn read_on(&mut self, io: &mut Io) {
        let ids: Vec<_> = self.connections.keys().copied().collect();
        for id in ids {
            self.with(io, id, |_, _| Ok(()));
        }
    }

    fn welcome(&mut self, io: &mut Io, result: io::Result<u32>) {
        let fd = match result {
            Ok(fd) => accepted(fd),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an NBD client");
                self.door.accept(io, IoTag::Nbd(Tag::Accept(self.number)));
                return;
            }
        };
        self.door.accept(io, IoTag::Nbd(Tag::Accept(self.number)));
        if self.connections.len() >= CONNECTIONS_MAX {
            tracing::warn!("refused an NBD client: {CONNECTIONS_MAX} are connected");
            return;
        }
        let id = self.next;
        self.next += 1;
        let mut connection = Connection::new(id, fd, self.geometry.clone(), io);
        connection.pump(io, self.held, &mut self.requests, &mut self.open);
        self.connections.insert(id, connection);
    }

    /// Whether clients may send no more for now.
    fn full(&self) -> bool {
        self.held || self.connections.values().map(Connection::under_way).sum::<u64>() > UNDER_WAY_MAX
    }

    fn with(&mut self, io: &mut Io, id: u64, act: impl FnOnce(&mut Connection, &mut Io) -> io::Result<()>) {
        let full = self.full();
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let result = act(connection, io);
        connection.pump(io, full, &mut self.requests, &mut self.open);
        if let Err(error) = result {
            if error.kind() != io::ErrorKind::UnexpectedEof {
                tracing::info!(%error, "an NBD client is gone");
            }
            connection.close();
        }
        if connection.finished() {
            hang_up(connection.fd());
            self.connections.remove(&id);
        }
    }
}

impl Front for Nbd {
    fn start(&mut self, io: &mut Io) {
        self.door.accept(io, IoTag::Nbd(Tag::Accept(self.number)));
    }

    fn completed(&mut self, io: &mut Io, done: Done<IoTag>) {
        match done.tag {
            IoTag::Nbd(Tag::Accept(_)) => self.welcome(io, done.result),
            IoTag::Nbd(Tag::Receive(id)) => {
                self.with(io, id, |connection, _| connection.received(done.result, done.buffer));
            }
            IoTag::Nbd(Tag::Send(id)) => self.with(io, id, |connection, _| connection.sent(done.result)),
            _ => {}
        }
    }

    fn answer(&mut self, io: &mut Io, id: RequestId, result: Result<Bytes, FrontError>) {
        let Some((connection, piece)) = self.open.remove(&id) else { return };
        self.with(io, connection, |connection, _| {
            connection.answered(piece, result);
            Ok(())
        });
    }

    fn requests(&mut self) -> &mut Requests {
        &mut self.requests
    }

    fn hold_back(&mut self, io: &mut Io, hold: bool) {
        self.held = hold;
        if !hold {
            self.read_on(io);
        }
    }

    fn stop(&mut self, _io: &mut Io) {
        self.connections.values().for_each(|connection| hang_up(connection.fd()));
        self.connections.clear();
        self.open.clear();
    }

    fn describe(&self) -> String {
        format!("nbd, {} clients", self.connections.len())
    }
}
