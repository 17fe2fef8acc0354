//! The clock that links are timed by.

use anshin_base::Mono;
use rustix::time::{ClockId, clock_gettime};

/// Now on CLOCK_BOOTTIME, which keeps counting while the machine sleeps.
#[must_use]
pub fn now() -> Mono {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    Mono(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
}
