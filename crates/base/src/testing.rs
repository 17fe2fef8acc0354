//! What tests with real processes share.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "used by tests only")]

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

const INSIDE: &str = "ANSHIN_TEST_INSIDE";

/// A namespace that a test has to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// Mounts made inside are seen nowhere else. A test that mounts needs it even if it would not disturb others: any mount
    /// namespace that another test makes meanwhile copies the machine's mounts, and so keeps them busy after their `umount`.
    Mount,
    /// Only a loopback interface, which is down.
    Network,
}

/// True inside namespaces of its own. Outside, runs the test of this name again inside, checks that it succeeded, and gives
/// false; without the privilege to make namespaces it says so and gives false.
///
/// # Panics
/// If the test fails inside.
#[must_use]
pub fn in_namespaces(test: &str, namespaces: &[Namespace]) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let unshare = || {
        let mut command = Command::new("unshare");
        for namespace in namespaces {
            match namespace {
                Namespace::Mount => command.args(["--mount", "--propagation", "private"]),
                Namespace::Network => command.arg("--net"),
            };
        }
        command
    };
    let able = unshare().arg("true").stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !able {
        println!("SKIPPED: {test}: {namespaces:?} namespaces need root");
        return false;
    }
    let mut again = unshare();
    again.arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]);
    assert!(again.env(INSIDE, "1").status().unwrap().success(), "{test} failed in its namespaces");
    false
}

/// `usual` in a run of CI's size, `full` in a long one (`./test long`, or by hand with LONG=yes).
#[must_use]
pub fn size<T>(usual: T, full: T) -> T {
    if std::env::var_os("LONG").is_some_and(|text| !text.is_empty()) { full } else { usual }
}

/// What a test has got through: a row for each case. Those of a long run are kept in a file, so that one that was interrupted
/// goes on where it was; rows of another state of the tree do not count.
#[derive(Debug)]
pub struct Rows {
    name: &'static str,
    file: Option<PathBuf>,
    done: BTreeSet<String>,
}

impl Rows {
    /// The rows of a test; `./test` says where they are kept (KEPT) and of which state of the tree (STATE).
    ///
    /// # Panics
    /// If the file cannot be made.
    #[must_use]
    pub fn open(name: &'static str) -> Self {
        let kept = std::env::var_os("KEPT").filter(|_| size(false, true));
        let file = kept.map(|directory| PathBuf::from(directory).join(format!("{name}.rows")));
        let mut done = BTreeSet::new();
        if let Some(file) = &file {
            let head = format!("# {}", std::env::var("STATE").unwrap_or_default());
            let text = fs::read_to_string(file).unwrap_or_default();
            if text.lines().next() == Some(&head) {
                done = text.lines().filter_map(|line| line.split(' ').nth(1)).map(str::to_owned).collect();
            } else {
                fs::write(file, format!("{head}\n")).unwrap();
            }
        }
        Self { name, file, done }
    }

    /// Whether a row for this case is there.
    #[must_use]
    pub fn has(&self, case: impl ToString) -> bool {
        self.done.contains(&case.to_string())
    }

    /// Adds a row.
    ///
    /// # Panics
    /// If it cannot be written, or the case holds a space.
    pub fn add(&mut self, case: impl ToString, what: &str) {
        let case = case.to_string();
        assert!(!case.contains(' '), "the name of a case is one word");
        let line = format!("{} {case} {what}", self.name);
        println!("{line}");
        if let Some(file) = &self.file {
            let mut file = fs::File::options().append(true).open(file).unwrap();
            file.write_all(format!("{line}\n").as_bytes()).unwrap();
        }
        self.done.insert(case);
    }
}
