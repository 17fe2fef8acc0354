//! Capture and vault together: what is backed up through a session, encrypted and packed, comes back through another.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test program, its helpers included

mod common;

use anshin_capture::{
    Monitor,
    restore::{Conflict, RestoreOptions, Selection, restore, verify},
};
use anshin_vault::{DomainKeys, Options, Place, Vault};
use common::{
    Dir,
    real::{run, session},
    torture::noise,
};
use std::fs;

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
