//! Vaults as a node uses and serves them: which there are, who holds the keys, who may do what.
//!
//! ```text
//!  settings, keyring ── access ──┬── Vault (the store is here)
//!  0600 files of this machine    └── link ── vault process ── Vault (the store is elsewhere)
//! ```
//! Data is encrypted before it leaves the machine that owns it, so the two sides need different secrets: who reads and writes
//! data needs the key domain's key, who serves needs the storage's credentials. Neither needs the other's.

pub mod access;
pub mod administer;
pub mod admission;
pub mod client;
pub mod control;
pub mod describe;
pub mod door;
pub mod keyring;
pub mod link;
pub mod make;
pub mod members;
pub mod open;
pub mod process;
pub mod register;
pub mod settings;
pub mod tending;

#[cfg(test)]
mod hostile;

pub use access::{Access, Chosen};
pub use administer::{Answer, Task};
pub use describe::Description;
pub use keyring::Keyring;
pub use settings::VaultSettings;

use anshin_base::Problem;
use std::path::Path;

/// What writes files that only their owner may read, and directories for them.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), Problem> {
    let failed = |error: std::io::Error| {
        Problem::new("private-file", format!("cannot write {}: {error}", path.display()))
            .hint("run the command as the administrator (root)")
    };
    if let Some(parent) = path.parent() {
        make_private(parent).map_err(failed)?;
    }
    anshin_link::files::write(path, content, 0o600).map_err(failed)
}

/// Makes a directory that only its owner may look into, and those above it as usual.
fn make_private(directory: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if let Some(parent) = directory.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Seconds of Unix time.
pub(crate) fn unix_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// This machine's name up to its first dot.
#[must_use]
pub fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    name.split('.').next().unwrap_or_default().to_owned()
}
