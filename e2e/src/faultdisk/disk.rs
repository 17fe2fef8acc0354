//! The disk's directory, its files' caches, and the faults in force.

use super::cache::{Cache, Durable, Toll};
use crate::control::number;
use crate::error::{Context, Result, refuse};
use crate::rng::Rng;
use std::collections::{BTreeMap, btree_map::Entry};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Operations that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Reading a file.
    Read,
    /// Writing a file.
    Write,
    /// Flushing a file; a failure poisons what was pending.
    Flush,
}

/// Failures to come.
#[derive(Clone, Debug)]
struct Failing {
    operation: Operation,
    /// How many are left.
    left: u64,
    /// Only files whose path contains this.
    path: String,
}

/// One file of the disk: durable content behind, volatile cache in front.
#[derive(Debug)]
struct CachedFile {
    durable: Backing,
    cache: Cache,
}

#[derive(Debug)]
struct Backing(File);

impl Durable for Backing {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.0.read_at(&mut buffer[filled..], offset + filled as u64)? {
                0 => break,
                count => filled += count,
            }
        }
        buffer[filled..].fill(0);
        Ok(())
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
}

/// A disk: a directory with the durable content, and everything volatile about it.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    /// By inode number of the backing file, which survives renaming.
    files: BTreeMap<u64, CachedFile>,
    failing: Vec<Failing>,
    full: bool,
    slow: Duration,
    rng: Rng,
}

impl Disk {
    /// The disk whose durable content is the directory `root`.
    pub fn new(root: &Path, seed: u64) -> Self {
        Self {
            root: root.to_owned(),
            files: BTreeMap::new(),
            failing: Vec::new(),
            full: false,
            slow: Duration::ZERO,
            rng: Rng::new(seed),
        }
    }

    /// The backing directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// How long each operation takes beyond its own time.
    pub fn delay(&self) -> Duration {
        self.slow
    }

    fn file(&mut self, inode: u64, path: &Path) -> io::Result<&mut CachedFile> {
        // One handle per file for as long as the disk exists: a lab's files are few.
        match self.files.entry(inode) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(new) => {
                let file = File::options().read(true).write(true).open(path)?;
                Ok(new.insert(CachedFile { durable: Backing(file), cache: Cache::default() }))
            }
        }
    }

    /// Fails if a fault in force says so.
    fn check(&mut self, operation: Operation, path: &Path) -> io::Result<()> {
        let text = path.to_string_lossy();
        let hit = self
            .failing
            .iter_mut()
            .find(|fault| fault.operation == operation && fault.left > 0 && text.contains(&fault.path));
        match hit {
            Some(fault) => {
                fault.left -= 1;
                Err(io::Error::from_raw_os_error(libc::EIO))
            }
            None => Ok(()),
        }
    }

    /// Reads as a program does.
    pub fn read(&mut self, inode: u64, path: &Path, offset: u64, size: usize) -> io::Result<Vec<u8>> {
        self.check(Operation::Read, path)?;
        let file = self.file(inode, path)?;
        let mut bytes = vec![0; size];
        let count = file.cache.read(&file.durable, offset, &mut bytes)?;
        bytes.truncate(count);
        Ok(bytes)
    }

    /// Writes as a program does: into the cache.
    pub fn write(&mut self, inode: u64, path: &Path, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check(Operation::Write, path)?;
        if self.full {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let file = self.file(inode, path)?;
        file.cache.write(&mut file.durable, offset, data)
    }

    /// Flushes one file.
    pub fn flush(&mut self, inode: u64, path: &Path) -> io::Result<()> {
        let failed = self.check(Operation::Flush, path);
        let file = self.file(inode, path)?;
        if failed.is_err() {
            file.cache.fail_flush();
            return failed;
        }
        file.cache.flush(&mut file.durable)
    }

    /// Sets a file's length.
    pub fn set_len(&mut self, inode: u64, path: &Path, len: u64) -> io::Result<()> {
        let file = self.file(inode, path)?;
        file.cache.set_len(&mut file.durable, len)
    }

    /// A file's length as programs see it; none if it has no volatile part.
    pub fn len_of(&self, inode: u64) -> Option<u64> {
        let file = self.files.get(&inode)?;
        file.cache.size(&file.durable).ok()
    }

    /// Forgets a file whose last name is gone.
    pub fn forget(&mut self, inode: u64) {
        self.files.remove(&inode);
    }

    /// Power fails.
    pub fn crash(&mut self) -> io::Result<Toll> {
        let mut sum = Toll::default();
        for file in self.files.values_mut() {
            let toll = file.cache.crash(&mut file.durable, &mut self.rng)?;
            sum = Toll { kept: sum.kept + toll.kept, lost: sum.lost + toll.lost, torn: sum.torn + toll.torn };
        }
        self.files.clear();
        Ok(sum)
    }

    /// One command of the control socket.
    pub fn command(&mut self, words: &[&str]) -> Result<String> {
        match *words {
            ["crash", ref seed @ ..] => {
                if !seed.is_empty() {
                    self.rng = Rng::new(number(seed.first(), "the seed")?);
                }
                let toll = self.crash().at("crash")?;
                Ok(format!("kept {} lost {} torn {}", toll.kept, toll.lost, toll.torn))
            }
            ["fail", operation, count, ref path @ ..] => {
                let operation = match operation {
                    "read" => Operation::Read,
                    "write" => Operation::Write,
                    "flush" => Operation::Flush,
                    other => return refuse(format!("no operation {other}; there are: read, write, flush")),
                };
                let left = number(Some(&count), "how many")?;
                self.failing.push(Failing { operation, left, path: path.first().unwrap_or(&"").to_string() });
                Ok(String::new())
            }
            ["full"] => {
                self.full = true;
                Ok(String::new())
            }
            ["slow", ref milliseconds @ ..] => {
                self.slow = Duration::from_millis(number(milliseconds.first(), "milliseconds")?);
                Ok(String::new())
            }
            ["flip", path, offset] => self.flip(path, number(Some(&offset), "the offset")?),
            ["heal"] => {
                (self.failing, self.full, self.slow) = (Vec::new(), false, Duration::ZERO);
                Ok(String::new())
            }
            ["state"] => {
                let unflushed: usize = self.files.values().map(|file| file.cache.unflushed()).sum();
                Ok(format!("files {} unflushed {unflushed}", self.files.len()))
            }
            _ => refuse(
                "commands: crash [SEED], fail read|write|flush N [PATH], full, slow MS, flip PATH OFFSET, heal, state",
            ),
        }
    }

    /// Bit rot: one bit of the durable content changes and nobody is told.
    fn flip(&mut self, path: &str, offset: u64) -> Result<String> {
        let file = File::options().read(true).write(true).open(self.root.join(path)).at(path)?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).at(path)?;
        file.write_all_at(&[byte[0] ^ 1], offset).at(path)?;
        Ok(String::new())
    }
}
