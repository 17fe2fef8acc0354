//! The link with a real vault, over loopback.

use super::{
    doorkeeper::{Admission, AdmitAll, Doorkeeper, Pass},
    remote::{Patience, RemoteKeeper, Target},
    server::{Served, Server},
    wire::{BODY_LENGTH_MAX, Call, KIND, Part, Reply, VERSION, sign_of_life},
};
use anshin_base::{NodeId, Problem, frame::Frame};
use anshin_link::{Authority, Credentials, NodeKey, Party};
use anshin_vault::{
    ChunkId, DomainKeys, Keeper, Kind, Options, Place, Rights, Sealed, Session, Sink, Snapshot,
    SnapshotDraft, SnapshotId, SnapshotRecord, SnapshotStats, Source, Vault, VaultError,
};
use bytes::Bytes;
use proptest::prelude::*;
use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// Lets in nodes by name, with rights of a test.
#[derive(Default)]
struct Door(Mutex<HashMap<String, Rights>>);

impl Doorkeeper for Door {
    fn admit(&self, party: &Party, _: anshin_vault::DomainId) -> Result<Pass, String> {
        let Party::Node(node) = party else { return Err("no node".into()) };
        let rights = self.0.lock().unwrap().get(&node.name).copied().ok_or("you may not come in")?;
        Ok(Pass { client: node.name.clone(), writer: "site".into(), rights, shared: false })
    }
}

/// Refuses runs that a test names.
struct Judge(&'static str);

impl Admission for Judge {
    fn may_seal(&self, _: &Party, record: &SnapshotRecord) -> Result<(), String> {
        if record.run == self.0 { Err("another attempt is the present one".into()) } else { Ok(()) }
    }
}

struct Site {
    authority: Authority,
    directory: PathBuf,
    vault: Arc<Vault>,
    door: Arc<Door>,
    runtime: tokio::runtime::Runtime,
    keys: DomainKeys,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

fn credentials(authority: &Authority, node: u32, name: &str) -> Credentials {
    let key = NodeKey::generate().unwrap();
    let certificate = authority.issue(&key.request_pem().unwrap(), NodeId(node), name).unwrap();
    key.with_certificate(&certificate, authority.certificate_pem()).unwrap()
}

impl Site {
    fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("anshin-link-{}-{number}", std::process::id()));
        let store = Place::parse(directory.to_str().unwrap()).unwrap().store(true).unwrap();
        let door = Door::default();
        door.0.lock().unwrap().extend([("a".into(), Rights::OWNER), ("b".into(), Rights::OWNER)]);
        Self {
            authority: Authority::create("test").unwrap(),
            directory,
            vault: Arc::new(Vault::create(store, Options::default()).unwrap()),
            door: Arc::new(door),
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap(),
            keys: DomainKeys::generate().unwrap(),
        }
    }

    fn serve(&self, admission: Arc<dyn Admission>) -> Server {
        let served = Served {
            vault: self.vault.clone(),
            name: "main".into(),
            doorkeeper: self.door.clone(),
            admission,
        };
        let own = credentials(&self.authority, 3, "c");
        self.runtime.block_on(Server::start(served, &own, "127.0.0.1:0".parse().unwrap())).unwrap()
    }

    fn connect(&self, name: &str, node: u32, address: SocketAddr) -> Result<RemoteKeeper, Problem> {
        self.connect_as(&credentials(&self.authority, node, name), address)
    }

    fn connect_as(&self, who: &Credentials, address: SocketAddr) -> Result<RemoteKeeper, Problem> {
        let target = Target {
            vault: "main".into(),
            server: NodeId(3),
            addresses: vec![address],
            domain: self.keys.domain(),
        };
        let patience = Patience { first: Duration::from_millis(200), resume: Duration::from_secs(20) };
        RemoteKeeper::connect(who, target, patience)
    }

    fn session(&self, name: &str, node: u32, address: SocketAddr) -> Session {
        let keeper: Arc<dyn Keeper> = Arc::new(self.connect(name, node, address).unwrap());
        Session::new(keeper, self.keys.clone()).unwrap()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn draft(root: ChunkId, run: &str) -> SnapshotDraft {
    SnapshotDraft {
        id: SnapshotId::generate().unwrap(),
        plan: "nightly".into(),
        run: run.into(),
        time: 0,
        root,
        entries: 1,
        bytes: 1,
        meta: b"hello".to_vec(),
    }
}

/// Content that neither repeats nor compresses.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out
}

fn fill(session: &Session, count: u64) -> ChunkId {
    let ids: Vec<ChunkId> =
        (0..count).map(|n| session.put(Kind::Data, &[], &noise(n, 100_000)).unwrap()).collect();
    session.put(Kind::Tree, &ids, b"tree").unwrap()
}

#[test]
fn what_one_data_node_sealed_another_reads_and_sends_no_more() {
    let site = Site::new();
    let server = site.serve(Arc::new(AdmitAll));
    let first = site.session("a", 1, server.address());
    let root = fill(&first, 200);
    let sealed = first.seal(draft(root, "run-1/1:service/db")).unwrap();
    assert_eq!((sealed.record.client.as_str(), sealed.record.stats.new_objects), ("a", 201));

    let second = site.session("b", 2, server.address());
    let all = second.snapshots().unwrap();
    assert_eq!((all.len(), all[0].1.as_deref()), (1, Ok(&b"hello"[..])));
    let object = second.get(&root).unwrap();
    let read = second.get_many(&object.refs).unwrap();
    assert!(read.iter().enumerate().all(|(n, object)| object.plain == noise(n as u64, 100_000)));
    fill(&second, 200);
    second.flush().unwrap();
    assert_eq!(second.stats().sent_bytes, 0);
    assert!(matches!(second.get(&ChunkId([0; 32])), Err(VaultError::Missing(_))));
    // A data node adds and reads; what is there it does not take away.
    assert!(matches!(second.keeper().forget(sealed.record.id), Err(VaultError::Denied(_))));
}

#[test]
fn what_a_broken_attempt_sent_is_not_sent_again_by_the_next_node() {
    let site = Site::new();
    let server = site.serve(Arc::new(AdmitAll));
    let first = site.session("a", 1, server.address());
    fill(&first, 50);
    let asked: Vec<ChunkId> = (0..50).map(|n| ChunkId(*blake(&first, n))).collect();
    drop(first);
    let second = site.session("b", 2, server.address());
    assert!(second.has_many(&asked).unwrap().iter().filter(|there| **there).count() >= 8);
}

fn blake(session: &Session, n: u64) -> Box<[u8; 32]> {
    Box::new(session.keys().name_of_data(&noise(n, 100_000)).0)
}

#[test]
fn only_the_present_attempt_seals() {
    let site = Site::new();
    let server = site.serve(Arc::new(Judge("run-1/1:service/db")));
    let session = site.session("a", 1, server.address());
    let root = fill(&session, 1);
    let refused = session.seal(draft(root, "run-1/1:service/db")).unwrap_err();
    assert_eq!(refused, VaultError::Refused("another attempt is the present one".into()));
    let session = site.session("a", 1, server.address());
    let root = fill(&session, 1);
    session.seal(draft(root, "run-1/2:service/db")).unwrap();
    assert_eq!(session.snapshots().unwrap().len(), 1);
}

#[test]
fn strangers_are_refused_and_garbage_ends_nothing_but_itself() {
    let site = Site::new();
    let server = site.serve(Arc::new(AdmitAll));
    let address = server.address();
    let refused = site.connect("nobody", 9, address).err().unwrap();
    assert_eq!(refused.code, "vault-refused");
    assert!(refused.message.contains("you may not come in"), "{refused}");
    // Another site's node, even under the same name and number.
    let other = Authority::create("test").unwrap();
    let refused = site.connect_as(&credentials(&other, 1, "a"), address).err().unwrap();
    assert_eq!(refused.code, "vault-unreachable");
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 5000], &[0x16, 3, 1, 0xff, 0xff]] {
        let mut stream = TcpStream::connect(address).unwrap();
        let _ = stream.write_all(garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    site.session("a", 1, address).snapshots().unwrap();
}

#[test]
fn a_node_that_is_no_longer_one_is_shown_the_door() {
    let site = Site::new();
    let server = site.serve(Arc::new(AdmitAll));
    let session = site.session("a", 1, server.address());
    let root = fill(&session, 1);
    site.door.0.lock().unwrap().remove("a");
    assert!(matches!(session.seal(draft(root, "")), Err(VaultError::Refused(_))));
}

/// Passes bytes on, and cuts the connection when told to.
struct Cutter {
    address: SocketAddr,
    open: Arc<Mutex<Vec<TcpStream>>>,
    to: Arc<Mutex<SocketAddr>>,
    passed: Arc<AtomicU64>,
}

impl Cutter {
    fn new(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let open: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let (all, to) = (open.clone(), Arc::new(Mutex::new(to)));
        let (towards, passed) = (to.clone(), Arc::<AtomicU64>::default());
        let counted = passed.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let Ok(other) = TcpStream::connect(*towards.lock().unwrap()) else { continue };
                for (mut from, mut to) in [
                    (stream.try_clone().unwrap(), other.try_clone().unwrap()),
                    (other.try_clone().unwrap(), stream.try_clone().unwrap()),
                ] {
                    let counted = counted.clone();
                    thread::spawn(move || {
                        let mut buffer = [0; 64 << 10];
                        while let Ok(length @ 1..) = from.read(&mut buffer) {
                            counted.fetch_add(length as u64, Ordering::Relaxed);
                            if to.write_all(&buffer[..length]).is_err() {
                                break;
                            }
                        }
                        let _ = to.shutdown(std::net::Shutdown::Both);
                    });
                }
                all.lock().unwrap().extend([stream, other]);
            }
        });
        Self { address, open, to, passed }
    }

    fn cut(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

#[test]
fn a_connection_that_breaks_again_and_again_costs_a_backup_nothing() {
    let site = Site::new();
    let server = site.serve(Arc::new(AdmitAll));
    let cutter = Cutter::new(server.address());
    let session = site.session("a", 1, cutter.address);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..4u64)
            .map(|worker| {
                let session = &session;
                scope.spawn(move || -> Vec<ChunkId> {
                    (0..150)
                        .map(|n| session.put(Kind::Data, &[], &noise(worker * 1000 + n, 100_000)).unwrap())
                        .collect()
                })
            })
            .collect();
        // After more than a message, so that each connection gets something done.
        let (mut cut_at, mut cuts) = (0, 0);
        while workers.iter().any(|worker| !worker.is_finished()) {
            thread::sleep(Duration::from_millis(5));
            let passed = cutter.passed.load(Ordering::Relaxed);
            if passed >= cut_at + (10 << 20) {
                cutter.cut();
                (cut_at, cuts) = (passed, cuts + 1);
            }
        }
        assert!(cuts >= 3, "{cuts} cuts");
        let ids: Vec<ChunkId> = workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect();
        let root = session.put(Kind::Tree, &ids, b"tree").unwrap();
        session.seal(draft(root, "")).unwrap();
        cutter.cut();
        let back = session.get_many(&session.get(&root).unwrap().refs).unwrap();
        assert!(back.iter().enumerate().all(|(at, object)| {
            let (worker, n) = (at as u64 / 150, at as u64 % 150);
            object.plain == noise(worker * 1000 + n, 100_000)
        }));
    });
}

#[test]
fn a_server_that_forgot_the_session_makes_it_fail_cleanly_and_the_next_attempt_sends_little() {
    let site = Site::new();
    let server = site.serve(Arc::new(AdmitAll));
    let cutter = Cutter::new(server.address());
    let session = site.session("a", 1, cutter.address);
    let root = fill(&session, 100);
    session.flush().unwrap();
    let sent = session.stats().sent_bytes;
    site.runtime.block_on(server.stop());
    let server = site.serve(Arc::new(AdmitAll));
    *cutter.to.lock().unwrap() = server.address();
    cutter.cut();
    let failed = session.seal(draft(root, "")).unwrap_err();
    assert!(matches!(failed, VaultError::Store { transient: true, .. }), "{failed}");
    let again = site.session("a", 1, cutter.address);
    let root = fill(&again, 100);
    again.seal(draft(root, "")).unwrap();
    assert!(again.stats().sent_bytes < sent / 20, "{} of {sent} sent again", again.stats().sent_bytes);

    // Who only reads relies on nothing and does not notice.
    let reading = site.session("b", 2, cutter.address);
    reading.snapshots().unwrap();
    site.runtime.block_on(server.stop());
    let server = site.serve(Arc::new(AdmitAll));
    *cutter.to.lock().unwrap() = server.address();
    cutter.cut();
    assert_eq!(reading.get(&root).unwrap().refs.len(), 100);
}

fn snapshot() -> Snapshot {
    let record = SnapshotRecord {
        id: SnapshotId([1; 16]),
        client: "a".into(),
        plan: "p".into(),
        run: "r".into(),
        time: -1,
        root: ChunkId([2; 32]),
        stats: SnapshotStats { entries: 1, bytes: 2, new_objects: 3, new_bytes: 4 },
        meta: vec![5; 30],
    };
    Snapshot { record, sealed: 7, forgotten: Some(9) }
}

fn sealed() -> Sealed {
    let keys = DomainKeys::derive([7; 32]);
    let id = keys.name_of_data(b"anshin");
    Sealed::seal(&keys, &id, Kind::Data, &[], b"anshin")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn version_1_of_calls_has_these_bytes() {
    let (one, object) = (ChunkId([1; 32]), sealed());
    let blob = format!("{}{}", hex(&(object.bytes().len() as u32).to_le_bytes()), hex(object.bytes()));
    let ones = "01".repeat(32);
    let forgotten = format!("{}{}{}", "01".repeat(16), "0900000000000000", hex(&snapshot().encode()));
    let cases = [
        (Call::Missing(vec![one]), format!("01{ones}")),
        (Call::Prove(vec![(one, [2; 32])]), format!("02{ones}{}", "02".repeat(32))),
        (Call::Put(vec![object]), format!("03{blob}")),
        (Call::Flush, "04".into()),
        (Call::Seal(Box::new(snapshot())), format!("05{forgotten}")),
        (Call::Get(vec![one, one]), format!("06{ones}{ones}")),
        (Call::Snapshots, "07".into()),
        (Call::Forget(SnapshotId([3; 16])), format!("08{}", "03".repeat(16))),
        (Call::Remember(SnapshotId([3; 16])), format!("09{}", "03".repeat(16))),
        (Call::KeyFiles, "0a".into()),
        (Call::AddKeyFile(Bytes::from_static(b"key")), "0b6b6579".into()),
        (Call::Leave, "0c".into()),
    ];
    for (call, expected) in cases {
        let frame = call.encode(5);
        assert_eq!(hex(&frame.body), format!("0500000000000000{expected}"), "{call:?}");
        assert_eq!(Call::decode(&frame), Ok(Some((5, call))));
    }
    assert_eq!(hex(&sign_of_life().encode()), "616e6631564c010008000000d150b88d0000000000000000");
    assert_eq!(Call::decode(&sign_of_life()), Ok(None));
    assert_eq!(Part::decode(&sign_of_life()), Ok(None));
}

#[test]
fn version_1_of_answers_has_these_bytes() {
    let object = sealed();
    let blob = format!("{}{}", hex(&(object.bytes().len() as u32).to_le_bytes()), hex(object.bytes()));
    let one = format!("{}{}{}", "01".repeat(16), "0900000000000000", hex(&snapshot().encode()));
    let length = hex(&(one.len() as u32 / 2).to_le_bytes());
    let cases = [
        (Reply::Done, "01".to_owned()),
        (Reply::Flags(vec![true, false]), "020100".into()),
        (Reply::Objects(vec![object]), format!("03{blob}")),
        (Reply::Snapshots(vec![snapshot()]), format!("04{length}{one}")),
        (Reply::Blobs(vec![Bytes::from_static(b"key")]), "05030000006b6579".into()),
        (Reply::Failed(VaultError::denied("no")), "060302006e6f".into()),
    ];
    for (reply, expected) in cases {
        let part = Part { number: 5, last: true, reply };
        assert_eq!(hex(&part.encode().body), format!("050000000000000001{expected}"), "{part:?}");
        assert_eq!(Part::decode(&part.encode()), Ok(Some(part)));
    }
}

proptest! {
    #[test]
    fn reading_what_a_peer_sends_never_panics(code in 0u8..14, last in 0u8..3, bytes: Vec<u8>, real: bool) {
        let mut body = 1u64.to_le_bytes().to_vec();
        body.extend_from_slice(&[code]);
        if real {
            body.extend_from_slice(&(sealed().bytes().len() as u32).to_le_bytes());
            body.extend_from_slice(sealed().bytes());
        }
        body.extend_from_slice(&bytes);
        let _ = Call::decode(&Frame { kind: KIND, version: VERSION, body: body.clone().into() });
        body.insert(8, last);
        let _ = Part::decode(&Frame { kind: KIND, version: VERSION, body: body.into() });
        let _ = Part::decode(&Frame { kind: KIND, version: VERSION, body: bytes.into() });
    }
}

#[test]
fn the_largest_object_fits_into_a_frame() {
    let keys = DomainKeys::derive([7; 32]);
    let plain = noise(1, anshin_vault::PLAIN_SIZE_MAX);
    let refs = vec![ChunkId([1; 32]); anshin_vault::REFS_MAX];
    let object = Sealed::seal(&keys, &ChunkId([2; 32]), Kind::Tree, &refs, &plain);
    assert!(Call::Put(vec![object]).encode(1).body.len() <= BODY_LENGTH_MAX);
}

/// How fast the link is: `cargo test --release -p anshin-node -- --ignored --nocapture throughput`.
#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout)]
fn throughput_over_loopback() {
    let site = Site::new();
    let server = site.serve(Arc::new(AdmitAll));
    let keeper = site.connect("a", 1, server.address()).unwrap();
    let objects: Vec<Sealed> = (0..512)
        .map(|n| {
            let plain = noise(n, 1 << 20);
            Sealed::seal(&site.keys, &site.keys.name_of_data(&plain), Kind::Data, &[], &plain)
        })
        .collect();
    let ids: Vec<ChunkId> = objects.iter().map(Sealed::id).collect();
    let bytes: usize = objects.iter().map(|object| object.bytes().len()).sum();
    let rate = |what: &str, begun: std::time::Instant| {
        println!("{what}: {:.0} MB/s", bytes as f64 / 1e6 / begun.elapsed().as_secs_f64());
    };
    let begun = std::time::Instant::now();
    thread::scope(|scope| {
        for group in objects.chunks(128) {
            let keeper = &keeper;
            scope.spawn(move || {
                for batch in group.chunks(4) {
                    let ids: Vec<ChunkId> = batch.iter().map(Sealed::id).collect();
                    assert!(keeper.missing(&ids).unwrap().iter().all(|missing| *missing));
                    keeper.put(batch.to_vec()).unwrap();
                }
            });
        }
    });
    keeper.flush().unwrap();
    rate("put", begun);
    let begun = std::time::Instant::now();
    thread::scope(|scope| {
        for group in ids.chunks(128) {
            let keeper = &keeper;
            scope.spawn(move || group.chunks(16).for_each(|ids| drop(keeper.get(ids).unwrap())));
        }
    });
    rate("get", begun);
}
