//! CLOCK_BOOTTIME: monotonic, and it goes on counting while the machine sleeps, so a lease ends during a suspend too (R11).

use crate::ring::Fd;
use anshin_base::Mono;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use std::{io, rc::Rc};

/// Now.
#[must_use]
pub fn now() -> Mono {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Mono(seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// A timer on CLOCK_BOOTTIME that becomes readable when it is due.
pub struct Timer {
    fd: Fd,
    armed: Option<Mono>,
}

impl Timer {
    /// A timer that is not armed.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn new() -> io::Result<Self> {
        let fd = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC)?;
        Ok(Self { fd: Rc::new(fd), armed: None })
    }

    /// The descriptor to read 8 bytes from.
    #[must_use]
    pub fn fd(&self) -> Fd {
        self.fd.clone()
    }

    /// Makes it due no later than `at`.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn arm(&mut self, at: Mono) -> io::Result<()> {
        if self.armed.is_some_and(|armed| armed <= at) {
            return Ok(());
        }
        // 0 would disarm it.
        let nanos = at.0.max(1);
        let value = Timespec {
            tv_sec: i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(nanos % 1_000_000_000).unwrap_or(0),
        };
        let spec = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(&self.fd, TimerfdTimerFlags::ABSTIME, &spec)?;
        self.armed = Some(at);
        Ok(())
    }

    /// It has fired; the next [`Self::arm`] sets it anew.
    pub fn fired(&mut self) {
        self.armed = None;
    }
}
