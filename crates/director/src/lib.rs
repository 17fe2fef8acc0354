//! The director: what is backed up when, which attempt counts, what is kept, and where it is all written down.
//!
//! A pure core: time and randomness are arguments, decisions come out as data with reasons. What must survive lives in
//! serialisable records, and the catalog is a projection that can be rebuilt.

pub mod calendar;
pub mod catalog;
pub mod plan;
pub mod posture;
pub mod record;
pub mod retention;
pub mod run;
pub mod time;
pub mod words;

pub use time::{Span, UnixMillis};
pub use words::{Attempt, ClientId, ClientName, PlanName, Position, RunId, SnapshotId, TargetKey, VaultName};
