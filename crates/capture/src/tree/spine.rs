//! The upper levels of a large directory or of a long list of contents.

use super::{
    VERSION,
    object::{KIND_CONTENT_INDEX, KIND_INDEX},
    wire::Writer,
};
use anshin_vault::{ChunkId, Kind, Sink, VaultError};

/// A part is closed behind an object whose id says so (one in 256), and at this many children at the latest.
const CHILDREN_MAX: usize = 4096;

/// What an index says about a child: the first name in it, or its length in bytes.
pub(crate) trait Key: Clone {
    const KIND: u8;
    fn write(&self, writer: &mut Writer);
    /// The key of a part, from those of its children.
    fn joined(children: &[(Self, ChunkId)]) -> Self;
}

impl Key for Box<[u8]> {
    const KIND: u8 = KIND_INDEX;
    fn write(&self, writer: &mut Writer) {
        writer.bytes(self);
    }
    fn joined(children: &[(Self, ChunkId)]) -> Self {
        children[0].0.clone()
    }
}

impl Key for u64 {
    const KIND: u8 = KIND_CONTENT_INDEX;
    fn write(&self, writer: &mut Writer) {
        writer.number(*self);
    }
    fn joined(children: &[(Self, ChunkId)]) -> Self {
        children.iter().map(|(length, _)| length).sum()
    }
}

/// True if a part ends behind the object of this id: one in `1 << bits`.
pub(crate) fn cuts(id: &ChunkId, bits: u32) -> bool {
    let word = u16::from_le_bytes([id.0[0], id.0[1]]);
    word & ((1 << bits) - 1) == 0
}

/// Objects that wait for their parent, level by level.
pub(crate) struct Spine<K> {
    levels: Vec<Vec<(K, ChunkId)>>,
    /// Ids of every object written.
    pub written: Vec<ChunkId>,
}

impl<K> Default for Spine<K> {
    fn default() -> Self {
        Self { levels: vec![Vec::new()], written: Vec::new() }
    }
}

impl<K: Key> Spine<K> {
    /// Takes the next object of the lowest level.
    pub fn push(&mut self, sink: &dyn Sink, key: K, id: ChunkId) -> Result<(), VaultError> {
        let mut carried = Some((key, id));
        let mut level = 0;
        while let Some((key, id)) = carried.take() {
            if level == self.levels.len() {
                self.levels.push(Vec::new());
            }
            let children = &mut self.levels[level];
            children.push((key, id));
            if children.len() >= 2 && (cuts(&id, 8) || children.len() >= CHILDREN_MAX) {
                carried = Some(self.close(sink, level)?);
                level += 1;
            }
        }
        Ok(())
    }

    fn close(&mut self, sink: &dyn Sink, level: usize) -> Result<(K, ChunkId), VaultError> {
        let children = std::mem::take(&mut self.levels[level]);
        let mut writer = Writer::default();
        writer.byte(VERSION);
        writer.byte(K::KIND);
        writer.number(level as u64 + 1);
        writer.number(children.len() as u64);
        for (key, _) in &children {
            key.write(&mut writer);
        }
        let refs: Vec<ChunkId> = children.iter().map(|(_, id)| *id).collect();
        let id = sink.put(Kind::Tree, &refs, &writer.0)?;
        self.written.push(id);
        Ok((K::joined(&children), id))
    }

    /// Closes what is open; gives the topmost object, or none if nothing was pushed.
    pub fn finish(&mut self, sink: &dyn Sink) -> Result<Option<ChunkId>, VaultError> {
        let mut level = 0;
        loop {
            let top = level + 1 >= self.levels.len();
            match self.levels[level].as_slice() {
                [] if top => return Ok(None),
                [(_, id)] if top => return Ok(Some(*id)),
                [] => {}
                _ => {
                    let (key, id) = self.close(sink, level)?;
                    if top {
                        self.levels.push(Vec::new());
                    }
                    self.levels[level + 1].push((key, id));
                }
            }
            level += 1;
        }
    }
}
