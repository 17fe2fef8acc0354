//! Holding the file system on a volume still for the instant of a point, so that the point is clean: no journal to replay.
//!
//! The volume process does it, because a file system whose volume process is dead is dead anyway: nobody else's death can leave
//! it frozen. It happens in a helper thread, which thaws after [`FROZEN_MAX`] whatever the engine does meanwhile.

use anshin_base::Problem;
use rustix::fs::{Mode, OFlags};
use std::{
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::mpsc::Receiver,
    time::{Duration, Instant},
};

/// No file system stays frozen longer.
pub const FROZEN_MAX: Duration = Duration::from_secs(5);
/// `FIFREEZE` and `FITHAW` of linux/fs.h.
const FIFREEZE: libc::c_ulong = 0xc004_5877;
const FITHAW: libc::c_ulong = 0xc004_5878;

/// A frozen file system; dropping it thaws.
pub struct Frozen {
    mount: OwnedFd,
    since: Instant,
    thawed: bool,
}

/// Where the block device with this path (`/dev/loopN`) is mounted, as this process sees it.
#[must_use]
pub fn mount_of(device: &Path) -> Option<PathBuf> {
    let found = rustix::fs::stat(device).ok()?;
    let numbers = format!("{}:{}", rustix::fs::major(found.st_rdev), rustix::fs::minor(found.st_rdev));
    let table = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    find_mount(&table, &numbers, device)
}

/// By device number, or by the source's name for file systems with numbers of their own (btrfs).
fn find_mount(table: &str, numbers: &str, device: &Path) -> Option<PathBuf> {
    table.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (number, place) = (words.nth(2)?, words.nth(1)?);
        let source = words.skip_while(|word| *word != "-").nth(2)?;
        let ours = number == numbers
            || (number.starts_with("0:")
                && std::fs::canonicalize(unescape(source)).is_ok_and(|path| path == device));
        ours.then(|| unescape(place))
    })
}

/// `\040` and the like.
fn unescape(text: &str) -> PathBuf {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                out.push(char::from(code));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out.into()
}

impl Frozen {
    /// Freezes what is mounted at `mount`. Writes out what is dirty first without holding anyone.
    ///
    /// # Errors
    /// `point-freeze`: the file system cannot be frozen, or already is.
    pub fn freeze(mount: &Path) -> Result<Self, Problem> {
        let fail = |error: std::io::Error| {
            let message = format!("the file system at {} cannot be held still: {error}", mount.display());
            Problem::new("point-freeze", message)
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(mount, flags, Mode::empty()).map_err(|error| fail(error.into()))?;
        rustix::fs::syncfs(&fd).map_err(|error| fail(error.into()))?;
        let since = Instant::now();
        call(&fd, FIFREEZE).map_err(fail)?;
        Ok(Self { mount: fd, since, thawed: false })
    }

    /// Waits until told, at most until [`FROZEN_MAX`], and thaws. Gives how long it was frozen, None if nobody told in time.
    #[must_use]
    pub fn thaw_when_told(mut self, told: &Receiver<()>) -> Option<Duration> {
        let left = FROZEN_MAX.saturating_sub(self.since.elapsed());
        let in_time = told.recv_timeout(left).is_ok();
        self.thaw();
        in_time.then(|| self.since.elapsed())
    }

    fn thaw(&mut self) {
        if !std::mem::replace(&mut self.thawed, true)
            && let Err(error) = call(&self.mount, FITHAW)
        {
            tracing::error!(%error, "cannot thaw the file system");
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.thaw();
    }
}

fn call(fd: &OwnedFd, request: libc::c_ulong) -> std::io::Result<()> {
    // SAFETY: both requests ignore their argument.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, 0) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_the_number_of_its_device() {
        let table = "\
            22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
            90 22 7:3 / /srv/my\\040data rw,relatime - ext4 /dev/anshin/data rw\n";
        let device = Path::new("/dev/loop3");
        assert_eq!(find_mount(table, "7:3", device), Some("/srv/my data".into()));
        assert_eq!(find_mount(table, "7:4", device), None);
    }

    #[test]
    fn escapes_of_the_mount_table_are_undone() {
        assert_eq!(unescape("/a\\134b\\x"), PathBuf::from("/a\\b\\x"));
    }
}
