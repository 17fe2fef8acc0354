//! Making a vault, and making, adding and recovering keys.
//!
//! In the order in which nothing can be lost: the recovery key is in its owner's hands before anything is made with it, the
//! machine's key is durable before a key file names it, and the key file before any data is encrypted under it.

use super::{
    VaultSettings,
    keyring::{Keyring, OpenDomain},
    tending, unix_now,
};
use crate::{paths::Paths, setup::NodeFile};
use anshin_base::Problem;
use anshin_director::VaultName;
use anshin_vault::{Keeper, KeyFile, NewDomain, Options, RecoveryKey, Rights, Secret, Vault, VaultError};

/// Name of a vault that is given none.
pub const USUAL_NAME: &str = "main";

/// What is to be made.
#[derive(Clone, Debug)]
pub struct Make {
    /// Where.
    pub settings: VaultSettings,
    /// Under which name this machine remembers it.
    pub name: VaultName,
    /// Name of this machine, in the key domain that is made for it.
    pub machine: String,
    /// The vault is there already: only a key domain is made in it.
    pub attach: bool,
}

/// Whose data will be in it.
#[allow(clippy::large_enum_variant, reason = "there is one of it at a time")]
enum Owner {
    /// This machine's: it gets a key domain of its own.
    Machine,
    /// The site's, of which this machine is a data node.
    Site(OpenDomain),
    /// The site's, of which this machine is a node without data: it holds the store and no key.
    NotHere,
}

/// What was made.
pub struct Made {
    /// The vault.
    pub vault: Vault,
    /// Name of the key domain that this machine has in it; None if it holds the store only.
    pub domain: Option<String>,
}

/// Whether this machine holds the keys of what a vault made here will keep, so that a recovery key is handed over.
///
/// # Errors
/// Keys or a node file that are there and cannot be read.
pub fn holds_keys(paths: &Paths, keyring: &Keyring) -> Result<bool, Problem> {
    Ok(!matches!(owner(paths, keyring)?, Owner::NotHere))
}

fn owner(paths: &Paths, keyring: &Keyring) -> Result<Owner, Problem> {
    Ok(match (keyring.site()?, NodeFile::load(paths)?) {
        (Some(domain), _) => Owner::Site(domain),
        (None, Some(_)) => Owner::NotHere,
        (None, None) => Owner::Machine,
    })
}

/// Makes a vault with the key domain of this machine or its site, or, to attach, the domain alone. `hand_over` gives the recovery
/// key to its owner and has it proven that it arrived; nothing is made if that fails. It is not asked for on a machine that
/// holds no keys.
///
/// # Errors
/// A name or place that is taken, a storage that cannot hold a vault, or what `hand_over` failed with.
pub fn make(
    paths: &Paths,
    keyring: &mut Keyring,
    make: &Make,
    hand_over: impl FnOnce(&RecoveryKey) -> Result<(), Problem>,
) -> Result<Made, Problem> {
    if let Some(known) = VaultSettings::load(paths, &make.name)? {
        let message = format!("this machine has a vault `{}` already: {}", make.name, known.url);
        return Err(Problem::refused("vault-exists", message).hint("choose another name with --name"));
    }
    let place = make.settings.place()?;
    let before =
        match place.clone().store(!make.attach).and_then(|store| Vault::open(store, Options::default())) {
            Ok(vault) => Some(vault),
            Err(VaultError::NotFound(_)) => None,
            Err(error) => return Err(error.into()),
        };
    let vault = match (before, make.attach) {
        (Some(vault), true) => Some(vault),
        (None, false) => None,
        (None, true) => {
            let message = format!("there is no vault at {}", make.settings.url);
            return Err(Problem::new("vault-not-found", message).hint("without --attach one is made"));
        }
        (Some(vault), false) => {
            let message = format!("there is a vault at {} already", vault.place());
            return Err(Problem::refused("vault-exists", message).hint(
                "--attach gives this machine a key domain of its own in it; with its recovery key, `anshin vault keys recover --vault URL` opens what is there",
            ));
        }
    };
    let owner = owner(paths, keyring)?;
    // What is made on a node of a site is for the site.
    let serve = !make.attach && !matches!(owner, Owner::Machine);
    if let Some(other) = tending::served(paths)?.first().filter(|_| serve) {
        let message = format!("this node serves vault `{other}` already, and a node serves one");
        return Err(Problem::new("vault-exists", message).hint("make it on another node"));
    }
    let file = match owner {
        Owner::Machine => {
            let machine = keyring.machine_or_new()?;
            let NewDomain { file, recovery, .. } =
                KeyFile::create(&make.machine, machine.secret(), &make.machine, unix_now())?;
            hand_over(&recovery)?;
            keyring.keep(&file)?;
            Some(file)
        }
        Owner::Site(domain) => {
            let recovery = RecoveryKey::generate()?;
            let file = with_recovery(&domain, &recovery)?;
            hand_over(&recovery)?;
            Some(file)
        }
        Owner::NotHere => None,
    };
    let vault = match vault {
        Some(vault) => vault,
        None => Vault::create(place.store(true)?, Options::default())?,
    };
    if let Some(file) = &file {
        store_key_file(&vault, file)?;
    }
    VaultSettings { serve, ..make.settings.clone() }.save(paths, &make.name)?;
    Ok(Made { vault, domain: file.map(|file| file.name) })
}

/// Makes the vault that a node with the vault role serves, in its usual place; one that is there already is taken as it is.
///
/// # Errors
/// A place that cannot hold a vault.
pub fn make_usual(paths: &Paths) -> Result<(), Problem> {
    let name = VaultName::from(USUAL_NAME);
    if VaultSettings::load(paths, &name)?.is_some() {
        return Ok(());
    }
    let place = paths.var.join("vault");
    let url = place.to_str().ok_or_else(|| {
        Problem::new(
            "vault-url",
            format!("`{}` is not UTF-8, which the place of a vault must be", place.display()),
        )
    })?;
    let settings = VaultSettings { url: url.to_owned(), serve: true, ..VaultSettings::default() };
    let store = settings.place()?.store(true)?;
    match Vault::create(store, Options::default()) {
        Ok(_) | Err(VaultError::Exists(_)) => settings.save(paths, &name),
        Err(error) => Err(error.into()),
    }
}

/// The domain's key file with one more recovery key, tested as it will be used: typed in from its printed form.
///
/// # Errors
/// If the test fails.
pub fn with_recovery(domain: &OpenDomain, recovery: &RecoveryKey) -> Result<KeyFile, Problem> {
    let file = domain.file.with_slot(&domain.keys, Secret::Recovery(recovery), "printed", unix_now())?;
    let typed: RecoveryKey = recovery.to_string().parse()?;
    let opened = KeyFile::decode(&file.encode())?.unlock(Secret::Recovery(&typed))?;
    if opened.secret() != domain.keys.secret() {
        return Err(Problem::new(
            "vault-key",
            "a new recovery key did not open what it had closed; nothing was made",
        ));
    }
    Ok(file)
}

/// Opens a domain of the vault with its recovery key or passphrase, and gives this machine a key of its own to it.
///
/// # Errors
/// `vault-key` if it opens none of the domains.
pub fn recover(
    vault: &Vault,
    keyring: &mut Keyring,
    secret: Secret<'_>,
    label: &str,
) -> Result<KeyFile, Problem> {
    let mut refused = None;
    for versions in vault.key_file_versions()? {
        for opened in &versions {
            let keys = match opened.unlock(secret) {
                Ok(keys) => keys,
                Err(error @ VaultError::Key(_)) => {
                    refused = refused.or(Some(error));
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let machine = keyring.machine_or_new()?;
            // Onto the version that was opened: a later one may have been written by somebody who wanted this key out, which only a
            // new domain can do.
            let file = opened.with_slot(&keys, machine.secret(), label, unix_now())?;
            // The machine's own copy first: it opens the domain even if the vault cannot be written now.
            keyring.keep(&file)?;
            store_key_file(vault, &file)?;
            return Ok(file);
        }
    }
    Err(refused.map_or_else(
        || Problem::new("vault-empty", "this vault has no key domain that could be recovered"),
        Into::into,
    ))
}

/// Stores one more version of a domain's key file.
///
/// # Errors
/// The storage's own.
pub fn store_key_file(vault: &Vault, file: &KeyFile) -> Result<(), Problem> {
    let handle = vault.handle(file.domain, &file.name, Rights::ADMINISTRATOR, false)?;
    Ok(handle.add_key_file(&file.encode())?)
}
