//! Loop devices that a dead node leaves behind: their numbers belong to the whole machine.

use crate::sys;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Attached loop devices with the device number of the file system that holds their file.
fn attached() -> Vec<(PathBuf, u64)> {
    let Ok(entries) = std::fs::read_dir("/sys/block") else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|name| PathBuf::from(format!("/sys/block/{name}/loop/backing_file")).exists())
        .filter_map(|name| {
            let path = PathBuf::from(format!("/dev/{name}"));
            let device = sys::loop_backing(&File::open(&path).ok()?)?;
            Some((path, device))
        })
        .collect()
}

/// Device numbers of the file systems that a process sees mounted.
fn mounted(pid: &str) -> BTreeSet<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    let number = |line: &str| {
        let (major, minor) = line.split_whitespace().nth(2)?.split_once(':')?;
        Some(libc::makedev(major.parse().ok()?, minor.parse().ok()?))
    };
    text.lines().filter_map(number).collect()
}

/// Loop devices whose file lies on something that only the machine of process `init` has mounted.
pub fn of_machine(init: i32) -> Vec<PathBuf> {
    let ours = mounted("self");
    let theirs: BTreeSet<u64> = mounted(&init.to_string()).difference(&ours).copied().collect();
    attached().into_iter().filter(|(_, device)| theirs.contains(device)).map(|(path, _)| path).collect()
}

/// Loop devices whose file lies below `dir` on this machine's own file systems.
pub fn below(dir: &std::path::Path) -> Vec<PathBuf> {
    let backed = |name: &str| {
        let text = std::fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()?;
        PathBuf::from(text.trim()).starts_with(dir).then(|| PathBuf::from(format!("/dev/{name}")))
    };
    let Ok(entries) = std::fs::read_dir("/sys/block") else { return Vec::new() };
    entries.flatten().filter_map(|entry| backed(entry.file_name().to_str()?)).collect()
}

/// Detaches devices and returns those that are still attached after `limit`.
pub fn detach(devices: &[PathBuf], limit: Duration) -> Vec<PathBuf> {
    let end = Instant::now() + limit;
    loop {
        let held: Vec<PathBuf> = devices
            .iter()
            .filter(|path| {
                let Ok(device) = File::open(path) else { return false };
                if sys::loop_backing(&device).is_none() {
                    return false;
                }
                // A device in use is detached by its last user; asking again shows whether that has happened.
                let _in_use = sys::loop_detach(&device);
                drop(device);
                File::open(path).is_ok_and(|device| sys::loop_backing(&device).is_some())
            })
            .cloned()
            .collect();
        if held.is_empty() || Instant::now() > end {
            return held;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
