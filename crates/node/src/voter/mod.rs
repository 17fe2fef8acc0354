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
pub use bootstrap::{Bootstrap, Peer, found, join, site_number};
pub use local::{Client, ClientReader, ClientWriter};
pub use process::{Voter, VoterOptions};

use anshin_base::Problem;

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
    runtime.block_on(async { Voter::start(options).await?.run().await })
}
