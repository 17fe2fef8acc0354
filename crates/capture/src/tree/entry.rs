//! What a snapshot knows of one file: its name, its attributes and where its contents are.

use anshin_vault::ChunkId;
use std::{fmt, sync::Arc};

/// A point in time as file systems keep it: seconds since 1970, of either sign, and nanoseconds (below 1,000,000,000).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 00:00 UTC; negative before.
    pub seconds: i64,
    /// Nanoseconds after `seconds`, also before 1970.
    pub nanoseconds: u32,
}

impl Timestamp {
    /// This point, `seconds` later.
    #[must_use]
    pub fn plus_seconds(self, seconds: i64) -> Self {
        Self { seconds: self.seconds.saturating_add(seconds), ..self }
    }
}

/// Who owns a file, by number and, where the machine knew one, by name.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Owner {
    /// User number.
    pub uid: u32,
    /// Group number.
    pub gid: u32,
    /// The user's name on the machine that was captured.
    pub user: Option<Box<[u8]>>,
    /// The group's name on the machine that was captured.
    pub group: Option<Box<[u8]>>,
}

/// One extended attribute, with the namespace in its name (`user.`, `security.`, `system.`, `trusted.`).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Xattr {
    /// Whole name, for example `system.posix_acl_access`.
    pub name: Box<[u8]>,
    /// The value as the file system gave it.
    pub value: Box<[u8]>,
}

/// The extended attributes of a file, sorted by name; a large set is an object of its own.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Xattrs {
    /// Kept in the entry: at most [`XATTRS_INLINE_MAX`](super::XATTRS_INLINE_MAX) bytes together.
    Inline(Vec<Xattr>),
    /// Kept in an attributes object.
    Stored(ChunkId),
}

impl Default for Xattrs {
    fn default() -> Self {
        Self::Inline(Vec::new())
    }
}

impl Xattrs {
    /// True if the file has none.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Inline(list) if list.is_empty())
    }
}

/// Everything about a file that is neither its name nor its contents.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Attributes {
    /// Permission bits with set-user-id, set-group-id and sticky (`mode & 0o7777`).
    pub mode: u16,
    /// Who owns it. Shared, because most files of a tree have the same owner.
    pub owner: Arc<Owner>,
    /// Last change of the contents.
    pub mtime: Timestamp,
    /// Last change of contents or attributes. Kept for comparison and display; no program can set it.
    pub ctime: Option<Timestamp>,
    /// Creation, where the file system knows it. For display only.
    pub btime: Option<Timestamp>,
    /// Last access; captured only if asked for, because reading changes it.
    pub atime: Option<Timestamp>,
    /// Flags as `FS_IOC_GETFLAGS` has them, restricted to those a user can set (`lsattr`).
    pub flags: u32,
    /// Quota project, 0 for none.
    pub project: u32,
    /// Extended attributes, with ACLs and file capabilities.
    pub xattrs: Xattrs,
}

/// Says that two names of one snapshot are the same file. Unique within a snapshot, and the same in the next one as long
/// as the file stays.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct LinkGroup {
    /// Which of the snapshot's file systems: 0 for that of the captured directory itself.
    pub mount: u64,
    /// The inode number there.
    pub inode: u64,
}

/// A piece of a file's contents.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Segment {
    /// Bytes that are kept as one data object.
    Data {
        /// The object.
        id: ChunkId,
        /// Its length in bytes.
        length: u64,
    },
    /// Bytes that were never written and read as zero.
    Hole {
        /// Length in bytes.
        length: u64,
    },
}

impl Segment {
    /// Length in bytes.
    pub fn length(&self) -> u64 {
        match self {
            Self::Data { length, .. } | Self::Hole { length } => *length,
        }
    }
}

/// Where the contents of a file are.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Content {
    /// Could not be read when the snapshot was made; `size` is what the file claimed.
    Missing {
        /// Size in bytes at that time.
        size: u64,
    },
    /// Kept in the entry itself: at most [`CONTENT_INLINE_MAX`](super::CONTENT_INLINE_MAX) bytes.
    Inline(Box<[u8]>),
    /// The pieces in order: at most [`SEGMENTS_INLINE_MAX`](super::SEGMENTS_INLINE_MAX).
    Segments(Vec<Segment>),
    /// The pieces are listed in an object of their own, of `size` bytes in all, of which `data` are not holes.
    Stored {
        /// The topmost object of the list.
        id: ChunkId,
        /// Size in bytes.
        size: u64,
        /// How many of them are not in holes.
        data: u64,
    },
}

impl Content {
    /// Size of the file in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Missing { size } | Self::Stored { size, .. } => *size,
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Segments(list) => list.iter().map(Segment::length).sum(),
        }
    }

    /// Bytes that are kept, without holes.
    pub fn data(&self) -> u64 {
        match self {
            Self::Missing { .. } => 0,
            Self::Stored { data, .. } => *data,
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Segments(list) => {
                list.iter().map(|s| if matches!(s, Segment::Data { .. }) { s.length() } else { 0 }).sum()
            }
        }
    }
}

/// How much lies beneath a directory, itself not counted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Totals {
    /// Entries of any kind.
    pub entries: u64,
    /// Bytes of file contents, without holes.
    pub bytes: u64,
}

impl Totals {
    /// Adds one entry with everything beneath it.
    pub fn add(&mut self, entry: &Entry) {
        let (entries, bytes) = match &entry.kind {
            EntryKind::Directory(Listing::Stored { totals, .. }) => (totals.entries, totals.bytes),
            EntryKind::File(content) | EntryKind::Image(content) => (0, content.data()),
            _ => (0, 0),
        };
        self.entries = self.entries.saturating_add(entries).saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// Where the entries of a directory are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Listing {
    /// It has none.
    Empty,
    /// In this object and those below it.
    Stored {
        /// The topmost object.
        id: ChunkId,
        /// What lies beneath.
        totals: Totals,
    },
    /// Another file system is mounted there, and the capture was to stay on one.
    OtherFileSystem,
    /// It could not be read.
    Unreadable,
}

/// What kind of file an entry is, with what only that kind has.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum EntryKind {
    /// A regular file.
    File(Content),
    /// A directory.
    Directory(Listing),
    /// A symbolic link with its target.
    Symlink(Box<[u8]>),
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device.
    CharDevice(Device),
    /// A block device's name (not its contents).
    BlockDevice(Device),
    /// The contents of a block device or a disk image.
    Image(Content),
}

/// Numbers of a device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Device {
    /// Driver.
    pub major: u32,
    /// Device of that driver.
    pub minor: u32,
}

/// One name in a directory of a snapshot.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Entry {
    /// Every byte but zero and slash; empty only for the root.
    pub name: Box<[u8]>,
    /// What it is.
    pub kind: EntryKind,
    /// The rest.
    pub attributes: Attributes,
    /// Set if the file had more than one name.
    pub link: Option<LinkGroup>,
}

impl Entry {
    /// Size of its contents in bytes; 0 for what has none.
    pub fn size(&self) -> u64 {
        match &self.kind {
            EntryKind::File(content) | EntryKind::Image(content) => content.size(),
            EntryKind::Symlink(target) => target.len() as u64,
            _ => 0,
        }
    }

    /// The contents of a file or image.
    pub fn content(&self) -> Option<&Content> {
        match &self.kind {
            EntryKind::File(content) | EntryKind::Image(content) => Some(content),
            _ => None,
        }
    }

    /// True for a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self.kind, EntryKind::Directory(_))
    }

    /// The letter by which `ls -l` shows the kind; `i` for an image.
    pub fn type_letter(&self) -> char {
        match self.kind {
            EntryKind::File(_) => '-',
            EntryKind::Directory(_) => 'd',
            EntryKind::Symlink(_) => 'l',
            EntryKind::Fifo => 'p',
            EntryKind::Socket => 's',
            EntryKind::CharDevice(_) => 'c',
            EntryKind::BlockDevice(_) => 'b',
            EntryKind::Image(_) => 'i',
        }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.seconds, self.nanoseconds)
    }
}
