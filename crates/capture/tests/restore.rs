//! What a restore promises: policies, selections, damage, full disks, links that lead away.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test program, its helpers included

mod common;

use anshin_capture::{
    CaptureError, IssueKind, Monitor,
    restore::{Conflict, Owners, RestoreOptions, RestoreReport, Selection, plan, restore, verify},
    tree::ChunkId,
};
use anshin_vault::{Sink, Source, memory::MemoryVault};
use common::{
    Dir, Mounted, back_up, bring_back, is_missing, naming, options, sh, torture::noise, with_mounts,
};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

fn with(conflict: Conflict) -> RestoreOptions<'static> {
    RestoreOptions { conflict, ..RestoreOptions::default() }
}

fn sample(dir: &Dir) -> (MemoryVault, ChunkId) {
    dir.file("tree/etc/app.conf", "setting = 1\n");
    dir.file("tree/etc/deep/er/other.conf", "x".repeat(500));
    dir.file("tree/srv/large", noise(1, 20 << 20));
    dir.file("tree/srv/small", noise(2, 30_000));
    fs::hard_link(dir.path("tree/srv/small"), dir.path("tree/etc/small-too")).unwrap();
    symlink("large", dir.path("tree/srv/link")).unwrap();
    let vault = MemoryVault::new();
    let root = back_up(&vault, &dir.path("tree"), &options()).root;
    (vault, root)
}

fn select(vault: &MemoryVault, root: &ChunkId, selection: &Selection, target: &Path) -> RestoreReport {
    restore(vault, root, selection, target, &RestoreOptions::default(), &Monitor::new()).unwrap()
}

fn names(path: &Path) -> Vec<String> {
    let listed = sh(&format!("cd {} && find . -mindepth 1 ! -type d | sort", path.display()));
    listed.lines().map(|line| line[2..].to_owned()).collect()
}

#[test]
fn a_part_can_be_restored_by_path_or_pattern() {
    let dir = Dir::new("part");
    let (vault, root) = sample(&dir);
    select(&vault, &root, &Selection::beneath(b"/etc"), &dir.path("etc"));
    assert_eq!(names(&dir.path("etc")), ["app.conf", "deep/er/other.conf", "small-too"]);
    select(&vault, &root, &Selection::beneath(b"srv/small"), &dir.path("one"));
    assert_eq!(names(&dir.path("one")), ["small"]);
    let glob = Selection::all().only(["**/*.conf"]).unwrap();
    let report = select(&vault, &root, &glob, &dir.path("glob"));
    assert_eq!(names(&dir.path("glob")), ["etc/app.conf", "etc/deep/er/other.conf"]);
    assert_eq!((report.files, dir.path("glob/srv").exists()), (2, false));
    let time = |path: &str| fs::metadata(dir.path(path)).unwrap().modified().unwrap();
    assert_eq!(time("glob/etc/deep"), time("tree/etc/deep"), "a directory on the way has its attributes");
    let error = restore(
        &vault,
        &root,
        &Selection::beneath(b"nowhere"),
        &dir.path("x"),
        &with(Conflict::Skip),
        &Monitor::new(),
    );
    assert!(error.unwrap_err().to_string().contains("nowhere"));
}

#[test]
fn refusing_changes_nothing_at_all() {
    let dir = Dir::new("refuse");
    let (vault, root) = sample(&dir);
    dir.file("back/srv/small", "mine");
    let error = restore(
        &vault,
        &root,
        &Selection::all(),
        &dir.path("back"),
        &RestoreOptions::default(),
        &Monitor::new(),
    )
    .unwrap_err();
    assert!(error.to_string().contains("srv/small"), "{error}");
    assert!(anshin_base::Problem::from(error).refused_for_safety);
    assert_eq!(names(&dir.path("back")), ["srv/small"]);
}

#[test]
fn policies_decide_about_what_is_there() {
    let dir = Dir::new("policies");
    let (vault, root) = sample(&dir);
    let back = dir.path("back");
    let mine = || fs::read(back.join("srv/small")).unwrap();
    let set_time = |seconds: i64| sh(&format!("touch -d @{seconds} {}/srv/small", back.display()));

    dir.file("back/srv/small", "mine");
    let report = bring_back(&vault, &root, &back, &with(Conflict::Skip));
    assert_eq!((mine(), report.kept), (b"mine".to_vec(), 1));

    set_time(4_000_000_000);
    let report = bring_back(&vault, &root, &back, &with(Conflict::KeepNewer));
    assert_eq!((mine(), report.kept), (b"mine".to_vec(), 1));

    set_time(1_000_000_000);
    let report = bring_back(&vault, &root, &back, &with(Conflict::KeepNewer));
    assert_eq!((mine(), report.kept), (noise(2, 30_000), 0));
    assert_eq!(report.bytes_written, 0, "it is linked to its other name again");

    // Equal by size and time: taken to be equal unless everything is to be compared.
    let mut changed = noise(2, 30_000);
    changed[17_000] ^= 1;
    fs::write(back.join("srv/small"), &changed).unwrap();
    sh(&format!("touch -r {0}/tree/srv/small {0}/back/srv/small", dir.0.display()));
    bring_back(&vault, &root, &back, &with(Conflict::IfDifferent));
    assert_eq!(mine(), changed);
    let report = bring_back(&vault, &root, &back, &with(Conflict::Overwrite));
    assert_eq!((mine(), report.bytes_written), (noise(2, 30_000), 4096), "one block");
}

#[test]
fn only_blocks_that_differ_are_fetched_and_written() {
    let dir = Dir::new("blocks");
    let (vault, root) = sample(&dir);
    let back = dir.path("back");
    bring_back(&vault, &root, &back, &RestoreOptions::default());
    let inode = fs::metadata(back.join("srv/large")).unwrap().ino();
    let mut large = noise(1, 20 << 20);
    large[10_000_000] ^= 1;
    large.truncate(19 << 20);
    fs::write(back.join("srv/large"), &large).unwrap();
    let name: &(dyn Fn(&[u8]) -> ChunkId + Sync) = &naming;
    let options =
        RestoreOptions { naming: Some(name), conflict: Conflict::Overwrite, ..RestoreOptions::default() };
    let planned = plan(&vault, &root, &Selection::all(), &back, &options, &Monitor::new()).unwrap();
    let monitor = Monitor::new();
    let report = restore(&vault, &root, &Selection::all(), &back, &options, &monitor).unwrap();
    assert!(report.bytes_written <= (1 << 20) + 8192, "{report:?}");
    assert_eq!(monitor.progress().bytes_moved, planned.bytes_to_write, "the plan says what is fetched");
    assert_eq!(fs::read(back.join("srv/large")).unwrap(), noise(1, 20 << 20));
    assert_eq!(fs::metadata(back.join("srv/large")).unwrap().ino(), inode, "in place");
}

#[test]
fn a_plan_says_exactly_what_a_restore_does() {
    let dir = Dir::new("plan");
    let (vault, root) = sample(&dir);
    let back = dir.path("back");
    let planned =
        plan(&vault, &root, &Selection::all(), &back, &RestoreOptions::default(), &Monitor::new()).unwrap();
    assert!(!back.exists());
    let report = bring_back(&vault, &root, &back, &RestoreOptions::default());
    assert_eq!(
        (planned.files, planned.directories, planned.others, planned.bytes_to_write),
        (report.files, report.directories, report.others, report.bytes_written)
    );
    assert_eq!(report.links, 1);
    let again =
        plan(&vault, &root, &Selection::all(), &back, &with(Conflict::IfDifferent), &Monitor::new()).unwrap();
    assert_eq!((again.bytes_to_write, again.in_the_way_count), (0, 6));
}

#[test]
fn links_in_the_target_are_never_followed() {
    let dir = Dir::new("away");
    let (vault, root) = sample(&dir);
    fs::create_dir_all(dir.path("outside/deep")).unwrap();
    for (conflict, stays) in [(Conflict::Skip, true), (Conflict::Overwrite, false)] {
        let back = dir.path(&format!("back-{stays}"));
        fs::create_dir(&back).unwrap();
        symlink(dir.path("outside"), back.join("etc")).unwrap();
        dir.file(&format!("back-{stays}/srv/keep"), "");
        symlink(dir.path("outside/victim"), back.join("srv/small")).unwrap();
        let report = bring_back(&vault, &root, &back, &with(conflict));
        assert_eq!(names(&dir.path("outside")), Vec::<String>::new(), "{conflict:?}");
        assert_eq!(back.join("etc").is_symlink(), stays);
        assert_eq!(report.issues.count(IssueKind::NotRestored), u64::from(stays));
    }
}

#[test]
fn a_directory_with_something_in_it_is_never_removed() {
    let dir = Dir::new("occupied");
    let (vault, root) = sample(&dir);
    dir.file("back/srv/small/precious", "x");
    fs::create_dir_all(dir.path("back/srv/large")).unwrap();
    let report = bring_back(&vault, &root, &dir.path("back"), &with(Conflict::Overwrite));
    assert!(dir.path("back/srv/small/precious").exists());
    assert!(dir.path("back/srv/large").is_file(), "an empty one gives way");
    assert_eq!(report.issues.count(IssueKind::NotRestored), 1, "{:?}", report.issues);
    assert!(dir.path("back/etc/small-too").is_file(), "its other name is restored by itself");
}

#[test]
fn a_lost_object_costs_the_files_that_need_it_and_no_other() {
    let dir = Dir::new("damage");
    let (vault, root) = sample(&dir);
    let victim = vault.ids().into_iter().find(|id| vault.get(id).unwrap().plain.len() == 30_000).unwrap();
    vault.lose(&victim);
    let report = bring_back(&vault, &root, &dir.path("back"), &RestoreOptions::default());
    assert_eq!(report.issues.count(IssueKind::NotRestored), 2, "both names: {:#?}", report.issues.first);
    assert_eq!(names(&dir.path("back")), ["etc/app.conf", "etc/deep/er/other.conf", "srv/large", "srv/link"]);
    let verified = verify(
        &vault,
        &root,
        &Selection::all(),
        &dir.path("back"),
        &RestoreOptions::default(),
        &Monitor::new(),
    );
    assert_eq!(verified.unwrap().issues.count(IssueKind::Differs), 2);
}

#[test]
fn verification_names_every_difference() {
    let dir = Dir::new("verify");
    let (vault, root) = sample(&dir);
    let back = dir.path("back");
    let check = |naming| {
        let options = RestoreOptions { naming, ..RestoreOptions::default() };
        verify(&vault, &root, &Selection::all(), &back, &options, &Monitor::new()).unwrap()
    };
    bring_back(&vault, &root, &back, &RestoreOptions::default());
    assert!(check(None).is_equal());
    let keep = fs::metadata(back.join("srv/large")).unwrap().modified().unwrap();
    let mut large = fs::read(back.join("srv/large")).unwrap();
    large[12_345_678] ^= 4;
    fs::write(back.join("srv/large"), large).unwrap();
    fs::File::options().write(true).open(back.join("srv/large")).unwrap().set_modified(keep).unwrap();
    fs::set_permissions(back.join("etc/app.conf"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(back.join("srv/link")).unwrap();
    let name: &(dyn Fn(&[u8]) -> ChunkId + Sync) = &naming;
    for report in [check(None), check(Some(name))] {
        let mut found: Vec<String> = report.issues.first.iter().map(ToString::to_string).collect();
        found.sort();
        let expected = [
            "etc/app.conf: mode",
            "srv/large: contents between",
            "srv/link: it is not there",
            "srv: time of change",
        ];
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}");
        }
    }
}

#[test]
fn a_full_target_ends_the_restore_and_leaves_no_half_file() {
    if !with_mounts("a_full_target_ends_the_restore_and_leaves_no_half_file") {
        return;
    }
    let dir = Dir::new("enospc");
    let (vault, root) = sample(&dir);
    let back = dir.path("back");
    fs::create_dir(&back).unwrap();
    for kib in [40, 600, 8_000, 19_000] {
        sh(&format!("mount -t tmpfs -o size={kib}k none {}", back.display()));
        let error =
            restore(&vault, &root, &Selection::all(), &back, &RestoreOptions::default(), &Monitor::new())
                .unwrap_err();
        assert!(matches!(error, CaptureError::Full { .. }), "{error:?}");
        for name in names(&back).iter().filter(|name| *name != "srv/link") {
            assert_eq!(
                fs::read(back.join(name)).unwrap(),
                fs::read(dir.path("tree").join(name)).unwrap(),
                "{name}"
            );
        }
        sh(&format!("umount {}", back.display()));
    }
}

/// ext4 writes what is overwritten in place whenever it likes, and times with its journal.
#[test]
fn a_file_has_the_time_of_the_snapshot_only_when_its_contents_survive_the_power() {
    if is_missing(&["mkfs.ext4"])
        || !with_mounts("a_file_has_the_time_of_the_snapshot_only_when_its_contents_survive_the_power")
    {
        return;
    }
    let mut mounted = Mounted::new("power");
    let vault = MemoryVault::new();
    let tree = mounted.dir.path("tree");
    let (early, late) = (noise(1, 200_000), noise(2, 200_000));
    mounted.dir.file("tree/a", &early);
    mounted.dir.file("tree/b", &late);
    let root = back_up(&vault, &tree, &options()).root;
    let disk = mounted.mount("ext4", "disk", "64M");
    sh(&format!("mount -o remount,commit=1 {}", disk.display()));
    fs::write(disk.join("a"), noise(3, early.len())).unwrap();
    fs::write(disk.join("b"), noise(4, late.len())).unwrap();
    sh("sync");

    // When the power fails, the first file was restored a moment ago, and the second one is the turn.
    let (image, cut) = (mounted.dir.path("disk.img"), mounted.dir.path("cut.img"));
    let second = noise(4, late.len());
    let taken = AtomicBool::new(false);
    let power = |now: &[u8]| {
        if second.starts_with(now) && !taken.swap(true, Relaxed) {
            sh(&format!("sleep 3; cp --sparse=always {} {}", image.display(), cut.display()));
        }
        naming(now)
    };
    let once = RestoreOptions { workers: 1, naming: Some(&power), ..with(Conflict::IfDifferent) };
    bring_back(&vault, &root, &disk, &once);
    assert!(taken.load(Relaxed));

    let after = mounted.dir.path("after");
    fs::create_dir(&after).unwrap();
    sh(&format!("mount -o loop {} {}", cut.display(), after.display()));
    bring_back(&vault, &root, &after, &with(Conflict::IfDifferent));
    let equal =
        [("a", &early), ("b", &late)].map(|(name, content)| fs::read(after.join(name)).unwrap() == *content);
    sh(&format!("umount {}", after.display()));
    assert_eq!(equal, [true, true]);
}

#[test]
fn a_cancelled_restore_leaves_no_half_file_and_is_completed_by_the_next() {
    let dir = Dir::new("cancel");
    let (vault, root) = sample(&dir);
    let back = dir.path("back");
    struct Stopping<'v>(&'v MemoryVault, &'v Monitor, usize);
    impl Source for Stopping<'_> {
        fn get(&self, id: &ChunkId) -> Result<anshin_vault::Object, anshin_vault::VaultError> {
            let object = self.0.get(id)?;
            if object.plain.len() > self.2 {
                self.1.cancel();
            }
            Ok(object)
        }
    }
    let monitor = Monitor::new();
    let result = restore(
        &Stopping(&vault, &monitor, 100_000),
        &root,
        &Selection::all(),
        &back,
        &with(Conflict::IfDifferent),
        &monitor,
    );
    assert!(matches!(result, Err(CaptureError::Cancelled)), "{result:?}");
    for name in names(&back) {
        let size = |path: &Path| path.symlink_metadata().unwrap().len();
        assert_eq!(size(&back.join(&name)), size(&dir.path("tree").join(&name)), "{name}");
    }
    bring_back(&vault, &root, &back, &with(Conflict::IfDifferent));
    let verified =
        verify(&vault, &root, &Selection::all(), &back, &RestoreOptions::default(), &Monitor::new()).unwrap();
    assert!(verified.is_equal(), "{:?}", verified.issues);
}

#[test]
fn somebody_without_privileges_gets_the_contents_and_is_told_the_rest() {
    let dir = Dir::new("unprivileged");
    let inner = "ANSHIN_TEST_UNPRIVILEGED";
    if let Some(at) = std::env::var_os(inner) {
        let (tree, back) = (Path::new(&at).join("tree"), Path::new(&at).join("open/back"));
        let vault = MemoryVault::new();
        let root = back_up(&vault, &tree, &options()).root;
        let report = bring_back(&vault, &root, &back, &RestoreOptions::default());
        assert_eq!(fs::read(back.join("program")).unwrap(), b"#!");
        let mode = fs::metadata(back.join("program")).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o755, "no set-user-id for another owner");
        let text = report.issues.first.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert!(
            text.contains("program: owner 0:0") && text.contains("null: Operation not permitted"),
            "{text}"
        );
        return;
    }
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root can become somebody else");
        return;
    }
    let program = dir.file("tree/program", "#!");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    let at = dir.0.display();
    sh(&format!("mknod {at}/tree/null c 1 3; mkdir {at}/open; chmod 755 {at}; chmod 777 {at}/open"));
    let copy = dir.path("test");
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let name = "somebody_without_privileges_gets_the_contents_and_is_told_the_rest";
    sh(&format!(
        "setpriv --reuid 65534 --regid 65534 --clear-groups env {inner}={at} {} --exact {name}",
        copy.display()
    ));
}

#[test]
fn owners_are_found_by_name_where_that_is_asked_for() {
    let dir = Dir::new("owners");
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root can give files away");
        return;
    }
    dir.file("tree/file", "x");
    sh(&format!("chown daemon:4242 {}/tree/file", dir.0.display()));
    let vault = MemoryVault::new();
    let root = back_up(&vault, &dir.path("tree"), &options()).root;
    for (owners, expected) in
        [(Owners::Names, (1, 4242)), (Owners::Numbers, (1, 4242)), (Owners::Caller, (0, 0))]
    {
        let back = dir.path(&format!("back-{owners:?}"));
        bring_back(&vault, &root, &back, &RestoreOptions { owners, ..RestoreOptions::default() });
        let stat = fs::metadata(back.join("file")).unwrap();
        assert_eq!((stat.uid(), stat.gid()), expected, "{owners:?}");
    }
}

#[test]
fn a_target_that_was_in_use_keeps_its_own_attributes() {
    let dir = Dir::new("top");
    let (vault, root) = sample(&dir);
    dir.file("back/other", "");
    let mode = |path: &str| fs::metadata(dir.path(path)).unwrap().mode() & 0o7777;
    fs::set_permissions(dir.path("back"), fs::Permissions::from_mode(0o1777)).unwrap();
    bring_back(&vault, &root, &dir.path("back"), &with(Conflict::Skip));
    assert_eq!(mode("back"), 0o1777);
    let options = RestoreOptions { in_place: true, ..with(Conflict::Overwrite) };
    bring_back(&vault, &root, &dir.path("back"), &options);
    assert_eq!(mode("back"), mode("tree"));
    assert!(vault.has(&root).unwrap());
}

#[test]
fn a_killed_restore_is_completed_by_the_next() {
    let inner = "ANSHIN_TEST_KILLED";
    struct Slow(MemoryVault);
    impl Source for Slow {
        fn get(&self, id: &ChunkId) -> Result<anshin_vault::Object, anshin_vault::VaultError> {
            std::thread::sleep(std::time::Duration::from_millis(3));
            self.0.get(id)
        }
    }
    if let Some(at) = std::env::var_os(inner) {
        let vault = MemoryVault::new();
        let root = back_up(&vault, &Path::new(&at).join("tree"), &options()).root;
        fs::write(Path::new(&at).join("begun"), "").unwrap();
        let target = Path::new(&at).join("back");
        restore(
            &Slow(vault),
            &root,
            &Selection::all(),
            &target,
            &with(Conflict::IfDifferent),
            &Monitor::new(),
        )
        .unwrap();
        return;
    }
    let dir = Dir::new("killed");
    let (vault, root) = sample(&dir);
    let mut whole = 0;
    for round in 0..6 {
        let _ = fs::remove_dir_all(dir.path("back"));
        let _ = fs::remove_file(dir.path("begun"));
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "a_killed_restore_is_completed_by_the_next"]).env(inner, &dir.0);
        let mut child = child.stdout(std::process::Stdio::null()).spawn().unwrap();
        while !dir.path("begun").exists() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        std::thread::sleep(std::time::Duration::from_millis(round * 15));
        child.kill().unwrap();
        child.wait().unwrap();
        let check = || {
            let (all, options) = (Selection::all(), RestoreOptions::default());
            verify(&vault, &root, &all, &dir.path("back"), &options, &Monitor::new())
        };
        whole += u64::from(check().is_ok_and(|report| report.is_equal()));
        bring_back(&vault, &root, &dir.path("back"), &with(Conflict::IfDifferent));
        let report = check().unwrap();
        let issues = &report.issues;
        // The target directory was there and not empty: only its own attributes may be missing.
        assert!(report.is_equal(), "round {round}: {issues:?}");
    }
    assert!(whole < 6, "no round was killed before its end");
}
