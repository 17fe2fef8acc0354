//! Making a new replica on disk, and telling what an existing one is.

use anshin_base::{ByteSize, GroupId, Problem, ReplicaId};
use anshin_mirror::{Format, IDENTIFY_BYTES, Identity, identify};
use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::{fd::AsFd, unix::fs::FileExt},
    path::Path,
};

/// What to make.
#[derive(Clone, Copy, Debug)]
pub struct Create {
    /// The volume's size, a multiple of 4 KiB.
    pub bytes: ByteSize,
    /// The group it belongs to.
    pub group: GroupId,
    /// Hot extents of its activity log.
    pub hot_extents: u32,
    /// Reserve the space of the data now, for good: trimming does not give it back. Otherwise the file is sparse, and a full
    /// file system shows as a disk error later.
    pub preallocate: bool,
}

/// Makes `data` and `meta` in `directory`, which is made too. Durable when it returns.
///
/// # Errors
/// `replica-exists` if there is one already; else what the file system says.
pub fn create(directory: &Path, what: &Create) -> Result<ReplicaId, Problem> {
    let replica = ReplicaId(random()?);
    let format = Format {
        volume_bytes: what.bytes.0,
        group: what.group,
        replica,
        hot_extents: what.hot_extents,
        zeroed: true,
    };
    let image = format.image().map_err(|error| Problem::new("volume-size", error.to_string()))?;
    let made = || -> io::Result<()> {
        std::fs::create_dir_all(directory)?;
        // The metadata comes last and is renamed into place: what has no metadata is no replica.
        let data = fresh(&directory.join("data"))?;
        data.set_len(what.bytes.0)?;
        if what.preallocate {
            reserve(&data, what.bytes.0)?;
        }
        data.sync_all()?;
        let unfinished = directory.join("meta.new");
        let _ = std::fs::remove_file(&unfinished);
        let meta = fresh(&unfinished)?;
        meta.set_len(image.meta_bytes)?;
        reserve(&meta, image.meta_bytes)?;
        for (offset, content) in &image.writes {
            meta.write_all_at(content, *offset)?;
        }
        meta.sync_all()?;
        // The names of the data and of the directory too: metadata without data is a lost replica.
        for directory in [directory, &directory.join("..")] {
            File::open(directory)?.sync_all()?;
        }
        std::fs::rename(&unfinished, directory.join("meta"))?;
        File::open(directory)?.sync_all()?;
        Ok(())
    };
    if directory.join("meta").exists() {
        let message = format!("there is a replica in {} already", directory.display());
        return Err(
            Problem::refused("replica-exists", message).hint("remove it first if its data is not needed")
        );
    }
    // Left behind by a creation that did not end; there never was metadata for it.
    let _ = std::fs::remove_file(directory.join("data"));
    made().map_err(|error| {
        // What was reserved before the space ran out is missing elsewhere until the next attempt.
        for unfinished in ["meta", "meta.new", "data"] {
            let _ = std::fs::remove_file(directory.join(unfinished));
        }
        let message = format!("cannot make a replica in {}: {error}", directory.display());
        let problem = Problem::new("replica-create", message);
        if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::FileTooLarge) {
            problem.hint("free some space, or choose a smaller size")
        } else {
            problem
        }
    })?;
    Ok(replica)
}

/// Which replica is in `directory`.
///
/// # Errors
/// If there is none, or its superblocks are damaged.
pub fn identity(directory: &Path) -> Result<Identity, Problem> {
    let path = directory.join("meta");
    let fail =
        |why: String| Problem::new("replica-open", format!("no replica in {}: {why}", directory.display()));
    let mut start = vec![0; IDENTIFY_BYTES];
    let read = File::open(&path).and_then(|mut file| file.read_exact(&mut start));
    read.map_err(|error| fail(error.to_string()))?;
    identify(&start).ok_or_else(|| fail("its metadata is damaged".into()))
}

/// A random number that is not 0.
///
/// # Errors
/// If the machine gives no randomness.
pub fn random() -> Result<u64, Problem> {
    let number = getrandom::u64().map_err(|error| Problem::new("randomness", error.to_string()))?;
    Ok(number.max(1))
}

fn fresh(path: &Path) -> io::Result<File> {
    let mode = std::os::unix::fs::OpenOptionsExt::mode;
    mode(OpenOptions::new().read(true).write(true).create_new(true), 0o600).open(path)
}

fn reserve(file: &impl AsFd, bytes: u64) -> io::Result<()> {
    // Asked first: an attempt that must fail would take all the space there is until it does.
    let found = rustix::fs::fstatvfs(file)?;
    if found.f_bavail.saturating_mul(found.f_frsize) < bytes {
        return Err(io::ErrorKind::StorageFull.into());
    }
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::OPNOTSUPP) => {
            tracing::warn!("the file system cannot reserve space");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_replica_tells_who_it_is_and_is_not_made_twice() {
        let directory = std::env::temp_dir().join(format!("anshin-create-{}", std::process::id()));
        let what =
            Create { bytes: ByteSize(64 << 20), group: GroupId(7), hot_extents: 16, preallocate: false };
        let replica = create(&directory, &what).unwrap();
        let found = identity(&directory).unwrap();
        assert_eq!((found.replica, found.group, found.volume_bytes), (replica, GroupId(7), 64 << 20));
        assert_eq!(std::fs::metadata(directory.join("meta")).unwrap().len(), found.meta_bytes);
        assert_eq!(create(&directory, &what).unwrap_err().code, "replica-exists");
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn what_does_not_fit_is_refused_with_a_hint_and_leaves_the_space() {
        let directory = std::env::temp_dir().join(format!("anshin-create-huge-{}", std::process::id()));
        let what = Create { bytes: ByteSize(1 << 50), group: GroupId(7), hot_extents: 16, preallocate: true };
        let refused = create(&directory, &what).unwrap_err();
        assert!(refused.code == "replica-create" && refused.hint.is_some(), "{refused}");
        assert!(!directory.join("data").exists() && !directory.join("meta").exists());
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
