//! A tree with everything that file systems can hold, and the tools that compare two of them.

use super::sh;
use rustix::fs::{self as rfs, AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use std::{
    collections::BTreeMap,
    ffi::{CString, OsStr},
    fs,
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt,
            fs::{FileExt, MetadataExt, PermissionsExt, symlink},
            net::UnixListener,
        },
    },
    path::Path,
};

/// Levels of the deep path: 20 names of 250 bytes are deeper than `PATH_MAX`.
const DEPTH: usize = 20;

/// Bytes that look random and are the same every time.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub fn build(top: &Path, kind: &str) {
    names(&top.join("names"));
    contents(&top.join("contents"));
    links(&top.join("links"));
    specials(&top.join("specials"));
    modes(&top.join("modes"));
    xattrs(&top.join("xattrs"), kind);
    sparse(&top.join("sparse"));
    deep(top);
    times(&top.join("times"));
    flags(&top.join("flags"), kind); // last: nothing can be changed there afterwards
}

fn names(at: &Path) {
    fs::create_dir(at).unwrap();
    for byte in (1..=255u8).filter(|byte| *byte != b'/') {
        let name = [b"x".as_slice(), &[byte], b"y"].concat();
        fs::write(at.join(OsStr::from_bytes(&name)), [byte]).unwrap();
        if byte != b'.' {
            fs::write(at.join(OsStr::from_bytes(&[byte])), [byte, byte]).unwrap();
        }
    }
    fs::write(at.join("n".repeat(255)), "long").unwrap();
    fs::create_dir(at.join(OsStr::from_bytes(&[0xff; 255]))).unwrap();
    fs::write(at.join("-rf"), "").unwrap();
    fs::write(at.join("new\nline"), "").unwrap();
}

fn contents(at: &Path) {
    fs::create_dir(at).unwrap();
    let sizes =
        [0, 1, 63, 64, 65, 4095, 4096, 4097, 262_143, 262_144, 262_145, 1 << 20, (5 << 20) + 1, 21 << 20];
    for size in sizes {
        fs::write(at.join(format!("noise-{size}")), noise(size as u64, size)).unwrap();
        fs::write(at.join(format!("zero-{size}")), vec![0; size]).unwrap();
    }
    fs::create_dir(at.join("many")).unwrap();
    for n in 0..1500 {
        fs::write(at.join(format!("many/{n}")), format!("{n}").repeat(n % 90)).unwrap();
    }
    fs::create_dir(at.join("empty")).unwrap();
}

fn links(at: &Path) {
    fs::create_dir_all(at.join("a/b")).unwrap();
    fs::write(at.join("a/first"), noise(1, 100_000)).unwrap();
    for other in ["z-second", "a/b/third", "0-before"] {
        fs::hard_link(at.join("a/first"), at.join(other)).unwrap();
    }
    symlink("a/first", at.join("good")).unwrap();
    symlink("/no/where", at.join("dangling")).unwrap();
    symlink("..", at.join("up")).unwrap();
    symlink("l".repeat(1000), at.join("longish")).unwrap();
    rfs::linkat(rfs::CWD, at.join("good"), rfs::CWD, at.join("good-2"), AtFlags::empty()).unwrap();
    rfs::chownat(
        rfs::CWD,
        at.join("dangling"),
        Some(rfs::Uid::from_raw(1234)),
        None,
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .unwrap();
}

fn specials(at: &Path) {
    fs::create_dir(at).unwrap();
    let make = |name: &str, kind, mode, device| {
        rfs::mknodat(rfs::CWD, at.join(name), kind, Mode::from_raw_mode(mode), device).unwrap();
    };
    make("fifo", FileType::Fifo, 0o640, 0);
    make("null", FileType::CharacterDevice, 0o666, rfs::makedev(1, 3));
    make("disk", FileType::BlockDevice, 0o660, rfs::makedev(259, 200_000));
    drop(UnixListener::bind(at.join("socket")).unwrap());
    fs::hard_link(at.join("fifo"), at.join("fifo-2")).unwrap();
}

fn modes(at: &Path) {
    fs::create_dir(at).unwrap();
    for mode in [0o000, 0o400, 0o4755, 0o2755, 0o6711, 0o1644, 0o777] {
        let file = at.join(format!("file-{mode:o}"));
        fs::write(&file, format!("{mode:o}")).unwrap();
        std::os::unix::fs::chown(&file, Some(1000 + mode), Some(2000 + mode)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let dir = at.join(format!("dir-{mode:o}"));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("within"), "x").unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
    }
    let far = at.join("far-owner");
    fs::write(&far, "").unwrap();
    std::os::unix::fs::chown(&far, Some(u32::MAX - 2), Some(u32::MAX - 3)).unwrap();
}

fn xattrs(at: &Path, kind: &str) {
    fs::create_dir(at).unwrap();
    let largest = match kind {
        "ext4" => 3000,
        "btrfs" => 15_000,
        _ => 65_000,
    };
    let set = |path: &Path, name: &str, value: &[u8]| {
        rfs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap()
    };
    let file = at.join("file");
    fs::write(&file, "attributes").unwrap();
    set(&file, "user.plain", b"value");
    set(&file, "user.empty", b"");
    set(&file, "user.binary", &[0, 255, 0, 10]);
    set(&file, "trusted.only-root", b"1");
    let large = at.join("large");
    fs::write(&large, "x").unwrap();
    set(&large, "user.large", &noise(9, largest));
    let many = at.join("many");
    fs::write(&many, "x").unwrap();
    for n in 0..40 {
        set(&many, &format!("user.number-{n}"), &noise(n, 50));
    }
    set(at, "user.of-a-directory", b"yes");
    symlink("x", at.join("link")).unwrap();
    set(&at.join("link"), "trusted.of-a-link", b"l");
    rfs::mknodat(rfs::CWD, at.join("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    set(&at.join("fifo"), "trusted.of-a-fifo", b"f");
    let capable = at.join("capable");
    fs::write(&capable, "#!").unwrap();
    fs::set_permissions(&capable, fs::Permissions::from_mode(0o755)).unwrap();
    let (shown, dir) = (capable.display(), at.display());
    sh(&format!("setcap cap_net_bind_service,cap_chown=ep {shown} && chown 4711:4712 {dir}/many"));
    sh(&format!("echo acl > {dir}/acl && setfacl -m u:4711:rw-,g:4712:r--,m::r-- {dir}/acl"));
    sh(&format!("mkdir {dir}/default && setfacl -m u:1:rwx -d -m u:4711:r-x,g::---,o::r-x {dir}/default"));
    sh(&format!("echo inherits > {dir}/default/within && mkdir {dir}/default/below"));
}

fn sparse(at: &Path) {
    fs::create_dir(at).unwrap();
    let file = fs::File::create(at.join("tebibyte")).unwrap();
    file.set_len(1 << 40).unwrap();
    for (n, offset) in [(1, 0u64), (2, 1 << 30), (3, (1 << 39) + 8192), (4, (1 << 40) - 65_536)] {
        file.write_all_at(&noise(n, 65_536), offset).unwrap();
    }
    fs::File::create(at.join("only-a-hole")).unwrap().set_len(10 << 20).unwrap();
    let tail = fs::File::create(at.join("hole-behind")).unwrap();
    tail.write_all_at(&noise(5, 300_000), 0).unwrap();
    tail.set_len(4 << 20).unwrap();
    let front = fs::File::create(at.join("hole-before")).unwrap();
    front.write_all_at(&noise(6, 300_000), 4 << 20).unwrap();
    let comb = fs::File::create(at.join("comb")).unwrap();
    for n in 0..100 {
        comb.write_all_at(&noise(n, 65_536), n * 131_072).unwrap();
    }
}

/// Opens the directory at each level in turn.
fn descend(top: &Path, mut each: impl FnMut(&OwnedFd, usize)) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut fd = rfs::open(top, flags, Mode::empty()).unwrap();
    for level in 0..DEPTH {
        each(&fd, level);
        fd = rfs::openat(&fd, deep_name(level), flags, Mode::empty()).unwrap();
    }
    each(&fd, DEPTH);
}

fn deep_name(level: usize) -> CString {
    let name = if level == 0 { "deep".into() } else { format!("{level:0250}") };
    CString::new(name).unwrap()
}

fn deep(top: &Path) {
    descend(top, |fd, level| {
        if level < DEPTH {
            rfs::mkdirat(fd, deep_name(level), Mode::RWXU).unwrap();
        }
        if level > 0 {
            let flags = OFlags::CREATE | OFlags::WRONLY;
            let file = rfs::openat(fd, c"file", flags, Mode::from_raw_mode(0o640)).unwrap();
            rustix::io::write(&file, format!("at {level}").as_bytes()).unwrap();
        }
    });
}

/// What an openat walker finds in the deep path.
fn deep_found(top: &Path) -> Vec<String> {
    let mut found = Vec::new();
    descend(top, |fd, level| {
        if level == 0 {
            return;
        }
        let dir = rfs::fstat(fd).unwrap();
        let file = rfs::openat(fd, c"file", OFlags::RDONLY, Mode::empty()).unwrap();
        let stat = rfs::fstat(&file).unwrap();
        let mut text = [0; 100];
        let length = rustix::io::read(&file, &mut text[..]).unwrap();
        found.push(format!(
            "{:o} {}.{} {:o} {}.{} {}",
            dir.st_mode,
            dir.st_mtime,
            dir.st_mtime_nsec,
            stat.st_mode,
            stat.st_mtime,
            stat.st_mtime_nsec,
            String::from_utf8_lossy(&text[..length])
        ));
    });
    found
}

fn times(at: &Path) {
    fs::create_dir(at).unwrap();
    // 2400 and 1910: within what each of the file systems can hold.
    for (name, seconds) in
        [("future", 13_569_465_600), ("past", -1_893_456_000), ("epoch", 0), ("before", -1)]
    {
        let path = at.join(name);
        fs::write(&path, name).unwrap();
        let time = Timespec { tv_sec: seconds, tv_nsec: 987_654_321 };
        let times = Timestamps { last_access: time, last_modification: time };
        rfs::utimensat(rfs::CWD, &path, &times, AtFlags::empty()).unwrap();
        symlink("x", at.join(format!("{name}-link"))).unwrap();
        rfs::utimensat(rfs::CWD, at.join(format!("{name}-link")), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        fs::create_dir(at.join(format!("{name}-dir"))).unwrap();
        fs::write(at.join(format!("{name}-dir/within")), "").unwrap();
        rfs::utimensat(rfs::CWD, at.join(format!("{name}-dir")), &times, AtFlags::empty()).unwrap();
    }
}

fn flags(at: &Path, kind: &str) {
    fs::create_dir(at).unwrap();
    let dir = at.display();
    for (name, flags) in
        [("immutable", "+i"), ("append", "+a"), ("nodump", "+d"), ("noatime", "+A"), ("sync", "+S")]
    {
        sh(&format!("echo {name} > {dir}/{name} && chattr {flags} {dir}/{name}"));
    }
    if kind == "btrfs" {
        sh(&format!("touch {dir}/nocow && chattr +C {dir}/nocow && echo data > {dir}/nocow"));
        sh(&format!("touch {dir}/compressed && chattr +c {dir}/compressed && echo data > {dir}/compressed"));
    }
    if kind == "xfs" {
        sh(&format!("echo p > {dir}/project && chattr -p 4711 {dir}/project"));
    }
    sh(&format!("mkdir {dir}/locked && echo x > {dir}/locked/within && echo y > {dir}/linked"));
    sh(&format!("ln {dir}/linked {dir}/locked/linked && chattr +i {dir}/linked {dir}/locked"));
}

/// Takes away what keeps a tree from being removed.
pub fn unlock(top: &Path) {
    sh(&format!("chattr -R -f -i -a {}/flags || true", top.display()));
}

/// Compares two trees with the tools that administrators trust; panics at the first difference.
pub fn judge(a: &Path, b: &Path) {
    let (left, right) = (a.display(), b.display());
    let aside = "--exclude=/deep --exclude=/sparse/tebibyte --exclude=/lost+found";
    let rsync = sh(&format!(
        "rsync -nacHAXS --numeric-ids --delete --modify-window=-1 --itemize-changes {aside} {left}/ {right}/"
    ));
    assert_eq!(rsync, "", "rsync finds differences");
    for tool in [
        // Deep paths cannot be named; the rest in an order that does not depend on the directory.
        "find . -path ./deep -prune -o -path ./lost+found -prune -o -print0 | sort -z | xargs -0 getfattr -h -d -m - -e hex --",
        "find . -path ./deep -prune -o -path ./lost+found -prune -o ! -type l -print0 | sort -z | xargs -0 getfacl -n -p --",
        // Extents and index are how ext4 stores, not what.
        "find . -path ./deep -prune -o -path ./lost+found -prune -o \\( -type f -o -type d \\) -print0 | sort -z | xargs -0 lsattr -d -p -- | sed 's/^\\( *[0-9]* [^ ]*\\)[eI]/\\1-/; s/^\\( *[0-9]* [^ ]*\\)[eI]/\\1-/'",
        "find . -path ./deep -prune -o -path ./lost+found -prune -o -print0 | sort -z | xargs -0 stat --printf '%n %F %a %u %g %s %h %.9Y %t %T\\n' -- | sed -E 's/^(.* directory [0-9]+ [0-9]+ [0-9]+) [0-9]+ [0-9]+/\\1/'",
    ] {
        let [one, other] = [a, b].map(|top| sh(&format!("cd {} && {tool}", top.display())));
        for (one, other) in one.lines().zip(other.lines()) {
            assert_eq!(one, other, "{tool}");
        }
        assert_eq!(one.len(), other.len(), "{tool}");
        assert!(one.len() > 1000, "{tool} printed nothing");
    }
    assert_eq!(deep_found(a), deep_found(b), "the deep path");
    assert_eq!(deep_found(a).len(), DEPTH);
    for name in ["tebibyte", "only-a-hole", "hole-behind", "hole-before", "comb"] {
        let [one, other] = [a, b].map(|top| extents(&top.join("sparse").join(name)));
        assert_eq!(one, other, "extents of {name}");
    }
    assert_eq!(hard_links(a), hard_links(b), "which names are the same file");
}

/// Offsets, lengths and contents of what a file holds.
fn extents(path: &Path) -> Vec<(u64, u64, blake3::Hash)> {
    let file = fs::File::open(path).unwrap();
    let (mut at, mut list) = (0, Vec::new());
    while let Ok(data) = rfs::seek(&file, rfs::SeekFrom::Data(at)) {
        let end = rfs::seek(&file, rfs::SeekFrom::Hole(data)).unwrap();
        let mut bytes = vec![0; (end - data) as usize];
        file.read_exact_at(&mut bytes, data).unwrap();
        list.push((data, end - data, blake3::hash(&bytes)));
        at = end;
    }
    list.push((file.metadata().unwrap().len(), 0, blake3::hash(b"")));
    list
}

/// Names that share a file, without those that nothing shares.
fn hard_links(top: &Path) -> Vec<Vec<String>> {
    let mut files: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let mut todo = vec![top.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let stat = entry.path().symlink_metadata().unwrap();
            if stat.is_dir() {
                if entry.file_name() != "deep" && entry.file_name() != "lost+found" {
                    todo.push(entry.path());
                }
            } else if stat.nlink() > 1 {
                let name = entry.path().strip_prefix(top).unwrap().display().to_string();
                files.entry(stat.ino()).or_default().push(name);
            }
        }
    }
    let mut groups: Vec<Vec<String>> = files.into_values().collect();
    groups.iter_mut().for_each(|group| group.sort());
    groups.sort();
    groups
}
