//! A snapshot of parts that are captured one after the other, at places of their own.

use super::{
    Backup, BackupOptions, BackupReport, BackupRoot,
    roots::{Branch, Plan, names_of},
    walk::{Walk, mount_tag},
};
use crate::{
    cache::{CacheWriter, FilesCache},
    error::CaptureError,
    image::capture_stream,
    monitor::Monitor,
    tree::{Entry, write_root},
};
use anshin_base::Problem;
use anshin_vault::Sink;
use std::{io::Read, os::unix::ffi::OsStrExt, path::Path};

/// Collects parts; [`Composer::finish`] makes the snapshot of them.
pub struct Composer<'s> {
    sink: &'s dyn Sink,
    top: Branch,
    report: BackupReport,
}

impl<'s> Composer<'s> {
    /// Without parts.
    pub fn new(sink: &'s dyn Sink) -> Self {
        Self { sink, top: Branch::default(), report: BackupReport::default() }
    }

    /// Captures a directory or file to be at `root.path`.
    ///
    /// # Errors
    /// As [`super::backup`]; also if something is at that place already.
    pub fn tree(
        &mut self,
        root: BackupRoot,
        options: &BackupOptions,
        monitor: &Monitor,
    ) -> Result<BackupReport, CaptureError> {
        let place = root.path.clone();
        self.check(&place)?;
        let plan = Plan::new(&[root])?;
        let old = options.cache.as_ref().and_then(|cache| FilesCache::open(&cache.path, &cache.tag, monitor));
        let new =
            options.cache.as_ref().and_then(|cache| CacheWriter::create(&cache.path, &cache.tag, monitor));
        let before = monitor.progress().bytes_moved;
        // Parts may be of different file systems: files of equal numbers are not the same.
        let mount = mount_tag(place.as_os_str().as_bytes());
        let walk = Walk::new(self.sink, options, monitor, &plan, old, new, mount);
        let entries = walk.entries(&plan)?;
        let mut report = walk.finish(options);
        report.bytes_read = report.bytes_read.saturating_sub(before);
        for entry in entries {
            self.put(&place, entry)?;
        }
        self.add(&report);
        Ok(report)
    }

    /// Captures what `input` gives as the file `place` with these permissions.
    ///
    /// # Errors
    /// As [`crate::image::backup_stream`]; also if something is at that place already.
    pub fn stream(
        &mut self,
        input: impl Read,
        place: &Path,
        mode: u16,
        options: &BackupOptions,
        monitor: &Monitor,
    ) -> Result<u64, CaptureError> {
        self.check(place)?;
        let mut entry = capture_stream(self.sink, input, place, options, monitor)?;
        entry.attributes.mode = mode & 0o7777;
        let bytes = entry.content().map_or(0, |content| content.data());
        self.put(place, entry)?;
        let issues = monitor.take_issues();
        self.add(&BackupReport { files: 1, bytes, bytes_read: bytes, issues, ..BackupReport::default() });
        Ok(bytes)
    }

    /// The snapshot of all parts.
    ///
    /// # Errors
    /// If there are none, or the vault does not take an object.
    pub fn finish(self) -> Result<Backup, CaptureError> {
        if self.top.children.is_empty() {
            return Err(CaptureError::problem(Problem::new("backup-root", "there is nothing to back up")));
        }
        let entry = self.top.seal(self.sink, Vec::new())?;
        Ok(Backup { root: write_root(self.sink, &entry)?, report: self.report })
    }

    fn add(&mut self, part: &BackupReport) {
        let report = &mut self.report;
        report.files += part.files;
        report.directories += part.directories;
        report.others += part.others;
        report.unchanged += part.unchanged;
        report.bytes += part.bytes;
        report.bytes_read += part.bytes_read;
        report.issues.append(&part.issues);
    }

    fn check(&self, place: &Path) -> Result<(), CaptureError> {
        let refuse = || {
            let message =
                format!("`{}` is taken in the snapshot, or lies in something that is", place.display());
            CaptureError::problem(Problem::new("backup-root", message))
        };
        let names = names_of(place)?;
        if names.is_empty() {
            return Err(refuse());
        }
        let mut at = &self.top;
        for name in &names {
            if at.captured.is_some() {
                return Err(refuse());
            }
            match at.children.get(name) {
                Some(next) => at = next,
                None => return Ok(()),
            }
        }
        Err(refuse())
    }

    fn put(&mut self, place: &Path, entry: Entry) -> Result<(), CaptureError> {
        let mut at = &mut self.top;
        for name in names_of(place)? {
            at = at.children.entry(name).or_default();
        }
        at.captured = Some(entry);
        Ok(())
    }
}
