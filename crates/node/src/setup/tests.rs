//! Joining over a relay that keeps all it passes on: who gets which secret, and that the relay gets none.

use super::{JoinServer, Propose, join, token_hash, unix_now};
use crate::{
    keep::{self, Keyring},
    paths::Paths,
    view::{JoinRequest, Role},
};
use anshin_base::{LedgerIndex, NodeId};
use anshin_director::{
    UnixMillis,
    record::{Change, ClientToken as TokenRecord, VaultRecord},
};
use anshin_ledger::{
    Command, State,
    state::{JoinToken as LedgerToken, NewNode, Ports, Roles, Site, Timing, UnixSeconds},
};
use anshin_link::{Authority, ClientToken, JoinToken, NodeKey, SiteId};
use anshin_vault::DomainKeys;
use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A data node that lets others join, behind a relay.
struct Host {
    directory: PathBuf,
    authority: Authority,
    keys: DomainKeys,
    state: Arc<Mutex<State>>,
    seen: Arc<Mutex<Vec<u8>>>,
    relay: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Host {
    fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("anshin-setup-{}-{number}", std::process::id()));
        let (authority, keys) = (Authority::create("test").unwrap(), DomainKeys::generate().unwrap());
        let key = NodeKey::generate().unwrap();
        let certificate = authority.issue(&key.request_pem().unwrap(), NodeId(1), "a").unwrap();
        let credentials = key.with_certificate(&certificate, authority.certificate_pem()).unwrap();
        let state = Arc::new(Mutex::new(first_state(&authority)));

        let changed = state.clone();
        let propose: Propose = Arc::new(move |command| {
            let changed = changed.clone();
            Box::pin(async move { Ok(changed.lock().unwrap().apply(LedgerIndex(9), &command)) })
        });
        let shown = state.clone();
        let signer = Authority::from_pem(authority.certificate_pem(), authority.key_pem()).unwrap();
        let server = JoinServer::new(
            Arc::new(credentials),
            Arc::new(signer),
            propose,
            Arc::new(move || Arc::new(shown.lock().unwrap().clone())),
        );
        let server = server.with_backup_keys(Some(keys.clone()));
        let address: SocketAddr = format!("127.0.0.1:{}", free_port()).parse().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(server.run(address));
        while TcpStream::connect(address).is_err() {
            thread::yield_now();
        }
        let seen: Arc<Mutex<Vec<u8>>> = Arc::default();
        let relay = relay(address, seen.clone());
        Self { directory, authority, keys, state, seen, relay, _runtime: runtime }
    }

    fn paths(&self, machine: &str) -> Paths {
        Paths::below(&self.directory.join(machine))
    }

    fn token(&self) -> JoinToken {
        let addresses = vec![self.relay.to_string()];
        JoinToken::create("test", self.authority.fingerprint(), addresses, unix_now() + 60).unwrap()
    }

    /// Joins as a node of these roles, through the relay.
    fn join(&self, name: &str, roles: &[Role]) -> Paths {
        let (token, paths) = (self.token(), self.paths(name));
        let known = LedgerToken {
            hash: token_hash(token.secret_hash()),
            roles: Roles::ALL,
            expires: UnixSeconds(token.expires),
            used_by: None,
        };
        self.state.lock().unwrap().apply(LedgerIndex(8), &Command::AddToken(known)).unwrap();
        let request = JoinRequest {
            token: token.to_string(),
            roles: roles.to_vec(),
            node: Some(name.into()),
            address: Some("127.0.0.1".into()),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(join(&paths, &request)).unwrap();
        paths
    }

    fn relay_saw(&self, secret: &[u8]) -> bool {
        let seen = self.seen.lock().unwrap();
        assert!(seen.len() > 1000, "the relay saw nothing at all");
        let as_json = secret.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        seen.windows(16).any(|window| window == &secret[..16])
            || seen.windows(as_json.len()).any(|window| window == as_json.as_bytes())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn first_state(authority: &Authority) -> State {
    let mut state = State::default();
    let site = Site {
        name: "test".into(),
        id: crate::voter::site_number(SiteId([1; 16])),
        ca_certificate: authority.certificate_pem().into(),
        timing: Timing::default(),
    };
    let first = NewNode {
        name: "a".into(),
        addresses: vec!["127.0.0.1".into()],
        ports: Ports::default(),
        roles: Roles { data: true, ..Roles::default() },
        fingerprint: "a".into(),
    };
    let vault = VaultRecord {
        name: "main".into(),
        id: "1".into(),
        url: "/srv/vault".into(),
        node: NodeId(1),
        concurrent: 1,
    };
    let commands =
        [Command::InitSite(site), Command::FirstNode(first), Command::Director(Change::SetVault(vault))];
    for (at, command) in commands.iter().enumerate() {
        state.apply(LedgerIndex(at as u64 + 1), command).unwrap();
    }
    state
}

/// Passes on all that comes, and keeps it.
fn relay(to: SocketAddr, seen: Arc<Mutex<Vec<u8>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, other) = (stream.unwrap(), TcpStream::connect(to).unwrap());
            for (mut from, mut to) in
                [(stream.try_clone().unwrap(), other.try_clone().unwrap()), (other, stream)]
            {
                let seen = seen.clone();
                thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while let Ok(length @ 1..) = from.read(&mut buffer) {
                        seen.lock().unwrap().extend_from_slice(&buffer[..length]);
                        if to.write_all(&buffer[..length]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        }
    });
    address
}

#[test]
fn a_data_node_gets_the_key_of_the_backups_and_nobody_else_does() {
    let host = Host::new();
    let data = host.join("b", &[Role::Data]);
    let site = Keyring::open(&data, None).unwrap().site().unwrap().unwrap();
    assert_eq!(site.keys.secret(), host.keys.secret());

    // The third box: a vote and the vault, and neither this key nor the authority's.
    let third = host.join("c", &[Role::Witness, Role::Vault]);
    assert!(Keyring::open(&third, None).unwrap().site().unwrap().is_none());
    assert!(Authority::load(&third.identity()).unwrap().is_none());
    assert_eq!(keep::tending::served(&third).unwrap(), ["main".into()]);
    assert!(third.var.join("vault/vault").exists());

    assert!(!host.relay_saw(host.keys.secret()));
}

#[test]
fn a_relay_that_answers_itself_is_not_believed() {
    let (host, other) = (Host::new(), Host::new());
    // The token is of `host`, the address leads to another site that is up to no good.
    let mut token = host.token();
    token.addresses = vec![other.relay.to_string()];
    let request = JoinRequest {
        token: token.to_string(),
        roles: vec![Role::Data],
        node: Some("b".into()),
        address: Some("127.0.0.1".into()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let paths = host.paths("b");
    let refused = runtime.block_on(join(&paths, &request)).unwrap_err();
    assert_eq!(refused.code, "site-unreachable", "{refused}");
    assert!(Keyring::open(&paths, None).unwrap().site().unwrap().is_none());
}

#[test]
fn a_client_joins_with_one_token_once_and_gets_no_key_but_its_own() {
    let host = Host::new();
    let token = host.token();
    let millis = |seconds: u64| UnixMillis(seconds as i64 * 1_000);
    let record =
        TokenRecord { hash: token_hash(token.secret_hash()), name: None, expires: millis(token.expires) };
    let change = Change::AddClientToken { token: record, at: millis(unix_now()) };
    host.state.lock().unwrap().apply(LedgerIndex(8), &Command::Director(change)).unwrap();
    let text = ClientToken(token).to_string();

    let paths = host.paths("laptop");
    let client = keep::client::join(&paths, &text, Some("laptop"), |_| Ok(())).unwrap();
    assert_eq!((client.id, client.vaults.len(), client.vaults[0].addresses.len()), (1, 1, 1));
    assert_eq!(keep::client::ClientFile::load(&paths).unwrap().as_ref(), Some(&client));
    let keyring = Keyring::open(&paths, None).unwrap();
    assert!(keyring.site().unwrap().is_none());
    let own = client.open_domain(&keyring).unwrap();
    assert_ne!(own.keys.domain(), host.keys.domain());
    assert!(!host.relay_saw(host.keys.secret()) && !host.relay_saw(own.keys.secret()));

    // Neither twice nor as something else.
    let again = keep::client::join(&paths, &text, Some("laptop"), |_| Ok(())).unwrap_err();
    assert_eq!(again.code, "client-exists");
    let used = keep::client::join(&host.paths("other"), &text, Some("other"), |_| Ok(())).unwrap_err();
    assert_eq!(used.code, "token-refused", "{used}");
    // Nothing happens before the recovery key is in somebody's hands.
    let nobody = host.paths("nobody");
    let refused = anshin_base::Problem::new("recovery-key", "no");
    keep::client::join(&nobody, &text, None, |_| Err(refused)).unwrap_err();
    assert_eq!(keep::client::ClientFile::load(&nobody).unwrap(), None);
}
