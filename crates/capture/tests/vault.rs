//! Capture and vault together: what is backed up through a session, encrypted and packed, comes back through another.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test program, its helpers included

mod common;

use anshin_capture::{
    Monitor,
    backup::{Backup, BackupOptions, BackupRoot, CacheOptions, backup},
    restore::{Conflict, RestoreOptions, Selection, restore, verify},
};
use anshin_vault::{DomainKeys, Keeper, Options, Place, Rights, Session, SnapshotDraft, SnapshotId, Vault};
use common::{Dir, torture::noise};
use std::{fs, path::Path, sync::Arc};

fn session(vault: &Vault, keys: &DomainKeys) -> Session {
    let handle = vault.handle(keys.domain(), "client", Rights::CLIENT, false).unwrap();
    let keeper: Arc<dyn Keeper> = Arc::new(handle);
    Session::new(keeper, keys.clone()).unwrap()
}

/// Backs up and seals in a session of its own.
fn run(vault: &Vault, keys: &DomainKeys, tree: &Path, cache: &Path) -> Backup {
    let session = session(vault, keys);
    let mut options = BackupOptions::new(Arc::new(session.chunker()));
    options.now = options.now.plus_seconds(60);
    options.cache = Some(CacheOptions { path: cache.into(), tag: [0; 32], granularity_s: 2 });
    let root = BackupRoot { source: tree.into(), path: "/".into() };
    let done = backup(&session, &[root], &options, &Monitor::new()).unwrap();
    assert!(done.report.issues.is_empty(), "{:?}", done.report.issues);
    let draft = SnapshotDraft {
        id: SnapshotId::generate().unwrap(),
        plan: "nightly".into(),
        run: "1".into(),
        time: 0,
        root: done.root,
        entries: done.report.files,
        bytes: done.report.bytes,
        meta: Vec::new(),
    };
    session.seal(draft).unwrap();
    done
}

#[test]
fn a_tree_comes_back_from_a_real_vault() {
    let dir = Dir::new("real-vault");
    for n in 0..300 {
        dir.file(&format!("tree/{}/{n}", n % 7), noise(n, (n as usize * 97) % 9000));
    }
    dir.file("tree/large", noise(1, 45 << 20));
    let store = Place::parse(dir.path("vault").to_str().unwrap()).unwrap().store(true).unwrap();
    let vault = Vault::create(store, Options::default()).unwrap();
    let keys = DomainKeys::generate().unwrap();
    let first = run(&vault, &keys, &dir.path("tree"), &dir.path("cache"));
    let again = run(&vault, &keys, &dir.path("tree"), &dir.path("cache"));
    assert_eq!((again.root, again.report.unchanged), (first.root, 301));

    dir.file("tree/3/new", "new");
    fs::remove_file(dir.path("tree/4/4")).unwrap();
    let second = run(&vault, &keys, &dir.path("tree"), &dir.path("cache"));
    let reading = session(&vault, &keys);
    let (all, options) =
        (Selection::all(), RestoreOptions { conflict: Conflict::Overwrite, ..Default::default() });
    for (root, files) in [(first.root, 301), (second.root, 301)] {
        let back = dir.path(&format!("back-{root}"));
        let report = restore(&reading, &root, &all, &back, &options, &Monitor::new()).unwrap();
        assert_eq!((report.files, report.issues.is_empty()), (files, true));
        let verified = verify(&reading, &root, &all, &back, &options, &Monitor::new()).unwrap();
        assert!(verified.is_equal(), "{:?}", verified.issues);
    }
    assert_eq!(fs::read(dir.path(&format!("back-{}/3/new", second.root))).unwrap(), b"new");
}
