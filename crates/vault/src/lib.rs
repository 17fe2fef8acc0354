//! The vault: a deduplicating, encrypted store of backups on any storage.

pub mod ids;
pub mod memory;
pub mod object;

pub use object::{ChunkId, Kind, Object, PLAIN_SIZE_MAX, REFS_MAX, Sink, Source, VaultError};
