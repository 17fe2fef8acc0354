//! Restores of services, as the API shows them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Brings a service back, on the node that is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreStart {
    /// The service.
    pub service: String,
    /// To this instant (RFC 3339); None: the latest that the archived log knows.
    #[serde(default)]
    pub at: Option<String>,
    /// From this snapshot, by the first digits of its id; None: the newest before the instant.
    #[serde(default)]
    pub snapshot: Option<String>,
    /// Into this directory, which is made and must be empty; absolute path. None: in place.
    #[serde(default)]
    pub to: Option<String>,
    /// That the service's data may be replaced in place. What was there is kept beside it.
    #[serde(default)]
    pub confirmed: bool,
}

/// How a restore stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RestoreStand {
    /// Under way.
    #[default]
    Working,
    /// It ended well.
    Done,
    /// It ended otherwise.
    Failed,
}

/// A restore of a service on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RestoreView {
    /// Its number on this node, for as long as its daemon runs.
    pub id: u64,
    /// The service.
    pub service: String,
    /// The wanted instant, RFC 3339 in UTC; None: the latest.
    pub at: Option<String>,
    /// From which snapshot.
    pub snapshot: String,
    /// When that was begun, RFC 3339.
    pub point: String,
    /// In which vault it is.
    pub vault: String,
    /// Into which directory; None: in place.
    pub to: Option<String>,
    /// When it was asked for, RFC 3339.
    pub begun: String,
    /// Where it stands.
    pub stand: RestoreStand,
    /// What is being done, for people.
    pub doing: String,
    /// Files and directories done.
    pub files: u64,
    /// Bytes done.
    pub bytes: u64,
    /// How long it took, or has taken, in milliseconds.
    pub took_ms: u64,
    /// In place: for how long the service's program did not run, in milliseconds.
    pub pause_ms: Option<u64>,
    /// Pieces of the log that were fetched.
    pub log_pieces: u64,
    /// The last change that the service came to, in its plugin's words.
    pub reached: Option<String>,
    /// What its plugin found when it started it, seen by nobody.
    pub checked: Option<String>,
    /// Where what was restored lies.
    pub place: Option<String>,
    /// In place: where what was there before lies.
    pub before: Option<String>,
    /// What a person should look at.
    pub warnings: Vec<String>,
    /// In place: the run of a new base that was opened afterwards.
    pub run: Option<u64>,
    /// Why it failed.
    pub problem: Option<String>,
    /// What can be done about that.
    pub hint: Option<String>,
}
