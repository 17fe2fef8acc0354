//! One NBD client.
//!
//! Requests are cut into pieces of at most [`LARGEST`] bytes, each a request of the core: so a write of 32 MiB needs no
//! buffer of that size and its first piece is under way while the rest arrives. A write's payload is received
//! straight into the aligned buffer that goes to the disk.

use super::{
    Tag,
    codec::{self, Command, Errno, LENGTH_MAX, REQUEST_SIZE, Request},
    handshake::{Handshake, Step},
};
use crate::{
    buffer::{Buffer, LARGEST},
    front::{Geometry, Requests},
    io::{Io, Tag as IoTag},
    ring::{Fd, Op},
    stream::Outbox,
};
use anshin_base::Mono;
use anshin_mirror::{FrontError, FrontOp, RequestId};
use bytes::{Bytes, BytesMut};
use std::{collections::HashMap, io};

/// A client's further requests stay in its socket while it has this many bytes under way (reads and writes together)…
const UNDER_WAY_MAX: u64 = 64 << 20;
/// … or this many requests.
const REQUESTS_MAX: usize = 1024;
const INBOX: usize = 64 << 10;
/// The longest trim or write-zeroes handed to the core at once.
const ZERO_PIECE: u64 = 4 << 20;

/// Which piece of which request of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    request: u64,
    index: usize,
}

/// A request that is not fully answered.
struct Open {
    cookie: u64,
    read: bool,
    /// Of the whole request.
    bytes: u64,
    /// Position of each piece.
    offsets: Vec<u64>,
    /// For simple replies: data waits until all pieces are there.
    data: Vec<Bytes>,
    left: usize,
    error: Option<Errno>,
    /// All pieces have been handed to the core.
    complete: bool,
}

enum State {
    Handshake(Handshake, Mono),
    Header,
    Payload { request: u64, offset: u64, left: u64, fua: bool, buffer: Option<Buffer>, at: usize },
    Discard { left: u64 },
    Closing,
}

/// See the module.
pub struct Connection {
    id: u64,
    fd: Fd,
    geometry: Geometry,
    state: State,
    structured: bool,
    inbox: Option<Buffer>,
    start: usize,
    end: usize,
    /// A receive is in flight, into the inbox or into the payload's buffer.
    receiving: Option<Target>,
    outbox: Outbox,
    open: HashMap<u64, Open>,
    next: u64,
    under_way: u64,
    gone: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Inbox,
    Payload,
}

impl Connection {
    pub(super) fn new(id: u64, fd: Fd, geometry: Geometry, io: &mut Io) -> Self {
        let mut greeting = BytesMut::new();
        let handshake = Handshake::new(geometry.clone(), &mut greeting);
        let mut outbox = Outbox::default();
        outbox.push(greeting.freeze());
        Self {
            id,
            fd,
            geometry,
            state: State::Handshake(handshake, io.now()),
            structured: false,
            inbox: Some(io.pool.take(INBOX)),
            start: 0,
            end: 0,
            receiving: None,
            outbox,
            open: HashMap::new(),
            next: 0,
            under_way: 0,
            gone: false,
        }
    }

    pub(super) fn fd(&self) -> &Fd {
        &self.fd
    }

    pub(super) fn in_handshake_since(&self) -> Option<Mono> {
        match &self.state {
            State::Handshake(_, since) => Some(*since),
            _ => None,
        }
    }

    /// Bytes of requests that are not answered, and of answers that the client has not taken.
    pub(super) fn under_way(&self) -> u64 {
        self.under_way + self.outbox.bytes() as u64
    }

    pub(super) fn close(&mut self) {
        self.gone = true;
    }

    /// Gone, or closing with everything answered and sent.
    pub(super) fn finished(&self) -> bool {
        let closing = matches!(self.state, State::Closing);
        self.gone || (closing && self.open.is_empty() && self.outbox.bytes() == 0)
    }

    pub(super) fn sent(&mut self, result: io::Result<u32>) -> io::Result<()> {
        self.outbox.sent(result)
    }

    pub(super) fn received(&mut self, result: io::Result<u32>, buffer: Option<Buffer>) -> io::Result<()> {
        let target = self.receiving.take();
        let count = result? as usize;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match (target, &mut self.state) {
            (Some(Target::Payload), State::Payload { buffer: slot, at, left, .. }) => {
                *slot = buffer;
                *at += count;
                *left -= count as u64;
            }
            _ => {
                self.inbox = buffer;
                self.end += count;
            }
        }
        Ok(())
    }

    /// Works through what has arrived, and starts the next receive and send.
    pub(super) fn pump(
        &mut self,
        io: &mut Io,
        held: bool,
        requests: &mut Requests,
        open: &mut HashMap<RequestId, (u64, Piece)>,
    ) {
        if self.gone {
            return;
        }
        if self.receiving.is_none() {
            let full = |this: &Self| this.under_way() >= UNDER_WAY_MAX || this.open.len() >= REQUESTS_MAX;
            while !(full(self) && matches!(self.state, State::Header)) && self.step(io, requests, open) {}
            // A payload that has begun is always read to its end, or clients could block each other for ever.
            let begun = matches!(self.state, State::Payload { .. } | State::Discard { .. });
            if begun || (!held && !full(self)) {
                self.receive(io);
            }
        }
        self.outbox.pump(io, &self.fd, IoTag::Nbd(Tag::Send(self.id)));
    }

    fn receive(&mut self, io: &mut Io) {
        let tag = IoTag::Nbd(Tag::Receive(self.id));
        let fd = self.fd.clone();
        if let State::Payload { buffer, at, .. } = &mut self.state
            && self.start == self.end
            && let Some(buffer) = buffer.take()
        {
            self.receiving = Some(Target::Payload);
            io.push(Op::Receive { fd, buffer, from: *at }, tag);
            return;
        }
        if matches!(self.state, State::Closing) {
            return;
        }
        let Some(mut inbox) = self.inbox.take() else { return };
        inbox.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        self.receiving = Some(Target::Inbox);
        io.push(Op::Receive { fd, buffer: inbox, from: self.end }, tag);
    }

    /// One step through the inbox; false when more bytes are needed.
    fn step(
        &mut self,
        io: &mut Io,
        requests: &mut Requests,
        open: &mut HashMap<RequestId, (u64, Piece)>,
    ) -> bool {
        let Some(inbox) = &self.inbox else { return false };
        let input = &inbox[self.start..self.end];
        match &mut self.state {
            State::Closing => false,
            State::Handshake(handshake, _) => {
                let mut output = BytesMut::new();
                let result = handshake.advance(input, &mut output);
                self.outbox.push(output.freeze());
                match result {
                    Ok((taken, step)) => {
                        self.start += taken;
                        match step {
                            Step::More => return false,
                            Step::Close => self.state = State::Closing,
                            Step::Transmission { structured } => {
                                self.structured = structured;
                                self.state = State::Header;
                            }
                        }
                        true
                    }
                    Err(error) => self.refuse(error),
                }
            }
            State::Header => match Request::decode(input) {
                Ok(None) => false,
                Ok(Some(request)) => {
                    self.start += REQUEST_SIZE;
                    self.begin(request, requests, open);
                    true
                }
                Err(error) => self.refuse(error),
            },
            State::Discard { left } => {
                let part = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                self.start += part;
                *left -= part as u64;
                let done = *left == 0;
                if done {
                    self.state = State::Header;
                }
                done
            }
            State::Payload { .. } => self.payload(io, requests, open),
        }
    }

    fn refuse(&mut self, error: codec::NbdError) -> bool {
        tracing::warn!(%error, "closing an NBD connection");
        self.state = State::Closing;
        true
    }

    /// Moves payload bytes from the inbox into the piece's buffer, and hands a full piece to the core.
    fn payload(
        &mut self,
        io: &mut Io,
        requests: &mut Requests,
        open: &mut HashMap<RequestId, (u64, Piece)>,
    ) -> bool {
        let State::Payload { request, offset, left, fua, buffer, at } = &mut self.state else { return false };
        let Some(inbox) = &self.inbox else { return false };
        if buffer.is_none() {
            *buffer = Some(io.pool.take(usize::try_from(*left).unwrap_or(LARGEST).min(LARGEST)));
            *at = 0;
        }
        let Some(target) = buffer.as_mut() else { return false };
        let part = (target.len() - *at).min(self.end - self.start);
        target[*at..*at + part].copy_from_slice(&inbox[self.start..self.start + part]);
        self.start += part;
        *at += part;
        *left -= part as u64;
        if *at < target.len() {
            return false;
        }
        let Some(full) = buffer.take() else { return false };
        let (request, fua, here, last) = (*request, *fua, *offset, *left == 0);
        *offset += full.len() as u64;
        let id = requests.push(FrontOp::Write { offset: here, data: full.freeze(), fua });
        if let Some(waiting) = self.open.get_mut(&request) {
            open.insert(id, (self.id, waiting.piece(request, here)));
            waiting.complete = last;
        }
        if last {
            self.state = State::Header;
        }
        true
    }

    fn begin(
        &mut self,
        request: Request,
        requests: &mut Requests,
        open: &mut HashMap<RequestId, (u64, Piece)>,
    ) {
        let number = self.next;
        self.next += 1;
        let Request { command, offset, fua, cookie, .. } = request;
        let length = u64::from(request.length);
        if command == Command::Disconnect {
            self.state = State::Closing;
            return;
        }
        let read = command == Command::Read;
        let mut waiting = Open {
            cookie,
            read,
            bytes: if matches!(command, Command::Read | Command::Write) { length } else { 0 },
            offsets: Vec::new(),
            data: Vec::new(),
            left: 0,
            error: None,
            complete: command != Command::Write,
        };
        if let Err(error) = self.check(&request) {
            if command == Command::Write {
                self.state = State::Discard { left: length };
            }
            waiting.error = Some(error);
            self.finish(&waiting);
            return;
        }
        let mut push = |waiting: &mut Open, at: u64, op: FrontOp| {
            let id = requests.push(op);
            open.insert(id, (self.id, waiting.piece(number, at)));
        };
        match command {
            Command::Read => {
                for (at, length) in pieces(offset, length, LARGEST as u64) {
                    let length = u32::try_from(length).expect("invariant: a piece is at most LARGEST");
                    push(&mut waiting, at, FrontOp::Read { offset: at, length });
                }
                waiting.data = vec![Bytes::new(); waiting.offsets.len()];
            }
            Command::Write => {
                let payload =
                    State::Payload { request: number, offset, left: length, fua, buffer: None, at: 0 };
                self.state = payload;
            }
            Command::Flush => push(&mut waiting, 0, FrontOp::Flush),
            Command::Trim => {
                for (offset, length) in pieces(offset, length, ZERO_PIECE) {
                    push(&mut waiting, offset, FrontOp::Trim { offset, length });
                }
            }
            Command::WriteZeroes => {
                let unmap = !request.no_hole;
                for (offset, length) in pieces(offset, length, ZERO_PIECE) {
                    push(&mut waiting, offset, FrontOp::WriteZeroes { offset, length, unmap, fua });
                }
            }
            Command::Disconnect | Command::Other(_) => {}
        }
        self.under_way += waiting.bytes;
        self.open.insert(number, waiting);
    }

    fn check(&self, request: &Request) -> Result<(), Errno> {
        let length = u64::from(request.length);
        match request.command {
            Command::Other(_) => return Err(Errno::NotSupported),
            Command::Flush => return Ok(()),
            Command::Write | Command::Trim | Command::WriteZeroes if self.geometry.read_only => {
                return Err(Errno::ReadOnly);
            }
            _ => {}
        }
        let block = u64::from(self.geometry.block_bytes);
        let end = request.offset.checked_add(length).ok_or(Errno::Invalid)?;
        if end > self.geometry.bytes {
            return Err(if request.command == Command::Read { Errno::Invalid } else { Errno::NoSpace });
        }
        let aligned = request.offset.is_multiple_of(block) && length.is_multiple_of(block);
        let fits = request.command != Command::Read || request.length <= LENGTH_MAX;
        if !aligned || length == 0 || request.other_flags || !fits {
            return Err(Errno::Invalid);
        }
        Ok(())
    }

    pub(super) fn answered(&mut self, piece: Piece, result: Result<Bytes, FrontError>) {
        let Some(waiting) = self.open.get_mut(&piece.request) else { return };
        waiting.left -= 1;
        match result {
            Ok(data) if waiting.read => {
                let last = waiting.left == 0 && waiting.error.is_none();
                if self.structured {
                    let length = u32::try_from(data.len()).expect("invariant: a piece is at most LARGEST");
                    let offset = waiting.offsets[piece.index];
                    self.outbox.push(codec::chunk_data(waiting.cookie, last, offset, length));
                    self.outbox.push(data);
                } else {
                    waiting.data[piece.index] = data;
                }
            }
            Ok(_) => {}
            Err(error) => waiting.error = waiting.error.or(Some(errno(error))),
        }
        if waiting.left == 0
            && waiting.complete
            && let Some(waiting) = self.open.remove(&piece.request)
        {
            self.under_way -= waiting.bytes;
            self.finish(&waiting);
        }
    }

    /// Ends the answer of a request.
    fn finish(&mut self, waiting: &Open) {
        match (self.structured, waiting.read, waiting.error) {
            // The last chunk with data carried the end.
            (true, true, None) => {}
            (true, _, error) => self.outbox.push(codec::chunk_end(waiting.cookie, error)),
            (false, _, error) => {
                self.outbox.push(codec::simple(waiting.cookie, error));
                if error.is_none() {
                    waiting.data.iter().for_each(|data| self.outbox.push(data.clone()));
                }
            }
        }
    }
}

impl Open {
    fn piece(&mut self, request: u64, offset: u64) -> Piece {
        self.offsets.push(offset);
        self.left += 1;
        Piece { request, index: self.offsets.len() - 1 }
    }
}

fn errno(error: FrontError) -> Errno {
    match error {
        FrontError::Range => Errno::Invalid,
        FrontError::NotPrimary => Errno::Shutdown,
        FrontError::Io => Errno::Io,
    }
}

/// `length` bytes from `offset` in parts that end at multiples of `size`.
pub fn pieces(offset: u64, length: u64, size: u64) -> impl Iterator<Item = (u64, u64)> {
    let end = offset + length;
    let mut at = offset;
    std::iter::from_fn(move || {
        let stop = ((at / size + 1) * size).min(end);
        let piece = (at, stop - at);
        at = stop;
        (piece.1 > 0).then_some(piece)
    })
}
