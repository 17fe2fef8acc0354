//! Runs: which begin when and where, what becomes of them when executors and leaders die.
//!
//! [`Scheduler::step`] looks at the records and at what is observed, and gives orders with reasons. It runs at the
//! ledger's leader. A successor needs nothing of it: everything that must survive is in the records, and every change
//! it proposes names the state it was made for.

mod begin;
mod due;
mod meter;
mod observed;
mod order;
mod place;
mod scheduler;
mod stale;
mod view;
mod watch;

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

pub use due::COUNTED_MAX;
pub use meter::{Estimate, Meter};
pub use observed::{AttemptSeen, AttemptState, ClientSeen, NodeSeen, Observed, VaultSeen};
pub use order::{Order, Work};
pub use place::whereabouts;
pub use scheduler::{Now, Scheduler, Settings, Step};
pub use view::{RunView, Stand};
