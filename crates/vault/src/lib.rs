//! The vault: a deduplicating, encrypted store of backups on any storage.
//!
//! ```text
//!  the machine that owns the data         │  the node that serves the vault
//!                                         │
//!  capture ── Sink/Source ── session ──── Keeper ── handle ── domain ── store
//!                              │          │                     │
//!                    chunker, keys, seal  │          packs, index, gc, verify
//! ```
//! The left side holds the keys: it cuts, names, compresses and encrypts. The right side holds the storage's credentials: it
//! packs, indexes, counts, expires, collects and verifies, and never sees a key. Formats: docs/formats/vault.md.

pub mod chunker;
mod coder;
pub mod ids;
mod index;
pub mod keeper;
pub mod keys;
pub mod memory;
pub mod object;
pub mod pack;
pub mod seal;
pub mod session;
pub mod snapshot;
pub mod store;

pub use chunker::{Chunker, EXTENT_SIZE};
pub use keeper::gc::GcReport;
pub use keeper::handle::Handle;
pub use keeper::report::{DamagedSnapshot, Finding, VerifyOptions, VerifyReport};
pub use keeper::vault::{Options, Vault, VaultSize};
pub use keeper::walk::Reach;
pub use keeper::{Keeper, Reading, Rights};
pub use keys::file::{KeyFile, NewDomain, Secret, Slot, SlotKind};
pub use keys::machine::MachineKey;
pub use keys::recovery::RecoveryKey;
pub use keys::{DomainId, DomainKeys};
pub use object::{ChunkId, Kind, Object, PLAIN_SIZE_MAX, REFS_MAX, Sink, Source, VaultError};
pub use seal::Sealed;
pub use session::{Session, SessionStats, SnapshotDraft};
pub use snapshot::{FORGOTTEN_FOR_GOOD, Snapshot, SnapshotId, SnapshotRecord, SnapshotStats};
pub use store::open::Place;
