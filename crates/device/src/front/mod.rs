//! Fronts: what a volume looks like to its user. One trait, so that ublk and kernel NBD can stand beside the NBD server
//! and the FUSE file.

pub mod fuse;
pub mod loopdev;
pub mod nbd;

use crate::{
    io::{Io, Tag},
    ring::Done,
};
use anshin_mirror::{FrontError, FrontOp, RequestId};
use bytes::Bytes;

/// What a front must know of the volume.
#[derive(Clone, Debug)]
pub struct Geometry {
    /// The volume's name, which is the export's name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Smallest read or write, a power of two of at least 512.
    pub block_bytes: u32,
    /// Whether it is a point, which nobody writes to.
    pub read_only: bool,
}

/// Requests of a front on their way to the core.
pub struct Requests {
    next: u64,
    /// In the order in which they came.
    pub queue: Vec<(RequestId, FrontOp)>,
}

impl Requests {
    /// Ids count up by [`FRONTS`] from the front's number, so that the engine sees from an id which front it belongs to.
    #[must_use]
    pub fn new(front: u64) -> Self {
        Self { next: front, queue: Vec::new() }
    }

    /// Queues `op` and names it.
    pub fn push(&mut self, op: FrontOp) -> RequestId {
        let id = RequestId(self.next);
        self.next += FRONTS;
        self.queue.push((id, op));
        id
    }
}

/// Number of fronts; the remainder of a request id by it is the front's number.
pub const FRONTS: u64 = 3;
/// The NBD server's number.
pub const NBD: u64 = 0;
/// The FUSE file's number.
pub const FUSE: u64 = 1;
/// The number of reads of the volume that are made for its points.
pub const POINT: u64 = 2;

/// One way to use a volume. A front exists only while its replica is primary (R17); it is dropped otherwise.
pub trait Front {
    /// Starts taking requests.
    fn start(&mut self, io: &mut Io);

    /// A completion of the ring that belongs to it. New requests go to [`Front::requests`].
    fn completed(&mut self, io: &mut Io, done: Done<Tag>);

    /// The core's answer.
    fn answer(&mut self, io: &mut Io, id: RequestId, result: Result<Bytes, FrontError>);

    /// Where its requests wait for the engine.
    fn requests(&mut self) -> &mut Requests;

    /// While held back it reads no further requests; those taken are still answered.
    fn hold_back(&mut self, io: &mut Io, hold: bool);

    /// Ends it. Requests still open are not answered any more.
    fn stop(&mut self, io: &mut Io);

    /// What it is and who uses it, for the status.
    fn describe(&self) -> String;
}
