//! Files with several names: read once.

use crate::{
    sys::Stat,
    tree::{ChunkId, Entry, LinkGroup},
};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// Files that wait for their other names; beyond, they are read once per name.
const KEPT_MAX: usize = 100_000;

/// What was captured under the first name.
#[derive(Clone)]
pub(crate) struct Captured {
    pub stat: Stat,
    pub entry: Entry,
    pub closure: Vec<ChunkId>,
}

#[derive(Default)]
pub(crate) struct LinkTable {
    known: Mutex<HashMap<LinkGroup, (Captured, u32)>>,
}

impl LinkTable {
    /// What another name of the file gave, if the file is still the same.
    pub fn get(&self, group: LinkGroup, stat: &Stat) -> Option<Captured> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (captured, left) = known.get_mut(&group)?;
        if !captured.stat.same_version(stat) {
            known.remove(&group);
            return None;
        }
        *left -= 1;
        if *left == 0 { known.remove(&group).map(|(captured, _)| captured) } else { Some(captured.clone()) }
    }

    pub fn put(&self, group: LinkGroup, captured: Captured) {
        let left = captured.stat.links.saturating_sub(1);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if left > 0 && known.len() < KEPT_MAX {
            known.insert(group, (captured, left));
        }
    }
}
