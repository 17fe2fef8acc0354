//! The guard's socket: a few clients, one thread, everything bounded.

use super::protocol::{LINE_SIZE_MAX, Reply, Request};
use anshin_base::Problem;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    collections::BTreeMap,
    fs, io,
    io::{Read as _, Write as _},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::Path,
};

/// Most clients at once; the daemon needs two.
const CLIENTS_MAX: usize = 32;
/// A client that lets this much unread is let go.
const UNREAD_SIZE_MAX: usize = 256 * 1024;

/// A client's number, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClientId(u64);

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    subscribed: bool,
    broken: bool,
}

#[derive(Debug)]
pub(super) struct Server {
    listener: UnixListener,
    clients: BTreeMap<ClientId, Client>,
    next: u64,
}

impl Server {
    pub(super) fn listen(path: &Path) -> io::Result<Self> {
        // A socket that nobody answers is left over from an earlier guard; one that answers is not to be taken.
        match UnixStream::connect(path) {
            Ok(_) => return Err(io::Error::new(io::ErrorKind::AddrInUse, "another guard is running")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => fs::remove_file(path)?,
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, clients: BTreeMap::new(), next: 0 })
    }

    /// Waits at most `time` for something to happen, and gives the requests that came.
    pub(super) fn wait(&mut self, time: &Timespec) -> Vec<(ClientId, Request)> {
        let mut waiting = vec![PollFd::new(&self.listener, PollFlags::IN)];
        for client in self.clients.values() {
            let write = if client.output.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            waiting.push(PollFd::new(&client.stream, PollFlags::IN | write));
        }
        // An interrupted wait is a short wait.
        if poll(&mut waiting, Some(time)).unwrap_or(0) == 0 {
            return Vec::new();
        }
        drop(waiting);
        self.accept();
        let mut requests = Vec::new();
        for (id, client) in &mut self.clients {
            client.flush();
            for line in client.lines() {
                match serde_json::from_slice(&line) {
                    Ok(request) => requests.push((*id, request)),
                    Err(error) => {
                        let problem = Problem::new("bad-request", format!("not a request: {error}"));
                        client.send(&Reply::Refused(problem));
                    }
                }
            }
        }
        self.clients.retain(|_, client| !client.broken);
        requests
    }

    pub(super) fn send(&mut self, id: ClientId, reply: &Reply) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.send(reply);
        }
    }

    pub(super) fn subscribe(&mut self, id: ClientId) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.subscribed = true;
        }
    }

    pub(super) fn broadcast(&mut self, reply: &Reply) {
        for client in self.clients.values_mut().filter(|client| client.subscribed) {
            client.send(reply);
        }
    }

    fn accept(&mut self) {
        while self.clients.len() < CLIENTS_MAX {
            let Ok((stream, _)) = self.listener.accept() else { return };
            if stream.set_nonblocking(true).is_ok() {
                self.next += 1;
                let client = Client {
                    stream,
                    input: Vec::new(),
                    output: Vec::new(),
                    subscribed: false,
                    broken: false,
                };
                self.clients.insert(ClientId(self.next), client);
            }
        }
    }
}

impl Client {
    /// Takes what has arrived and gives the whole lines of it.
    fn lines(&mut self) -> Vec<Vec<u8>> {
        let mut piece = [0; 4096];
        while self.input.len() <= LINE_SIZE_MAX {
            match self.stream.read(&mut piece) {
                Ok(0) => {
                    self.broken = true;
                    break;
                }
                Ok(length) => self.input.extend_from_slice(&piece[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.broken |= error.kind() != io::ErrorKind::WouldBlock;
                    break;
                }
            }
        }
        let mut lines = Vec::new();
        while let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
            let rest = self.input.split_off(end + 1);
            self.input.truncate(end);
            lines.push(std::mem::replace(&mut self.input, rest));
        }
        self.broken |= self.input.len() > LINE_SIZE_MAX;
        lines
    }

    fn send(&mut self, reply: &Reply) {
        if let Ok(bytes) = serde_json::to_vec(reply) {
            self.output.extend_from_slice(&bytes);
            self.output.push(b'\n');
        }
        self.flush();
    }

    fn flush(&mut self) {
        while !self.output.is_empty() && !self.broken {
            match self.stream.write(&self.output) {
                Ok(0) => self.broken = true,
                Ok(length) => drop(self.output.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.broken = true,
            }
        }
        self.broken |= self.output.len() > UNREAD_SIZE_MAX;
    }
}
