//! Bringing back of devices, images and streams.

use crate::{
    browse::resolve,
    error::CaptureError,
    monitor::Monitor,
    pool::Pool,
    report::Issues,
    restore::{Naming, RestoreReport, WriteFailed, write::Writing},
    sys::{StatKind, stat_fd},
    tree::{ChunkId, Content, ContentReader, Nodes, ReadError, Segment},
};
use anshin_base::Problem;
use anshin_vault::Source;
use rustix::{
    fd::OwnedFd,
    fs::{CWD, Mode, OFlags, SeekFrom, fsync, ftruncate, openat, seek},
    io::Errno,
};
use std::{
    io::Write,
    ops::ControlFlow,
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

/// Pieces in one task.
const BATCH: usize = 16;
/// Tasks that wait at once: the list of a huge image is not held in memory.
const WAITING: usize = 256;

fn contents(nodes: &Nodes<'_>, root: &ChunkId, path: &[u8]) -> Result<Content, CaptureError> {
    match resolve(nodes, root, path)?.content() {
        Some(Content::Missing { .. }) | None => {
            let message = format!("`{}` in the snapshot has no contents", path.escape_ascii());
            Err(CaptureError::problem(Problem::new("no-contents", message)))
        }
        Some(content) => Ok(content.clone()),
    }
}

/// Writes the image (or file) at `path` of the snapshot over the block device or file `target`; a file is made if need be.
/// Blocks that are equal are not written. The device must be large enough and not in use.
///
/// # Errors
/// If anything cannot be read or written: half an image is no restore.
pub fn restore_image(
    source: &dyn Source,
    root: &ChunkId,
    path: &[u8],
    target: &Path,
    naming: Option<Naming<'_>>,
    workers: usize,
    monitor: &Monitor,
) -> Result<RestoreReport, CaptureError> {
    let nodes = Nodes::new(source, 64);
    let content = contents(&nodes, root, path)?;
    let shown = target.as_os_str().as_bytes();
    let io = |error| CaptureError::io("write", shown, error);
    let (fd, fresh) = open_target(target, content.size(), shown)?;
    let (written, equal) = (AtomicU64::new(0), AtomicU64::new(0));
    let changed = AtomicBool::new(false); // everything is flushed in the end
    let writing =
        Writing { nodes: &nodes, monitor, naming, written: &written, equal: &equal, changed: &changed };
    let failed = write_all(&writing, &content, &fd, fresh, workers);
    if let Err(error) = failed {
        return Err(match error {
            WriteFailed::Io(Errno::NOSPC | Errno::DQUOT) => {
                CaptureError::Full { path: shown.into(), written: written.load(Relaxed) }
            }
            WriteFailed::Io(error) => io(error),
            WriteFailed::Fatal(error) => error,
            WriteFailed::Damaged(message) => CaptureError::problem(Problem::new("snapshot-damaged", message)),
        });
    }
    fsync(&fd).map_err(io)?;
    monitor.done(content.data());
    Ok(RestoreReport {
        others: 1,
        bytes_written: written.into_inner(),
        bytes_equal: equal.into_inner(),
        issues: Issues::default(),
        ..RestoreReport::default()
    })
}

/// Opens a device or file to be overwritten. True if it was made for that.
fn open_target(target: &Path, size: u64, shown: &[u8]) -> Result<(OwnedFd, bool), CaptureError> {
    let io = |error| CaptureError::io("open", shown, error);
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match openat(CWD, target, flags | OFlags::CREATE | OFlags::EXCL, Mode::RUSR | Mode::WUSR) {
        Ok(fd) => {
            ftruncate(&fd, size).map_err(io)?;
            return Ok((fd, true));
        }
        Err(Errno::EXIST) => {}
        Err(error) => return Err(io(error)),
    }
    // Exclusive also for a device: the kernel refuses one that is mounted.
    let fd = openat(CWD, target, flags | OFlags::EXCL, Mode::empty()).map_err(io)?;
    match stat_fd(&fd).map_err(io)?.kind {
        StatKind::File => ftruncate(&fd, size).map_err(io)?,
        StatKind::BlockDevice => {
            let room = seek(&fd, SeekFrom::End(0)).map_err(io)?;
            if room < size {
                let message = format!("`{}` has {room} bytes, the image {size}", shown.escape_ascii());
                return Err(CaptureError::problem(Problem::refused("target-too-small", message)));
            }
        }
        _ => return Err(io(Errno::NOTBLK)),
    }
    Ok((fd, false))
}

fn write_all(
    writing: &Writing<'_>,
    content: &Content,
    fd: &OwnedFd,
    fresh: bool,
    workers: usize,
) -> Result<(), WriteFailed> {
    if let Content::Inline(bytes) = content {
        return writing.bytes(fd, fresh, 0, bytes);
    }
    let mut waiting: Vec<Vec<(u64, Segment)>> = Vec::new();
    let mut batch = Vec::new();
    let walked = ContentReader::new(writing.nodes).segments(content, |offset, segment| {
        batch.push((offset, segment));
        if batch.len() == BATCH {
            waiting.push(std::mem::take(&mut batch));
        }
        if waiting.len() == WAITING
            && let Err(error) = write_batches(writing, fd, fresh, std::mem::take(&mut waiting), workers)
        {
            return ControlFlow::Break(error);
        }
        ControlFlow::Continue(())
    });
    match walked {
        Ok(ControlFlow::Continue(())) => {}
        Ok(ControlFlow::Break(error)) => return Err(error),
        Err(error) => return Err(error.into()),
    }
    waiting.push(batch);
    write_batches(writing, fd, fresh, waiting, workers)
}

fn write_batches(
    writing: &Writing<'_>,
    fd: &OwnedFd,
    fresh: bool,
    mut batches: Vec<Vec<(u64, Segment)>>,
    workers: usize,
) -> Result<(), WriteFailed> {
    batches.reverse();
    let failed = Mutex::new(None);
    let pool = Pool::new();
    pool.run(workers, batches, |batch: Vec<(u64, Segment)>| {
        for (offset, segment) in batch {
            let result = match writing.monitor.is_cancelled() {
                true => Err(WriteFailed::Fatal(CaptureError::Cancelled)),
                false => writing.segment(fd, fresh, offset, segment),
            };
            if let Err(error) = result {
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                return pool.close();
            }
            writing.monitor.tell(Vec::new);
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// Writes the contents of the file, image or stream at `path` of the snapshot to `output`, holes as zeroes.
///
/// # Errors
/// If anything cannot be read or written, or it was cancelled.
pub fn restore_stream(
    source: &dyn Source,
    root: &ChunkId,
    path: &[u8],
    output: &mut dyn Write,
    monitor: &Monitor,
) -> Result<u64, CaptureError> {
    let nodes = Nodes::new(source, 64);
    let content = contents(&nodes, root, path)?;
    let failed = |error: std::io::Error| {
        CaptureError::io("write", path, Errno::from_io_error(&error).unwrap_or(Errno::IO))
    };
    if let Content::Inline(bytes) = &content {
        output.write_all(bytes).map_err(failed)?;
    }
    let zeroes = vec![0; 256 << 10];
    let walked = ContentReader::new(&nodes).segments(&content, |_, segment| {
        let mut write = || -> Result<(), CaptureError> {
            if monitor.is_cancelled() {
                return Err(CaptureError::Cancelled);
            }
            match segment {
                Segment::Data { id, length } => {
                    let data =
                        nodes.data(&id, length).map_err(|error: ReadError| CaptureError::from(error))?;
                    output.write_all(&data).map_err(failed)?;
                }
                Segment::Hole { length } => {
                    let mut left = length;
                    while left > 0 {
                        let part = left.min(zeroes.len() as u64);
                        output.write_all(&zeroes[..part as usize]).map_err(failed)?;
                        left -= part;
                    }
                }
            }
            monitor.moved(segment.length());
            monitor.tell(|| path.to_vec());
            Ok(())
        };
        match write() {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    })?;
    if let ControlFlow::Break(error) = walked {
        return Err(error);
    }
    output.flush().map_err(failed)?;
    Ok(content.size())
}
