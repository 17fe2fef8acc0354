//! What the tests with real file systems share.
#![allow(dead_code)] // each test program uses its part

pub mod real;
pub mod torture;

use anshin_base::testing::{Namespace, in_namespaces};
use anshin_capture::{
    IssueKind, Monitor,
    backup::{Backup, BackupOptions, BackupRoot, backup},
    restore::{RestoreOptions, RestoreReport, Selection, restore},
    tree::ChunkId,
};
use anshin_vault::{Kind, chunker::Chunker, ids::chunk_id, memory::MemoryVault};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

/// True inside a mount namespace of its own.
pub fn with_mounts(test: &str) -> bool {
    in_namespaces(test, &[Namespace::Mount])
}

/// Says that a test cannot run here, if a program is missing.
pub fn is_missing(programs: &[&str]) -> bool {
    let missing = |program: &&&str| {
        !Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap().status.success()
    };
    programs.iter().find(missing).is_some_and(|program| {
        println!("SKIPPED: {program} is not installed");
        true
    })
}

/// Runs a shell line that must succeed and gives what it printed.
pub fn sh(line: &str) -> String {
    let output = Command::new("/bin/sh").args(["-c", line]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A directory that is removed with its test.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("anshin-capture-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// File systems in image files, mounted beneath a directory; unmounted with the test.
pub struct Mounted {
    pub dir: Dir,
    mounts: Vec<PathBuf>,
}

impl Mounted {
    pub fn new(name: &str) -> Self {
        Self { dir: Dir::new(name), mounts: Vec::new() }
    }

    pub fn mount(&mut self, kind: &str, name: &str, size: &str) -> PathBuf {
        let (image, path) = (self.dir.path(&format!("{name}.img")), self.dir.path(name));
        fs::create_dir_all(&path).unwrap();
        let (image, at) = (image.display(), path.display());
        let options = match kind {
            // An inode for every 4 KiB: a tree of small files needs as many as it has blocks.
            "ext4" => "-q -F -i 4096 -E lazy_itable_init=1",
            "xfs" => "-q",
            "btrfs" => "-q",
            _ => "",
        };
        sh(&format!(
            "truncate -s {size} {image} && mkfs.{kind} {options} {image} && mount -o loop {image} {at}"
        ));
        self.mounts.push(path.clone());
        path
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for mount in self.mounts.iter().rev() {
            let _ = Command::new("umount").arg(mount).status();
        }
    }
}

pub fn options() -> BackupOptions {
    BackupOptions::new(Arc::new(Chunker::new(&[3; 32])))
}

/// As the vault in memory names data.
pub fn naming(data: &[u8]) -> ChunkId {
    chunk_id(&[7; 32], Kind::Data, &[], data)
}

/// Backs up a directory as the whole snapshot; nothing may go wrong.
pub fn back_up(vault: &MemoryVault, source: &Path, options: &BackupOptions) -> Backup {
    let root = BackupRoot { source: source.into(), path: "/".into() };
    let done = backup(vault, &[root], options, &Monitor::new()).unwrap();
    let bad: Vec<_> =
        done.report.issues.first.iter().filter(|issue| issue.kind != IssueKind::Cache).collect();
    assert!(bad.is_empty(), "{bad:?}");
    done
}

pub fn bring_back(
    vault: &MemoryVault,
    root: &ChunkId,
    target: &Path,
    options: &RestoreOptions<'_>,
) -> RestoreReport {
    restore(vault, root, &Selection::all(), target, options, &Monitor::new()).unwrap()
}
