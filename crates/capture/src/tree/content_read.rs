//! Reading of contents: which pieces there are, and their bytes.

use super::{Content, Node, Nodes, ReadError, Segment};
use anshin_vault::ChunkId;
use std::ops::ControlFlow;

/// Reads where the pieces of a file are, and the pieces.
pub struct ContentReader<'n, 's> {
    nodes: &'n Nodes<'s>,
}

impl<'n, 's> ContentReader<'n, 's> {
    /// Reads through `nodes`.
    pub fn new(nodes: &'n Nodes<'s>) -> Self {
        Self { nodes }
    }

    /// Hands every piece with its offset to `each`, in order, until that breaks off.
    ///
    /// # Errors
    /// If an object cannot be read.
    pub fn segments<B>(
        &self,
        content: &Content,
        mut each: impl FnMut(u64, Segment) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, ReadError> {
        let mut offset = 0;
        let mut each_of = |list: &[Segment]| {
            for segment in list {
                if let ControlFlow::Break(reason) = each(offset, *segment) {
                    return ControlFlow::Break(reason);
                }
                offset += segment.length();
            }
            ControlFlow::Continue(())
        };
        let top = match content {
            Content::Missing { .. } | Content::Inline(_) => return Ok(ControlFlow::Continue(())),
            Content::Segments(list) => return Ok(each_of(list)),
            Content::Stored { id, .. } => *id,
        };
        let mut parts: Vec<(Option<u8>, ChunkId)> = vec![(None, top)];
        while let Some((level, id)) = parts.pop() {
            let node = self.nodes.node(&id)?;
            match &*node {
                Node::Content(list) if level.is_none_or(|level| level == 0) => {
                    if let ControlFlow::Break(reason) = each_of(list) {
                        return Ok(ControlFlow::Break(reason));
                    }
                }
                Node::ContentIndex(own, children) if level.is_none_or(|level| level == *own) => {
                    parts.extend(children.iter().rev().map(|(_, child)| (Some(own - 1), *child)));
                }
                other => return Err(self.nodes.wrong(&id, other)),
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The piece in which `offset` lies, with the offset at which it begins; none behind the end.
    ///
    /// # Errors
    /// If an object cannot be read.
    pub fn segment_at(&self, content: &Content, offset: u64) -> Result<Option<(u64, Segment)>, ReadError> {
        let within = |list: &[Segment], mut begin: u64| {
            for segment in list {
                if offset < begin + segment.length() {
                    return Some((begin, *segment));
                }
                begin += segment.length();
            }
            None
        };
        let (mut id, size) = match content {
            Content::Missing { .. } | Content::Inline(_) => return Ok(None),
            Content::Segments(list) => return Ok(within(list, 0)),
            Content::Stored { id, size, .. } => (*id, *size),
        };
        if offset >= size {
            return Ok(None);
        }
        let (mut begin, mut level) = (0u64, None);
        loop {
            let node = self.nodes.node(&id)?;
            match &*node {
                Node::Content(list) if level.is_none_or(|level| level == 0) => {
                    return Ok(within(list, begin));
                }
                Node::ContentIndex(own, parts) if level.is_none_or(|level| level == *own) => {
                    let mut below = None;
                    for (length, child) in parts {
                        if offset < begin + length {
                            below = Some(*child);
                            break;
                        }
                        begin += length;
                    }
                    let Some(child) = below else { return Ok(None) };
                    (id, level) = (child, Some(own - 1));
                }
                other => return Err(self.nodes.wrong(&id, other)),
            }
        }
    }

    /// Reads up to `length` bytes from `offset` on; fewer only at the end.
    ///
    /// # Errors
    /// If an object cannot be read, or the contents were never captured.
    pub fn read_at(&self, content: &Content, offset: u64, length: usize) -> Result<Vec<u8>, ReadError> {
        if let Content::Inline(bytes) = content {
            let begin = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            let end = begin.saturating_add(length).min(bytes.len());
            return Ok(bytes[begin..end].to_vec());
        }
        let end = offset.saturating_add(length as u64).min(content.size());
        let mut out = Vec::with_capacity(end.saturating_sub(offset) as usize);
        let mut at = offset;
        while at < end {
            let Some((begin, segment)) = self.segment_at(content, at)? else { break };
            let until = end.min(begin + segment.length());
            let count = (until - at) as usize;
            match segment {
                Segment::Hole { .. } => out.resize(out.len() + count, 0),
                Segment::Data { id, length } => {
                    let data = self.nodes.data_again(&id, length)?;
                    let from = (at - begin) as usize;
                    out.extend_from_slice(&data[from..from + count]);
                }
            }
            at = until;
        }
        Ok(out)
    }
}
