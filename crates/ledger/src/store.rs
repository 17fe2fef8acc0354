//! [`FileStore`]: the log's two areas as preallocated files, for the voter process. The only I/O of this crate.

use crate::log::{Area, DiskOp, RecoverError, Recovered, recover};
use rustix::fs::{Advice, fadvise};
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The files cannot be read or written.
    #[error("{path}: {error}")]
    Io {
        /// Which file or directory.
        path: String,
        /// What the system said.
        error: io::Error,
    },
    /// The files hold no usable log.
    #[error(transparent)]
    Recover(#[from] RecoverError),
}

/// Two files in a directory: `ledger-a` and `ledger-b`. After any error it must not be used again: a failed fsync
/// poisons a file, a later success proves nothing.
#[derive(Debug)]
pub struct FileStore {
    areas: [File; 2],
}

const NAMES: [&str; 2] = ["ledger-a", "ledger-b"];

impl FileStore {
    /// Makes new files full of zeroes in place of any old ones, carries out `ops` (from
    /// [`crate::Engine::found`] or [`crate::Engine::join`]) and makes it all durable.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn create(directory: &Path, area_bytes: u64, ops: &[DiskOp]) -> Result<(), StoreError> {
        let io = |path: &Path, error| StoreError::Io { path: path.display().to_string(), error };
        std::fs::create_dir_all(directory).map_err(|error| io(directory, error))?;
        let mut areas = Vec::new();
        for name in NAMES {
            let path = directory.join(name);
            if path.exists() {
                std::fs::remove_file(&path).map_err(|error| io(&path, error))?;
            }
            areas.push(preallocate(&path, area_bytes).map_err(|error| io(&path, error))?);
        }
        let mut areas = areas.into_iter();
        let (Some(a), Some(b)) = (areas.next(), areas.next()) else { return Ok(()) };
        let store = Self { areas: [a, b] };
        store.run(ops).map_err(|error| io(directory, error))?;
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(|error| io(directory, error))
    }

    /// Opens and recovers, finishing what a crash interrupted.
    ///
    /// # Errors
    /// [`StoreError`]; [`RecoverError::Empty`] also if there are no files.
    pub fn open(directory: &Path) -> Result<(Self, Recovered), StoreError> {
        let mut areas = Vec::new();
        let mut contents = Vec::new();
        for name in NAMES {
            let path = directory.join(name);
            let io = |error| StoreError::Io { path: path.display().to_string(), error };
            let opened = OpenOptions::new().read(true).write(true).open(&path);
            let file = match opened {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(RecoverError::Empty.into());
                }
                other => other.map_err(io)?,
            };
            // What the process before wrote may still be in the cache alone: a vote that was read back from there and told, and
            // then lost with the power, would be given twice. And after a failed flush the cache shows what the disk does not have.
            file.sync_data().map_err(io)?;
            fadvise(&file, 0, None, Advice::DontNeed).map_err(|error| io(error.into()))?;
            let length = file.metadata().map_err(io)?.len();
            let mut content = vec![0; usize::try_from(length).unwrap_or_default()];
            file.read_exact_at(&mut content, 0).map_err(io)?;
            areas.push(file);
            contents.push(content);
        }
        let recovered = recover(&contents[0], &contents[1])?;
        let [a, b] = <[File; 2]>::try_from(areas).map_err(|_| RecoverError::Empty)?;
        let store = Self { areas: [a, b] };
        let io = |error| StoreError::Io { path: directory.display().to_string(), error };
        store.run(&recovered.ops).map_err(io)?;
        Ok((store, recovered))
    }

    /// Carries out the steps one after the other; all of them are durable on return.
    ///
    /// # Errors
    /// What the system said. The store must not be used again; hand the failure to the engine.
    pub fn run(&self, ops: &[DiskOp]) -> io::Result<()> {
        for op in ops {
            match op {
                DiskOp::Write { area, offset, bytes } => self.file(*area).write_all_at(bytes, *offset)?,
                DiskOp::Flush { area } => self.file(*area).sync_data()?,
            }
        }
        Ok(())
    }

    fn file(&self, area: Area) -> &File {
        match area {
            Area::A => &self.areas[0],
            Area::B => &self.areas[1],
        }
    }
}

/// Real zeroes, not a hole: a later write needs no space from the file system.
fn preallocate(path: &Path, bytes: u64) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    let zeroes = vec![0; 1 << 20];
    let mut at = 0;
    while at < bytes {
        let length = (bytes - at).min(zeroes.len() as u64);
        file.write_all_at(&zeroes[..usize::try_from(length).unwrap_or(zeroes.len())], at)?;
        at += length;
    }
    file.sync_all()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Engine, Settings,
        log::{Identity, RecoverError},
    };
    use anshin_base::{LedgerEpoch, Mono, NodeId, VoterId};

    #[test]
    fn a_founded_ledger_opens_again_and_an_absent_one_is_named() {
        let directory = std::env::temp_dir().join(format!("anshin-ledger-test-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        let absent = FileStore::open(&directory);
        assert!(matches!(absent, Err(StoreError::Recover(RecoverError::Empty))));
        let identity = Identity { site: 1, node: NodeId(1), voter: VoterId(1), epoch: LedgerEpoch(1) };
        let ops = Engine::found(identity, 64 << 10).unwrap();
        FileStore::create(&directory, 64 << 10, &ops).unwrap();
        let (_store, recovered) = FileStore::open(&directory).unwrap();
        let settings = Settings::new(VoterId(1), LedgerEpoch(1), 9, false);
        let engine = Engine::open(Mono(0), settings, recovered).unwrap();
        assert_eq!(engine.members().voters, [VoterId(1)]);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
