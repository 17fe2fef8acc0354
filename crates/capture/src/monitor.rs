//! How far something has come, and the wish to stop it.

use crate::report::{Issue, IssueKind, Issues};
use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// How often the observer is told, at most.
const INTERVAL: Duration = Duration::from_millis(200);

/// What has been done so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Entries of any kind that are done.
    pub entries: u64,
    /// Bytes of contents that are done, read or known to be unchanged.
    pub bytes: u64,
    /// Bytes that were really read (backup) or written (restore).
    pub bytes_moved: u64,
    /// Path that was begun last.
    pub current: Vec<u8>,
}

type Observer = Box<dyn Fn(&Progress) + Send + Sync>;

/// Counts, tells an observer, collects issues, and carries the wish to stop. Shared by whoever watches and the workers.
#[derive(Default)]
pub struct Monitor {
    cancelled: AtomicBool,
    entries: AtomicU64,
    bytes: AtomicU64,
    moved: AtomicU64,
    told: Mutex<Option<(Instant, Observer)>>,
    current: Mutex<Vec<u8>>,
    issues: Mutex<Issues>,
}

impl Monitor {
    /// One that nobody watches.
    pub fn new() -> Self {
        Self::default()
    }

    /// One that calls `observer` from time to time, from any worker.
    pub fn observed(observer: impl Fn(&Progress) + Send + Sync + 'static) -> Self {
        Self { told: Mutex::new(Some((Instant::now(), Box::new(observer)))), ..Self::default() }
    }

    /// Asks to stop soon.
    pub fn cancel(&self) {
        self.cancelled.store(true, Relaxed);
    }

    /// Whether that was asked.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Relaxed)
    }

    /// The state now.
    pub fn progress(&self) -> Progress {
        Progress {
            entries: self.entries.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            bytes_moved: self.moved.load(Relaxed),
            current: self.current.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    pub(crate) fn done(&self, bytes: u64) {
        self.entries.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn moved(&self, bytes: u64) {
        self.moved.fetch_add(bytes, Relaxed);
    }

    /// Tells the observer, if it is time; `path` is only asked for then.
    pub(crate) fn tell(&self, path: impl FnOnce() -> Vec<u8>) {
        let Ok(mut told) = self.told.try_lock() else { return };
        let Some((last, observer)) = told.as_mut() else { return };
        if last.elapsed() < INTERVAL {
            return;
        }
        *last = Instant::now();
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = path();
        observer(&self.progress());
    }

    pub(crate) fn issue(&self, kind: IssueKind, path: Vec<u8>, message: impl Into<String>) {
        let message = message.into();
        tracing::debug!(?kind, path = %path.escape_ascii(), "{message}");
        self.issues.lock().unwrap_or_else(PoisonError::into_inner).add(Issue { kind, path, message });
    }

    /// Everything that was reported; the next call gives only what came later.
    pub(crate) fn take_issues(&self) -> Issues {
        std::mem::take(&mut *self.issues.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
