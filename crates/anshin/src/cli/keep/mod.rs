//! Vaults, backups and snapshots: commands that work with or without a site.
//!
//! They do not go through the node's API, because data and its keys stay where they are: the machine that owns the data
//! encrypts and decrypts, and nothing else sees either.

pub mod args;
mod backup;
mod client;
mod forget;
mod pick;
mod progress;
mod restore;
mod secrets;
mod show;
mod snapshots;
mod vault;

pub use backup::carry_out as backup;
pub use client::carry_out as client;
pub use forget::carry_out as forget;
pub use restore::carry_out as restore;
pub use snapshots::carry_out as snapshots;
pub use vault::carry_out as vault;
