//! The consensus engine: TiKV's `raft` behind inputs and outputs.
//!
//! An [`Engine`] is driven by one owner (the voter process or the simulator): it hands in an [`Input`] with the present
//! time and carries out every [`Output`] in the order given. Durability is explicit: the engine itself holds back every
//! message that depends on a disk write until [`Input::DiskDone`] says that the write is durable (R8).

mod advance;
mod api;
mod convert;
mod core;
mod guard;
mod members;
mod memory;
pub mod message;
mod open;
mod peers;
mod probation;
mod settings;
mod stall;

pub use api::{Event, Input, MemberChange, Outcome, Output, Role};
pub use core::{Engine, OpenError};
pub use members::next_change;
pub use message::{Attest, Body, Envelope, MessageError, Refusal};
pub use peers::Seen;
pub use settings::{Bugs, Settings};

#[cfg(test)]
mod tests;
