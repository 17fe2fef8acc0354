//! Looking into trees: list, show, find, compare. Entries are streamed; memory depends on depth, not on size.

pub use crate::affected::affected;
use crate::{
    error::CaptureError,
    restore::Selection,
    tree::{ChunkId, DirectoryCursor, DirectoryReader, Entry, EntryKind, Listing, Nodes, read_root},
};
use anshin_base::Problem;
use anshin_vault::Source;
use std::{cmp::Ordering, ops::ControlFlow};

/// Decoded tree objects that are kept.
const NODES: usize = 64;

/// What lies at a path of the snapshot.
///
/// # Errors
/// If there is nothing, or the snapshot cannot be read.
pub fn show(source: &dyn Source, root: &ChunkId, path: &[u8]) -> Result<Entry, CaptureError> {
    resolve(&Nodes::new(source, NODES), root, path)
}

pub(crate) fn resolve(nodes: &Nodes<'_>, root: &ChunkId, path: &[u8]) -> Result<Entry, CaptureError> {
    let mut entry = read_root(nodes, root)?;
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        let found = match &entry.kind {
            EntryKind::Directory(listing) => DirectoryReader::find(nodes, listing, name)?,
            _ => None,
        };
        entry = found.ok_or_else(|| {
            let message = format!("there is no `{}` in the snapshot", path.escape_ascii());
            CaptureError::problem(Problem::new("not-in-snapshot", message))
        })?;
    }
    Ok(entry)
}

/// Hands every entry beneath `path` to `each`, with its path from the top: of a directory first itself, then what lies beneath
/// it, by name. Only the first level unless `recursive`. The entry itself if it is no directory.
///
/// # Errors
/// If there is nothing at `path`, or the snapshot cannot be read.
pub fn list(
    source: &dyn Source,
    root: &ChunkId,
    path: &[u8],
    recursive: bool,
    mut each: impl FnMut(&[u8], &Entry) -> ControlFlow<()>,
) -> Result<(), CaptureError> {
    let nodes = Nodes::new(source, NODES);
    let entry = resolve(&nodes, root, path)?;
    let mut at: Vec<u8> = join_names(path);
    let EntryKind::Directory(listing) = &entry.kind else {
        let _ = each(&at, &entry); // nothing follows anyway
        return Ok(());
    };
    let mut stack = vec![(at.len(), DirectoryCursor::new(listing))];
    while let Some((length, cursor)) = stack.last_mut() {
        at.truncate(*length);
        let Some(entry) = cursor.next(&nodes)? else {
            stack.pop();
            continue;
        };
        append(&mut at, &entry.name);
        if each(&at, &entry).is_break() {
            return Ok(());
        }
        if let (true, EntryKind::Directory(listing)) = (recursive, &entry.kind) {
            stack.push((at.len(), DirectoryCursor::new(listing)));
        }
    }
    Ok(())
}

/// Hands every entry that the selection's patterns match to `each`, as [`list`] does.
///
/// # Errors
/// As [`list`].
pub fn find(
    source: &dyn Source,
    root: &ChunkId,
    selection: &Selection,
    mut each: impl FnMut(&[u8], &Entry) -> ControlFlow<()>,
) -> Result<(), CaptureError> {
    let base = selection.base.join(&b'/');
    let skip = if base.is_empty() { 0 } else { base.len() + 1 };
    list(source, root, &base, true, |path, entry| {
        let beneath = path.get(skip..).unwrap_or_default();
        if selection.matches(beneath) { each(path, entry) } else { ControlFlow::Continue(()) }
    })
}

/// A difference between two trees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change<'e> {
    /// Only the second has it.
    Added(&'e Entry),
    /// Only the first has it.
    Removed(&'e Entry),
    /// Both have it, with other contents or of another kind.
    Contents(&'e Entry, &'e Entry),
    /// Both have it, with other attributes.
    Attributes(&'e Entry, &'e Entry),
}

/// Hands every difference beneath `path` to `each`, by path. What is equal is not read: a tree that is the same costs
/// nothing however large it is. Times of last access and of attribute changes do not count.
///
/// # Errors
/// If a snapshot cannot be read, or there is nothing at `path` in one of them.
pub fn diff(
    source: &dyn Source,
    before: &ChunkId,
    after: &ChunkId,
    path: &[u8],
    mut each: impl FnMut(&[u8], Change<'_>) -> ControlFlow<()>,
) -> Result<(), CaptureError> {
    let nodes = Nodes::new(source, NODES);
    let (one, other) = (resolve(&nodes, before, path)?, resolve(&nodes, after, path)?);
    let mut at = join_names(path);
    if compare(&at, &one, &other, &mut each).is_break() {
        return Ok(());
    }
    let mut stack = vec![(at.len(), cursor(&one), cursor(&other))];
    if one.kind == other.kind {
        return Ok(());
    }
    while let Some((length, left, right)) = stack.last_mut() {
        at.truncate(*length);
        if let (Some(one), Some(other)) = (left.at_part(&nodes)?, right.at_part(&nodes)?)
            && one == other
        {
            left.skip_part();
            right.skip_part();
            continue;
        }
        let order = match (left.peek(&nodes)?, right.peek(&nodes)?) {
            (None, None) => {
                stack.pop();
                continue;
            }
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(one), Some(other)) => one.name.cmp(&other.name),
        };
        let one = if order.is_le() { left.next(&nodes)? } else { None };
        let other = if order.is_ge() { right.next(&nodes)? } else { None };
        let Some(name) = one.as_ref().or(other.as_ref()).map(|entry| entry.name.clone()) else { continue };
        append(&mut at, &name);
        let flow = match (&one, &other) {
            (Some(one), Some(other)) => compare(&at, one, other, &mut each),
            (Some(one), None) => each(&at, Change::Removed(one)),
            (None, Some(other)) => each(&at, Change::Added(other)),
            (None, None) => ControlFlow::Continue(()),
        };
        if flow.is_break() {
            return Ok(());
        }
        let same = matches!((&one, &other), (Some(one), Some(other)) if one.kind == other.kind);
        let nested = |entry: &Option<Entry>| entry.as_ref().map(cursor).unwrap_or_default();
        if !same && [&one, &other].iter().any(|entry| entry.as_ref().is_some_and(Entry::is_directory)) {
            stack.push((at.len(), nested(&one), nested(&other)));
        }
    }
    Ok(())
}

fn cursor(entry: &Entry) -> DirectoryCursor {
    match &entry.kind {
        EntryKind::Directory(listing) => DirectoryCursor::new(listing),
        _ => DirectoryCursor::new(&Listing::Empty),
    }
}

fn compare(
    path: &[u8],
    one: &Entry,
    other: &Entry,
    each: &mut impl FnMut(&[u8], Change<'_>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let both_directories = one.is_directory() && other.is_directory();
    if one.kind != other.kind && !both_directories {
        return each(path, Change::Contents(one, other));
    }
    let (a, b) = (&one.attributes, &other.attributes);
    // A directory's time of change only says that something in it was added or removed, which is told for that.
    let same = (a.mode, &a.owner, a.flags, a.project, &a.xattrs)
        == (b.mode, &b.owner, b.flags, b.project, &b.xattrs)
        && (both_directories || a.mtime == b.mtime);
    if same { ControlFlow::Continue(()) } else { each(path, Change::Attributes(one, other)) }
}

fn join_names(path: &[u8]) -> Vec<u8> {
    let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
    names.join(&b'/')
}

fn append(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}
