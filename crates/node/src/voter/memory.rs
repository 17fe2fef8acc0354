//! Keeping the process alive and free of page faults when memory is full (R17). Otherwise a volume waits for the removal
//! of a silent replica, the removal for memory, and memory for the volume.

use rustix::{
    mm::{MlockAllFlags, mlockall},
    process::configure_io_flusher_behavior,
};

/// Must run before any thread is made: threads inherit the flag. What is refused is logged, not fatal: in a container
/// without the capabilities the ledger still works, only without the guarantee.
pub(super) fn protect() {
    if let Err(error) = configure_io_flusher_behavior(true) {
        tracing::warn!(%error, "PR_SET_IO_FLUSHER was refused; a full memory could stop the ledger");
    }
    if let Err(error) = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE) {
        tracing::warn!(%error, "memory cannot be locked; a full memory could stop the ledger");
    }
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-1000") {
        tracing::warn!(%error, "this process is not exempt from the out-of-memory killer");
    }
}
