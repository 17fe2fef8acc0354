//! A point's side file: on the node's own disk, without a name, its space reserved, gone with its process.

use super::keeper::{Job, PointId, UNIT};
use crate::{
    buffer::ALIGNMENT,
    front::loopdev,
    io::{Io, Tag as IoTag},
    ring::{Done, Fd, Op},
};
use anshin_base::Problem;
use bytes::Bytes;
use rustix::fs::{FallocateFlags, Mode, OFlags};
use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    rc::Rc,
};

/// Which operation a completion belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(Job);

/// Makes a side file of `slots` units in `directory`. Blocks; for a helper thread.
///
/// # Errors
/// `point-space` if there is not at least twice the space: the disk is the volumes' first.
pub fn reserve(directory: &Path, slots: u32) -> Result<OwnedFd, Problem> {
    loopdev::refuse_own_volume(directory)?;
    let bytes = u64::from(slots) * UNIT;
    let fail = |error: rustix::io::Errno| {
        let message = format!("no side file for a point in {}: {error}", directory.display());
        Problem::new("point-space", message)
    };
    let space = rustix::fs::statvfs(directory).map_err(fail)?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if free / 2 < bytes {
        let message = format!(
            "{} has {} MiB free; a point takes at most half of that",
            directory.display(),
            free >> 20
        );
        return Err(Problem::new("point-space", message).hint("free some space, or ask for a smaller bound"));
    }
    let open = |flags: OFlags| -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::open(directory, flags | OFlags::TMPFILE, Mode::RUSR | Mode::WUSR) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {
                let path = directory.join("point");
                let fd = rustix::fs::open(&path, flags | OFlags::CREATE, Mode::RUSR | Mode::WUSR)?;
                rustix::fs::unlink(&path)?;
                Ok(fd)
            }
            result => result,
        }
    };
    let fd = match open(OFlags::DIRECT) {
        // No direct I/O here, as on tmpfs.
        Err(rustix::io::Errno::INVAL) => open(OFlags::empty()),
        result => result,
    };
    let fd = fd.map_err(fail)?;
    rustix::fs::fallocate(fd.as_fd(), FallocateFlags::empty(), 0, bytes.max(UNIT)).map_err(fail)?;
    Ok(fd)
}

enum Work {
    Save { point: PointId, offset: u64, rest: Bytes },
    Load { point: PointId, offset: u64, skip: usize, wanted: usize, at: usize },
}

/// What a completion meant.
pub enum Ended {
    /// A save.
    Saved(Job, Result<(), String>),
    /// A load.
    Loaded(Job, Result<Bytes, String>),
}

/// The side files of all points of a volume, and what is under way on them.
#[derive(Default)]
pub struct Side {
    files: HashMap<PointId, Fd>,
    works: HashMap<Job, Work>,
}

impl Side {
    /// A new point's file.
    pub fn add(&mut self, point: PointId, file: OwnedFd) {
        self.files.insert(point, Rc::new(file));
    }

    /// The file is closed, and its space free, when what is in flight on it has ended.
    pub fn remove(&mut self, point: PointId) {
        self.files.remove(&point);
    }

    /// Writes; the answer comes at once if the file is gone.
    pub fn save(&mut self, io: &mut Io, point: PointId, job: Job, offset: u64, data: Bytes) -> Option<Ended> {
        let Some(fd) = self.files.get(&point).cloned() else {
            return Some(Ended::Saved(job, Err("it is closed".into())));
        };
        let aligned = (data.as_ptr() as usize).is_multiple_of(ALIGNMENT);
        let data = if aligned { data } else { io.pool.copy(&data).freeze() };
        self.works.insert(job, Work::Save { point, offset, rest: data.clone() });
        io.push(Op::Write { fd, data, offset }, IoTag::Point(Tag(job)));
        None
    }

    /// Reads; the answer comes at once if the file is gone.
    pub fn load(&mut self, io: &mut Io, point: PointId, job: Job, offset: u64, length: u32) -> Option<Ended> {
        let Some(fd) = self.files.get(&point).cloned() else {
            return Some(Ended::Loaded(job, Err("it is closed".into())));
        };
        // Direct I/O: whole blocks, of which the wanted bytes are cut out.
        let start = offset / ALIGNMENT as u64 * ALIGNMENT as u64;
        let skip = usize::try_from(offset - start).expect("invariant: below a block");
        let wanted = length as usize;
        let buffer = io.pool.take((skip + wanted).next_multiple_of(ALIGNMENT));
        self.works.insert(job, Work::Load { point, offset: start, skip, wanted, at: 0 });
        io.push(Op::Read { fd, buffer, from: 0, offset: start }, IoTag::Point(Tag(job)));
        None
    }

    /// A completion came back.
    pub fn completed(&mut self, io: &mut Io, Tag(job): Tag, done: Done<IoTag>) -> Option<Ended> {
        let work = self.works.remove(&job).expect("invariant: one completion per job");
        match work {
            Work::Save { point, offset, rest } => match counted(done.result) {
                Err(why) => Some(Ended::Saved(job, Err(why))),
                Ok(count) if count == rest.len() => Some(Ended::Saved(job, Ok(()))),
                Ok(count) => self.save(io, point, job, offset + count as u64, rest.slice(count..)),
            },
            Work::Load { point, offset, skip, wanted, at } => {
                let count = match counted(done.result) {
                    Ok(count) => count,
                    Err(why) => return Some(Ended::Loaded(job, Err(why))),
                };
                let buffer = done.buffer.expect("invariant: a read returns its buffer");
                let at = at + count;
                if at >= skip + wanted {
                    return Some(Ended::Loaded(job, Ok(buffer.freeze().slice(skip..skip + wanted))));
                }
                let Some(fd) = self.files.get(&point).cloned() else {
                    return Some(Ended::Loaded(job, Err("it is closed".into())));
                };
                self.works.insert(job, Work::Load { point, offset, skip, wanted, at });
                let op = Op::Read { fd, buffer, from: at, offset: offset + at as u64 };
                io.push(op, IoTag::Point(Tag(job)));
                None
            }
        }
    }
}

/// Nothing moved and no error: past the end of a file that was reserved in full.
fn counted(result: io::Result<u32>) -> Result<usize, String> {
    match result {
        Ok(0) => Err("it ended early".into()),
        Ok(count) => Ok(count as usize),
        Err(error) => Err(error.to_string()),
    }
}
