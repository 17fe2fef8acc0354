//! What the daemon and the process of one restore say to each other: one [`RestoreJob`] as a line of JSON on standard input,
//! which stays open; [`RestoreState`] lines on standard output, the last one `done` or `failed`.

use super::job::{PluginSubject, VaultAccess};
use anshin_base::Problem;
use anshin_director::SnapshotId;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One restore.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RestoreJob {
    /// Where the vault is.
    pub vault: VaultAccess,
    /// Which snapshot.
    pub snapshot: SnapshotId,
    /// What of it.
    #[serde(default)]
    pub part: Part,
    /// Where to.
    pub to: Destination,
    /// What becomes of files that are in the way.
    #[serde(default)]
    pub conflict: Conflict,
    /// Whether what was restored is compared with the snapshot afterwards.
    #[serde(default)]
    pub verify: bool,
    /// For a snapshot that a plugin made: what it is to do with it. None: its files are restored as they are.
    #[serde(default)]
    pub service: Option<ServiceRestore>,
}

/// A part of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The directory whose contents, or the file which, is wanted; path in the snapshot. Empty: everything.
    #[serde(default)]
    pub beneath: String,
    /// Only what matches one of these globs.
    #[serde(default)]
    pub only: Vec<String>,
}

/// Where something is restored to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "to", rename_all = "kebab-case")]
pub enum Destination {
    /// Into a directory, which is made if need be.
    Directory {
        /// Absolute path. For a service whose program does not run as root: reachable for its user.
        path: PathBuf,
    },
    /// Where it was backed up from.
    InPlace,
    /// Over a block device or image file.
    Device {
        /// Absolute path.
        path: PathBuf,
    },
}

/// See [`anshin_capture::restore::Conflict`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Conflict {
    /// Nothing is restored if anything is in the way.
    #[default]
    Refuse,
    /// It stays.
    Skip,
    /// It is brought to what the snapshot has, unless size and time are equal.
    IfDifferent,
    /// It is brought to what the snapshot has.
    Overwrite,
    /// It stays if it is newer.
    KeepNewer,
}

/// What a plugin does with its snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRestore {
    /// The service.
    pub service: String,
    /// The plugin, with what is known of the service's program here.
    pub plugin: PluginSubject,
    /// The instant to come to (RFC 3339); None: the latest that the log knows.
    #[serde(default)]
    pub time: Option<String>,
    /// Whether the log is used at all; false: the instant of the snapshot.
    #[serde(default = "yes")]
    pub log: bool,
    /// Whether the plugin starts it, seen by nobody, and looks whether it is good.
    #[serde(default)]
    pub check: bool,
    /// In place of a program that runs: what is ready is put there when it is started next. None: at once.
    #[serde(default)]
    pub at_start: Option<AtStart>,
}

/// Who puts restored data in place, and what else goes with the data that was there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AtStart {
    /// Where the service's volume is mounted; the data must be on it.
    pub mount: PathBuf,
    /// The part of the service before whose start it happens: `db.postgresql`.
    pub resource: String,
    /// Directories on the volume that belong to the earlier life of the data, such as the spool of its log.
    #[serde(default)]
    pub aside: Vec<PathBuf>,
}

fn yes() -> bool {
    true
}

/// How a restore goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestoreState {
    /// Under way; at least every two seconds.
    Working {
        /// Files and directories done.
        files: u64,
        /// Bytes done, also those that were there already.
        bytes: u64,
        /// What is being done, for humans.
        doing: String,
    },
    /// The end.
    Done(RestoreDone),
    /// The end, without success.
    Failed {
        /// Why.
        problem: Problem,
    },
}

/// What a restore did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreDone {
    /// Files, directories and others.
    pub files: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Bytes that were there already.
    pub bytes_equal: u64,
    /// What a human should look at: files that were not or not wholly restored, and the plugin's warnings.
    pub warnings: Vec<String>,
    /// Whether everything is as in the snapshot; None: not compared.
    pub verified: Option<bool>,
    /// Pieces of the log that were fetched.
    pub log_pieces: u64,
    /// The instant that a service came to, in its plugin's words.
    pub reached: Option<String>,
    /// What its plugin found when it started it.
    pub checked: Option<String>,
    /// Where what was restored now lies.
    pub place: Option<PathBuf>,
    /// Where what was there before now lies; nothing is thrown away.
    pub before: Option<PathBuf>,
}
