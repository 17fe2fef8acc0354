//! Reading of trees, a part at a time.

use super::{Entry, Listing, Node, ReadError, TreeError, Xattr, Xattrs, object::XattrValue};
use anshin_vault::{ChunkId, Kind, Source};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

/// Reads and decodes the objects of trees, and keeps the last ones.
pub struct Nodes<'s> {
    source: Held<'s>,
    cache: Mutex<Generations<Node>>,
    /// Data objects, if they are worth keeping: a mounted file is read in parts smaller than they are.
    data: Mutex<Generations<Vec<u8>>>,
}

enum Held<'s> {
    Borrowed(&'s dyn Source),
    Shared(Arc<dyn Source>),
}

/// Two generations: when the younger is full it becomes the older one, whose objects are forgotten unless used meanwhile.
struct Generations<T> {
    young: HashMap<ChunkId, Arc<T>>,
    old: HashMap<ChunkId, Arc<T>>,
    limit: usize,
}

impl<'s> Nodes<'s> {
    /// Reads from `source` and keeps at most `2 * limit` decoded objects.
    pub fn new(source: &'s dyn Source, limit: usize) -> Self {
        Self {
            source: Held::Borrowed(source),
            cache: Mutex::new(Generations::new(limit)),
            data: Mutex::new(Generations::new(0)),
        }
    }

    /// The same for a source that is shared; keeps also at most `2 * data_limit` data objects.
    pub fn shared(source: Arc<dyn Source>, limit: usize, data_limit: usize) -> Nodes<'static> {
        Nodes {
            source: Held::Shared(source),
            cache: Mutex::new(Generations::new(limit)),
            data: Mutex::new(Generations::new(data_limit)),
        }
    }

    /// Where it reads from.
    pub fn source(&self) -> &dyn Source {
        match &self.source {
            Held::Borrowed(source) => *source,
            Held::Shared(source) => source.as_ref(),
        }
    }

    /// One decoded tree object.
    ///
    /// # Errors
    /// If it cannot be read or is not one.
    pub fn node(&self, id: &ChunkId) -> Result<Arc<Node>, ReadError> {
        let lock = || self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(node) = lock().get(id) {
            return Ok(node);
        }
        let object = self.source().get(id)?;
        let damaged = |error| ReadError::Damaged { id: *id, error };
        if object.kind != Kind::Tree {
            return Err(damaged(TreeError::Kind(0)));
        }
        let node = Arc::new(Node::decode(&object.plain, &object.refs).map_err(damaged)?);
        lock().put(*id, node.clone());
        Ok(node)
    }

    /// The bytes of a data object, which must be `length` long.
    ///
    /// # Errors
    /// If it cannot be read or has another length.
    pub fn data(&self, id: &ChunkId, length: u64) -> Result<Vec<u8>, ReadError> {
        let object = self.source().get(id)?;
        if object.kind != Kind::Data || object.plain.len() as u64 != length {
            return Err(ReadError::Damaged { id: *id, error: TreeError::OutOfRange });
        }
        Ok(object.plain)
    }

    /// The same from memory, if it was read a short time ago.
    pub(super) fn data_again(&self, id: &ChunkId, length: u64) -> Result<Arc<Vec<u8>>, ReadError> {
        let lock = || self.data.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(data) = lock().get(id).filter(|data| data.len() as u64 == length) {
            return Ok(data);
        }
        let data = Arc::new(self.data(id, length)?);
        lock().put(*id, data.clone());
        Ok(data)
    }

    pub(super) fn wrong(&self, id: &ChunkId, node: &Node) -> ReadError {
        ReadError::Damaged { id: *id, error: TreeError::Kind(node.kind_number()) }
    }
}

impl<T> Generations<T> {
    fn new(limit: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), limit }
    }

    fn get(&mut self, id: &ChunkId) -> Option<Arc<T>> {
        if let Some(node) = self.young.get(id) {
            return Some(node.clone());
        }
        let node = self.old.remove(id)?;
        self.put(*id, node.clone());
        Some(node)
    }

    fn put(&mut self, id: ChunkId, node: Arc<T>) {
        if self.young.len() >= self.limit {
            self.old = std::mem::take(&mut self.young);
        }
        if self.limit > 0 {
            self.young.insert(id, node);
        }
    }
}

/// The root entry of a tree.
///
/// # Errors
/// If it cannot be read or is not a root.
pub fn read_root(nodes: &Nodes<'_>, id: &ChunkId) -> Result<Entry, ReadError> {
    match &*nodes.node(id)? {
        Node::Root(entry) => Ok((**entry).clone()),
        other => Err(nodes.wrong(id, other)),
    }
}

/// The extended attributes of a file, from wherever they are.
///
/// # Errors
/// If an object cannot be read.
pub fn read_xattrs(nodes: &Nodes<'_>, xattrs: &Xattrs) -> Result<Vec<Xattr>, ReadError> {
    let id = match xattrs {
        Xattrs::Inline(list) => return Ok(list.clone()),
        Xattrs::Stored(id) => id,
    };
    let node = nodes.node(id)?;
    let Node::Xattrs(list) = &*node else { return Err(nodes.wrong(id, &node)) };
    list.iter()
        .map(|(name, value)| {
            let value = match value {
                XattrValue::Inline(bytes) => bytes.clone(),
                XattrValue::Stored(id, length) => nodes.data(id, u64::from(*length))?.into(),
            };
            Ok(Xattr { name: name.clone(), value })
        })
        .collect()
}

/// A place in a directory of a tree. Entries come in order of their names and are read a part at a time.
#[derive(Default)]
pub struct DirectoryCursor {
    /// Parts still to be read, the next one first; with the level each must have (`None` for the topmost).
    parts: VecDeque<(Option<u8>, ChunkId)>,
    leaf: Option<(Arc<Node>, usize, ChunkId)>,
}

impl DirectoryCursor {
    /// Begins at the first entry.
    pub fn new(listing: &Listing) -> Self {
        let parts = match listing {
            Listing::Stored { id, .. } => VecDeque::from([(None, *id)]),
            _ => VecDeque::new(),
        };
        Self { parts, leaf: None }
    }

    /// If the next entry begins a part of the directory: its object. Equal parts of two directories can be left out.
    ///
    /// # Errors
    /// If an object cannot be read.
    pub fn at_part(&mut self, nodes: &Nodes<'_>) -> Result<Option<ChunkId>, ReadError> {
        self.settle(nodes)?;
        Ok(self.leaf.as_ref().and_then(|(_, at, id)| (*at == 0).then_some(*id)))
    }

    /// Leaves out the part that the next entry begins.
    pub fn skip_part(&mut self) {
        self.leaf = None;
    }

    /// Makes `leaf` the part with the next entry, or none at the end.
    fn settle(&mut self, nodes: &Nodes<'_>) -> Result<(), ReadError> {
        loop {
            if let Some((node, at, _)) = &self.leaf
                && let Node::Leaf(leaf) = &**node
                && *at < leaf.entries.len()
            {
                return Ok(());
            }
            self.leaf = None;
            let Some((level, id)) = self.parts.pop_front() else { return Ok(()) };
            let node = nodes.node(&id)?;
            match &*node {
                Node::Leaf(_) if level.is_none_or(|level| level == 0) => self.leaf = Some((node, 0, id)),
                Node::Index(own, parts) if level.is_none_or(|level| level == *own) => {
                    for (_, part) in parts.iter().rev() {
                        self.parts.push_front((Some(own - 1), *part));
                    }
                }
                other => return Err(nodes.wrong(&id, other)),
            }
        }
    }

    /// The next entry without going on.
    ///
    /// # Errors
    /// If an object cannot be read.
    pub fn peek(&mut self, nodes: &Nodes<'_>) -> Result<Option<&Entry>, ReadError> {
        self.settle(nodes)?;
        let Some((node, at, _)) = &self.leaf else { return Ok(None) };
        let Node::Leaf(leaf) = &**node else { return Ok(None) };
        Ok(leaf.entries.get(*at))
    }

    /// The next entry; none at the end. After an error, the parts behind the one that cannot be read follow.
    ///
    /// # Errors
    /// If an object cannot be read.
    pub fn next(&mut self, nodes: &Nodes<'_>) -> Result<Option<Entry>, ReadError> {
        let entry = self.peek(nodes)?.cloned();
        if let Some((_, at, _)) = &mut self.leaf {
            *at += 1;
        }
        Ok(entry)
    }
}

/// The entries of a directory, as an iterator.
pub struct DirectoryReader<'n, 's> {
    nodes: &'n Nodes<'s>,
    cursor: DirectoryCursor,
}

impl<'n, 's> DirectoryReader<'n, 's> {
    /// Begins at the first entry.
    pub fn new(nodes: &'n Nodes<'s>, listing: &Listing) -> Self {
        Self { nodes, cursor: DirectoryCursor::new(listing) }
    }

    /// The entry of one name, if there is one.
    ///
    /// # Errors
    /// If an object cannot be read.
    pub fn find(nodes: &Nodes<'_>, listing: &Listing, name: &[u8]) -> Result<Option<Entry>, ReadError> {
        let Listing::Stored { id, .. } = listing else { return Ok(None) };
        let (mut id, mut level) = (*id, None);
        loop {
            let node = nodes.node(&id)?;
            match &*node {
                Node::Leaf(leaf) if level.is_none_or(|level| level == 0) => {
                    let at = leaf.entries.binary_search_by(|entry| (*entry.name).cmp(name));
                    return Ok(at.ok().map(|at| leaf.entries[at].clone()));
                }
                Node::Index(own, parts) if level.is_none_or(|level| level == *own) => {
                    let at = parts.partition_point(|(first, _)| **first <= *name);
                    let Some((_, below)) = at.checked_sub(1).and_then(|at| parts.get(at)) else {
                        return Ok(None);
                    };
                    (id, level) = (*below, Some(own - 1));
                }
                other => return Err(nodes.wrong(&id, other)),
            }
        }
    }
}

impl Iterator for DirectoryReader<'_, '_> {
    type Item = Result<Entry, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.cursor.next(self.nodes).transpose()
    }
}
