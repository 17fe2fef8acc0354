//! Two keepers of one storage at the worst instants: something happens just before a round of garbage collection is put on record.
#![allow(clippy::unwrap_used)]

mod common;

use anshin_vault::store::Store;
use anshin_vault::store::fault::FaultStore;
use anshin_vault::{
    Keeper, Kind, Reading, Rights, Sealed, Session, Sink, Snapshot, Vault, VaultError, VerifyOptions,
};
use bytes::Bytes;
use common::*;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

type Event = Box<dyn FnOnce() + Send>;

/// A storage in which something happens before the first object of a room is put.
struct Eventful {
    store: FaultStore,
    room: &'static str,
    event: Mutex<Option<Event>>,
}

impl Eventful {
    fn new(store: &FaultStore, room: &'static str) -> Arc<Self> {
        Arc::new(Self { store: store.restarted(), room, event: Mutex::default() })
    }

    fn before(&self, event: impl FnOnce() + Send + 'static) {
        *self.event.lock().unwrap() = Some(Box::new(event));
    }
}

impl Store for Eventful {
    fn put(&self, name: &str, parts: &[Bytes]) -> Result<(), VaultError> {
        let event = if name.starts_with(self.room) { self.event.lock().unwrap().take() } else { None };
        if let Some(event) = event {
            event();
        }
        self.store.put(name, parts)
    }
    fn get(&self, name: &str) -> Result<Bytes, VaultError> {
        self.store.get(name)
    }
    fn get_range(&self, name: &str, offset: u64, length: usize) -> Result<Bytes, VaultError> {
        self.store.get_range(name, offset, length)
    }
    fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, VaultError> {
        self.store.list(prefix)
    }
    fn delete(&self, name: &str) -> Result<(), VaultError> {
        self.store.delete(name)
    }
    fn delete_many(&self, names: &[String]) -> Result<(), VaultError> {
        self.store.delete_many(names)
    }
    fn is_near(&self) -> bool {
        self.store.is_near()
    }
    fn describe(&self) -> String {
        self.store.describe()
    }
}

/// A client's session in a domain that it shares with others.
fn sharing(vault: &Vault, client: &str) -> Session {
    Session::new(Arc::new(vault.handle(keys(1).domain(), client, Rights::CLIENT, true).unwrap()), keys(1))
        .unwrap()
}

/// Files of 900 bytes each, which nobody else has.
fn own(seed: u64, count: usize) -> Files {
    let mut numbers = Numbers(seed);
    (0..count).map(|n| (format!("d/f{n}"), numbers.bytes(900))).collect()
}

fn forget(vault: &Vault, made: &Snapshot) {
    vault.forget(keys(1).domain(), made.record.id).unwrap();
}

/// Alpha and beta have both had a file that no snapshot needs any more. `prepare` says who holds it how. While it is collected,
/// alpha backs it up again through another keeper, which still finds it.
fn backed_up_again_while_it_is_collected(prepare: impl FnOnce(&Vault, &Files, &Files)) {
    let (store, clock) = (FaultStore::new(), TestClock::default());
    create(Arc::new(store.clone()), &clock);
    let collector = Eventful::new(&store, "gc/");
    let vault = Vault::open(collector.clone(), options(&clock)).unwrap();
    let (file, rest) = (own(60, 1), own(61, 3));
    prepare(&vault, &file, &rest);
    // In a tree that nobody has seen.
    let file: Files = [("new/name".to_owned(), file["d/f0"].clone())].into();
    let other = Vault::open(Arc::new(store.restarted()), options(&clock)).unwrap();
    let again = sharing(&other, "alpha");
    let made = Arc::new(Mutex::new(None));
    collector.before({
        let (made, file) = (made.clone(), file.clone());
        move || *made.lock().unwrap() = Some(backup(&again, &file))
    });
    let _ = vault.gc();
    let made = made.lock().unwrap().take().expect("nothing was collected").unwrap();
    let vault = Vault::open(Arc::new(store.restarted()), options(&clock)).unwrap();
    let report = vault.verify(&VerifyOptions { keys: vec![keys(1)] }).unwrap();
    assert!(report.is_good() && report.findings.is_empty(), "{report:?}");
    for rights in [Rights::CLIENT, Rights { read: Reading::Domain, ..Rights::CLIENT }] {
        let reader = session_with(&vault, &keys(1), "alpha", rights);
        assert_eq!(get_files(&reader, &made.record.root).as_ref(), Ok(&file), "{rights:?}");
    }
    // Collecting goes on afterwards, and loses nothing either.
    vault.gc().unwrap();
    let reader = session(&vault, &keys(1), "alpha");
    assert_eq!(get_files(&reader, &made.record.root).as_ref(), Ok(&file));
}

/// What both clients need lies in a pack with the file of one of them, so that this pack stays.
fn beside(file: &Files, rest: &Files) -> Files {
    file.iter()
        .chain(rest)
        .map(|(name, content)| (format!("{name}-{}", content[0]), content.clone()))
        .collect()
}

#[test]
fn i13_a_seal_that_has_begun_is_seen_by_a_collector_that_did_not_know_its_trees() {
    let (store, clock) = (FaultStore::new(), TestClock::default());
    create(Arc::new(store.clone()), &clock);
    let (sealing, collecting) = (Eventful::new(&store, "snapshots/"), Eventful::new(&store, "gc/"));
    let other = Vault::open(sealing.clone(), options(&clock)).unwrap();
    let writer = session(&other, &keys(1), "alpha");
    let files = own(62, 3);
    for content in files.values() {
        writer.put(Kind::Data, &[], content).unwrap();
    }
    writer.flush().unwrap();
    // The collector knows the data, which nobody needs yet. Before it says so, the writer stores its trees and begins to seal;
    // it ends when the collector is through.
    let vault = Vault::open(collecting.clone(), options(&clock)).unwrap();
    let (begun, wait_for_seal) = channel();
    let (through, wait_for_collector) = channel();
    sealing.before(move || {
        begun.send(()).unwrap();
        wait_for_collector.recv().unwrap();
    });
    let thread = Arc::new(Mutex::new(None));
    collecting.before({
        let (thread, files) = (thread.clone(), files.clone());
        move || {
            *thread.lock().unwrap() = Some(std::thread::spawn(move || backup(&writer, &files)));
            wait_for_seal.recv().unwrap();
        }
    });
    let _ = vault.gc();
    through.send(()).unwrap();
    let made = thread.lock().unwrap().take().expect("nothing was collected").join().unwrap();
    let vault = Vault::open(Arc::new(store.restarted()), options(&clock)).unwrap();
    let report = vault.verify(&VerifyOptions { keys: vec![keys(1)] }).unwrap();
    assert!(report.is_good() && report.findings.is_empty(), "{report:?}");
    if let Ok(made) = made {
        assert_eq!(get_files(&session(&vault, &keys(1), "alpha"), &made.record.root).as_ref(), Ok(&files));
    }
}

#[test]
fn i13_an_alias_does_not_make_up_for_the_object_it_stands_for() {
    backed_up_again_while_it_is_collected(|vault, file, rest| {
        // Beta's pack holds the file alone, and goes; alpha's holds an alias beside what is needed, and stays.
        let first = backup(&sharing(vault, "beta"), file).unwrap();
        let both = backup(&sharing(vault, "alpha"), &beside(file, rest)).unwrap();
        backup(&sharing(vault, "alpha"), rest).unwrap();
        [first, both].iter().for_each(|made| forget(vault, made));
    });
}

#[test]
fn i13_the_copy_of_one_client_does_not_make_up_for_the_word_of_another() {
    backed_up_again_while_it_is_collected(|vault, file, rest| {
        // Alpha's pack holds the file alone, and goes; beta's holds it beside what is needed, and stays.
        let first = backup(&session(vault, &keys(1), "alpha"), file).unwrap();
        let both = backup(&session(vault, &keys(1), "beta"), &beside(file, rest)).unwrap();
        backup(&session(vault, &keys(1), "beta"), rest).unwrap();
        [first, both].iter().for_each(|made| forget(vault, made));
    });
}

#[test]
fn i13_a_writers_alias_is_not_taken_for_its_copy_when_packs_are_rewritten() {
    let (store, clock) = (FaultStore::new(), TestClock::default());
    let vault = create(Arc::new(store.clone()), &clock);
    let file = own(70, 1);
    let content = &file["d/f0"];
    let id = session(&vault, &keys(1), "alpha").put(Kind::Data, &[], content).unwrap();
    let hash = Sealed::seal(&keys(1), &id, Kind::Data, &[], content).hash();
    let mut made = Vec::new();
    for (seed, client) in [(71, "alpha"), (73, "beta")] {
        // A copy of its own, in a pack of which most will be waste.
        made.push(backup(&session(&vault, &keys(1), client), &beside(&file, &own(seed, 2))).unwrap());
    }
    let mut kept = Vec::new();
    for (seed, client) in [(72, "alpha"), (74, "beta")] {
        // And an alias of the other's, in a pack that stays.
        let keeper = vault.handle(keys(1).domain(), client, Rights::CLIENT, true).unwrap();
        assert_eq!(keeper.prove(&[(id, hash)]).unwrap(), [true]);
        let files = beside(&file, &own(seed, 2));
        kept.push((client, backup(&sharing(&vault, client), &files).unwrap(), files));
    }
    made.iter().for_each(|made| forget(&vault, made));
    for _ in 0..3 {
        vault.gc().unwrap();
    }
    let report = vault.verify(&VerifyOptions { keys: vec![keys(1)] }).unwrap();
    assert!(report.is_good() && report.findings.is_empty(), "{report:?}");
    for (client, made, files) in kept {
        assert_eq!(
            get_files(&session(&vault, &keys(1), client), &made.record.root).as_ref(),
            Ok(&files),
            "{client}"
        );
    }
}
