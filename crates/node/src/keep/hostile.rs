//! A stolen credential of a client, at the door of a real vault: it can neither read what is another's nor delete or overwrite
//! anything (I16).

use super::{
    door::SiteDoor,
    link::{AdmitAll, Patience, RemoteKeeper, Served, Server, remote::Target},
    members::LedgerView,
};
use anshin_base::{LedgerIndex, NodeId, Problem, VoterId};
use anshin_director::{
    ClientId, UnixMillis,
    record::{Change, ClientToken, NewClient},
};
use anshin_ledger::{
    Command, State,
    state::{Node, Roles},
};
use anshin_link::{Authority, ClientIdentity, Credentials, CredentialsOf, Identity, NodeKey};
use anshin_vault::{
    ChunkId, DomainId, DomainKeys, Keeper, KeyFile, Kind, MachineKey, Options, Place, Sealed, Session, Sink,
    SnapshotDraft, SnapshotId, SnapshotRecord, SnapshotStats, Source, Vault, VaultError, VerifyOptions,
};
use std::{path::PathBuf, sync::Arc, time::Duration};

struct Site {
    authority: Authority,
    directory: PathBuf,
    vault: Arc<Vault>,
    ledger: LedgerView,
    state: State,
    server: Server,
    // Last: it drives the server.
    runtime: tokio::runtime::Runtime,
}

impl Site {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("anshin-hostile-{name}-{}", std::process::id()));
        let store = Place::parse(directory.join("vault").to_str().unwrap()).unwrap().store(true).unwrap();
        let vault = Arc::new(Vault::create(store, Options::default()).unwrap());
        let authority = Authority::create("test").unwrap();
        let mut state = State::default();
        let node = Node {
            id: NodeId(1),
            name: "a".into(),
            addresses: Vec::new(),
            ports: Default::default(),
            roles: Roles { data: true, ..Roles::default() },
            voter: VoterId(1),
            fingerprint: String::new(),
            state: Default::default(),
            attributes: Default::default(),
        };
        state.nodes.insert(NodeId(1), node);
        for (index, name) in [(1, "laptop"), (2, "victim")] {
            let token = ClientToken { hash: name.into(), name: None, expires: UnixMillis(10) };
            let client = NewClient { name: name.into(), fingerprint: name.into(), platform: "linux".into() };
            for change in [
                Change::AddClientToken { token, at: UnixMillis(0) },
                Change::JoinClient { token: name.into(), at: UnixMillis(0), client },
            ] {
                state.apply(LedgerIndex(index), &Command::Director(change)).unwrap();
            }
        }
        let ledger = LedgerView::new();
        ledger.show(state.clone());
        let door = SiteDoor::open(ledger.clone(), &directory.join("door.json")).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let served = Served {
            vault: vault.clone(),
            name: "main".into(),
            doorkeeper: Arc::new(door),
            admission: Arc::new(AdmitAll),
        };
        let own = node_credentials(&authority, 3, "c");
        let server = runtime.block_on(Server::start(served, &own, "127.0.0.1:0".parse().unwrap())).unwrap();
        Self { authority, directory, vault, ledger, state, server, runtime }
    }

    fn client(&self, client: u64, name: &str) -> CredentialsOf<ClientIdentity> {
        let key = NodeKey::generate().unwrap();
        let signed = self.authority.issue_client(&key.request_pem().unwrap(), client, name).unwrap();
        key.with_client_certificate(&signed, self.authority.certificate_pem()).unwrap()
    }

    fn connect<I: Identity>(
        &self,
        who: &CredentialsOf<I>,
        domain: DomainId,
    ) -> Result<RemoteKeeper, Problem> {
        let addresses = vec![self.server.address()];
        let target = Target { vault: "main".into(), server: NodeId(3), addresses, domain };
        let patience = Patience { first: Duration::from_millis(200), resume: Duration::from_secs(5) };
        RemoteKeeper::connect(who, target, patience)
    }

    fn session<I: Identity>(&self, who: &CredentialsOf<I>, keys: &DomainKeys) -> Session {
        let keeper: Arc<dyn Keeper> = Arc::new(self.connect(who, keys.domain()).unwrap());
        Session::new(keeper, keys.clone()).unwrap()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn node_credentials(authority: &Authority, node: u32, name: &str) -> Credentials {
    let key = NodeKey::generate().unwrap();
    let signed = authority.issue(&key.request_pem().unwrap(), NodeId(node), name).unwrap();
    key.with_certificate(&signed, authority.certificate_pem()).unwrap()
}

fn back_up(session: &Session, content: &[u8]) -> (SnapshotId, ChunkId) {
    let data = session.put(Kind::Data, &[], content).unwrap();
    let root = session.put(Kind::Tree, &[data], b"root").unwrap();
    let id = SnapshotId::generate().unwrap();
    let draft = SnapshotDraft {
        id,
        plan: String::new(),
        run: String::new(),
        time: 0,
        root,
        entries: 1,
        bytes: content.len() as u64,
        meta: b"mine".to_vec(),
    };
    session.seal(draft).unwrap();
    (id, root)
}

fn denied<T: std::fmt::Debug>(result: Result<T, VaultError>) {
    assert!(matches!(result, Err(VaultError::Denied(_))), "{result:?}");
}

#[test]
fn a_stolen_credential_neither_reads_what_is_anothers_nor_deletes_or_overwrites_anything() {
    let site = Site::new("stolen");
    let (own, site_keys, victims) =
        (DomainKeys::generate().unwrap(), DomainKeys::generate().unwrap(), DomainKeys::generate().unwrap());
    // What is there before: the site's, another client's, and the thief's host's own.
    let node = node_credentials(&site.authority, 1, "a");
    let (of_site, root_of_site) = back_up(&site.session(&node, &site_keys), b"the site's");
    let victim = site.client(2, "victim");
    let (of_victim, root_of_victim) = back_up(&site.session(&victim, &victims), b"the victim's");
    let stolen = site.client(1, "laptop");
    let session = site.session(&stolen, &own);
    let (of_own, root_of_own) = back_up(&session, b"its own");

    // Nobody else's key domain opens to it, whatever keys it may have.
    for domain in [site_keys.domain(), victims.domain()] {
        let refused = site.connect(&stolen, domain).err().unwrap();
        assert_eq!(refused.code, "vault-refused", "{refused}");
    }
    let keeper = site.connect(&stolen, own.domain()).unwrap();
    // Nothing is read: neither objects, its own included, nor that others have any.
    for id in [root_of_site, root_of_victim, root_of_own] {
        denied(keeper.get(&[id]));
    }
    assert_eq!(keeper.snapshots().unwrap().len(), 1);
    assert!(keeper.missing(&[root_of_site, root_of_victim]).unwrap().iter().all(|missing| *missing));
    // Nothing is removed.
    for id in [of_site, of_victim, of_own] {
        denied(keeper.forget(id));
        denied(keeper.remember(id));
    }
    // Nothing is overwritten: neither a snapshot, under whatever name, nor what opens the domain.
    let record = |id: SnapshotId, client: &str| SnapshotRecord {
        id,
        client: client.into(),
        plan: String::new(),
        run: String::new(),
        time: i64::MAX,
        root: root_of_own,
        stats: SnapshotStats::default(),
        meta: Vec::new(),
    };
    denied(keeper.seal_snapshot(record(SnapshotId::generate().unwrap(), "victim")));
    denied(keeper.seal_snapshot(record(SnapshotId::generate().unwrap(), "a")));
    let machine = MachineKey::generate().unwrap();
    let file = KeyFile::of(&own, "laptop", machine.secret(), "laptop", 1).unwrap();
    keeper.add_key_file(&file.encode()).unwrap();
    denied(keeper.add_key_file(&file.encode()));
    let theirs = KeyFile::of(&victims, "victim", machine.secret(), "thief", 1).unwrap();
    assert!(keeper.add_key_file(&theirs.encode()).is_err());
    let other_root = Sealed::seal(&own, &own.name_of_data(b"x"), Kind::Data, &[], b"x");
    keeper.put(vec![other_root.clone()]).unwrap();
    let mut again = record(of_own, "laptop");
    again.root = other_root.id();
    assert!(matches!(keeper.seal_snapshot(again), Err(VaultError::Exists(_))));
    // An object under a name that is not its content's poisons its own domain at most.
    let poison = Sealed::seal(&own, &own.name_of_data(b"y"), Kind::Data, &[], b"y");
    keeper.put(vec![poison]).unwrap();
    keeper.flush().unwrap();

    // Everything is as it was.
    let all = site.vault.snapshots().unwrap();
    assert_eq!(all.len(), 3);
    assert!(all.iter().all(|(_, snapshot)| snapshot.forgotten.is_none()));
    let verified =
        site.vault.verify(&VerifyOptions { keys: vec![site_keys.clone(), victims.clone(), own] }).unwrap();
    assert!(verified.is_good(), "{verified:?}");
    assert_eq!(site.session(&node, &site_keys).get(&root_of_site).unwrap().plain, b"root");
}

#[test]
fn a_client_whose_right_was_taken_back_and_one_that_was_never_let_in_stay_outside() {
    let site = Site::new("revoked");
    let keys = DomainKeys::generate().unwrap();
    let laptop = site.client(1, "laptop");
    let session = site.session(&laptop, &keys);
    back_up(&session, b"before");
    let mut state = site.state.clone();
    let revoke = Change::RevokeClient { client: ClientId(1), at: UnixMillis(1) };
    state.apply(LedgerIndex(9), &Command::Director(revoke)).unwrap();
    site.ledger.show(state);
    let refused = site.connect(&laptop, keys.domain()).err().unwrap();
    assert!(refused.message.contains("taken back"), "{refused}");
    // A certificate of the authority alone is not enough, and none passes for a node's.
    let unknown = site.client(7, "unknown");
    let refused = site.connect(&unknown, DomainId([7; 16])).err().unwrap();
    assert!(refused.message.contains("no client of the site"), "{refused}");
    let _running = &site.runtime;
}
