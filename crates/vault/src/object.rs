//! What a vault holds, as those see it who back up and restore: objects, named by what is in them.

use anshin_base::Problem;
use std::{borrow::Cow, fmt};

/// The name of an object: BLAKE3 of its kind, references and content, keyed with the id key of its key domain.
/// Two clients of different domains give the same content different names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId(pub [u8; 32]);

impl ChunkId {
    /// The id written as 64 hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }
}

impl ChunkId {
    /// Reads [`ChunkId::hex`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        crate::coder::unhex(text).map(Self)
    }
}

impl fmt::Display for ChunkId {
    /// The first 16 hexadecimal digits: enough to tell objects apart in a message.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex()[..16])
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChunkId({self})")
    }
}

/// What an object is for. Data and trees lie in separate packs, so that walking a snapshot reads no file contents.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// Content of files, volumes and streams. Refers to nothing.
    Data,
    /// Everything that refers to other objects: directories, long lists of contents, the root of a snapshot.
    Tree,
}

/// An object read from a vault; its content was compared with its id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Object {
    /// What it is for.
    pub kind: Kind,
    /// The objects it refers to, in the order its maker gave. The content can name them by their place here.
    pub refs: Vec<ChunkId>,
    /// Its content.
    pub plain: Vec<u8>,
}

/// Most bytes of content in one object.
pub const PLAIN_SIZE_MAX: usize = 8 << 20;
/// Most references of one object: with these an object and its references stay below 12 MiB.
pub const REFS_MAX: usize = 1 << 16;

/// Where a backup is written to.
///
/// A tree must not be put before every object it refers to was put, or was asked for with [`Sink::has`] and found, in
/// the same session: only then are those objects protected from garbage collection until the snapshot is sealed.
pub trait Sink: Send + Sync {
    /// Stores one object unless it is there already; returns its id. Content up to [`PLAIN_SIZE_MAX`], up to [`REFS_MAX`]
    /// references. The object may still be on its way when this returns; an error is then reported by a later call.
    ///
    /// # Errors
    /// [`VaultError`]; the session cannot be used to seal a snapshot afterwards.
    fn put(&self, kind: Kind, refs: &[ChunkId], plain: &[u8]) -> Result<ChunkId, VaultError>;

    /// Whether the object is (still) in the vault: caches are never trusted. What was found stays until the session ends.
    ///
    /// # Errors
    /// [`VaultError`] if the vault cannot be asked.
    fn has(&self, id: &ChunkId) -> Result<bool, VaultError>;

    /// [`Sink::has`] for many objects with one question.
    ///
    /// # Errors
    /// As [`Sink::has`].
    fn has_many(&self, ids: &[ChunkId]) -> Result<Vec<bool>, VaultError> {
        ids.iter().map(|id| self.has(id)).collect()
    }
}

/// What a restore reads from.
pub trait Source: Send + Sync {
    /// Reads one object and compares its content with its id.
    ///
    /// # Errors
    /// [`VaultError::Missing`], [`VaultError::Damaged`], or why the vault cannot be read.
    fn get(&self, id: &ChunkId) -> Result<Object, VaultError>;

    /// Reads several objects, in the order asked for. Objects that lie beside each other are read together.
    ///
    /// # Errors
    /// As [`Source::get`], for the first that cannot be read.
    fn get_many(&self, ids: &[ChunkId]) -> Result<Vec<Object>, VaultError> {
        ids.iter().map(|id| self.get(id)).collect()
    }
}

/// Why a vault did not do what was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum VaultError {
    /// An object is not there.
    #[error("object {0} is not in the vault")]
    Missing(ChunkId),
    /// Something that was written is not what it was.
    #[error("{what} is damaged: {why}")]
    Damaged {
        /// What, in words that name it: `pack d-…`, `snapshot …`, `key file …`.
        what: String,
        /// What does not match.
        why: String,
    },
    /// Written by a later version.
    #[error("{what} is of format version {found}; this program reads up to version {known}")]
    Version {
        /// What.
        what: String,
        /// Its version.
        found: u16,
        /// The highest that is known.
        known: u16,
    },
    /// Larger than a vault takes.
    #[error("{what} of {size} where at most {max} are taken")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Its size.
        size: usize,
        /// The limit.
        max: usize,
    },
    /// The credential does not allow it.
    #[error("this credential may not {0}")]
    Denied(Cow<'static, str>),
    /// There is no vault, or no such thing in it.
    #[error("{0} is not there")]
    NotFound(String),
    /// It is there already and is never overwritten.
    #[error("{0} is there already")]
    Exists(String),
    /// The storage has no room left.
    #[error("the storage is full: {0}")]
    Full(String),
    /// The storage failed.
    #[error("{what}: {why}")]
    Store {
        /// What was done to which object.
        what: String,
        /// What the storage said.
        why: String,
        /// Whether the same may succeed when tried again.
        transient: bool,
    },
    /// The storage does not do what a vault rests on.
    #[error("this storage cannot hold a vault: {0}")]
    Unfit(String),
    /// The key is wrong or lost.
    #[error("{0}")]
    Key(String),
    /// An earlier failure of this session, which makes sealing impossible.
    #[error("the session has failed before: {0}")]
    Failed(String),
    /// Something that must not go on because data could be lost.
    #[error("{0}")]
    Refused(String),
}

impl VaultError {
    /// Something that the credential does not allow: what it may not do.
    #[must_use]
    pub const fn denied(what: &'static str) -> Self {
        Self::Denied(Cow::Borrowed(what))
    }

    /// A damage, named.
    pub fn damaged(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Damaged { what: what.into(), why: why.into() }
    }
}

impl From<VaultError> for Problem {
    fn from(error: VaultError) -> Self {
        let message = error.to_string();
        let verify = "run `anshin vault verify` to see which snapshots and files are concerned";
        match error {
            VaultError::Missing(_) => Self::new("vault-missing", message).hint(verify),
            VaultError::Damaged { .. } => Self::new("vault-damaged", message).hint(verify),
            VaultError::Version { .. } => Self::new("vault-version", message)
                .hint("install the version of anshin that wrote it, or a later one"),
            VaultError::TooLarge { .. } => Self::new("vault-too-large", message),
            VaultError::Denied(_) => Self::new("vault-denied", message)
                .hint("a client's credential adds backups and reads its own; use an administrator's"),
            VaultError::NotFound(_) => Self::new("vault-not-found", message),
            VaultError::Exists(_) => Self::refused("vault-exists", message),
            VaultError::Full(_) => Self::new("vault-full", message)
                .hint("make room, or forget snapshots and run `anshin vault gc`; what was sealed is intact"),
            VaultError::Store { transient: true, .. } => {
                Self::new("vault-store", message).hint("this may pass; try again")
            }
            VaultError::Store { .. } => Self::new("vault-store", message),
            VaultError::Unfit(_) => Self::refused("vault-unfit", message)
                .hint("use a storage that refuses to overwrite when asked to (conditional writes)"),
            VaultError::Key(_) => Self::new("vault-key", message).hint(
                "the printed recovery key opens the vault without the lost key: `anshin vault keys recover`",
            ),
            VaultError::Failed(_) => {
                Self::new("vault-session", message).hint("start the run again; what was sent is kept")
            }
            VaultError::Refused(_) => Self::refused("vault-refused", message),
        }
    }
}
