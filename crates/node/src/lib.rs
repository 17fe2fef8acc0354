//! node

pub mod control;
pub mod view;
