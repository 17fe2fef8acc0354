//! Capture: reads file trees with every attribute, block devices, images and streams into a vault, and brings them back.

pub mod backup;
mod cache;
pub mod error;
pub mod monitor;
mod pool;
pub mod report;
pub mod restore;
mod sys;
pub mod tree;

pub use error::CaptureError;
pub use monitor::{Monitor, Progress};
pub use report::{Issue, IssueKind, Issues};
