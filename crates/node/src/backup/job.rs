//! What the daemon and the process of one attempt say to each other.
//!
//! The daemon starts `anshin run backup` with one [`BackupJob`] as a line of JSON on its standard input, which it then leaves
//! open: when it closes, the daemon is gone. The process writes [`AttemptState`](anshin_director::run::AttemptState) values to
//! its standard output, one line of JSON each: `working` at least every two seconds, and last one of `sealed` and `failed`.
//! SIGTERM asks it to stop; it gives back what it holds (a point, a frozen file system) and ends. What is for humans goes to
//! standard error.

use anshin_base::NodeId;
use anshin_director::{VaultName, run::Work};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

/// One attempt, with what the executing machine needs to find its source and its vault.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackupJob {
    /// What to do, as the director ordered it.
    pub work: Work,
    /// Where the vault is.
    pub vault: VaultAccess,
    /// What is read.
    pub subject: Subject,
}

/// How a vault is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultAccess {
    /// Its name in the ledger.
    pub name: VaultName,
    /// The node that serves it; its certificate must name this node.
    pub server: NodeId,
    /// Where that node's vault process listens, most preferred first.
    pub addresses: Vec<SocketAddr>,
}

/// What is read, as this machine has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Subject {
    /// A volume that this node is primary of.
    Volume(VolumeSubject),
    /// A service that runs on this node.
    Service {
        /// Its name.
        service: String,
        /// The volume it stands on; None: only its plugin knows where its data is.
        volume: Option<VolumeSubject>,
        /// The plugin that knows its program; None: the volume is frozen for an instant.
        plugin: Option<PluginSubject>,
    },
    /// Files, an image or a stream of this machine: everything needed stands in the source.
    Machine,
}

/// A volume as its primary has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSubject {
    /// Its name.
    pub volume: String,
    /// Control socket of its process.
    pub control: PathBuf,
    /// Its device.
    pub device: PathBuf,
    /// Where its file system is mounted; None: a bare device.
    pub mount: Option<PathBuf>,
    /// Type of its file system.
    pub filesystem: Option<String>,
}

/// How a plugin is called for a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginSubject {
    /// Name of the plugin: `postgresql`.
    pub plugin: String,
    /// What the service's definition says of its program: unit, agent, parameters, address. The plugin knows the keys.
    pub facts: BTreeMap<String, String>,
}
