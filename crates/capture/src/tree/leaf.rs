//! A part of a directory: entries in order of their names.

use super::{
    Attributes, CONTENT_INLINE_MAX, Content, Device, Entry, EntryKind, LinkGroup, Listing, NAME_MAX, Owner,
    SEGMENTS_INLINE_MAX, Segment, TARGET_MAX, Timestamp, Totals, TreeError, VERSION, XATTR_VALUE_MAX, XATTRS_INLINE_MAX,
    Xattr, Xattrs,
    object::{KIND_LEAF, Refs},
    wire::{Reader, Writer},
};
use anshin_vault::ChunkId;
use std::{collections::HashMap, sync::Arc};

const HAS_CTIME: u64 = 1 << 4;
const HAS_BTIME: u64 = 1 << 5;
const HAS_ATIME: u64 = 1 << 6;
const HAS_FLAGS: u64 = 1 << 7;
const HAS_PROJECT: u64 = 1 << 8;
const HAS_LINK: u64 = 1 << 9;
const HAS_XATTRS: u64 = 1 << 10;
const XATTRS_STORED: u64 = 1 << 11;
const KNOWN: u64 = (1 << 12) - 1;
/// The least an entry can take: shared, suffix (1 + 1), head, mode, owner, seconds, nanoseconds, one byte of its kind.
const ENTRY_LEAST: usize = 8;

/// A decoded part of a directory.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Leaf {
    /// Strictly ascending by name.
    pub entries: Vec<Entry>,
}

/// Builds the encoding of a part of a directory entry by entry.
#[derive(Default)]
pub(crate) struct LeafEncoder {
    owners: Vec<Arc<Owner>>,
    owner_index: HashMap<Arc<Owner>, u64>,
    last_owner: Option<(Arc<Owner>, u64)>,
    body: Writer,
    refs: Vec<ChunkId>,
    count: u64,
    name: Vec<u8>,
    mtime: i64,
}

impl LeafEncoder {
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Bytes so far, references included.
    pub fn weight(&self) -> usize {
        self.body.len() + self.refs.len() * 32 + self.owners.len() * 32
    }

    pub fn push(&mut self, entry: &Entry) {
        let shared = common_prefix(&self.name, &entry.name);
        self.body.number(shared as u64);
        self.body.bytes(&entry.name[shared..]);
        self.name.truncate(shared);
        self.name.extend_from_slice(&entry.name[shared..]);
        self.body.number(head(entry));
        self.attributes(&entry.attributes);
        if let Some(link) = entry.link {
            self.body.number(link.mount);
            self.body.number(link.inode);
        }
        self.kind(&entry.kind);
        self.count += 1;
    }

    fn attributes(&mut self, attributes: &Attributes) {
        self.body.number(u64::from(attributes.mode));
        let owner = self.owner(&attributes.owner);
        self.body.number(owner);
        self.body.signed(attributes.mtime.seconds.wrapping_sub(self.mtime));
        self.mtime = attributes.mtime.seconds;
        self.body.number(u64::from(attributes.mtime.nanoseconds));
        for time in [attributes.ctime, attributes.btime, attributes.atime].into_iter().flatten() {
            self.body.signed(time.seconds.wrapping_sub(attributes.mtime.seconds));
            self.body.number(u64::from(time.nanoseconds));
        }
        if attributes.flags != 0 {
            self.body.number(u64::from(attributes.flags));
        }
        if attributes.project != 0 {
            self.body.number(u64::from(attributes.project));
        }
        match &attributes.xattrs {
            Xattrs::Inline(list) if list.is_empty() => {}
            Xattrs::Inline(list) => {
                self.body.number(list.len() as u64);
                for xattr in list {
                    self.body.bytes(&xattr.name);
                    self.body.bytes(&xattr.value);
                }
            }
            Xattrs::Stored(id) => self.refs.push(*id),
        }
    }

    fn owner(&mut self, owner: &Arc<Owner>) -> u64 {
        if let Some((last, index)) = &self.last_owner
            && Arc::ptr_eq(last, owner)
        {
            return *index;
        }
        let next = self.owners.len() as u64;
        let index = *self.owner_index.entry(owner.clone()).or_insert(next);
        if index == next {
            self.owners.push(owner.clone());
        }
        self.last_owner = Some((owner.clone(), index));
        index
    }

    fn kind(&mut self, kind: &EntryKind) {
        match kind {
            EntryKind::File(content) | EntryKind::Image(content) => self.content(content),
            EntryKind::Directory(listing) => match listing {
                Listing::Empty => self.body.byte(0),
                Listing::Stored { id, totals } => {
                    self.body.byte(1);
                    self.body.number(totals.entries);
                    self.body.number(totals.bytes);
                    self.refs.push(*id);
                }
                Listing::OtherFileSystem => self.body.byte(2),
                Listing::Unreadable => self.body.byte(3),
            },
            EntryKind::Symlink(target) => self.body.bytes(target),
            EntryKind::Fifo | EntryKind::Socket => self.body.byte(0),
            EntryKind::CharDevice(device) | EntryKind::BlockDevice(device) => {
                self.body.number(u64::from(device.major));
                self.body.number(u64::from(device.minor));
            }
        }
    }

    fn content(&mut self, content: &Content) {
        match content {
            Content::Missing { size } => {
                self.body.byte(0);
                self.body.number(*size);
            }
            Content::Inline(bytes) => {
                self.body.byte(1);
                self.body.bytes(bytes);
            }
            Content::Segments(list) => {
                self.body.byte(2);
                write_segments(&mut self.body, &mut self.refs, list);
            }
            Content::Stored { id, size, data } => {
                self.body.byte(3);
                self.body.number(*size);
                self.body.number(*data);
                self.refs.push(*id);
            }
        }
    }

    /// The body and the references of the object.
    pub fn finish(self) -> (Vec<u8>, Vec<ChunkId>) {
        self.finish_as(KIND_LEAF)
    }

    pub fn finish_as(self, kind: u8) -> (Vec<u8>, Vec<ChunkId>) {
        let mut writer = Writer(Vec::with_capacity(self.body.len() + 64));
        writer.byte(VERSION);
        writer.byte(kind);
        writer.number(self.owners.len() as u64);
        for owner in &self.owners {
            writer.number(u64::from(owner.uid));
            writer.number(u64::from(owner.gid));
            for name in [&owner.user, &owner.group] {
                // An empty name is none: no system has users without a name.
                writer.bytes(name.as_deref().unwrap_or_default());
            }
        }
        writer.number(self.count);
        writer.0.extend_from_slice(&self.body.0);
        (writer.0, self.refs)
    }
}

fn head(entry: &Entry) -> u64 {
    let kind = match entry.kind {
        EntryKind::File(_) => 1,
        EntryKind::Directory(_) => 2,
        EntryKind::Symlink(_) => 3,
        EntryKind::Fifo => 4,
        EntryKind::Socket => 5,
        EntryKind::CharDevice(_) => 6,
        EntryKind::BlockDevice(_) => 7,
        EntryKind::Image(_) => 8,
    };
    let attributes = &entry.attributes;
    let xattrs = match &attributes.xattrs {
        Xattrs::Inline(list) if list.is_empty() => 0,
        Xattrs::Inline(_) => HAS_XATTRS,
        Xattrs::Stored(_) => XATTRS_STORED,
    };
    let present = [
        (attributes.ctime.is_some(), HAS_CTIME),
        (attributes.btime.is_some(), HAS_BTIME),
        (attributes.atime.is_some(), HAS_ATIME),
        (attributes.flags != 0, HAS_FLAGS),
        (attributes.project != 0, HAS_PROJECT),
        (entry.link.is_some(), HAS_LINK),
    ];
    present.iter().filter(|(is, _)| *is).fold(kind | xattrs, |head, (_, bit)| head | bit)
}

fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

pub(crate) fn write_segments(body: &mut Writer, refs: &mut Vec<ChunkId>, list: &[Segment]) {
    body.number(list.len() as u64);
    for segment in list {
        match segment {
            Segment::Data { id, length } => {
                body.number(length << 1);
                refs.push(*id);
            }
            Segment::Hole { length } => body.number((length << 1) | 1),
        }
    }
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
    let mut seen = std::collections::HashSet::with_capacity(count);
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
    fn entry(&mut self, reader: &mut Reader<'_>, refs: &mut Refs<'_>, root: bool) -> Result<Entry, TreeError> {
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

    fn attributes(&mut self, head: u64, reader: &mut Reader<'_>, refs: &mut Refs<'_>) -> Result<Attributes, TreeError> {
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
