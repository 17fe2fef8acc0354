//! Encoding of a part of a directory: entries in order of their names.

use super::{
    Attributes, Content, Entry, EntryKind, Listing, Owner, Segment, VERSION, Xattrs, object::KIND_LEAF,
    wire::Writer,
};
use anshin_vault::ChunkId;
use std::{collections::HashMap, sync::Arc};

pub(super) const HAS_CTIME: u64 = 1 << 4;
pub(super) const HAS_BTIME: u64 = 1 << 5;
pub(super) const HAS_ATIME: u64 = 1 << 6;
pub(super) const HAS_FLAGS: u64 = 1 << 7;
pub(super) const HAS_PROJECT: u64 = 1 << 8;
pub(super) const HAS_LINK: u64 = 1 << 9;
pub(super) const HAS_XATTRS: u64 = 1 << 10;
pub(super) const XATTRS_STORED: u64 = 1 << 11;
pub(super) const KNOWN: u64 = (1 << 12) - 1;
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
