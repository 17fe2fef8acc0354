//! Executing backups and restores on the machine that holds the data, in processes of their own: one that fails, or that is
//! killed, takes nothing else with it. Whatever such a process holds (a point, a mount, programs it started) ends with it.
//!
//! ```text
//!  daemon ──job, stdin──► executor ── point of a volume ──► device process
//!     ◄──states, stdout──    │  └──── plugin (any language) ──► the service's program
//!                            └─ capture ── Sink ── session ──► the vault's process
//! ```
//! [`job`] and [`restore_job`] are what is said between daemon and executor; docs/formats/executor.md describes it, and
//! docs/formats/plugin.md what is said between executor and plugin.

pub mod about;
mod child;
mod execute;
pub(crate) mod hooks;
pub mod job;
mod log;
pub mod plugin;
mod point;
mod process;
mod reading;
mod restore;
pub mod restore_job;
mod stage;
mod stop;
pub mod swap;
mod throttle;
pub mod vault;

pub use execute::backup;
pub use log::{ArchiveEndJob, ArchiveJob, ArchiveState, Gap, archive, end_archive};
pub use process::{Voice, run_archive, run_archive_end, run_backup, run_restore};
pub use restore::restore;
pub use stop::Stop;

use crate::paths::Paths;
use anshin_base::Problem;
use std::{path::PathBuf, sync::Arc};

/// What an executor works with. Tests have their own.
#[derive(Clone)]
pub struct Tools {
    /// The node's directories.
    pub paths: Paths,
    /// How vaults are opened.
    pub vaults: Arc<dyn vault::OpenVault>,
    /// Where plugins are.
    pub plugins: plugin::Places,
}

impl Tools {
    /// Those of this node, whose program is `executable`.
    #[must_use]
    pub fn of_node(paths: Paths, executable: PathBuf) -> Self {
        let vaults = Arc::new(vault::SiteVaults { paths: paths.clone() });
        Self { paths, vaults, plugins: plugin::Places::usual(executable) }
    }

    /// Where executors keep what the next one can use: files caches. Lost without harm.
    pub(crate) fn state(&self) -> Result<PathBuf, Problem> {
        let path = self.paths.var.join("backup");
        std::fs::create_dir_all(&path).map_err(|error| {
            Problem::new("backup-state", format!("cannot make {}: {error}", path.display()))
        })?;
        Ok(path)
    }
}

/// The time on this machine's clock, in nanoseconds of Unix time.
fn now_nanoseconds() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

/// The name of this machine, for humans who read a snapshot.
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
