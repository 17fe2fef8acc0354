//! A point of a volume, held for a backup, and its file system, mounted for nobody else.
//!
//! The mount is never attached to any directory: it exists as a descriptor of this process and goes with it, and
//! the volume's own mounts are not copied into another namespace, where they would keep the volume busy.

use super::{job::VolumeSubject, stop::Stop};
use anshin_base::Problem;
use anshin_device::control::{Client, PointStatus, Reply, Request};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};
use std::{
    fs::File,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    time::Duration,
};

/// The volume process answers within this; freezing a busy file system takes its time.
const PATIENCE: Duration = Duration::from_secs(120);
/// Attempts to get a point from a volume that is busy, and the pause between two.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_secs(3);
/// The side file: at least, and at most.
const LIMIT_MIN: u64 = 64 << 20;
const LIMIT_MAX: u64 = 64 << 30;
/// How often it is asked whether the point still holds.
const WATCH: Duration = Duration::from_secs(1);

/// An open point; dropping it closes it.
pub struct Held {
    /// Kept open: the point ends with the connection.
    client: Mutex<Client>,
    status: PointStatus,
    /// Ends the watching when dropped.
    _watch: Sender<()>,
}

/// A mounted file system.
pub struct Mounted {
    fd: OwnedFd,
}

impl Held {
    /// Opens a point. With a mounted file system it is held still for the instant. From here on `stop` is asked when the point
    /// breaks.
    ///
    /// # Errors
    /// Why there is none.
    pub fn open(volume: &VolumeSubject, var: &Path, stop: &Arc<Stop>) -> Result<Self, Problem> {
        let limit_bytes = limit(volume, var)?;
        let request = Request::PointOpen { limit_bytes, freeze: volume.mount.is_some() };
        for attempt in 1.. {
            stop.check()?;
            let mut client = Client::connect(&volume.control, Some(PATIENCE))?;
            match client.ask(request) {
                Ok(Reply::Point { point }) => {
                    let watch = watch(volume, &point, stop.clone())?;
                    return Ok(Self { client: Mutex::new(client), status: *point, _watch: watch });
                }
                Ok(other) => {
                    return Err(Problem::new("volume-protocol", format!("an unexpected answer: {other:?}")));
                }
                Err(problem) if problem.code == "point-busy" && attempt < ATTEMPTS => {
                    tracing::info!(%problem, "no point yet");
                    let _ = stop.sleep(PAUSE);
                }
                Err(problem) => return Err(problem),
            }
        }
        Err(Problem::new("point-busy", format!("no point of {}", volume.volume)))
    }

    /// What it is.
    pub fn status(&self) -> &PointStatus {
        &self.status
    }

    /// Whether it held until now: asked last, so that nothing is kept that was read after it broke.
    ///
    /// # Errors
    /// Why it broke.
    pub fn check(&self) -> Result<(), Problem> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        match client.ask(Request::PointStatus { point: self.status.point })? {
            Reply::Point { point } => point.broken.map_or(Ok(()), |why| Err(broken(&why))),
            other => Err(Problem::new("volume-protocol", format!("an unexpected answer: {other:?}"))),
        }
    }

    /// Its block device.
    ///
    /// # Errors
    /// If the volume process makes none.
    pub fn device(&self) -> Result<&Path, Problem> {
        self.status.device.as_deref().ok_or_else(|| {
            Problem::new("point-device", "the point has no block device")
                .hint("FUSE or loop devices cannot be used on this node; see the log of the volume process")
        })
    }

    /// Mounts its file system, read-only.
    ///
    /// # Errors
    /// If there is none, or one that cannot be mounted beside the original.
    pub fn mount(&self, volume: &VolumeSubject) -> Result<Mounted, Problem> {
        let device = self.device()?;
        let found = magic(device)?;
        let kind = volume.filesystem.as_deref().or(found).ok_or_else(|| {
            Problem::new("point-mount", format!("there is no known file system on volume {}", volume.volume))
                .hint("back it up as an image: `form = \"image\"`")
        })?;
        if kind == "btrfs" {
            let message =
                format!("volume {} has btrfs, of which two copies cannot be mounted at once", volume.volume);
            return Err(
                Problem::new("point-mount", message).hint("back it up as an image: `form = \"image\"`")
            );
        }
        let clean = self.status.frozen_ms.is_some();
        mount(kind, device, clean).map_err(|error| {
            let problem = Problem::new(
                "point-mount",
                format!("the {kind} of volume {} cannot be mounted from its point: {error}", volume.volume),
            );
            if clean {
                problem
            } else {
                problem.hint(
                    "it was not mounted and was not left clean; mount it once, or back it up as an image",
                )
            }
        })
    }
}

/// A quarter of the volume, and no more than a quarter of the node's free space.
fn limit(volume: &VolumeSubject, var: &Path) -> Result<u64, Problem> {
    let status = Client::connect(&volume.control, Some(PATIENCE))?.status()?;
    let space = rustix::fs::statvfs(var)
        .map_err(|error| Problem::new("point-space", format!("{}: {error}", var.display())))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    Ok((status.bytes / 4).clamp(LIMIT_MIN, LIMIT_MAX).min(free / 4))
}

/// Asks `stop` when the point breaks.
fn watch(volume: &VolumeSubject, point: &PointStatus, stop: Arc<Stop>) -> Result<Sender<()>, Problem> {
    let (sender, receiver) = channel::<()>();
    let (control, id) = (volume.control.clone(), point.point);
    let look = move || {
        while receiver.recv_timeout(WATCH) == Err(RecvTimeoutError::Timeout) {
            let status = Client::connect(&control, Some(PATIENCE))
                .and_then(|mut client| client.ask(Request::PointStatus { point: id }));
            let broken = match status {
                Ok(Reply::Point { point }) => point.broken.map(|why| broken(&why)),
                Ok(_) => None,
                Err(problem) => Some(problem),
            };
            if let Some(problem) = broken {
                return stop.ask(problem);
            }
        }
    };
    let thread = std::thread::Builder::new().name("point".into()).spawn(look);
    thread.map_err(|error| Problem::new("backup-start", error.to_string()))?;
    Ok(sender)
}

fn broken(why: &str) -> Problem {
    Problem::new("point-broken", format!("the point of the volume broke: {why}"))
        .hint("back it up at a quieter time, or give the node more free space")
}

/// The file system on a device, by its magic number.
fn magic(device: &Path) -> Result<Option<&'static str>, Problem> {
    let failed = |error: std::io::Error| {
        Problem::new("point-mount", format!("cannot read {}: {error}", device.display()))
    };
    let file = File::open(device).map_err(failed)?;
    let mut head = vec![0; 68 << 10];
    file.read_exact_at(&mut head, 0).map_err(failed)?;
    Ok(match () {
        () if head[0x438..0x43a] == [0x53, 0xef] => Some("ext4"),
        () if head.starts_with(b"XFSB") => Some("xfs"),
        () if head[0x1_0040..0x1_0048] == *b"_BHRfS_M" => Some("btrfs"),
        () => None,
    })
}

/// A clean copy needs no journal, and must not be taken for the original that is mounted as well.
fn mount(kind: &str, device: &Path, clean: bool) -> rustix::io::Result<Mounted> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", device)?;
    fsconfig_set_flag(&context, "ro")?;
    let flags: &[&str] = match (kind, clean) {
        ("ext4" | "ext3", true) => &["noload"],
        ("xfs", true) => &["norecovery", "nouuid"],
        ("xfs", false) => &["nouuid"],
        _ => &[],
    };
    for flag in flags {
        fsconfig_set_flag(&context, *flag)?;
    }
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let fd = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    Ok(Mounted { fd })
}

impl Mounted {
    /// A path by which this process reaches it.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}/.", self.fd.as_raw_fd()).into()
    }
}
