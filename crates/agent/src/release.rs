//! Letting go of a volume (R12): who uses a mount, killing them, and unmounting. For a deposed node, whose programs
//! must not go on answering, and for a stop that a stubborn user of the mount would block.
//!
//! All functions block; call them from a blocking task. Unmounting can hang in the kernel while the device below has
//! its I/O suspended: the volume process turns that I/O into errors first.

use crate::procfs::{self, Identity};
use anshin_base::Problem;
use rustix::mount::UnmountFlags;
use std::{
    ffi::OsString,
    fs,
    os::unix::{ffi::OsStringExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// A process that uses a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its number in this PID namespace.
    pub pid: i32,
    /// Its short name.
    pub name: String,
}

/// How an unmount ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmounted {
    /// It was not mounted.
    Before,
    /// Nothing uses the device any more.
    Clean,
    /// Out of sight, but something still holds it; it goes when that ends.
    Lazy,
}

/// One line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    /// As `st_dev` of files in it, except on file systems with device numbers of their own (btrfs).
    device: (u32, u32),
    /// Which directory of the file system is mounted; `/` if it is the whole.
    root: PathBuf,
    point: PathBuf,
}

/// How often a point is unmounted at most: mounts can be stacked.
const STACKED_MAX: usize = 16;

/// The processes that use the file system mounted at `mount_point`: by working directory, root, program, open file
/// or mapping. This process and the namespace's first are never listed.
///
/// # Errors
/// `not-mounted` if nothing is mounted exactly there: the users of a directory on the root file system are nobody's
/// to kill.
pub fn users_of(mount_point: &Path) -> Result<Vec<User>, Problem> {
    let find = finder(mount_point)?;
    Ok(find().into_iter().map(|found| User { pid: found.pid, name: procfs::name(found.pid) }).collect())
}

/// Kills all users of the file system mounted at `mount_point` with SIGKILL and waits until they are gone.
///
/// # Errors
/// `not-mounted`, or `mount-users-remain` if some are still there after `patience`.
pub fn kill_users(mount_point: &Path, patience: Duration) -> Result<Vec<User>, Problem> {
    let find = finder(mount_point)?;
    let killed = procfs::kill_all(find, patience).map_err(|left| {
        Problem::new(
            "mount-users-remain",
            format!("{} is still used by {}", mount_point.display(), procfs::list(&left)),
        )
        .hint("a process in state D waits for the device: it ends when the volume's I/O is answered")
    })?;
    Ok(killed.into_iter().map(|(pid, name)| User { pid, name }).collect())
}

/// Unmounts everything mounted at `mount_point`, trying again while it is busy, until `patience` is over; then, if
/// `lazy`, takes it out of sight.
///
/// # Errors
/// `unmount-failed` with the reason and the users that remain.
pub fn unmount(mount_point: &Path, patience: Duration, lazy: bool) -> Result<Unmounted, Problem> {
    let deadline = Instant::now() + patience;
    let mut done = Unmounted::Before;
    for _ in 0..STACKED_MAX {
        if find_mount(mount_point).is_none() {
            return Ok(done);
        }
        done = match unmount_one(mount_point, deadline, lazy)? {
            Unmounted::Clean if done == Unmounted::Lazy => Unmounted::Lazy,
            one => one,
        };
    }
    match find_mount(mount_point) {
        None => Ok(done),
        Some(_) => Err(Problem::new(
            "unmount-failed",
            format!("more than {STACKED_MAX} mounts are stacked on {}", mount_point.display()),
        )),
    }
}

/// True if something is mounted exactly at `mount_point`. Does not touch the file system mounted there.
#[must_use]
pub fn is_mounted(mount_point: &Path) -> bool {
    find_mount(mount_point).is_some()
}

fn unmount_one(point: &Path, deadline: Instant, lazy: bool) -> Result<Unmounted, Problem> {
    loop {
        let error = match rustix::mount::unmount(point, UnmountFlags::NOFOLLOW) {
            Ok(()) => return Ok(Unmounted::Clean),
            // Someone else unmounted it meanwhile.
            Err(rustix::io::Errno::INVAL) if find_mount(point).is_none() => return Ok(Unmounted::Clean),
            Err(error) => error,
        };
        if error == rustix::io::Errno::BUSY && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        if lazy && rustix::mount::unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok() {
            return Ok(Unmounted::Lazy);
        }
        let users: Vec<_> =
            users_of(point).unwrap_or_default().into_iter().map(|user| (user.pid, user.name)).collect();
        let who =
            if users.is_empty() { String::new() } else { format!("; used by {}", procfs::list(&users)) };
        let message = format!("{} cannot be unmounted: {error}{who}", point.display());
        return Err(Problem::new("unmount-failed", message));
    }
}

/// A search for the users of what is mounted at `point` now. It stays the same search if the mount goes away.
fn finder(point: &Path) -> Result<impl Fn() -> Vec<Identity> + use<>, Problem> {
    let mount = find_mount(point)
        .ok_or_else(|| Problem::new("not-mounted", format!("nothing is mounted at {}", point.display())))?;
    let root = find_mount(Path::new("/")).map(|root| root.device);
    // The device number finds users that reached the file system by another path or in another mount namespace.
    // It says too much if only a directory is mounted here, or if the system itself lives on the same device.
    let whole = mount.root == Path::new("/") && root != Some(mount.device);
    let device = whole.then(|| rustix::fs::makedev(mount.device.0, mount.device.1));
    let own = procfs::own_pid();
    Ok(move || {
        let uses = |pid: &i32| uses_mount(*pid, &mount, device);
        procfs::pids()
            .into_iter()
            .filter(|pid| *pid != own && *pid != 1)
            .filter(uses)
            .filter_map(procfs::alive)
            .collect()
    })
}

fn uses_mount(pid: i32, mount: &Mount, device: Option<u64>) -> bool {
    // The same path in another mount namespace is another place.
    let namespace = |of: &str| fs::read_link(format!("/proc/{of}/ns/mnt")).ok();
    let here = namespace(&pid.to_string()) == namespace("self");
    let link = |path: PathBuf| {
        let by_path = || here && fs::read_link(&path).is_ok_and(|target| target.starts_with(&mount.point));
        // Following a link of /proc reaches an inode in memory; it does no I/O.
        let by_device =
            || device.is_some_and(|wanted| fs::metadata(&path).is_ok_and(|at| at.dev() == wanted));
        by_path() || by_device()
    };
    let place = PathBuf::from(format!("/proc/{pid}"));
    ["cwd", "root", "exe"].iter().any(|name| link(place.join(name)))
        || fs::read_dir(place.join("fd"))
            .is_ok_and(|fds| fds.filter_map(Result::ok).any(|fd| link(fd.path())))
        || maps_mount(&procfs::read(place.join("maps")), mount, here, device.is_some())
}

/// A line of maps: `from-to rights offset major:minor inode path`.
fn maps_mount(maps: &[u8], mount: &Mount, by_path: bool, by_device: bool) -> bool {
    let device = format!("{:02x}:{:02x}", mount.device.0, mount.device.1);
    String::from_utf8_lossy(maps).lines().any(|line| {
        let mut fields = line.split_ascii_whitespace();
        let same_device = fields.nth(3).is_some_and(|field| field == device);
        let path = fields.nth(1);
        let same_path = path.is_some_and(|path| Path::new(path).starts_with(&mount.point));
        (by_device && same_device) || (by_path && same_path)
    })
}

/// The uppermost mount at exactly this point.
fn find_mount(point: &Path) -> Option<Mount> {
    let text = procfs::read("/proc/self/mountinfo");
    text.split(|byte| *byte == b'\n').filter_map(parse_mount).rfind(|mount| mount.point == point)
}

fn parse_mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ').skip(2);
    let device = std::str::from_utf8(fields.next()?).ok()?;
    let (major, minor) = device.split_once(':')?;
    Some(Mount {
        device: (major.parse().ok()?, minor.parse().ok()?),
        root: unescape(fields.next()?),
        point: unescape(fields.next()?),
    })
}

/// The kernel writes blank, tab, newline and backslash in a path as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut at = 0;
    while at < field.len() {
        let code = field.get(at + 1..at + 4).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if field[at] == b'\\' => {
                out.push(byte);
                at += 4;
            }
            _ => {
                out.push(field[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_gives_device_root_and_point_also_with_blanks() {
        let line = br"36 35 98:7 /sub /srv/my\040data\134x rw,noatime shared:1 - ext4 /dev/loop7 rw";
        let mount = parse_mount(line).unwrap();
        assert_eq!(mount.device, (98, 7));
        assert_eq!(mount.root, Path::new("/sub"));
        assert_eq!(mount.point, Path::new(r"/srv/my data\x"));
        assert_eq!(parse_mount(b""), None);
        assert_eq!(parse_mount(b"36 35 x /"), None);
    }

    #[test]
    fn a_mapping_counts_by_path_and_by_device() {
        let mount = Mount { device: (7, 1), root: "/".into(), point: "/srv/data".into() };
        let by_path = b"7f00-7f01 r--p 00000000 fe:00 12 /srv/data/lib.so\n";
        let by_device = b"7f00-7f01 r--p 00000000 07:01 12 /elsewhere/lib.so\n";
        let near_miss = b"7f00-7f01 r--p 00000000 fe:00 12 /srv/database/lib.so\n7f02-7f03 rw-p 0 00:00 0\n";
        assert!(maps_mount(by_path, &mount, true, true));
        assert!(!maps_mount(by_path, &mount, false, true), "the path of another mount namespace");
        assert!(maps_mount(by_device, &mount, false, true));
        assert!(!maps_mount(by_device, &mount, true, false));
        assert!(!maps_mount(near_miss, &mount, true, true));
    }

    #[test]
    fn a_directory_that_is_no_mount_point_has_no_users_to_kill() {
        let problem = kill_users(Path::new("/usr/lib"), Duration::ZERO).unwrap_err();
        assert_eq!(problem.code, "not-mounted");
        assert_eq!(unmount(Path::new("/usr/lib"), Duration::ZERO, true), Ok(Unmounted::Before));
    }
}
