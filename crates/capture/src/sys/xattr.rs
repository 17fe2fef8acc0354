//! Extended attributes of a file that is open, or only named by a handle.

use crate::tree::{XATTR_VALUE_MAX, Xattr};
use rustix::{
    fd::{AsFd, AsRawFd, BorrowedFd},
    fs::{
        XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr, getxattr, listxattr, removexattr,
        setxattr,
    },
    io::{Errno, Result},
};
use std::ffi::{CStr, CString};

/// Most bytes of names that the kernel lists.
const LIST_MAX: usize = 65_536;

/// How to reach the attributes of a file. Links, devices, sockets and pipes are never opened for reading or writing: a
/// handle (`O_PATH`) names them, and the kernel takes attributes of it only through `/proc`.
pub(crate) enum XattrTarget<'f> {
    Open(BorrowedFd<'f>),
    Handle(CString),
}

impl<'f> XattrTarget<'f> {
    pub fn open(fd: &'f impl AsFd) -> Self {
        Self::Open(fd.as_fd())
    }

    pub fn handle(fd: &impl AsFd) -> Self {
        let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
        Self::Handle(CString::new(path).expect("invariant: a number has no zero byte"))
    }

    fn list(&self, buffer: &mut [u8]) -> Result<usize> {
        match self {
            Self::Open(fd) => flistxattr(fd, buffer),
            Self::Handle(path) => listxattr(path.as_c_str(), buffer),
        }
    }

    fn get(&self, name: &CStr, buffer: &mut [u8]) -> Result<usize> {
        match self {
            Self::Open(fd) => fgetxattr(fd, name, buffer),
            Self::Handle(path) => getxattr(path.as_c_str(), name, buffer),
        }
    }

    pub fn set(&self, name: &CStr, value: &[u8]) -> Result<()> {
        match self {
            Self::Open(fd) => fsetxattr(fd, name, value, XattrFlags::empty()),
            Self::Handle(path) => setxattr(path.as_c_str(), name, value, XattrFlags::empty()),
        }
    }

    pub fn remove(&self, name: &CStr) -> Result<()> {
        match self {
            Self::Open(fd) => fremovexattr(fd, name),
            Self::Handle(path) => removexattr(path.as_c_str(), name),
        }
    }
}

/// Attributes, and the names of those whose value could not be read.
pub(crate) type Listed = (Vec<Xattr>, Vec<(Box<[u8]>, Errno)>);

/// Every attribute that can be listed, with its value; none where the file system has none. Gives also the names of
/// those whose value could not be read.
pub(crate) fn list_xattrs(target: &XattrTarget<'_>) -> Result<Listed> {
    let mut small = [0u8; 512];
    let mut large = Vec::new();
    let names: &[u8] = match target.list(&mut small) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok((Vec::new(), Vec::new())),
        Ok(length) => &small[..length],
        Err(Errno::RANGE) => {
            large.resize(LIST_MAX, 0);
            let length = target.list(&mut large)?;
            &large[..length]
        }
        Err(error) => return Err(error),
    };
    let (mut list, mut failed) = (Vec::new(), Vec::new());
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        match value(target, name) {
            Ok(Some(value)) => list.push(Xattr { name: name.to_bytes().into(), value }),
            Ok(None) => {}
            Err(error) => failed.push((name.to_bytes().into(), error)),
        }
    }
    Ok((list, failed))
}

/// None if the attribute went away meanwhile.
fn value(target: &XattrTarget<'_>, name: &CStr) -> Result<Option<Box<[u8]>>> {
    let mut small = [0u8; 1024];
    match target.get(name, &mut small) {
        Ok(length) => Ok(Some(small[..length].into())),
        Err(Errno::NODATA) => Ok(None),
        Err(Errno::RANGE) => {
            let mut large = vec![0u8; XATTR_VALUE_MAX];
            let length = target.get(name, &mut large)?;
            large.truncate(length);
            Ok(Some(large.into()))
        }
        Err(error) => Err(error),
    }
}
