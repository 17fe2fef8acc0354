//! A vault as the node that serves it holds it.

use super::Rights;
use super::domain::{Domain, Shared};
use super::gc::GcReport;
use super::handle::Handle;
use super::upload::Uploader;
use super::walk::Reach;
use crate::coder::{Reader, checked, close, hex};
use crate::keys::DomainId;
use crate::keys::file::KeyFile;
use crate::object::VaultError;
use crate::pack::PACK_SIZE_TARGET;
use crate::snapshot::{Snapshot, SnapshotId};
use crate::store::{Store, probe};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

const MAGIC: &[u8; 8] = b"anvault1";
const VERSION: u16 = 1;
/// The descriptor is stored twice, because it is the only object that nothing else can replace.
pub(crate) const DESCRIPTORS: [&str; 2] = ["vault", "vault.copy"];

/// Seconds of Unix time.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// How a keeper works; nothing here is part of the format.
#[derive(Clone)]
pub struct Options {
    /// The keeper's clock. Retention and garbage collection go by it, never by a client's.
    pub clock: Clock,
    /// Packs are closed at this size.
    pub pack_size: usize,
    /// Seconds from forgetting a snapshot to its removal by garbage collection.
    pub forget_delay: u64,
    /// Seconds from condemning a pack to deleting it: time for other keepers of the same storage, which would otherwise only notice
    /// when they next seal.
    pub grace: u64,
    /// A pack is rewritten when this share of it, in percent, is no longer referred to.
    pub waste_percent: u64,
    /// Threads that store packs; None chooses for the storage, 0 stores them in the caller's.
    pub uploads: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        let clock = || {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(0, |time| time.as_secs())
        };
        Self {
            clock: Arc::new(clock),
            pack_size: PACK_SIZE_TARGET,
            forget_delay: 7 * 24 * 3600,
            grace: 3600,
            waste_percent: 30,
            uploads: None,
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("pack_size", &self.pack_size)
            .field("forget_delay", &self.forget_delay)
            .field("grace", &self.grace)
            .field("waste_percent", &self.waste_percent)
            .finish_non_exhaustive()
    }
}

/// Which vault this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Descriptor {
    /// Random, made with the vault.
    pub id: [u8; 16],
    /// Seconds of Unix time by the clock of who made it.
    pub created: u64,
}

impl Descriptor {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.id);
        out.extend_from_slice(&self.created.to_le_bytes());
        close(&mut out);
        out
    }

    pub(crate) fn decode(bytes: &[u8], what: &str) -> Result<Self, VaultError> {
        let mut reader = Reader::new(checked(bytes, what)?, what);
        reader.opening(MAGIC, VERSION)?;
        let descriptor = Self { id: reader.array()?, created: reader.u64()? };
        reader.end()?;
        Ok(descriptor)
    }
}

/// How much a vault holds.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct VaultSize {
    /// Packs of all domains.
    pub packs: u64,
    /// Bytes of all objects in the storage.
    pub bytes: u64,
    /// Snapshots that are not forgotten.
    pub snapshots: u64,
    /// Key domains.
    pub domains: u64,
}

/// An open vault.
pub struct Vault {
    shared: Arc<Shared>,
    descriptor: Descriptor,
    domains: Mutex<HashMap<DomainId, Arc<Domain>>>,
}

impl Vault {
    /// Makes a vault in an empty storage, after testing that the storage keeps what a vault rests on.
    ///
    /// # Errors
    /// [`VaultError::Exists`] if there is one, [`VaultError::Unfit`], or the storage's own.
    pub fn create(store: Arc<dyn Store>, options: Options) -> Result<Self, VaultError> {
        let found = DESCRIPTORS.iter().any(|name| store.get(name).is_ok());
        if found {
            return Err(VaultError::Exists(format!("a vault at {}", store.describe())));
        }
        probe(&*store, u64::from_le_bytes(crate::keys::random()?))?;
        let descriptor = Descriptor { id: crate::keys::random()?, created: (options.clock)() };
        for name in DESCRIPTORS {
            store.put(name, &[descriptor.encode().into()])?;
        }
        Self::open(store, options)
    }

    /// Opens the vault in a storage.
    ///
    /// # Errors
    /// [`VaultError::NotFound`] if there is none, [`VaultError::Damaged`], [`VaultError::Version`].
    pub fn open(store: Arc<dyn Store>, options: Options) -> Result<Self, VaultError> {
        let read =
            |name| store.get(name).and_then(|bytes| Descriptor::decode(&bytes, "the vault's descriptor"));
        let descriptor = match (read(DESCRIPTORS[0]), read(DESCRIPTORS[1])) {
            (Ok(one), Ok(other)) if one != other => {
                return Err(VaultError::damaged(
                    "the vault's descriptor",
                    "its two copies are of different vaults",
                ));
            }
            (Ok(descriptor), _) | (Err(_), Ok(descriptor)) => descriptor,
            (Err(VaultError::NotFound(_)), Err(VaultError::NotFound(_))) => {
                return Err(VaultError::NotFound(format!("a vault at {}", store.describe())));
            }
            (Err(VaultError::NotFound(_)), Err(error)) | (Err(error), Err(_)) => return Err(error),
        };
        // One pack on its way while the next is filled; a far storage answers more at a time.
        let threads = options.uploads.unwrap_or(if store.is_near() { 1 } else { 4 });
        let uploader = Uploader::new(threads);
        let shared = Arc::new(Shared { store, options, uploader });
        Ok(Self { shared, descriptor, domains: Mutex::default() })
    }

    /// Which vault this is.
    #[must_use]
    pub const fn descriptor(&self) -> Descriptor {
        self.descriptor
    }

    /// Its name for humans: the first 8 digits of its id.
    #[must_use]
    pub fn name(&self) -> String {
        hex(&self.descriptor.id[..4])
    }

    /// Where it lies.
    #[must_use]
    pub fn place(&self) -> String {
        self.shared.store.describe()
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) fn domain(&self, id: DomainId) -> Result<Arc<Domain>, VaultError> {
        let mut domains = self.domains.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(domain) = domains.get(&id) {
            return Ok(domain.clone());
        }
        let domain = Domain::open(self.shared.clone(), id)?;
        domains.insert(id, domain.clone());
        Ok(domain)
    }

    /// A way in for one client. `shared` says that other clients use the same key domain. The caller has checked who the client is and
    /// what it may do. A session should have a handle of its own.
    ///
    /// # Errors
    /// Why the domain's index cannot be read.
    pub fn handle(
        &self,
        domain: DomainId,
        client: &str,
        rights: Rights,
        shared: bool,
    ) -> Result<Handle, VaultError> {
        self.handle_of(domain, client, client, rights, shared)
    }

    /// [`Vault::handle`] for one of several clients that trust each other's objects: those of one `writer` are the same to all of
    /// them, without proof. For machines that hold the same keys and take over each other's work.
    ///
    /// # Errors
    /// As [`Vault::handle`].
    pub fn handle_of(
        &self,
        domain: DomainId,
        client: &str,
        writer: &str,
        rights: Rights,
        shared: bool,
    ) -> Result<Handle, VaultError> {
        Ok(Handle::new(self.domain(domain)?, client, writer, rights, shared))
    }

    /// All key domains that have anything in the vault.
    ///
    /// # Errors
    /// Why the storage cannot be read.
    pub fn domains(&self) -> Result<Vec<DomainId>, VaultError> {
        let mut found = BTreeSet::new();
        for room in ["keys/", "packs/", "snapshots/"] {
            for (name, _) in self.shared.store.list(room)? {
                found.extend(name[room.len()..].split('/').next().and_then(DomainId::parse));
            }
        }
        Ok(found.into_iter().collect())
    }

    /// The newest readable key file of each domain.
    ///
    /// # Errors
    /// Why the storage cannot be read.
    pub fn key_files(&self) -> Result<Vec<KeyFile>, VaultError> {
        Ok(self.key_file_versions()?.into_iter().filter_map(|versions| versions.into_iter().next()).collect())
    }

    /// All readable versions of the key file of each domain, newest first.
    ///
    /// # Errors
    /// Why the storage cannot be read.
    pub fn key_file_versions(&self) -> Result<Vec<Vec<KeyFile>>, VaultError> {
        let mut all = Vec::new();
        for id in self.domains()? {
            let files = self.domain(id)?.key_files()?;
            all.push(files.iter().filter_map(|bytes| KeyFile::decode(bytes).ok()).collect());
        }
        Ok(all)
    }

    /// All snapshots of all domains, oldest first within each. Damaged ones are left out; [`Vault::verify`] names them.
    ///
    /// # Errors
    /// Why the storage cannot be read.
    pub fn snapshots(&self) -> Result<Vec<(DomainId, Snapshot)>, VaultError> {
        let mut all = Vec::new();
        for id in self.domains()? {
            all.extend(self.domain(id)?.known_snapshots()?.into_iter().map(|snapshot| (id, snapshot)));
        }
        Ok(all)
    }

    /// Counts what a snapshot refers to; takes no key.
    ///
    /// # Errors
    /// [`VaultError::NotFound`], [`VaultError::Missing`], [`VaultError::Damaged`].
    pub fn reach(&self, domain: DomainId, id: SnapshotId) -> Result<Reach, VaultError> {
        let domain = self.domain(domain)?;
        let bytes = domain.store().get(&id.path(domain.id))?;
        let root = Snapshot::decode(id, &bytes)?.record.root;
        domain.retry(|| domain.reach(root))
    }

    /// Marks a snapshot as forgotten; it is removed by garbage collection after the delay.
    ///
    /// # Errors
    /// [`VaultError::NotFound`].
    pub fn forget(&self, domain: DomainId, id: SnapshotId) -> Result<(), VaultError> {
        self.domain(domain)?.forget(id)
    }

    /// As [`Vault::forget`], but without the delay: for one whose content another snapshot holds too.
    ///
    /// # Errors
    /// [`VaultError::NotFound`] if it is not there.
    pub fn forget_for_good(&self, domain: DomainId, id: SnapshotId) -> Result<(), VaultError> {
        self.domain(domain)?.forget_for_good(id)
    }

    /// Takes a forgotten snapshot back.
    ///
    /// # Errors
    /// [`VaultError::NotFound`] if it was removed.
    pub fn remember(&self, domain: DomainId, id: SnapshotId) -> Result<(), VaultError> {
        self.domain(domain)?.remember(id)
    }

    /// Collects garbage in all domains.
    ///
    /// # Errors
    /// The first domain's that fails; the others are still collected.
    pub fn gc(&self) -> Result<GcReport, VaultError> {
        let mut report = GcReport::default();
        let mut failed = None;
        for id in self.domains()? {
            match self.domain(id).and_then(|domain| domain.gc()) {
                Ok(own) => report.add(own),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(report), Err)
    }

    /// Makes the index of all domains anew from the packs; returns the number of objects.
    ///
    /// # Errors
    /// Why the storage cannot be read or written.
    pub fn rebuild_index(&self) -> Result<usize, VaultError> {
        let mut count = 0;
        for id in self.domains()? {
            count += self.domain(id)?.rebuild_index()?;
        }
        Ok(count)
    }

    /// How much it holds.
    ///
    /// # Errors
    /// Why the storage cannot be read.
    pub fn size(&self) -> Result<VaultSize, VaultError> {
        let all = self.shared.store.list("")?;
        let kept = self.snapshots()?.iter().filter(|(_, snapshot)| snapshot.forgotten.is_none()).count();
        Ok(VaultSize {
            packs: all.iter().filter(|(name, _)| name.starts_with("packs/")).count() as u64,
            bytes: all.iter().map(|(_, size)| size).sum(),
            snapshots: kept as u64,
            domains: self.domains()?.len() as u64,
        })
    }
}
