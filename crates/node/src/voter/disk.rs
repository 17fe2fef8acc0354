//! The thread that writes the log.

use anshin_base::Problem;
use anshin_ledger::{log::DiskBatch, store::FileStore};
use std::sync::mpsc;
use tokio::sync::mpsc as async_mpsc;

/// A batch that was carried out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    pub(super) batch: u64,
    pub(super) durable: bool,
}

/// The way to the thread. Dropping it ends the thread after what it was given.
#[derive(Debug)]
pub(super) struct Disk {
    // The engine has one batch open at a time, so neither queue grows.
    batches: mpsc::Sender<DiskBatch>,
    written: async_mpsc::UnboundedReceiver<Written>,
}

impl Disk {
    pub(super) fn start(store: FileStore) -> Result<Self, Problem> {
        let (batches, work) = mpsc::channel::<DiskBatch>();
        let (tell, written) = async_mpsc::unbounded_channel();
        let write = move || {
            for batch in work {
                let result = store.run(&batch.ops);
                if let Err(error) = &result {
                    tracing::error!(%error, "the ledger's log cannot be written");
                }
                if tell.send(Written { batch: batch.batch, durable: result.is_ok() }).is_err()
                    || result.is_err()
                {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("ledger-disk".to_owned())
            .stack_size(256 << 10)
            .spawn(write)
            .map_err(|error| {
                Problem::new("voter-start", format!("cannot start the log's thread: {error}"))
            })?;
        Ok(Self { batches, written })
    }

    /// Hands over a batch.
    pub(super) fn write(&self, batch: DiskBatch) {
        // A thread that has ended has told of its failure.
        let _ = self.batches.send(batch);
    }

    /// The next batch that was carried out; a failure if the thread is gone.
    pub(super) async fn written(&mut self) -> Option<Written> {
        self.written.recv().await
    }
}
