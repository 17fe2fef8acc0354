//! From what a user calls a vault to something that can be worked with: a store that this process opens itself, or the process of
//! another node that serves it.

use super::{
    VaultSettings,
    administer::{Answer, Task, carry_out},
    client::{self, ClientFile},
    control,
    door::SITE_WRITER,
    keyring::{Keyring, OpenDomain},
    link::Patience,
    members, open,
};
use crate::{backup::job::VaultAccess, paths::Paths};
use anshin_base::Problem;
use anshin_director::VaultName;
use anshin_vault::{DomainKeys, Keeper, KeyFile, Options, Rights, Session, Vault};
use std::{path::PathBuf, sync::Arc, time::Duration};

/// Names the vault to use where none is given.
pub const VAULT_VARIABLE: &str = "ANSHIN_VAULT";

/// Somebody waits: a node that is away is told soon.
const PATIENCE: Patience = Patience { first: Duration::from_secs(5), resume: Duration::from_secs(120) };

/// A vault that was named, not opened yet.
#[derive(Clone, Debug)]
pub enum Chosen {
    /// This process reaches its store.
    Here {
        /// What to call it towards the user.
        called: String,
        /// How its store is reached.
        settings: VaultSettings,
    },
    /// A node of the site serves it.
    There(VaultAccess),
    /// A node of the site that this machine is a client of serves it.
    Outside(ClientFile, VaultAccess),
}

/// Whether a text is the place of a vault rather than its name.
#[must_use]
pub fn is_place(text: &str) -> bool {
    text.contains('/')
}

/// The whole path of a directory that may be written without it; URLs as they are.
///
/// # Errors
/// If the working directory cannot be told.
pub fn whole_place(text: &str) -> Result<String, Problem> {
    if text.contains("://") {
        return Ok(text.to_owned());
    }
    let path = std::path::absolute(text).map_err(|error| {
        Problem::new("vault-url", format!("`{text}` is not the place of a vault: {error}"))
    })?;
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Problem::new(
            "vault-url",
            format!("`{}` is not UTF-8, which the place of a vault must be", path.display()),
        )
    })
}

impl Chosen {
    /// The vault that is meant: by name, by URL or directory, by `ANSHIN_VAULT`, or the only one that this machine has settings of or
    /// that its site has.
    ///
    /// # Errors
    /// `vault-unknown`, `vault-unnamed`, or what is wrong with its settings.
    pub fn choose(paths: &Paths, given: Option<&str>) -> Result<Self, Problem> {
        let variable = std::env::var(VAULT_VARIABLE).ok().filter(|name| !name.is_empty());
        match given.or(variable.as_deref()) {
            Some(text) if is_place(text) => Self::at(paths, text),
            Some(text) => Self::named(paths, VaultName::checked(text)?),
            None => Self::only(paths),
        }
    }

    fn at(paths: &Paths, text: &str) -> Result<Self, Problem> {
        let url = whole_place(text)?;
        // Credentials of a place that was made here under a name are those that were kept then.
        for name in VaultSettings::list(paths)? {
            if let Some(settings) = VaultSettings::load(paths, &name)?.filter(|known| known.url == url) {
                return Ok(Self::Here { called: name.to_string(), settings });
            }
        }
        Ok(Self::Here { called: text.to_owned(), settings: VaultSettings::of_environment(&url) })
    }

    fn named(paths: &Paths, name: VaultName) -> Result<Self, Problem> {
        if let Some(settings) = VaultSettings::load(paths, &name)? {
            return Ok(Self::Here { called: name.to_string(), settings });
        }
        let client = ClientFile::load(paths)?;
        let of_site = client.as_ref().map_or_else(|| members::vaults(paths), |client| client.vaults.clone());
        let found = of_site.iter().find(|access| access.name == name).cloned();
        let found = found.map(|access| match client {
            Some(client) => Self::Outside(client, access),
            None => Self::There(access),
        });
        found.ok_or_else(|| {
            let mut known: Vec<String> =
                VaultSettings::list(paths).unwrap_or_default().iter().map(ToString::to_string).collect();
            known.extend(of_site.iter().map(|access| access.name.to_string()));
            let slash = format!("a directory is written with a slash: ./{name}");
            let hint = match known.is_empty() {
                true => format!("make one: anshin vault init /srv/vault; {slash}"),
                false => format!("known are {}; {slash}", known.join(", ")),
            };
            Problem::new("vault-unknown", format!("this machine knows no vault `{name}`")).hint(hint)
        })
    }

    fn only(paths: &Paths) -> Result<Self, Problem> {
        let here = VaultSettings::list(paths)?;
        let mut names = here.clone();
        let of_site = ClientFile::load(paths)?.map_or_else(|| members::vaults(paths), |client| client.vaults);
        names.extend(of_site.into_iter().map(|access| access.name));
        names.sort();
        names.dedup();
        match &names[..] {
            [] => Err(Problem::new("vault-unknown", "this machine knows no vault")
                .hint("make one: anshin vault init /srv/vault; or name one: --vault URL")),
            [name] => Self::named(paths, name.clone()),
            several => {
                let names: Vec<&str> = several.iter().map(|name| name.0.as_str()).collect();
                let message = format!("this machine knows several vaults: {}", names.join(", "));
                Err(Problem::new("vault-unnamed", message).hint("name one: --vault NAME"))
            }
        }
    }

    /// Opens the vault.
    ///
    /// # Errors
    /// What keeps its store from being opened, or its process from being reached.
    pub fn open(self, paths: &Paths) -> Result<Access, Problem> {
        match self {
            Self::Here { called, settings } => {
                let vault = Vault::open(settings.place()?.store(false)?, Options::default())?;
                let control = paths.vault_control(&called);
                Ok(Access { called, served: settings.serve, reached: Reached::Here { vault, control } })
            }
            Self::There(access) => {
                let (session, vault) = open::open_patiently(paths, &access, PATIENCE)?;
                Ok(Access::there(session, access, vault))
            }
            Self::Outside(client, access) => {
                let (session, vault) = client::open_session(paths, &client, &access, PATIENCE)?;
                Ok(Access::there(session, access, vault))
            }
        }
    }
}

/// An open vault.
pub struct Access {
    called: String,
    served: bool,
    reached: Reached,
}

#[allow(clippy::large_enum_variant, reason = "there is one of it at a time")]
enum Reached {
    Here { vault: Vault, control: PathBuf },
    There { session: Session, access: VaultAccess, vault: [u8; 16] },
}

impl Access {
    fn there(session: Session, access: VaultAccess, vault: [u8; 16]) -> Self {
        let called = access.name.to_string();
        Self { called, served: false, reached: Reached::There { session, access, vault } }
    }

    /// Whether this machine serves the vault to its site, whose data nodes then hold the keys.
    #[must_use]
    pub const fn served(&self) -> bool {
        self.served
    }

    /// What to call it towards the user.
    #[must_use]
    pub fn called(&self) -> &str {
        &self.called
    }

    /// The vault, where this process has its store open.
    ///
    /// # Errors
    /// `vault-elsewhere` with where to go.
    pub fn vault(&self) -> Result<&Vault, Problem> {
        match &self.reached {
            Reached::Here { vault, .. } => Ok(vault),
            Reached::There { access, .. } => {
                let at: Vec<String> =
                    access.addresses.iter().map(|address| address.ip().to_string()).collect();
                let message = format!(
                    "this is done on the node that serves vault {}, which is at {}",
                    self.called,
                    at.join(" or ")
                );
                Err(Problem::new("vault-elsewhere", message)
                    .hint("nothing that removes or checks is asked for over the network: log in there"))
            }
        }
    }

    /// The vault's id: what names it in caches.
    #[must_use]
    pub const fn id(&self) -> [u8; 16] {
        match &self.reached {
            Reached::Here { vault, .. } => vault.descriptor().id,
            Reached::There { vault, .. } => *vault,
        }
    }

    /// The newest readable key file of each domain that can be seen from here.
    ///
    /// # Errors
    /// Why they cannot be read.
    pub fn key_files(&self) -> Result<Vec<KeyFile>, Problem> {
        match &self.reached {
            Reached::Here { vault, .. } => Ok(vault.key_files()?),
            Reached::There { session, .. } => {
                let versions = session.keeper().key_files()?;
                Ok(versions.iter().find_map(|bytes| KeyFile::decode(bytes).ok()).into_iter().collect())
            }
        }
    }

    /// The newest key file of a domain that was opened.
    ///
    /// # Errors
    /// If the vault has none that can be read.
    pub fn key_file_of(&self, keys: &DomainKeys) -> Result<KeyFile, Problem> {
        self.key_files()?.into_iter().find(|file| file.domain == keys.domain()).ok_or_else(|| {
            Problem::new("vault-key", "the vault has no readable key file of this machine's domain")
                .hint("run `anshin vault verify`")
        })
    }

    /// Stores one more version of a domain's key file.
    ///
    /// # Errors
    /// The storage's own, or that this machine may not.
    pub fn store_key_file(&self, file: &KeyFile) -> Result<(), Problem> {
        match &self.reached {
            Reached::Here { vault, .. } => super::make::store_key_file(vault, file),
            Reached::There { session, .. } => Ok(session.keeper().add_key_file(&file.encode())?),
        }
    }

    /// Opens the domain that this machine has a key of.
    ///
    /// # Errors
    /// `vault-key` with what to do if there is none.
    pub fn unlock(&self, keyring: &Keyring) -> Result<OpenDomain, Problem> {
        keyring.open_any(&self.key_files()?)
    }

    /// A session in a domain; under this client's name where the store is here, else under that of this machine's certificate.
    ///
    /// # Errors
    /// Why the vault cannot be read.
    pub fn session(&self, domain: &OpenDomain, client: &str) -> Result<Session, Problem> {
        let keeper: Arc<dyn Keeper> = match &self.reached {
            Reached::Here { vault, .. } => {
                let writer = if domain.of_site { SITE_WRITER } else { client };
                Arc::new(vault.handle_of(
                    domain.keys.domain(),
                    client,
                    writer,
                    Rights::ADMINISTRATOR,
                    false,
                )?)
            }
            Reached::There { session, .. } => session.keeper().clone(),
        };
        Ok(Session::new(keeper, domain.keys.clone())?)
    }

    /// Carries out a task of those who answer for the vault: in the process that serves it, if there is one.
    ///
    /// # Errors
    /// What it failed with.
    pub fn administer(&self, task: &Task) -> Result<Answer, Problem> {
        let vault = self.vault()?;
        let served = match &self.reached {
            Reached::Here { control, .. } => control::ask(control, task)?,
            Reached::There { .. } => None,
        };
        match served.unwrap_or_else(|| carry_out(vault, task)) {
            Answer::Failed(problem) => Err(problem),
            answer => Ok(answer),
        }
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("called", &self.called).finish_non_exhaustive()
    }
}
