//! Writing of contents, where they differ from what is there.

use super::{engine::Engine, file::WriteFailed, target::Restorer};
use crate::tree::Segment;
use rustix::{
    fd::OwnedFd,
    fs::{FallocateFlags, SeekFrom, fallocate, seek},
    io::{Errno, pread, pwrite},
};
use std::sync::atomic::Ordering::Relaxed;

/// What is there already is compared in blocks of this size; only blocks that differ are written.
const BLOCK: usize = 4096;
/// Read and compared at once.
const COMPARED: u64 = 4 << 20;

/// Writes one piece at its offset.
pub(super) fn segment(
    restorer: &Restorer<'_>,
    engine: &Engine<'_, Restorer<'_>>,
    fd: &OwnedFd,
    fresh: bool,
    offset: u64,
    segment: Segment,
) -> Result<(), WriteFailed> {
    match segment {
        Segment::Hole { .. } if fresh => Ok(()),
        Segment::Hole { length } => Ok(hole(restorer, fd, offset, length)?),
        Segment::Data { id, length } => {
            if !fresh
                && let Some(naming) = restorer.options.naming
                && length <= COMPARED * 2
            {
                let mut now = vec![0; length as usize];
                if read_full(fd, &mut now, offset)? == now.len() && naming(&now) == id {
                    restorer.counts.equal.fetch_add(length, Relaxed);
                    return Ok(());
                }
            }
            let data = engine.nodes.data(&id, length)?;
            engine.monitor.moved(length);
            bytes(restorer, fd, fresh, offset, &data)
        }
    }
}

/// Writes bytes at an offset.
pub(super) fn bytes(
    restorer: &Restorer<'_>,
    fd: &OwnedFd,
    fresh: bool,
    offset: u64,
    data: &[u8],
) -> Result<(), WriteFailed> {
    let mut now = Vec::new();
    if !fresh {
        now.resize(data.len(), 0);
        let there = read_full(fd, &mut now, offset)?;
        now.truncate(there);
    }
    // Runs of blocks that differ.
    let mut at = 0;
    while at < data.len() {
        let differs = |at: usize| {
            let end = data.len().min(at + BLOCK);
            now.get(at..end) != Some(&data[at..end])
        };
        let begin = at;
        let different = differs(at);
        while at < data.len() && differs(at) == different {
            at = data.len().min(at + BLOCK);
        }
        let count = if different {
            write_full(fd, &data[begin..at], offset + begin as u64)?;
            &restorer.counts.written
        } else {
            &restorer.counts.equal
        };
        count.fetch_add((at - begin) as u64, Relaxed);
    }
    Ok(())
}

/// Makes a hole where there is data.
fn hole(restorer: &Restorer<'_>, fd: &OwnedFd, offset: u64, length: u64) -> Result<(), Errno> {
    match seek(fd, SeekFrom::Data(offset)) {
        Ok(data) if data >= offset + length => return Ok(()),
        Err(Errno::NXIO) => return Ok(()), // a hole up to the end already
        _ => {}
    }
    match fallocate(fd, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length) {
        Err(Errno::OPNOTSUPP) => zero(restorer, fd, offset, length),
        result => result,
    }
}

/// Writes zeroes where something else is, on file systems without holes.
pub(super) fn zero(restorer: &Restorer<'_>, fd: &OwnedFd, mut offset: u64, mut left: u64) -> Result<(), Errno> {
    let mut now = vec![0; COMPARED.min(left) as usize];
    while left > 0 {
        let part = left.min(COMPARED) as usize;
        let there = read_full(fd, &mut now[..part], offset)?;
        if now[..there].iter().any(|byte| *byte != 0) {
            now[..there].fill(0);
            write_full(fd, &now[..there], offset)?;
            restorer.counts.written.fetch_add(there as u64, Relaxed);
        }
        if there < part {
            return Ok(()); // behind the end; the size is set later
        }
        (offset, left) = (offset + part as u64, left - part as u64);
    }
    Ok(())
}

/// Reads until the buffer is full or the file ends.
pub(crate) fn read_full(fd: &OwnedFd, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let mut done = 0;
    while done < buffer.len() {
        match pread(fd, &mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes everything.
pub(crate) fn write_full(fd: &OwnedFd, data: &[u8], offset: u64) -> Result<(), Errno> {
    let mut done = 0;
    while done < data.len() {
        match pwrite(fd, &data[done..], offset + done as u64) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
