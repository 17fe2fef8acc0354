//! The holds on disk (in memory, as the run directory is): what a restarted guard takes over.

use super::protocol::Hold;
use std::{fs, io, path::Path, path::PathBuf};

/// The file of holds.
#[derive(Debug)]
pub(super) struct Holds(PathBuf);

impl Holds {
    pub(super) fn new(run_dir: &Path) -> Self {
        Self(run_dir.join("guard-holds.json"))
    }

    /// # Errors
    /// If the file is there and cannot be read: starting without it would leave addresses behind for good.
    pub(super) fn load(&self) -> io::Result<Vec<Hold>> {
        match fs::read(&self.0) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    pub(super) fn save(&self, holds: &[Hold]) -> io::Result<()> {
        let fresh = self.0.with_extension("new");
        fs::write(&fresh, serde_json::to_vec(holds)?)?;
        fs::rename(&fresh, &self.0)
    }
}
