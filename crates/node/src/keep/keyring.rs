//! The keys that this machine holds: its own, and copies of the key files that it opens.
//!
//! The copies are of no use without the machine's key, and spare nobody the recovery key; they make the machine independent of
//! the key file in the vault, and let a node open a domain whose key was handed to it and that has no slot for it in the vault.

use super::{unix_now, write_private};
use crate::paths::Paths;
use anshin_base::Problem;
use anshin_vault::{DomainId, DomainKeys, KeyFile, MachineKey, VaultError};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The machine's keys.
pub struct Keyring {
    directory: PathBuf,
    file: PathBuf,
    machine: Option<MachineKey>,
}

/// A key domain that was opened.
#[derive(Clone, Debug)]
pub struct OpenDomain {
    /// Its keys.
    pub keys: DomainKeys,
    /// The key file that was opened.
    pub file: KeyFile,
    /// It is the site's, whose data nodes trust each other's objects.
    pub of_site: bool,
}

impl Keyring {
    /// The keys on this machine; `file` if the machine's own key is not at the usual place.
    ///
    /// # Errors
    /// A key that is there and cannot be read. None at all is no error.
    pub fn open(paths: &Paths, file: Option<&Path>) -> Result<Self, Problem> {
        let directory = paths.keys();
        let file = file.map_or_else(|| directory.join("machine.key"), Path::to_path_buf);
        let problem = |why: String| Problem::new("machine-key", format!("{}: {why}", file.display()));
        let machine = match fs::read_to_string(&file) {
            Ok(text) => Some(text.parse::<MachineKey>().map_err(|error| problem(error.to_string()).hint(
                "the recovery key that was printed when the domain was made makes a new one: `anshin vault keys recover`",
            ))?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(problem(error.to_string())),
        };
        Ok(Self { directory, file, machine })
    }

    /// Where the machine's own key is or would be.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The machine's own key, if it has one.
    #[must_use]
    pub const fn machine(&self) -> Option<&MachineKey> {
        self.machine.as_ref()
    }

    /// The machine's own key; made and made durable first if there is none.
    ///
    /// # Errors
    /// The file system's, or if the machine gives no randomness.
    pub fn machine_or_new(&mut self) -> Result<MachineKey, Problem> {
        if let Some(key) = &self.machine {
            return Ok(key.clone());
        }
        let key = MachineKey::generate()?;
        write_private(&self.file, format!("{}\n", key.to_text()).as_bytes())?;
        self.machine = Some(key.clone());
        Ok(key)
    }

    /// Keeps a copy of a key file that the machine's own key opens.
    ///
    /// # Errors
    /// The file system's.
    pub fn keep(&self, file: &KeyFile) -> Result<(), Problem> {
        write_private(&self.directory.join(format!("{}.keys", file.domain)), &file.encode())
    }

    fn site_file(&self) -> PathBuf {
        self.directory.join("site.keys")
    }

    /// The key domain of the site that this machine is a data node of; None if it is none.
    ///
    /// # Errors
    /// `vault-key` if its file is there and cannot be opened.
    pub fn site(&self) -> Result<Option<OpenDomain>, Problem> {
        let path = self.site_file();
        let problem = |why: String| {
            Problem::new("vault-key", format!("{}: {why}", path.display())).hint(
                "the recovery key of the site's backups opens them without it; another data node has the same key",
            )
        };
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(problem(error.to_string())),
        };
        let file = KeyFile::decode(&bytes).map_err(|error| problem(error.to_string()))?;
        let machine =
            self.machine.as_ref().ok_or_else(|| problem("this machine's key is not there".into()))?;
        let keys = file.unlock(machine.secret()).map_err(|error| problem(error.to_string()))?;
        Ok(Some(OpenDomain { keys, file, of_site: true }))
    }

    /// Takes the site's key domain, new or as another data node handed it over (docs/decisions/0009).
    ///
    /// # Errors
    /// The file system's, or if the machine gives no randomness.
    pub fn take_site(&mut self, site: &str, label: &str, keys: DomainKeys) -> Result<OpenDomain, Problem> {
        let machine = self.machine_or_new()?;
        let file = KeyFile::of(&keys, &format!("site {site}"), machine.secret(), label, unix_now())?;
        write_private(&self.site_file(), &file.encode())?;
        Ok(OpenDomain { keys, file, of_site: true })
    }

    /// The copies. One that is damaged is no loss while the vault has its own; it is left out.
    #[must_use]
    pub fn copies(&self) -> Vec<KeyFile> {
        let Ok(entries) = fs::read_dir(&self.directory) else { return Vec::new() };
        let paths = entries.flatten().map(|entry| entry.path());
        let mut paths: Vec<PathBuf> =
            paths.filter(|path| path.extension().is_some_and(|extension| extension == "keys")).collect();
        paths.sort();
        paths.retain(|path| *path != self.site_file());
        paths.iter().filter_map(|path| KeyFile::decode(&fs::read(path).ok()?).ok()).collect()
    }

    /// The keys of a domain, if this machine can open it.
    #[must_use]
    pub fn domain(&self, domain: DomainId) -> Option<OpenDomain> {
        if let Ok(Some(site)) = self.site()
            && site.keys.domain() == domain
        {
            return Some(site);
        }
        let machine = self.machine.as_ref()?;
        let copies = self.copies();
        let mut of_domain = copies.iter().filter(|file| file.domain == domain);
        of_domain.find_map(|file| {
            let keys = file.unlock(machine.secret()).ok()?;
            Some(OpenDomain { keys, file: file.clone(), of_site: false })
        })
    }

    /// Opens the first of these domains for which this machine has a key. `stored` are the key files in a vault, one for each domain.
    ///
    /// # Errors
    /// `vault-key` with what to do if there is none; `vault-empty` if the vault has no domain at all.
    pub fn open_any(&self, stored: &[KeyFile]) -> Result<OpenDomain, Problem> {
        let Some(first) = stored.first() else {
            return Err(Problem::new(
                "vault-empty",
                "this vault has no key domain: nothing was ever backed up into it",
            )
            .hint("make one for this machine: anshin vault init --attach URL"));
        };
        let Some(machine) = &self.machine else { return Err(first.lost().into()) };
        for file in stored {
            if let Some(open) = self.domain(file.domain) {
                return Ok(open);
            }
            match file.unlock(machine.secret()) {
                Ok(keys) => return Ok(OpenDomain { keys, file: file.clone(), of_site: false }),
                Err(VaultError::Key(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let names: Vec<String> = stored.iter().map(|file| format!("`{}`", file.name)).collect();
        let message = format!(
            "the key in {} opens none of the vault's key domains ({})",
            self.file.display(),
            names.join(", ")
        );
        Err(Problem::new("vault-key", message).hint(
            "with the recovery key that was printed when the domain was made: `anshin vault keys recover`",
        ))
    }
}
