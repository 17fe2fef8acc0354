//! A vault in a directory.
//!
//! An object is written to a file without a name, made durable, and then linked to its name, which fails if the name is
//! taken; the directory is made durable after that. A crash leaves nothing behind. Where the file system has no files without
//! names, a file below `tmp/` takes their place, and what a crash leaves there is removed a day later.

use super::{OBJECT_SIZE_MAX, Store, check_name};
use crate::object::VaultError;
use bytes::Bytes;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

const TEMPORARY: &str = "tmp";
const TEMPORARY_AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// What the kernel says of a place of a disk that cannot be read, or does not hold what the file system expects.
const UNREADABLE: [Errno; 4] = [Errno::IO, Errno::UCLEAN, Errno::BADMSG, Errno::REMOTEIO];
/// Left free for garbage collection: this, or that part of a smaller file system.
const RESERVE: u64 = 256 << 20;
const RESERVE_PART: u64 = 50;
/// Pack files kept open, because a restore reads many parts of the same ones.
const OPEN_FILES_MAX: usize = 64;

/// A directory that holds a vault.
pub struct LocalStore {
    root: PathBuf,
    /// The files read last, newest at the end.
    open: Mutex<Vec<(String, std::sync::Arc<File>)>>,
}

fn failed(what: &str, name: impl std::fmt::Display, error: &io::Error) -> VaultError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            VaultError::Full(format!("{what} {name}: {error}"))
        }
        io::ErrorKind::NotFound => VaultError::NotFound(name.to_string()),
        io::ErrorKind::AlreadyExists => VaultError::Exists(name.to_string()),
        _ => VaultError::Store { what: format!("{what} {name}"), why: error.to_string(), transient: false },
    }
}

/// A sector that cannot be read is damage like any other: there may be another copy, and what can be made anew is.
fn unread(name: &str, error: &io::Error) -> VaultError {
    match Errno::from_io_error(error) {
        Some(errno) if UNREADABLE.contains(&errno) => VaultError::damaged(name, error.to_string()),
        _ => failed("reading", name, error),
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

impl LocalStore {
    /// The directory `root`, which is made if it is not there.
    ///
    /// # Errors
    /// [`VaultError::Store`] if it cannot be made or written to.
    pub fn create(root: &Path) -> Result<Self, VaultError> {
        let fail = |error: &io::Error| failed("making the directory", root.display(), error);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(|error| fail(&error))?;
        if let Some(parent) = root.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_directory(parent).map_err(|error| fail(&error))?;
        }
        Self::open(root)
    }

    /// The directory `root`.
    ///
    /// # Errors
    /// [`VaultError::NotFound`] if it is not there.
    pub fn open(root: &Path) -> Result<Self, VaultError> {
        let meta = fs::metadata(root).map_err(|error| failed("opening", root.display(), &error))?;
        if !meta.is_dir() {
            return Err(VaultError::NotFound(format!("the directory {}", root.display())));
        }
        // A process that died may have left names in the cache alone, and what is listed is relied on.
        File::open(root)
            .and_then(|root| Ok(rustix::fs::syncfs(root)?))
            .map_err(|error| failed("flushing", root.display(), &error))?;
        let store = Self { root: root.to_owned(), open: Mutex::default() };
        store.clean_temporary();
        Ok(store)
    }

    /// Removes what crashed writers left; another process may be writing the young ones.
    fn clean_temporary(&self) {
        let Ok(entries) = fs::read_dir(self.root.join(TEMPORARY)) else { return };
        for entry in entries.flatten() {
            let age = entry.metadata().and_then(|meta| meta.modified()).map(|time| time.elapsed());
            if matches!(age, Ok(Ok(age)) if age > TEMPORARY_AGE_MAX) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn path(&self, name: &str) -> Result<PathBuf, VaultError> {
        check_name(name)?;
        Ok(self.root.join(name))
    }

    /// Makes the directories between the root and an object, durably.
    fn make_parents(&self, directory: &Path) -> io::Result<()> {
        if directory.is_dir() {
            return Ok(());
        }
        if let Some(parent) = directory.parent() {
            self.make_parents(parent)?;
            match fs::DirBuilder::new().mode(0o700).create(directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => sync_directory(parent)?,
            }
        }
        Ok(())
    }

    fn write_unnamed(directory: &Path, parts: &[Bytes]) -> io::Result<Option<File>> {
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let mut file = match rustix::fs::openat(CWD, directory, flags, Mode::from_raw_mode(0o600)) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOTSUP | Errno::ISDIR | Errno::INVAL) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        write_parts(&mut file, parts)?;
        Ok(Some(file))
    }

    fn put_inner(&self, target: &Path, parts: &[Bytes]) -> io::Result<()> {
        let directory = target.parent().unwrap_or(&self.root);
        self.make_parents(directory)?;
        // Checked before the bytes are written; the link below is what decides.
        if target.exists() {
            // Whoever wrote it may not have come to this yet, and who hears that it is there relies on it.
            sync_directory(directory)?;
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if let Some(file) = Self::write_unnamed(directory, parts)? {
            let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
            match rustix::fs::linkat(CWD, &*unnamed, CWD, target, AtFlags::SYMLINK_FOLLOW) {
                Ok(()) => return sync_directory(directory),
                Err(Errno::EXIST) => {
                    sync_directory(directory)?;
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                // No /proc, or a file system that does not link such files.
                Err(_) => {}
            }
        }
        self.put_through_temporary(target, directory, parts)
    }

    fn put_through_temporary(&self, target: &Path, directory: &Path, parts: &[Bytes]) -> io::Result<()> {
        let temporary = self.root.join(TEMPORARY);
        self.make_parents(&temporary)?;
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let path = temporary.join(data_encoding::HEXLOWER.encode(&random));
        let result = (|| {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            write_parts(&mut file, parts)?;
            match rustix::fs::renameat_with(CWD, &path, CWD, target, rustix::fs::RenameFlags::NOREPLACE) {
                Ok(()) => Ok(()),
                Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                    fs::hard_link(&path, target)?;
                    fs::remove_file(&path)
                }
                Err(error) => Err(error.into()),
            }
        })();
        if result.is_err() {
            let _ = fs::remove_file(&path);
        }
        result?;
        sync_directory(directory)
    }

    fn file(&self, name: &str) -> Result<std::sync::Arc<File>, VaultError> {
        let path = self.path(name)?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = open.iter().rposition(|(known, _)| known == name) {
            return Ok(open[at].1.clone());
        }
        let file = File::open(path).map_err(|error| unread(name, &error))?;
        let file = std::sync::Arc::new(file);
        if open.len() >= OPEN_FILES_MAX {
            open.remove(0);
        }
        open.push((name.to_owned(), file.clone()));
        Ok(file)
    }
}

fn write_parts(file: &mut File, parts: &[Bytes]) -> io::Result<()> {
    // Small parts are gathered, so that a pack of small objects is not one system call for each.
    let mut out = io::BufWriter::with_capacity(256 << 10, file);
    for part in parts {
        out.write_all(part)?;
    }
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()
}

impl Store for LocalStore {
    fn put(&self, name: &str, parts: &[Bytes]) -> Result<(), VaultError> {
        let target = self.path(name)?;
        self.put_inner(&target, parts).map_err(|error| failed("writing", name, &error))
    }

    fn get(&self, name: &str) -> Result<Bytes, VaultError> {
        let file = File::open(self.path(name)?).map_err(|error| unread(name, &error))?;
        let size = file.metadata().map_err(|error| unread(name, &error))?.len();
        if size > OBJECT_SIZE_MAX {
            let (size, max) = (usize::try_from(size).unwrap_or(usize::MAX), 256 << 20);
            return Err(VaultError::TooLarge { what: "an object of the storage", size, max });
        }
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, 0).map_err(|error| unread(name, &error))?;
        Ok(bytes.into())
    }

    fn get_range(&self, name: &str, offset: u64, length: usize) -> Result<Bytes, VaultError> {
        let file = self.file(name)?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => VaultError::damaged(name, "it is shorter than it should be"),
            _ => unread(name, &error),
        })?;
        Ok(bytes.into())
    }

    fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, VaultError> {
        let mut found = Vec::new();
        let mut waiting = vec![prefix.trim_end_matches('/').to_owned()];
        while let Some(directory) = waiting.pop() {
            let entries = match fs::read_dir(self.root.join(&directory)) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed("listing", &directory, &error)),
            };
            for entry in entries {
                let fail = |error: io::Error| failed("listing", &directory, &error);
                let entry = entry.map_err(fail)?;
                let Ok(own) = entry.file_name().into_string() else { continue };
                let name = if directory.is_empty() { own } else { format!("{directory}/{own}") };
                let meta = match entry.metadata() {
                    Ok(meta) => meta,
                    // Deleted since the directory was read.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(fail(error)),
                };
                if name == TEMPORARY || check_name(&name).is_err() {
                    continue;
                }
                if meta.is_dir() {
                    waiting.push(name);
                } else {
                    found.push((name, meta.len()));
                }
            }
        }
        found.sort();
        Ok(found)
    }

    fn delete(&self, name: &str) -> Result<(), VaultError> {
        self.delete_many(&[name.to_owned()])
    }

    fn delete_many(&self, names: &[String]) -> Result<(), VaultError> {
        let mut directories = BTreeSet::new();
        for name in names {
            let path = self.path(name)?;
            self.open.lock().unwrap_or_else(PoisonError::into_inner).retain(|(known, _)| known != name);
            match fs::remove_file(&path) {
                Ok(()) => drop(directories.insert(path.parent().unwrap_or(&self.root).to_owned())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed("deleting", name, &error)),
            }
        }
        // What is deleted later must not be gone before this is: trees are deleted before what they refer to.
        for directory in directories {
            sync_directory(&directory).map_err(|error| failed("deleting in", directory.display(), &error))?;
        }
        Ok(())
    }

    fn is_near(&self) -> bool {
        true
    }

    fn room(&self) -> Option<u64> {
        let space = rustix::fs::statvfs(&self.root).ok()?;
        Some(space.f_bavail.saturating_mul(space.f_frsize))
    }

    fn is_tight(&self) -> bool {
        rustix::fs::statvfs(&self.root).is_ok_and(|space| {
            let part = space.f_blocks.saturating_mul(space.f_frsize) / RESERVE_PART;
            space.f_bavail.saturating_mul(space.f_frsize) < part.min(RESERVE)
        })
    }

    fn describe(&self) -> String {
        self.root.display().to_string()
    }
}
