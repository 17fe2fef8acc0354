//! What tests with real processes share.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "used by tests only")]

use std::process::{Command, Stdio};

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
