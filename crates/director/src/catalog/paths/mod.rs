//! The index of paths: which file was in which snapshots, without a row per file.
//!
//! Indexed snapshots of a target are numbered on end by *ordinals*. A *segment* covers a range of ordinals and holds,
//! sorted by path, every change in that range: `path → [(ordinal, what it became)]`, front coded in blocks of about
//! 32 KiB. An unchanged file costs nothing in a further snapshot. Segments are merged as they come, so that a target has
//! about log₂ of its snapshots of them; merging drops what only forgotten snapshots had. A look-up reads the segments of
//! a target side by side. Format: docs/formats/director.md.

mod block;
mod merge;
mod pattern;

#[cfg(test)]
mod tests;

pub use block::BlockWriter;
pub use block::{BLOCK_BYTES, BlockError, decode_block};
pub use merge::{Merged, prune, versions};
pub use pattern::Pattern;

use serde::{Deserialize, Serialize};

/// Longest path that is indexed, in bytes; longer ones are left out and counted.
pub const PATH_BYTES_MAX: usize = 64 << 10;

/// What kind of file a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// Anything else.
    Special,
}

/// What the index knows of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathEntry {
    /// What it is.
    pub kind: PathKind,
    /// Its size in bytes.
    pub size: u64,
    /// Its time of modification in whole seconds since 1970.
    pub modified: i64,
}

/// A path that appeared, changed, or went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathChange {
    /// Its bytes, without a slash in front.
    pub path: Vec<u8>,
    /// What it is now; None: it is gone.
    pub entry: Option<PathEntry>,
}

/// A path and what became of it, by ascending ordinals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// Its bytes.
    pub path: Vec<u8>,
    /// From that ordinal on it is this; None: gone.
    pub changes: Vec<(u64, Option<PathEntry>)>,
}
