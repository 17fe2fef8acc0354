//! Capture: reads file trees with every attribute, block devices, images and streams into a vault, and brings them back.
//!
//! [`backup`] walks directories into a tree of objects ([`tree`]) and gives the id of its root; [`restore`] brings all or a
//! part of it back, says before what it would do and compares afterwards; [`browse`] lists, finds and compares; [`image`] is
//! for block devices, disk images and streams; [`mount`] shows a snapshot as a directory.
//!
//! Everything is read from a [`Source`](anshin_vault::Source) and written to a [`Sink`](anshin_vault::Sink). A [`Monitor`]
//! carries progress, the wish to stop, and what did not go as it should.

mod affected;
pub mod backup;
pub mod browse;
mod cache;
pub mod error;
pub mod image;
pub mod monitor;
pub mod mount;
mod pool;
pub mod report;
pub mod restore;
mod sys;
pub mod tree;

pub use error::CaptureError;
pub use monitor::{Monitor, Progress};
pub use report::{Issue, IssueKind, Issues};
