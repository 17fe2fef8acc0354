//! The names in a directory, sorted, in little memory.

use crate::monitor::Monitor;
use rustix::{
    fd::AsFd,
    fs::RawDir,
    io::{Errno, Result},
};
use std::ffi::CStr;

/// Names with their closing zero bytes, one after the other, and where each begins.
#[derive(Default)]
pub(crate) struct Names {
    bytes: Vec<u8>,
    starts: Vec<u32>,
}

impl Names {
    /// Reads a directory whose position is at its beginning.
    pub fn read(directory: impl AsFd, monitor: &Monitor) -> Result<Self> {
        let mut buffer = Vec::with_capacity(32 << 10);
        let mut names = Self::default();
        let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes_with_nul();
            if matches!(name, b".\0" | b"..\0") {
                continue;
            }
            let start = u32::try_from(names.bytes.len()).map_err(|_| Errno::FBIG)?;
            names.starts.push(start);
            names.bytes.extend_from_slice(name);
            if names.starts.len() % 4096 == 0 && monitor.is_cancelled() {
                break;
            }
        }
        names.sort();
        Ok(names)
    }

    fn sort(&mut self) {
        let mut starts = std::mem::take(&mut self.starts);
        starts.sort_unstable_by(|a, b| self.from(*a).cmp(self.from(*b)));
        // A directory that changes while it is read may show a name twice.
        starts.dedup_by(|a, b| self.from(*a) == self.from(*b));
        self.starts = starts;
    }

    fn from(&self, start: u32) -> &CStr {
        let rest = &self.bytes[start as usize..];
        CStr::from_bytes_until_nul(rest).expect("invariant: every name is stored with its zero byte")
    }

    pub fn get(&self, at: usize) -> &CStr {
        self.from(self.starts[at])
    }

    pub fn len(&self) -> usize {
        self.starts.len()
    }

    pub fn contains(&self, name: &CStr) -> bool {
        self.starts.binary_search_by(|start| self.from(*start).cmp(name)).is_ok()
    }

    /// Leaves only this name.
    pub fn retain_only(&mut self, name: &CStr) {
        let mut starts = std::mem::take(&mut self.starts);
        starts.retain(|start| self.from(*start) == name);
        self.starts = starts;
    }
}
