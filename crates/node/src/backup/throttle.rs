//! A limit of what is sent to the vault per second.

use anshin_vault::{ChunkId, Kind, Session, Sink, VaultError};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Longest pause at once: whoever wants to stop is not kept waiting.
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// A session that sends no more than so many bytes a second, counted from its beginning.
pub struct Throttled {
    session: Arc<Session>,
    bytes_per_second: u64,
    since: Instant,
}

impl Throttled {
    /// 0: no limit.
    pub fn new(session: Arc<Session>, bytes_per_second: u64) -> Self {
        Self { session, bytes_per_second, since: Instant::now() }
    }

    fn wait(&self) {
        if self.bytes_per_second == 0 {
            return;
        }
        let sent = self.session.stats().sent_bytes;
        let due = Duration::from_secs_f64(sent as f64 / self.bytes_per_second as f64);
        std::thread::sleep(due.saturating_sub(self.since.elapsed()).min(PAUSE_MAX));
    }
}

impl Sink for Throttled {
    fn put(&self, kind: Kind, refs: &[ChunkId], plain: &[u8]) -> Result<ChunkId, VaultError> {
        self.wait();
        self.session.put(kind, refs, plain)
    }

    fn has(&self, id: &ChunkId) -> Result<bool, VaultError> {
        self.session.has(id)
    }

    fn has_many(&self, ids: &[ChunkId]) -> Result<Vec<bool>, VaultError> {
        self.session.has_many(ids)
    }
}
