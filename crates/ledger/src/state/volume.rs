//! Volumes and where their replicas live.

use anshin_base::{ByteSize, GroupId, NodeId, ReplicaId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One node's copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// Known once the node has made it; an emptied disk is a new replica (R7).
    pub replica: Option<ReplicaId>,
    /// TCP port of the volume process's data link.
    pub port: u16,
    /// Directory of the backing files.
    pub path: String,
}

/// A replicated block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Unique; `/dev/anshin/NAME`.
    pub name: String,
    /// The replication group it belongs to.
    pub group: GroupId,
    /// Size of the device.
    pub size: ByteSize,
    /// `ext4`, `xfs`, …; None for a raw device.
    pub file_system: Option<String>,
    /// Where it is mounted while active.
    pub mount: Option<String>,
    /// Its copies.
    pub replicas: BTreeMap<NodeId, Replica>,
}
