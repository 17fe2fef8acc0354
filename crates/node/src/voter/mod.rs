//! stub
mod beat;
mod bootstrap;
pub mod protocol;
pub use beat::Beat;
pub use bootstrap::{Bootstrap, Peer, found, join, site_number};
