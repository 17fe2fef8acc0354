//! The fault disk as programs meet it: mounted, with real system calls. Needs root and /dev/fuse.

#![allow(clippy::unwrap_used)]

use anshin_e2e::control;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

struct Mounted {
    dir: PathBuf,
    child: Child,
}

impl Mounted {
    fn new(name: &str) -> Option<Self> {
        if !Path::new("/dev/fuse").exists() || !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: needs root and /dev/fuse");
            return None;
        }
        let dir = std::env::temp_dir().join(format!("anshin-faultdisk-{name}-{}", std::process::id()));
        for part in ["root", "mnt"] {
            std::fs::create_dir_all(dir.join(part)).unwrap();
        }
        let child = Command::new(env!("CARGO_BIN_EXE_anshin-lab"))
            .args(["faultdisk", "--seed", "7", "--root"])
            .arg(dir.join("root"))
            .arg("--mount")
            .arg(dir.join("mnt"))
            .arg("--control")
            .arg(dir.join("ctl"))
            .spawn()
            .unwrap();
        let mounted = Self { dir, child };
        let end = Instant::now() + Duration::from_secs(20);
        // The mount shows itself by another device number than the directory around it.
        while device(&mounted.dir.join("mnt")) == device(&mounted.dir) {
            assert!(Instant::now() < end, "the disk does not come up");
            std::thread::yield_now();
        }
        Some(mounted)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join("mnt").join(name)
    }

    fn ask(&self, command: &str) -> String {
        control::ask(&self.dir.join("ctl"), command).unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _gone = anshin_e2e::sys::unmount(&self.dir.join("mnt"));
        let _dead = self.child.kill();
        let _reaped = self.child.wait();
        let _gone = std::fs::remove_dir_all(&self.dir);
    }
}

fn device(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::dev(&std::fs::metadata(path).unwrap())
}

#[test]
fn what_was_synced_survives_a_crash_and_what_was_not_suffers() {
    let Some(disk) = Mounted::new("crash") else { return };
    let file = File::create_new(disk.file("synced")).unwrap();
    file.write_all_at(&[5; 100_000], 0).unwrap();
    file.sync_all().unwrap();
    let loose = File::create_new(disk.file("loose")).unwrap();
    for index in 0..64 {
        loose.write_all_at(&[6; 8192], index * 8192).unwrap();
    }
    let mut before = Vec::new();
    File::open(disk.file("loose")).unwrap().read_to_end(&mut before).unwrap();
    assert!(before.len() == 64 * 8192 && before.iter().all(|byte| *byte == 6), "reads see the cache");
    drop((file, loose));

    let toll = disk.ask("crash 3");
    let numbers: Vec<u64> = toll.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert!(matches!(numbers[..], [kept, lost, torn] if kept > 0 && lost > 0 && torn > 0), "{toll}");
    let after = std::fs::read(disk.file("synced")).unwrap();
    assert!(after.len() == 100_000 && after.iter().all(|byte| *byte == 5));
    let after = std::fs::read(disk.file("loose")).unwrap();
    assert_ne!(after, before);
    assert!(after.iter().all(|byte| *byte == 0 || *byte == 6), "nothing is invented");
}

#[test]
fn operations_fail_when_told_to_and_work_again_after_healing() {
    let Some(disk) = Mounted::new("fail") else { return };
    let mut file = File::create_new(disk.file("f")).unwrap();
    disk.ask("fail write 1");
    assert_eq!(file.write(b"x").unwrap_err().raw_os_error(), Some(libc::EIO));
    file.write_all(b"hello").unwrap();
    disk.ask("fail flush 1 f");
    assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::EIO));
    file.sync_all().unwrap();
    disk.ask("full");
    assert_eq!(file.write(b"x").unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    disk.ask("heal");
    file.write_all_at(b"world", 5).unwrap();
    file.sync_all().unwrap();
    disk.ask("crash");
    assert_eq!(
        std::fs::read(disk.file("f")).unwrap(),
        b"\0\0\0\0\0world",
        "the failed flush poisoned its part"
    );
}

#[test]
fn names_directories_and_preallocation_work_as_on_any_disk() {
    let Some(disk) = Mounted::new("names") else { return };
    std::fs::create_dir(disk.file("d")).unwrap();
    std::fs::write(disk.file("d/new"), b"second").unwrap();
    std::fs::write(disk.file("d/old"), b"first").unwrap();
    std::fs::rename(disk.file("d/new"), disk.file("d/old")).unwrap();
    assert_eq!(std::fs::read(disk.file("d/old")).unwrap(), b"second");
    let names: Vec<_> =
        std::fs::read_dir(disk.file("d")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["old"]);
    let file = File::options().write(true).open(disk.file("d/old")).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 1 << 20).unwrap();
    assert_eq!(std::fs::metadata(disk.file("d/old")).unwrap().len(), 1 << 20);
    std::fs::remove_file(disk.file("d/old")).unwrap();
    std::fs::remove_dir(disk.file("d")).unwrap();
}
