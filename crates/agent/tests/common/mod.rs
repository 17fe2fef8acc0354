//! What the tests that need real namespaces share.
#![allow(dead_code)] // each test program uses its part

use anshin_base::testing::{self, Namespace};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

/// True inside private network and mount namespaces; see [`testing::in_namespaces`].
pub fn in_namespaces(test: &str) -> bool {
    testing::in_namespaces(test, &[Namespace::Network, Namespace::Mount])
}

/// Says that a test cannot run here, if `path` is missing.
pub fn is_missing(path: &str, what: &str) -> bool {
    let missing = !Path::new(path).exists();
    if missing {
        println!("SKIPPED: {what} ({path}) is not installed");
    }
    missing
}

/// Runs a command that must succeed and gives what it printed.
pub fn sh(line: &str) -> String {
    let output = Command::new("/bin/sh").args(["-c", line]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until `condition` holds; gives how long it took. Fails after `patience`.
pub fn wait_until(what: &str, patience: Duration, mut condition: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < patience, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
    begun.elapsed()
}

/// A directory that is removed with its test.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("anshin-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A process that is killed with its test.
pub struct Running(pub Child);

impl Running {
    pub fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    pub fn signal(&self, name: &str) {
        sh(&format!("kill -{name} {}", self.pid()));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
