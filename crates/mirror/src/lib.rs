//! The replication core: decides, without any I/O, what a replica of a volume writes, sends, answers and refuses.
//!
//! [`Format::image`] gives the metadata of a new replica, [`Replica::open`] starts one, and from then on its single
//! owner hands in every [`Input`] with the time and carries out every [`Output`]; see [`api`]. The same code runs
//! in the volume process and in the simulator.

mod activity;
pub mod api;
mod bitmap;
#[cfg(feature = "bugs")]
pub mod bugs;
#[cfg(not(feature = "bugs"))]
mod bugs;
pub mod codec;
pub mod format;
pub mod layout;
pub mod records;
mod replica;
pub mod status;
pub mod superblock;
pub mod wire;

pub use api::*;
#[cfg(feature = "bugs")]
pub use bugs::Bugs;
pub use format::{Format, IDENTIFY_BYTES, Identity, MetaImage, identify};
pub use records::Records;
pub use replica::Replica;
pub use status::{Counters, PeerStatus, RoleName, Status};
