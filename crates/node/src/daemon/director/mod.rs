//! The director in the daemon: what the leading daemon sees and orders, and what every daemon executes.
//!
//! ```text
//!  leading daemon                                     every daemon
//!    records (ledger) ┐                                 Executor: one process per attempt (`anshin run backup`)
//!    reports ─────────┴▶ observed ▶ Scheduler::step       │ its last words, in the node's report, each second
//!                                     │ Propose ▶ ledger  │
//!                                     │ Start, Stop ──────┘
//!                                     └ Discard ▶ daemon of the vault's node ▶ vault process
//! ```
//! Every daemon makes the same step, so that each can show where runs stand; only the leading one carries out what came of
//! it. A successor needs nothing of its predecessor: what must survive is in the ledger.

mod archives;
mod catalog;
mod executor;
mod job;
mod keeper;
mod messages;
mod now;
mod observed;
mod process;
mod program;
mod requests;
mod restore;
mod restore_asked;
mod restore_book;
mod restore_choice;
mod restore_process;
mod restores;
mod retain;
mod view;

#[cfg(test)]
mod tests;

pub use archives::{Archives, wanted as wanted_archives};
pub use catalog::Catalogue;
pub use executor::Executor;
pub use job::{NotReady, job};
pub use keeper::{Keeper, KeeperSeen, Processes, watch};
pub use messages::{ArchiveReport, AttemptReport, DirectorMessage, VaultReport};
pub use now::DirectorNow;
pub use observed::observed;
pub use process::{Launch, launch};
pub use restore_book::RestoreBook;
pub use view::backups;

use anshin_director::{Attempt, RunId, VaultName, run::AttemptState};

/// Something that happened around backups on this node.
#[derive(Debug)]
pub enum DirectorEvent {
    /// The process of an attempt said this.
    Said {
        /// Which run.
        run: RunId,
        /// Which attempt.
        attempt: Attempt,
        /// What it said.
        state: AttemptState,
    },
    /// The process of an attempt is gone.
    Ended {
        /// Which run.
        run: RunId,
        /// Which attempt.
        attempt: Attempt,
        /// How.
        how: String,
    },
    /// A vault of this node was looked at.
    Vault {
        /// Which.
        vault: VaultName,
        /// What was seen.
        seen: KeeperSeen,
    },
    /// What is in the spool of a service's log is to be moved at once.
    Flush {
        /// Which service.
        service: String,
        /// Told when it is done; false: nothing is archived here.
        done: tokio::sync::oneshot::Sender<bool>,
    },
    /// A part of a service is to be stopped here, so that it is started anew by the usual rules.
    StopPart {
        /// `SERVICE.PART`.
        resource: String,
        /// Why.
        why: String,
    },
}
