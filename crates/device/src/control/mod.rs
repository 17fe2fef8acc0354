//! The volume process's control socket, for the daemon of its node: one JSON value per line in each direction.
//!
//! Each [`Request`] is answered by one [`Reply`]; after [`Request::Subscribe`] the connection carries nothing but
//! [`Reply::Event`] lines, of which the first tells the present state, so a daemon that was restarted misses nothing.

mod client;
mod server;

pub use client::{Client, SILENT};
pub use server::{Asked, Server, Tag};

use crate::peer::LinkStatus;
use anshin_base::{Problem, ReplicaId};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What the daemon wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// How the volume is. Answered by [`Reply::Status`].
    Status,
    /// Planned hand-over: destroys the device (refused while it is used), flushes, gives up the role in the ledger. Answered
    /// when that is recorded.
    Demote,
    /// The programs of a deposed primary are killed: answer what is suspended with errors.
    FailSuspended,
    /// Nothing uses the device any more: destroy it, and let a deposed primary become a secondary. Answered when it is
    /// gone; refused while it is used. May be repeated.
    Teardown,
    /// Hold new writes and flush, so that the copies can be compared. Answered when done.
    Quiesce,
    /// End of quiescence.
    Resume,
    /// Everything that happens from now on.
    Subscribe,
    /// Destroys the device (refused while it is used) and ends the process.
    Stop,
    /// Opens a point: the volume as it is now, readable while writes go on. Answered by [`Reply::Point`] when it can be read.
    /// It is closed with the connection, or when the replica is primary no more.
    PointOpen {
        /// Bound of the side file that keeps what is overwritten meanwhile.
        limit_bytes: u64,
        /// Whether to hold the mounted file system still for the instant, so that the point needs no repair.
        freeze: bool,
    },
    /// How a point is. Answered by [`Reply::Point`], or by why there is none any more.
    PointStatus {
        /// Its number.
        point: u64,
    },
    /// Closes a point.
    PointClose {
        /// Its number.
        point: u64,
    },
}

/// One line of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// It is done.
    Done,
    /// It cannot be done.
    Problem {
        /// Why.
        problem: Problem,
    },
    /// How the volume is.
    Status {
        /// In full.
        status: Box<VolumeStatus>,
    },
    /// A point.
    Point {
        /// In full.
        point: Box<PointStatus>,
    },
    /// Something happened.
    Event {
        /// What.
        event: VolumeEvent,
    },
}

/// What the daemon must know of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum VolumeEvent {
    /// First event of a subscription: how things are.
    State {
        /// In full.
        status: Box<VolumeStatus>,
    },
    /// Promoted and reconciled; the device is being made.
    Serve {
        /// In which generation.
        generation: u64,
    },
    /// The device is there and answers.
    DevicePresent {
        /// Its path, `/dev/anshin/NAME`.
        path: String,
    },
    /// The device could not be made.
    DeviceFailed {
        /// Why.
        problem: Problem,
    },
    /// The device is destroyed.
    DeviceGone,
    /// Requests are held.
    Suspended {
        /// Why, and what ends it.
        why: String,
    },
    /// Requests flow again.
    Resumed,
    /// Another primary is recorded: kill the programs, then `fail-suspended`, unmount, `teardown`.
    Deposed {
        /// The generation that replaced ours.
        generation: u64,
    },
    /// The planned hand-over is recorded.
    Demoted,
    /// Writes are held and everything is durable everywhere.
    Quiesced,
    /// A resync of another replica ended.
    ResyncDone {
        /// Which.
        target: ReplicaId,
        /// Bytes compared by checksum.
        compared: u64,
        /// Bytes sent.
        sent: u64,
    },
    /// A replica presented less progress than was seen (R7).
    OldImage {
        /// Which.
        replica: ReplicaId,
        /// What it presents.
        presented: u64,
        /// What was seen.
        seen: u64,
    },
    /// The replica cannot be used until it is restarted or replaced.
    Failed {
        /// What happened.
        why: String,
    },
    /// For the log.
    Note {
        /// What happened.
        text: String,
    },
}

/// Where the block device is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum DeviceState {
    /// There is none; so it is on every secondary.
    Absent,
    /// It is being made.
    SettingUp,
    /// It is there.
    Present {
        /// What users open, `/dev/anshin/NAME`.
        path: String,
        /// What that leads to, `/dev/loopN`.
        node: String,
    },
    /// It is being destroyed.
    TearingDown,
    /// It could not be made.
    Failed {
        /// Why.
        problem: Problem,
    },
}

/// A point of the volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointStatus {
    /// Its number, for as long as this process runs.
    pub point: u64,
    /// Size of the volume.
    pub bytes: u64,
    /// NBD socket that serves it, read-only.
    pub nbd: PathBuf,
    /// Its block device, read-only; None if this process makes none.
    pub device: Option<PathBuf>,
    /// How long the file system was held still; None: it is as after a power failure.
    pub frozen_ms: Option<u64>,
    /// Bound of the side file.
    pub limit_bytes: u64,
    /// How much of it is used.
    pub copied_bytes: u64,
    /// Why it cannot be read any more.
    pub broken: Option<String>,
}

/// Times of answered requests of one kind since the start, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// How many.
    pub count: u64,
    /// Half were at most this (rounded up to a power of two).
    pub p50_us: u64,
    /// 99 of 100 were at most this (rounded up to a power of two).
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
}

/// What resyncs from here into one replica took, since this process started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resynced {
    /// Into which replica.
    pub target: ReplicaId,
    /// How many ended.
    pub count: u64,
    /// Bytes compared by all of them.
    pub compared_bytes: u64,
    /// Bytes sent by all of them.
    pub sent_bytes: u64,
    /// Bytes compared by the last one.
    pub last_compared_bytes: u64,
    /// Bytes sent by the last one.
    pub last_sent_bytes: u64,
}

impl Resynced {
    /// No resync into `target` yet.
    #[must_use]
    pub fn none(target: ReplicaId) -> Self {
        Self {
            target,
            count: 0,
            compared_bytes: 0,
            sent_bytes: 0,
            last_compared_bytes: 0,
            last_sent_bytes: 0,
        }
    }

    /// One more has ended.
    pub fn add(&mut self, compared: u64, sent: u64) {
        self.count += 1;
        self.compared_bytes = self.compared_bytes.saturating_add(compared);
        self.sent_bytes = self.sent_bytes.saturating_add(sent);
        (self.last_compared_bytes, self.last_sent_bytes) = (compared, sent);
    }
}

/// Everything about the volume on this node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// The volume's name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Process id.
    pub pid: u32,
    /// The replica; None while its metadata is being read.
    pub replica: Option<anshin_mirror::Status>,
    /// The block device.
    pub device: DeviceState,
    /// The fronts that are up and who uses them.
    pub fronts: Vec<String>,
    /// Path of the NBD socket while it is open.
    pub nbd: Option<String>,
    /// Whether the backing files bypass the page cache.
    pub direct_io: bool,
    /// Whether the voter can be reached.
    pub voter_connected: bool,
    /// Data links.
    pub links: Vec<LinkStatus>,
    /// What resyncs from here took, by target.
    #[serde(default)]
    pub resynced: Vec<Resynced>,
    /// For how long the oldest request of a user has waited for its answer, in milliseconds.
    #[serde(default)]
    pub waiting_ms: u64,
    /// Open points.
    #[serde(default)]
    pub points: Vec<PointStatus>,
    /// Reads.
    pub reads: Latency,
    /// Writes, trims and zeroings.
    pub writes: Latency,
    /// Flushes.
    pub flushes: Latency,
}
