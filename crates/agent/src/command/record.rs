//! Which process a command is, written down so that a restarted daemon finds it again.

use crate::procfs::Identity;
use serde::{Deserialize, Serialize};
use std::{fs, io, path::Path};

/// A process of this boot.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pid: i32,
    start: u64,
    /// Numbers and start times say nothing after a reboot.
    boot: String,
}

impl Record {
    pub(crate) fn of(process: Identity) -> Self {
        Self { pid: process.pid, start: process.start, boot: boot() }
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity { pid: self.pid, start: self.start }
    }

    /// The record in `path`, if it is of this boot.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        let record: Self = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        (record.boot == boot()).then_some(record)
    }

    /// Replaces the file at once: a reader sees the old record or the new one.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let fresh = path.with_extension("new");
        fs::write(&fresh, serde_json::to_vec(self)?)?;
        fs::rename(fresh, path)
    }

    pub(crate) fn remove(path: &Path) {
        // Not there is as good as removed; a record that stays is seen through by its start time.
        let _ = fs::remove_file(path);
    }
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}
