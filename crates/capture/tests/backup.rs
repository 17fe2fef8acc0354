//! What a backup promises: what is left out, what happens to files that change, what the cache may and may not do.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test program, its helpers included

mod common;

use anshin_capture::{
    CaptureError, IssueKind, Monitor,
    backup::{Backup, BackupOptions, BackupRoot, CacheOptions, Excludes, backup},
    browse::{list, show},
    restore::{RestoreOptions, Selection, verify},
    tree::{ChunkId, EntryKind, Listing},
};
use anshin_vault::{Kind, Sink, VaultError, memory::MemoryVault};
use common::{Dir, back_up, bring_back, options, sh, torture::noise, with_mounts};
use std::{
    fs,
    ops::ControlFlow,
    path::Path,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

fn paths(vault: &MemoryVault, root: &ChunkId) -> Vec<String> {
    let mut found = Vec::new();
    list(vault, root, b"", true, |path, _| {
        found.push(String::from_utf8_lossy(path).into_owned());
        ControlFlow::Continue(())
    })
    .unwrap();
    found
}

fn run(sink: &dyn Sink, source: &Path, options: &BackupOptions) -> Result<Backup, CaptureError> {
    backup(sink, &[BackupRoot { source: source.into(), path: "/".into() }], options, &Monitor::new())
}

/// A vault that does something before each object is put.
struct Hooked<'h> {
    vault: MemoryVault,
    puts: AtomicU64,
    before: Box<dyn Fn(u64, Kind) + Send + Sync + 'h>,
}

impl<'h> Hooked<'h> {
    fn new(before: impl Fn(u64, Kind) + Send + Sync + 'h) -> Self {
        Self { vault: MemoryVault::new(), puts: AtomicU64::new(0), before: Box::new(before) }
    }
}

impl Sink for Hooked<'_> {
    fn put(&self, kind: Kind, refs: &[ChunkId], plain: &[u8]) -> Result<ChunkId, VaultError> {
        (self.before)(self.puts.fetch_add(1, Relaxed), kind);
        self.vault.put(kind, refs, plain)
    }

    fn has(&self, id: &ChunkId) -> Result<bool, VaultError> {
        self.vault.has(id)
    }
}

fn cached(dir: &Dir) -> BackupOptions {
    let mut options = options();
    options.now = options.now.plus_seconds(60); // everything in the tests is older than the granularity
    options.cache = Some(CacheOptions { path: dir.path("cache/files"), tag: [1; 32], granularity_s: 2 });
    options
}

fn sample(dir: &Dir) {
    for n in 0..30 {
        dir.file(&format!("tree/dir-{}/file-{n}", n % 4), noise(n, 1000 + n as usize));
    }
    dir.file("tree/large", noise(99, 40 << 20));
}

#[test]
fn patterns_cache_directories_and_nodump_are_left_out() {
    let dir = Dir::new("excludes");
    for name in [
        "keep",
        "a.tmp",
        "sub/b.tmp",
        "sub/keep",
        "cache/CACHEDIR.TAG",
        "cache/x",
        "false/CACHEDIR.TAG",
        "false/x",
    ] {
        dir.file(&format!("tree/{name}"), "some contents");
    }
    dir.file("tree/cache/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n# made by a test");
    let vault = MemoryVault::new();
    let mut options = options();
    options.excludes = Excludes::new(["*.tmp"]).unwrap();
    options.exclude_caches = true;
    let done = back_up(&vault, &dir.path("tree"), &options);
    let expected =
        ["cache", "cache/CACHEDIR.TAG", "false", "false/CACHEDIR.TAG", "false/x", "keep", "sub", "sub/keep"];
    assert_eq!(paths(&vault, &done.root), expected);
    assert_eq!((done.report.files, done.report.directories), (5, 4));
}

#[test]
fn the_number_of_workers_and_of_open_directories_does_not_show() {
    let dir = Dir::new("workers");
    sample(&dir);
    let mut deep = dir.path("tree/deep");
    for n in 0..300 {
        deep = deep.join(format!("{n}"));
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), "x").unwrap();
    let roots: Vec<ChunkId> = [(1, 256), (2, 2), (8, 5)]
        .into_iter()
        .map(|(workers, open_directories)| {
            let options = BackupOptions { workers, open_directories, ..options() };
            back_up(&MemoryVault::new(), &dir.path("tree"), &options).root
        })
        .collect();
    assert_eq!(roots[0], roots[1]);
    assert_eq!(roots[0], roots[2]);
}

#[test]
fn several_roots_lie_at_their_paths_and_a_file_can_be_one() {
    let dir = Dir::new("roots");
    dir.file("one/a", "1");
    dir.file("two/b", "2");
    dir.file("three/c", "3");
    let vault = MemoryVault::new();
    let roots = [
        BackupRoot::at(dir.path("one")),
        BackupRoot { source: dir.path("two"), path: "/srv/data".into() },
        BackupRoot::at(dir.path("three/c")),
    ];
    let done = backup(&vault, &roots, &options(), &Monitor::new()).unwrap();
    let found = paths(&vault, &done.root);
    let top = dir.0.to_str().unwrap().trim_start_matches('/').to_owned();
    for path in [format!("{top}/one/a"), "srv/data/b".into(), format!("{top}/three/c")] {
        assert!(found.contains(&path), "{path} in {found:?}");
    }
    let missing = BackupRoot::at(dir.path("no such"));
    let error = backup(&vault, &[missing], &options(), &Monitor::new()).unwrap_err();
    assert!(error.to_string().contains("no such"), "{error}");
}

#[test]
fn a_file_that_changes_while_it_is_read_is_read_again() {
    let dir = Dir::new("changing");
    let file = dir.file("tree/file", noise(1, 100_000));
    let sink = Hooked::new(|n, _| {
        if n == 0 {
            fs::write(&file, noise(2, 120_000)).unwrap();
        }
    });
    let done = run(&sink, &dir.path("tree"), &options()).unwrap();
    assert!(done.report.issues.is_empty(), "{:?}", done.report.issues);
    bring_back(&sink.vault, &done.root, &dir.path("back"), &RestoreOptions::default());
    assert_eq!(fs::read(dir.path("back/file")).unwrap(), noise(2, 120_000));
}

#[test]
fn a_file_that_keeps_changing_is_reported_and_not_believed_next_time() {
    let dir = Dir::new("restless");
    let file = dir.file("tree/file", noise(1, 100_000));
    let options = cached(&dir);
    let restless = Hooked::new(|n, kind| {
        if kind == Kind::Data {
            fs::write(&file, noise(n + 2, 100_000)).unwrap();
        }
    });
    let done = run(&restless, &dir.path("tree"), &options).unwrap();
    assert_eq!(done.report.issues.count(IssueKind::Changed), 1);
    assert_eq!(done.report.issues.first[0].path, b"file");
    let again = run(&restless.vault, &dir.path("tree"), &options).unwrap();
    assert_eq!(again.report.unchanged, 0);
}

#[test]
fn a_directory_that_becomes_a_link_leads_nowhere() {
    let dir = Dir::new("swapped");
    dir.file("tree/a", noise(1, 5000));
    dir.file("tree/b/inside", "inside");
    dir.file("outside/secret", "secret");
    let (b, away, outside) = (dir.path("tree/b"), dir.path("away"), dir.path("outside"));
    let sink = Hooked::new(|n, _| {
        if n == 0 {
            fs::rename(&b, &away).unwrap();
            std::os::unix::fs::symlink(&outside, &b).unwrap();
        }
    });
    let done = run(&sink, &dir.path("tree"), &BackupOptions { workers: 1, ..options() }).unwrap();
    assert_eq!(paths(&sink.vault, &done.root), ["a", "b"]);
    assert!(matches!(show(&sink.vault, &done.root, b"b").unwrap().kind, EntryKind::Symlink(_)));
}

#[test]
fn what_a_user_may_not_read_is_reported_and_the_rest_is_captured() {
    let dir = Dir::new("unreadable");
    let inner = "ANSHIN_TEST_UNREADABLE";
    if let Some(tree) = std::env::var_os(inner) {
        let vault = MemoryVault::new();
        let done = run(&vault, Path::new(&tree), &options()).unwrap();
        assert_eq!(done.report.issues.count(IssueKind::Unreadable), 2, "{:?}", done.report.issues);
        assert_eq!(paths(&vault, &done.root), ["closed", "open", "open/file", "secret"]);
        let closed = show(&vault, &done.root, b"closed").unwrap();
        assert_eq!(closed.kind, EntryKind::Directory(Listing::Unreadable));
        assert_eq!(show(&vault, &done.root, b"secret").unwrap().size(), 6);
        return;
    }
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root can become somebody else");
        return;
    }
    dir.file("tree/open/file", "readable");
    dir.file("tree/closed/file", "x");
    dir.file("tree/secret", "secret");
    let tree = dir.path("tree");
    sh(&format!(
        "chmod 755 {0} {1} && chmod 600 {1}/secret && chmod 700 {1}/closed",
        dir.0.display(),
        tree.display()
    ));
    let program = dir.path("test");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let name = "what_a_user_may_not_read_is_reported_and_the_rest_is_captured";
    let line = format!(
        "setpriv --reuid 65534 --regid 65534 --clear-groups env {inner}={} {} --exact {name}",
        tree.display(),
        program.display()
    );
    sh(&line);
}

#[test]
fn one_file_system_ends_at_mounts_unless_they_are_named() {
    if !with_mounts("one_file_system_ends_at_mounts_unless_they_are_named") {
        return;
    }
    let dir = Dir::new("mounts");
    dir.file("tree/file", "x");
    for name in ["a", "b"] {
        let path = dir.path(&format!("tree/{name}"));
        fs::create_dir(&path).unwrap();
        sh(&format!("mount -t tmpfs none {0} && echo x > {0}/below", path.display()));
    }
    let vault = MemoryVault::new();
    let options = BackupOptions { one_file_system: true, ..options() };
    let tree = dir.path("tree");
    let roots = [
        BackupRoot { source: tree.clone(), path: "/top".into() },
        BackupRoot { source: tree.join("b"), path: "/top/b".into() },
    ];
    let done = backup(&vault, &roots, &options, &Monitor::new()).unwrap();
    assert_eq!(paths(&vault, &done.root), ["top", "top/a", "top/b", "top/b/below", "top/file"]);
    let a = show(&vault, &done.root, b"top/a").unwrap();
    assert_eq!(a.kind, EntryKind::Directory(Listing::OtherFileSystem));
    let all = back_up(&vault, &tree, &BackupOptions { one_file_system: false, ..options });
    assert!(paths(&vault, &all.root).contains(&"a/below".to_owned()));
    sh(&format!("umount {0}/a {0}/b", tree.display()));
}

#[test]
fn unchanged_files_are_not_read_and_changed_ones_are() {
    let dir = Dir::new("incremental");
    sample(&dir);
    let (vault, options) = (MemoryVault::new(), cached(&dir));
    let first = back_up(&vault, &dir.path("tree"), &options);
    assert_eq!(first.report.unchanged, 0);
    let second = back_up(&vault, &dir.path("tree"), &options);
    assert_eq!((second.root, second.report.unchanged, second.report.bytes_read), (first.root, 31, 0));
    // The same size and time of change, as some programs leave them.
    let file = dir.path("tree/dir-1/file-5");
    let before = fs::metadata(&file).unwrap();
    fs::write(&file, noise(500, before.len() as usize)).unwrap();
    fs::File::options().write(true).open(&file).unwrap().set_modified(before.modified().unwrap()).unwrap();
    let third = back_up(&vault, &dir.path("tree"), &options);
    assert_ne!(third.root, first.root);
    assert_eq!(third.report.unchanged, 30);
    bring_back(&vault, &third.root, &dir.path("back"), &RestoreOptions::default());
    assert_eq!(fs::read(dir.path("back/dir-1/file-5")).unwrap(), fs::read(&file).unwrap());
}

#[test]
fn what_was_changed_just_before_a_backup_is_read_again() {
    let dir = Dir::new("same-tick");
    sample(&dir);
    let vault = MemoryVault::new();
    let mut early = cached(&dir);
    early.now = options().now;
    back_up(&vault, &dir.path("tree"), &early);
    let again = back_up(&vault, &dir.path("tree"), &cached(&dir));
    assert_eq!(again.report.unchanged, 0, "within the granularity of the first backup's beginning");
}

#[test]
fn the_cache_is_not_believed_when_the_vault_has_lost_something() {
    let dir = Dir::new("lost");
    sample(&dir);
    let (vault, options) = (MemoryVault::new(), cached(&dir));
    let first = back_up(&vault, &dir.path("tree"), &options);
    for id in vault.ids() {
        assert!(vault.lose(&id));
        let again = back_up(&vault, &dir.path("tree"), &options);
        assert_eq!(again.root, first.root);
        assert!(vault.has(&id).unwrap(), "it is there again");
    }
}

#[test]
fn a_damaged_or_foreign_cache_changes_nothing_but_time() {
    let dir = Dir::new("cache-damage");
    for n in 0..5 {
        dir.file(&format!("tree/dir/file-{n}"), noise(n, 500));
    }
    dir.file("tree/large", noise(7, 34 << 20));
    let (vault, options) = (MemoryVault::new(), cached(&dir));
    let first = back_up(&vault, &dir.path("tree"), &options);
    let path = dir.path("cache/files");
    let whole = fs::read(&path).unwrap();
    for at in (0..whole.len()).step_by(41) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x20;
        fs::write(&path, damaged).unwrap();
        let again = back_up(&vault, &dir.path("tree"), &options);
        assert_eq!(again.root, first.root, "byte {at}");
    }
    for length in [0, 10, 52, 60, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let again = back_up(&vault, &dir.path("tree"), &options);
        assert_eq!(
            (again.root, again.report.issues.count(IssueKind::Cache)),
            (first.root, 1),
            "{length} bytes"
        );
    }
    let mut foreign = options.clone();
    foreign.cache.as_mut().unwrap().tag = [9; 32];
    let again = back_up(&vault, &dir.path("tree"), &foreign);
    assert_eq!((again.report.unchanged, again.report.issues.count(IssueKind::Cache)), (0, 1));
}

#[test]
fn an_interrupted_backup_is_gone_on_with() {
    let dir = Dir::new("interrupted");
    for n in 0..40 {
        dir.file(&format!("tree/dir-{n:02}/file"), noise(n, 10_000));
    }
    let options = BackupOptions { workers: 1, ..cached(&dir) };
    let monitor = Monitor::new();
    let sink = Hooked::new(|n, _| {
        if n == 50 {
            monitor.cancel();
        }
    });
    let root = BackupRoot { source: dir.path("tree"), path: "/".into() };
    let result = backup(&sink, &[root], &options, &monitor);
    assert!(matches!(result, Err(CaptureError::Cancelled)), "{result:?}");
    let again = back_up(&sink.vault, &dir.path("tree"), &options);
    assert!(again.report.unchanged >= 20, "{:?}", again.report);
    let verified = verify(
        &sink.vault,
        &again.root,
        &Selection::all(),
        &dir.path("tree"),
        &RestoreOptions::default(),
        &Monitor::new(),
    );
    assert!(verified.unwrap().is_equal());
}

#[test]
fn a_vault_that_takes_nothing_more_ends_the_backup_with_its_reason() {
    let dir = Dir::new("full");
    sample(&dir);
    for room in [0, 1, 7, 30, 35] {
        let vault = MemoryVault::new();
        vault.fill_after(room);
        let error = run(&vault, &dir.path("tree"), &cached(&dir)).unwrap_err();
        assert!(matches!(error, CaptureError::Vault(VaultError::Full(_))), "{error:?}");
    }
}
