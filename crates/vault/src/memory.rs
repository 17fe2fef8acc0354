//! A vault in memory that keeps nothing secret and nothing safe: for tests of what writes to and reads from vaults.

use crate::object::{ChunkId, Kind, Object, PLAIN_SIZE_MAX, REFS_MAX, Sink, Source, VaultError};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Objects in memory.
#[derive(Default)]
pub struct MemoryVault {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<ChunkId, Object>,
    /// Objects that are reported as damaged when read.
    damaged: BTreeMap<ChunkId, ()>,
    puts: u64,
    new: u64,
    /// Puts that still succeed; then the vault is full.
    room: Option<u64>,
}

impl MemoryVault {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many objects it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state().objects.len()
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How often something was put, and how often it was new.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let state = self.state();
        (state.puts, state.new)
    }

    /// Every id it holds.
    #[must_use]
    pub fn ids(&self) -> Vec<ChunkId> {
        self.state().objects.keys().copied().collect()
    }

    /// Takes an object away, as a damaged storage would.
    pub fn lose(&self, id: &ChunkId) -> bool {
        self.state().objects.remove(id).is_some()
    }

    /// Makes every read of an object report damage.
    pub fn damage(&self, id: &ChunkId) {
        self.state().damaged.insert(*id, ());
    }

    /// Lets `puts` more objects in and is full then.
    pub fn fill_after(&self, puts: u64) {
        self.state().room = Some(puts);
    }
}

impl Sink for MemoryVault {
    fn put(&self, kind: Kind, refs: &[ChunkId], plain: &[u8]) -> Result<ChunkId, VaultError> {
        if plain.len() > PLAIN_SIZE_MAX {
            return Err(VaultError::TooLarge { what: "an object", size: plain.len(), max: PLAIN_SIZE_MAX });
        }
        if refs.len() > REFS_MAX {
            return Err(VaultError::TooLarge {
                what: "a list of references",
                size: refs.len(),
                max: REFS_MAX,
            });
        }
        let id = crate::ids::chunk_id(&[7; 32], kind, refs, plain);
        let mut state = self.state();
        state.puts += 1;
        if !state.objects.contains_key(&id) {
            match &mut state.room {
                Some(0) => return Err(VaultError::Full("the vault in memory".into())),
                Some(room) => *room -= 1,
                None => {}
            }
            state.new += 1;
            state.objects.insert(id, Object { kind, refs: refs.to_vec(), plain: plain.to_vec() });
        }
        Ok(id)
    }

    fn has(&self, id: &ChunkId) -> Result<bool, VaultError> {
        Ok(self.state().objects.contains_key(id))
    }
}

impl Source for MemoryVault {
    fn get(&self, id: &ChunkId) -> Result<Object, VaultError> {
        let state = self.state();
        if state.damaged.contains_key(id) {
            return Err(VaultError::damaged(format!("object {id}"), "it was damaged by a test"));
        }
        state.objects.get(id).cloned().ok_or(VaultError::Missing(*id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_read_and_equal_content_is_stored_once() {
        let vault = MemoryVault::new();
        let data = vault.put(Kind::Data, &[], b"content").unwrap();
        assert_eq!(vault.put(Kind::Data, &[], b"content").unwrap(), data);
        let tree = vault.put(Kind::Tree, &[data], b"content").unwrap();
        assert_ne!(tree, data);
        assert_eq!(vault.counts(), (3, 2));
        assert_eq!(
            vault.get(&tree).unwrap(),
            Object { kind: Kind::Tree, refs: vec![data], plain: b"content".to_vec() }
        );
        assert!(vault.lose(&data));
        assert_eq!(vault.get(&data), Err(VaultError::Missing(data)));
        vault.damage(&tree);
        assert!(matches!(vault.get(&tree), Err(VaultError::Damaged { .. })));
        vault.fill_after(1);
        vault.put(Kind::Data, &[], b"1").unwrap();
        assert!(matches!(vault.put(Kind::Data, &[], b"2"), Err(VaultError::Full(_))));
    }
}
