//! The keeper's side: the node that serves the vault, holds the storage's credentials, and never sees a key of the data.

pub(crate) mod damage;
pub(crate) mod domain;
pub mod gc;
pub mod handle;
pub(crate) mod marker;
pub(crate) mod read;
pub mod report;
pub(crate) mod rounds;
pub(crate) mod snapshots;
pub(crate) mod upload;
pub mod vault;
mod verify;
pub mod walk;
pub(crate) mod writer;

use crate::keys::DomainId;
use crate::object::{ChunkId, VaultError};
use crate::seal::Sealed;
use crate::snapshot::{Snapshot, SnapshotId, SnapshotRecord};

/// What a client asks of the node that serves the vault, in process or over a link. Made for one client of one key
/// domain with certain rights; no call says who asks.
///
/// All that a handle was told is there stays until the handle is dropped or its snapshot is sealed, whatever garbage
/// collection does meanwhile.
pub trait Keeper: Send + Sync {
    /// Which key domain it serves.
    fn domain(&self) -> DomainId;

    /// For which client it was made.
    fn client(&self) -> String;

    /// Whether asking one question at a time costs nothing.
    fn is_near(&self) -> bool;

    /// Whether other clients put into the same domain, so that [`Keeper::prove`] may spare an upload.
    fn is_shared(&self) -> bool;

    /// Which of these objects the client has to send. At most [`MISSING_MAX`] ids.
    ///
    /// # Errors
    /// [`VaultError::Denied`], or why the vault cannot be read.
    fn missing(&self, ids: &[ChunkId]) -> Result<Vec<bool>, VaultError>;

    /// For objects that other clients of the domain have put: whether the sealed object of this id has this hash
    /// ([`Sealed::hash`]). If so, the caller has shown that it holds the content and the object counts as its own.
    ///
    /// # Errors
    /// As [`Keeper::missing`].
    fn prove(&self, claims: &[(ChunkId, [u8; 32])]) -> Result<Vec<bool>, VaultError>;

    /// Takes objects. They are durable after [`Keeper::flush`].
    ///
    /// # Errors
    /// [`VaultError::Denied`], [`VaultError::Full`], [`VaultError::Store`].
    fn put(&self, objects: Vec<Sealed>) -> Result<(), VaultError>;

    /// Makes everything put durable.
    ///
    /// # Errors
    /// What kept any object put since the handle was made from being stored.
    fn flush(&self) -> Result<(), VaultError>;

    /// Flushes, checks that all that is reachable from the snapshot's root is there, and makes the snapshot visible.
    ///
    /// # Errors
    /// [`VaultError::Missing`], [`VaultError::Exists`], and those of [`Keeper::flush`]; no snapshot is made then.
    fn seal_snapshot(&self, record: SnapshotRecord) -> Result<Snapshot, VaultError>;

    /// Reads objects, in the order asked for. At most [`GET_MAX`] ids.
    ///
    /// # Errors
    /// [`VaultError::Missing`], [`VaultError::Damaged`], [`VaultError::Denied`].
    fn get(&self, ids: &[ChunkId]) -> Result<Vec<Sealed>, VaultError>;

    /// The client's snapshots, those of the whole domain with the right to read all; oldest first.
    ///
    /// # Errors
    /// Why the vault cannot be read.
    fn snapshots(&self) -> Result<Vec<Snapshot>, VaultError>;

    /// Marks a snapshot as forgotten. Garbage collection removes it after the vault's delay; until then
    /// [`Keeper::remember`] takes it back.
    ///
    /// # Errors
    /// [`VaultError::Denied`], [`VaultError::NotFound`].
    fn forget(&self, id: SnapshotId) -> Result<(), VaultError>;

    /// Takes back [`Keeper::forget`].
    ///
    /// # Errors
    /// As [`Keeper::forget`].
    fn remember(&self, id: SnapshotId) -> Result<(), VaultError>;

    /// The domain's key files as stored, newest first. Useless without a key.
    ///
    /// # Errors
    /// Why the vault cannot be read.
    fn key_files(&self) -> Result<Vec<Vec<u8>>, VaultError>;

    /// Stores one more version of the domain's key file. No version is ever overwritten.
    ///
    /// # Errors
    /// [`VaultError::Denied`], [`VaultError::Damaged`] if it is none of this domain.
    fn add_key_file(&self, bytes: &[u8]) -> Result<(), VaultError>;
}

/// Most ids in one [`Keeper::missing`].
pub const MISSING_MAX: usize = 1 << 16;
/// Most ids in one [`Keeper::get`]; the caller keeps the sum of their sizes in mind.
pub const GET_MAX: usize = 1 << 12;

/// What a handle may read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reading {
    /// Nothing: a client that only pushes.
    Nothing,
    /// What this client has put.
    Own,
    /// Everything in the key domain.
    Domain,
}

/// What a handle may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rights {
    /// Put objects and seal snapshots under the client's own name.
    pub add: bool,
    /// What it may read.
    pub read: Reading,
    /// Add versions of the key file of the domain; the first one needs `add` only.
    pub rekey: bool,
    /// Forget snapshots, and all of the above in the whole domain.
    pub administer: bool,
}

impl Rights {
    /// A client that pushes: adds, and nothing else.
    pub const PUSH: Self = Self { add: true, read: Reading::Nothing, rekey: false, administer: false };
    /// A client that also restores what is its own.
    pub const CLIENT: Self = Self { add: true, read: Reading::Own, rekey: false, administer: false };
    /// Who only restores.
    pub const READER: Self = Self { add: false, read: Reading::Own, rekey: false, administer: false };
    /// One of the machines that together own a domain: reads and adds to all of it, and keeps its keys.
    pub const OWNER: Self = Self { add: true, read: Reading::Domain, rekey: true, administer: false };
    /// Who answers for the vault.
    pub const ADMINISTRATOR: Self = Self { add: true, read: Reading::Domain, rekey: true, administer: true };
}
