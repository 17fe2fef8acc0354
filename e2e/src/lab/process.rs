//! Processes of the lab, named so that a recycled pid is never mistaken for them.

use crate::error::{Result, refuse};
use crate::sys;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// A process by pid and start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number on the host.
    pub pid: i32,
    /// Clock ticks from boot to its start (field 22 of `/proc/PID/stat`).
    pub started: u64,
}

/// State letter and start time of a process.
fn stat(pid: i32) -> Option<(char, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything, so fields are counted after its end; the state is field 3.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some((fields.first()?.chars().next()?, fields.get(19)?.parse().ok()?))
}

impl Process {
    /// The process that has `pid` now.
    pub fn of(pid: i32) -> Option<Self> {
        stat(pid).map(|(_, started)| Self { pid, started })
    }

    /// True while it runs; a zombie does not.
    pub fn alive(self) -> bool {
        stat(self.pid).is_some_and(|(state, started)| started == self.started && state != 'Z')
    }

    /// True while any of its threads waits in the kernel in a way that no signal ends: for a disk.
    pub fn waits_for_disk(self) -> bool {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", self.pid)) else { return false };
        let state = |thread: std::fs::DirEntry| {
            let text = std::fs::read_to_string(thread.path().join("stat")).ok()?;
            text.rsplit_once(')')?.1.trim_start().chars().next()
        };
        self.alive() && threads.flatten().filter_map(state).any(|state| state == 'D')
    }

    /// Sends a signal if it is still the same process.
    pub fn signal(self, signal: Signal) {
        if let (true, Some(pid)) = (self.alive(), Pid::from_raw(self.pid)) {
            // It can end between the question and the signal; then there is nothing left to do.
            let _gone = kill_process(pid, signal);
        }
    }

    /// Kills it and waits until it is gone.
    pub fn kill(self, limit: Duration) -> Result<()> {
        self.signal(Signal::KILL);
        self.wait(limit)
    }

    /// Waits until it is gone.
    pub fn wait(self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        while self.alive() {
            if Instant::now() > end {
                return refuse(format!("process {} does not end", self.pid));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        // Helpers started by this very process are its children.
        sys::collect(self.pid);
        Ok(())
    }

    /// A handle for entering its namespaces.
    pub fn handle(self) -> Result<rustix::fd::OwnedFd> {
        let handle = sys::pidfd(self.pid)?;
        if self.alive() { Ok(handle) } else { refuse(format!("process {} has ended", self.pid)) }
    }
}

/// Every pid of this machine.
pub fn all() -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Every process that lives in the same PID namespace as `init`.
pub fn same_machine(init: i32) -> Vec<Process> {
    let namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let Some(wanted) = namespace(init) else { return Vec::new() };
    all()
        .into_iter()
        .filter(|pid| namespace(*pid).as_ref() == Some(&wanted))
        .filter_map(Process::of)
        .collect()
}

/// The words with which a process was started; none if it is gone.
pub fn words(pid: i32) -> Vec<String> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = line.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// The parent of a process.
pub fn parent(pid: i32) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Every process that was started with the variable `name` in its environment, with its value.
pub fn marked(name: &str) -> Vec<(Process, String)> {
    let prefix = format!("{name}=");
    let mark = |pid: i32| {
        let bytes = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
        let mut entries = bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        let value = entries.find_map(|entry| entry.strip_prefix(&prefix).map(str::to_owned))?;
        Some((Process::of(pid).filter(|process| process.alive())?, value))
    };
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    all().into_iter().filter(|pid| *pid != own).filter_map(mark).collect()
}
