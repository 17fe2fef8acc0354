//! node
pub mod voter;
