//! Whatever tree there is: restore(backup(tree)) = tree.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test program, its helpers included

mod common;

use anshin_capture::{
    Monitor,
    restore::{RestoreOptions, Selection, verify},
};
use anshin_vault::memory::MemoryVault;
use common::{Dir, back_up, bring_back, options, torture::noise};
use proptest::{collection::vec, prelude::*};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
};

#[derive(Clone, Debug)]
enum Make {
    Directory,
    File { length: usize, seed: u64, holes: bool },
    Symlink(Vec<u8>),
    HardLink(prop::sample::Index),
    Fifo,
}

fn make() -> impl Strategy<Value = Make> {
    let length =
        prop_oneof![Just(0usize), 1usize..100, 3000usize..9000, 200_000usize..700_000, Just(5usize << 20)];
    prop_oneof![
        3 => Just(Make::Directory),
        5 => (length, any::<u64>(), any::<bool>()).prop_map(|(length, seed, holes)| Make::File { length, seed, holes }),
        1 => vec(1u8..=255, 1..30).prop_map(Make::Symlink),
        1 => any::<prop::sample::Index>().prop_map(Make::HardLink),
        1 => Just(Make::Fifo),
    ]
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = (1u8..=255).prop_filter("not in names", |byte| *byte != b'/');
    vec(byte, 1..10).prop_filter("not names", |name| name != b"." && name != b"..")
}

type Step = (prop::sample::Index, Vec<u8>, Make, u32, i64);

fn build(top: &Path, steps: &[Step]) {
    fs::create_dir_all(top).unwrap();
    let (mut directories, mut files) = (vec![top.to_path_buf()], Vec::<PathBuf>::new());
    let mut finishing = Vec::new();
    for (within, name, make, mode, seconds) in steps {
        let path = within.get(&directories).join(std::ffi::OsStr::from_bytes(name));
        if path.symlink_metadata().is_ok() {
            continue;
        }
        match make {
            Make::Directory => {
                fs::create_dir(&path).unwrap();
                directories.push(path.clone());
            }
            Make::File { length, seed, holes } => {
                let file = fs::File::create(&path).unwrap();
                if *holes {
                    file.set_len(*length as u64 * 2).unwrap();
                }
                file.write_all_at(
                    &noise(*seed, *length),
                    if *holes { *length as u64 / 4096 * 4096 } else { 0 },
                )
                .unwrap();
                files.push(path.clone());
            }
            Make::Symlink(target) => symlink(std::ffi::OsString::from_vec(target.clone()), &path).unwrap(),
            Make::HardLink(_) if files.is_empty() => continue,
            Make::HardLink(of) => {
                fs::hard_link(of.get(&files), &path).unwrap();
                continue;
            }
            Make::Fifo => rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap(),
        }
        finishing.push((path, *mode, *seconds));
    }
    for (path, mode, seconds) in finishing.into_iter().rev() {
        if !path.is_symlink() {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode | 0o700)).unwrap();
        }
        let time = rustix::fs::Timespec {
            tv_sec: seconds,
            tv_nsec: 1 + (seconds.unsigned_abs() % 999_999_999) as i64,
        };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, &path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// Everything that can be seen of a tree, but for its inode numbers.
fn picture(top: &Path) -> BTreeMap<PathBuf, String> {
    let mut seen = BTreeMap::new();
    let mut todo = vec![top.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            let stat = path.symlink_metadata().unwrap();
            let content = if stat.is_file() {
                blake3::hash(&fs::read(&path).unwrap()).to_string()
            } else if stat.is_symlink() {
                fs::read_link(&path).unwrap().as_os_str().as_bytes().escape_ascii().to_string()
            } else {
                String::new()
            };
            if stat.is_dir() {
                todo.push(path.clone());
            }
            let links = if stat.is_dir() { 0 } else { stat.nlink() };
            let size = if stat.is_file() { stat.size() } else { 0 };
            let text = format!(
                "{:o} {} {} {}.{} {links} {content}",
                stat.mode(),
                stat.uid(),
                size,
                stat.mtime(),
                stat.mtime_nsec()
            );
            seen.insert(path.strip_prefix(top).unwrap().to_path_buf(), text);
        }
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_comes_back(
        steps in vec((any::<prop::sample::Index>(), name(), make(), 0u32..0o10000, -2_000_000_000i64..8_000_000_000), 0..40)
    ) {
        let dir = Dir::new("property");
        build(&dir.path("tree"), &steps);
        let vault = MemoryVault::new();
        let root = back_up(&vault, &dir.path("tree"), &options()).root;
        let report = bring_back(&vault, &root, &dir.path("back"), &RestoreOptions::default());
        prop_assert!(report.issues.is_empty(), "{:?}", report.issues);
        prop_assert_eq!(picture(&dir.path("back")), picture(&dir.path("tree")));
        let verified =
            verify(&vault, &root, &Selection::all(), &dir.path("back"), &RestoreOptions::default(), &Monitor::new()).unwrap();
        prop_assert!(verified.is_equal(), "{:?}", verified.issues);
        prop_assert_eq!(back_up(&vault, &dir.path("tree"), &options()).root, root);
    }
}
