//! How an executor reaches its vault.

use super::job::VaultAccess;
use crate::{keep::open::open_session, paths::Paths};
use anshin_base::Problem;
use anshin_vault::{DomainKeys, Keeper, Options, Place, Rights, Session, Vault, VaultError};
use std::{path::PathBuf, sync::Arc};

/// Opens sessions with vaults.
pub trait OpenVault: Send + Sync {
    /// A session of its own for one backup or restore.
    ///
    /// # Errors
    /// Why the vault cannot be reached, or there is no key.
    fn open(&self, access: &VaultAccess) -> Result<Session, Problem>;
}

/// The vaults of the site, each at the node that serves it.
pub struct SiteVaults {
    /// Where this node keeps its identity and its keys.
    pub paths: Paths,
}

impl OpenVault for SiteVaults {
    fn open(&self, access: &VaultAccess) -> Result<Session, Problem> {
        open_session(&self.paths, access)
    }
}

/// A vault in a directory of this machine, with its keys at hand: for tests, and for measuring an executor by itself.
pub struct LocalVault {
    place: Place,
    keys: DomainKeys,
}

impl LocalVault {
    /// Opens the vault in `directory`, which is made if there is none.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub fn open(directory: PathBuf, keys: DomainKeys) -> Result<Self, Problem> {
        let place = Place::Directory(directory);
        match Vault::create(place.clone().store(true)?, Options::default()) {
            Ok(_) | Err(VaultError::Exists(_)) => Ok(Self { place, keys }),
            Err(error) => Err(error.into()),
        }
    }
}

impl OpenVault for LocalVault {
    fn open(&self, _access: &VaultAccess) -> Result<Session, Problem> {
        // Anew each time: other processes write into it, and an index is read once.
        let vault = Vault::open(self.place.clone().store(false)?, Options::default())?;
        let handle = vault.handle(self.keys.domain(), "local", Rights::CLIENT, false)?;
        let keeper: Arc<dyn Keeper> = Arc::new(handle);
        Ok(Session::new(keeper, self.keys.clone())?)
    }
}
