//! Giving a file its attributes, in the order in which none undoes another.

use super::{Owners, RestoreOptions};
use crate::{
    error::CaptureError,
    monitor::Monitor,
    report::IssueKind,
    sys::{
        Flags, XattrTarget, get_flags, group_number, list_xattrs, set_flags, set_project, stat_fd,
        user_number,
    },
    tree::{Attributes, Nodes, Owner, read_xattrs},
};
use rustix::{
    fd::{AsRawFd, OwnedFd},
    fs::{
        AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, chmod, chownat, fchmod, fchown, futimens,
        utimensat,
    },
    io::{Errno, Result},
};
use std::{
    collections::HashMap,
    ffi::CString,
    sync::{Arc, PoisonError, RwLock},
};

/// How a restored file is reached.
#[derive(Clone, Copy)]
pub(crate) enum Reached<'f> {
    /// Open for reading or writing: files and directories.
    Open(&'f OwnedFd),
    /// Only named by a handle: what must not be opened.
    Handle(&'f OwnedFd),
    /// A handle of a symbolic link, which has no mode.
    Link(&'f OwnedFd),
}

impl<'f> Reached<'f> {
    fn fd(self) -> &'f OwnedFd {
        match self {
            Self::Open(fd) | Self::Handle(fd) | Self::Link(fd) => fd,
        }
    }

    fn xattrs(self) -> XattrTarget<'f> {
        match self {
            Self::Open(fd) => XattrTarget::open(fd),
            Self::Handle(fd) | Self::Link(fd) => XattrTarget::handle(fd),
        }
    }

    fn chown(self, uid: u32, gid: u32) -> Result<()> {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        match self {
            Self::Open(fd) => fchown(fd, uid, gid),
            Self::Handle(fd) | Self::Link(fd) => chownat(fd, c"", uid, gid, AtFlags::EMPTY_PATH),
        }
    }

    fn chmod(self, mode: u16) -> Result<()> {
        let mode = Mode::from_raw_mode(u32::from(mode));
        match self {
            Self::Open(fd) => fchmod(fd, mode),
            Self::Handle(fd) => chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), mode),
            Self::Link(_) => Ok(()),
        }
    }

    fn set_times(self, attributes: &Attributes) -> Result<()> {
        let mtime = attributes.mtime;
        let last_access = match attributes.atime {
            Some(atime) => Timespec { tv_sec: atime.seconds, tv_nsec: atime.nanoseconds.into() },
            None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        };
        let last_modification = Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() };
        let times = Timestamps { last_access, last_modification };
        match self {
            Self::Open(fd) => futimens(fd, &times),
            Self::Handle(fd) | Self::Link(fd) => utimensat(fd, c"", &times, AtFlags::EMPTY_PATH),
        }
    }
}

/// Whom files are given to, remembered by owner.
#[derive(Default)]
pub(crate) struct OwnerMap {
    known: RwLock<HashMap<Arc<Owner>, (u32, u32)>>,
}

impl OwnerMap {
    /// Numbers on this machine; none if the files stay with whoever restores.
    fn numbers(&self, owner: &Arc<Owner>, how: Owners) -> Option<(u32, u32)> {
        match how {
            Owners::Numbers => return Some((owner.uid, owner.gid)),
            Owners::Caller => return None,
            Owners::Names => {}
        }
        if let Some(known) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(owner) {
            return Some(*known);
        }
        let uid = owner.user.as_deref().and_then(user_number).unwrap_or(owner.uid);
        let gid = owner.group.as_deref().and_then(group_number).unwrap_or(owner.gid);
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(owner.clone(), (uid, gid));
        Some((uid, gid))
    }
}

/// What is needed to apply attributes.
pub(crate) struct Applier<'a> {
    pub nodes: &'a Nodes<'a>,
    pub owners: &'a OwnerMap,
    pub options: &'a RestoreOptions<'a>,
    pub monitor: &'a Monitor,
}

impl Applier<'_> {
    /// Gives a file all its attributes but the flags in `defer`. What cannot be given is reported.
    ///
    /// # Errors
    /// Only if the vault cannot be read.
    pub fn apply(
        &self,
        reached: Reached<'_>,
        attributes: &Attributes,
        defer: u32,
        path: &dyn Fn() -> Vec<u8>,
    ) -> std::result::Result<(), CaptureError> {
        let failed = |what: &str, error: Errno| {
            self.monitor.issue(IssueKind::AttributeNotRestored, path(), format!("{what}: {error}"));
        };
        let owned = self.owner(reached, attributes, &failed);
        // Set-user-id means nothing good with another owner.
        let mode = if owned { attributes.mode } else { attributes.mode & 0o1777 };
        if mode != attributes.mode {
            failed("set-user-id and set-group-id are left out because the owner is another", Errno::PERM);
        }
        if let Err(error) = reached.chmod(mode) {
            failed("mode", error);
        }
        self.xattrs(reached, attributes, &failed)?;
        if attributes.project != 0
            && let Reached::Open(fd) = reached
            && let Err(error) = set_project(fd, attributes.project)
        {
            failed("quota project", error);
        }
        if let Err(error) = reached.set_times(attributes) {
            failed("time of change", error);
        }
        if let Reached::Open(fd) = reached {
            let flags = attributes.flags & !defer;
            match get_flags(fd) {
                Ok((now, _)) if now == flags => {}
                Ok(_) => set_flags(fd, flags).unwrap_or_else(|error| failed("flags", error)),
                Err(error) => failed("flags", error),
            }
        }
        Ok(())
    }

    /// False if the file belongs to somebody else than it should.
    fn owner(&self, reached: Reached<'_>, attributes: &Attributes, failed: &dyn Fn(&str, Errno)) -> bool {
        let Ok(now) = stat_fd(reached.fd()) else { return false };
        let Some((uid, gid)) = self.owners.numbers(&attributes.owner, self.options.owners) else {
            return (now.uid, now.gid) == (attributes.owner.uid, attributes.owner.gid)
                || attributes.mode & 0o6000 == 0;
        };
        if (now.uid, now.gid) == (uid, gid) {
            return true;
        }
        match reached.chown(uid, gid) {
            Ok(()) => true,
            Err(error) => {
                failed(&format!("owner {uid}:{gid}"), error);
                attributes.mode & 0o6000 == 0
            }
        }
    }

    fn xattrs(
        &self,
        reached: Reached<'_>,
        attributes: &Attributes,
        failed: &dyn Fn(&str, Errno),
    ) -> std::result::Result<(), CaptureError> {
        let target = reached.xattrs();
        let (now, _) = list_xattrs(&target).unwrap_or_default();
        if now.is_empty() && attributes.xattrs.is_empty() {
            return Ok(());
        }
        let wanted = match read_xattrs(self.nodes, &attributes.xattrs) {
            Ok(wanted) => wanted,
            Err(error) => {
                let message = format!("extended attributes: {}", super::engine::damage(error)?);
                failed(&message, Errno::IO);
                return Ok(());
            }
        };
        let c_name =
            |name: &[u8]| CString::new(name).expect("invariant: names of attributes have no zero byte");
        for xattr in &now {
            if !wanted.iter().any(|wanted| wanted.name == xattr.name) {
                match target.remove(&c_name(&xattr.name)) {
                    Ok(()) | Err(Errno::NODATA) => {}
                    // The label belongs to the system that the file is restored to.
                    Err(_) if *xattr.name == *b"security.selinux" => {}
                    Err(error) => failed(&format!("removing attribute {}", xattr.name.escape_ascii()), error),
                }
            }
        }
        for xattr in &wanted {
            if !now.contains(xattr)
                && let Err(error) = target.set(&c_name(&xattr.name), &xattr.value)
            {
                failed(&format!("attribute {}", xattr.name.escape_ascii()), error);
            }
        }
        Ok(())
    }
}

/// Takes away what keeps an open file or directory from being changed.
pub(crate) fn unlock(fd: &OwnedFd) -> Result<()> {
    let (flags, _) = get_flags(fd)?;
    if flags & Flags::LOCKING == 0 { Ok(()) } else { set_flags(fd, flags & !Flags::LOCKING) }
}
