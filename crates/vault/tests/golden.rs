//! Vaults of every format version that was ever written are opened, verified and restored.
#![allow(clippy::unwrap_used)]

mod common;

use anshin_vault::store::fault::FaultStore;
use anshin_vault::store::local::LocalStore;
use anshin_vault::{KeyFile, Options, RecoveryKey, Secret, Vault, VerifyOptions};
use common::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MACHINE_KEY: [u8; 32] = [5; 32];

fn place(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/v{version}"))
}

/// What the golden vault holds: two snapshots, of which the first is forgotten.
fn golden_files() -> [Files; 2] {
    let first = files(&mut Numbers(60), 12);
    let mut second = first.clone();
    second.insert("d0/long".into(), b"anshin ".repeat(500));
    [first, second]
}

/// A copy in memory, so that opening it cannot change it.
fn copy_of(directory: &Path) -> FaultStore {
    let store = FaultStore::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                let name = path.strip_prefix(directory).unwrap().to_str().unwrap().to_owned();
                store.tamper(&name, Some(std::fs::read(&path).unwrap().into()));
            }
        }
    }
    store
}

#[test]
fn the_golden_vault_of_version_1_is_opened_verified_and_restored() {
    let store = copy_of(&place(1).join("vault"));
    let recovery: RecoveryKey =
        std::fs::read_to_string(place(1).join("recovery-key.txt")).unwrap().parse().unwrap();
    let vault = Vault::open(Arc::new(store), Options::default()).unwrap();
    let file: KeyFile = vault.key_files().unwrap().remove(0);
    let keys = file.unlock(Secret::Recovery(&recovery)).unwrap();
    assert_eq!(file.unlock(Secret::Machine(&MACHINE_KEY)).unwrap().domain(), keys.domain());
    assert_eq!(file.unlock(Secret::Passphrase("correct horse")).unwrap().domain(), keys.domain());
    let report = vault.verify(&VerifyOptions { keys: vec![keys.clone()] }).unwrap();
    assert!(report.findings.is_empty() && report.snapshots.is_empty(), "{report:?}");
    assert!(report.objects_decrypted > 10);
    let reader = session(&vault, &keys, "alpha");
    let snapshots = reader.snapshots().unwrap();
    assert_eq!(snapshots.len(), 2);
    for ((snapshot, meta), files) in snapshots.iter().zip(golden_files()) {
        assert_eq!(meta.as_deref(), Ok(&b"about"[..]));
        assert_eq!(get_files(&reader, &snapshot.record.root).unwrap(), files);
    }
    assert_eq!(snapshots.iter().filter(|(snapshot, _)| snapshot.forgotten.is_some()).count(), 1);
    // It is still written to: what it has is not sent again.
    let writer = session(&vault, &keys, "alpha");
    backup(&writer, &golden_files()[1]).unwrap();
    assert_eq!(writer.stats().new_objects, 0);
}

/// Run once for each new version, with `VAULT_GOLDEN=DIRECTORY`.
#[test]
#[ignore = "makes a golden vault; only for a new format version"]
fn make_a_golden_vault() {
    let Ok(directory) = std::env::var("VAULT_GOLDEN") else { panic!("VAULT_GOLDEN names no directory") };
    let (directory, clock) = (PathBuf::from(directory), TestClock::default());
    let vault = create(Arc::new(LocalStore::create(&directory.join("vault")).unwrap()), &clock);
    let new = KeyFile::create("alpha", Secret::Machine(&MACHINE_KEY), "alpha", 1_000_000).unwrap();
    let file =
        new.file.with_slot(&new.keys, Secret::Passphrase("correct horse"), "admin", 1_000_000).unwrap();
    std::fs::write(directory.join("recovery-key.txt"), format!("{}\n", new.recovery)).unwrap();
    let writer = session(&vault, &new.keys, "alpha");
    writer.keeper().add_key_file(&file.encode()).unwrap();
    let [one, two] = golden_files();
    let first = backup(&writer, &one).unwrap();
    clock.advance(100);
    backup(&session(&vault, &new.keys, "alpha"), &two).unwrap();
    vault.forget(new.keys.domain(), first.record.id).unwrap();
}
