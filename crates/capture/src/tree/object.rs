//! Decoding of any tree object.

use super::{
    ChunkId, Entry, Leaf, NAME_MAX, OBJECT_MAX, Segment, TreeError, VERSION, XATTR_VALUE_INLINE_MAX,
    XATTR_VALUE_MAX, leaf_read::read_segments, wire::Reader,
};

pub(crate) const KIND_LEAF: u8 = 1;
pub(crate) const KIND_INDEX: u8 = 2;
pub(crate) const KIND_CONTENT: u8 = 3;
pub(crate) const KIND_CONTENT_INDEX: u8 = 4;
pub(crate) const KIND_XATTRS: u8 = 5;
pub(crate) const KIND_ROOT: u8 = 6;
/// Trees are never this high: with at least two children per object this is more than any machine can hold.
const LEVEL_MAX: u64 = 40;

/// A decoded tree object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Node {
    /// Entries of a directory.
    Leaf(Leaf),
    /// Parts of a directory: level (1 above leaves), and for each the first name in it and its object.
    Index(u8, Vec<(Box<[u8]>, ChunkId)>),
    /// Pieces of a file.
    Content(Vec<Segment>),
    /// Parts of such a list: level (1 above lists), and for each its length in bytes and its object.
    ContentIndex(u8, Vec<(u64, ChunkId)>),
    /// Extended attributes, sorted by name.
    Xattrs(StoredXattrs),
    /// The captured tree itself; the only entry without a name.
    Root(Box<Entry>),
}

/// Names and values of extended attributes.
pub type StoredXattrs = Vec<(Box<[u8]>, XattrValue)>;

/// Value of an extended attribute in an object of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum XattrValue {
    /// In the object.
    Inline(Box<[u8]>),
    /// In a data object, with its length.
    Stored(ChunkId, u32),
}

/// The references of an object, in the order in which the body speaks of them.
pub(crate) struct Refs<'a> {
    rest: std::slice::Iter<'a, ChunkId>,
}

impl<'a> Refs<'a> {
    pub fn new(refs: &'a [ChunkId]) -> Self {
        Self { rest: refs.iter() }
    }

    pub fn next(&mut self) -> Result<ChunkId, TreeError> {
        self.rest.next().copied().ok_or(TreeError::References)
    }

    fn end(&self) -> Result<(), TreeError> {
        if self.rest.len() == 0 { Ok(()) } else { Err(TreeError::References) }
    }
}

impl Node {
    /// Decodes an object's body with its references.
    ///
    /// # Errors
    /// If it is not exactly what the encoder of this format writes.
    pub fn decode(body: &[u8], references: &[ChunkId]) -> Result<Self, TreeError> {
        if body.len() > OBJECT_MAX {
            return Err(TreeError::OutOfRange);
        }
        let mut reader = Reader::new(body);
        let mut refs = Refs::new(references);
        match reader.byte()? {
            VERSION => {}
            other => return Err(TreeError::Version(other)),
        }
        let node = match reader.byte()? {
            KIND_LEAF => Self::Leaf(Leaf::read(&mut reader, &mut refs, false)?),
            KIND_INDEX => read_index(&mut reader, &mut refs)?,
            KIND_CONTENT => match read_segments(&mut reader, &mut refs)? {
                list if list.is_empty() => return Err(TreeError::NotCanonical),
                list => Self::Content(list),
            },
            KIND_CONTENT_INDEX => read_content_index(&mut reader, &mut refs)?,
            KIND_XATTRS => Self::Xattrs(read_xattrs(&mut reader, &mut refs)?),
            KIND_ROOT => {
                let mut entries = Leaf::read(&mut reader, &mut refs, true)?.entries;
                match (entries.pop(), entries.is_empty()) {
                    (Some(entry), true) => Self::Root(Box::new(entry)),
                    _ => return Err(TreeError::OutOfRange),
                }
            }
            other => return Err(TreeError::Kind(other)),
        };
        reader.end()?;
        refs.end()?;
        match &node {
            Self::Leaf(leaf) if leaf.entries.is_empty() => Err(TreeError::NotCanonical),
            _ => Ok(node),
        }
    }

    /// The number by which the format knows this kind of object.
    pub fn kind_number(&self) -> u8 {
        match self {
            Self::Leaf(_) => KIND_LEAF,
            Self::Index(..) => KIND_INDEX,
            Self::Content(_) => KIND_CONTENT,
            Self::ContentIndex(..) => KIND_CONTENT_INDEX,
            Self::Xattrs(_) => KIND_XATTRS,
            Self::Root(_) => KIND_ROOT,
        }
    }
}

fn read_level(reader: &mut Reader<'_>) -> Result<u8, TreeError> {
    match reader.number()? {
        level @ 1..=LEVEL_MAX => Ok(level as u8),
        _ => Err(TreeError::OutOfRange),
    }
}

fn read_index(reader: &mut Reader<'_>, refs: &mut Refs<'_>) -> Result<Node, TreeError> {
    let level = read_level(reader)?;
    let count = reader.count(2)?;
    let mut parts: Vec<(Box<[u8]>, ChunkId)> = Vec::with_capacity(count);
    for _ in 0..count {
        let name = reader.bytes(NAME_MAX)?;
        let ascending = parts.last().is_none_or(|(last, _)| **last < *name);
        if name.is_empty() || !ascending || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
            return Err(TreeError::NotCanonical);
        }
        parts.push((name.into(), refs.next()?));
    }
    // The last part of a level may hold one child.
    if parts.is_empty() { Err(TreeError::NotCanonical) } else { Ok(Node::Index(level, parts)) }
}

fn read_content_index(reader: &mut Reader<'_>, refs: &mut Refs<'_>) -> Result<Node, TreeError> {
    let level = read_level(reader)?;
    let count = reader.count(1)?;
    let mut parts = Vec::with_capacity(count);
    let mut total = 0u64;
    for _ in 0..count {
        let length = reader.number()?;
        total = total
            .checked_add(length)
            .filter(|t| length > 0 && *t <= i64::MAX as u64)
            .ok_or(TreeError::OutOfRange)?;
        parts.push((length, refs.next()?));
    }
    if parts.is_empty() { Err(TreeError::NotCanonical) } else { Ok(Node::ContentIndex(level, parts)) }
}

fn read_xattrs(reader: &mut Reader<'_>, refs: &mut Refs<'_>) -> Result<StoredXattrs, TreeError> {
    let count = reader.count(3)?;
    let mut list: StoredXattrs = Vec::with_capacity(count);
    for _ in 0..count {
        let name = reader.bytes(NAME_MAX)?;
        let ascending = list.last().is_none_or(|(last, _)| **last < *name);
        if name.is_empty() || name.contains(&0) || !ascending {
            return Err(TreeError::NotCanonical);
        }
        let length = reader.number32()? as usize;
        let value = if length <= XATTR_VALUE_INLINE_MAX {
            XattrValue::Inline(reader.take(length)?.into())
        } else if length <= XATTR_VALUE_MAX {
            XattrValue::Stored(refs.next()?, length as u32)
        } else {
            return Err(TreeError::OutOfRange);
        };
        list.push((name.into(), value));
    }
    if list.is_empty() { Err(TreeError::NotCanonical) } else { Ok(list) }
}
