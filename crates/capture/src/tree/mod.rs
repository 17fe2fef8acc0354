//! The trees of which snapshots are made; the format is described in `docs/formats/tree.md`.
//!
//! Every object is a [`Kind::Tree`](anshin_vault::Kind) object. The objects beneath it are not named in its body: they are
//! its references, and the n-th one the body speaks of is the n-th reference. So a holder without the key can walk the
//! whole tree, and the body cannot name anything that the holder does not know of.
//!
//! Encodings are canonical. Large directories and long lists of contents are split where the hash of an entry says so,
//! whatever came before, so that a small change touches few objects and equal trees have equal ids.

mod content;
mod content_read;
mod entry;
mod leaf;
mod leaf_read;
mod object;
mod read;
mod spine;
#[cfg(test)]
mod tests;
mod wire;
mod write;
mod xattrs;

pub use content::ContentWriter;
pub use content_read::ContentReader;
pub use entry::{
    Attributes, Content, Device, Entry, EntryKind, LinkGroup, Listing, Owner, Segment, Timestamp, Totals,
    Xattr, Xattrs,
};
pub use leaf_read::Leaf;
pub use object::{Node, StoredXattrs, XattrValue};
pub use read::{DirectoryCursor, DirectoryReader, Nodes, read_root, read_xattrs};
pub use write::{DirectoryWriter, SealedLeaf, write_root};
pub use xattrs::seal_xattrs;

pub(crate) use leaf::LeafEncoder;

pub use anshin_vault::ChunkId;
use anshin_vault::VaultError;

/// The version of the format, first byte of every object.
pub const VERSION: u8 = 1;
/// Longest name in bytes. Linux allows 255 everywhere; other systems a little more.
pub const NAME_MAX: usize = 1024;
/// Longest target of a symbolic link.
pub const TARGET_MAX: usize = 65_536;
/// Contents up to this length are kept in the entry: an object's id alone takes half of it.
pub const CONTENT_INLINE_MAX: usize = 64;
/// Most pieces of a file that are listed in its entry.
pub const SEGMENTS_INLINE_MAX: usize = 32;
/// Most bytes of extended attributes (names and values) that are kept in the entry.
pub const XATTRS_INLINE_MAX: usize = 2048;
/// Longer values are data objects of their own once the attributes are an object of their own.
pub const XATTR_VALUE_INLINE_MAX: usize = 256;
/// Longest value of an attribute (`XATTR_SIZE_MAX`).
pub const XATTR_VALUE_MAX: usize = 65_536;
/// No object is longer; readers refuse one that is.
pub const OBJECT_MAX: usize = 4 << 20;
/// A part of a directory or list is closed at this many bytes, references included.
pub(crate) const PART_TARGET: usize = 256 << 10;

/// Why bytes are not a tree object.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TreeError {
    /// They end too early.
    #[error("the object ends too early")]
    Truncated,
    /// Something follows the end.
    #[error("the object has bytes after its end")]
    Trailing,
    /// A value is encoded in another than the one allowed way.
    #[error("the object is not in canonical form")]
    NotCanonical,
    /// A value is beyond what the format allows.
    #[error("a value in the object is out of range")]
    OutOfRange,
    /// Written by a later version.
    #[error("the object has version {0}, which this program does not know")]
    Version(u8),
    /// Another kind of object than the one expected at this place.
    #[error("the object is of kind {0}, which does not belong there")]
    Kind(u8),
    /// More or fewer references than the body speaks of.
    #[error("the object's references do not match its body")]
    References,
}

/// Why a tree could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The vault did not give or take an object.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// An object is not what the format says.
    #[error("object {id}: {error}")]
    Damaged {
        /// The object.
        id: ChunkId,
        /// What is wrong with it.
        error: TreeError,
    },
}
