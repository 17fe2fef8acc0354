//! What a restore finds in its way, and what a backup is told to read: other names of a file, programs that run, directories that
//! are only on the way, roots within roots.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test program, its helpers included

mod common;

use anshin_capture::{
    Monitor,
    backup::{BackupOptions, BackupRoot, Excludes, backup},
    restore::{Conflict, RestoreOptions},
};
use anshin_vault::memory::MemoryVault;
use common::{Dir, back_up, bring_back, options, sh, torture::noise, with_mounts};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::Command,
};

fn with(conflict: Conflict) -> RestoreOptions<'static> {
    RestoreOptions { conflict, ..RestoreOptions::default() }
}

fn number(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

#[test]
fn an_unchanged_file_is_never_emptied() {
    let dir = Dir::new("unchanged");
    fs::create_dir_all(dir.path("tree")).unwrap();
    fs::copy("/bin/sleep", dir.path("tree/program")).unwrap();
    dir.file("tree/linked-elsewhere", noise(1, 50_000));
    let vault = MemoryVault::new();
    let root = back_up(&vault, &dir.path("tree"), &options()).root;
    let back = dir.path("back");
    bring_back(&vault, &root, &back, &RestoreOptions::default());
    // Another tool gave it a second name, and the program runs.
    fs::hard_link(back.join("linked-elsewhere"), dir.path("copy")).unwrap();
    let mut running = Command::new(back.join("program")).arg("60").spawn().unwrap();
    for conflict in [Conflict::IfDifferent, Conflict::KeepNewer] {
        bring_back(&vault, &root, &back, &with(conflict));
        for name in ["program", "linked-elsewhere"] {
            let (is, was) =
                (fs::read(back.join(name)).unwrap(), fs::read(dir.path("tree").join(name)).unwrap());
            assert!(is == was, "{name} has {} bytes", is.len());
        }
    }
    running.kill().unwrap();
    running.wait().unwrap();
}

#[test]
fn other_names_of_a_file_keep_what_is_theirs() {
    for conflict in [Conflict::Overwrite, Conflict::IfDifferent] {
        let dir = Dir::new(&format!("names-{conflict:?}"));
        for (name, content) in [("x", "of x"), ("y", "of y, longer")] {
            let path = dir.file(&format!("tree/{name}"), content);
            fs::hard_link(&path, dir.path(&format!("tree/{name}2"))).unwrap();
        }
        let vault = MemoryVault::new();
        let root = back_up(&vault, &dir.path("tree"), &options()).root;
        let back = dir.path("back");
        bring_back(&vault, &root, &back, &RestoreOptions::default());
        // `y` became a name of `x`, and a file outside of the target too; then it was written to.
        fs::remove_file(back.join("y")).unwrap();
        fs::hard_link(back.join("x"), back.join("y")).unwrap();
        fs::hard_link(back.join("x"), dir.path("outside")).unwrap();
        fs::write(back.join("x"), "of somebody else").unwrap();
        bring_back(&vault, &root, &back, &with(conflict));
        for (name, content) in [("x", "of x"), ("x2", "of x"), ("y", "of y, longer"), ("y2", "of y, longer")]
        {
            assert_eq!(fs::read_to_string(back.join(name)).unwrap(), content, "{name} {conflict:?}");
        }
        assert_eq!(number(&back.join("x")), number(&back.join("x2")));
        assert_eq!(number(&back.join("y")), number(&back.join("y2")));
        assert_eq!(fs::read_to_string(dir.path("outside")).unwrap(), "of somebody else");
    }
}

#[test]
fn files_of_equal_numbers_on_two_file_systems_are_two_files() {
    if !with_mounts("files_of_equal_numbers_on_two_file_systems_are_two_files") {
        return;
    }
    let dir = Dir::new("numbers");
    let places = ["a", "b"].map(|name| dir.path(&format!("tree/{name}")));
    for (place, content) in places.iter().zip(["one", "another"]) {
        fs::create_dir_all(place).unwrap();
        sh(&format!("mount -t tmpfs none {}", place.display()));
        fs::write(place.join("f"), content).unwrap();
        fs::hard_link(place.join("f"), place.join("g")).unwrap();
    }
    assert_eq!(number(&places[0].join("f")), number(&places[1].join("f")), "tmpfs counts from the beginning");
    let vault = MemoryVault::new();
    let roots = places.clone().map(|source| {
        let path = Path::new("/").join(source.file_name().unwrap());
        BackupRoot { source, path }
    });
    let root = backup(&vault, &roots, &options(), &Monitor::new()).unwrap().root;
    let back = dir.path("back");
    bring_back(&vault, &root, &back, &RestoreOptions::default());
    for (name, content) in [("a", "one"), ("b", "another")] {
        let (f, g) = (back.join(name).join("f"), back.join(name).join("g"));
        assert_eq!(fs::read_to_string(&f).unwrap(), content);
        assert_eq!(number(&f), number(&g), "{name}");
    }
    places.iter().for_each(|place| drop(sh(&format!("umount {}", place.display()))));
}

#[test]
fn what_is_named_is_captured_or_the_backup_fails() {
    if !with_mounts("what_is_named_is_captured_or_the_backup_fails") {
        return;
    }
    let dir = Dir::new("named");
    dir.file("tree/cache/wanted/file", "x");
    let other = dir.path("tree/other");
    fs::create_dir_all(&other).unwrap();
    sh(&format!("mount -t tmpfs none {}", other.display()));
    fs::create_dir(other.join("wanted")).unwrap();
    let vault = MemoryVault::new();
    let run = |inner: &str, options: &BackupOptions| {
        let roots = [dir.path("tree"), dir.path("tree").join(inner)].map(BackupRoot::at);
        backup(&vault, &roots, options, &Monitor::new())
    };
    let excluding = BackupOptions { excludes: Excludes::new(["cache"]).unwrap(), ..options() };
    let staying = BackupOptions { one_file_system: true, ..options() };
    assert!(run("cache/wanted", &options()).is_ok() && run("other/wanted", &options()).is_ok());
    assert!(run("other", &staying).is_ok(), "where it is mounted");
    for (inner, options) in [("cache/wanted", &excluding), ("other/wanted", &staying), ("gone", &staying)] {
        let error = run(inner, options).unwrap_err().to_string();
        assert!(error.contains(inner), "{error}");
    }
    sh(&format!("umount {}", other.display()));
}

#[test]
fn directories_that_are_only_on_the_way_stay_as_they_are() {
    let dir = Dir::new("way");
    dir.file("frozen/file", "x");
    let vault = MemoryVault::new();
    let root = BackupRoot { source: dir.path("frozen"), path: "/home/bob/data".into() };
    let root = backup(&vault, &[root], &options(), &Monitor::new()).unwrap().root;
    let target = dir.path("target");
    fs::create_dir_all(target.join("home/bob")).unwrap();
    for (name, mode) in [("", 0o750), ("home", 0o711), ("home/bob", 0o700)] {
        fs::set_permissions(target.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let before = ["", "home", "home/bob"].map(|name| fs::metadata(target.join(name)).unwrap());
    for (conflict, in_place) in
        [(Conflict::Skip, true), (Conflict::Overwrite, true), (Conflict::IfDifferent, false)]
    {
        bring_back(&vault, &root, &target, &RestoreOptions { in_place, ..with(conflict) });
        for (name, before) in ["", "home", "home/bob"].iter().zip(&before) {
            let now = fs::metadata(target.join(name)).unwrap();
            assert_eq!((now.mode(), now.uid()), (before.mode(), before.uid()), "{name:?} {conflict:?}");
            assert!(now.mtime() >= before.mtime(), "{name:?} {conflict:?}");
        }
    }
    assert_eq!(fs::read_to_string(target.join("home/bob/data/file")).unwrap(), "x");
}
