//! A process that backs up into a directory is killed at random instants; the vault verifies, what was sealed is restored, the next
//! backup succeeds.
#![allow(clippy::unwrap_used)]

mod common;

use anshin_vault::store::local::LocalStore;
use anshin_vault::{Options, Vault, VerifyOptions};
use common::*;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

const CHILD: &str = "VAULT_KILL_TEST_DIRECTORY";

fn open(directory: &Path) -> Vault {
    let store = Arc::new(LocalStore::open(directory).unwrap());
    Vault::open(store, Options { pack_size: 64 << 10, forget_delay: 0, grace: 0, ..Options::default() })
        .unwrap()
}

fn content(number: u64) -> Files {
    files(&mut Numbers(number / 3), 120)
}

/// The process that is killed: backs up one content after the other, forgets the oldest, collects.
#[test]
fn child_backs_up_until_it_is_killed() {
    let Ok(directory) = std::env::var(CHILD) else { return };
    let vault = open(Path::new(&directory));
    let domain = keys(1).domain();
    let mut number = vault.snapshots().unwrap().len() as u64 * 7;
    loop {
        let writer = session(&vault, &keys(1), "alpha");
        let root = put_files(&writer, &content(number)).unwrap();
        writer.seal(anshin_vault::SnapshotDraft { run: number.to_string(), ..draft(root) }).unwrap();
        number += 1;
        let all = vault.snapshots().unwrap();
        if all.len() > 4 {
            vault.forget(domain, all[0].1.record.id).unwrap();
            vault.gc().unwrap();
        }
    }
}

#[test]
fn i12_i13_a_process_killed_at_random_instants_loses_nothing_that_was_sealed() {
    let directory: PathBuf = std::env::temp_dir().join(format!("anshin-vault-kill-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&directory);
    drop(Vault::create(Arc::new(LocalStore::create(&directory).unwrap()), Options::default()).unwrap());
    let mut numbers = Numbers(4);
    let mut sealed = 0;
    for round in 0..25 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_backs_up_until_it_is_killed"])
            .env(CHILD, &directory)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(5 + numbers.below(150)));
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "round {round}: the backup ended by itself: {ended:?}");
        child.kill().unwrap();
        child.wait().unwrap();
        let vault = open(&directory);
        let report = vault.verify(&VerifyOptions { keys: vec![keys(1)] }).unwrap();
        assert!(report.findings.is_empty() && report.snapshots.is_empty(), "round {round}: {report:?}");
        let reader = session(&vault, &keys(1), "alpha");
        for (_, snapshot) in vault.snapshots().unwrap() {
            let number = snapshot.record.run.parse().unwrap();
            assert_eq!(get_files(&reader, &snapshot.record.root).unwrap(), content(number), "round {round}");
            sealed += 1;
        }
    }
    assert!(sealed > 10, "only {sealed} snapshots were ever restored");
    std::fs::remove_dir_all(&directory).unwrap();
}
