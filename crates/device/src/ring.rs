//! A thin io_uring wrapper that owns every buffer while the kernel may touch it.
//!
//! An [`Op`] goes in with a tag of the caller's; it comes back as [`Done`] with the same tag, the result and the buffer.
//! Nothing can be dropped while in flight: buffers, file descriptors and address structures live in a slot of the ring.
//! A ring that is dropped with operations in flight leaks those slots rather than freeing memory under the kernel.

use crate::buffer::Buffer;
use bytes::Bytes;
use io_uring::{IoUring, opcode, squeue, types};
use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    rc::Rc,
};

/// A file descriptor that stays open while anything in flight uses it.
pub type Fd = Rc<OwnedFd>;

/// Submission entries; more than this many between two submissions are submitted in parts.
const ENTRIES: u32 = 512;
/// Chunks of one vectored send (the kernel allows 1,024).
pub const CHUNKS_MAX: usize = 32;

/// What the kernel is asked to do.
pub enum Op {
    /// Read at `offset` into `buffer[from..]`.
    Read {
        /// From where.
        fd: Fd,
        /// Comes back in [`Done::buffer`].
        buffer: Buffer,
        /// First byte of the buffer to fill.
        from: usize,
        /// Position in the file.
        offset: u64,
    },
    /// Write all of `data` at `offset`.
    Write {
        /// Where to.
        fd: Fd,
        /// What.
        data: Bytes,
        /// Position in the file.
        offset: u64,
    },
    /// fdatasync.
    Sync {
        /// Which file.
        fd: Fd,
    },
    /// fallocate.
    Allocate {
        /// Which file.
        fd: Fd,
        /// `FALLOC_FL_*`.
        mode: i32,
        /// First byte.
        offset: u64,
        /// How many.
        length: u64,
    },
    /// Receive into `buffer[from..]`.
    Receive {
        /// Which socket.
        fd: Fd,
        /// Comes back in [`Done::buffer`].
        buffer: Buffer,
        /// First byte of the buffer to fill.
        from: usize,
    },
    /// Send the chunks, at most [`CHUNKS_MAX`]; may be partial.
    Send {
        /// Which socket.
        fd: Fd,
        /// In this order.
        chunks: Vec<Bytes>,
    },
    /// Accept one connection; the result is the new descriptor.
    Accept {
        /// The listening socket.
        fd: Fd,
    },
    /// Connect a socket.
    Connect {
        /// The socket.
        fd: Fd,
        /// Where to.
        address: std::net::SocketAddr,
    },
    /// Wait for readiness once.
    Poll {
        /// What to watch.
        fd: Fd,
        /// `POLLIN`, …
        mask: i16,
    },
}

/// How an operation ended.
pub struct Done<T> {
    /// The caller's name for it.
    pub tag: T,
    /// What the system call would have returned.
    pub result: io::Result<u32>,
    /// The buffer of a read or receive.
    pub buffer: Option<Buffer>,
}

/// What a slot keeps alive.
#[allow(dead_code, reason = "the fields are held for the kernel, not read")]
enum Held {
    Nothing,
    Buffer(Buffer),
    Bytes(Bytes),
    Message(Box<Message>),
    Address(Box<Address>),
}

struct Message {
    header: libc::msghdr,
    vectors: Vec<libc::iovec>,
    #[allow(dead_code, reason = "held for the kernel, not read")]
    chunks: Vec<Bytes>,
}

#[repr(C)]
union Address {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

struct Slot<T> {
    tag: T,
    held: Held,
    #[allow(dead_code, reason = "held so that the number is not reused, not read")]
    fd: Fd,
}

/// The ring of one thread.
pub struct Ring<T> {
    uring: IoUring,
    slots: Vec<Option<Slot<T>>>,
    free: Vec<usize>,
}

impl<T> Ring<T> {
    /// A ring for the calling thread alone.
    ///
    /// # Errors
    /// If the kernel refuses (io_uring disabled, no memory).
    pub fn new() -> io::Result<Self> {
        let modern = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(ENTRIES * 8)
            .build(ENTRIES);
        let uring = match modern {
            Ok(uring) => uring,
            // Before Linux 6.1.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                IoUring::builder().setup_cqsize(ENTRIES * 8).build(ENTRIES)?
            }
            Err(error) => return Err(error),
        };
        Ok(Self { uring, slots: Vec::new(), free: Vec::new() })
    }

    /// Operations that have not come back yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Puts an operation on the ring. It starts at the next [`Self::wait`], or earlier.
    ///
    /// The kernel tries it on the calling thread first, without waiting if the file can tell that it would have to.
    pub fn push(&mut self, op: Op, tag: T) {
        self.put(op, tag, squeue::Flags::empty());
    }

    /// As [`Self::push`], carried out by the kernel's workers from the beginning, so that it cannot hold up the calling thread.
    pub fn push_aside(&mut self, op: Op, tag: T) {
        self.put(op, tag, squeue::Flags::ASYNC);
    }

    fn put(&mut self, op: Op, tag: T, flags: squeue::Flags) {
        let (entry, held, fd) = prepare(op);
        let slot = Slot { tag, held, fd };
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index] = Some(slot);
                index
            }
            None => {
                self.slots.push(Some(slot));
                self.slots.len() - 1
            }
        };
        let entry = entry.user_data(index as u64).flags(flags);
        // SAFETY: everything the entry points to lives in the slot, whose heap memory does not move (buffers and boxes),
        // until its completion has been taken.
        while unsafe { self.uring.submission().push(&entry) }.is_err() {
            // The queue is full: hand it to the kernel. It is empty after that except for EAGAIN and EBUSY, where
            // trying again is what the manual asks for.
            let _ = self.uring.submit();
        }
    }

    /// Submits what was pushed and waits until at least one operation has ended, then takes all that have.
    ///
    /// # Errors
    /// If the kernel fails the wait itself.
    pub fn wait(&mut self, done: &mut Vec<Done<T>>) -> io::Result<()> {
        match self.uring.submit_and_wait(1) {
            Ok(_) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => {}
            Err(error) => return Err(error),
        }
        for entry in self.uring.completion() {
            let index = usize::try_from(entry.user_data()).expect("invariant: indices fit");
            let slot = self.slots[index].take().expect("invariant: one completion per operation");
            self.free.push(index);
            let result = match u32::try_from(entry.result()) {
                Ok(value) => Ok(value),
                Err(_) => Err(io::Error::from_raw_os_error(-entry.result())),
            };
            let buffer = match slot.held {
                Held::Buffer(buffer) => Some(buffer),
                _ => None,
            };
            done.push(Done { tag: slot.tag, result, buffer });
        }
        Ok(())
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        for slot in self.slots.drain(..).flatten() {
            std::mem::forget(slot.held);
        }
    }
}

fn length_of(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("invariant: buffers are far below 4 GiB")
}

fn prepare(op: Op) -> (squeue::Entry, Held, Fd) {
    match op {
        Op::Read { fd, mut buffer, from, offset } => {
            let length = length_of(buffer.len() - from);
            let start = buffer[from..].as_mut_ptr();
            let entry = opcode::Read::new(types::Fd(fd.as_raw_fd()), start, length).offset(offset).build();
            (entry, Held::Buffer(buffer), fd)
        }
        Op::Write { fd, data, offset } => {
            let entry = opcode::Write::new(types::Fd(fd.as_raw_fd()), data.as_ptr(), length_of(data.len()));
            (entry.offset(offset).build(), Held::Bytes(data), fd)
        }
        Op::Sync { fd } => {
            let entry = opcode::Fsync::new(types::Fd(fd.as_raw_fd())).flags(types::FsyncFlags::DATASYNC);
            (entry.build(), Held::Nothing, fd)
        }
        Op::Allocate { fd, mode, offset, length } => {
            let entry = opcode::Fallocate::new(types::Fd(fd.as_raw_fd()), length).offset(offset).mode(mode);
            (entry.build(), Held::Nothing, fd)
        }
        Op::Receive { fd, mut buffer, from } => {
            let length = length_of(buffer.len() - from);
            let start = buffer[from..].as_mut_ptr();
            let entry = opcode::Recv::new(types::Fd(fd.as_raw_fd()), start, length).build();
            (entry, Held::Buffer(buffer), fd)
        }
        Op::Send { fd, chunks } => send(fd, chunks),
        Op::Accept { fd } => {
            let none = std::ptr::null_mut();
            let entry = opcode::Accept::new(types::Fd(fd.as_raw_fd()), none, std::ptr::null_mut());
            (entry.flags(libc::SOCK_CLOEXEC).build(), Held::Nothing, fd)
        }
        Op::Connect { fd, address } => connect(fd, address),
        Op::Poll { fd, mask } => {
            let entry = opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), u32::from(mask.cast_unsigned()));
            (entry.build(), Held::Nothing, fd)
        }
    }
}

fn send(fd: Fd, mut chunks: Vec<Bytes>) -> (squeue::Entry, Held, Fd) {
    assert!(!chunks.is_empty() && chunks.len() <= CHUNKS_MAX, "a send has 1 to {CHUNKS_MAX} chunks");
    let raw = types::Fd(fd.as_raw_fd());
    if chunks.len() == 1
        && let Some(data) = chunks.pop()
    {
        let entry = opcode::Send::new(raw, data.as_ptr(), length_of(data.len())).flags(libc::MSG_NOSIGNAL);
        return (entry.build(), Held::Bytes(data), fd);
    }
    let vectors: Vec<_> = chunks
        .iter()
        .map(|chunk| libc::iovec { iov_base: chunk.as_ptr().cast_mut().cast(), iov_len: chunk.len() })
        .collect();
    // SAFETY: all-zero is a valid msghdr: null pointers with lengths 0.
    let header = unsafe { std::mem::zeroed() };
    let mut message = Box::new(Message { header, vectors, chunks });
    message.header.msg_iov = message.vectors.as_mut_ptr();
    message.header.msg_iovlen = message.vectors.len();
    let entry =
        opcode::SendMsg::new(raw, &raw const message.header).flags(libc::MSG_NOSIGNAL.cast_unsigned());
    (entry.build(), Held::Message(message), fd)
}

fn connect(fd: Fd, address: std::net::SocketAddr) -> (squeue::Entry, Held, Fd) {
    // SAFETY: all-zero is a valid value of both address structures.
    let mut raw: Box<Address> = Box::new(unsafe { std::mem::zeroed() });
    let length = match address {
        std::net::SocketAddr::V4(v4) => {
            raw.v4 = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            size_of::<libc::sockaddr_in>()
        }
        std::net::SocketAddr::V6(v6) => {
            raw.v6 = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            size_of::<libc::sockaddr_in6>()
        }
    };
    let pointer: *const libc::sockaddr = (&raw const *raw).cast();
    let entry = opcode::Connect::new(types::Fd(fd.as_raw_fd()), pointer, length_of(length)).build();
    (entry, Held::Address(raw), fd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Pool;
    use std::{io::Write as _, os::unix::net::UnixStream};

    fn run<T>(ring: &mut Ring<T>, count: usize) -> Vec<Done<T>> {
        let mut done = Vec::new();
        while done.len() < count {
            ring.wait(&mut done).unwrap();
        }
        done
    }

    #[test]
    fn what_was_written_is_read_back_and_each_completion_carries_its_tag() {
        let path = std::env::temp_dir().join(format!("anshin-ring-{}", std::process::id()));
        let file =
            std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let fd: Fd = Rc::new(file.into());
        let mut ring = Ring::new().unwrap();
        let pool = Pool::default();
        for block in 0..1000u32 {
            let mut buffer = pool.take(4096);
            buffer.fill(block as u8);
            ring.push(
                Op::Write { fd: fd.clone(), data: buffer.freeze(), offset: u64::from(block) * 4096 },
                block,
            );
        }
        let mut seen: Vec<_> =
            run(&mut ring, 1000).into_iter().map(|done| (done.tag, done.result.unwrap())).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..1000).map(|block| (block, 4096)).collect::<Vec<_>>());
        ring.push(Op::Sync { fd: fd.clone() }, 1);
        assert_eq!(run(&mut ring, 1)[0].result.as_ref().unwrap(), &0);
        ring.push(Op::Read { fd, buffer: pool.take(4096), from: 0, offset: 777 * 4096 }, 2);
        let read = run(&mut ring, 1).pop().unwrap();
        assert!(read.buffer.unwrap().iter().all(|byte| *byte == 777u32 as u8));
    }

    #[test]
    fn chunks_are_sent_in_order_and_received_where_asked() {
        let (mine, mut theirs) = UnixStream::pair().unwrap();
        let fd: Fd = Rc::new(mine.into());
        let mut ring = Ring::new().unwrap();
        let chunks = vec![Bytes::from_static(b"an"), Bytes::from_static(b"shin")];
        ring.push(Op::Send { fd: fd.clone(), chunks }, 1);
        assert_eq!(run(&mut ring, 1)[0].result.as_ref().unwrap(), &6);
        let mut got = [0; 6];
        io::Read::read_exact(&mut theirs, &mut got).unwrap();
        assert_eq!(&got, b"anshin");
        theirs.write_all(b"calm").unwrap();
        ring.push(Op::Receive { fd, buffer: Pool::default().take(10), from: 2 }, 2);
        let done = run(&mut ring, 1).pop().unwrap();
        assert_eq!(done.result.unwrap(), 4);
        assert_eq!(&done.buffer.unwrap()[2..6], b"calm");
    }
}
