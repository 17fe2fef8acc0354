//! What the tests of backups with the real program share.
#![allow(dead_code, clippy::unwrap_used)] // each test program uses its part

use serde_json::Value;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

/// A machine of its own: all of the program's directories lie below one of the test.
pub struct Machine {
    pub root: PathBuf,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Machine {
    pub fn new(name: &str) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("anshin-backup-{name}-{}-{number}", std::process::id()));
        fs::create_dir_all(root.join("data/deep")).unwrap();
        fs::write(root.join("data/one"), "first").unwrap();
        fs::write(root.join("data/deep/two"), vec![7; 300_000]).unwrap();
        fs::write(root.join("data/deep/three.tmp"), "scrap").unwrap();
        std::os::unix::fs::symlink("one", root.join("data/link")).unwrap();
        Self { root }
    }

    pub fn path(&self, path: &str) -> String {
        self.root.join(path).display().to_string()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_anshin"));
        command.args(arguments).env("ANSHIN_ROOT", self.root.join("machine")).env_remove("ANSHIN_VAULT");
        command.stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs it, demands success, and gives what it printed.
    pub fn good(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{arguments:?}: {}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// The same with `--json`.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.push("--json");
        serde_json::from_str(&self.good(&all)).unwrap()
    }

    /// Runs it, demands this exit code, and gives what it printed as error.
    pub fn bad(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let all = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {all}");
        all
    }

    pub fn init(&self) -> Value {
        self.json(&["vault", "init", &self.path("vault"), "--yes"])
    }

    pub fn backup(&self) -> Value {
        self.json(&["backup", &self.path("data"), "--exclude", "*.tmp"])
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}
