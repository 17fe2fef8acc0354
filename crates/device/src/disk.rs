//! The replica's two files: carries out the core's disk commands on the ring.

use crate::{
    buffer::{ALIGNMENT, LARGEST, Pool},
    io::{Io, Tag as IoTag},
    ring::{Done, Fd, Op},
};
use anshin_base::Problem;
use anshin_mirror::{DiskError, Input, Region, Token};
use bytes::Bytes;
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::{collections::HashMap, io, ops::Range, path::Path, rc::Rc};

/// Which command a completion belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(Token);

struct Area {
    fd: Fd,
    direct: bool,
    /// Every command goes to the kernel's workers: see [`tells_whether_it_waits`].
    aside: bool,
    /// Offsets and lengths must be multiples of this for direct I/O.
    alignment: u32,
    bytes: u64,
    /// All of it has space on the file system, which zeroing must not give back (R17).
    reserved: bool,
}

enum Job {
    /// `wanted` of what is read is the answer.
    Read {
        region: Region,
        offset: u64,
        at: usize,
        wanted: Range<usize>,
    },
    /// Reads the blocks around a write that is smaller than they are; `at` bytes of them are there.
    Around {
        region: Region,
        write: (u64, Bytes),
        start: u64,
        at: usize,
    },
    Write {
        region: Region,
        offset: u64,
        rest: Bytes,
    },
    Zero(Zero),
    Flush,
}

/// Zeroing tries what costs least first and falls back where the file system cannot.
#[derive(Clone, Copy)]
struct Zero {
    offset: u64,
    length: u64,
    how: How,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Punch,
    ZeroRange,
    Write,
}

/// Both files, locked against a second process.
pub struct Disk {
    data: Area,
    meta: Area,
    jobs: HashMap<Token, Job>,
    zeroes: Bytes,
}

impl Disk {
    /// Opens `data` and `meta` in `directory`, with direct I/O where the file system has it.
    ///
    /// # Errors
    /// If a file is missing or another process holds the replica.
    pub fn open(directory: &Path) -> Result<Self, Problem> {
        let meta = Area::open(&directory.join("meta"))?;
        rustix::fs::flock(&*meta.fd, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
            let message = format!("the replica in {} is in use: {error}", directory.display());
            Problem::refused("volume-in-use", message).hint("another process of this volume is still running")
        })?;
        let data = Area::open(&directory.join("data"))?;
        let zeroes = Bytes::from_static(&[]);
        Ok(Self { data, meta, jobs: HashMap::new(), zeroes })
    }

    /// Size of the data area.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.data.bytes
    }

    /// Size of the metadata area.
    #[must_use]
    pub fn meta_bytes(&self) -> u64 {
        self.meta.bytes
    }

    /// The smallest block that the data file takes, at least 512.
    #[must_use]
    pub fn block_bytes(&self) -> u32 {
        self.data.alignment.max(512)
    }

    /// Whether both files bypass the page cache.
    #[must_use]
    pub fn direct(&self) -> bool {
        self.data.direct && self.meta.direct
    }

    fn area(&self, region: Region) -> &Area {
        match region {
            Region::Data => &self.data,
            Region::Meta => &self.meta,
        }
    }

    /// Starts a read.
    pub fn read(&mut self, io: &mut Io, token: Token, region: Region, offset: u64, length: u32) {
        let area = self.area(region);
        let (start, end) = area.blocks_around(offset, length as usize);
        let (fd, buffer) = (area.fd.clone(), io.pool.take(distance(start, end)));
        let from = distance(start, offset);
        let wanted = from..from + length as usize;
        self.jobs.insert(token, Job::Read { region, offset: start, at: 0, wanted });
        self.area(region).push(io, Op::Read { fd, buffer, from: 0, offset: start }, token);
    }

    /// Starts a write. One that does not fill whole blocks of this disk (a primary on a disk with smaller ones may send it) is
    /// written with what is around it; the core never has two writes in one block of 4,096 bytes under way.
    pub fn write(&mut self, io: &mut Io, token: Token, region: Region, offset: u64, data: Bytes) {
        let area = self.area(region);
        let (start, end) = area.blocks_around(offset, data.len());
        if distance(start, end) != data.len() {
            let (fd, buffer) = (area.fd.clone(), io.pool.take(distance(start, end)));
            self.jobs.insert(token, Job::Around { region, write: (offset, data), start, at: 0 });
            return self.area(region).push(io, Op::Read { fd, buffer, from: 0, offset: start }, token);
        }
        let fd = area.fd.clone();
        // Direct I/O needs the memory aligned too; what came from elsewhere than the pool is copied.
        let aligned = (data.as_ptr() as usize).is_multiple_of(512.max(area.alignment as usize));
        let data = if area.direct && !aligned { io.pool.copy(&data).freeze() } else { data };
        self.jobs.insert(token, Job::Write { region, offset, rest: data.clone() });
        self.area(region).push(io, Op::Write { fd, data, offset }, token);
    }

    /// Starts zeroing a range of the data area.
    pub fn zero(&mut self, io: &mut Io, token: Token, offset: u64, length: u64, unmap: bool) {
        let punch = unmap && !self.data.reserved;
        let zero = Zero { offset, length, how: if punch { How::Punch } else { How::ZeroRange } };
        self.push_zero(io, token, zero);
    }

    fn push_zero(&mut self, io: &mut Io, token: Token, zero: Zero) {
        let fd = self.data.fd.clone();
        let Zero { offset, length, how } = zero;
        let op = match how {
            How::Punch => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                Op::Allocate { fd, mode, offset, length }
            }
            How::ZeroRange => Op::Allocate { fd, mode: libc::FALLOC_FL_ZERO_RANGE, offset, length },
            How::Write
                if self.data.blocks_around(offset, distance(0, length)) != (offset, offset + length) =>
            {
                let zeroes = Bytes::from(vec![0; distance(0, length)]);
                return self.write(io, token, Region::Data, offset, zeroes);
            }
            How::Write => {
                if self.zeroes.is_empty() {
                    let mut buffer = io.pool.take(LARGEST);
                    buffer.fill(0);
                    self.zeroes = buffer.freeze();
                }
                let part = usize::try_from(length).unwrap_or(LARGEST).min(LARGEST);
                Op::Write { fd, data: self.zeroes.slice(..part), offset }
            }
        };
        self.jobs.insert(token, Job::Zero(zero));
        self.data.push(io, op, token);
    }

    /// Starts a flush.
    pub fn flush(&mut self, io: &mut Io, token: Token, region: Region) {
        let fd = self.area(region).fd.clone();
        self.jobs.insert(token, Job::Flush);
        self.area(region).push(io, Op::Sync { fd }, token);
    }

    /// A completion came back: the core's input if the command has ended.
    pub fn completed(&mut self, io: &mut Io, Tag(token): Tag, done: Done<IoTag>) -> Option<Input> {
        let job = self.jobs.remove(&token).expect("invariant: one completion per job");
        let result = match (job, done.result) {
            (Job::Zero(zero), Err(error)) if unsupported(&error) && zero.how != How::Write => {
                let punch = zero.how == How::ZeroRange && !self.data.reserved;
                let how = if punch { How::Punch } else { How::Write };
                self.push_zero(io, token, Zero { how, ..zero });
                return None;
            }
            (job, Err(error)) => {
                tracing::error!(%error, what = job.name(), "the replica's disk failed a command");
                Err(if error.raw_os_error() == Some(libc::ENOSPC) { DiskError::Full } else { DiskError::Io })
            }
            (Job::Flush, Ok(_)) => Ok(Bytes::new()),
            (Job::Zero(Zero { how: How::Write, offset, length }), Ok(count)) => {
                let count = u64::from(count);
                if count > 0 && count < length {
                    let zero = Zero { how: How::Write, offset: offset + count, length: length - count };
                    self.push_zero(io, token, zero);
                    return None;
                }
                if count == 0 { Err(DiskError::Io) } else { Ok(Bytes::new()) }
            }
            (Job::Zero(_), Ok(_)) => Ok(Bytes::new()),
            (Job::Write { rest, .. }, Ok(count)) if count as usize == rest.len() => Ok(Bytes::new()),
            // Nothing written or read and no error: past the end of the file, which was cut by someone else.
            (Job::Write { .. } | Job::Read { .. } | Job::Around { .. }, Ok(0)) => Err(DiskError::Io),
            (Job::Around { region, write: (offset, data), start, at }, Ok(count)) => {
                let mut buffer = done.buffer.expect("invariant: a read returns its buffer");
                let at = at + count as usize;
                if at < buffer.len() {
                    let fd = self.area(region).fd.clone();
                    let rest = start + at as u64;
                    self.jobs.insert(token, Job::Around { region, write: (offset, data), start, at });
                    self.area(region).push(io, Op::Read { fd, buffer, from: at, offset: rest }, token);
                    return None;
                }
                let from = distance(start, offset);
                buffer[from..from + data.len()].copy_from_slice(&data);
                self.write(io, token, region, start, buffer.freeze());
                return None;
            }
            (Job::Write { region, offset, rest }, Ok(count)) => {
                self.write(io, token, region, offset + u64::from(count), rest.slice(count as usize..));
                return None;
            }
            (Job::Read { region, offset, at, wanted }, Ok(count)) => {
                let buffer = done.buffer.expect("invariant: a read returns its buffer");
                let (at, count) = (at + count as usize, u64::from(count));
                if at < buffer.len() {
                    self.jobs.insert(token, Job::Read { region, offset: offset + count, at, wanted });
                    let area = self.area(region);
                    let fd = area.fd.clone();
                    area.push(io, Op::Read { fd, buffer, from: at, offset: offset + count }, token);
                    return None;
                }
                Ok(buffer.freeze().slice(wanted))
            }
        };
        Some(Input::DiskDone { token, result })
    }
}

impl Job {
    fn name(&self) -> &'static str {
        match self {
            Self::Read { .. } | Self::Around { .. } => "read",
            Self::Write { .. } => "write",
            Self::Zero(_) => "zero",
            Self::Flush => "flush",
        }
    }
}

/// Bytes from one offset to a later one of the same command.
fn distance(start: u64, end: u64) -> usize {
    usize::try_from(end - start).expect("invariant: a command is far smaller than memory")
}

fn unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS))
}

impl Area {
    fn open(path: &Path) -> Result<Self, Problem> {
        let fail = |error: io::Error| {
            Problem::new("replica-open", format!("cannot open {}: {error}", path.display()))
                .hint("`anshin volume list` shows which replicas this node should have")
        };
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let direct = rustix::fs::open(path, flags | OFlags::DIRECT, Mode::empty());
        // The core keeps writes apart by blocks of 4,096 bytes: two beside each other in one larger block would undo each other.
        let fits = |fd: &rustix::fd::OwnedFd| direct_alignment(fd) as usize <= ALIGNMENT;
        let (fd, direct) = match direct {
            Ok(fd) if fits(&fd) => (fd, true),
            Ok(_) | Err(rustix::io::Errno::INVAL) => {
                let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| fail(error.into()))?;
                let why = "no direct I/O with blocks of 4 KiB or less; going through the page cache";
                tracing::warn!(path = %path.display(), "{why}");
                (fd, false)
            }
            Err(error) => return Err(fail(error.into())),
        };
        // Through the page cache, what a process before wrote may be there alone, and after a flush that failed the cache shows
        // what the disk does not have.
        rustix::fs::fdatasync(&fd).map_err(|error| fail(error.into()))?;
        rustix::fs::fadvise(&fd, 0, None, rustix::fs::Advice::DontNeed)
            .map_err(|error| fail(error.into()))?;
        let found = rustix::fs::fstat(&fd).map_err(|error| fail(error.into()))?;
        let bytes = u64::try_from(found.st_size).unwrap_or(0);
        let reserved = u64::try_from(found.st_blocks).unwrap_or(0).saturating_mul(512) >= bytes;
        let alignment = if direct { direct_alignment(&fd) } else { 512 };
        let aside = !tells_whether_it_waits(&fd);
        Ok(Self { fd: Rc::new(fd), direct, aside, alignment, bytes, reserved })
    }

    /// Where the blocks that a command touches begin and end; where it begins and ends itself without direct I/O.
    fn blocks_around(&self, offset: u64, length: usize) -> (u64, u64) {
        let block = if self.direct { u64::from(self.alignment.max(1)) } else { 1 };
        (offset / block * block, (offset + length as u64).next_multiple_of(block))
    }

    fn push(&self, io: &mut Io, op: Op, token: Token) {
        let tag = IoTag::Disk(Tag(token));
        if self.aside { io.push_aside(op, tag) } else { io.push(op, tag) }
    }
}

/// Whether the file system can refuse a request for which it would have to wait (`RWF_NOWAIT`).
///
/// io_uring tries a request on the calling thread first. Where the file system cannot refuse, it asks whether the file is
/// ready as it would ask of a socket; FUSE answers that it always is, and the thread then waits in the kernel for as long
/// as the disk takes: nothing of the volume would go on, not even the signs of life and the word that the disk hangs.
fn tells_whether_it_waits(fd: &impl std::os::fd::AsFd) -> bool {
    let mut block = Pool::default().take(ALIGNMENT);
    let parts = &mut [io::IoSliceMut::new(&mut block)];
    let tried = rustix::io::preadv2(fd, parts, 0, rustix::io::ReadWriteFlags::NOWAIT);
    !matches!(tried, Err(rustix::io::Errno::OPNOTSUPP))
}

/// What direct I/O on this file asks for. Kernels before 6.1 do not tell; then the whole block of [`ALIGNMENT`] is safe.
fn direct_alignment(fd: &impl std::os::fd::AsFd) -> u32 {
    let fallback = u32::try_from(ALIGNMENT).unwrap_or(4096);
    let flags = rustix::fs::AtFlags::EMPTY_PATH;
    let mask = rustix::fs::StatxFlags::DIOALIGN;
    match rustix::fs::statx(fd, c"", flags, mask) {
        Ok(found) if found.stx_mask & mask.bits() != 0 && found.stx_dio_offset_align > 0 => {
            found.stx_dio_offset_align
        }
        _ => fallback,
    }
}

#[cfg(test)]
mod tests;
