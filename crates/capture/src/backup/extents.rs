//! Which parts of a file hold data.

use rustix::{
    fd::AsFd,
    fs::{SeekFrom, seek},
    io::{Errno, Result},
};

/// A part of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Extent {
    Data { offset: u64, length: u64 },
    Hole { length: u64 },
}

/// Walks over the parts of a file up to the size it had when it was opened.
pub(crate) struct Extents<F> {
    fd: F,
    at: u64,
    size: u64,
}

impl<F: AsFd> Extents<F> {
    pub fn new(fd: F, size: u64) -> Self {
        Self { fd, at: 0, size }
    }

    /// The parts between two offsets; the second must not lie behind the end.
    pub fn within(fd: F, from: u64, to: u64) -> Self {
        Self { fd, at: from, size: to }
    }

    fn step(&mut self) -> Result<Extent> {
        let (from, size) = (self.at, self.size);
        let data = match seek(&self.fd, SeekFrom::Data(from)) {
            Ok(data) => data.clamp(from, size),
            Err(Errno::NXIO) => size,                     // a hole up to the end
            Err(Errno::INVAL | Errno::OPNOTSUPP) => from, // the file system does not know: all of it is data
            Err(error) => return Err(error),
        };
        if data > from {
            self.at = data;
            return Ok(Extent::Hole { length: data - from });
        }
        let hole = match seek(&self.fd, SeekFrom::Hole(from)) {
            Ok(hole) if hole > from => hole.min(size),
            Ok(_) | Err(Errno::NXIO | Errno::INVAL | Errno::OPNOTSUPP) => size,
            Err(error) => return Err(error),
        };
        self.at = hole;
        Ok(Extent::Data { offset: from, length: hole - from })
    }
}

impl<F: AsFd> Iterator for Extents<F> {
    type Item = Result<Extent>;

    fn next(&mut self) -> Option<Self::Item> {
        (self.at < self.size).then(|| {
            let extent = self.step();
            if extent.is_err() {
                self.at = self.size;
            }
            extent
        })
    }
}
