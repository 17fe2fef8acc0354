//! The ledger: what the cluster has decided, replicated by TiKV's `raft` engine. Nothing here does I/O (except the
//! small [`store`] that executes disk commands on files) or reads a clock.
//!
//! In the order data flows: a [`state::Command`] is proposed to the [`engine::Engine`], which makes it durable through
//! the [`log`] format, replicates it, and applies it to the [`state::State`] of every voter. The [`coordinator`] of the
//! leading voter watches [`liveness`] and promotes the members that [`candidate::choose_candidate`] allows.

pub mod candidate;
pub mod coordinator;
pub mod engine;
#[cfg(test)]
mod golden;
pub mod liveness;
pub mod log;
pub mod state;
pub mod store;

pub use candidate::{WhyNot, choose_candidate};
pub use coordinator::Coordinator;
pub use engine::{Engine, Envelope, Event, Input, Outcome, Output, Settings};
pub use liveness::{Detector, Sign};
pub use state::{Applied, Command, Refused, State};
