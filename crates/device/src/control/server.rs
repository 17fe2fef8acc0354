//! The engine's end of the control socket.

use super::{Reply, Request, VolumeEvent};
use crate::{
    buffer::Buffer,
    io::{Io, Tag as IoTag},
    ring::{Done, Fd, Op},
    stream::{Outbox, UnixDoor, accepted, hang_up},
};
use anshin_base::Problem;
use std::{collections::HashMap, io, path::Path};

/// A request is one short line.
const INBOX: usize = 4096;
const CLIENTS_MAX: usize = 32;
/// A subscriber that leaves this much unread is dropped; it finds the state again when it reconnects.
const WAITING_MAX: usize = 4 << 20;

/// What a completion is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// The listening socket.
    Accept,
    /// A receive.
    Receive(u64),
    /// A send.
    Send(u64),
}

struct Client {
    fd: Fd,
    outbox: Outbox,
    filled: usize,
    subscribed: bool,
}

/// A request and who is to be answered.
pub struct Asked {
    /// For [`Server::answer`].
    pub client: u64,
    /// What.
    pub request: Request,
}

/// All clients.
pub struct Server {
    door: UnixDoor,
    clients: HashMap<u64, Client>,
    next: u64,
    /// Clients that hung up, for whoever keeps something for them.
    gone: Vec<u64>,
}

impl Server {
    /// Listens at `path`.
    ///
    /// # Errors
    /// If it cannot.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { door: UnixDoor::open(path)?, clients: HashMap::new(), next: 1, gone: Vec::new() })
    }

    /// Starts accepting.
    pub fn start(&self, io: &mut Io) {
        self.door.accept(io, IoTag::Control(Tag::Accept));
    }

    /// A completion: the request in it, if there is a whole one.
    pub fn completed(&mut self, io: &mut Io, done: Done<IoTag>) -> Option<Asked> {
        let IoTag::Control(tag) = done.tag else { return None };
        match tag {
            Tag::Accept => {
                self.start(io);
                let fd = accepted(done.result.ok()?);
                if self.clients.len() >= CLIENTS_MAX {
                    tracing::warn!("refused a control connection: {CLIENTS_MAX} are open");
                    return None;
                }
                let id = self.next;
                self.next += 1;
                receive(io, id, &fd, io_buffer(io), 0);
                let client = Client { fd, outbox: Outbox::default(), filled: 0, subscribed: false };
                self.clients.insert(id, client);
                None
            }
            Tag::Send(id) => {
                let client = self.clients.get_mut(&id)?;
                if client.outbox.sent(done.result).is_err() {
                    self.drop_client(id);
                    return None;
                }
                client.outbox.pump(io, &client.fd, IoTag::Control(Tag::Send(id)));
                None
            }
            Tag::Receive(id) => self.received(io, id, done),
        }
    }

    fn received(&mut self, io: &mut Io, id: u64, done: Done<IoTag>) -> Option<Asked> {
        let client = self.clients.get_mut(&id)?;
        let count = done.result.unwrap_or(0) as usize;
        let mut buffer = done.buffer?;
        if count == 0 {
            self.drop_client(id);
            return None;
        }
        client.filled += count;
        let text = &buffer[..client.filled];
        let Some(end) = text.iter().position(|byte| *byte == b'\n') else {
            if client.filled == INBOX {
                self.refuse(io, id, "a request longer than allowed");
                self.drop_client(id);
            } else {
                let (fd, filled) = (client.fd.clone(), client.filled);
                receive(io, id, &fd, buffer, filled);
            }
            return None;
        };
        let request = serde_json::from_slice::<Request>(&text[..end]);
        let filled = client.filled - end - 1;
        buffer.copy_within(end + 1..end + 1 + filled, 0);
        client.filled = filled;
        let fd = client.fd.clone();
        receive(io, id, &fd, buffer, filled);
        match request {
            Ok(request) => Some(Asked { client: id, request }),
            Err(error) => {
                self.refuse(io, id, &error.to_string());
                None
            }
        }
    }

    fn refuse(&mut self, io: &mut Io, id: u64, why: &str) {
        tracing::warn!(why, "refused a control request");
        let problem = Problem::new("request-format", format!("not a request: {why}"));
        self.answer(io, id, &Reply::Problem { problem });
    }

    /// Answers a client; nothing happens if it is gone.
    pub fn answer(&mut self, io: &mut Io, id: u64, reply: &Reply) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let mut line = serde_json::to_vec(reply).expect("invariant: replies are plain data");
        line.push(b'\n');
        client.outbox.push(line);
        client.outbox.pump(io, &client.fd, IoTag::Control(Tag::Send(id)));
    }

    /// From now on the client gets every event.
    pub fn subscribe(&mut self, id: u64) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.subscribed = true;
        }
    }

    /// Tells all subscribers.
    pub fn tell(&mut self, io: &mut Io, event: &VolumeEvent) {
        let ids: Vec<_> =
            self.clients.iter().filter(|(_, client)| client.subscribed).map(|(id, _)| *id).collect();
        for id in ids {
            self.answer(io, id, &Reply::Event { event: event.clone() });
            if self.clients.get(&id).is_some_and(|client| client.outbox.bytes() > WAITING_MAX) {
                self.drop_client(id);
            }
        }
    }

    /// One client that has hung up since the last call.
    pub fn take_gone(&mut self) -> Option<u64> {
        self.gone.pop()
    }

    /// Whether this client is still connected.
    #[must_use]
    pub fn connected(&self, id: u64) -> bool {
        self.clients.contains_key(&id)
    }

    /// Whether answers are still on their way.
    #[must_use]
    pub fn unsent(&self) -> bool {
        self.clients.values().any(|client| client.outbox.bytes() > 0)
    }

    fn drop_client(&mut self, id: u64) {
        if let Some(client) = self.clients.remove(&id) {
            hang_up(&client.fd);
            self.gone.push(id);
        }
    }
}

fn io_buffer(io: &Io) -> Buffer {
    io.pool.take(INBOX)
}

fn receive(io: &mut Io, id: u64, fd: &Fd, buffer: Buffer, from: usize) {
    io.push(Op::Receive { fd: fd.clone(), buffer, from }, IoTag::Control(Tag::Receive(id)));
}
