//! Volumes and their copies, as the public API shows them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One replicated volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeView {
    /// Its name.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// Where its file system is mounted on the primary, if it has one.
    pub mount: Option<String>,
    /// The generation in the ledger.
    pub generation: u64,
    /// The node of the primary, if there is one.
    pub primary: Option<String>,
    /// The nodes of the in-sync set as the ledger has it.
    pub in_sync: Vec<String>,
    /// The block device, on the node that answers, while that is primary.
    pub device: Option<String>,
    /// Every copy.
    pub replicas: Vec<ReplicaView>,
    /// Why writes wait, if they do.
    pub suspended: Option<String>,
}

/// What a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReplicaState {
    /// Serves the volume.
    Primary,
    /// Holds every acknowledged write.
    InSync,
    /// Is being brought up to date.
    Resyncing,
    /// Lacks writes, and nobody is sending them.
    Behind,
    /// Nobody knows.
    Unknown,
    /// Its disk was replaced by an older copy of itself: never promoted.
    OldImage,
    /// Its disk or metadata cannot be used.
    Failed,
}

/// One copy of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReplicaView {
    /// The node that holds it.
    pub node: String,
    /// What it is.
    pub state: ReplicaState,
    /// What it lacks at most: 0 for a copy in sync, None if not known.
    pub behind_bytes: Option<u64>,
    /// How far its resync is, while one runs.
    pub resync: Option<Resync>,
    /// How long ago its volume process was heard from; None for never.
    pub last_heard_ms: Option<u64>,
    /// What bringing it in sync took, as its primary counts since the volume's process there was started; None while
    /// it never was.
    #[serde(default)]
    pub resynced: Option<Resynced>,
}

/// What resyncs into one copy took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Resynced {
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

/// How far a resync is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Resync {
    /// Compared or sent so far.
    pub done_bytes: u64,
    /// To compare or send in all.
    pub total_bytes: u64,
    /// Pace over the last seconds.
    pub bytes_per_s: u64,
    /// At that pace; None while there is none.
    pub seconds_left: Option<u64>,
}
