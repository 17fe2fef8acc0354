//! A vault as those see it who use it: what was backed up is restored, whatever happens in between.
#![allow(clippy::unwrap_used)]

mod common;

use anshin_vault::store::fault::FaultStore;
use anshin_vault::{
    Keeper, Kind, Options, Reading, Rights, Session, Sink, Source, Vault, VaultError, VerifyOptions,
};
use common::*;
use std::sync::Arc;

fn world() -> (FaultStore, TestClock, Vault) {
    let (store, clock) = (FaultStore::new(), TestClock::default());
    let vault = create(Arc::new(store.clone()), &clock);
    (store, clock, vault)
}

#[test]
fn i12_what_was_backed_up_is_restored_byte_for_byte() {
    let (store, clock, vault) = world();
    let all = files(&mut Numbers(1), 200);
    let made = backup(&session(&vault, &keys(1), "alpha"), &all).unwrap();
    assert_eq!(get_files(&session(&vault, &keys(1), "alpha"), &made.record.root).unwrap(), all);
    drop(vault);
    let vault = Vault::open(Arc::new(store.restarted()), options(&clock)).unwrap();
    let reader = session(&vault, &keys(1), "alpha");
    let listed = reader.snapshots().unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].0, made);
    assert_eq!(listed[0].1.as_deref(), Ok(&b"about"[..]));
    assert_eq!(get_files(&reader, &made.record.root).unwrap(), all);
    let report = vault.verify(&VerifyOptions { keys: vec![keys(1)] }).unwrap();
    assert!(report.is_good() && report.findings.is_empty(), "{report:?}");
    assert_eq!((report.snapshots_walked, report.objects), (1, report.objects_decrypted));
    // All objects of the vault belong to the one snapshot, and counting them takes no key.
    let reach = vault.reach(keys(1).domain(), made.record.id).unwrap();
    assert_eq!((reach.objects, reach.stored_bytes), (report.objects, made.record.stats.new_bytes));
}

#[test]
fn an_unchanged_source_sends_nothing_near_or_far() {
    for far in [false, true] {
        let (store, clock) = (FaultStore::new(), TestClock::default());
        if far {
            store.be_far();
        }
        let vault = create(Arc::new(store.clone()), &clock);
        let all = files(&mut Numbers(2), 100);
        let open = || -> Session {
            let handle = vault.handle(keys(1).domain(), "alpha", Rights::CLIENT, false).unwrap();
            let handle: Arc<dyn Keeper> = if far { Arc::new(Far(handle)) } else { Arc::new(handle) };
            Session::new(handle, keys(1)).unwrap()
        };
        let first = open();
        let one = backup(&first, &all).unwrap();
        assert!(first.stats().sent_bytes > 10_000);
        let second = open();
        let two = backup(&second, &all).unwrap();
        assert_eq!((second.stats().new_objects, second.stats().sent_bytes), (0, 0));
        assert_eq!(one.record.root, two.record.root);
        assert_eq!(get_files(&second, &two.record.root).unwrap(), all);
    }
}

#[test]
fn what_another_keeper_has_stored_since_is_found() {
    let (store, clock, vault) = world();
    let reader = session(&vault, &keys(1), "alpha");
    let other = Vault::open(Arc::new(store.restarted()), options(&clock)).unwrap();
    let all = files(&mut Numbers(6), 50);
    let made = backup(&session(&other, &keys(1), "alpha"), &all).unwrap();
    assert_eq!(get_files(&reader, &made.record.root).unwrap(), all);
    let keeper = vault.handle(keys(1).domain(), "alpha", Rights::CLIENT, false).unwrap();
    assert_eq!(
        keeper.get(&[anshin_vault::ChunkId([5; 32])]).map(drop),
        Err(VaultError::Missing(anshin_vault::ChunkId([5; 32])))
    );
    assert_eq!(
        vault.reach(keys(1).domain(), made.record.id).unwrap().objects,
        other.reach(keys(1).domain(), made.record.id).unwrap().objects
    );
}

#[test]
fn a_snapshot_may_need_what_another_keeper_has_stored_since() {
    let (store, clock, vault) = world();
    let writer = session(&vault, &keys(1), "alpha");
    let other = Vault::open(Arc::new(store.restarted()), options(&clock)).unwrap();
    let all = files(&mut Numbers(7), 50);
    let root = put_files(&session(&other, &keys(1), "alpha"), &all).unwrap();
    backup(&session(&other, &keys(1), "alpha"), &all).unwrap();
    let made = writer.seal(draft(root)).unwrap();
    assert_eq!(get_files(&writer, &made.record.root).unwrap(), all);
}

/// A keeper behind a link: it is asked in batches.
struct Far(anshin_vault::Handle);

impl Keeper for Far {
    fn domain(&self) -> anshin_vault::DomainId {
        self.0.domain()
    }
    fn client(&self) -> String {
        self.0.client()
    }
    fn is_near(&self) -> bool {
        false
    }
    fn is_shared(&self) -> bool {
        self.0.is_shared()
    }
    fn missing(&self, ids: &[anshin_vault::ChunkId]) -> Result<Vec<bool>, VaultError> {
        assert!(ids.len() > 1, "asked for one object at a time");
        self.0.missing(ids)
    }
    fn prove(&self, claims: &[(anshin_vault::ChunkId, [u8; 32])]) -> Result<Vec<bool>, VaultError> {
        self.0.prove(claims)
    }
    fn put(&self, objects: Vec<anshin_vault::Sealed>) -> Result<(), VaultError> {
        // As it comes over a link.
        let objects =
            objects.into_iter().map(|sealed| anshin_vault::Sealed::parse(sealed.bytes().clone()).unwrap());
        self.0.put(objects.collect())
    }
    fn flush(&self) -> Result<(), VaultError> {
        self.0.flush()
    }
    fn seal_snapshot(
        &self,
        record: anshin_vault::SnapshotRecord,
    ) -> Result<anshin_vault::Snapshot, VaultError> {
        self.0.seal_snapshot(record)
    }
    fn get(&self, ids: &[anshin_vault::ChunkId]) -> Result<Vec<anshin_vault::Sealed>, VaultError> {
        self.0.get(ids)
    }
    fn snapshots(&self) -> Result<Vec<anshin_vault::Snapshot>, VaultError> {
        self.0.snapshots()
    }
    fn forget(&self, id: anshin_vault::SnapshotId) -> Result<(), VaultError> {
        self.0.forget(id)
    }
    fn remember(&self, id: anshin_vault::SnapshotId) -> Result<(), VaultError> {
        self.0.remember(id)
    }
    fn key_files(&self) -> Result<Vec<Vec<u8>>, VaultError> {
        self.0.key_files()
    }
    fn add_key_file(&self, bytes: &[u8]) -> Result<(), VaultError> {
        self.0.add_key_file(bytes)
    }
}

#[test]
fn a_snapshot_whose_contents_are_not_all_there_is_never_sealed() {
    let (_, _, vault) = world();
    let session = session(&vault, &keys(1), "alpha");
    let absent = anshin_vault::ChunkId([5; 32]);
    let root = session.put(Kind::Tree, &[absent], b"x").unwrap();
    assert_eq!(session.seal(draft(root)), Err(VaultError::Missing(absent)));
    assert_eq!(vault.snapshots().unwrap(), vec![]);
}

#[test]
fn a_snapshot_that_is_sealed_again_after_a_lost_answer_is_the_same_one() {
    let (_, _, vault) = world();
    let session = session(&vault, &keys(1), "alpha");
    let root = put_files(&session, &files(&mut Numbers(3), 5)).unwrap();
    let draft = draft(root);
    let first = session.seal(draft.clone()).unwrap();
    assert_eq!(session.seal(draft.clone()).unwrap(), first);
    let other = put_files(&session, &files(&mut Numbers(4), 5)).unwrap();
    let result = session.seal(anshin_vault::SnapshotDraft { root: other, ..draft });
    assert!(matches!(result, Err(VaultError::Exists(_))), "{result:?}");
}

#[test]
fn a_lost_index_is_made_anew_from_the_packs_alone() {
    let (store, clock, vault) = world();
    let all = files(&mut Numbers(5), 300);
    let made = backup(&session(&vault, &keys(1), "alpha"), &all).unwrap();
    for name in store.names().iter().filter(|name| name.starts_with("index/")) {
        store.tamper(name, None);
    }
    let vault = Vault::open(Arc::new(store.restarted()), options(&clock)).unwrap();
    assert_eq!(get_files(&session(&vault, &keys(1), "alpha"), &made.record.root).unwrap(), all);
    let again = session(&vault, &keys(1), "alpha");
    backup(&again, &all).unwrap();
    assert_eq!(again.stats().sent_bytes, 0);
    assert!(store.names().iter().any(|name| name.starts_with("index/")));
    assert!(vault.rebuild_index().unwrap() > 100);
    assert!(vault.verify(&VerifyOptions::default()).unwrap().findings.is_empty());
}

#[test]
fn many_small_backups_leave_few_index_segments() {
    let (store, _, vault) = world();
    for round in 0..40 {
        backup(&session(&vault, &keys(1), "alpha"), &files(&mut Numbers(100 + round), 5)).unwrap();
    }
    let segments = store.names().iter().filter(|name| name.starts_with("index/")).count();
    assert!(segments < 16, "{segments}");
    assert!(vault.verify(&VerifyOptions::default()).unwrap().findings.is_empty());
}

#[test]
fn forgotten_snapshots_are_kept_until_their_time_is_over_and_can_be_taken_back() {
    let (store, clock) = (FaultStore::new(), TestClock::default());
    let options = Options { forget_delay: 100, grace: 50, ..options(&clock) };
    let vault = Vault::create(Arc::new(store.clone()), options).unwrap();
    let (one, two) = (files(&mut Numbers(6), 100), files(&mut Numbers(7), 100));
    let domain = keys(1).domain();
    let first = backup(&session(&vault, &keys(1), "alpha"), &one).unwrap();
    let second = backup(&session(&vault, &keys(1), "alpha"), &two).unwrap();
    vault.forget(domain, first.record.id).unwrap();
    assert_eq!(vault.gc().unwrap().snapshots_removed, 0);
    let listed = vault.snapshots().unwrap();
    let found = listed.iter().find(|(_, snapshot)| snapshot.record.id == first.record.id).unwrap();
    assert_eq!(found.1.forgotten, Some(1_000_000));
    vault.remember(domain, first.record.id).unwrap();
    clock.advance(200);
    assert_eq!(vault.gc().unwrap().snapshots_removed, 0);
    vault.forget(domain, first.record.id).unwrap();
    clock.advance(100);
    let report = vault.gc().unwrap();
    assert_eq!((report.snapshots_removed, report.packs_deleted), (1, 0));
    assert!(report.packs_condemned > 0 && report.next == Some(1_000_350), "{report:?}");
    clock.advance(49);
    assert_eq!(vault.gc().unwrap().packs_deleted, 0);
    clock.advance(1);
    assert!(vault.gc().unwrap().packs_deleted > 0);
    let reader = session(&vault, &keys(1), "alpha");
    assert_eq!(get_files(&reader, &second.record.root).unwrap(), two);
    assert!(get_files(&reader, &first.record.root).is_err());
    assert!(vault.verify(&VerifyOptions::default()).unwrap().findings.is_empty());
}

#[test]
fn i13_what_a_running_backup_was_told_is_there_is_never_collected() {
    let (_, _, vault) = world();
    let all = files(&mut Numbers(8), 100);
    let old = backup(&session(&vault, &keys(1), "alpha"), &all).unwrap();
    let running = session(&vault, &keys(1), "alpha");
    let root = put_files(&running, &all).unwrap();
    vault.forget(keys(1).domain(), old.record.id).unwrap();
    let report = vault.gc().unwrap();
    assert_eq!((report.snapshots_removed, report.packs_deleted), (1, 0), "{report:?}");
    let new = running.seal(draft(root)).unwrap();
    assert_eq!(running.stats().sent_bytes, 0);
    vault.gc().unwrap();
    assert_eq!(get_files(&session(&vault, &keys(1), "alpha"), &new.record.root).unwrap(), all);
    // A backup that dies leaves nothing.
    drop(running);
    vault.forget(keys(1).domain(), new.record.id).unwrap();
    let died = session(&vault, &keys(1), "alpha");
    put_files(&died, &all).unwrap();
    drop(died);
    assert!(vault.gc().unwrap().packs_deleted > 0);
    assert_eq!(vault.size().unwrap().packs, 0);
}

#[test]
fn i13_no_tree_outlives_what_it_refers_to() {
    let (_, _, vault) = world();
    let writer = session(&vault, &keys(1), "alpha");
    let data = |n: u64| writer.put(Kind::Data, &[], &Numbers(n).bytes(3000)).unwrap();
    // Two directories beside each other in one pack of trees, of which the second snapshot keeps one.
    let lost = writer.put(Kind::Tree, &[data(1), data(2), data(3)], b"lost").unwrap();
    let kept = writer.put(Kind::Tree, &[data(4), data(5), data(6)], b"kept").unwrap();
    let both = writer.put(Kind::Tree, &[lost, kept], b"both").unwrap();
    let first = writer.seal(draft(both)).unwrap();
    let one = writer.put(Kind::Tree, &[kept], b"one").unwrap();
    let second = writer.seal(draft(one)).unwrap();
    drop(writer);
    vault.forget(keys(1).domain(), first.record.id).unwrap();
    assert!(vault.gc().unwrap().bytes_deleted > 6000);
    for _ in 0..2 {
        let later = session(&vault, &keys(1), "alpha");
        // A backup that finds a directory there need not look below it.
        assert_eq!(later.has_many(&[lost, both, kept, one]).unwrap(), [false, false, true, true]);
        later.seal(draft(second.record.root)).unwrap();
        drop(later);
        vault.rebuild_index().unwrap();
    }
}

#[test]
fn i13_nothing_is_collected_while_a_snapshot_cannot_be_read() {
    let (store, _, vault) = world();
    let old = backup(&session(&vault, &keys(1), "alpha"), &files(&mut Numbers(9), 50)).unwrap();
    let kept = backup(&session(&vault, &keys(1), "alpha"), &files(&mut Numbers(10), 50)).unwrap();
    vault.forget(keys(1).domain(), old.record.id).unwrap();
    let name = format!("snapshots/{}/{}", keys(1).domain(), kept.record.id);
    let mut bytes = store.peek(&name).unwrap().to_vec();
    bytes[30] ^= 1;
    store.tamper(&name, Some(bytes.into()));
    let before = vault.size().unwrap().packs;
    assert!(matches!(vault.gc(), Err(VaultError::Refused(_))));
    assert_eq!(vault.size().unwrap().packs, before);
    // An administrator who gives the damaged one up lets it go on; even a damaged mark of forgetting is put right.
    store.tamper(&name.replace("snapshots/", "forgotten/"), Some(b"rot".to_vec().into()));
    vault.forget(keys(1).domain(), kept.record.id).unwrap();
    assert!(vault.gc().unwrap().packs_deleted > 0);
    assert_eq!(vault.size().unwrap().packs, 0);
}

#[test]
fn i16_a_pushing_client_adds_and_can_do_nothing_else() {
    let (_, _, vault) = world();
    let pushed = session_with(&vault, &keys(1), "alpha", Rights::PUSH);
    let all = files(&mut Numbers(11), 20);
    let made = backup(&pushed, &all).unwrap();
    let keeper = pushed.keeper();
    assert!(matches!(pushed.get(&made.record.root), Err(VaultError::Denied(_))));
    assert!(matches!(keeper.forget(made.record.id), Err(VaultError::Denied(_))));
    assert!(matches!(keeper.remember(made.record.id), Err(VaultError::Denied(_))));
    let mut record = made.record.clone();
    record.client = "beta".into();
    record.id = anshin_vault::SnapshotId([1; 16]);
    assert!(matches!(keeper.seal_snapshot(record), Err(VaultError::Denied(_))));
    let mut changed = made.record.clone();
    changed.root = pushed.put(Kind::Tree, &[], b"nothing").unwrap();
    pushed.flush().unwrap();
    assert!(matches!(keeper.seal_snapshot(changed), Err(VaultError::Exists(_))));
    let new = anshin_vault::KeyFile::create("x", anshin_vault::Secret::Machine(&[1; 32]), "x", 0).unwrap();
    assert!(keeper.add_key_file(&new.file.encode()).is_err());
    assert_eq!(get_files(&session(&vault, &keys(1), "alpha"), &made.record.root).unwrap(), all);
}

#[test]
fn i16_clients_of_one_domain_read_only_what_is_their_own_and_need_proof_to_reuse() {
    let (_, _, vault) = world();
    let shared = keys(1);
    let open = |client: &str, rights| {
        let handle = vault.handle(shared.domain(), client, rights, true).unwrap();
        Session::new(Arc::new(handle), shared.clone()).unwrap()
    };
    let all = files(&mut Numbers(12), 60);
    let alpha = open("alpha", Rights::CLIENT);
    let one = backup(&alpha, &all).unwrap();
    // Without holding the content, the ids alone give nothing.
    let thief = open("thief", Rights::CLIENT);
    assert_eq!(thief.get(&one.record.root), Err(VaultError::Missing(one.record.root)));
    assert!(!thief.has(&one.record.root).unwrap());
    assert_eq!(thief.keeper().snapshots().unwrap(), vec![]);
    assert_eq!(thief.keeper().prove(&[(one.record.root, [0; 32])]).unwrap(), [false]);
    // Who holds the content proves it and sends nothing.
    let beta = open("beta", Rights::CLIENT);
    let two = backup(&beta, &all).unwrap();
    assert_eq!((beta.stats().sent_bytes, two.record.root), (0, one.record.root));
    assert_eq!(get_files(&open("beta", Rights::READER), &two.record.root).unwrap(), all);
    // What both need stays as long as one needs it.
    vault.forget(shared.domain(), one.record.id).unwrap();
    vault.gc().unwrap();
    vault.rebuild_index().unwrap();
    assert_eq!(get_files(&open("beta", Rights::READER), &two.record.root).unwrap(), all);
    assert!(vault.verify(&VerifyOptions { keys: vec![shared.clone()] }).unwrap().findings.is_empty());
    let everything = Rights { add: false, read: Reading::Domain, rekey: false, administer: false };
    assert_eq!(get_files(&open("admin", everything), &two.record.root).unwrap(), all);
}

#[test]
fn i16_a_poisoned_object_of_another_client_is_not_reused() {
    let (_, _, vault) = world();
    let shared = keys(1);
    let content = vec![b'v'; 5000];
    let honest = |client: &str| {
        let handle = vault.handle(shared.domain(), client, Rights::CLIENT, true).unwrap();
        Session::new(Arc::new(handle), shared.clone()).unwrap()
    };
    // The poisoner knows what others will store, and puts something else under its id.
    let scratch = create(Arc::new(FaultStore::new()), &TestClock::default());
    let lent = session(&scratch, &shared, "x");
    let (id, other) =
        (lent.put(Kind::Data, &[], &content).unwrap(), lent.put(Kind::Data, &[], b"poison").unwrap());
    lent.flush().unwrap();
    let mut bytes = lent.keeper().get(&[other]).unwrap()[0].bytes().to_vec();
    bytes[..32].copy_from_slice(&id.0);
    let end = bytes.len() - 16;
    let check = blake3_check(&bytes[..end]);
    bytes[end..].copy_from_slice(&check);
    let poison = anshin_vault::Sealed::parse(bytes.into()).unwrap();
    let poisoner = vault.handle(shared.domain(), "poisoner", Rights::PUSH, true).unwrap();
    poisoner.put(vec![poison]).unwrap();
    poisoner.flush().unwrap();
    let victim = honest("victim");
    assert_eq!(victim.put(Kind::Data, &[], &content).unwrap(), id);
    let root = victim.put(Kind::Tree, &[id], b"x").unwrap();
    victim.seal(draft(root)).unwrap();
    assert!(victim.stats().sent_bytes > 0);
    assert_eq!(honest("victim").get(&id).unwrap().plain, content);
}

fn blake3_check(bytes: &[u8]) -> [u8; 16] {
    blake3::hash(bytes).as_bytes()[..16].try_into().unwrap()
}

#[test]
fn domains_share_nothing() {
    let (_, _, vault) = world();
    let all = files(&mut Numbers(13), 30);
    let one = backup(&session(&vault, &keys(1), "alpha"), &all).unwrap();
    let beta = session(&vault, &keys(2), "beta");
    let two = backup(&beta, &all).unwrap();
    assert!(beta.stats().sent_bytes > 0);
    assert_ne!(one.record.root, two.record.root);
    assert!(matches!(beta.get(&one.record.root), Err(VaultError::Missing(_))));
    assert_eq!(vault.domains().unwrap().len(), 2);
}

#[test]
fn a_damaged_object_is_put_anew_by_the_next_backup() {
    let (store, _, vault) = world();
    let all = files(&mut Numbers(14), 100);
    let made = backup(&session(&vault, &keys(1), "alpha"), &all).unwrap();
    let pack = store.names().into_iter().find(|name| name.contains("/d-")).unwrap();
    let mut bytes = store.peek(&pack).unwrap().to_vec();
    bytes[200] ^= 1;
    store.tamper(&pack, Some(bytes.into()));
    let report = vault.verify(&VerifyOptions::default()).unwrap();
    assert_eq!(report.snapshots.len(), 1);
    assert_eq!(report.snapshots[0].snapshot.record.id, made.record.id);
    let again = session(&vault, &keys(1), "alpha");
    let healed = backup(&again, &all).unwrap();
    assert_eq!(again.stats().new_objects, report.snapshots[0].lost.len() as u64);
    assert_eq!(get_files(&again, &healed.record.root).unwrap(), all);
    let report = vault.verify(&VerifyOptions::default()).unwrap();
    assert!(
        report.snapshots.is_empty() && report.findings.iter().all(|finding| finding.lost.is_empty()),
        "{report:?}"
    );
}

#[test]
fn a_storage_that_overwrites_is_refused() {
    let store = FaultStore::new();
    store.ignore_conditions();
    let result = Vault::create(Arc::new(store.clone()), options(&TestClock::default()));
    assert!(matches!(result, Err(VaultError::Unfit(_))));
    assert!(store.names().is_empty());
}

#[test]
fn a_vault_is_made_once() {
    let (store, clock, _) = world();
    let again = Vault::create(Arc::new(store.restarted()), options(&clock));
    assert!(matches!(again, Err(VaultError::Exists(_))));
    assert!(matches!(
        Vault::open(Arc::new(FaultStore::new()), options(&clock)),
        Err(VaultError::NotFound(_))
    ));
}

#[test]
fn snapshots_are_listed_without_reading_them_again_but_verified_as_they_are() {
    let (store, clock) = (FaultStore::new(), TestClock::default());
    let vault = create(Arc::new(store.clone()), &clock);
    let writer = session(&vault, &keys(1), "alpha");
    let made: Vec<_> = (0..20).map(|n| backup(&writer, &files(&mut Numbers(n), 2)).unwrap()).collect();
    let listed = || vault.snapshots().unwrap().len();
    assert_eq!(listed(), 20);
    let before = store.operations();
    assert_eq!(listed(), 20);
    assert!(store.operations() - before <= 5, "{} operations for 20 snapshots", store.operations() - before);
    // What another keeper does is seen.
    let other = Vault::open(Arc::new(store.restarted()), options(&clock)).unwrap();
    other.forget(keys(1).domain(), made[3].record.id).unwrap();
    let forgotten = |at: usize| {
        let all = vault.snapshots().unwrap();
        all.iter().find(|(_, found)| found.record.id == made[at].record.id).unwrap().1.forgotten
    };
    assert!(forgotten(3).is_some() && forgotten(4).is_none());
    other.remember(keys(1).domain(), made[3].record.id).unwrap();
    assert!(forgotten(3).is_none());
    // Rot is none of the list's business.
    let name = store.names().into_iter().find(|name| name.starts_with("snapshots/")).unwrap();
    let mut rotten = store.peek(&name).unwrap().to_vec();
    rotten[20] ^= 1;
    store.tamper(&name, Some(rotten.into()));
    assert_eq!(listed(), 20);
    assert!(!vault.verify(&VerifyOptions::default()).unwrap().findings.is_empty());
    store.tamper(&name, None);
    assert_eq!(listed(), 19);
}

#[test]
fn what_is_forgotten_for_good_goes_with_the_next_collection() {
    let (store, clock) = (FaultStore::new(), TestClock::default());
    let forget_delay = 7 * 86_400;
    clock.advance(30 * 86_400);
    let vault = Vault::create(Arc::new(store), Options { forget_delay, ..options(&clock) }).unwrap();
    let writer = session(&vault, &keys(1), "alpha");
    let made: Vec<_> = (0..3).map(|n| backup(&writer, &files(&mut Numbers(n), 2)).unwrap()).collect();
    vault.forget(keys(1).domain(), made[0].record.id).unwrap();
    vault.forget_for_good(keys(1).domain(), made[1].record.id).unwrap();
    vault.gc().unwrap();
    let left: Vec<_> = vault.snapshots().unwrap().into_iter().map(|(_, found)| found.record.id).collect();
    let there = |at: usize| left.contains(&made[at].record.id);
    assert_eq!([there(0), there(1), there(2)], [true, false, true]);
}

#[test]
fn nothing_goes_for_good_while_a_snapshot_cannot_be_read() {
    let (store, clock) = (FaultStore::new(), TestClock::default());
    let vault = create(Arc::new(store.clone()), &clock);
    let writer = session(&vault, &keys(1), "alpha");
    let made: Vec<_> = (0..2).map(|n| backup(&writer, &files(&mut Numbers(n), 2)).unwrap()).collect();
    vault.forget_for_good(keys(1).domain(), made[0].record.id).unwrap();
    // The one that holds it too, for example.
    let name = store
        .names()
        .into_iter()
        .find(|name| name.starts_with("snapshots/") && name.ends_with(&made[1].record.id.to_string()));
    let name = name.unwrap();
    let whole = store.peek(&name).unwrap();
    store.tamper(&name, Some(whole.slice(..20)));
    let _ = vault.gc();
    let there = || vault.snapshots().unwrap().iter().any(|(_, found)| found.record.id == made[0].record.id);
    assert!(there());
    store.tamper(&name, Some(whole));
    vault.gc().unwrap();
    assert!(!there());
}
