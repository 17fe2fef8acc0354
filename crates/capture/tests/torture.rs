//! A tree with everything in it comes back as it was, on each file system, as outside tools see it.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test program, its helpers included

mod common;

use anshin_capture::{
    Monitor,
    backup::CacheOptions,
    restore::{Conflict, RestoreOptions, Selection, verify},
};
use anshin_vault::memory::MemoryVault;
use common::{Mounted, back_up, bring_back, is_missing, naming, options, torture, with_mounts};

fn comes_back(test: &str, kind: &str, mkfs: &str) {
    let tools = [mkfs, "rsync", "getfattr", "getfacl", "setfacl", "setcap", "lsattr", "chattr"];
    if !with_mounts(test) || is_missing(&tools) {
        return;
    }
    let mut mounted = Mounted::new(kind);
    let (source, target) = (mounted.mount(kind, "source", "1G"), mounted.mount(kind, "target", "1G"));
    let source_tree = source.join("tree");
    std::fs::create_dir(&source_tree).unwrap();
    torture::build(&source_tree, kind);
    let target_tree = target.join("tree");

    let vault = MemoryVault::new();
    let mut options = options();
    options.now = options.now.plus_seconds(10); // so that everything is old enough to be cached
    let cache = mounted.dir.path("files-cache");
    options.cache = Some(CacheOptions { path: cache, tag: [1; 32], granularity_s: 2 });
    let first = back_up(&vault, &source_tree, &options);
    let restored = bring_back(&vault, &first.root, &target_tree, &RestoreOptions::default());
    assert!(restored.issues.is_empty(), "{:?}", restored.issues);
    torture::judge(&source_tree, &target_tree);

    let name: &(dyn Fn(&[u8]) -> _ + Sync) = &naming;
    let with_names = RestoreOptions { naming: Some(name), ..RestoreOptions::default() };
    let verified =
        verify(&vault, &first.root, &Selection::all(), &target_tree, &with_names, &Monitor::new()).unwrap();
    assert!(verified.is_equal(), "{:?}", verified.issues);
    assert!(verified.entries > 2000);

    let again = back_up(&vault, &source_tree, &options);
    assert_eq!(again.root, first.root, "an unchanged tree has the same id");
    assert!(again.report.unchanged + 10 > again.report.files, "{:?}", again.report);
    assert!(again.report.bytes_read < 200_000, "{:?}", again.report);

    // Once more over what is there, in place: nothing differs, so no contents are written.
    let over = RestoreOptions { conflict: Conflict::Overwrite, in_place: true, ..with_names };
    let restored = bring_back(&vault, &first.root, &target_tree, &over);
    assert!(restored.issues.is_empty(), "{:?}", restored.issues);
    assert_eq!(restored.bytes_written, 0, "{restored:?}");
    torture::judge(&source_tree, &target_tree);
}

#[test]
fn on_ext4() {
    comes_back("on_ext4", "ext4", "mkfs.ext4");
}

#[test]
fn on_xfs() {
    comes_back("on_xfs", "xfs", "mkfs.xfs");
}

#[test]
fn on_btrfs() {
    comes_back("on_btrfs", "btrfs", "mkfs.btrfs");
}
