//! Decoding of a part of a directory. Refuses everything that the encoder would not have written.

use super::{
    Attributes, CONTENT_INLINE_MAX, Content, Device, Entry, EntryKind, LinkGroup, Listing, NAME_MAX, Owner,
    SEGMENTS_INLINE_MAX, Segment, TARGET_MAX, Timestamp, Totals, TreeError, XATTR_VALUE_MAX,
    XATTRS_INLINE_MAX, Xattr, Xattrs,
    leaf::{
        HAS_ATIME, HAS_BTIME, HAS_CTIME, HAS_FLAGS, HAS_LINK, HAS_PROJECT, HAS_XATTRS, KNOWN, XATTRS_STORED,
    },
    object::Refs,
    wire::Reader,
};
use std::{collections::HashSet, sync::Arc};

/// The least an entry can take: shared, suffix (1 + 1), head, mode, owner, seconds, nanoseconds, one byte of its kind.
const ENTRY_LEAST: usize = 8;

/// A decoded part of a directory.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Leaf {
    /// Strictly ascending by name.
    pub entries: Vec<Entry>,
}

/// Reads a list of pieces. Lengths are below 2^63 and not zero, and no two holes follow each other.
pub(crate) fn read_segments(reader: &mut Reader<'_>, refs: &mut Refs<'_>) -> Result<Vec<Segment>, TreeError> {
    let count = reader.count(1)?;
    let mut list = Vec::with_capacity(count);
    let mut total = 0u64;
    for _ in 0..count {
        let word = reader.number()?;
        let length = word >> 1;
        total = total.checked_add(length).filter(|_| length > 0).ok_or(TreeError::OutOfRange)?;
        if word & 1 == 0 {
            list.push(Segment::Data { id: refs.next()?, length });
        } else if matches!(list.last(), Some(Segment::Hole { .. })) {
            return Err(TreeError::NotCanonical);
        } else {
            list.push(Segment::Hole { length });
        }
    }
    Ok(list)
}

impl Leaf {
    /// Decodes what follows the version and the kind.
    pub(crate) fn read(reader: &mut Reader<'_>, refs: &mut Refs<'_>, root: bool) -> Result<Self, TreeError> {
        let owners = read_owners(reader)?;
        let count = reader.count(ENTRY_LEAST - usize::from(root))?;
        let mut decoder = LeafDecoder { owners, owners_used: 0, name: Vec::new(), mtime: 0 };
        let mut entries: Vec<Entry> = Vec::with_capacity(count);
        for _ in 0..count {
            let entry = decoder.entry(reader, refs, root)?;
            if entries.last().is_some_and(|last| last.name >= entry.name) {
                return Err(TreeError::NotCanonical);
            }
            entries.push(entry);
        }
        if decoder.owners_used != decoder.owners.len() {
            return Err(TreeError::NotCanonical);
        }
        Ok(Self { entries })
    }
}

fn read_owners(reader: &mut Reader<'_>) -> Result<Vec<Arc<Owner>>, TreeError> {
    let count = reader.count(4)?;
    let mut owners: Vec<Arc<Owner>> = Vec::with_capacity(count);
    let mut seen = HashSet::with_capacity(count);
    for _ in 0..count {
        let (uid, gid) = (reader.number32()?, reader.number32()?);
        let user = reader.bytes(NAME_MAX)?;
        let group = reader.bytes(NAME_MAX)?;
        let named = |name: &[u8]| (!name.is_empty()).then(|| name.into());
        let owner = Arc::new(Owner { uid, gid, user: named(user), group: named(group) });
        if !seen.insert(owner.clone()) {
            return Err(TreeError::NotCanonical);
        }
        owners.push(owner);
    }
    Ok(owners)
}

struct LeafDecoder {
    owners: Vec<Arc<Owner>>,
    owners_used: usize,
    name: Vec<u8>,
    mtime: i64,
}

impl LeafDecoder {
    fn entry(
        &mut self,
        reader: &mut Reader<'_>,
        refs: &mut Refs<'_>,
        root: bool,
    ) -> Result<Entry, TreeError> {
        let name = self.name(reader, root)?;
        let head = reader.number()?;
        if head & !KNOWN != 0 || head & (HAS_XATTRS | XATTRS_STORED) == HAS_XATTRS | XATTRS_STORED {
            return Err(TreeError::OutOfRange);
        }
        let attributes = self.attributes(head, reader, refs)?;
        let link = if head & HAS_LINK != 0 {
            Some(LinkGroup { mount: reader.number()?, inode: reader.number()? })
        } else {
            None
        };
        let kind = read_kind(head & 0xf, reader, refs)?;
        Ok(Entry { name, kind, attributes, link })
    }

    fn name(&mut self, reader: &mut Reader<'_>, root: bool) -> Result<Box<[u8]>, TreeError> {
        let shared = usize::try_from(reader.number()?).map_err(|_| TreeError::OutOfRange)?;
        let suffix = reader.bytes(NAME_MAX)?;
        if shared > self.name.len() || shared + suffix.len() > NAME_MAX {
            return Err(TreeError::OutOfRange);
        }
        if self.name.get(shared).is_some_and(|next| suffix.first() == Some(next)) {
            return Err(TreeError::NotCanonical); // more of it is shared than was said
        }
        self.name.truncate(shared);
        self.name.extend_from_slice(suffix);
        let name = &self.name;
        let allowed = match root {
            true => name.is_empty(),
            false => !name.is_empty() && !matches!(name.as_slice(), b"." | b".."),
        };
        if !allowed || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
            return Err(TreeError::OutOfRange);
        }
        Ok(name.as_slice().into())
    }

    fn attributes(
        &mut self,
        head: u64,
        reader: &mut Reader<'_>,
        refs: &mut Refs<'_>,
    ) -> Result<Attributes, TreeError> {
        let mode = reader.number()?;
        if mode > 0o7777 {
            return Err(TreeError::OutOfRange);
        }
        let index = usize::try_from(reader.number()?).map_err(|_| TreeError::OutOfRange)?;
        if index > self.owners_used {
            return Err(TreeError::NotCanonical);
        }
        self.owners_used = self.owners_used.max(index + 1);
        let owner = self.owners.get(index).ok_or(TreeError::OutOfRange)?.clone();
        let mtime = read_time(reader, self.mtime)?;
        self.mtime = mtime.seconds;
        let mut time = |bit: u64| -> Result<Option<Timestamp>, TreeError> {
            if head & bit == 0 { Ok(None) } else { read_time(reader, mtime.seconds).map(Some) }
        };
        let (ctime, btime, atime) = (time(HAS_CTIME)?, time(HAS_BTIME)?, time(HAS_ATIME)?);
        let mut nonzero = |bit: u64| -> Result<u32, TreeError> {
            match head & bit {
                0 => Ok(0),
                _ => Some(reader.number32()?).filter(|value| *value != 0).ok_or(TreeError::NotCanonical),
            }
        };
        let (flags, project) = (nonzero(HAS_FLAGS)?, nonzero(HAS_PROJECT)?);
        let xattrs = match head & (HAS_XATTRS | XATTRS_STORED) {
            HAS_XATTRS => Xattrs::Inline(read_inline_xattrs(reader)?),
            XATTRS_STORED => Xattrs::Stored(refs.next()?),
            _ => Xattrs::default(),
        };
        Ok(Attributes { mode: mode as u16, owner, mtime, ctime, btime, atime, flags, project, xattrs })
    }
}

fn read_time(reader: &mut Reader<'_>, base: i64) -> Result<Timestamp, TreeError> {
    let seconds = base.wrapping_add(reader.signed()?);
    let nanoseconds = reader.number32()?;
    if nanoseconds >= 1_000_000_000 {
        return Err(TreeError::OutOfRange);
    }
    Ok(Timestamp { seconds, nanoseconds })
}

fn read_inline_xattrs(reader: &mut Reader<'_>) -> Result<Vec<Xattr>, TreeError> {
    let count = reader.count(3)?;
    let mut list: Vec<Xattr> = Vec::with_capacity(count);
    let mut total = 0;
    for _ in 0..count {
        let name = reader.bytes(NAME_MAX)?;
        let value = reader.bytes(XATTR_VALUE_MAX)?;
        total += name.len() + value.len();
        let ascending = list.last().is_none_or(|last| *last.name < *name);
        if name.is_empty() || name.contains(&0) || !ascending {
            return Err(TreeError::NotCanonical);
        }
        list.push(Xattr { name: name.into(), value: value.into() });
    }
    if list.is_empty() || total > XATTRS_INLINE_MAX { Err(TreeError::NotCanonical) } else { Ok(list) }
}

fn read_kind(kind: u64, reader: &mut Reader<'_>, refs: &mut Refs<'_>) -> Result<EntryKind, TreeError> {
    Ok(match kind {
        1 => EntryKind::File(read_content(reader, refs)?),
        2 => EntryKind::Directory(match reader.byte()? {
            0 => Listing::Empty,
            1 => {
                let totals = Totals { entries: reader.number()?, bytes: reader.number()? };
                Listing::Stored { id: refs.next()?, totals }
            }
            2 => Listing::OtherFileSystem,
            3 => Listing::Unreadable,
            _ => return Err(TreeError::OutOfRange),
        }),
        3 => EntryKind::Symlink(reader.bytes(TARGET_MAX)?.into()),
        4 | 5 => match (reader.byte()?, kind) {
            (0, 4) => EntryKind::Fifo,
            (0, _) => EntryKind::Socket,
            _ => return Err(TreeError::NotCanonical),
        },
        6 | 7 => {
            let device = Device { major: reader.number32()?, minor: reader.number32()? };
            if kind == 6 { EntryKind::CharDevice(device) } else { EntryKind::BlockDevice(device) }
        }
        8 => EntryKind::Image(read_content(reader, refs)?),
        _ => return Err(TreeError::OutOfRange),
    })
}

fn read_content(reader: &mut Reader<'_>, refs: &mut Refs<'_>) -> Result<Content, TreeError> {
    Ok(match reader.byte()? {
        0 => Content::Missing { size: reader.number()? },
        1 => Content::Inline(reader.bytes(CONTENT_INLINE_MAX)?.into()),
        2 => {
            let list = read_segments(reader, refs)?;
            if list.is_empty() || list.len() > SEGMENTS_INLINE_MAX {
                return Err(TreeError::NotCanonical);
            }
            Content::Segments(list)
        }
        3 => {
            let (size, data) = (reader.number()?, reader.number()?);
            if data > size || size > i64::MAX as u64 {
                return Err(TreeError::OutOfRange);
            }
            Content::Stored { id: refs.next()?, size, data }
        }
        _ => return Err(TreeError::OutOfRange),
    })
}
