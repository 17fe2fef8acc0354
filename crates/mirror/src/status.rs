//! What the owner shows of a replica.

use anshin_base::{GroupId, Mono, ReplicaId, SessionId};
use serde::{Deserialize, Serialize};

/// What a replica is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoleName {
    /// Reading its metadata.
    Opening,
    /// Not primary.
    Secondary,
    /// Recorded as primary, but not yet serving: waiting out its grant, reconciling.
    Promoting,
    /// Serves, or holds requests; see `suspended`.
    Primary,
    /// Was primary; another one is recorded.
    Deposed,
    /// Unusable until restarted or replaced.
    Failed,
}

/// How another replica stands, as seen from here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Which.
    pub replica: ReplicaId,
    /// Its session, if it is connected.
    pub session: Option<SessionId>,
    /// Whether a link to it stands and both have greeted.
    pub connected: bool,
    /// Whether it is recorded in the in-sync set.
    pub in_sync: bool,
    /// Whether it takes part in the primary's stream (only known on the primary).
    pub attached: bool,
    /// Bytes that it may lack. 0 while it is in the set.
    pub dirty_bytes: u64,
    /// Bytes that the running resync began with, 0 without one.
    pub resync_total_bytes: u64,
    /// Bytes still to be compared by it.
    pub resync_left_bytes: u64,
    /// When something last arrived from it.
    pub last_heard: Option<Mono>,
    /// Highest progress number it confirmed.
    pub progress: u64,
}

/// Counters since the start of the session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Front requests answered, by kind.
    pub reads: u64,
    /// Writes, trims and zeroings.
    pub writes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Bytes read for the front.
    pub read_bytes: u64,
    /// Bytes written for the front.
    pub written_bytes: u64,
    /// Numbered operations applied from a primary.
    pub applied: u64,
    /// Bytes compared by checksum as source of a resync.
    pub resync_compared_bytes: u64,
    /// Bytes sent as source of a resync.
    pub resync_sent_bytes: u64,
    /// Transactions of the activity log.
    pub log_transactions: u64,
    /// Flushes of the data area.
    pub disk_flushes: u64,
}

/// A replica, as `anshin status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The group.
    pub group: GroupId,
    /// This replica.
    pub replica: ReplicaId,
    /// Its present session.
    pub session: SessionId,
    /// What it is.
    pub role: RoleName,
    /// Generation of the newest entry it knows, 0 without one.
    pub generation: u64,
    /// The recorded primary.
    pub primary: Option<ReplicaId>,
    /// The recorded in-sync set.
    pub in_sync: Vec<ReplicaId>,
    /// Every other replica known.
    pub peers: Vec<PeerStatus>,
    /// End of the lease; None if not primary.
    pub lease_until: Option<Mono>,
    /// Why requests are held, or why a promotion does not go on, and what ends it.
    pub suspended: Option<String>,
    /// Why the replica failed.
    pub failed: Option<String>,
    /// Whether the replica may be promoted: neither an old image, nor inconsistent, nor failed.
    pub promotable: bool,
    /// A resync into this replica has not ended.
    pub inconsistent: bool,
    /// Found to be a restored old image (R7).
    pub old_image: bool,
    /// Durable progress number.
    pub progress: u64,
    /// Hot extents of the activity log.
    pub hot_extents: u32,
    /// Numbered writes and flushes not yet confirmed by all.
    pub in_flight: u32,
    /// Counters.
    pub counters: Counters,
}
