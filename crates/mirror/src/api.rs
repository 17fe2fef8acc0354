//! What goes into and comes out of the replication core.
//!
//! A [`crate::Replica`] is driven by one owner, which is either the volume process's event loop or the simulator: it
//! hands in an [`Input`] with the present time and carries out every [`Output`] in the order given. The
//! core never blocks, never reads a clock and never does I/O.
//!
//! Disk outputs may be carried out concurrently and may finish in any order; only a [`Output::DiskFlush`] orders: it
//! covers exactly the writes of its region whose completion had been handed in before the flush was put out.

use anshin_base::{
    Generation, GroupChange, GroupEntry, LedgerIndex, Mono, ReplicaId, SessionId,
    lease::LeaseRecord,
    local::{Outcome, ReplicaPlace, ReplicaReport},
};
use bytes::Bytes;

use crate::wire::Message;

/// Names a disk command of the core until its completion is handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// Names a request of the front (NBD, FUSE, …) until it is answered. Chosen by the front, never reused while open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Names one authenticated connection to another replica. A reconnect is a new link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// The two areas of a replica on disk. They may be two files or two parts of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Region {
    /// The volume's content, byte for byte.
    Data,
    /// Superblocks, activity log, dirty records; see docs/formats/replica.md.
    Meta,
}

/// What the user of the volume asks for. Offsets and lengths are bytes, multiples of 512, inside the volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrontOp {
    /// Read `length` bytes.
    Read {
        /// First byte.
        offset: u64,
        /// How many.
        length: u32,
    },
    /// Write all of `data`. With `fua` it is answered only when durable on the whole in-sync set.
    Write {
        /// First byte.
        offset: u64,
        /// The content, owned by the core from here on.
        data: Bytes,
        /// Force unit access.
        fua: bool,
    },
    /// Make everything answered before this durable on the whole in-sync set.
    Flush,
    /// The content of the range no longer matters; it reads as zeroes afterwards on every replica alike.
    Trim {
        /// First byte.
        offset: u64,
        /// How many.
        length: u64,
    },
    /// Write zeroes; `unmap` allows the space to be given back.
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// How many.
        length: u64,
        /// Whether holes may be made.
        unmap: bool,
        /// Force unit access.
        fua: bool,
    },
}

/// Why a front request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrontError {
    /// Outside the volume or not a multiple of 512.
    #[error("the range is outside the volume or not aligned")]
    Range,
    /// This replica is not primary, or was deposed and told to fail what it held.
    #[error("this node is not the primary of the volume")]
    NotPrimary,
    /// The local disk failed and no other replica can answer.
    #[error("the disk failed")]
    Io,
}

/// Why a disk command failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// Read or write error.
    #[error("input/output error")]
    Io,
    /// No space left on the backing store.
    #[error("no space left")]
    Full,
}

/// A command from the node's daemon (or the simulator in its place).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Planned hand-over: the device's users are gone. Stop taking requests, flush, then give up the role in the
    /// ledger. Ends with [`Event::Demoted`].
    Demote,
    /// The programs of a deposed primary have been killed: answer everything suspended with
    /// [`FrontError::NotPrimary`], so that the file system can be unmounted (R12).
    FailSuspended,
    /// The device is gone (unmounted, loop device detached). A deposed primary becomes a secondary only after this.
    DeviceGone,
    /// Hold new writes and flush, so that both copies can be compared; [`Event::Quiesced`] follows.
    Quiesce,
    /// End of the above.
    Resume,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Time has passed; also handed in at the time the core asked for by [`Output::WakeAt`].
    Tick,
    /// A request of the volume's user. Only while serving ([`Event::Serve`]); refused otherwise.
    Front {
        /// Its name.
        id: RequestId,
        /// What is asked.
        op: FrontOp,
    },
    /// A disk command ended. For a read the content, else empty.
    DiskDone {
        /// Which command.
        token: Token,
        /// How it ended.
        result: Result<Bytes, DiskError>,
    },
    /// An authenticated connection to another replica of the group stands. Its first message must be a hello.
    LinkUp {
        /// The new link.
        link: LinkId,
    },
    /// The connection is gone; messages in flight may or may not have arrived.
    LinkDown {
        /// Which link.
        link: LinkId,
    },
    /// A message arrived, in order within its link.
    Received {
        /// Over which link.
        link: LinkId,
        /// What it says.
        message: Message,
    },
    /// The newest ledger state this node has applied for the group. May repeat; never goes back within an epoch,
    /// and if it does, the core refuses to act on it (R8).
    Ledger(LedgerView),
    /// What became of a proposal.
    Proposed {
        /// The number given in [`Output::Propose`].
        request: u64,
        /// The result; `Unknown` also after the connection to the voter broke.
        outcome: Outcome,
    },
    /// From the daemon.
    Command(Command),
}

/// The ledger as this node sees it; see [`anshin_base::local::FromVoter::View`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerView {
    /// Epoch of the ledger.
    pub epoch: anshin_base::LedgerEpoch,
    /// Index at which the entry last changed.
    pub index: LedgerIndex,
    /// The entry, None before the group was created.
    pub entry: Option<GroupEntry>,
    /// Every configured replica.
    pub places: Vec<ReplicaPlace>,
    /// Highest progress number seen by any party, per replica (R7).
    pub highest: Vec<(ReplicaId, u64)>,
    /// Whether the ledger has a leader as far as this node knows.
    pub quorate: bool,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Read from the replica's disk.
    DiskRead {
        /// Name for the completion.
        token: Token,
        /// Which area.
        region: Region,
        /// First byte.
        offset: u64,
        /// How many.
        length: u32,
    },
    /// Write to the replica's disk. Completion means accepted, not durable.
    DiskWrite {
        /// Name for the completion.
        token: Token,
        /// Which area.
        region: Region,
        /// First byte.
        offset: u64,
        /// Content.
        data: Bytes,
    },
    /// Zero a range of the data area, making holes if allowed.
    DiskZero {
        /// Name for the completion.
        token: Token,
        /// First byte.
        offset: u64,
        /// How many.
        length: u64,
        /// Whether holes may be made.
        unmap: bool,
    },
    /// Make every completed write of the area durable. A failed flush poisons the replica.
    DiskFlush {
        /// Name for the completion.
        token: Token,
        /// Which area.
        region: Region,
    },
    /// Send to another replica. Messages of one link arrive in order or not at all.
    Send {
        /// Over which link.
        link: LinkId,
        /// What to say.
        message: Message,
    },
    /// Close a link: the peer broke the protocol, or this session is over.
    Close {
        /// Which link.
        link: LinkId,
        /// For the log.
        why: String,
    },
    /// Ask the ledger for a change. Answered by [`Input::Proposed`].
    Propose {
        /// Number for the answer.
        request: u64,
        /// The change.
        change: GroupChange,
    },
    /// Answer a front request; reads carry the content.
    FrontDone {
        /// Which request.
        id: RequestId,
        /// How it ended.
        result: Result<Bytes, FrontError>,
    },
    /// Tell the voter what this replica now is (R7); repeat it after every reconnect to the voter.
    Report(ReplicaReport),
    /// Write the lease record for the guard.
    Lease(LeaseRecord),
    /// Hand in [`Input::Tick`] no later than this. The newest replaces earlier ones.
    WakeAt(Mono),
    /// For the owner, the log and the status.
    Event(Event),
}

/// What the owner must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Promoted and reconciled: make the device and take requests.
    Serve {
        /// In which generation.
        generation: Generation,
    },
    /// Requests are held, for this reason; the device stays.
    Suspended {
        /// Why, and what ends it.
        why: String,
    },
    /// Requests flow again.
    Resumed,
    /// A newer generation has another primary. The lease is over. Kill the programs, then [`Command::FailSuspended`],
    /// unmount, destroy the device, then [`Command::DeviceGone`].
    Deposed {
        /// The generation that replaced ours.
        generation: Generation,
    },
    /// The planned hand-over is recorded; destroy the device if it still stands.
    Demoted,
    /// See [`Command::Quiesce`].
    Quiesced,
    /// A resync into `target` ended. Byte counts as the operator sees them.
    ResyncDone {
        /// The replica that was brought up to date.
        target: ReplicaId,
        /// Bytes whose content was compared by checksum.
        compared: u64,
        /// Bytes that were sent.
        sent: u64,
    },
    /// This replica, or a peer, presented less progress than was seen before: a restored old image (R7).
    OldImage {
        /// Which replica.
        replica: ReplicaId,
        /// What it presents.
        presented: u64,
        /// What was seen.
        seen: u64,
    },
    /// The replica can no longer be used until it is restarted or replaced.
    Failed {
        /// What happened.
        why: String,
    },
    /// Worth a line in the log.
    Note(String),
}

/// How a replica is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Size of the data area in bytes, a multiple of 4,096.
    pub volume_bytes: u64,
    /// The session of this start: random, not 0 (R4).
    pub session: SessionId,
    /// A silent peer is proposed for removal after this.
    pub peer_silent: anshin_base::Millis,
    /// How long a grant lasts from the sending of its request (R11).
    pub lease: anshin_base::Millis,
    /// By how much the grantor waits longer, in thousandths of the lease.
    pub drift_permille: u32,
    /// How often a request for a lease (which is also the sign of life) is sent.
    pub heartbeat: anshin_base::Millis,
    /// Hot extents of the activity log, at least 7.
    pub hot_extents: u32,
}
