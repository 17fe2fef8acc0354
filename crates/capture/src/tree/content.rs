//! Writing of lists of contents.

use super::{
    Content, SEGMENTS_INLINE_MAX, Segment, VERSION,
    leaf::write_segments,
    object::KIND_CONTENT,
    spine::{Spine, cuts},
    wire::Writer,
};
use anshin_vault::{ChunkId, Kind, Sink, VaultError};

/// A list is closed behind a data object whose id says so (one in 512), and at this many pieces at the latest.
const SEGMENTS_MAX: usize = 4096;
/// Ids are remembered for the files cache up to this many per file (32 MiB).
const CLOSURE_MAX: usize = 1 << 20;

/// Takes the pieces of a file in order and lists them: in the entry if they are few, else in objects.
#[derive(Default)]
pub struct ContentWriter {
    open: Vec<Segment>,
    spine: Spine<u64>,
    spilled: bool,
    closure: Vec<ChunkId>,
    size: u64,
    data: u64,
}

impl ContentWriter {
    /// For a file without contents so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a piece. Pieces without length are left out and holes that touch are joined.
    ///
    /// # Errors
    /// If the vault does not take an object.
    pub fn push(&mut self, sink: &dyn Sink, segment: Segment) -> Result<(), VaultError> {
        if segment.length() == 0 {
            return Ok(());
        }
        self.size += segment.length();
        match segment {
            Segment::Hole { length } => {
                if let Some(Segment::Hole { length: before }) = self.open.last_mut() {
                    *before += length;
                    return Ok(());
                }
            }
            Segment::Data { id, length } => {
                self.data += length;
                if self.closure.len() < CLOSURE_MAX {
                    self.closure.push(id);
                }
            }
        }
        // Only now, so that a hole behind a cut stays whole.
        if self.spilled && self.ends_list() || self.open.len() > SEGMENTS_INLINE_MAX && !self.spilled {
            self.spill(sink)?;
        }
        self.open.push(segment);
        Ok(())
    }

    fn ends_list(&self) -> bool {
        let cut = matches!(self.open.last(), Some(Segment::Data { id, .. }) if cuts(id, 9));
        cut || self.open.len() >= SEGMENTS_MAX
    }

    /// Once it is known that the list does not fit the entry, cuts what has been collected as if it had been known before.
    fn spill(&mut self, sink: &dyn Sink) -> Result<(), VaultError> {
        self.spilled = true;
        let mut list = Vec::new();
        for segment in std::mem::take(&mut self.open) {
            list.push(segment);
            std::mem::swap(&mut self.open, &mut list);
            if self.ends_list() {
                self.seal(sink)?;
            }
            std::mem::swap(&mut self.open, &mut list);
        }
        self.open = list;
        Ok(())
    }

    fn seal(&mut self, sink: &dyn Sink) -> Result<(), VaultError> {
        let list = std::mem::take(&mut self.open);
        let length = list.iter().map(Segment::length).sum();
        let mut writer = Writer::default();
        writer.byte(VERSION);
        writer.byte(KIND_CONTENT);
        let mut refs = Vec::new();
        write_segments(&mut writer, &mut refs, &list);
        let id = sink.put(Kind::Tree, &refs, &writer.0)?;
        self.spine.written.push(id);
        self.spine.push(sink, length, id)
    }

    /// Completes the list. Gives also every object beneath it, if it is an object and these are not too many to remember.
    ///
    /// # Errors
    /// If the vault does not take an object.
    pub fn finish(mut self, sink: &dyn Sink) -> Result<(Content, Vec<ChunkId>), VaultError> {
        if !self.spilled && self.open.len() <= SEGMENTS_INLINE_MAX {
            return Ok(match self.open.is_empty() {
                true => (Content::Inline(Box::default()), Vec::new()),
                false => (Content::Segments(self.open), Vec::new()),
            });
        }
        if !self.spilled {
            self.spill(sink)?;
        }
        if !self.open.is_empty() {
            self.seal(sink)?;
        }
        let id =
            self.spine.finish(sink)?.expect("invariant: a list that does not fit the entry is not empty");
        let mut closure = self.closure;
        let whole = closure.len() < CLOSURE_MAX;
        closure.append(&mut self.spine.written);
        let closure = if whole { closure } else { Vec::new() };
        Ok((Content::Stored { id, size: self.size, data: self.data }, closure))
    }
}
