//! A cgroup per resource, where cgroup v2 can be written: its members cannot leave it, and it is killed as a whole.
//! Where it cannot, the mark in the environment does the same for programs that do not clear it.
#![allow(unsafe_code)] // `pre_exec`, see SAFETY there

use crate::procfs;
use std::{fs, io, os::fd::AsRawFd as _, path::PathBuf};
use tokio::process::Command;

/// One resource's cgroup.
#[derive(Debug)]
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    /// The resource's cgroup if it exists.
    pub(crate) fn of(name: &str) -> Option<Self> {
        path(name).filter(|path| path.is_dir()).map(Self)
    }

    /// Makes the resource's cgroup, if the system lets us.
    pub(crate) fn create(name: &str) -> Option<Self> {
        let path = path(name)?;
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => None,
            _ => Some(Self(path)),
        }
    }

    /// Kills all members (Linux 5.14); what this misses is found by its mark.
    pub(crate) fn kill(&self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
    }

    pub(crate) fn members(&self) -> Vec<i32> {
        let text = procfs::read(self.0.join("cgroup.procs"));
        let own = procfs::own_pid();
        // 0 stands for a member of a PID namespace that cannot be seen from here.
        let numbers = String::from_utf8_lossy(&text).lines().filter_map(|line| line.parse().ok()).collect();
        let mut numbers: Vec<i32> = numbers;
        numbers.retain(|pid| *pid > 0 && *pid != own);
        numbers
    }

    /// Makes the child a member before it becomes the program.
    pub(crate) fn take_in(&self, command: &mut Command) {
        let Ok(members) = fs::OpenOptions::new().write(true).open(self.0.join("cgroup.procs")) else {
            return;
        };
        // SAFETY: write is async-signal-safe; the file was opened before and lives in the closure.
        unsafe {
            command.pre_exec(move || {
                // Refused by a system that does not delegate: then the mark alone has to do.
                libc::write(members.as_raw_fd(), b"0".as_ptr().cast(), 1);
                Ok(())
            });
        }
    }

    /// Removes it once it is empty.
    pub(crate) fn remove(self) {
        let _ = fs::remove_dir(self.0);
    }
}

/// Beside the cgroup this process is in; named after the PID namespace too, because nodes in namespaces of one
/// machine see the same tree.
fn path(name: &str) -> Option<PathBuf> {
    let mounts = procfs::read("/proc/self/mountinfo");
    let mounts = String::from_utf8_lossy(&mounts);
    let mount = mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ").then(|| place.split(' ').nth(4).map(PathBuf::from))?
    })?;
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    let number: String = namespace.to_str()?.chars().filter(char::is_ascii_digit).collect();
    Some(mount.join(own).join(format!("anshin-{number}-{name}")))
}
