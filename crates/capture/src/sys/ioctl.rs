//! Flags and quota project of a file.

#![allow(unsafe_code)]

use rustix::{
    fd::AsFd,
    fs::{IFlags, ioctl_getflags, ioctl_setflags},
    io::{Errno, Result},
    ioctl::{self, Getter, Opcode, Setter, opcode},
};

/// Flags that a user can set (`chattr`); the rest say how the file system stores the file.
const SETTABLE: u32 = 0x0000_0001 // secure deletion
    | 0x0000_0002 // undeletable
    | 0x0000_0004 // compressed
    | 0x0000_0008 // synchronous
    | 0x0000_0010 // immutable
    | 0x0000_0020 // append only
    | 0x0000_0040 // no dump
    | 0x0000_0080 // no access times
    | 0x0000_0400 // not compressed
    | 0x0000_4000 // data journalled
    | 0x0000_8000 // no tail merging
    | 0x0001_0000 // synchronous directory
    | 0x0002_0000 // top of a hierarchy
    | 0x0080_0000 // no copy on write
    | 0x0200_0000 // direct access
    | 0x2000_0000 // project inherited
    | 0x4000_0000; // names without case

/// `FS_IOC_GETFLAGS` and what follows from it.
pub(crate) struct Flags;

impl Flags {
    pub const IMMUTABLE: u32 = 0x10;
    pub const APPEND: u32 = 0x20;
    pub const NODUMP: u32 = 0x40;
    /// Must be set before the file has contents.
    pub const BEFORE_CONTENT: u32 = 0x4 | 0x400 | 0x0080_0000 | 0x0200_0000 | 0x4000_0000;
    /// Nothing can be changed any more once one of these is set.
    pub const LOCKING: u32 = Self::IMMUTABLE | Self::APPEND;
}

/// `struct fsxattr` of `linux/fs.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Fsxattr {
    xflags: u32,
    extsize: u32,
    nextents: u32,
    projid: u32,
    cowextsize: u32,
    pad: [u8; 8],
}

const GET: Opcode = opcode::read::<Fsxattr>(b'X', 31);
const SET: Opcode = opcode::write::<Fsxattr>(b'X', 32);

fn fsxattr(fd: impl AsFd) -> Result<Fsxattr> {
    // SAFETY: FS_IOC_FSGETXATTR writes one `struct fsxattr`, whose layout `Fsxattr` has.
    unsafe { ioctl::ioctl(fd, Getter::<GET, Fsxattr>::new()) }
}

fn unsupported(error: Errno) -> bool {
    matches!(error, Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS)
}

/// The settable flags and the project of an open file or directory; 0 where the file system has none.
pub(crate) fn get_flags(fd: impl AsFd) -> Result<(u32, u32)> {
    let flags = match ioctl_getflags(&fd) {
        Ok(flags) => flags.bits() & SETTABLE,
        Err(error) if unsupported(error) => return Ok((0, 0)),
        Err(error) => return Err(error),
    };
    let project = match fsxattr(&fd) {
        Ok(extended) => extended.projid,
        Err(error) if unsupported(error) => 0,
        Err(error) => return Err(error),
    };
    Ok((flags, project))
}

/// Gives an open file these settable flags; what it has of others stays.
pub(crate) fn set_flags(fd: impl AsFd, flags: u32) -> Result<()> {
    let now = ioctl_getflags(&fd)?.bits();
    let wanted = now & !SETTABLE | flags & SETTABLE;
    if wanted == now { Ok(()) } else { ioctl_setflags(&fd, IFlags::from_bits_retain(wanted)) }
}

/// Puts an open file into a quota project.
pub(crate) fn set_project(fd: impl AsFd, project: u32) -> Result<()> {
    let mut extended = fsxattr(&fd)?;
    if extended.projid == project {
        return Ok(());
    }
    extended.projid = project;
    // SAFETY: FS_IOC_FSSETXATTR reads one `struct fsxattr`, whose layout `Fsxattr` has.
    unsafe { ioctl::ioctl(fd, Setter::<SET, Fsxattr>::new(extended)) }
}
