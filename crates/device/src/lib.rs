//! A volume as a process: the event loop around the replication core, and what the volume looks like to its users.
//!
//! [`run`] is the whole process. One thread owns everything: the io_uring ring, the core, the replica's files, the links to
//! the other replicas, the voter's socket, the control socket and the fronts. Helper threads exist only for the
//! seconds in which a block device is made or destroyed.

pub mod buffer;
pub mod clock;
pub mod control;
mod create;
pub mod disk;
mod engine;
pub mod front;
pub mod io;
mod memory;
mod options;
pub mod peer;
pub mod point;
pub mod ring;
mod standalone;
mod stats;
pub mod stream;
pub mod voter;

pub use create::{Create, create, identity};
pub use options::{HOT_EXTENTS, Ledger, Network, Options, Times};

use anshin_base::Problem;

/// Runs a volume until it is told to stop.
///
/// # Errors
/// If it cannot start, or if its ring fails. A replica that fails while it runs stays up, so that its status can be asked.
pub fn run(options: Options) -> Result<(), Problem> {
    options.check()?;
    if options.protect_memory {
        memory::protect();
    }
    engine::Engine::open(options)?.run()
}
