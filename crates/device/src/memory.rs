//! Keeping the process alive and free of page faults when memory is full (R17).
//!
//! Otherwise reclaim waits for the volume, the volume for the removal of a silent member, and the removal for memory.

use std::io;

/// include/uapi/linux/prctl.h
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// Must run before any thread or ring is made: threads inherit the flag. What is refused is logged, not fatal: in a
/// container without the capabilities the volume still works, only without the guarantee.
pub fn protect() {
    // SAFETY: prctl with integer arguments only.
    let flusher = unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
    note("PR_SET_IO_FLUSHER", flusher);
    // SAFETY: takes flags only.
    let locked = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) };
    note("mlockall", locked);
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-1000") {
        tracing::warn!(%error, "this process is not exempt from the out-of-memory killer");
    }
}

fn note(what: &str, result: libc::c_int) {
    if result != 0 {
        let error = io::Error::last_os_error();
        tracing::warn!(%error, what, "refused; a full memory could stop this volume");
    }
}
