//! The replication core.
pub mod api;
pub mod wire;
pub use api::*;
