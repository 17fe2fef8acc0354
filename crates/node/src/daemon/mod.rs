//! The daemon: supervises the node's processes, runs what the leader asks for, leads if its voter leads, and answers the
//! public interface. It may be restarted at any time: what it starts outlives it.

mod drill;
mod explain;
mod facts;
#[cfg(test)]
mod fixture;
mod leader;
mod local;
mod messages;
mod model;
mod parts;
mod protect;
mod site;
mod transition;
mod world;

pub use site::{Propose, Site};
