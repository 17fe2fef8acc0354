//! A limit of what is sent to the vault per second.

use super::stop::Stop;
use anshin_vault::{ChunkId, Kind, Session, Sink, VaultError};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// A session that sends no more than so many bytes a second, counted from its beginning.
pub struct Throttled {
    session: Arc<Session>,
    bytes_per_second: u64,
    since: Instant,
    stop: Arc<Stop>,
}

impl Throttled {
    /// 0: no limit.
    pub fn new(session: Arc<Session>, bytes_per_second: u64, stop: Arc<Stop>) -> Self {
        Self { session, bytes_per_second, since: Instant::now(), stop }
    }

    fn wait(&self) {
        if self.bytes_per_second == 0 {
            return;
        }
        let sent = self.session.stats().sent_bytes;
        let due = Duration::from_secs_f64(sent as f64 / self.bytes_per_second as f64);
        let _ = self.stop.sleep(due.saturating_sub(self.since.elapsed()));
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
