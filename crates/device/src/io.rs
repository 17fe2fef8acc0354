//! What every part of the engine shares: the ring, the buffers, and the tags by which completions find their owner.

use crate::{
    buffer::Pool,
    clock, control, disk, peer,
    ring::{Done, Op, Ring},
    voter,
};
use anshin_base::Mono;

/// Who an operation of the ring belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// The replica's files.
    Disk(disk::Tag),
    /// The timer.
    Timer,
    /// A helper thread has news.
    Wake,
    /// The NBD server.
    Nbd(crate::front::nbd::Tag),
    /// A point's side file.
    Point(crate::point::side::Tag),
    /// The FUSE file.
    Fuse(crate::front::fuse::Tag),
    /// The data links.
    Peer(peer::Tag),
    /// The voter's socket.
    Voter(voter::Tag),
    /// The control socket.
    Control(control::Tag),
}

/// The engine thread's hands.
pub struct Io {
    ring: Ring<Tag>,
    /// Where buffers come from.
    pub pool: Pool,
}

impl Io {
    /// Must be made on the thread that uses it.
    ///
    /// # Errors
    /// If the kernel refuses a ring.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { ring: Ring::new()?, pool: Pool::default() })
    }

    /// Starts an operation.
    pub fn push(&mut self, op: Op, tag: Tag) {
        self.ring.push(op, tag);
    }

    /// Waits for completions.
    ///
    /// # Errors
    /// If the kernel fails the wait itself.
    pub fn wait(&mut self, done: &mut Vec<Done<Tag>>) -> std::io::Result<()> {
        self.ring.wait(done)
    }

    /// Operations that have not come back.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.ring.in_flight()
    }

    /// Now, on CLOCK_BOOTTIME.
    #[must_use]
    pub fn now(&self) -> Mono {
        clock::now()
    }
}
