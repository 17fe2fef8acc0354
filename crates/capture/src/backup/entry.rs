//! From an open file or a handle to an entry without contents.

use crate::{
    monitor::Monitor,
    report::IssueKind,
    sys::{OwnerNames, Stat, StatKind, XattrTarget, get_flags, list_xattrs},
    tree::{Attributes, EntryKind, TARGET_MAX, Xattrs, seal_xattrs},
};
use anshin_vault::{Sink, VaultError};
use rustix::{fd::OwnedFd, fs::readlinkat_raw, io::Errno};

/// What every entry takes from `statx`.
pub(crate) fn attributes_of(stat: &Stat, owners: &OwnerNames, access_times: bool) -> Attributes {
    Attributes {
        mode: stat.mode,
        owner: owners.get(stat.uid, stat.gid),
        mtime: stat.mtime,
        ctime: Some(stat.ctime),
        btime: stat.btime,
        atime: access_times.then_some(stat.atime),
        ..Attributes::default()
    }
}

/// The extended attributes, and whether these are all; what cannot be read is reported.
pub(crate) fn xattrs_of(
    sink: &dyn Sink,
    target: &XattrTarget<'_>,
    monitor: &Monitor,
    path: &dyn Fn() -> Vec<u8>,
) -> Result<(Xattrs, bool), VaultError> {
    match list_xattrs(target) {
        Ok((list, failed)) => {
            let whole = failed.is_empty();
            for (name, error) in failed {
                let message = format!("attribute {} cannot be read: {error}", name.escape_ascii());
                monitor.issue(IssueKind::AttributeUnread, path(), message);
            }
            Ok((seal_xattrs(sink, list)?, whole))
        }
        Err(error) => {
            let message = format!("extended attributes cannot be read: {error}");
            monitor.issue(IssueKind::AttributeUnread, path(), message);
            Ok((Xattrs::default(), false))
        }
    }
}

/// Flags and project of an open file or directory; None, which is reported, if they cannot be read.
pub(crate) fn flags_of(fd: &OwnedFd, monitor: &Monitor, path: &dyn Fn() -> Vec<u8>) -> Option<(u32, u32)> {
    let report = |error| {
        monitor.issue(IssueKind::AttributeUnread, path(), format!("flags cannot be read: {error}"));
    };
    get_flags(fd).map_err(report).ok()
}

/// What a handle (`O_PATH`) of anything but a file or directory names. None for kinds that Linux does not have.
pub(crate) fn entry_of_handle(handle: &OwnedFd, stat: &Stat) -> Result<Option<EntryKind>, Errno> {
    Ok(Some(match stat.kind {
        StatKind::Symlink => {
            let mut buffer = vec![0u8; TARGET_MAX];
            let length = readlinkat_raw(handle, c"", &mut buffer[..])?;
            EntryKind::Symlink(buffer[..length].into())
        }
        StatKind::Fifo => EntryKind::Fifo,
        StatKind::Socket => EntryKind::Socket,
        StatKind::CharDevice => EntryKind::CharDevice(stat.rdev),
        StatKind::BlockDevice => EntryKind::BlockDevice(stat.rdev),
        StatKind::File | StatKind::Directory | StatKind::Other => return Ok(None),
    }))
}
