//! The volume as one file of a private FUSE mount; [`super::loopdev`] makes a block device of it.
//!
//! Every request is copied out of the kernel completely, and a write's payload is owned, before the next is read (R17):
//! one descriptor, one reader. An fsync is a replicated flush and is never answered ENOSYS, which the kernel would
//! take as leave to drop all later ones.

pub mod abi;

use crate::{
    buffer::{Buffer, LARGEST},
    front::{FUSE, Front, Geometry, Requests, nbd::pieces},
    io::{Io, Tag as IoTag},
    ring::{Done, Fd, Op},
};
use abi::{FILE, FILE_NAME, Header, IN_HEADER, ROOT, WRITE_HEADER, opcode};
use anshin_mirror::{FrontError, FrontOp, RequestId};
use bytes::Bytes;
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use std::{
    collections::HashMap,
    io::{self, IoSlice, IoSliceMut},
    rc::Rc,
};

/// Requests read in one go before others get their turn.
const BATCH: usize = 64;
/// Writes up to this size are moved to a buffer of their own size, so that a small write does not hold a large one.
const SMALL: usize = LARGEST / 4;
/// The longest hole handed to the core at once.
const ZERO_PIECE: u64 = 4 << 20;

/// What a completion is about: the descriptor is readable. The number tells incarnations apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(pub(crate) u64);

enum Open {
    Read {
        unique: u64,
    },
    Write {
        unique: u64,
        count: u32,
    },
    /// A flush, or a hole in `Fuse::holes`.
    Plain {
        unique: u64,
    },
}

/// The front. Made when the replica starts to serve, dropped after the loop device is gone.
pub struct Fuse {
    geometry: Geometry,
    fd: Fd,
    number: u64,
    spare: Option<Buffer>,
    requests: Requests,
    open: HashMap<RequestId, Open>,
    /// Holes handed to the core in pieces: how many are left, and the first error.
    holes: HashMap<u64, (usize, Option<FrontError>)>,
    polling: bool,
    started: bool,
    held: bool,
    /// Why nothing comes any more, if the connection ended by itself.
    ended: Option<String>,
}

impl Fuse {
    /// Why the kernel's side ended, if it did without [`Front::stop`]; told once.
    pub fn take_ended(&mut self) -> Option<String> {
        self.ended.take()
    }

    /// Opens the device; it works after [`super::loopdev`] mounted it and [`Front::start`] was called.
    ///
    /// # Errors
    /// If there is no /dev/fuse.
    pub fn open(geometry: Geometry, number: u64) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = rustix::fs::open("/dev/fuse", flags, Mode::empty())?;
        let first = (number << 32) * crate::front::FRONTS + FUSE;
        Ok(Self {
            geometry,
            fd: Rc::new(fd),
            number,
            spare: None,
            requests: Requests::new(first),
            open: HashMap::new(),
            holes: HashMap::new(),
            polling: false,
            started: false,
            ended: None,
            held: false,
        })
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// For mounting.
    #[must_use]
    pub fn fd(&self) -> &Fd {
        &self.fd
    }

    fn poll(&mut self, io: &mut Io) {
        if self.started && !self.polling && !self.held {
            self.polling = true;
            let op = Op::Poll { fd: self.fd.clone(), mask: libc::POLLIN };
            io.push(op, IoTag::Fuse(Tag(self.number)));
        }
    }

    /// Reads one request; false when there is none now.
    fn read_one(&mut self, io: &mut Io) -> io::Result<bool> {
        let mut payload = match self.spare.take() {
            Some(buffer) => buffer,
            None => io.pool.take(LARGEST),
        };
        let mut head = [0; WRITE_HEADER];
        let result = {
            let vectors = &mut [IoSliceMut::new(&mut head), IoSliceMut::new(&mut payload)];
            rustix::io::readv(&*self.fd, vectors)
        };
        let count = match result {
            Ok(count) => count,
            // Interrupted or taken back while waiting: nothing there now.
            Err(Errno::AGAIN | Errno::INTR | Errno::NOENT) => {
                self.spare = Some(payload);
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        };
        let Some(header) = Header::decode(&head[..count.min(WRITE_HEADER)]) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        if header.opcode == opcode::WRITE {
            self.write(io, header, &head[IN_HEADER..], count.saturating_sub(WRITE_HEADER), payload);
        } else {
            // The rest of a long request (a name, at most 255 bytes) is in the payload's buffer.
            let mut arguments = head[IN_HEADER..count.min(WRITE_HEADER)].to_vec();
            arguments.extend_from_slice(&payload[..count.saturating_sub(WRITE_HEADER)]);
            self.spare = Some(payload);
            self.request(header, &arguments);
        }
        Ok(true)
    }

    fn write(&mut self, io: &mut Io, header: Header, arguments: &[u8], count: usize, mut payload: Buffer) {
        let fits = |(offset, length): &(u64, u32)| {
            *length as usize == count && header.node == FILE && self.inside(*offset, u64::from(*length))
        };
        if self.geometry.read_only {
            self.spare = Some(payload);
            return self.reply(header.unique, libc::EROFS, &[]);
        }
        let Some((offset, length)) = abi::range(arguments).filter(fits) else {
            self.spare = Some(payload);
            self.reply(header.unique, libc::EINVAL, &[]);
            return;
        };
        let data = if count <= SMALL {
            let small = io.pool.copy(&payload[..count]);
            self.spare = Some(payload);
            small.freeze()
        } else {
            payload.set_length(count);
            payload.freeze()
        };
        let id = self.requests.push(FrontOp::Write { offset, data, fua: false });
        self.open.insert(id, Open::Write { unique: header.unique, count: length });
    }

    fn inside(&self, offset: u64, length: u64) -> bool {
        let block = u64::from(self.geometry.block_bytes);
        let end = offset.checked_add(length);
        length > 0
            && offset.is_multiple_of(block)
            && length.is_multiple_of(block)
            && end.is_some_and(|end| end <= self.geometry.bytes)
    }

    fn request(&mut self, header: Header, arguments: &[u8]) {
        let Header { unique, node, .. } = header;
        let bytes = self.geometry.bytes;
        match header.opcode {
            opcode::INIT => match abi::version(arguments) {
                Some((7, minor)) if minor >= 31 => self.reply(unique, 0, &abi::init(LARGEST)),
                _ => self.reply(unique, libc::EPROTO, &[]),
            },
            opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT => {}
            opcode::LOOKUP => {
                let name = arguments.strip_suffix(&[0]).unwrap_or(arguments);
                if node == ROOT && name == FILE_NAME {
                    self.reply(unique, 0, &abi::entry(bytes));
                } else {
                    self.reply(unique, libc::ENOENT, &[]);
                }
            }
            opcode::GETATTR => self.reply(unique, 0, &abi::attr(node, bytes)),
            opcode::OPEN | opcode::OPENDIR => self.reply(unique, 0, &abi::opened(node)),
            opcode::STATFS => self.reply(unique, 0, &abi::statfs(bytes)),
            // An empty directory listing: the file is found by its name.
            opcode::READDIR | opcode::RELEASE | opcode::RELEASEDIR | opcode::FLUSH | opcode::DESTROY => {
                self.reply(unique, 0, &[]);
            }
            opcode::READ => match abi::range(arguments) {
                Some((offset, length))
                    if self.inside(offset, u64::from(length)) && length as usize <= LARGEST =>
                {
                    let id = self.requests.push(FrontOp::Read { offset, length });
                    self.open.insert(id, Open::Read { unique });
                }
                _ => self.reply(unique, libc::EINVAL, &[]),
            },
            opcode::FSYNC => {
                let id = self.requests.push(FrontOp::Flush);
                self.open.insert(id, Open::Plain { unique });
            }
            opcode::FALLOCATE => self.allocate(unique, arguments),
            _ => self.reply(unique, libc::ENOSYS, &[]),
        }
    }

    fn allocate(&mut self, unique: u64, arguments: &[u8]) {
        if self.geometry.read_only {
            return self.reply(unique, libc::EROFS, &[]);
        }
        let keep = libc::FALLOC_FL_KEEP_SIZE.cast_unsigned();
        let punch = libc::FALLOC_FL_PUNCH_HOLE.cast_unsigned();
        let zero = libc::FALLOC_FL_ZERO_RANGE.cast_unsigned();
        let Some((offset, length, mode)) = abi::allocation(arguments) else {
            return self.reply(unique, libc::EINVAL, &[]);
        };
        let unmap = match mode & !keep {
            mode if mode == punch => true,
            mode if mode == zero => false,
            _ => return self.reply(unique, libc::EOPNOTSUPP, &[]),
        };
        if !self.inside(offset, length) {
            return self.reply(unique, libc::EINVAL, &[]);
        }
        let mut count = 0;
        for (offset, length) in pieces(offset, length, ZERO_PIECE) {
            let op = FrontOp::WriteZeroes { offset, length, unmap, fua: false };
            let id = self.requests.push(op);
            self.open.insert(id, Open::Plain { unique });
            count += 1;
        }
        self.holes.insert(unique, (count, None));
    }

    fn reply(&self, unique: u64, error: i32, body: &[u8]) {
        let header = abi::answer(unique, error, body.len());
        match rustix::io::writev(&*self.fd, &[IoSlice::new(&header), IoSlice::new(body)]) {
            // ENOENT: the kernel gave the request up meanwhile; ENODEV: the mount is gone.
            Ok(_) | Err(Errno::NOENT | Errno::NODEV) => {}
            Err(error) => tracing::error!(%error, "the kernel refused an answer to a FUSE request"),
        }
    }
}

fn errno(error: FrontError) -> i32 {
    match error {
        FrontError::Range => libc::EINVAL,
        FrontError::NotPrimary | FrontError::Io => libc::EIO,
    }
}

impl Front for Fuse {
    fn start(&mut self, io: &mut Io) {
        self.started = true;
        self.poll(io);
    }

    fn completed(&mut self, io: &mut Io, done: Done<IoTag>) {
        if done.tag != IoTag::Fuse(Tag(self.number)) {
            return;
        }
        self.polling = false;
        for _ in 0..BATCH {
            match self.read_one(io) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    // ENODEV after the unmount is the ordinary end, of which the engine knows.
                    if error.raw_os_error() != Some(libc::ENODEV) {
                        tracing::error!(%error, "cannot read FUSE requests");
                    }
                    self.ended = Some(error.to_string());
                    self.started = false;
                    return;
                }
            }
        }
        self.poll(io);
    }

    fn answer(&mut self, _io: &mut Io, id: RequestId, result: Result<Bytes, FrontError>) {
        match (self.open.remove(&id), result) {
            (None, _) => {}
            (Some(Open::Read { unique }), Ok(data)) => self.reply(unique, 0, &data),
            (Some(Open::Write { unique, count }), Ok(_)) => self.reply(unique, 0, &abi::written(count)),
            (Some(Open::Plain { unique }), result) => match self.holes.get_mut(&unique) {
                None => self.reply(unique, result.err().map_or(0, errno), &[]),
                Some((left, error)) => {
                    *left -= 1;
                    *error = error.or(result.err());
                    if *left == 0 {
                        let error = error.map_or(0, errno);
                        self.holes.remove(&unique);
                        self.reply(unique, error, &[]);
                    }
                }
            },
            (Some(Open::Read { unique } | Open::Write { unique, .. }), Err(error)) => {
                self.reply(unique, errno(error), &[]);
            }
        }
    }

    fn requests(&mut self) -> &mut Requests {
        &mut self.requests
    }

    fn hold_back(&mut self, io: &mut Io, hold: bool) {
        self.held = hold;
        self.poll(io);
    }

    fn stop(&mut self, _io: &mut Io) {
        self.started = false;
    }

    fn describe(&self) -> String {
        format!("fuse file, {} requests under way", self.open.len())
    }
}
