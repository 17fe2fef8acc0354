//! Writing of contents, where they differ from what is there.

use super::{Naming, file::WriteFailed};
use crate::{
    monitor::Monitor,
    tree::{Nodes, Segment},
};
use anshin_vault::PLAIN_SIZE_MAX;
use rustix::{
    fd::OwnedFd,
    fs::{FallocateFlags, SeekFrom, fallocate, seek},
    io::{Errno, pread, pwrite},
};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// What is there already is compared in blocks of this size; only blocks that differ are written.
const BLOCK: usize = 4096;
/// Read and compared at once.
const COMPARED: u64 = 4 << 20;

/// Brings files to given contents.
#[derive(Clone, Copy)]
pub(crate) struct Writing<'w> {
    pub nodes: &'w Nodes<'w>,
    pub monitor: &'w Monitor,
    pub naming: Option<Naming<'w>>,
    /// Bytes written, and bytes that were there.
    pub written: &'w AtomicU64,
    pub equal: &'w AtomicU64,
    /// Set when the file is not what it was.
    pub changed: &'w AtomicBool,
}

impl Writing<'_> {
    /// Writes one piece at its offset. Nothing is there yet if the file is `fresh`.
    pub fn segment(
        &self,
        fd: &OwnedFd,
        fresh: bool,
        offset: u64,
        segment: Segment,
    ) -> Result<(), WriteFailed> {
        let (id, length) = match segment {
            Segment::Hole { .. } if fresh => return Ok(()),
            Segment::Hole { length } => return Ok(self.hole(fd, offset, length)?),
            Segment::Data { id, length } => (id, length),
        };
        if !fresh
            && let Some(naming) = self.naming
            && length <= PLAIN_SIZE_MAX as u64
        {
            let mut now = vec![0; length as usize];
            if read_full(fd, &mut now, offset)? == now.len() && naming(&now) == id {
                self.equal.fetch_add(length, Relaxed);
                return Ok(());
            }
        }
        let data = self.nodes.data(&id, length)?;
        self.monitor.moved(length);
        self.bytes(fd, fresh, offset, &data)
    }

    /// Writes bytes at an offset.
    pub fn bytes(&self, fd: &OwnedFd, fresh: bool, offset: u64, data: &[u8]) -> Result<(), WriteFailed> {
        let mut now = Vec::new();
        if !fresh {
            now.resize(data.len(), 0);
            let there = read_full(fd, &mut now, offset)?;
            now.truncate(there);
        }
        let differs = |at: usize| {
            let end = data.len().min(at + BLOCK);
            now.get(at..end) != Some(&data[at..end])
        };
        let mut at = 0;
        while at < data.len() {
            // A run of blocks that all differ, or all do not.
            let (begin, different) = (at, differs(at));
            while at < data.len() && differs(at) == different {
                at = data.len().min(at + BLOCK);
            }
            let count = if different {
                if !fresh {
                    self.changed.store(true, Relaxed);
                }
                write_full(fd, &data[begin..at], offset + begin as u64)?;
                self.written
            } else {
                self.equal
            };
            count.fetch_add((at - begin) as u64, Relaxed);
        }
        Ok(())
    }

    /// Makes a hole where there is data.
    fn hole(&self, fd: &OwnedFd, offset: u64, length: u64) -> Result<(), Errno> {
        match seek(fd, SeekFrom::Data(offset)) {
            Ok(data) if data >= offset + length => return Ok(()),
            Err(Errno::NXIO) => return Ok(()), // a hole up to the end already
            _ => {}
        }
        self.changed.store(true, Relaxed);
        match fallocate(fd, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length) {
            Err(Errno::OPNOTSUPP | Errno::NODEV | Errno::INVAL) => self.zero(fd, offset, length),
            result => result,
        }
    }

    /// Writes zeroes where something else is: for file systems and devices without holes.
    fn zero(&self, fd: &OwnedFd, mut offset: u64, mut left: u64) -> Result<(), Errno> {
        let mut now = vec![0; COMPARED.min(left) as usize];
        while left > 0 {
            let part = left.min(COMPARED) as usize;
            let there = read_full(fd, &mut now[..part], offset)?;
            if now[..there].iter().any(|byte| *byte != 0) {
                now[..there].fill(0);
                write_full(fd, &now[..there], offset)?;
                self.written.fetch_add(there as u64, Relaxed);
            }
            if there < part {
                return Ok(()); // behind the end; the size is set later
            }
            (offset, left) = (offset + part as u64, left - part as u64);
        }
        Ok(())
    }
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
