//! Services: what must keep running.

use anshin_base::{Millis, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What starts, stops and monitors a resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResourceKind {
    /// A stock OCF agent.
    Ocf {
        /// `heartbeat`, …
        provider: String,
        /// `Filesystem`, `pgsql`, …
        agent: String,
    },
    /// A systemd unit.
    Systemd {
        /// `postgresql@15-main.service`
        unit: String,
    },
    /// A program and its arguments.
    Command {
        /// Run to start; stays in the foreground.
        start: Vec<String>,
        /// Run to stop; empty: the program is sent SIGTERM.
        stop: Vec<String>,
        /// Run to monitor; empty: alive is well.
        monitor: Vec<String>,
    },
    /// Part of anshin: `address`, `volume`, `mount`, `sample`.
    BuiltIn {
        /// Which part.
        what: String,
    },
}

/// How one operation of a resource is run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// `start`, `stop`, `monitor`, …
    pub name: String,
    /// Killed and failed after this.
    pub timeout: Millis,
    /// Repeated this often; 0: only when asked.
    pub interval: Millis,
}

/// One thing a node starts, stops and monitors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    /// Unique within the service.
    pub name: String,
    /// What runs it.
    pub kind: ResourceKind,
    /// Parameters of the agent.
    pub parameters: BTreeMap<String, String>,
    /// Timeouts and intervals that differ from the defaults.
    pub operations: Vec<Operation>,
}

/// What the operator wants of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceTarget {
    /// It runs somewhere.
    #[default]
    Started,
    /// It runs nowhere.
    Stopped,
    /// It is left as it is.
    Unmanaged,
}

/// An ordered set of resources on top of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Unique.
    pub name: String,
    /// The volume it stands on.
    pub volume: Option<String>,
    /// Where the volume is mounted for it.
    pub mount: Option<String>,
    /// `10.0.0.50/24`, …: held where the service runs.
    pub addresses: Vec<String>,
    /// Started in this order after volume, mount and addresses; stopped in reverse.
    pub resources: Vec<Resource>,
    /// What the operator wants.
    pub target: ServiceTarget,
    /// Where it runs if all else is equal.
    pub preferred: Option<NodeId>,
    /// Failures on one node before it moves away; 0: never.
    pub failures_max: u32,
    /// After this long without a failure the count starts again.
    pub failures_expire: Millis,
    /// How strongly it stays where it is.
    pub stickiness: i64,
}
