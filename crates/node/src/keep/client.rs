//! A machine outside the site that backs up into its vaults: its token, its joining, what it keeps.
//!
//! Its credential can add to a key domain of its own and do nothing else. The domain's key is made on the machine and never leaves
//! it; its recovery key is in its owner's hands before the site hears of the machine.

use super::{
    host_name,
    keyring::{Keyring, OpenDomain},
    link::Patience,
    members, open, unix_now, write_private,
};
use crate::{
    backup::job::VaultAccess,
    paths::Paths,
    setup::{self, ClientGrant, ClientHello},
};
use anshin_base::Problem;
use anshin_director::{
    ClientName, UnixMillis,
    record::{Change, ClientToken as TokenRecord},
};
use anshin_ledger::Command;
use anshin_link::{
    Authority, ClientIdentity, ClientToken, CredentialsOf, JoinToken, NodeKey, identity::check_name,
};
use anshin_vault::{DomainId, KeyFile, NewDomain, RecoveryKey, Session};
use serde::{Deserialize, Serialize};
use std::{fs, net::SocketAddr, path::PathBuf};

/// Addresses named in a token.
const ADDRESSES_MAX: usize = 16;

/// What a client knows of its site, as kept in `client.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientFile {
    /// Name of the site.
    pub site: String,
    /// Name of this client.
    pub name: String,
    /// Its number in the site.
    pub id: u64,
    /// Its key domain, 32 hexadecimal digits.
    pub domain: String,
    /// The site's vaults as they were when it joined.
    pub vaults: Vec<VaultAccess>,
}

fn file(paths: &Paths) -> PathBuf {
    paths.etc.join("client.toml")
}

impl ClientFile {
    /// Reads the file; None on a machine that is no client.
    ///
    /// # Errors
    /// A file that cannot be read or makes no sense.
    pub fn load(paths: &Paths) -> Result<Option<Self>, Problem> {
        let path = file(paths);
        let problem = |why: String| Problem::new("client-file", format!("{}: {why}", path.display()));
        match fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).map(Some).map_err(|error| problem(error.to_string())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(problem(error.to_string())),
        }
    }

    fn save(&self, paths: &Paths) -> Result<(), Problem> {
        let text = toml::to_string(self)
            .map_err(|error| Problem::new("client-file", format!("it cannot be written: {error}")))?;
        write_private(&file(paths), text.as_bytes())
    }

    /// The client's key domain.
    ///
    /// # Errors
    /// `vault-key` if this machine cannot open it.
    pub fn open_domain(&self, keyring: &Keyring) -> Result<OpenDomain, Problem> {
        let opened = DomainId::parse(&self.domain).and_then(|domain| keyring.domain(domain));
        opened.ok_or_else(|| {
            Problem::new("vault-key", format!("the key of client {} is not on this machine", self.name)).hint(
                "where the vault is, its recovery key opens what was backed up: `anshin vault keys recover`",
            )
        })
    }
}

/// Makes a token with which one machine can become a client: on a data node, through its voter.
///
/// # Errors
/// `not-a-data-node`, or that the ledger cannot decide now.
pub fn create_token(paths: &Paths, name: Option<&str>, valid_s: u64) -> Result<(ClientToken, u64), Problem> {
    let authority = Authority::load(&paths.identity())?.ok_or_else(|| {
        Problem::new("not-a-data-node", "tokens are made where the key of the site's authority is")
            .hint("run it on a data node of the site")
    })?;
    let name =
        name.map(|name| check_name("client", name).and_then(|()| ClientName::checked(name))).transpose()?;
    let state = members::look(paths).ok_or_else(|| {
        Problem::new("node-unreachable", "this node's voter cannot be reached").hint("is the daemon running?")
    })?;
    let data_nodes = state.nodes.values().filter(|node| node.roles.data);
    let endpoints = data_nodes.flat_map(|node| {
        let endpoint =
            |address: &String| Some(SocketAddr::new(address.parse().ok()?, node.ports.join).to_string());
        node.addresses.iter().filter_map(endpoint).collect::<Vec<_>>()
    });
    let endpoints: Vec<String> = endpoints.take(ADDRESSES_MAX).collect();
    let now = unix_now();
    let token = JoinToken::create(authority.site_name(), authority.fingerprint(), endpoints, now + valid_s)?;
    let millis = |seconds: u64| UnixMillis(i64::try_from(seconds.saturating_mul(1_000)).unwrap_or(i64::MAX));
    let record =
        TokenRecord { hash: setup::token_hash(token.secret_hash()), name, expires: millis(now + valid_s) };
    members::propose_now(
        paths,
        Command::Director(Change::AddClientToken { token: record, at: millis(now) }),
    )?;
    let expires = token.expires;
    Ok((ClientToken(token), expires))
}

/// Makes this machine a client of the site that gave the token. `hand_over` gives the recovery key to its owner and has it
/// proven that it arrived; the site is not asked before.
///
/// # Errors
/// A token that is malformed, expired, used or of a site that cannot be reached; a machine that is a node or client already.
pub fn join(
    paths: &Paths,
    token: &str,
    name: Option<&str>,
    hand_over: impl FnOnce(&RecoveryKey) -> Result<(), Problem>,
) -> Result<ClientFile, Problem> {
    setup::refuse_second(paths)?;
    if let Some(known) = ClientFile::load(paths)? {
        let message = format!("this machine is client {} of site {} already", known.name, known.site);
        return Err(Problem::new("client-exists", message)
            .hint(format!("to start over, remove {}", file(paths).display())));
    }
    let ClientToken(token) = token.parse()?;
    if token.expires < unix_now() {
        let problem = Problem::new("token-expired", format!("this token of site {} has expired", token.site));
        return Err(problem.hint("make a new one on a data node of the site: anshin client token create"));
    }
    let name = name.map_or_else(host_name, str::to_owned);
    check_name("client", &name)?;
    let mut keyring = Keyring::open(paths, None)?;
    let machine = keyring.machine_or_new()?;
    let NewDomain { keys, file, recovery } = KeyFile::create(&name, machine.secret(), &name, unix_now())?;
    hand_over(&recovery)?;
    keyring.keep(&file)?;

    let key = NodeKey::generate()?;
    let hello = ClientHello {
        secret: token.secret,
        name: name.clone(),
        request_pem: key.request_pem()?,
        platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        version: crate::VERSION.into(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Problem::new("join-start", error.to_string()))?;
    let ClientGrant { client, certificate_pem, authority_pem, vaults } =
        runtime.block_on(setup::ask_as_client(&token, &hello))?;
    key.with_client_certificate(&certificate_pem, &authority_pem)?.save(&paths.identity())?;
    let joined = ClientFile { site: token.site, name, id: client, domain: keys.domain().to_string(), vaults };
    joined.save(paths)?;
    Ok(joined)
}

/// Opens a session of a client with a vault; also gives the vault's own id.
///
/// # Errors
/// `vault-key`, `vault-unreachable`, `vault-refused`.
pub fn open_session(
    paths: &Paths,
    client: &ClientFile,
    access: &VaultAccess,
    patience: Patience,
) -> Result<(Session, [u8; 16]), Problem> {
    let domain = client.open_domain(&Keyring::open(paths, None)?)?;
    let credentials = CredentialsOf::<ClientIdentity>::load(&paths.identity())?;
    open::open_with(&*credentials, &domain, access, patience)
}
