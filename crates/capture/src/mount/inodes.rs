//! Which numbers the kernel knows, and for what.

use crate::tree::{Entry, LinkGroup};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

const ROOT: u64 = 1;

/// What makes two lookups the same file.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Name(u64, Box<[u8]>),
    Link(LinkGroup),
}

struct Known {
    entry: Arc<Entry>,
    key: Option<Key>,
    /// How often the kernel was told of it and has not forgotten it.
    lookups: u64,
}

#[derive(Default)]
struct Table {
    known: HashMap<u64, Known>,
    numbers: HashMap<Key, u64>,
    last: u64,
}

impl Table {
    fn is_free_or_equal(&self, key: &Key, entry: &Entry) -> bool {
        let known = self.numbers.get(key).and_then(|inode| self.known.get(inode));
        known.is_none_or(|known| known.entry.kind == entry.kind && known.entry.attributes == entry.attributes)
    }
}

/// The files that the kernel has looked up: as many as it remembers, no more.
pub(super) struct Inodes {
    table: Mutex<Table>,
}

impl Inodes {
    pub fn new(root: Entry) -> Self {
        let mut table = Table { last: ROOT, ..Table::default() };
        table.known.insert(ROOT, Known { entry: Arc::new(root), key: None, lookups: 1 });
        Self { table: Mutex::new(table) }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, inode: u64) -> Option<Arc<Entry>> {
        self.table().known.get(&inode).map(|known| known.entry.clone())
    }

    /// The number for an entry of `parent`; counted as told once more.
    pub fn look_up(&self, parent: u64, entry: Entry) -> (u64, Arc<Entry>) {
        let mut table = self.table();
        let own = Key::Name(parent, entry.name.clone());
        let key = match entry.link.map(Key::Link) {
            // A file that changed between its names, or whose number another one had before: it shows what was read of it.
            Some(shared) if table.is_free_or_equal(&shared, &entry) => shared,
            _ => own,
        };
        if let Some(inode) = table.numbers.get(&key).copied()
            && let Some(known) = table.known.get_mut(&inode)
        {
            known.lookups += 1;
            return (inode, known.entry.clone());
        }
        table.last += 1;
        let (inode, entry) = (table.last, Arc::new(entry));
        table.numbers.insert(key.clone(), inode);
        table.known.insert(inode, Known { entry: entry.clone(), key: Some(key), lookups: 1 });
        (inode, entry)
    }

    pub fn forget(&self, inode: u64, lookups: u64) {
        let mut table = self.table();
        let Some(known) = table.known.get_mut(&inode) else { return };
        known.lookups = known.lookups.saturating_sub(lookups);
        if known.lookups == 0 && inode != ROOT {
            let key = table.known.remove(&inode).and_then(|known| known.key);
            if let Some(key) = key {
                table.numbers.remove(&key);
            }
        }
    }
}

/// The number that a listing shows for an entry nobody has looked up; only programs that compare listings with each other
/// look at it.
pub(super) fn shown_number(parent: u64, entry: &Entry) -> u64 {
    let mut hasher = blake3::Hasher::new();
    match entry.link {
        Some(group) => hasher.update(&group.mount.to_le_bytes()).update(&group.inode.to_le_bytes()),
        None => hasher.update(&parent.to_le_bytes()).update(&entry.name),
    };
    let (head, _) =
        hasher.finalize().as_bytes().split_first_chunk().map(|(h, r)| (*h, r.len())).unwrap_or_default();
    u64::from_le_bytes(head) | 1 << 63
}
