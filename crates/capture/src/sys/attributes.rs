//! What `statx` says of a file.

use crate::tree::{Device, Timestamp};
use rustix::{
    fd::AsFd,
    fs::{AtFlags, Statx, StatxFlags, StatxTimestamp, statx},
    io::Result,
};
use std::ffi::CStr;

/// Kind of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StatKind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
    Other,
}

/// The attributes that one system call gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stat {
    pub kind: StatKind,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub links: u32,
    pub inode: u64,
    pub device: u64,
    pub rdev: Device,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub atime: Timestamp,
    pub btime: Option<Timestamp>,
}

impl Stat {
    /// True if nothing happened to the file between the two.
    pub fn same_version(&self, other: &Self) -> bool {
        (self.device, self.inode, self.size, self.mtime, self.ctime)
            == (other.device, other.inode, other.size, other.mtime, other.ctime)
    }

    /// True if both are the same file.
    pub fn same_file(&self, other: &Self) -> bool {
        (self.device, self.inode, self.kind) == (other.device, other.inode, other.kind)
    }
}

fn time(time: StatxTimestamp) -> Timestamp {
    Timestamp { seconds: time.tv_sec, nanoseconds: time.tv_nsec.min(999_999_999) }
}

fn convert(stat: &Statx) -> Stat {
    let kind = match u32::from(stat.stx_mode) & libc::S_IFMT {
        libc::S_IFREG => StatKind::File,
        libc::S_IFDIR => StatKind::Directory,
        libc::S_IFLNK => StatKind::Symlink,
        libc::S_IFIFO => StatKind::Fifo,
        libc::S_IFSOCK => StatKind::Socket,
        libc::S_IFCHR => StatKind::CharDevice,
        libc::S_IFBLK => StatKind::BlockDevice,
        _ => StatKind::Other,
    };
    let has_btime = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
    Stat {
        kind,
        mode: stat.stx_mode & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        size: stat.stx_size,
        links: stat.stx_nlink,
        inode: stat.stx_ino,
        device: u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor),
        rdev: Device { major: stat.stx_rdev_major, minor: stat.stx_rdev_minor },
        mtime: time(stat.stx_mtime),
        ctime: time(stat.stx_ctime),
        atime: time(stat.stx_atime),
        btime: has_btime.then(|| time(stat.stx_btime)),
    }
}

const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// Of the file `name` in `directory`; of a link itself. Mounts nothing that waits to be mounted.
pub(crate) fn stat_at(directory: impl AsFd, name: &CStr) -> Result<Stat> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    statx(directory, name, flags, WANTED).map(|stat| convert(&stat))
}

/// Of an open file.
pub(crate) fn stat_fd(fd: impl AsFd) -> Result<Stat> {
    statx(fd, c"", AtFlags::EMPTY_PATH, WANTED).map(|stat| convert(&stat))
}
