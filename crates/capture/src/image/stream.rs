//! Backup of whatever a program prints.

use crate::{
    backup::{Backup, BackupOptions, BackupReport, place},
    error::CaptureError,
    monitor::Monitor,
    sys::OwnerNames,
    tree::{Attributes, CONTENT_INLINE_MAX, Content, ContentWriter, Entry, EntryKind, Segment},
};
use anshin_vault::{Kind, Sink};
use rustix::io::Errno;
use std::{io::Read, os::unix::ffi::OsStrExt, path::Path};

/// Backs up everything that `input` gives until it ends, as the file `name` (an absolute path) in the snapshot.
///
/// # Errors
/// If it cannot be read, the vault does not take an object, or it was cancelled: half a stream is no backup.
pub fn backup_stream(
    sink: &dyn Sink,
    input: impl Read,
    name: &Path,
    options: &BackupOptions,
    monitor: &Monitor,
) -> Result<Backup, CaptureError> {
    let entry = capture_stream(sink, input, name, options, monitor)?;
    let bytes = entry.content().map_or(0, Content::data);
    let root = place(sink, name, entry)?;
    let issues = monitor.take_issues();
    Ok(Backup {
        root,
        report: BackupReport { files: 1, bytes, bytes_read: bytes, issues, ..BackupReport::default() },
    })
}

/// The stream as an entry that belongs nowhere yet.
pub(crate) fn capture_stream(
    sink: &dyn Sink,
    input: impl Read,
    name: &Path,
    options: &BackupOptions,
    monitor: &Monitor,
) -> Result<Entry, CaptureError> {
    let shown = name.as_os_str().as_bytes();
    let mut chunks = options.chunker.chunks(input);
    let mut writer = ContentWriter::new();
    let mut only: Option<Vec<u8>> = None;
    let mut count = 0u64;
    loop {
        if monitor.is_cancelled() {
            return Err(CaptureError::Cancelled);
        }
        let chunk = chunks.next_chunk().map_err(|error| {
            CaptureError::io("read", shown, Errno::from_io_error(&error).unwrap_or(Errno::IO))
        })?;
        let Some(chunk) = chunk else { break };
        let length = chunk.len() as u64;
        // Whether such a small piece is all there is shows only behind it.
        only = (count == 0 && chunk.len() <= CONTENT_INLINE_MAX).then(|| chunk.to_vec());
        count += 1;
        if only.is_none() {
            let id = sink.put(Kind::Data, &[], chunk)?;
            writer.push(sink, Segment::Data { id, length })?;
        }
        monitor.moved(length);
        monitor.tell(|| shown.to_vec());
    }
    let content = match only {
        Some(bytes) => Content::Inline(bytes.into()),
        None => writer.finish(sink)?.0,
    };
    monitor.done(content.data());
    let process = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let owner = OwnerNames::default().get(process.0, process.1);
    let attributes = Attributes { mode: 0o600, owner, mtime: options.now, ..Attributes::default() };
    Ok(Entry { name: Box::default(), kind: EntryKind::File(content), attributes, link: None })
}
