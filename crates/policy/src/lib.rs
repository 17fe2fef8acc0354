//! The scheduler: configuration and observed state in, ordered actions with reasons out.
//!
//! Pure: no clock, no I/O, no randomness. The same input gives the same plan on every machine.

mod model;
mod plan;
mod score;

pub use model::*;
pub use plan::{Action, ActionId, ActionKind, Change, Placement, Plan};
pub use score::Score;
