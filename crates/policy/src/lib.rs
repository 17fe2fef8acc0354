//! The scheduler: configuration and observed state in, ordered actions with reasons out.
//!
//! Pure: no clock, no I/O, no randomness. The same input gives the same plan on every machine.

mod act;
mod cib;
mod digest;
mod model;
mod place;
mod plan;
mod score;
mod simulate;
mod text;
mod words;
mod world;

pub use model::*;
pub use plan::{Action, ActionId, ActionKind, Change, Placement, Plan};
pub use score::Score;
pub use simulate::{plan, simulate};
