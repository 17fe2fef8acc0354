//! The ledger as a volume process reaches it: the voter of its node, over a Unix socket.
//!
//! Messages are `anshin_base::local` in postcard inside base frames of kind [`FRAME_KIND`]. The connection is made again
//! whenever it breaks; proposals that were under way then are answered with *unknown* (R3).

use crate::{
    io::{Io, Tag as IoTag},
    ring::{Done, Fd, Op},
    standalone::Standalone,
    stream::{Outbox, hang_up},
};
use anshin_base::{
    GroupChange, Millis, Mono,
    frame::Frame,
    local::{FromVoter, Outcome, ReplicaReport, ToVoter},
};
use anshin_mirror::{Input, LedgerView};
use bytes::BytesMut;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::{collections::HashSet, io, path::PathBuf, rc::Rc};

/// Kind of the frames between volume processes and their voter.
pub const FRAME_KIND: u16 = 2;
/// Version of what is in them.
pub const FRAME_VERSION: u16 = 1;
/// A view lists at most a few dozen replicas.
pub const FRAME_MAX: usize = 64 << 10;
/// Between two attempts to connect.
const RETRY: Millis = Millis(100);
/// The report is said again after this, also when nothing changed: by that the voter knows a process that stands still.
const REPEAT: Millis = Millis(1_000);
const INBOX: usize = 64 << 10;

/// What a completion is about; the number tells connections apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// A receive.
    Receive(u64),
    /// A send.
    Send(u64),
}

/// The way to the ledger.
pub enum Voter {
    /// Over the socket.
    Socket(Box<Client>),
    /// No ledger: an ideal one in this process, for measuring and testing.
    Standalone(Standalone),
}

/// The connection to the voter process.
pub struct Client {
    path: PathBuf,
    connection: Option<Connection>,
    number: u64,
    tried: Mono,
    report: Option<ReplicaReport>,
    reported: Mono,
    pending: HashSet<u64>,
    /// Proposals made without a connection; answered unknown at the next tick, so that the core does not spin.
    lost: Vec<u64>,
    last: Option<LedgerView>,
}

struct Connection {
    fd: Fd,
    outbox: Outbox,
    input: BytesMut,
}

/// `message` as it goes over the socket.
#[must_use]
pub fn frame<T: serde::Serialize>(message: &T) -> BytesMut {
    let body =
        postcard::to_stdvec(message).expect("invariant: these messages have no part that cannot be encoded");
    Frame { kind: FRAME_KIND, version: FRAME_VERSION, body: body.into() }.encode()
}

impl Client {
    /// A client of the socket at `path`.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            connection: None,
            number: 0,
            tried: Mono(0),
            report: None,
            reported: Mono(0),
            pending: HashSet::new(),
            lost: Vec::new(),
            last: None,
        }
    }

    /// Connects if need be, or repeats the report. The core learns of the ledger only after its first report, so nothing
    /// happens before.
    fn tick(&mut self, io: &mut Io, inputs: &mut Vec<Input>) {
        let unknown = |request| Input::Proposed { request, outcome: Outcome::Unknown };
        inputs.extend(self.lost.drain(..).map(unknown));
        let now = io.now();
        let Some(report) = self.report.clone() else { return };
        if self.connection.is_some() {
            if now.since(self.reported) >= REPEAT {
                self.send_report(io, report);
            }
            return;
        }
        if now.since(self.tried) < RETRY {
            return;
        }
        self.tried = now;
        match connect(&self.path) {
            Ok(fd) => {
                self.number += 1;
                self.connection = Some(Connection { fd, outbox: Outbox::default(), input: BytesMut::new() });
                tracing::info!("connected to the voter");
                self.send_report(io, report);
                self.receive(io);
            }
            Err(error) => tracing::debug!(%error, "the voter cannot be reached"),
        }
    }

    fn receive(&mut self, io: &mut Io) {
        if let Some(connection) = &self.connection {
            let op = Op::Receive { fd: connection.fd.clone(), buffer: io.pool.take(INBOX), from: 0 };
            io.push(op, IoTag::Voter(Tag::Receive(self.number)));
        }
    }

    fn send_report(&mut self, io: &mut Io, report: ReplicaReport) {
        self.reported = io.now();
        self.send(io, &ToVoter::Report(report));
    }

    fn send(&mut self, io: &mut Io, message: &ToVoter) {
        if let Some(connection) = &mut self.connection {
            connection.outbox.push(frame(message).freeze());
            connection.outbox.pump(io, &connection.fd, IoTag::Voter(Tag::Send(self.number)));
        }
    }

    fn completed(&mut self, io: &mut Io, done: Done<IoTag>, inputs: &mut Vec<Input>) {
        let IoTag::Voter(tag) = done.tag else { return };
        let (Tag::Receive(number) | Tag::Send(number)) = tag;
        let Some(connection) = self.connection.as_mut().filter(|_| number == self.number) else { return };
        let result = match (tag, done.result) {
            (Tag::Send(_), result) => {
                let sent = connection.outbox.sent(result);
                connection.outbox.pump(io, &connection.fd, IoTag::Voter(Tag::Send(number)));
                sent
            }
            (Tag::Receive(_), Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
            (Tag::Receive(_), Err(error)) => Err(error),
            (Tag::Receive(_), Ok(count)) => {
                let arrived = done.buffer.as_ref().map_or(&[][..], |buffer| &buffer[..count as usize]);
                connection.input.extend_from_slice(arrived);
                let result = self.decode(inputs);
                self.receive(io);
                result
            }
        };
        if let Err(error) = result {
            self.broke(&error, inputs);
        }
    }

    fn decode(&mut self, inputs: &mut Vec<Input>) -> io::Result<()> {
        loop {
            let Some(connection) = &mut self.connection else { return Ok(()) };
            let frame = Frame::decode(&mut connection.input, FRAME_MAX).map_err(io::Error::other)?;
            let Some(frame) = frame else { return Ok(()) };
            if (frame.kind, frame.version) != (FRAME_KIND, FRAME_VERSION) {
                return Err(io::Error::other("a frame of another protocol"));
            }
            match postcard::from_bytes(&frame.body).map_err(io::Error::other)? {
                FromVoter::View { epoch, index, entry, places, highest, quorate } => {
                    let view = LedgerView { epoch, index, entry, places, highest, quorate };
                    self.last = Some(view.clone());
                    inputs.push(Input::Ledger(view));
                }
                FromVoter::Outcome { request, outcome } => {
                    if self.pending.remove(&request) {
                        inputs.push(Input::Proposed { request, outcome });
                    }
                }
            }
        }
    }

    fn broke(&mut self, error: &io::Error, inputs: &mut Vec<Input>) {
        tracing::warn!(%error, "the connection to the voter broke");
        if let Some(connection) = self.connection.take() {
            hang_up(&connection.fd);
        }
        let unknown = |request| Input::Proposed { request, outcome: Outcome::Unknown };
        inputs.extend(self.pending.drain().map(unknown));
        // What is known stays, but that the ledger decides anything right now is not known any more (R10).
        if let Some(view) = &self.last {
            inputs.push(Input::Ledger(LedgerView { quorate: false, ..view.clone() }));
        }
    }

    fn propose(&mut self, io: &mut Io, request: u64, change: GroupChange) {
        if self.connection.is_some() {
            self.pending.insert(request);
            self.send(io, &ToVoter::Propose { request, change });
        } else {
            self.lost.push(request);
        }
    }
}

impl Voter {
    /// To be called every 100 ms or so.
    pub fn tick(&mut self, io: &mut Io, inputs: &mut Vec<Input>) {
        if let Self::Socket(client) = self {
            client.tick(io, inputs);
        }
    }

    /// A completion.
    pub fn completed(&mut self, io: &mut Io, done: Done<IoTag>, inputs: &mut Vec<Input>) {
        if let Self::Socket(client) = self {
            client.completed(io, done, inputs);
        }
    }

    /// What the replica is now; repeated after every reconnect.
    pub fn report(&mut self, io: &mut Io, report: ReplicaReport, inputs: &mut Vec<Input>) {
        match self {
            Self::Socket(client) => {
                client.report = Some(report.clone());
                client.send_report(io, report);
                client.tick(io, inputs);
            }
            Self::Standalone(ideal) => ideal.report(&report, inputs),
        }
    }

    /// Proposes a change.
    pub fn propose(&mut self, io: &mut Io, request: u64, change: GroupChange, inputs: &mut Vec<Input>) {
        match self {
            Self::Socket(client) => client.propose(io, request, change),
            Self::Standalone(ideal) => ideal.propose(request, &change, inputs),
        }
    }

    /// Whether the voter can be asked now.
    #[must_use]
    pub fn connected(&self) -> bool {
        match self {
            Self::Socket(client) => client.connection.is_some(),
            Self::Standalone(_) => true,
        }
    }
}

/// Connects without waiting: a stopped voter whose backlog is full must not stop the volume.
fn connect(path: &std::path::Path) -> io::Result<Fd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::fs::fcntl_setfl(&socket, rustix::fs::OFlags::empty())?;
    Ok(Rc::new(socket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anshin_base::{GroupId, LedgerIndex, ReplicaId, SessionId};
    use std::{io::Read, os::unix::net::UnixListener};

    #[test]
    fn a_report_is_said_again_although_nothing_changed() {
        let path = std::env::temp_dir().join(format!("anshin-report-{}.sock", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let report = ReplicaReport {
            group: GroupId(7),
            replica: ReplicaId(5),
            session: SessionId(1),
            progress: 2,
            promotable: true,
            ledger_index: LedgerIndex(3),
        };
        let expected = frame(&ToVoter::Report(report.clone()));
        let mut io = Io::new().unwrap();
        let mut client = Client::new(path.clone());
        client.report = Some(report);
        client.tick(&mut io, &mut Vec::new());
        let (mut voter, _) = listener.accept().unwrap();
        std::fs::remove_file(path).unwrap();
        for _ in 0..2 {
            let mut done = Vec::new();
            while !done.iter().any(|one: &Done<IoTag>| matches!(one.tag, IoTag::Voter(Tag::Send(_)))) {
                io.wait(&mut done).unwrap();
            }
            for one in done {
                client.completed(&mut io, one, &mut Vec::new());
            }
            let mut said = vec![0; expected.len()];
            voter.read_exact(&mut said).unwrap();
            assert_eq!(said, expected);
            client.reported = Mono(0);
            client.tick(&mut io, &mut Vec::new());
        }
    }
}
