//! The wish to stop, with its reason.

use anshin_base::Problem;
use anshin_capture::Monitor;
use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Shared by everything that works on one job. The first reason counts.
pub struct Stop {
    monitor: Arc<Monitor>,
    reason: Mutex<Option<Problem>>,
    asked: Condvar,
}

impl Stop {
    /// Not asked yet; `monitor` is cancelled when it is.
    #[must_use]
    pub fn new(monitor: Arc<Monitor>) -> Arc<Self> {
        Arc::new(Self { monitor, reason: Mutex::default(), asked: Condvar::new() })
    }

    /// What is counted, and cancelled.
    #[must_use]
    pub fn monitor(&self) -> &Arc<Monitor> {
        &self.monitor
    }

    fn lock(&self) -> MutexGuard<'_, Option<Problem>> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks everything to stop.
    pub fn ask(&self, reason: Problem) {
        self.lock().get_or_insert(reason);
        self.monitor.cancel();
        self.asked.notify_all();
    }

    /// Why it was asked, if it was.
    #[must_use]
    pub fn reason(&self) -> Option<Problem> {
        self.lock().clone()
    }

    /// Whether to go on.
    ///
    /// # Errors
    /// The reason to stop.
    pub fn check(&self) -> Result<(), Problem> {
        self.reason().map_or(Ok(()), Err)
    }

    /// Waits; true if it was asked to stop meanwhile, or before.
    #[must_use]
    pub fn sleep(&self, time: Duration) -> bool {
        let waited = self.asked.wait_timeout_while(self.lock(), time, |reason| reason.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.is_some()
    }
}
