//! The disk as a mounted directory.

use super::Disk;
use crate::control;
use crate::error::{Context, Result};
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, SessionACL, TimeOrNow, WriteFlags,
};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

/// Nothing may be remembered by the kernel: a crash changes files behind its back.
const TTL: Duration = Duration::ZERO;

/// How often a disk that takes its time looks whether it was healed.
const LOOK: Duration = Duration::from_millis(20);

/// Mounts the disk whose durable content is `root` at `mountpoint` and serves it until unmounted.
pub fn serve(root: &Path, mountpoint: &Path, socket: &Path, seed: u64) -> Result<()> {
    let root = root.canonicalize().at(root.display())?;
    let disk = Arc::new(Mutex::new(Disk::new(&root, seed)));
    let controlled = Arc::clone(&disk);
    control::serve(socket, move |words| lock(&controlled).command(words))?;
    let paths = Mutex::new(BTreeMap::from([(INodeNo::ROOT.0, root)]));
    let mut options = Config::default();
    options.mount_options = vec![MountOption::FSName("faultdisk".into()), MountOption::DefaultPermissions];
    options.acl = SessionACL::All;
    fuser::mount(Mounted { disk, paths }, mountpoint, &options).at(mountpoint.display())
}

fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    // A thread that panicked left at worst a half-served request; the disk must go on to be crashed by its owner.
    disk.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

struct Mounted {
    disk: Arc<Mutex<Disk>>,
    /// Where each inode that the kernel knows lives now.
    paths: Mutex<BTreeMap<u64, PathBuf>>,
}

fn errno(error: io::Error) -> Errno {
    Errno::from(error)
}

impl Mounted {
    fn paths(&self) -> MutexGuard<'_, BTreeMap<u64, PathBuf>> {
        self.paths.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn path(&self, inode: INodeNo) -> io::Result<PathBuf> {
        self.paths().get(&inode.0).cloned().ok_or_else(|| io::Error::from_raw_os_error(libc::ESTALE))
    }

    /// The disk, after the time that it takes. Healing ends the wait.
    fn disk(&self) -> MutexGuard<'_, Disk> {
        let start = Instant::now();
        loop {
            let disk = lock(&self.disk);
            match disk.delay().checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
                None => return disk,
                Some(left) => {
                    drop(disk);
                    std::thread::sleep(left.min(LOOK));
                }
            }
        }
    }

    /// The kernel's number for a file: the backing one, except that the root is always 1.
    fn number(&self, path: &Path, metadata: &Metadata) -> u64 {
        if path == lock(&self.disk).root() { INodeNo::ROOT.0 } else { metadata.ino().max(2) }
    }

    fn attributes(&self, path: &Path) -> io::Result<FileAttr> {
        let metadata = fs::symlink_metadata(path)?;
        let number = self.number(path, &metadata);
        let kind = FileType::from_std(metadata.file_type()).unwrap_or(FileType::RegularFile);
        let size = lock(&self.disk).len_of(number).unwrap_or(metadata.len());
        let time = |seconds: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs());
        Ok(FileAttr {
            ino: INodeNo(number),
            size,
            blocks: metadata.blocks(),
            atime: time(metadata.atime()),
            mtime: time(metadata.mtime()),
            ctime: time(metadata.ctime()),
            crtime: SystemTime::UNIX_EPOCH,
            kind,
            perm: (metadata.mode() & 0o7777) as u16,
            nlink: metadata.nlink() as u32,
            uid: metadata.uid(),
            gid: metadata.gid(),
            rdev: metadata.rdev() as u32,
            blksize: 4096,
            flags: 0,
        })
    }

    fn enter(&self, path: PathBuf) -> io::Result<FileAttr> {
        let attributes = self.attributes(&path)?;
        self.paths().insert(attributes.ino.0, path);
        Ok(attributes)
    }

    fn child(&self, parent: INodeNo, name: &OsStr) -> io::Result<PathBuf> {
        Ok(self.path(parent)?.join(name))
    }

    fn made(&self, path: PathBuf, request: &Request, made: io::Result<()>) -> io::Result<FileAttr> {
        made?;
        std::os::unix::fs::lchown(&path, Some(request.uid()), Some(request.gid()))?;
        self.enter(path)
    }

    fn create_file(&self, request: &Request, path: PathBuf, mode: u32) -> io::Result<FileAttr> {
        let made = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&path).map(drop);
        self.made(path, request, made)
    }

    fn change(
        &self,
        inode: INodeNo,
        mode: Option<u32>,
        owner: (Option<u32>, Option<u32>),
        size: Option<u64>,
    ) -> io::Result<FileAttr> {
        let path = self.path(inode)?;
        if let Some(mode) = mode {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o7777))?;
        }
        if owner != (None, None) {
            std::os::unix::fs::lchown(&path, owner.0, owner.1)?;
        }
        if let Some(size) = size {
            self.disk().set_len(inode.0, &path, size)?;
        }
        self.attributes(&path)
    }

    fn move_to(&self, from: PathBuf, to: PathBuf) -> io::Result<()> {
        let replaced = fs::symlink_metadata(&to).ok().map(|metadata| metadata.ino());
        fs::rename(&from, &to)?;
        if let Some(inode) = replaced {
            lock(&self.disk).forget(inode);
        }
        for path in self.paths().values_mut() {
            if let Ok(rest) = path.strip_prefix(&from) {
                *path = if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) };
            }
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let inode = fs::symlink_metadata(path)?.ino();
        fs::remove_file(path)?;
        lock(&self.disk).forget(inode);
        Ok(())
    }

    fn allocate(&self, inode: INodeNo, offset: u64, length: u64, mode: i32) -> io::Result<()> {
        let path = self.path(inode)?;
        let mut disk = self.disk();
        let end = offset.saturating_add(length);
        match mode {
            // Growing only: the content of what already exists does not change.
            0 => match disk.len_of(inode.0).map_or_else(|| fs::metadata(&path).map(|meta| meta.len()), Ok)? {
                len if len >= end => Ok(()),
                _ => disk.set_len(inode.0, &path, end),
            },
            libc::FALLOC_FL_KEEP_SIZE => Ok(()),
            mode if mode & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) != 0 => {
                let zeroes = vec![0; 1 << 20];
                let mut at = offset;
                while at < end {
                    let count = (end - at).min(zeroes.len() as u64) as usize;
                    disk.write(inode.0, &path, at, &zeroes[..count])?;
                    at += count as u64;
                }
                Ok(())
            }
            _ => Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
        }
    }
}

/// Answers with the attributes of a new or found entry.
fn entry(result: io::Result<FileAttr>, reply: ReplyEntry) {
    match result {
        Ok(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
        Err(error) => reply.error(errno(error)),
    }
}

fn empty(result: io::Result<()>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

fn attributes(result: io::Result<FileAttr>, reply: ReplyAttr) {
    match result {
        Ok(attributes) => reply.attr(&TTL, &attributes),
        Err(error) => reply.error(errno(error)),
    }
}

impl Filesystem for Mounted {
    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(self.child(parent, name).and_then(|path| self.enter(path)), reply);
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        attributes(self.path(inode).and_then(|path| self.attributes(&path)), reply);
    }

    fn setattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        attributes(self.change(inode, mode, (uid, gid), size), reply);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let result = self.child(parent, name).and_then(|path| {
            let made = fs::DirBuilder::new().mode(mode & !umask).create(&path);
            self.made(path, request, made)
        });
        entry(result, reply);
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.child(parent, name).and_then(|path| self.remove(&path)), reply);
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.child(parent, name).and_then(fs::remove_dir), reply);
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let paths = self.child(parent, name).and_then(|from| Ok((from, self.child(new_parent, new_name)?)));
        empty(paths.and_then(|(from, to)| self.move_to(from, to)), reply);
    }

    fn open(&self, _request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let cut = if flags.0 & libc::O_TRUNC == 0 {
            Ok(())
        } else {
            self.change(inode, None, (None, None), Some(0)).map(drop)
        };
        match cut {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let result = self.child(parent, name).and_then(|path| self.create_file(request, path, mode & !umask));
        match result {
            Ok(attributes) => {
                reply.created(&TTL, &attributes, Generation(0), FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn read(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let result =
            self.path(inode).and_then(|path| self.disk().read(inode.0, &path, offset, size as usize));
        match result {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn write(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let result = self.path(inode).and_then(|path| {
            let mut disk = self.disk();
            disk.write(inode.0, &path, offset, data)?;
            // Opened for synchronous writing: the answer promises durability.
            if flags.0 & libc::O_DSYNC != 0 { disk.flush(inode.0, &path) } else { Ok(()) }
        });
        match result {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn flush(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // Closing a file makes nothing durable.
        reply.ok();
    }

    fn fsync(&self, _request: &Request, inode: INodeNo, _handle: FileHandle, _data: bool, reply: ReplyEmpty) {
        empty(self.path(inode).and_then(|path| self.disk().flush(inode.0, &path)), reply);
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _data: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn readdir(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listing = self.path(inode).and_then(|path| fs::read_dir(path)?.collect::<io::Result<Vec<_>>>());
        let mut entries = match listing {
            Ok(entries) => entries,
            Err(error) => return reply.error(errno(error)),
        };
        // A stable order, so that the offset means the same in the next call.
        entries.sort_by_key(fs::DirEntry::file_name);
        for (position, found) in entries.iter().enumerate().skip(offset as usize) {
            let Ok(metadata) = found.metadata() else { continue };
            let kind = FileType::from_std(metadata.file_type()).unwrap_or(FileType::RegularFile);
            if reply.add(INodeNo(metadata.ino()), position as u64 + 1, kind, found.file_name()) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _inode: INodeNo, reply: ReplyStatfs) {
        match rustix::fs::statvfs(lock(&self.disk).root()) {
            Ok(s) => reply.statfs(
                s.f_blocks,
                s.f_bfree,
                s.f_bavail,
                s.f_files,
                s.f_ffree,
                4096,
                255,
                s.f_frsize as u32,
            ),
            Err(error) => reply.error(errno(error.into())),
        }
    }

    fn fallocate(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        empty(self.allocate(inode, offset, length, mode), reply);
    }
}
