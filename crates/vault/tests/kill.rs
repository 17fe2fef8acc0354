//! A process that backs up into a directory is killed at random instants; the vault verifies, what was sealed is restored, the next
//! backup succeeds.
#![allow(clippy::unwrap_used)]

mod common;

use anshin_base::testing::{Rows, size};
use anshin_vault::store::local::LocalStore;
use anshin_vault::{Options, SnapshotId, Vault, VerifyOptions};
use common::*;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

const CHILD: &str = "VAULT_KILL_TEST_DIRECTORY";
const TEAM: &str = "VAULT_KILL_TEST_TEAM";

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

fn child(test: &str, variable: &str, value: impl AsRef<std::ffi::OsStr>) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env(variable, value)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn i12_i13_a_process_killed_at_random_instants_loses_nothing_that_was_sealed() {
    let directory: PathBuf = std::env::temp_dir().join(format!("anshin-vault-kill-{}", std::process::id()));
    let _ = fs::remove_dir_all(&directory);
    drop(Vault::create(Arc::new(LocalStore::create(&directory).unwrap()), Options::default()).unwrap());
    let mut numbers = Numbers(4);
    let mut sealed = 0;
    for round in 0..size(25, 500) {
        let mut child = child("child_backs_up_until_it_is_killed", CHILD, &directory);
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
    fs::remove_dir_all(&directory).unwrap();
}

/// Snapshots that a process told of, before or after it did something to them.
fn told(directory: &Path, what: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(directory.join(what)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn tell(directory: &Path, what: &str, id: SnapshotId) {
    let mut file = File::options().append(true).create(true).open(directory.join(what)).unwrap();
    file.write_all(format!("{id}\n").as_bytes()).unwrap();
}

/// One of the processes that are killed: two that write into one key domain, and one that forgets and collects. What is
/// refused because another keeper came in between is tried again.
#[test]
fn one_of_a_team_works_until_it_is_killed() {
    let Ok(text) = std::env::var(TEAM) else { return };
    let [directory, client, seed] = text.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let directory = Path::new(directory);
    let (mut numbers, domain) = (Numbers(seed.parse().unwrap()), keys(1).domain());
    loop {
        let Ok(store) = LocalStore::open(&directory.join("vault")) else { continue };
        let options = Options { pack_size: 64 << 10, forget_delay: 0, grace: 0, ..Options::default() };
        let Ok(vault) = Vault::open(Arc::new(store), options) else { continue };
        let _ = match client {
            "collector" => collect(directory, &vault),
            client => (0..1 + numbers.below(3)).try_for_each(|_| {
                let number = numbers.below(30);
                let handle = vault.handle(domain, client, anshin_vault::Rights::CLIENT, true)?;
                let writer = anshin_vault::Session::new(Arc::new(handle), keys(1))?;
                let root = put_files(&writer, &content(number))?;
                let draft = anshin_vault::SnapshotDraft { run: number.to_string(), ..draft(root) };
                let id = draft.id;
                writer.seal(draft)?;
                tell(directory, "sealed", id);
                Ok(())
            }),
        };
    }
}

fn collect(directory: &Path, vault: &Vault) -> Result<(), anshin_vault::VaultError> {
    let mut all = vault.snapshots()?;
    all.retain(|(_, snapshot)| snapshot.forgotten.is_none());
    all.sort_by_key(|(_, snapshot)| snapshot.sealed);
    for (_, snapshot) in all.iter().take(all.len().saturating_sub(6)) {
        tell(directory, "forgotten", snapshot.record.id);
        vault.forget(keys(1).domain(), snapshot.record.id)?;
    }
    vault.gc().map(drop)
}

#[test]
fn i13_processes_that_write_and_collect_at_once_and_are_killed_lose_nothing() {
    let directory: PathBuf = std::env::temp_dir().join(format!("anshin-vault-team-{}", std::process::id()));
    let mut rows = Rows::open("vault-team");
    if rows.has("all") {
        return;
    }
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    let place = directory.join("vault");
    drop(Vault::create(Arc::new(LocalStore::create(&place).unwrap()), Options::default()).unwrap());
    let (mut numbers, mut restored, rounds) = (Numbers(5), 0, size(8, 200));
    for round in 0..rounds {
        let members = ["alpha", "beta", "collector"];
        let mut team: Vec<Child> = members
            .iter()
            .map(|client| {
                let value = format!("{} {client} {}", directory.display(), numbers.next());
                child("one_of_a_team_works_until_it_is_killed", TEAM, value)
            })
            .collect();
        // In any order, at any time, so that in turn each works on beside the dead.
        while !team.is_empty() {
            std::thread::sleep(Duration::from_millis(10 + numbers.below(250)));
            let mut member = team.swap_remove(numbers.below(team.len() as u64) as usize);
            let ended = member.try_wait().unwrap();
            assert!(ended.is_none(), "round {round}: one ended by itself: {ended:?}");
            member.kill().unwrap();
            member.wait().unwrap();
        }
        let vault = open(&place);
        let report = vault.verify(&VerifyOptions { keys: vec![keys(1)] }).unwrap();
        assert!(report.findings.is_empty() && report.snapshots.is_empty(), "round {round}: {report:?}");
        // Each client reads what it has put, or given its word for.
        let [alpha, beta] = ["alpha", "beta"].map(|client| session(&vault, &keys(1), client));
        let mut there = BTreeSet::new();
        for (_, snapshot) in vault.snapshots().unwrap() {
            let number = snapshot.record.run.parse().unwrap();
            let reader = if snapshot.record.client == "alpha" { &alpha } else { &beta };
            let files = get_files(reader, &snapshot.record.root);
            assert!(files.as_ref() == Ok(&content(number)), "round {round}: {snapshot:?}: {:?}", files.err());
            restored += 1;
            there.insert(snapshot.record.id.to_string());
        }
        let forgotten = told(&directory, "forgotten");
        let gone =
            told(&directory, "sealed").into_iter().find(|id| !there.contains(id) && !forgotten.contains(id));
        assert_eq!(gone, None, "round {round}: a sealed snapshot that nobody forgot is gone");
    }
    let (sealed, forgotten) = (told(&directory, "sealed").len(), told(&directory, "forgotten").len());
    assert!(sealed > 2 * rounds && forgotten > 0, "{sealed} sealed, {forgotten} forgotten");
    fs::remove_dir_all(&directory).unwrap();
    let figures = format!(
        "{rounds} rounds: {sealed} snapshots sealed, {forgotten} forgotten, {restored} restores byte for byte"
    );
    rows.add("all", &figures);
}
