//! A great many small files come back, on each file system, through a real vault, as outside tools see them.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test program, its helpers included

mod common;

use anshin_base::testing::{Rows, size};
use anshin_capture::{
    Monitor,
    restore::{RestoreOptions, Selection, restore},
    tree::ChunkId,
};
use anshin_vault::{DomainKeys, Options, Place, Vault, VerifyOptions};
use common::{
    Mounted, is_missing,
    real::{run, session},
    sh,
    torture::noise,
    with_mounts,
};
use std::{fs, path::Path, time::Instant};

/// One directory holds this share of all files, the others a thousand each.
const CROWDED: usize = 10;

/// `count` files of up to 300 bytes, most of which differ.
fn build(top: &Path, count: usize) {
    let crowd = count / CROWDED;
    for n in 0..count {
        let directory =
            if n < crowd { top.join("crowd") } else { top.join(format!("{}", (n - crowd) / 1000)) };
        if n == 0 || (n >= crowd && (n - crowd).is_multiple_of(1000)) {
            fs::create_dir_all(&directory).unwrap();
        }
        fs::write(directory.join(format!("file-{n}")), noise(n as u64 / 2, n % 301)).unwrap();
    }
}

fn bring_back(vault: &Vault, keys: &DomainKeys, root: &ChunkId, target: &Path) {
    let reading = session(vault, keys);
    let options = RestoreOptions::default();
    let report = restore(&reading, root, &Selection::all(), target, &options, &Monitor::new()).unwrap();
    assert!(report.issues.is_empty(), "{:?}", report.issues);
}

/// The comparison of those who have nothing to do with the program.
fn judge(a: &Path, b: &Path, count: usize) {
    let (left, right) = (a.display(), b.display());
    let rsync = sh(&format!(
        "rsync -nacHAX --numeric-ids --delete --modify-window=-1 --itemize-changes {left}/ {right}/"
    ));
    assert_eq!(rsync, "", "rsync finds differences");
    let list =
        "find . \\( -type d -printf '%p %m %U %G %T@\\n' \\) -o -printf '%p %y %m %U %G %s %n %T@\\n' | sort";
    for top in [a, b] {
        sh(&format!("cd {} && {list} > {}.list", top.display(), top.display()));
    }
    sh(&format!("cmp {left}.list {right}.list"));
    let files: usize = sh(&format!("find {right} -type f | wc -l")).trim().parse().unwrap();
    assert_eq!(files, count);
}

/// The largest amount of memory that this process ever had, in MB.
fn memory_peak_mb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

fn comes_back(test: &str, kind: &str, mkfs: &str) {
    let mut rows = Rows::open("tree-many");
    if rows.has(kind) || !with_mounts(test) || is_missing(&[mkfs, "rsync"]) {
        return;
    }
    let count = size(20_000, 1_000_000);
    let mut mounted = Mounted::new(&format!("many-{kind}"));
    let room = size("1G", "8G");
    let (source, target) = (mounted.mount(kind, "source", room), mounted.mount(kind, "target", room));
    let (tree, back) = (source.join("tree"), target.join("tree"));
    build(&tree, count);

    let place = mounted.dir.path("vault");
    let store = Place::parse(place.to_str().unwrap()).unwrap().store(true).unwrap();
    let vault = Vault::create(store, Options::default()).unwrap();
    let (keys, cache) = (DomainKeys::generate().unwrap(), mounted.dir.path("cache"));
    let mut clock = Instant::now();
    let mut lap = || std::mem::replace(&mut clock, Instant::now()).elapsed().as_secs_f64();
    lap();
    let first = run(&vault, &keys, &tree, &cache);
    let full = lap();
    assert!(first.report.issues.is_empty(), "{:?}", first.report.issues);
    assert_eq!(first.report.files, count as u64);
    let again = run(&vault, &keys, &tree, &cache);
    let unchanged = lap();
    assert_eq!((again.root, again.report.unchanged), (first.root, count as u64));
    let report = vault.verify(&VerifyOptions { keys: vec![keys.clone()] }).unwrap();
    assert!(report.is_good() && report.findings.is_empty(), "{report:?}");
    let verify = lap();
    bring_back(&vault, &keys, &first.root, &back);
    let restore = lap();
    judge(&tree, &back, count);
    let figures = format!(
        "{count} files: first backup {full:.1} s, unchanged {unchanged:.1} s, verify with keys {verify:.1} s, restore \
         {restore:.1} s, memory at most {} MB, {} objects",
        memory_peak_mb(),
        report.objects
    );
    rows.add(kind, &figures);
}

#[test]
fn many_on_ext4() {
    comes_back("many_on_ext4", "ext4", "mkfs.ext4");
}

#[test]
fn many_on_xfs() {
    comes_back("many_on_xfs", "xfs", "mkfs.xfs");
}

#[test]
fn many_on_btrfs() {
    comes_back("many_on_btrfs", "btrfs", "mkfs.btrfs");
}
