//! Listing, finding, comparing and mounting of snapshots; images and streams.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test program, its helpers included

mod common;

use anshin_capture::{
    Monitor,
    browse::{Change, diff, find, list, show},
    image::{backup_image, backup_stream, restore_image, restore_stream},
    mount::{Access, mount},
    restore::{RestoreOptions, Selection},
    tree::{ChunkId, EntryKind},
};
use anshin_vault::memory::MemoryVault;
use common::{Dir, back_up, bring_back, naming, options, sh, torture::noise, with_mounts};
use std::{fs, ops::ControlFlow, os::unix::fs::FileExt, path::Path, sync::Arc};

fn changes(vault: &MemoryVault, one: &ChunkId, other: &ChunkId) -> Vec<String> {
    let mut found = Vec::new();
    diff(vault, one, other, b"", |path, change| {
        let sign = match change {
            Change::Added(_) => '+',
            Change::Removed(_) => '-',
            Change::Contents(..) => 'M',
            Change::Attributes(..) => 'A',
        };
        found.push(format!("{sign} {}", String::from_utf8_lossy(path)));
        ControlFlow::Continue(())
    })
    .unwrap();
    found
}

#[test]
fn trees_are_listed_searched_and_compared() {
    let dir = Dir::new("browse");
    for name in ["a/one", "a/two", "b/c/three.txt", "b/four", "z"] {
        dir.file(&format!("tree/{name}"), noise(name.len() as u64, 200));
    }
    for n in 0..2000 {
        dir.file(&format!("tree/many/{n:05}"), "x");
    }
    let vault = MemoryVault::new();
    let before = back_up(&vault, &dir.path("tree"), &options()).root;
    let mut found = Vec::new();
    list(&vault, &before, b"/b", true, |path, entry| {
        found.push(format!("{} {}", entry.type_letter(), String::from_utf8_lossy(path)));
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(found, ["d b/c", "- b/c/three.txt", "- b/four"]);
    let mut found = Vec::new();
    find(&vault, &before, &Selection::all().only(["**/*.txt", "many/0199?"]).unwrap(), |path, _| {
        found.push(String::from_utf8_lossy(path).into_owned());
        if found.len() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .unwrap();
    assert_eq!(found, ["b/c/three.txt", "many/01990", "many/01991"]);
    assert_eq!(show(&vault, &before, b"a/one").unwrap().size(), 200);

    fs::remove_file(dir.path("tree/a/one")).unwrap();
    dir.file("tree/b/four", "changed");
    sh(&format!(
        "cd {}/tree && chmod 600 z && rm many/00777 && mkdir new && touch new/below",
        dir.0.display()
    ));
    sh(&format!("cd {}/tree && rm -r b/c && touch b/c", dir.0.display()));
    let after = back_up(&vault, &dir.path("tree"), &options()).root;
    let expected =
        ["- a/one", "M b/c", "- b/c/three.txt", "M b/four", "- many/00777", "+ new", "+ new/below", "A z"];
    assert_eq!(changes(&vault, &before, &after), expected);
    assert_eq!(changes(&vault, &after, &after), Vec::<String>::new());
}

#[test]
fn a_mounted_snapshot_looks_like_what_was_captured() {
    if !with_mounts("a_mounted_snapshot_looks_like_what_was_captured") {
        return;
    }
    let dir = Dir::new("mounted");
    let (tree, at) = (dir.path("tree"), dir.path("at"));
    fs::create_dir_all(&at).unwrap();
    for n in 0..3000 {
        dir.file(&format!("tree/many/{n}"), format!("{n}"));
    }
    dir.file("tree/large", noise(1, 9 << 20));
    fs::hard_link(dir.path("tree/large"), dir.path("tree/other-name")).unwrap();
    let sparse = fs::File::create(dir.path("tree/sparse")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    sparse.write_all_at(b"in the middle", 1 << 39).unwrap();
    sh(&format!(
        "cd {} && ln -s large link && mkfifo fifo && mknod null c 1 3 && mkdir empty",
        tree.display()
    ));
    sh(&format!("cd {} && touch -d @-5.5 large && chown 5:6 many && chmod 2750 many", tree.display()));
    sh(&format!("cd {} && setfattr -n user.a -v b large || true", tree.display()));
    let vault = Arc::new(MemoryVault::new());
    let root = back_up(&vault, &tree, &options()).root;
    let mounted = mount(vault.clone(), &root, &at, Access::Owner).unwrap();
    let (left, right) = (tree.display(), at.display());
    let compared = sh(&format!(
        "rsync -nacHX --numeric-ids --delete --exclude=/sparse --itemize-changes {left}/ {right}/"
    ));
    assert_eq!(compared, "");
    let file = fs::File::open(at.join("sparse")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1 << 40);
    let mut bytes = [0; 16];
    file.read_exact_at(&mut bytes, (1 << 39) - 3).unwrap();
    assert_eq!(bytes, *b"\0\0\0in the middle");
    drop(file);
    assert!(fs::write(at.join("new"), "x").is_err(), "read only");
    mounted.unmount().unwrap();
    assert_eq!(fs::read_dir(&at).unwrap().count(), 0);
}

fn pattern(at: &Path) -> fs::File {
    let file = fs::File::create(at).unwrap();
    file.set_len(64 << 20).unwrap();
    for n in 0..40u64 {
        file.write_all_at(&noise(n, 300_000), n * 1_500_000).unwrap();
    }
    file.write_all_at(&vec![0; 1 << 20], 5 << 20).unwrap(); // zeroes that are no hole
    file
}

#[test]
fn an_image_comes_back_and_only_changed_extents_are_new() {
    let dir = Dir::new("image");
    let image = dir.path("disk.img");
    let file = pattern(&image);
    let vault = MemoryVault::new();
    let capture = || backup_image(&vault, &image, Path::new("/disks/one"), 3, &Monitor::new()).unwrap();
    let first = capture();
    let (_, objects) = vault.counts();
    assert_eq!(capture().root, first.root);
    file.write_all_at(b"a change", 33_000_000).unwrap();
    let second = capture();
    assert!(vault.counts().1 - objects <= 6, "an extent, its list, and the directories above");
    let entry = show(&vault, &second.root, b"disks/one").unwrap();
    assert!(matches!(entry.kind, EntryKind::Image(_)));
    assert!(entry.content().unwrap().data() < 40 << 20, "holes and zeroes are not kept");

    let back = dir.path("back.img");
    let name: &(dyn Fn(&[u8]) -> ChunkId + Sync) = &naming;
    for (root, expected) in
        [(&first.root, 12u64 << 20..40 << 20), (&second.root, 4096..4097), (&second.root, 0..1)]
    {
        let report =
            restore_image(&vault, root, b"disks/one", &back, Some(name), 3, &Monitor::new()).unwrap();
        assert!(expected.contains(&report.bytes_written), "{report:?}");
    }
    sh(&format!("cmp {} {}", image.display(), back.display()));
    // Beside other files of a snapshot it is restored as a file.
    bring_back(&vault, &second.root, &dir.path("tree"), &RestoreOptions::default());
    sh(&format!("cmp {} {}/tree/disks/one", image.display(), dir.0.display()));
}

#[test]
fn a_block_device_comes_back() {
    if !with_mounts("a_block_device_comes_back") {
        return;
    }
    let dir = Dir::new("device");
    pattern(&dir.path("one.img"));
    fs::write(dir.path("two.img"), noise(77, 64 << 20)).unwrap();
    let attach = |name: &str| {
        let printed = sh(&format!("losetup --find --show {}", dir.path(name).display()));
        printed.trim().to_owned()
    };
    let (one, two) = (attach("one.img"), attach("two.img"));
    let vault = MemoryVault::new();
    let done = backup_image(&vault, Path::new(&one), Path::new("/one"), 2, &Monitor::new()).unwrap();
    let restored = restore_image(&vault, &done.root, b"one", Path::new(&two), None, 2, &Monitor::new());
    let compared = std::process::Command::new("cmp").args([&one, &two]).status().unwrap();
    sh(&format!("losetup -d {one}; losetup -d {two}"));
    assert!(restored.is_ok(), "{restored:?}");
    assert!(compared.success());
}

#[test]
fn a_stream_comes_back_byte_for_byte() {
    let vault = MemoryVault::new();
    for length in [0, 1, 64, 65, 300_000, 30 << 20] {
        let data = noise(length as u64, length);
        let done =
            backup_stream(&vault, data.as_slice(), Path::new("/dump.sql"), &options(), &Monitor::new())
                .unwrap();
        assert_eq!(done.report.bytes, length as u64);
        let mut out = Vec::new();
        restore_stream(&vault, &done.root, b"dump.sql", &mut out, &Monitor::new()).unwrap();
        assert!(out == data, "{length} bytes");
    }
}
