//! Reading the contents of a file and handing them to the vault in pieces.

use super::{
    Extent, Extents, entry,
    job::DirectoryJob,
    links::Captured,
    walk::{Task, Walk},
};
use crate::{
    error::CaptureError,
    report::IssueKind,
    sys::{Stat, XattrTarget, stat_fd},
    tree::{
        Attributes, CONTENT_INLINE_MAX, ChunkId, Content, ContentWriter, Entry, EntryKind, LinkGroup, Segment,
    },
};
use anshin_vault::{
    Kind, VaultError,
    chunker::{CHUNK_SIZE_MAX, CHUNK_SIZE_MIN},
};
use rustix::{
    fd::OwnedFd,
    fs::{Advice, fadvise},
    io::{Errno, pread},
};
use std::{
    num::NonZeroU64,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

/// The pieces of a larger file are put into the vault by several workers.
const SPREAD_MIN: u64 = 16 << 20;
/// Bytes of pieces that may wait for a worker, all files together. Beyond, the reader puts them itself.
const WAITING_MAX: u64 = 32 << 20;
/// Read at once: room to cut one piece behind another without moving bytes for each.
const BUFFER: usize = 2 * CHUNK_SIZE_MAX;

/// A file whose contents are being captured.
pub(crate) struct FileJob {
    directory: Arc<DirectoryJob>,
    slot: usize,
    name: Box<[u8]>,
    stat: Stat,
    attributes: Attributes,
    link: Option<LinkGroup>,
    /// It changed while it was read and is being read again: what comes of this attempt is forgotten.
    abandoned: AtomicBool,
    state: Mutex<FileState>,
}

#[derive(Default)]
struct FileState {
    pieces: Vec<Piece>,
    /// Pieces without id, and one for the reader.
    pending: usize,
    changed: bool,
}

enum Piece {
    Hole(u64),
    Data(u64, Option<ChunkId>),
    /// All of a very small file.
    Inline(Box<[u8]>),
}

impl FileJob {
    fn state(&self) -> MutexGuard<'_, FileState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Walk<'_> {
    /// Reads the contents; if the file changed meanwhile, once more.
    #[allow(clippy::too_many_arguments)] // what a file job is made of
    pub(super) fn contents(
        &self,
        job: &Arc<DirectoryJob>,
        slot: usize,
        name: Box<[u8]>,
        fd: OwnedFd,
        mut stat: Stat,
        mut attributes: Attributes,
        link: Option<LinkGroup>,
    ) -> Result<(), CaptureError> {
        for attempt in 0..2 {
            let file = Arc::new(FileJob {
                directory: job.clone(),
                slot,
                name: name.clone(),
                stat,
                attributes: attributes.clone(),
                link,
                abandoned: AtomicBool::new(false),
                state: Mutex::new(FileState { pending: 1, ..FileState::default() }),
            });
            let whole = match self.read(&file, &fd) {
                Ok(whole) => whole,
                Err(ReadFailed::Vault(error)) => return Err(error.into()),
                Err(ReadFailed::Cancelled) => return Err(CaptureError::Cancelled),
                Err(ReadFailed::File(error)) => {
                    file.abandoned.store(true, Relaxed);
                    let message = format!("the contents cannot be read: {error}");
                    self.monitor.issue(IssueKind::Unreadable, self.path(job, &name), message);
                    let kind = EntryKind::File(Content::Missing { size: stat.size });
                    return self.hand_in(
                        job,
                        slot,
                        &stat,
                        Entry { name, kind, attributes, link },
                        Vec::new(),
                    );
                }
            };
            let after = stat_fd(&fd).unwrap_or(stat);
            let changed = !whole || !after.same_version(&stat);
            if changed && attempt == 0 {
                file.abandoned.store(true, Relaxed);
                let path = || self.path(job, &name);
                let xattrs = self.xattrs_of(&after, &XattrTarget::open(&fd), &path)?;
                (stat, attributes) =
                    (after, entry::attributes_of(&after, &self.owners, self.options.access_times));
                attributes.xattrs = xattrs;
                (attributes.flags, attributes.project) = self.flags_of(&after, &fd, &path);
                continue;
            }
            if changed {
                let why = "it changed while it was read, twice; what was captured may be a mixture";
                self.monitor.issue(IssueKind::Changed, self.path(job, &name), why);
            }
            file.state().changed = changed;
            return self.piece_done(&file);
        }
        Ok(())
    }

    /// Hands the contents to the vault piece by piece. False if the file ended before the size it claimed.
    fn read(&self, file: &Arc<FileJob>, fd: &OwnedFd) -> Result<bool, ReadFailed> {
        let size = file.stat.size;
        if size > CHUNK_SIZE_MIN as u64 {
            let _ = fadvise(fd, 0, NonZeroU64::new(size), Advice::Sequential); // advice
        }
        let mut buffer = Vec::new();
        for extent in Extents::new(fd, size) {
            match extent.map_err(ReadFailed::File)? {
                Extent::Hole { length } => file.state().pieces.push(Piece::Hole(length)),
                Extent::Data { offset, length } => {
                    if !self.read_extent(file, fd, offset, length, &mut buffer)? {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    fn read_extent(
        &self,
        file: &Arc<FileJob>,
        fd: &OwnedFd,
        mut offset: u64,
        mut left: u64,
        buffer: &mut Vec<u8>,
    ) -> Result<bool, ReadFailed> {
        buffer.resize(usize::try_from(left).unwrap_or(BUFFER).min(BUFFER), 0);
        let (mut begin, mut end) = (0, 0);
        loop {
            if end - begin < CHUNK_SIZE_MAX && left > 0 {
                buffer.copy_within(begin..end, 0);
                (begin, end) = (0, end - begin);
                while end < buffer.len() && left > 0 {
                    let room = (buffer.len() - end).min(usize::try_from(left).unwrap_or(usize::MAX));
                    let count = pread(fd, &mut buffer[end..end + room], offset).map_err(ReadFailed::File)?;
                    if count == 0 {
                        return Ok(false);
                    }
                    self.monitor.moved(count as u64);
                    (end, offset, left) = (end + count, offset + count as u64, left - count as u64);
                }
            }
            if begin == end {
                return Ok(true);
            }
            if self.monitor.is_cancelled() {
                return Err(ReadFailed::Cancelled);
            }
            let length = self.options.chunker.cut(&buffer[begin..end]);
            self.hand_out(file, &buffer[begin..begin + length])?;
            begin += length;
        }
    }

    /// Puts a piece into the vault, or leaves that to another worker.
    fn hand_out(&self, file: &Arc<FileJob>, data: &[u8]) -> Result<(), ReadFailed> {
        if file.stat.size <= CONTENT_INLINE_MAX as u64 {
            file.state().pieces.push(Piece::Inline(data.into()));
            return Ok(());
        }
        let length = data.len() as u64;
        let at = {
            let mut state = file.state();
            state.pieces.push(Piece::Data(length, None));
            state.pieces.len() - 1
        };
        if file.stat.size >= SPREAD_MIN && self.waiting.fetch_add(length, Relaxed) + length <= WAITING_MAX {
            file.state().pending += 1;
            self.pool.push(Task::Piece(file.clone(), at, data.to_vec()));
            return Ok(());
        }
        if file.stat.size >= SPREAD_MIN {
            self.waiting.fetch_sub(length, Relaxed);
        }
        let id = self.sink.put(Kind::Data, &[], data).map_err(ReadFailed::Vault)?;
        file.state().pieces[at] = Piece::Data(length, Some(id));
        Ok(())
    }

    /// Puts a piece of a large file into the vault.
    pub fn piece(&self, file: &Arc<FileJob>, at: usize, data: Vec<u8>) -> Result<(), CaptureError> {
        let length = data.len() as u64;
        if !file.abandoned.load(Relaxed) {
            let id = self.sink.put(Kind::Data, &[], &data)?;
            file.state().pieces[at] = Piece::Data(length, Some(id));
        }
        drop(data);
        self.waiting.fetch_sub(length, Relaxed);
        self.piece_done(file)
    }

    /// The last piece completes the file.
    fn piece_done(&self, file: &Arc<FileJob>) -> Result<(), CaptureError> {
        let pieces = {
            let mut state = file.state();
            state.pending -= 1;
            if state.pending > 0 || file.abandoned.load(Relaxed) {
                return Ok(());
            }
            std::mem::take(&mut state.pieces)
        };
        let mut writer = ContentWriter::new();
        for piece in pieces {
            let segment = match piece {
                Piece::Inline(bytes) => return self.completed(file, Content::Inline(bytes), Vec::new()),
                Piece::Hole(length) => Segment::Hole { length },
                Piece::Data(length, id) => {
                    Segment::Data { id: id.expect("invariant: no piece is pending"), length }
                }
            };
            writer.push(self.sink, segment)?;
        }
        let (content, closure) = writer.finish(self.sink)?;
        self.completed(file, content, closure)
    }

    fn completed(
        &self,
        file: &Arc<FileJob>,
        content: Content,
        closure: Vec<ChunkId>,
    ) -> Result<(), CaptureError> {
        let attributes = file.attributes.clone();
        let entry =
            Entry { name: file.name.clone(), kind: EntryKind::File(content), attributes, link: file.link };
        let mut stat = file.stat;
        if file.state().changed {
            // Never to be believed next time.
            stat.mtime = self.options.now;
        } else if let Some(group) = file.link {
            self.links.put(group, Captured { stat, entry: entry.clone(), closure: closure.clone() });
        }
        self.hand_in(&file.directory, file.slot, &stat, entry, closure)
    }
}

enum ReadFailed {
    File(Errno),
    Vault(VaultError),
    Cancelled,
}
