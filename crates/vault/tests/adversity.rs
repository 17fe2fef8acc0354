//! What garbage collection and verification meet besides crashes: a stolen credential, a storage that is full, a disk with places
//! that cannot be read, somebody who changes his mind meanwhile.
#![allow(clippy::unwrap_used)]

mod common;

use anshin_vault::store::{Store, fault::FaultStore};
use anshin_vault::{ChunkId, Keeper, Options, Rights, Sealed, Vault, VaultError, VerifyOptions};
use bytes::Bytes;
use common::*;
use std::sync::{Arc, Mutex};

/// A tree without references that bears another one's id, as somebody can make who has no key.
fn forged(id: &ChunkId) -> Sealed {
    let mut bytes = id.0.to_vec();
    let (kind, form, references, body) = (1, 1, 0_u32, 33_u32);
    bytes.extend([kind, form, 0, 0]);
    bytes.extend(references.to_le_bytes());
    bytes.extend(body.to_le_bytes());
    bytes.extend([0; 33]);
    let check = blake3::hash(&bytes);
    bytes.extend(&check.as_bytes()[..16]);
    Sealed::parse(bytes.into()).unwrap()
}

#[test]
fn i12_a_stolen_credential_cannot_have_old_snapshots_collected() {
    for writer in ["alpha", "beta"] {
        let (store, clock) = (FaultStore::new(), TestClock::default());
        let vault = create(Arc::new(store), &clock);
        let all = files(&mut Numbers(3), 60);
        let made = backup(&session(&vault, &keys(1), "alpha"), &all).unwrap();
        let stolen = vault.handle(keys(1).domain(), writer, Rights::PUSH, false).unwrap();
        for _ in 0..5 {
            stolen.put(vec![forged(&made.record.root)]).unwrap();
            stolen.flush().unwrap();
        }
        drop(stolen);
        for _ in 0..3 {
            clock.advance(40 * 86_400);
            let _ = vault.gc();
        }
        let back = get_files(&session(&vault, &keys(1), "alpha"), &made.record.root).unwrap();
        assert_eq!(back, all, "{writer}");
    }
}

/// The number of a round is what keepers know it by.
#[test]
fn i13_a_round_never_has_the_number_of_one_that_was_removed() {
    let (store, clock) = (FaultStore::new(), TestClock::default());
    let options = || Options { grace: 3_600, ..options(&clock) };
    let vault = Vault::create(Arc::new(store.clone()), options()).unwrap();
    let writer = || session(&vault, &keys(1), "alpha");
    let (first, second) = (files(&mut Numbers(1), 40), files(&mut Numbers(2), 40));
    let condemn = |files: &Files| {
        let made = backup(&writer(), files).unwrap();
        vault.forget(keys(1).domain(), made.record.id).unwrap();
        assert!(vault.gc().unwrap().packs_condemned > 0);
    };
    condemn(&first);
    clock.advance(2 * 3_600);
    assert!(vault.gc().unwrap().packs_deleted > 0);
    // The machine was off for a month.
    clock.advance(40 * 86_400);
    condemn(&second);
    // What is condemned is backed up again, and nothing of it is taken for what is there.
    let made = backup(&writer(), &second).unwrap();
    clock.advance(2 * 3_600);
    vault.gc().unwrap();
    let again = Vault::open(Arc::new(store.restarted()), options()).unwrap();
    for _ in 0..2 {
        let _ = again.gc();
        clock.advance(2 * 3_600);
    }
    assert_eq!(get_files(&session(&again, &keys(1), "alpha"), &made.record.root).unwrap(), second);
}

#[test]
fn a_full_storage_gives_back_what_is_forgotten() {
    let (store, clock) = (FaultStore::new(), TestClock::default());
    let vault = create(Arc::new(store.clone()), &clock);
    let stays = files(&mut Numbers(1), 40);
    let kept = backup(&session(&vault, &keys(1), "alpha"), &stays).unwrap();
    store.set_reserve(30_000);
    store.set_room(Some(150_000));
    let mut made = Vec::new();
    let full = (2..60).find_map(|number| {
        // Half of it is in what stays: packs that are in part garbage.
        let mut all = files(&mut Numbers(number), 20);
        all.extend(
            stays.iter().take(20).map(|(name, content)| (format!("{name}-{number}"), content.clone())),
        );
        match backup(&session(&vault, &keys(1), "alpha"), &all) {
            Ok(snapshot) => {
                made.push(snapshot.record.id);
                None
            }
            Err(error) => Some(error),
        }
    });
    assert!(matches!(full, Some(VaultError::Full(_))), "{full:?}");
    // A process that starts anew on what there is.
    let vault = Vault::open(Arc::new(store.restarted()), options(&clock)).unwrap();
    for id in made {
        vault.forget(keys(1).domain(), id).unwrap();
    }
    let report = vault.gc().unwrap();
    assert!(report.bytes_deleted > 50_000, "{report:?}");
    let all = files(&mut Numbers(99), 20);
    let next = backup(&session(&vault, &keys(1), "alpha"), &all).unwrap();
    assert_eq!(get_files(&session(&vault, &keys(1), "alpha"), &next.record.root).unwrap(), all);
    assert_eq!(get_files(&session(&vault, &keys(1), "alpha"), &kept.record.root).unwrap(), stays);
    assert!(vault.verify(&VerifyOptions { keys: vec![keys(1)] }).unwrap().is_good());
}

type Hook = Box<dyn FnOnce() + Send>;

/// A storage of which some places cannot be read, and that calls somebody when something is listed.
#[derive(Clone)]
struct Odd {
    inner: FaultStore,
    /// Parts of names, and the place in each that cannot be read.
    bad: Arc<Mutex<Vec<(String, u64)>>>,
    /// Who is called when snapshots are listed, after so many times.
    listed: Arc<Mutex<Option<(usize, Hook)>>>,
}

impl Odd {
    fn new(inner: FaultStore) -> Self {
        Self { inner, bad: Arc::default(), listed: Arc::default() }
    }

    fn check(&self, name: &str, from: u64, to: u64) -> Result<(), VaultError> {
        let bad = self.bad.lock().unwrap();
        match bad.iter().any(|(part, at)| name.contains(part) && (from..to).contains(at)) {
            true => Err(VaultError::damaged(name, "Input/output error (os error 5)")),
            false => Ok(()),
        }
    }
}

impl Store for Odd {
    fn put(&self, name: &str, parts: &[Bytes]) -> Result<(), VaultError> {
        self.inner.put(name, parts)
    }
    fn get(&self, name: &str) -> Result<Bytes, VaultError> {
        self.check(name, 0, u64::MAX)?;
        self.inner.get(name)
    }
    fn get_range(&self, name: &str, offset: u64, length: usize) -> Result<Bytes, VaultError> {
        self.check(name, offset, offset + length as u64)?;
        self.inner.get_range(name, offset, length)
    }
    fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, VaultError> {
        let found = self.inner.list(prefix);
        let hook = {
            let mut listed = self.listed.lock().unwrap();
            match (&mut *listed, prefix.starts_with("snapshots/")) {
                (Some((0, _)), true) => listed.take(),
                (Some((times, _)), true) => {
                    *times -= 1;
                    None
                }
                _ => None,
            }
        };
        if let Some((_, hook)) = hook {
            hook();
        }
        found
    }
    fn delete(&self, name: &str) -> Result<(), VaultError> {
        self.inner.delete(name)
    }
    fn is_near(&self) -> bool {
        true
    }
    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[test]
fn a_place_that_cannot_be_read_is_named_and_costs_no_more_than_what_is_in_it() {
    let (inner, clock) = (FaultStore::new(), TestClock::default());
    let options = || Options { pack_size: 1 << 20, ..options(&clock) };
    let odd = Odd::new(inner.clone());
    let vault = Vault::create(Arc::new(odd.clone()), options()).unwrap();
    let all = files(&mut Numbers(5), 100);
    let made = backup(&session(&vault, &keys(1), "alpha"), &all).unwrap();
    let name_of = |start: &str| inner.names().into_iter().find(|name| name.starts_with(start)).unwrap();

    // The index can be made anew.
    odd.bad.lock().unwrap().push((name_of("index/"), 100));
    let again = Vault::open(Arc::new(odd.clone()), options()).unwrap();
    assert_eq!(get_files(&session(&again, &keys(1), "alpha"), &made.record.root).unwrap(), all);

    // Of a pack one object is lost, and the next backup puts it anew.
    let data = inner.names().into_iter().filter(|name| name.starts_with("packs/"));
    let data = data.max_by_key(|name| inner.peek(name).unwrap().len()).unwrap();
    *odd.bad.lock().unwrap() = vec![(data, 20_000)];
    let vault = Vault::open(Arc::new(odd.clone()), options()).unwrap();
    let report = vault.verify(&VerifyOptions::default()).unwrap();
    let lost: usize = report.snapshots.iter().map(|damaged| damaged.lost.len()).sum();
    assert!((1..=12).contains(&lost), "{lost} of some hundred objects: {report:?}");
    let next = backup(&session(&vault, &keys(1), "alpha"), &all).unwrap();
    assert_eq!(get_files(&session(&vault, &keys(1), "alpha"), &next.record.root).unwrap(), all);
    assert!(vault.verify(&VerifyOptions::default()).unwrap().snapshots.is_empty());

    // A snapshot's record: named, and nothing is collected; the others go on.
    *odd.bad.lock().unwrap() = vec![(made.record.id.to_string(), 0)];
    let vault = Vault::open(Arc::new(odd), options()).unwrap();
    backup(&session(&vault, &keys(1), "alpha"), &files(&mut Numbers(6), 5)).unwrap();
    let report = vault.verify(&VerifyOptions::default()).unwrap();
    assert!(report.findings.iter().any(|finding| finding.what.contains("snapshot")), "{report:?}");
    assert!(matches!(vault.gc(), Err(VaultError::Refused(_))));
}

#[test]
fn what_is_taken_back_while_garbage_is_collected_stays_or_is_said_to_be_gone() {
    let mut came_between = 0;
    for times in 0..6 {
        let (inner, clock) = (FaultStore::new(), TestClock::default());
        let odd = Odd::new(inner.clone());
        let vault = create(Arc::new(odd.clone()), &clock);
        let all = files(&mut Numbers(8), 30);
        let made = backup(&session(&vault, &keys(1), "alpha"), &all).unwrap();
        let id = made.record.id;
        vault.forget(keys(1).domain(), id).unwrap();
        let other = Vault::open(Arc::new(inner.restarted()), options(&clock)).unwrap();
        let remembered = Arc::new(Mutex::new(false));
        let answer = remembered.clone();
        let hook: Hook =
            Box::new(move || *answer.lock().unwrap() = other.remember(keys(1).domain(), id).is_ok());
        *odd.listed.lock().unwrap() = Some((times, hook));
        vault.gc().unwrap();
        vault.gc().unwrap();
        if *remembered.lock().unwrap() {
            came_between += 1;
            let back = get_files(&session(&vault, &keys(1), "alpha"), &made.record.root).unwrap();
            assert_eq!(back, all, "{times}");
            assert_eq!(vault.snapshots().unwrap().len(), 1, "{times}");
        }
    }
    assert!(came_between > 0);
}
