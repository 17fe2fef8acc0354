//! One suite for every storage.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use anshin_vault::store::fault::FaultStore;
use anshin_vault::store::local::LocalStore;
use anshin_vault::store::{Store, probe};
use anshin_vault::{Vault, VaultError, VerifyOptions};
use bytes::Bytes;
use common::*;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

/// What every storage must do.
fn conforms(store: Arc<dyn Store>) {
    probe(&*store, 1).unwrap();
    contents(&*store);
    races(&store);
    whole_vault(store);
}

fn contents(store: &dyn Store) {
    let big = Numbers(3).bytes(3 << 20);
    store.put("a/one", &[Bytes::from_static(b"hello "), Bytes::from_static(b"world")]).unwrap();
    store.put("a/b/two", &[big.clone().into()]).unwrap();
    store.put("a/empty", &[]).unwrap();
    store.put("ab", &[Bytes::from_static(b"x")]).unwrap();
    assert_eq!(store.get("a/one").unwrap(), b"hello world"[..]);
    assert!(store.get("a/b/two").unwrap() == big);
    assert_eq!(store.get("a/empty").unwrap(), b""[..]);
    assert_eq!(store.get_range("a/one", 4, 4).unwrap(), b"o wo"[..]);
    assert!(store.get_range("a/b/two", 1 << 20, 1 << 20).unwrap() == big[1 << 20..2 << 20]);
    for (offset, length) in [(8, 10), (11, 1), (500, 1)] {
        let result = store.get_range("a/one", offset, length);
        assert!(matches!(result, Err(VaultError::Damaged { .. })), "{offset} {length}: {result:?}");
    }
    let listed = store.list("a/").unwrap();
    assert_eq!(
        listed,
        [("a/b/two".to_owned(), 3 << 20), ("a/empty".to_owned(), 0), ("a/one".to_owned(), 11)]
    );
    assert_eq!(store.list("").unwrap().len(), 4);
    assert_eq!(store.list("nothing/").unwrap(), []);
    assert!(matches!(store.put("a/one", &[Bytes::from_static(b"y")]), Err(VaultError::Exists(_))));
    assert_eq!(store.get("a/one").unwrap(), b"hello world"[..]);
    for result in [store.get("a/none").map(drop), store.get_range("a/none", 0, 1).map(drop)] {
        assert!(matches!(result, Err(VaultError::NotFound(_))), "{result:?}");
    }
    store.delete("a/none").unwrap();
    store.delete("a/one").unwrap();
    assert!(matches!(store.get_range("a/one", 0, 1), Err(VaultError::NotFound(_))));
    store.put("a/one", &[Bytes::from_static(b"again")]).unwrap();
    assert_eq!(store.get_range("a/one", 0, 5).unwrap(), b"again"[..]);
    store.delete_many(&["a/one", "a/b/two", "a/empty", "ab", "a/none"].map(str::to_owned)).unwrap();
    assert_eq!(store.list("").unwrap(), []);
    assert!(store.put("../escape", &[]).is_err());
}

/// Of many that put one name at once exactly one succeeds, and its content is what is there.
fn races(store: &Arc<dyn Store>) {
    for round in 0..5 {
        let name = format!("race/{round}");
        let won: Vec<u8> = std::thread::scope(|scope| {
            let put = |n: u8| {
                let (store, name) = (store.clone(), name.clone());
                move || store.put(&name, &[vec![n; 5000].into()]).is_ok().then_some(n)
            };
            let threads: Vec<_> = (0..6).map(|n| scope.spawn(put(n))).collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(won.len(), 1, "{won:?} all won");
        assert!(store.get(&name).unwrap().iter().all(|byte| *byte == won[0]));
        store.delete(&name).unwrap();
    }
}

fn whole_vault(store: Arc<dyn Store>) {
    let clock = TestClock::default();
    let vault = create(store.clone(), &clock);
    let (one, two) = (files(&mut Numbers(40), 40), files(&mut Numbers(41), 40));
    let first = backup(&session(&vault, &keys(1), "alpha"), &one).unwrap();
    let second = backup(&session(&vault, &keys(1), "alpha"), &two).unwrap();
    vault.forget(keys(1).domain(), first.record.id).unwrap();
    assert!(vault.gc().unwrap().packs_deleted > 0);
    drop(vault);
    let vault = Vault::open(store, options(&clock)).unwrap();
    assert_eq!(get_files(&session(&vault, &keys(1), "alpha"), &second.record.root).unwrap(), two);
    let report = vault.verify(&VerifyOptions { keys: vec![keys(1)] }).unwrap();
    assert!(report.findings.is_empty() && report.snapshots.is_empty(), "{report:?}");
    assert!(matches!(
        get_files(&session(&vault, &keys(1), "alpha"), &first.record.root),
        Err(VaultError::Missing(_))
    ));
}

/// A directory that is removed with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("anshin-vault-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn memory_conforms() {
    conforms(Arc::new(FaultStore::new()));
}

#[test]
fn a_directory_conforms() {
    let scratch = Scratch::new("local");
    conforms(Arc::new(LocalStore::create(&scratch.0.join("deep/vault")).unwrap()));
    // Nothing half-written is ever left, and nobody else may look.
    assert!(!scratch.0.join("deep/vault/tmp").exists());
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(scratch.0.join("deep/vault")).unwrap().permissions().mode() & 0o77, 0);
}

#[test]
fn a_directory_that_is_not_there_is_no_vault() {
    let missing = LocalStore::open(std::path::Path::new("/nonexistent/vault"));
    assert!(matches!(missing, Err(VaultError::NotFound(_))));
}

#[test]
fn foreign_files_in_the_directory_are_named() {
    let scratch = Scratch::new("foreign");
    let vault = create(Arc::new(LocalStore::create(&scratch.0).unwrap()), &TestClock::default());
    std::fs::write(scratch.0.join("notes.txt"), b"x").unwrap();
    let report = vault.verify(&VerifyOptions::default()).unwrap();
    assert_eq!(report.findings.len(), 1);
    assert_eq!(report.findings[0].what, "notes.txt");
}

/// A server that is stopped with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn wait_for(port: u16) -> bool {
    (0..200).any(|_| {
        let there = std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        if !there {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        there
    })
}

/// Starts a server; None with a line that says so if it is not installed.
fn start(program: &str, arguments: &[String], port: u16) -> Option<Server> {
    let child = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let Ok(child) = child else {
        println!("SKIPPED: {program} is not installed");
        return None;
    };
    let server = Server(child);
    if wait_for(port) {
        return Some(server);
    }
    println!("SKIPPED: {program} did not start");
    None
}

fn s3(port: u16, bucket: &str, prefix: &str) -> Arc<dyn Store> {
    s3_as(port, bucket, prefix, "us-east-1", "k", "s")
}

fn s3_as(port: u16, bucket: &str, prefix: &str, region: &str, key: &str, secret: &str) -> Arc<dyn Store> {
    let url = format!("s3://{bucket}/{prefix}?endpoint=http://127.0.0.1:{port}&region={region}");
    let place = anshin_vault::Place::parse(&url).unwrap();
    place.with_credentials(key.into(), secret.into()).store(false).unwrap()
}

/// Either the server does all that a vault needs, or a vault is never made there.
fn conforms_or_is_refused(server: &str, store: Arc<dyn Store>) {
    match probe(&*store, 1) {
        Ok(()) => {
            conforms(store);
            println!("{server} conforms");
        }
        Err(error) => {
            assert!(matches!(error, VaultError::Unfit(_)), "{error}");
            let refused = Vault::create(store, options(&TestClock::default()));
            assert!(matches!(refused, Err(VaultError::Unfit(_))));
            println!("{server} is refused: {error}");
        }
    }
}

fn make_bucket(port: u16, name: &str) {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let request = format!(
        "PUT /{name} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let _ = stream.read_to_end(&mut Vec::new());
}

#[test]
fn s3_as_moto_serves_it_conforms() {
    let port = free_port();
    let arguments = ["-H", "127.0.0.1", "-p", &port.to_string()].map(str::to_owned);
    let Some(_server) = start("moto_server", &arguments, port) else { return };
    make_bucket(port, "vaults");
    make_bucket(port, "whole");
    conforms(s3(port, "vaults", "some/prefix"));
    conforms(s3(port, "whole", ""));
}

#[test]
fn s3_as_s3s_fs_serves_it_conforms_or_is_refused() {
    let (port, scratch) = (free_port(), Scratch::new("s3s"));
    std::fs::create_dir(scratch.0.join("vaults")).unwrap();
    let root = scratch.0.display().to_string();
    let port_text = port.to_string();
    let arguments =
        ["--host", "127.0.0.1", "--port", &port_text, "--access-key", "k", "--secret-key", "s", &root];
    let Some(_server) = start("s3s-fs", &arguments.map(str::to_owned), port) else { return };
    conforms_or_is_refused("s3s-fs", s3(port, "vaults", "v"));
}

#[test]
fn s3_as_s3rver_serves_it_conforms_or_is_refused() {
    let (port, scratch) = (free_port(), Scratch::new("s3rver"));
    let (root, port_text) = (scratch.0.display().to_string(), port.to_string());
    let arguments = ["-d", &root, "-a", "127.0.0.1", "-p", &port_text, "--configure-bucket", "vaults"];
    let Some(_server) = start("s3rver", &arguments.map(str::to_owned), port) else { return };
    let store = s3_as(port, "vaults", "v", "us-east-1", "S3RVER", "S3RVER");
    conforms_or_is_refused("s3rver", store);
}

/// One node with a bucket and a key; gives the key and its secret.
fn garage_bucket(config: &str) -> (String, String) {
    let garage = |arguments: &[&str]| {
        let output = Command::new("garage").args(["-c", config]).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{arguments:?}: {text} {}", String::from_utf8_lossy(&output.stderr));
        text
    };
    let node = garage(&["node", "id", "-q"]);
    garage(&["layout", "assign", "-z", "dc1", "-c", "1G", &node[..16]]);
    garage(&["layout", "apply", "--version", "1"]);
    let key = garage(&["key", "create", "vault"]);
    let field = |name: &str| {
        let line = key.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().to_owned()
    };
    garage(&["bucket", "create", "vaults"]);
    garage(&["bucket", "allow", "--read", "--write", "--owner", "vaults", "--key", "vault"]);
    (field("Key ID"), field("Secret key"))
}

#[test]
fn s3_as_garage_serves_it_conforms_or_is_refused() {
    let (port, scratch) = (free_port(), Scratch::new("garage"));
    let (root, config) = (scratch.0.display(), scratch.0.join("garage.toml").display().to_string());
    let secret = "5".repeat(64);
    let text = format!(
        "metadata_dir = \"{root}/meta\"\ndata_dir = \"{root}/data\"\ndb_engine = \"sqlite\"\nreplication_factor = 1\n\
         rpc_bind_addr = \"127.0.0.1:{0}\"\nrpc_public_addr = \"127.0.0.1:{0}\"\nrpc_secret = \"{secret}\"\n\
         [s3_api]\ns3_region = \"garage\"\napi_bind_addr = \"127.0.0.1:{port}\"\nroot_domain = \".s3.garage\"\n\
         [admin]\napi_bind_addr = \"127.0.0.1:{1}\"\n",
        free_port(),
        free_port()
    );
    std::fs::write(&config, text).unwrap();
    let Some(_server) = start("garage", &["-c".into(), config.clone(), "server".into()], port) else {
        return;
    };
    let (key, secret) = garage_bucket(&config);
    conforms_or_is_refused("garage", s3_as(port, "vaults", "v", "garage", &key, &secret));
}

/// `VAULT_TEST_S3="s3://BUCKET/PREFIX?endpoint=… KEY SECRET"` runs the suite against any server by hand.
#[test]
fn s3_as_a_server_of_your_choice_serves_it_conforms_or_is_refused() {
    let Ok(text) = std::env::var("VAULT_TEST_S3") else {
        println!("SKIPPED: VAULT_TEST_S3 names no server");
        return;
    };
    let [url, key, secret] = text.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let place = anshin_vault::Place::parse(url).unwrap().with_credentials(key.into(), secret.into());
    let store = place.store(false).unwrap();
    match probe(&*store, 1) {
        Ok(()) => conforms(store),
        Err(VaultError::Unfit(why)) => println!("refused: {why}"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn s3_without_a_server_says_so() {
    let store = s3(free_port(), "vaults", "v");
    // One try is enough to see what is said; the client would go on trying for minutes.
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || send.send(store.get("vault")));
    match receive.recv_timeout(std::time::Duration::from_secs(120)) {
        Ok(result) => assert!(matches!(result, Err(VaultError::Store { transient: true, .. })), "{result:?}"),
        Err(_) => panic!("no answer within two minutes"),
    }
}
