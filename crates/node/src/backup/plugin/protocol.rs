//! The words that executor and plugin exchange, version 1.
//!
//! One JSON object per line in each direction; [`Say::File`] with a length and [`Say::Data`] are followed by that many raw
//! bytes. The executor says [`Ask`] once, then answers [`Say::Hold`] and [`Say::Read`] with an [`Answer`]; everything else it
//! takes silently. The last thing that a plugin says is [`Say::Done`] or [`Say::Failed`].

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeMap, path::PathBuf};

/// The version that this build speaks.
pub const VERSION: u32 = 1;
/// No line is longer.
pub const LINE_MAX: usize = 1 << 20;
/// No piece of a stream is longer.
pub const DATA_MAX: u64 = 16 << 20;

/// The first line, to the plugin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ask {
    /// Version of the protocol: 1.
    pub anshin_plugin: u32,
    /// The service; empty for `describe`.
    #[serde(default)]
    pub service: String,
    /// What the site knows of the service's program.
    #[serde(default)]
    pub facts: BTreeMap<String, String>,
    /// What to do.
    #[serde(flatten)]
    pub operation: Operation,
}

/// What a plugin is asked to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "kebab-case")]
pub enum Operation {
    /// Say what it is: [`Say::Describe`], then done.
    Describe,
    /// Back the service up while it runs.
    Backup,
    /// Write the service's log into the directory `spool` until told to end by SIGTERM.
    Archive {
        /// Where complete pieces and the piece being written go. Exists, belongs to root.
        spool: PathBuf,
    },
    /// Nothing archives the log any more, and what waits in `spool` is given up: let go of what keeps it.
    ArchiveEnd {
        /// As for `archive`; may be gone.
        spool: PathBuf,
    },
    /// Make what was restored into `directory` ready to be started there.
    Restore {
        /// What [`Say::About`] said at the backup.
        about: Value,
        /// The contents of the snapshot.
        directory: PathBuf,
        /// Pieces of the log since then, if there are any.
        log: Option<PathBuf>,
        /// The instant to come to (RFC 3339); None: the latest that is known.
        time: Option<String>,
    },
    /// Start what was made ready in `directory`, seen by nobody, look whether it is good, and end it.
    Check {
        /// As for `restore`.
        about: Value,
        /// As for `restore`, which went before.
        directory: PathBuf,
    },
}

/// What a plugin says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub enum Say {
    /// What it is.
    Describe {
        /// Its own version.
        version: String,
        /// Patterns of systemd units and OCF agents that it knows: `postgresql@*.service`, `ocf:heartbeat:pgsql`.
        #[serde(default)]
        programs: Vec<String>,
        /// Whether it knows `archive`, and times at `restore`.
        #[serde(default)]
        archive: bool,
        /// Whether it knows `check`.
        #[serde(default)]
        check: bool,
    },
    /// For the log.
    Note {
        /// Text.
        text: String,
    },
    /// Something that a human should look at; counted in the report.
    Warning {
        /// Text.
        text: String,
    },
    /// An instant: what is read afterwards, unless `live`, is read as it is now. Answered by [`Answer::Held`].
    Hold,
    /// Read a directory or file of this machine into the snapshot. Answered by [`Answer::Read`].
    Read {
        /// Absolute path.
        path: PathBuf,
        /// Where it appears in the snapshot: `data`, `log/1`.
        #[serde(rename = "as")]
        name: String,
        /// Patterns of what is left out, as in `.gitignore`, seen from `path`.
        #[serde(default)]
        exclude: Vec<String>,
        /// As it is now, even if an instant is held.
        #[serde(default)]
        live: bool,
        /// Files may change while they are read: the plugin has seen to it that this does no harm.
        #[serde(default)]
        changing: bool,
    },
    /// A file of the snapshot. With `bytes`, as many raw bytes follow; without, pieces of data do, then `end`.
    File {
        /// Where it appears in the snapshot.
        name: String,
        /// Its permissions.
        #[serde(default = "mode")]
        mode: u16,
        /// Its length.
        #[serde(default)]
        bytes: Option<u64>,
    },
    /// A piece of the file begun last; raw bytes follow.
    Data {
        /// How many.
        bytes: u64,
    },
    /// The end of the file begun last.
    End,
    /// Kept with the snapshot, and given back at `restore` and `check`.
    About {
        /// Anything.
        about: Value,
    },
    /// `archive`: the log is being written from now on.
    Ready,
    /// `archive`, before it is ready: the log does not go on where the spool ends. Answered by [`Answer::Moved`].
    Stale {
        /// Why.
        reason: String,
    },
    /// `check`: what was found, for humans.
    Checked {
        /// Text.
        text: String,
    },
    /// `restore`: where in `directory` what the service uses lies.
    Restored {
        /// Relative to `directory`.
        data: PathBuf,
        /// Where the service has it when it runs, so that it can be put there.
        place: PathBuf,
        /// The instant that was reached, for humans.
        #[serde(default)]
        reached: Option<String>,
    },
    /// The end.
    Done,
    /// The end, without success.
    Failed {
        /// Why.
        reason: String,
        /// What to do about it.
        #[serde(default)]
        hint: Option<String>,
        /// Whether it may go better the next time.
        #[serde(default = "yes")]
        again: bool,
    },
}

/// What the executor answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// To `hold`.
    Held {
        /// Whether an instant is held; false: everything is read live.
        point: bool,
    },
    /// To `read`.
    Read {
        /// Files and directories.
        files: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// To `stale`: everything is in the vault, and the spool is empty.
    Moved,
    /// To each: it cannot be done, and the backup has failed.
    Refused {
        /// Why.
        reason: String,
    },
}

fn mode() -> u16 {
    0o600
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_is_written_like_this() {
        let ask = |operation| {
            let facts = BTreeMap::from([("unit".to_owned(), "postgresql@15-main.service".to_owned())]);
            serde_json::to_string(&Ask { anshin_plugin: 1, service: "db".into(), facts, operation }).unwrap()
        };
        let head = r#"{"anshin_plugin":1,"service":"db","facts":{"unit":"postgresql@15-main.service"},"#;
        assert_eq!(ask(Operation::Backup), format!(r#"{head}"operation":"backup"}}"#));
        let restore = Operation::Restore {
            about: Value::Null,
            directory: "/d".into(),
            log: None,
            time: Some("2026-11-29T18:00:00Z".into()),
        };
        let tail = r#""operation":"restore","about":null,"directory":"/d","log":null,"time":"2026-11-29T18:00:00Z"}"#;
        assert_eq!(ask(restore.clone()), format!("{head}{tail}"));
        assert_eq!(serde_json::from_str::<Ask>(&ask(restore.clone())).unwrap().operation, restore);
        for (text, say) in [
            (r#"{"say":"hold"}"#, Say::Hold),
            (r#"{"say":"file","name":"a"}"#, Say::File { name: "a".into(), mode: 0o600, bytes: None }),
            (
                r#"{"say":"read","path":"/p","as":"data"}"#,
                Say::Read {
                    path: "/p".into(),
                    name: "data".into(),
                    exclude: vec![],
                    live: false,
                    changing: false,
                },
            ),
            (r#"{"say":"failed","reason":"r"}"#, Say::Failed { reason: "r".into(), hint: None, again: true }),
        ] {
            assert_eq!(serde_json::from_str::<Say>(text).unwrap(), say);
        }
        assert_eq!(
            serde_json::to_string(&Answer::Held { point: true }).unwrap(),
            r#"{"answer":"held","point":true}"#
        );
    }
}
