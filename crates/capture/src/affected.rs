//! Which files of a snapshot are concerned when objects of it are lost.

use crate::{
    error::CaptureError,
    tree::{
        ChunkId, ContentReader, DirectoryCursor, Entry, EntryKind, Nodes, ReadError, Segment, Xattrs, read_root,
        read_xattrs,
    },
};
use anshin_vault::{Source, VaultError};
use std::{collections::HashSet, ops::ControlFlow};

/// Decoded tree objects that are kept.
const NODES: usize = 64;

/// Paths of what cannot be restored whole without the objects in `lost`: files with contents or attributes among them, and
/// directories of which a part of the listing is (everything beneath may be concerned then). At most `limit`; the empty path
/// is the snapshot as a whole.
///
/// # Errors
/// If the vault cannot be asked at all; objects that are not there are what this is about.
pub fn affected(
    source: &dyn Source,
    root: &ChunkId,
    lost: &HashSet<ChunkId>,
    limit: usize,
) -> Result<Vec<Vec<u8>>, CaptureError> {
    let nodes = Nodes::new(source, NODES);
    let mut found = Vec::new();
    let top = match read_root(&nodes, root) {
        Ok(entry) => entry,
        Err(error) => {
            is_damage(error)?;
            return Ok(vec![Vec::new()]);
        }
    };
    let mut at: Vec<u8> = Vec::new();
    let mut stack = vec![(0, cursor(&top))];
    while let Some((length, cursor)) = stack.last_mut() {
        if found.len() >= limit {
            break;
        }
        at.truncate(*length);
        let entry = match cursor.next(&nodes) {
            Ok(Some(entry)) => entry,
            Ok(None) => {
                stack.pop();
                continue;
            }
            Err(error) => {
                is_damage(error)?;
                found.push(at.clone());
                stack.pop();
                continue;
            }
        };
        if !at.is_empty() {
            at.push(b'/');
        }
        at.extend_from_slice(&entry.name);
        if is_affected(&nodes, &entry, lost)? {
            found.push(at.clone());
        }
        if entry.is_directory() {
            stack.push((at.len(), self::cursor(&entry)));
        }
    }
    Ok(found)
}

fn cursor(entry: &Entry) -> DirectoryCursor {
    match &entry.kind {
        EntryKind::Directory(listing) => DirectoryCursor::new(listing),
        _ => DirectoryCursor::default(),
    }
}

fn is_affected(nodes: &Nodes<'_>, entry: &Entry, lost: &HashSet<ChunkId>) -> Result<bool, CaptureError> {
    if !matches!(entry.attributes.xattrs, Xattrs::Inline(_))
        && let Err(error) = read_xattrs(nodes, &entry.attributes.xattrs)
    {
        is_damage(error)?;
        return Ok(true);
    }
    let Some(content) = entry.content() else { return Ok(false) };
    let walked = ContentReader::new(nodes).segments(content, |_, segment| match segment {
        Segment::Data { id, .. } if lost.contains(&id) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    match walked {
        Ok(flow) => Ok(flow.is_break()),
        Err(error) => is_damage(error).map(|()| true),
    }
}

/// Damage is what is looked for; anything else is an error.
fn is_damage(error: ReadError) -> Result<(), CaptureError> {
    match error {
        ReadError::Damaged { .. }
        | ReadError::Vault(VaultError::Missing(_) | VaultError::Damaged { .. } | VaultError::NotFound(_)) => Ok(()),
        error @ ReadError::Vault(_) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Monitor,
        backup::{BackupOptions, BackupRoot, backup},
        browse,
    };
    use anshin_vault::{Chunker, memory::MemoryVault};
    use std::{fs, sync::Arc};

    #[test]
    fn a_lost_object_is_named_by_the_files_that_need_it() {
        let dir = std::env::temp_dir().join(format!("anshin-affected-{}", std::process::id()));
        fs::create_dir_all(dir.join("deep")).unwrap();
        fs::write(dir.join("deep/one"), vec![1; 5000]).unwrap();
        fs::write(dir.join("same"), vec![1; 5000]).unwrap();
        fs::write(dir.join("other"), vec![2; 5000]).unwrap();
        let vault = MemoryVault::new();
        let root = BackupRoot { source: dir.clone(), path: "/".into() };
        let options = BackupOptions::new(Arc::new(Chunker::new(&[3; 32])));
        let root = backup(&vault, &[root], &options, &Monitor::new()).unwrap().root;
        fs::remove_dir_all(&dir).unwrap();
        assert!(affected(&vault, &root, &HashSet::new(), 10).unwrap().is_empty());

        let entry = browse::show(&vault, &root, b"same").unwrap();
        let Some(crate::tree::Content::Segments(list)) = entry.content() else { panic!("{entry:?}") };
        let Segment::Data { id, .. } = list[0] else { panic!("{entry:?}") };
        let lost = HashSet::from([id]);
        assert_eq!(affected(&vault, &root, &lost, 10).unwrap(), [&b"deep/one"[..], b"same"]);
        assert_eq!(affected(&vault, &root, &lost, 1).unwrap().len(), 1);

        let EntryKind::Directory(crate::tree::Listing::Stored { id, .. }) =
            browse::show(&vault, &root, b"deep").unwrap().kind
        else {
            panic!()
        };
        assert!(vault.lose(&id));
        assert_eq!(affected(&vault, &root, &HashSet::from([id]), 10).unwrap(), [b"deep"]);
    }
}
