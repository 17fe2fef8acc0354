//! A snapshot as a mounted directory, read only.
//!
//! Spoken through the `fuser` crate: browsing needs none of what makes a volume's own FUSE file speak the protocol itself
//! (owning every payload, no allocation), and all of what that leaves out (directories, links, attributes).

mod inodes;

use crate::{
    error::CaptureError,
    tree::{
        Content, ContentReader, DirectoryCursor, Entry, EntryKind, Nodes, ReadError, Timestamp, read_root,
        read_xattrs,
    },
};
use anshin_vault::{ChunkId, Source, VaultError};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyStatfs, ReplyXattr, Request, SessionACL,
};
use inodes::Inodes;
use std::{
    collections::HashMap,
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

/// A snapshot never changes.
const TTL: Duration = Duration::from_secs(3600);
/// Decoded tree objects that are kept, twice.
const NODES: usize = 256;
/// Data objects that are kept, twice: at most 32 MiB of files, 4 MiB of images.
const DATA: usize = 4;

/// Who may look into a mounted snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Access {
    /// Only the user who mounted it.
    #[default]
    Owner,
    /// Everybody, as modes and owners in the snapshot say.
    Everyone,
}

/// A snapshot that is mounted for as long as this lives.
pub struct MountedSnapshot {
    session: Option<BackgroundSession>,
}

impl MountedSnapshot {
    /// Waits until somebody unmounts it.
    ///
    /// # Errors
    /// If serving it failed.
    pub fn wait(mut self) -> std::io::Result<()> {
        self.session.take().map_or(Ok(()), BackgroundSession::join)
    }

    /// Unmounts it.
    ///
    /// # Errors
    /// If it is in use.
    pub fn unmount(mut self) -> std::io::Result<()> {
        self.session.take().map_or(Ok(()), BackgroundSession::umount_and_join)
    }
}

/// Mounts the tree `root` at `mountpoint`. Devices in it are shown, but cannot be used; set-user-id has no effect.
///
/// # Errors
/// If the root cannot be read or the kernel refuses the mount.
pub fn mount(
    source: Arc<dyn Source>,
    root: &ChunkId,
    mountpoint: &Path,
    access: Access,
) -> Result<MountedSnapshot, CaptureError> {
    let nodes = Nodes::shared(source, NODES, DATA);
    let entry = read_root(&nodes, root)?;
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("anshin".into()),
        MountOption::Subtype("snapshot".into()),
        MountOption::RO,
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::DefaultPermissions,
    ];
    config.acl = match access {
        Access::Owner => SessionACL::Owner,
        Access::Everyone => SessionACL::All,
    };
    config.n_threads = Some(2);
    let snapshot = Snapshot {
        nodes,
        inodes: Inodes::new(entry),
        open: Mutex::default(),
        next_handle: AtomicU64::new(1),
    };
    let session = fuser::spawn_mount(snapshot, mountpoint, &config).map_err(|error| {
        let errno = rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO);
        CaptureError::io("mount", mountpoint.as_os_str().as_bytes(), errno)
    })?;
    Ok(MountedSnapshot { session: Some(session) })
}

/// A directory that somebody reads.
struct OpenDirectory {
    cursor: DirectoryCursor,
    /// How many entries have been taken from the cursor.
    position: u64,
}

struct Snapshot {
    nodes: Nodes<'static>,
    inodes: Inodes,
    open: Mutex<HashMap<u64, Arc<Mutex<OpenDirectory>>>>,
    next_handle: AtomicU64,
}

fn errno(error: &ReadError) -> Errno {
    tracing::warn!("{error}");
    match error {
        ReadError::Vault(VaultError::Denied(_)) => Errno::EACCES,
        _ => Errno::EIO,
    }
}

fn time(time: Timestamp) -> SystemTime {
    let nanoseconds = Duration::from_nanos(time.nanoseconds.into());
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let base = match time.seconds < 0 {
        true => SystemTime::UNIX_EPOCH.checked_sub(seconds),
        false => SystemTime::UNIX_EPOCH.checked_add(seconds),
    };
    base.and_then(|base| base.checked_add(nanoseconds)).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn kind(entry: &Entry) -> FileType {
    match entry.kind {
        EntryKind::File(_) | EntryKind::Image(_) => FileType::RegularFile,
        EntryKind::Directory(_) => FileType::Directory,
        EntryKind::Symlink(_) => FileType::Symlink,
        EntryKind::Fifo => FileType::NamedPipe,
        EntryKind::Socket => FileType::Socket,
        EntryKind::CharDevice(_) => FileType::CharDevice,
        EntryKind::BlockDevice(_) => FileType::BlockDevice,
    }
}

fn attributes(inode: u64, entry: &Entry) -> FileAttr {
    let attributes = &entry.attributes;
    let rdev = match entry.kind {
        EntryKind::CharDevice(device) | EntryKind::BlockDevice(device) => {
            (device.major & 0xfff) << 8 | device.minor & 0xff | (device.minor & !0xff) << 12
        }
        _ => 0,
    };
    let mtime = time(attributes.mtime);
    FileAttr {
        ino: INodeNo(inode),
        size: entry.size(),
        blocks: entry.content().map_or(0, Content::data).div_ceil(512),
        atime: attributes.atime.map_or(mtime, time),
        mtime,
        ctime: attributes.ctime.map_or(mtime, time),
        crtime: attributes.btime.map_or(mtime, time),
        kind: kind(entry),
        perm: attributes.mode,
        nlink: if entry.link.is_some() { 2 } else { 1 },
        uid: attributes.owner.uid,
        gid: attributes.owner.gid,
        rdev,
        blksize: 4096,
        flags: 0,
    }
}

impl Snapshot {
    fn entry(&self, inode: INodeNo) -> Result<Arc<Entry>, Errno> {
        self.inodes.get(inode.0).ok_or(Errno::ENOENT)
    }

    fn find(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let directory = self.entry(parent)?;
        let EntryKind::Directory(listing) = &directory.kind else { return Err(Errno::ENOTDIR) };
        let found = crate::tree::DirectoryReader::find(&self.nodes, listing, name.as_bytes());
        let entry = found.map_err(|error| errno(&error))?.ok_or(Errno::ENOENT)?;
        let (inode, entry) = self.inodes.look_up(parent.0, entry);
        Ok(attributes(inode, &entry))
    }

    fn read_part(&self, inode: INodeNo, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let entry = self.entry(inode)?;
        match entry.content() {
            None => Err(Errno::EISDIR),
            // Never captured: an empty answer would be a lie.
            Some(Content::Missing { .. }) => Err(Errno::EIO),
            Some(content) => {
                let read = ContentReader::new(&self.nodes).read_at(content, offset, size as usize);
                read.map_err(|error| errno(&error))
            }
        }
    }

    fn xattr(&self, inode: INodeNo, name: &OsStr) -> Result<Vec<u8>, Errno> {
        let entry = self.entry(inode)?;
        let list = read_xattrs(&self.nodes, &entry.attributes.xattrs).map_err(|error| errno(&error))?;
        let found = list.into_iter().find(|xattr| *xattr.name == *name.as_bytes());
        found.map(|xattr| xattr.value.into()).ok_or(Errno::ENODATA)
    }

    fn xattr_names(&self, inode: INodeNo) -> Result<Vec<u8>, Errno> {
        let entry = self.entry(inode)?;
        let list = read_xattrs(&self.nodes, &entry.attributes.xattrs).map_err(|error| errno(&error))?;
        Ok(list.iter().flat_map(|xattr| xattr.name.iter().copied().chain([0])).collect())
    }

    /// Adds entries from `offset` on until the reply is full. Offsets 0 and 1 are the directory itself and its parent.
    fn fill(
        &self,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: &mut ReplyDirectory,
    ) -> Result<(), Errno> {
        let directory = self.entry(inode)?;
        let EntryKind::Directory(listing) = &directory.kind else { return Err(Errno::ENOTDIR) };
        for (at, name) in [".", ".."].into_iter().enumerate().skip(offset as usize) {
            if reply.add(inode, at as u64 + 1, FileType::Directory, name) {
                return Ok(());
            }
        }
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).get(&handle.0).cloned();
        let open = open.ok_or(Errno::EBADF)?;
        let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = offset.saturating_sub(2);
        if wanted < open.position {
            *open = OpenDirectory { cursor: DirectoryCursor::new(listing), position: 0 };
        }
        loop {
            let position = open.position;
            let Some(entry) = open.cursor.peek(&self.nodes).map_err(|error| errno(&error))? else {
                return Ok(());
            };
            let full = position >= wanted && {
                let number = INodeNo(inodes::shown_number(inode.0, entry));
                reply.add(number, position + 3, kind(entry), OsStr::from_bytes(&entry.name))
            };
            if full {
                return Ok(());
            }
            open.cursor.next(&self.nodes).map_err(|error| errno(&error))?;
            open.position += 1;
        }
    }
}

fn answer_xattr(found: Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
    match found {
        Ok(bytes) if size == 0 => reply.size(bytes.len() as u32),
        Ok(bytes) if bytes.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(bytes) => reply.data(&bytes),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Snapshot {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.find(parent, name) {
            Ok(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn forget(&self, _: &Request, inode: INodeNo, lookups: u64) {
        self.inodes.forget(inode.0, lookups);
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.entry(inode) {
            Ok(entry) => reply.attr(&TTL, &attributes(inode.0, &entry)),
            Err(error) => reply.error(error),
        }
    }

    fn readlink(&self, _: &Request, inode: INodeNo, reply: ReplyData) {
        match self.entry(inode).as_deref() {
            Ok(Entry { kind: EntryKind::Symlink(target), .. }) => reply.data(target),
            Ok(_) => reply.error(Errno::EINVAL),
            Err(_) => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.read_part(inode, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn opendir(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.entry(inode).as_deref() {
            Ok(Entry { kind: EntryKind::Directory(listing), .. }) => {
                let handle = self.next_handle.fetch_add(1, Relaxed);
                let open = OpenDirectory { cursor: DirectoryCursor::new(listing), position: 0 };
                let mut all = self.open.lock().unwrap_or_else(PoisonError::into_inner);
                all.insert(handle, Arc::new(Mutex::new(open)));
                reply.opened(FileHandle(handle), FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE);
            }
            Ok(_) => reply.error(Errno::ENOTDIR),
            Err(_) => reply.error(Errno::ENOENT),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        match self.fill(inode, handle, offset, &mut reply) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&handle.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let totals = match self.inodes.get(INodeNo::ROOT.0).as_deref() {
            Some(Entry {
                kind: EntryKind::Directory(crate::tree::Listing::Stored { totals, .. }), ..
            }) => *totals,
            _ => crate::tree::Totals::default(),
        };
        reply.statfs(totals.bytes.div_ceil(4096), 0, 0, totals.entries, 0, 4096, 255, 4096);
    }

    fn getxattr(&self, _: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        answer_xattr(self.xattr(inode, name), size, reply);
    }

    fn listxattr(&self, _: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        answer_xattr(self.xattr_names(inode), size, reply);
    }
}
