//! A block device from the FUSE file: a private mount, and a loop device in direct I/O on the file in it (R17).
//!
//! Everything here blocks, and causes FUSE requests that the engine must answer meanwhile: it runs in helper threads only.
//! What is made is recorded first, with a random mark that the loop device carries as its file name: loop numbers are
//! shared by all namespaces of a machine, so a record alone does not prove that the device is ours.

use super::fuse::abi::FILE_NAME;
use anshin_base::Problem;
use rustix::{
    fs::{Mode, OFlags},
    mount::{MountFlags, UnmountFlags},
};
use std::{
    ffi::{CString, OsStr},
    fs,
    io::{self, ErrorKind},
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4c82;
const LOOP_CONFIGURE: libc::c_ulong = 0x4c0a;
const LOOP_CLR_FD: libc::c_ulong = 0x4c01;
const LOOP_GET_STATUS64: libc::c_ulong = 0x4c05;
const LOOP_SET_STATUS64: libc::c_ulong = 0x4c04;
const LO_FLAGS_READ_ONLY: u32 = 1;
/// The device is detached when its last user closes it.
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;
/// What every mark starts with.
const MARK: &str = "anshin:";
const LOOP_MAJOR: u32 = 7;
/// Another process may take the free device first; that often is not bad luck.
const ATTEMPTS: u32 = 16;
/// What becomes of a device that cannot be detached because something has it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// It stays as it was: its replica is still primary.
    Stays,
    /// It has lost its name, and goes when its last user closes it: it is not this node's to serve any more.
    Goes,
}

/// How often, and how many times, a detached device is looked at until it is really free.
const DETACH_STEP: Duration = Duration::from_millis(20);
const DETACH_STEPS: u32 = 250;

/// struct loop_info64 of include/uapi/linux/loop.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// struct loop_config.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopInfo>() == 232 && size_of::<LoopConfig>() == 304);

/// Where things of one volume's device are.
#[derive(Clone, Debug)]
pub struct Places {
    /// The mount point, `<run>/fuse-NAME`.
    pub mount: PathBuf,
    /// The record of the loop device, `<run>/loop-NAME`.
    pub record: PathBuf,
    /// What users open, `/dev/anshin/NAME`.
    pub device: PathBuf,
    /// The volume's name.
    pub name: String,
    /// Whether the device is a point's.
    pub read_only: bool,
}

/// The file that records a loop device: its path and its mark.
struct Record {
    device: PathBuf,
    mark: String,
}

fn problem(what: &str, error: impl std::fmt::Display) -> Problem {
    Problem::new("device-setup", format!("{what}: {error}"))
}

impl Places {
    /// The usual places.
    #[must_use]
    pub fn new(run: &Path, devices: &Path, name: &str) -> Self {
        Self {
            mount: run.join(format!("fuse-{name}")),
            record: run.join(format!("loop-{name}")),
            device: devices.join(name),
            name: name.into(),
            read_only: false,
        }
    }

    /// Those of a point: `@`, which no volume's name has, and its number follow the name.
    #[must_use]
    pub fn of_point(run: &Path, devices: &Path, name: &str, point: u64) -> Self {
        Self { read_only: true, ..Self::new(run, devices, &format!("{name}@{point}")) }
    }

    /// Removes what points of an earlier process left behind.
    pub fn clean_up_points(run: &Path, devices: &Path, name: &str) {
        let prefix = format!("fuse-{name}@");
        for entry in fs::read_dir(run).into_iter().flatten().flatten() {
            let file = entry.file_name();
            let number = file.to_str().and_then(|file| file.strip_prefix(&prefix)?.parse().ok());
            if let Some(number) = number {
                Self::of_point(run, devices, name, number).clean_up();
            }
        }
    }

    /// Mounts the FUSE file system whose device is `fuse`. The engine must answer its requests from here on.
    ///
    /// # Errors
    /// If it cannot be mounted.
    pub fn mount(&self, fuse: BorrowedFd<'_>) -> Result<(), Problem> {
        fs::create_dir_all(&self.mount).map_err(|error| problem("cannot make the mount point", error))?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", fuse.as_raw_fd());
        let options = CString::new(options).expect("invariant: digits and words");
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount("anshin", &self.mount, "fuse", flags, options.as_c_str())
            .map_err(|error| problem("cannot mount the volume's FUSE file", error))
    }

    /// Makes the loop device and its name. Returns the loop device's path.
    ///
    /// # Errors
    /// If it cannot be made, or would not use direct I/O; everything is undone then, but for the mount.
    pub fn attach(&self, block_bytes: u32) -> Result<PathBuf, Problem> {
        let path = self.mount.join(OsStr::from_bytes(FILE_NAME));
        let access = if self.read_only { OFlags::RDONLY } else { OFlags::RDWR };
        let flags = access | OFlags::CLOEXEC | OFlags::DIRECT;
        let file = rustix::fs::open(&path, flags, Mode::empty())
            .map_err(|error| problem("cannot open the volume's file", error))?;
        let mut last = io::Error::from(ErrorKind::NotFound);
        for _ in 0..ATTEMPTS {
            match self.configure(&file, block_bytes) {
                Ok(device) => {
                    return self.name_device(&device).inspect_err(|_| self.undo()).map(|()| device);
                }
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => last = error,
                Err(error) => {
                    self.undo();
                    return Err(problem("cannot set up the loop device", error));
                }
            }
        }
        self.undo();
        Err(problem("no free loop device could be had", last))
    }

    fn undo(&self) {
        if let Err(error) = self.detach(Busy::Goes) {
            tracing::warn!(%error, "cannot detach the loop device");
        }
    }

    fn configure(&self, file: &OwnedFd, block_bytes: u32) -> io::Result<PathBuf> {
        let control = fs::File::options().read(true).write(true).open("/dev/loop-control")?;
        let number = ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE, std::ptr::null_mut())?;
        let device = PathBuf::from(format!("/dev/loop{number}"));
        make_node(&device, number)?;
        let handle =
            fs::File::options().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(&device)?;
        let mark = format!("{MARK}{:016x}", random());
        fs::write(&self.record, format!("{}\n{mark}\n", device.display()))?;
        // SAFETY: plain integers and arrays; all-zero is what the interface asks for in unused fields.
        let mut config: LoopConfig = unsafe { std::mem::zeroed() };
        config.fd = file.as_raw_fd().cast_unsigned();
        config.block_size = block_bytes;
        config.info.flags = LO_FLAGS_DIRECT_IO | if self.read_only { LO_FLAGS_READ_ONLY } else { 0 };
        config.info.file_name[..mark.len()].copy_from_slice(mark.as_bytes());
        ioctl(handle.as_raw_fd(), LOOP_CONFIGURE, (&raw mut config).cast())?;
        if status(&handle)?.flags & LO_FLAGS_DIRECT_IO == 0 {
            return Err(io::Error::other("the loop device does not use direct I/O"));
        }
        Ok(device)
    }

    fn name_device(&self, device: &Path) -> Result<(), Problem> {
        let parent = self.device.parent().unwrap_or(Path::new("/"));
        let named = fs::create_dir_all(parent).and_then(|()| {
            let _ = fs::remove_file(&self.device);
            std::os::unix::fs::symlink(device, &self.device)
        });
        named.map_err(|error| problem(&format!("cannot make {}", self.device.display()), error))
    }

    fn record(&self) -> Option<Record> {
        let text = fs::read_to_string(&self.record).ok()?;
        let mut lines = text.lines();
        Some(Record { device: lines.next()?.into(), mark: lines.next()?.into() })
    }

    /// Refuses while something uses the device: a mount, or a program that claimed it.
    ///
    /// # Errors
    /// `device-busy`.
    pub fn check_unused(&self) -> Result<(), Problem> {
        let Some(record) = self.record() else { return Ok(()) };
        let mut exclusive = fs::File::options();
        exclusive.read(true).custom_flags(libc::O_EXCL | libc::O_CLOEXEC);
        match exclusive.open(&record.device) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                let message = format!("{} is still in use", self.device.display());
                Err(Problem::new("device-busy", message)
                    .hint("unmount what is mounted from it, then try again"))
            }
            _ => Ok(()),
        }
    }

    /// Detaches the recorded loop device, if it is still ours, and removes the names. Idempotent.
    ///
    /// # Errors
    /// `device-busy` if something still has it open; it detaches by itself when that closes it.
    pub fn detach(&self, busy: Busy) -> Result<(), Problem> {
        let _ = fs::remove_file(&self.device);
        let Some(record) = self.record() else { return Ok(()) };
        for step in 0..DETACH_STEPS {
            let ours = match fs::File::options().read(true).write(true).open(&record.device) {
                Ok(handle) if is_ours(&handle, &record.mark) => {
                    if step == 0 {
                        let _ = ioctl(handle.as_raw_fd(), LOOP_CLR_FD, std::ptr::null_mut());
                    }
                    true
                }
                _ => false,
            };
            if !ours {
                let _ = fs::remove_file(&self.record);
                return Ok(());
            }
            std::thread::sleep(DETACH_STEP);
        }
        let message = format!("{} is still in use and could not be detached", record.device.display());
        let problem = Problem::new("device-busy", message);
        let goes = "it detaches when its last user closes it";
        if busy == Busy::Goes {
            return Err(problem.hint(goes));
        }
        match self.keep_attached(&record) {
            Ok(()) => Err(problem.hint("close what has it open (`fuser -v` names it), then try again")),
            Err(why) => {
                tracing::warn!(device = %record.device.display(), %why, "the device goes when its last user closes it");
                Err(problem.hint(goes))
            }
        }
    }

    /// Takes back what [`Self::detach`] began: the device keeps its file and its name.
    fn keep_attached(&self, record: &Record) -> io::Result<()> {
        let handle = fs::File::options().read(true).write(true).open(&record.device)?;
        let mut info = status(&handle)?;
        if !is_ours(&handle, &record.mark) {
            return Err(ErrorKind::NotFound.into());
        }
        info.flags &= !LO_FLAGS_AUTOCLEAR;
        ioctl(handle.as_raw_fd(), LOOP_SET_STATUS64, (&raw mut info).cast())?;
        self.name_device(&record.device).map_err(|problem| io::Error::other(problem.message))
    }

    /// The recorded loop device.
    #[must_use]
    pub fn node(&self) -> Option<PathBuf> {
        self.record().map(|record| record.device)
    }

    /// Removes what an earlier process left behind. Its FUSE connection died with it, so its device gives errors only; if
    /// something is still mounted from it, it is told to detach when that ends.
    pub fn clean_up(&self) {
        if self.check_unused().is_ok() {
            if let Err(error) = self.detach(Busy::Goes) {
                tracing::warn!(%error, "an earlier device is left");
            }
        } else if let Some(record) = self.record() {
            tracing::warn!(device = %record.device.display(), "an earlier device is still in use and gives errors only");
            if let Ok(handle) = fs::File::options().read(true).write(true).open(&record.device)
                && is_ours(&handle, &record.mark)
            {
                let _ = ioctl(handle.as_raw_fd(), LOOP_CLR_FD, std::ptr::null_mut());
            }
            let _ = fs::remove_file(&self.device);
        }
        self.unmount();
    }

    /// Unmounts the FUSE file system. Idempotent.
    pub fn unmount(&self) {
        while rustix::mount::unmount(&self.mount, UnmountFlags::DETACH).is_ok() {}
        let _ = fs::remove_dir(&self.mount);
    }
}

/// Nothing of anshin's own state may live on an anshin volume (R17): refuses a path that does.
///
/// # Errors
/// `state-on-volume`.
pub fn refuse_own_volume(path: &Path) -> Result<(), Problem> {
    let Ok(found) = rustix::fs::stat(path) else { return Ok(()) };
    let (major, minor) = (rustix::fs::major(found.st_dev), rustix::fs::minor(found.st_dev));
    if major != LOOP_MAJOR {
        return Ok(());
    }
    let name = fs::read_link(format!("/sys/dev/block/{major}:{minor}")).unwrap_or_default();
    let device = Path::new("/dev").join(name.file_name().unwrap_or_default());
    match fs::File::open(device) {
        Ok(handle) if is_ours(&handle, MARK) => {
            let message = format!("{} lies on a volume of anshin", path.display());
            Err(Problem::refused("state-on-volume", message)
                .hint("a volume that needs itself to work stops for ever when memory is full; use another file system"))
        }
        _ => Ok(()),
    }
}

fn is_ours(handle: &fs::File, mark: &str) -> bool {
    status(handle).is_ok_and(|info| info.file_name.starts_with(mark.as_bytes()))
}

fn status(handle: &fs::File) -> io::Result<LoopInfo> {
    // SAFETY: plain integers and arrays.
    let mut info: LoopInfo = unsafe { std::mem::zeroed() };
    ioctl(handle.as_raw_fd(), LOOP_GET_STATUS64, (&raw mut info).cast())?;
    Ok(info)
}

fn ioctl(fd: RawFd, request: libc::c_ulong, argument: *mut libc::c_void) -> io::Result<u32> {
    // SAFETY: callers pass the structure that the request documents, alive during the call, or null where none is used.
    let result = unsafe { libc::ioctl(fd, request, argument) };
    u32::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// A node's private /dev may lack the numbers that were made after it was filled.
fn make_node(device: &Path, number: u32) -> io::Result<()> {
    if device.exists() {
        return Ok(());
    }
    let numbers = fs::read_to_string(format!("/sys/block/loop{number}/dev")).unwrap_or_default();
    let minor = numbers.trim().strip_prefix("7:").and_then(|minor| minor.parse().ok()).unwrap_or(number);
    let mode = Mode::RUSR | Mode::WUSR;
    let kind = rustix::fs::FileType::BlockDevice;
    match rustix::fs::mknodat(rustix::fs::CWD, device, kind, mode, rustix::fs::makedev(LOOP_MAJOR, minor)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()))
}
