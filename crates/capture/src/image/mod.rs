//! Block devices, disk images and streams.
//!
//! Devices and images are cut at fixed, aligned extents, because file systems and databases inside them write in place: a
//! change touches the extents it lies in and no other. Extents of zeroes are holes. Streams are cut by content, as files are.

mod restore;
mod stream;

pub use restore::{restore_image, restore_stream};
pub use stream::backup_stream;
pub(crate) use stream::capture_stream;

use crate::{
    backup::{Backup, BackupReport, Extent, Extents, attributes_of, place},
    error::CaptureError,
    monitor::Monitor,
    pool::Pool,
    report::IssueKind,
    restore::write::read_full,
    sys::{OwnerNames, StatKind, stat_fd},
    tree::{ContentWriter, Entry, EntryKind, Segment},
};
use anshin_vault::{Kind, Sink, chunker::EXTENT_SIZE};
use rustix::{
    fd::OwnedFd,
    fs::{CWD, Mode, OFlags, SeekFrom, openat, seek},
};
use std::{
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::{Mutex, PoisonError},
};

/// What one worker reads in order.
const STRIPE: u64 = 8 << 20;
/// Stripes that are worked on before their extents are listed: bounds memory to some 16 KiB per GiB.
const ROUND: u64 = 32;

/// Backs up a block device or an image file, as `name` (an absolute path) in the snapshot. Unchanged extents are read and found
/// in the vault, not sent.
///
/// # Errors
/// If it cannot be read, the vault does not take an object, or it was cancelled.
pub fn backup_image(
    sink: &dyn Sink,
    source: &Path,
    name: &Path,
    workers: usize,
    monitor: &Monitor,
) -> Result<Backup, CaptureError> {
    let shown = source.as_os_str().as_bytes();
    let io = |error| CaptureError::io("read", shown, error);
    let fd = openat(CWD, source, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(io)?;
    let before = stat_fd(&fd).map_err(io)?;
    let size = seek(&fd, SeekFrom::End(0)).map_err(io)?;
    let mut writer = ContentWriter::new();
    let mut at = 0;
    while at < size {
        let end = size.min(at + ROUND * STRIPE);
        for segment in round(sink, &fd, at, end, workers, monitor).map_err(|failed| failed.named(shown))? {
            writer.push(sink, segment)?;
        }
        at = end;
    }
    let (content, _) = writer.finish(sink)?;
    let after = stat_fd(&fd).map_err(io)?;
    if before.kind == StatKind::File && !after.same_version(&before) {
        let why = "it changed while it was read; what was captured is a mixture";
        monitor.issue(IssueKind::Changed, shown.to_vec(), why);
    }
    let attributes = attributes_of(&before, &OwnerNames::default(), false);
    let bytes = content.data();
    monitor.done(0);
    let entry = Entry { name: Box::default(), kind: EntryKind::Image(content), attributes, link: None };
    let root = place(sink, name, entry)?;
    let bytes_read = monitor.progress().bytes_moved;
    Ok(Backup {
        root,
        report: BackupReport {
            others: 1,
            bytes,
            bytes_read,
            issues: monitor.take_issues(),
            ..Default::default()
        },
    })
}

enum Failed {
    Io(rustix::io::Errno),
    Other(CaptureError),
}

impl Failed {
    fn named(self, path: &[u8]) -> CaptureError {
        match self {
            Self::Io(error) => CaptureError::io("read", path, error),
            Self::Other(error) => error,
        }
    }
}

/// Reads some stripes with all workers; gives their segments in order.
fn round(
    sink: &dyn Sink,
    fd: &OwnedFd,
    from: u64,
    to: u64,
    workers: usize,
    monitor: &Monitor,
) -> Result<Vec<Segment>, Failed> {
    let stripes: Vec<u64> = (from..to).step_by(STRIPE as usize).collect();
    let done: Mutex<Vec<Vec<Segment>>> = Mutex::new(vec![Vec::new(); stripes.len()]);
    let failed = Mutex::new(None);
    let pool = Pool::new();
    pool.run(workers, (0..stripes.len()).rev().collect(), |at: usize| {
        let begin = stripes[at];
        match stripe(sink, fd, begin, to.min(begin + STRIPE), monitor) {
            Ok(segments) => done.lock().unwrap_or_else(PoisonError::into_inner)[at] = segments,
            Err(error) => {
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                pool.close();
            }
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner).concat()),
    }
}

fn stripe(
    sink: &dyn Sink,
    fd: &OwnedFd,
    from: u64,
    to: u64,
    monitor: &Monitor,
) -> Result<Vec<Segment>, Failed> {
    let mut segments = Vec::new();
    let mut buffer = vec![0; EXTENT_SIZE];
    let mut at = from;
    while at < to {
        if monitor.is_cancelled() {
            return Err(Failed::Other(CaptureError::Cancelled));
        }
        // Whole extents that were never written need not be read.
        if let Some(Ok(Extent::Hole { length })) = Extents::within(fd, at, to).next() {
            let whole = if at + length == to { length } else { length - length % EXTENT_SIZE as u64 };
            if whole > 0 {
                segments.push(Segment::Hole { length: whole });
                at += whole;
                continue;
            }
        }
        let length = (to - at).min(EXTENT_SIZE as u64) as usize;
        let data = &mut buffer[..length];
        let count = read_full(fd, data, at).map_err(Failed::Io)?;
        data[count..].fill(0); // it has become shorter, which is reported
        monitor.moved(count as u64);
        monitor.tell(Vec::new);
        segments.push(if is_zero(data) {
            Segment::Hole { length: length as u64 }
        } else {
            let id = sink.put(Kind::Data, &[], data).map_err(|error| Failed::Other(error.into()))?;
            Segment::Data { id, length: length as u64 }
        });
        at += length as u64;
    }
    Ok(segments)
}

fn is_zero(data: &[u8]) -> bool {
    let (blocks, rest) = data.as_chunks::<64>();
    blocks.iter().all(|block| *block == [0; 64]) && rest.iter().all(|byte| *byte == 0)
}
