//! The voter process: the mesh to the other nodes, the ledger with its durable log, and the local socket by which volume
//! processes and the daemon reach both. It outlives the daemon: while the daemon restarts, the node still votes,
//! sends signs of life, removes silent replicas and promotes new primaries.
//!
//! One thread drives everything; a second one does nothing but write the log, so that a slow disk delays votes but
//! not signs of life. Memory is locked (R17): a volume may wait for this process while memory is full.

mod beat;
mod bootstrap;
mod disk;
mod local;
mod memory;
mod peers;
mod process;
pub mod protocol;
mod request;
#[cfg(test)]
mod tests;

pub use beat::Beat;
pub use bootstrap::{Bootstrap, Peer, found, join, lost, site_number};
pub use local::{Client, ClientReader, ClientWriter};
pub use peers::addresses;
pub use process::{Fallback, Voter, VoterOptions};

use anshin_base::Problem;

/// Starts the voter. One whose ledger is lost starts in silence: it must not vote, and without its mesh nobody could
/// give it a new id.
async fn start(options: VoterOptions) -> Result<Voter, Problem> {
    match Voter::start(options.clone()).await {
        Err(problem) if problem.code == bootstrap::LOST => {
            let Some(fallback) = &options.fallback else { return Err(problem) };
            tracing::error!(%problem, "the ledger of this node is lost: it waits for a new voter");
            lost(&options.directory, &fallback.bootstrap, fallback.epoch, &problem.message)?;
            Voter::start(options).await
        }
        other => other,
    }
}

/// Runs the voter process until its disk fails or it cannot start. To be called first thing in the process.
///
/// # Errors
/// What keeps it from running.
pub fn run(options: VoterOptions) -> Result<(), Problem> {
    if options.lock_memory {
        memory::protect();
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Problem::new("voter-start", format!("cannot start the voter: {error}")))?;
    runtime.block_on(async { start(options).await?.run().await })
}
