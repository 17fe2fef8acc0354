//! A session of a data node with a vault of its site.

use super::{
    keyring::{Keyring, OpenDomain},
    link::{Patience, RemoteKeeper, remote::Target},
};
use crate::{backup::job::VaultAccess, paths::Paths};
use anshin_base::Problem;
use anshin_link::{Credentials, CredentialsOf, Identity};
use anshin_vault::{Keeper, KeyFile, Session};
use std::sync::Arc;

/// Opens a session with the process that serves a vault, in the site's key domain: with the identity and the keys that this node
/// keeps in its usual places.
///
/// # Errors
/// `vault-key` on a node that has no key of the site's data, `vault-unreachable`, `vault-refused`.
pub fn open_session(paths: &Paths, access: &VaultAccess) -> Result<Session, Problem> {
    open_patiently(paths, access, Patience::default()).map(|(session, _)| session)
}

/// [`open_session`] with another patience than the usual one; also gives the vault's own id.
///
/// # Errors
/// As [`open_session`].
pub fn open_patiently(
    paths: &Paths,
    access: &VaultAccess,
    patience: Patience,
) -> Result<(Session, [u8; 16]), Problem> {
    let ring = Keyring::open(paths, None)?;
    let domain = ring.site()?.ok_or_else(|| {
        Problem::new(
            "vault-key",
            "this node has no key of the site's data, so it can neither back up nor read backups",
        )
        .hint("run it on a data node")
    })?;
    open_with(&*Credentials::load(&paths.identity())?, &domain, access, patience)
}

/// A session of whoever these credentials and keys are of.
pub(super) fn open_with<I: Identity>(
    credentials: &CredentialsOf<I>,
    domain: &OpenDomain,
    access: &VaultAccess,
    patience: Patience,
) -> Result<(Session, [u8; 16]), Problem> {
    let target = Target {
        vault: access.name.to_string(),
        server: access.server,
        addresses: access.addresses.clone(),
        domain: domain.keys.domain(),
    };
    let keeper = RemoteKeeper::connect(credentials, target, patience)?;
    // Before any data: whoever finds the vault alone must find with it what the recovery key opens.
    let files = keeper.key_files()?;
    let own = |bytes: &Vec<u8>| KeyFile::decode(bytes).is_ok_and(|file| file.domain == domain.keys.domain());
    if !files.iter().any(own) {
        keeper.add_key_file(&domain.file.encode())?;
    }
    let vault = keeper.vault();
    let keeper: Arc<dyn Keeper> = Arc::new(keeper);
    Ok((Session::new(keeper, domain.keys.clone())?, vault))
}
