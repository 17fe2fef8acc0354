//! Processes die at every operation of the storage, storages fill up, two writers and garbage collection run at once: what
//! was sealed is restored byte for byte, and the next backup succeeds.
#![allow(clippy::unwrap_used)]

mod common;

use anshin_base::testing::{Rows, size};
use anshin_vault::store::fault::FaultStore;
use anshin_vault::{DomainKeys, Options, Snapshot, SnapshotId, Vault, VaultError, VerifyOptions};
use common::*;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Runs everything in the calling thread, so that one seed is one run.
fn alone(clock: &TestClock) -> Options {
    Options { uploads: Some(0), ..options(clock) }
}

/// What must be in the vault: the files of each snapshot, and those whose fate a death left open.
#[derive(Default, Clone)]
struct Model {
    kept: BTreeMap<SnapshotId, (u8, Files)>,
    open: BTreeMap<SnapshotId, (u8, Files)>,
}

impl Model {
    fn seal(&mut self, client: u8, id: SnapshotId, files: Files, result: &Result<Snapshot, VaultError>) {
        match result {
            Ok(_) => drop(self.kept.insert(id, (client, files))),
            Err(_) => drop(self.open.insert(id, (client, files))),
        }
    }

    /// Whether forgetting took effect is decided by what is there afterwards.
    fn forget(&mut self, id: SnapshotId, result: &Result<(), VaultError>) {
        if let Some(entry) = self.kept.remove(&id)
            && result.is_err()
        {
            self.open.insert(id, entry);
        }
    }

    /// Opens the vault as the next process would, and compares.
    fn check(&mut self, store: &FaultStore, clock: &TestClock, context: &str) {
        let vault = Vault::open(Arc::new(store.restarted()), alone(clock)).expect(context);
        let report = vault.verify(&VerifyOptions { keys: vec![key(0), key(1)] }).expect(context);
        assert!(report.findings.is_empty() && report.snapshots.is_empty(), "{context}: {report:?}");
        let there: BTreeMap<SnapshotId, Snapshot> =
            vault.snapshots().expect(context).into_iter().map(|(_, s)| (s.record.id, s)).collect();
        for (id, entry) in std::mem::take(&mut self.open) {
            if there.get(&id).is_some_and(|snapshot| snapshot.forgotten.is_none()) {
                self.kept.insert(id, entry);
            }
        }
        for (id, (client, files)) in &self.kept {
            let snapshot = there.get(id).unwrap_or_else(|| panic!("{context}: snapshot {id} is gone"));
            let reader = session(&vault, &key(*client), name(*client));
            let restored = get_files(&reader, &snapshot.record.root);
            assert_eq!(restored.as_ref(), Ok(files), "{context}: snapshot {id}");
        }
    }
}

fn key(client: u8) -> DomainKeys {
    keys(client + 1)
}

fn name(client: u8) -> &'static str {
    ["alpha", "beta"][usize::from(client)]
}

/// Changes some files.
fn change(files: &mut Files, numbers: &mut Numbers) {
    for _ in 0..numbers.below(6) {
        let name = format!("d{}/f{}", numbers.below(4), numbers.below(40));
        if numbers.below(4) == 0 {
            files.remove(&name);
        } else {
            let length = numbers.below(1200) as usize;
            files.insert(name, numbers.bytes(length));
        }
    }
}

fn backup_as(vault: &Vault, client: u8, files: &Files, model: &mut Model) -> Result<Snapshot, VaultError> {
    let id = SnapshotId::generate().unwrap();
    let result = (|| {
        let session = session_or(vault, client)?;
        let root = put_files(&session, files)?;
        session.seal(anshin_vault::SnapshotDraft { id, ..draft(root) })
    })();
    model.seal(client, id, files.clone(), &result);
    result
}

/// A vault with garbage in it, and what must be kept.
fn prepared(clock: &TestClock) -> (FaultStore, Model, Files) {
    let store = FaultStore::new();
    let vault = Vault::create(Arc::new(store.clone()), alone(clock)).unwrap();
    let (mut model, mut numbers) = (Model::default(), Numbers(50));
    let mut all = files(&mut numbers, 25);
    for _ in 0..4 {
        backup_as(&vault, 0, &all, &mut model).unwrap();
        for _ in 0..4 {
            change(&mut all, &mut numbers);
        }
    }
    let first: Vec<_> = model.kept.keys().copied().take(2).collect();
    for id in first {
        let result = vault.forget(key(0).domain(), id);
        model.forget(id, &result);
    }
    (store, model, all)
}

#[test]
fn i12_i13_a_death_at_any_operation_of_backup_or_collection_loses_nothing() {
    let clock = TestClock::default();
    let (prepared, model, files) = prepared(&clock);
    let image = prepared.image();
    let run = |store: &FaultStore, model: &mut Model| -> Result<(), VaultError> {
        let vault = Vault::open(Arc::new(store.clone()), alone(&clock))?;
        backup_as(&vault, 0, &files, model)?;
        vault.gc()?;
        Ok(())
    };
    let whole = FaultStore::of_image(image.clone());
    run(&whole, &mut model.clone()).unwrap();
    let operations = whole.operations();
    assert!(operations > 60, "{operations}");
    let deleted = image.keys().filter(|name| whole.peek(name).is_none()).count();
    assert!(deleted > 5, "the collection deleted only {deleted} objects");
    for at in 1..=operations {
        for applied in [false, true] {
            let context = format!("death at operation {at} of {operations}, applied: {applied}");
            let store = FaultStore::of_image(image.clone());
            let mut model = model.clone();
            store.die_at(at, applied);
            let result = run(&store, &mut model);
            // A death in the last operations may meet cleaning up whose failure does not matter.
            assert!(result.is_err() || at + 3 > operations || store.is_dead(), "{context}");
            model.check(&store, &clock, &context);
            let vault = Vault::open(Arc::new(store.restarted()), alone(&clock)).unwrap();
            backup_as(&vault, 0, &files, &mut model).expect(&context);
            vault.gc().expect(&context);
            model.check(&store, &clock, &format!("{context}, and a backup and a collection after it"));
        }
    }
}

#[test]
fn i12_a_full_storage_at_any_point_loses_nothing() {
    let clock = TestClock::default();
    let (prepared, model, files) = prepared(&clock);
    let image = prepared.image();
    let mut refused = 0;
    for room in (0..60_000).step_by(1500) {
        let context = format!("room for {room} bytes");
        let (store, mut model) = (FaultStore::of_image(image.clone()), model.clone());
        store.set_room(Some(room));
        let vault = Vault::open(Arc::new(store.clone()), alone(&clock)).unwrap();
        let result = backup_as(&vault, 0, &files, &mut model).and_then(|_| vault.gc());
        refused += usize::from(matches!(result, Err(VaultError::Full(_) | VaultError::Failed(_))));
        store.set_room(None);
        model.check(&store, &clock, &context);
        // The very same process goes on once there is room.
        backup_as(&vault, 0, &files, &mut model).expect(&context);
        vault.gc().expect(&context);
        model.check(&store, &clock, &context);
    }
    assert!(refused >= 5, "only {refused} were refused");
}

/// Random backups of two clients, collections in the middle of them, two keepers on one storage, deaths, full storages.
fn random_run(seed: u64, rounds: u64) {
    let clock = TestClock::default();
    let mut numbers = Numbers(seed);
    let store = FaultStore::new();
    Vault::create(Arc::new(store.clone()), alone(&clock)).unwrap();
    let mut model = Model::default();
    let mut contents = [files(&mut numbers, 12), files(&mut numbers, 12)];
    for round in 0..rounds {
        let context = format!("seed {seed}, round {round}");
        // One or two keepers live at once.
        let processes: Vec<FaultStore> = (0..1 + numbers.below(2)).map(|_| store.restarted()).collect();
        for process in &processes {
            if numbers.below(2) == 0 {
                process.die_at(1 + numbers.below(150), numbers.below(2) == 0);
            }
        }
        let grace = numbers.below(3) * 5;
        let options = || Options { grace, ..alone(&clock) };
        let vaults: Vec<Vault> =
            processes.iter().filter_map(|p| Vault::open(Arc::new(p.clone()), options()).ok()).collect();
        if vaults.is_empty() {
            continue;
        }
        if numbers.below(6) == 0 {
            store.set_room(Some(numbers.below(30_000) as usize));
        }
        for _ in 0..1 + numbers.below(5) {
            let vault = &vaults[numbers.below(vaults.len() as u64) as usize];
            random_step(vault, &vaults, &mut numbers, &mut contents, &mut model);
            clock.advance(numbers.below(4));
        }
        drop(vaults);
        store.set_room(None);
        model.check(&store, &clock, &context);
    }
    // Nothing is stuck: a last backup of each, and a collection that removes all that is forgotten, once what dead keepers
    // meant to seal is given up.
    clock.advance(8 * 24 * 3600);
    let vault = Vault::open(Arc::new(store.restarted()), alone(&clock)).unwrap();
    for client in 0..2 {
        backup_as(&vault, client, &contents[usize::from(client)], &mut model).unwrap();
    }
    vault.gc().unwrap();
    model.check(&store, &clock, &format!("seed {seed}, at the end"));
    let kept: Vec<SnapshotId> = model.kept.keys().copied().collect();
    for id in kept {
        let client = model.kept[&id].0;
        vault.forget(key(client).domain(), id).unwrap();
    }
    vault.gc().unwrap();
    assert_eq!(vault.size().unwrap().packs, 0, "seed {seed}: garbage is left");
}

fn random_step(
    vault: &Vault,
    all: &[Vault],
    numbers: &mut Numbers,
    contents: &mut [Files; 2],
    model: &mut Model,
) {
    let client = numbers.below(2) as u8;
    let files = &mut contents[usize::from(client)];
    match numbers.below(10) {
        0..=3 => {
            change(files, numbers);
            let _ = backup_as(vault, client, files, model);
        }
        4..=6 => {
            // A collection, by the same keeper or another, between the parts of a backup.
            change(files, numbers);
            let id = SnapshotId::generate().unwrap();
            let result = (|| {
                let session = session_or(vault, client)?;
                let half: Files = files.clone().into_iter().take(files.len() / 2).collect();
                put_files(&session, &half)?;
                let _ = all[numbers.below(all.len() as u64) as usize].gc();
                if numbers.below(3) == 0 {
                    let victim = model.kept.iter().find(|(_, (of, _))| *of == client).map(|(id, _)| *id);
                    if let Some(victim) = victim {
                        let result = vault.forget(key(client).domain(), victim);
                        model.forget(victim, &result);
                    }
                }
                let root = put_files(&session, files)?;
                let _ = all[numbers.below(all.len() as u64) as usize].gc();
                session.seal(anshin_vault::SnapshotDraft { id, ..draft(root) })
            })();
            model.seal(client, id, files.clone(), &result);
        }
        7..=8 => {
            let keep = 1 + numbers.below(3) as usize;
            let own: Vec<_> =
                model.kept.iter().filter(|(_, (of, _))| *of == client).map(|(id, _)| *id).collect();
            for id in own.into_iter().skip(keep) {
                let result = vault.forget(key(client).domain(), id);
                model.forget(id, &result);
            }
            let _ = vault.gc();
        }
        _ => {
            let _ = vault.rebuild_index();
        }
    }
}

fn session_or(vault: &Vault, client: u8) -> Result<anshin_vault::Session, VaultError> {
    let rights = anshin_vault::Rights::CLIENT;
    let handle = vault.handle(key(client).domain(), name(client), rights, false)?;
    anshin_vault::Session::new(Arc::new(handle), key(client))
}

#[test]
fn i12_i13_random_runs_with_deaths_two_keepers_and_full_storages_lose_nothing() {
    let (mut rows, seeds) = (Rows::open("vault-random"), size(40, 2000));
    for hundred in (0..seeds).step_by(100).filter(|first| !rows.has(first)).collect::<Vec<_>>() {
        for seed in hundred..seeds.min(hundred + 100) {
            random_run(seed, 10);
        }
        rows.add(hundred, "and the seeds behind it, ten rounds each");
    }
}

#[test]
fn i13_two_writers_and_collection_at_once_with_kills_lose_nothing() {
    let (clock, rounds) = (TestClock::default(), size(200, 2000));
    let store = FaultStore::new();
    Vault::create(Arc::new(store.clone()), options(&clock)).unwrap();
    let mut model = Model::default();
    let mut numbers = Numbers(99);
    let mut contents = [files(&mut numbers, 20), files(&mut numbers, 20)];
    for round in 0..rounds {
        let process = store.restarted();
        if round % 2 == 1 {
            process.die_at(20 + numbers.below(300), numbers.below(2) == 0);
        }
        let Ok(vault) = Vault::open(Arc::new(process), options(&clock)) else { continue };
        // Each writer forgets all but its newest two, then backs up twice.
        for client in 0..2u8 {
            let own: Vec<_> =
                model.kept.iter().filter(|(_, (of, _))| *of == client).map(|(id, _)| *id).collect();
            for id in own.into_iter().skip(2) {
                let result = vault.forget(key(client).domain(), id);
                model.forget(id, &result);
            }
        }
        let shared = Mutex::new(std::mem::take(&mut model));
        let seeds = [numbers.next(), numbers.next()];
        std::thread::scope(|scope| {
            for (client, files) in contents.iter_mut().enumerate() {
                let (vault, shared, seed) = (&vault, &shared, seeds[client]);
                scope.spawn(move || {
                    let mut numbers = Numbers(seed);
                    for _ in 0..2 {
                        change(files, &mut numbers);
                        let mut own = Model::default();
                        let _ = backup_as(vault, client as u8, files, &mut own);
                        let mut all = shared.lock().unwrap();
                        all.kept.extend(own.kept);
                        all.open.extend(own.open);
                    }
                });
            }
            scope.spawn(|| {
                for _ in 0..3 {
                    let _ = vault.gc();
                }
            });
        });
        model = shared.into_inner().unwrap();
        drop(vault);
        model.check(&store, &clock, &format!("round {round}"));
    }
    assert!(model.kept.len() >= 2);
    Rows::open("vault-writers")
        .add("all", &format!("{rounds} rounds of two writers and a collection in one process"));
}
