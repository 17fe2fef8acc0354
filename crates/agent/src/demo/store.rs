//! The file of the demonstration program: lines, each with a checksum, each durable before it is acknowledged.
//!
//! ```text
//! d1b2c3d4 the text\n        crc32c of the text in eight hexadecimal digits, a blank, the text
//! ```
//! A crash can leave the last line torn; it was never acknowledged and is cut off at the next start. Damage anywhere
//! else was acknowledged once: the store refuses to open, instead of going on without lines it had promised to keep.

use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
};

/// Largest file: all lines are held in memory as well.
const FILE_SIZE_MAX: u64 = 256 << 20;
/// Longest text of a line.
const TEXT_SIZE_MAX: usize = 60 * 1024;

/// Why the store does not do as told. Except for `Io`, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk failed; what is durable is known only after opening again.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Another process has the store open.
    #[error("another process uses it")]
    Busy,
    /// An acknowledged line is damaged.
    #[error("line {line} of the file is damaged")]
    Damaged {
        /// Counted from 1.
        line: usize,
    },
    /// A text with a line break or too long.
    #[error("a text is one line of at most {TEXT_SIZE_MAX} bytes")]
    Text,
    /// No more lines.
    #[error("the store is full")]
    Full,
}

/// The open file and its lines.
#[derive(Debug)]
pub struct Store {
    file: File,
    size: u64,
    lines: Vec<String>,
}

impl Store {
    /// Opens or makes the store in `dir` and cuts off a torn last line.
    ///
    /// # Errors
    /// If the file cannot be used, is in use, or is damaged before its last line.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join("lines");
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            rustix::io::Errno::WOULDBLOCK => StoreError::Busy,
            other => StoreError::Io(other.into()),
        })?;
        // The name of a new file is durable only once its directory is.
        File::open(dir)?.sync_all()?;
        let mut bytes = Vec::new();
        (&file).take(FILE_SIZE_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > FILE_SIZE_MAX {
            return Err(StoreError::Full);
        }
        let (lines, size) = parse(&bytes)?;
        if size < bytes.len() {
            file.set_len(size as u64)?;
        }
        // What was read may be in memory only, written by a process that died before its flush.
        file.sync_all()?;
        file.seek(SeekFrom::Start(size as u64))?;
        Ok(Self { file, size: size as u64, lines })
    }

    /// Adds a line and gives their number, after it is durable.
    ///
    /// # Errors
    /// If the text is no line, the store is full, or the disk failed; after the last the store must not be used on.
    pub fn append(&mut self, text: &str) -> Result<usize, StoreError> {
        if text.len() > TEXT_SIZE_MAX || text.contains('\n') {
            return Err(StoreError::Text);
        }
        let line = format!("{:08x} {text}\n", crc32c::crc32c(text.as_bytes()));
        if self.size + line.len() as u64 > FILE_SIZE_MAX {
            return Err(StoreError::Full);
        }
        self.file.write_all(line.as_bytes())?;
        self.file.sync_data()?;
        self.size += line.len() as u64;
        self.lines.push(text.to_owned());
        Ok(self.lines.len())
    }

    /// All durable lines in their order.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.lines
    }
}

/// The whole lines and where they end.
fn parse(bytes: &[u8]) -> Result<(Vec<String>, usize), StoreError> {
    let mut lines = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let Some(length) = bytes[at..].iter().position(|byte| *byte == b'\n') else { break };
        let end = at + length + 1;
        match parse_line(&bytes[at..end - 1]) {
            Some(text) => lines.push(text),
            // A torn line can end in a line break that an unordered write brought; nothing valid follows it.
            None if end == bytes.len() => break,
            None => return Err(StoreError::Damaged { line: lines.len() + 1 }),
        }
        at = end;
    }
    Ok((lines, at))
}

fn parse_line(line: &[u8]) -> Option<String> {
    let line = std::str::from_utf8(line).ok()?;
    let (crc, text) = line.split_once(' ')?;
    let crc = u32::from_str_radix(crc, 16).ok()?;
    (crc == crc32c::crc32c(text.as_bytes())).then(|| text.to_owned())
}
