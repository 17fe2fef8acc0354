//! The directory into which a service is restored first.

use super::restore_job::ServiceRestore;
use anshin_base::Problem;
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

/// In such a directory while what is in it is not whole.
pub(super) const UNFINISHED: &str = ".anshin-unfinished";

/// What is renamed when the program starts must be on the service's volume: nothing else goes where the service goes.
pub(super) fn on_volume(service: Option<&ServiceRestore>, parent: &Path) -> Result<(), Problem> {
    let Some(at) = service.and_then(|service| service.at_start.as_ref()) else { return Ok(()) };
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
    if parent.starts_with(&at.mount) && device(parent).is_some() && device(parent) == device(&at.mount) {
        return Ok(());
    }
    let message = format!("{} is not on the service's volume at {}", parent.display(), at.mount.display());
    Err(Problem::refused("restore-place", message)
        .hint("restore into a directory (--to), stop the service, and put the data in place by hand"))
}

/// Removes what restores that were broken off have left beside the data.
pub(super) fn sweep(parent: &Path, start: &str) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(start);
        if ours && entry.path().join(UNFINISHED).exists() {
            tracing::info!(path = %entry.path().display(), "left by a restore that was broken off; removed");
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The program of a service runs as a user of its own, who must be able to reach what is restored for it.
pub(super) fn passable(path: &Path) -> Result<(), Problem> {
    for above in path.ancestors().skip(1) {
        let mode = fs::metadata(above).map(|found| found.permissions().mode()).unwrap_or(0o777);
        if mode & 0o001 == 0 {
            let message =
                format!("{} can be passed by few users only (mode {:o})", above.display(), mode & 0o7777);
            return Err(Problem::new("restore-target", message).hint(
                "the service's own user must reach what is restored: choose a directory such as /var/tmp/NAME",
            ));
        }
    }
    Ok(())
}
