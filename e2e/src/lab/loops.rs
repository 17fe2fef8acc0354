//! Loop devices that a dead node leaves behind: their numbers belong to the whole machine.
//!
//! Nothing here asks a loop device about its file: the answer would come from the file system behind it, which may be
//! served by a process that is frozen, dead or dying, and the question would then never return.

use super::process;
use crate::sys;
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Major device number of loop devices (Documentation/admin-guide/devices.txt of Linux).
const LOOP_MAJOR: u32 = 7;

fn sysfs(number: u32) -> PathBuf {
    PathBuf::from(format!("/sys/block/loop{number}/loop/backing_file"))
}

fn attached(number: u32) -> bool {
    sysfs(number).exists()
}

fn number_of(device: &Path) -> Option<u32> {
    device.file_name()?.to_str()?.strip_prefix("loop")?.parse().ok()
}

/// The loop device's number if `path` is one, following links.
fn loop_at(path: &Path) -> Option<u32> {
    let metadata = std::fs::metadata(path).ok().filter(|metadata| metadata.file_type().is_block_device())?;
    (libc::major(metadata.rdev()) == LOOP_MAJOR).then(|| libc::minor(metadata.rdev()))
}

/// Numbers of the loop devices that a machine has mounted, names in its `/dev/anshin`, or holds open.
fn used_by(init: i32) -> BTreeSet<u32> {
    let mounts = std::fs::read_to_string(format!("/proc/{init}/mountinfo")).unwrap_or_default();
    let major = format!("{LOOP_MAJOR}:");
    let mounted =
        mounts.lines().filter_map(|line| line.split_whitespace().nth(2)?.strip_prefix(&major)?.parse().ok());
    let list = |dir: String| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let named = list(format!("/proc/{init}/root/dev/anshin")).filter_map(|path| {
        // A link is read in the machine's view of the world but means a device of the whole host.
        let target = std::fs::read_link(&path).ok().and_then(|target| number_of(&target));
        target.or_else(|| loop_at(&path))
    });
    let processes = process::same_machine(init).into_iter();
    let open =
        processes.flat_map(|process| list(format!("/proc/{}/fd", process.pid))).filter_map(|descriptor| {
            std::fs::read_link(descriptor)
                .ok()
                .filter(|target| target.starts_with("/dev"))
                .and_then(|target| number_of(&target))
        });
    mounted.chain(named).chain(open).collect()
}

/// Attached loop devices that the machine of process `init` uses and the host does not.
pub fn of_machine(init: i32) -> Vec<PathBuf> {
    let host = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let ours = |number: u32| {
        let device = format!("{LOOP_MAJOR}:{number}");
        host.lines().any(|line| line.split_whitespace().nth(2) == Some(device.as_str()))
    };
    let numbers = used_by(init).into_iter().filter(|number| attached(*number) && !ours(*number));
    numbers.map(|number| PathBuf::from(format!("/dev/loop{number}"))).collect()
}

/// Loop devices whose file lies below `dir` on this machine's own file systems.
pub fn below(dir: &Path) -> Vec<PathBuf> {
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
    let still = |path: &&PathBuf| number_of(path).is_some_and(attached);
    loop {
        for path in devices.iter().filter(still) {
            if let Ok(device) = File::open(path) {
                // A device in use is detached by its last user; the next look shows whether that has happened.
                let _in_use = sys::loop_detach(&device);
            }
        }
        let held: Vec<PathBuf> = devices.iter().filter(still).cloned().collect();
        if held.is_empty() || Instant::now() > end {
            return held;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
