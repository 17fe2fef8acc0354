//! A storage in memory that fails where a test tells it to.

use super::{Store, check_name};
use crate::object::VaultError;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Objects in memory, with faults. Clones share the objects: a second process on the same storage.
#[derive(Clone, Default)]
pub struct FaultStore {
    state: Arc<Mutex<State>>,
    /// Faults concern one process, not the storage.
    faults: Arc<Mutex<Faults>>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Bytes>,
    /// Bytes that still fit.
    room: Option<usize>,
    /// Bytes that are left to garbage collection.
    reserve: usize,
}

#[derive(Default)]
struct Faults {
    operations: u64,
    /// The operation (counted from 1) at which the process dies, and whether that operation still takes effect.
    death: Option<(u64, bool)>,
    /// A storage that forgets to refuse overwriting.
    overwrites: bool,
    far: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FaultStore {
    /// An empty storage without faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Another process on the same storage, without the faults of this one.
    #[must_use]
    pub fn restarted(&self) -> Self {
        Self { state: self.state.clone(), faults: Arc::default() }
    }

    /// The process dies at its `operation`th operation from now on (1 is the next), which still takes effect if
    /// `applied`. Every later operation fails.
    pub fn die_at(&self, operation: u64, applied: bool) {
        let mut faults = lock(&self.faults);
        let at = faults.operations + operation;
        faults.death = Some((at, applied));
    }

    /// How many operations this process has begun.
    #[must_use]
    pub fn operations(&self) -> u64 {
        lock(&self.faults).operations
    }

    /// Whether the process has died.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        let faults = lock(&self.faults);
        faults.death.is_some_and(|(at, _)| faults.operations >= at)
    }

    /// Lets `bytes` more in; None removes the limit.
    pub fn set_room(&self, bytes: Option<usize>) {
        lock(&self.state).room = bytes;
    }

    /// Leaves so many bytes to garbage collection.
    pub fn set_reserve(&self, bytes: usize) {
        lock(&self.state).reserve = bytes;
    }

    /// Overwrites although it was told not to, as some storages do.
    pub fn ignore_conditions(&self) {
        lock(&self.faults).overwrites = true;
    }

    /// Claims that operations take long, so that callers gather them.
    pub fn be_far(&self) {
        lock(&self.faults).far = true;
    }

    /// Names of all objects.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        lock(&self.state).objects.keys().cloned().collect()
    }

    /// An object's bytes without counting as an operation.
    #[must_use]
    pub fn peek(&self, name: &str) -> Option<Bytes> {
        lock(&self.state).objects.get(name).cloned()
    }

    /// Puts bytes in the place of an object, as rot or an evil operator would; None removes it.
    pub fn tamper(&self, name: &str, bytes: Option<Bytes>) {
        let mut state = lock(&self.state);
        match bytes {
            Some(bytes) => state.objects.insert(name.to_owned(), bytes),
            None => state.objects.remove(name),
        };
    }

    /// Everything that is stored, to go back to it later.
    #[must_use]
    pub fn image(&self) -> BTreeMap<String, Bytes> {
        lock(&self.state).objects.clone()
    }

    /// A storage with these objects.
    #[must_use]
    pub fn of_image(objects: BTreeMap<String, Bytes>) -> Self {
        let store = Self::new();
        lock(&store.state).objects = objects;
        store
    }

    /// Runs an operation unless the process is dead; None if it dies in it without effect.
    fn run<T>(&self, what: &str, operation: impl FnOnce() -> Result<T, VaultError>) -> Result<T, VaultError> {
        let dead = || {
            Err(VaultError::Store {
                what: what.to_owned(),
                why: "the process was killed".into(),
                transient: false,
            })
        };
        let (now, death) = {
            let mut faults = lock(&self.faults);
            faults.operations += 1;
            (faults.operations, faults.death)
        };
        match death {
            Some((at, _)) if now > at => dead(),
            Some((at, applied)) if now == at => {
                if applied {
                    let _ = operation();
                }
                dead()
            }
            _ => operation(),
        }
    }
}

impl Store for FaultStore {
    fn put(&self, name: &str, parts: &[Bytes]) -> Result<(), VaultError> {
        check_name(name)?;
        self.run(name, || {
            let overwrites = lock(&self.faults).overwrites;
            let mut state = lock(&self.state);
            if state.objects.contains_key(name) && !overwrites {
                return Err(VaultError::Exists(name.to_owned()));
            }
            let whole: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
            if let Some(room) = &mut state.room {
                *room = room
                    .checked_sub(whole.len())
                    .ok_or_else(|| VaultError::Full(format!("writing {name}")))?;
            }
            state.objects.insert(name.to_owned(), whole.into());
            Ok(())
        })
    }

    fn get(&self, name: &str) -> Result<Bytes, VaultError> {
        check_name(name)?;
        self.run(name, || {
            lock(&self.state).objects.get(name).cloned().ok_or_else(|| VaultError::NotFound(name.to_owned()))
        })
    }

    fn get_range(&self, name: &str, offset: u64, length: usize) -> Result<Bytes, VaultError> {
        check_name(name)?;
        self.run(name, || {
            let state = lock(&self.state);
            let object = state.objects.get(name).ok_or_else(|| VaultError::NotFound(name.to_owned()))?;
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            match start.checked_add(length) {
                Some(end) if end <= object.len() => Ok(object.slice(start..end)),
                _ => Err(VaultError::damaged(name, "it is shorter than it should be")),
            }
        })
    }

    fn room(&self) -> Option<u64> {
        lock(&self.state).room.map(|room| room as u64)
    }

    fn is_tight(&self) -> bool {
        let state = lock(&self.state);
        state.room.is_some_and(|room| room < state.reserve)
    }

    fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, VaultError> {
        self.run(prefix, || {
            let state = lock(&self.state);
            let within =
                state.objects.range(prefix.to_owned()..).take_while(|(name, _)| name.starts_with(prefix));
            Ok(within.map(|(name, bytes)| (name.clone(), bytes.len() as u64)).collect())
        })
    }

    fn delete(&self, name: &str) -> Result<(), VaultError> {
        check_name(name)?;
        self.run(name, || {
            let mut state = lock(&self.state);
            let removed = state.objects.remove(name).map_or(0, |bytes| bytes.len());
            if let Some(room) = &mut state.room {
                *room += removed;
            }
            Ok(())
        })
    }

    fn is_near(&self) -> bool {
        !lock(&self.faults).far
    }

    fn describe(&self) -> String {
        "memory".into()
    }
}
