//! The client's side: what backups write to and restores read from. Ids, compression and encryption happen here, on the
//! machine that owns the data, in the threads of the callers.

use crate::chunker::Chunker;
use crate::ids::chunk_id;
use crate::keeper::{GET_MAX, Keeper};
use crate::keys::DomainKeys;
use crate::object::{ChunkId, Kind, Object, PLAIN_SIZE_MAX, REFS_MAX, Sink, Source, VaultError};
use crate::seal::Sealed;
use crate::snapshot::{Snapshot, SnapshotId, SnapshotRecord, SnapshotStats};
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// With a far keeper, objects are gathered to so many bytes or so many pieces before it is asked which it lacks.
const BATCH_SIZE: usize = 4 << 20;
const BATCH_OBJECTS: usize = 512;
/// Ids that are remembered as being in the vault, so that it is not asked again: 16 bytes each.
const KNOWN_MAX: usize = 1 << 18;
/// Ids asked for at once when reading.
const READ_AT_ONCE: usize = 64;

/// One backup's or one restore's conversation with a keeper. Shared by any number of threads.
pub struct Session {
    keeper: Arc<dyn Keeper>,
    keys: DomainKeys,
    near: bool,
    shared: bool,
    known: Mutex<HashSet<u128>>,
    batch: Mutex<Batch>,
    failed: Mutex<Option<VaultError>>,
    counters: Counters,
}

#[derive(Default)]
struct Batch {
    items: Vec<Item>,
    size: usize,
}

struct Item {
    id: ChunkId,
    kind: Kind,
    refs: Vec<ChunkId>,
    plain: Vec<u8>,
}

#[derive(Default)]
struct Counters {
    put_objects: AtomicU64,
    put_bytes: AtomicU64,
    new_objects: AtomicU64,
    new_plain_bytes: AtomicU64,
    sent_bytes: AtomicU64,
}

/// What a session has come to so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SessionStats {
    /// Objects put, whether new or not.
    pub put_objects: u64,
    /// Their contents' bytes.
    pub put_bytes: u64,
    /// Objects that the vault lacked.
    pub new_objects: u64,
    /// Their contents' bytes.
    pub new_plain_bytes: u64,
    /// Bytes sent to the keeper: compressed and encrypted.
    pub sent_bytes: u64,
}

/// What is said about a snapshot when it is sealed.
#[derive(Clone, Debug)]
pub struct SnapshotDraft {
    /// Its name; [`SnapshotId::generate`], or one that a later attempt can find again.
    pub id: SnapshotId,
    /// The plan that made it.
    pub plan: String,
    /// The run that made it.
    pub run: String,
    /// The instant whose state it holds, in nanoseconds of Unix time.
    pub time: i64,
    /// The object from which all others are reached.
    pub root: ChunkId,
    /// Files and directories, or extents.
    pub entries: u64,
    /// Bytes as the source has them.
    pub bytes: u64,
    /// What only who has the key reads.
    pub meta: Vec<u8>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn short(id: &ChunkId) -> u128 {
    u128::from_le_bytes(id.0[..16].try_into().expect("invariant: an id has 32 bytes"))
}

impl Session {
    /// A session with this keeper.
    ///
    /// # Errors
    /// [`VaultError::Key`] if the keys are of another domain than the keeper serves.
    pub fn new(keeper: Arc<dyn Keeper>, keys: DomainKeys) -> Result<Self, VaultError> {
        if keeper.domain() != keys.domain() {
            return Err(VaultError::Key(
                "this key is of another key domain than the vault was asked for".into(),
            ));
        }
        let (near, shared) = (keeper.is_near(), keeper.is_shared());
        Ok(Self {
            keeper,
            keys,
            near,
            shared,
            known: Mutex::default(),
            batch: Mutex::default(),
            failed: Mutex::default(),
            counters: Counters::default(),
        })
    }

    /// Where contents are cut.
    #[must_use]
    pub fn chunker(&self) -> Chunker {
        self.keys.chunker()
    }

    /// Its keys.
    #[must_use]
    pub const fn keys(&self) -> &DomainKeys {
        &self.keys
    }

    /// The keeper it talks to.
    #[must_use]
    pub fn keeper(&self) -> &Arc<dyn Keeper> {
        &self.keeper
    }

    /// What it has come to so far.
    #[must_use]
    pub fn stats(&self) -> SessionStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        SessionStats {
            put_objects: get(&counters.put_objects),
            put_bytes: get(&counters.put_bytes),
            new_objects: get(&counters.new_objects),
            new_plain_bytes: get(&counters.new_plain_bytes),
            sent_bytes: get(&counters.sent_bytes),
        }
    }

    fn guard<T>(&self, result: Result<T, VaultError>) -> Result<T, VaultError> {
        if let Err(error) = &result {
            lock(&self.failed).get_or_insert_with(|| error.clone());
        }
        result
    }

    fn check(&self) -> Result<(), VaultError> {
        match &*lock(&self.failed) {
            Some(error) => Err(VaultError::Failed(error.to_string())),
            None => Ok(()),
        }
    }

    /// Whether the vault is known to have it. False says nothing.
    fn is_known(&self, id: &ChunkId) -> bool {
        lock(&self.known).contains(&short(id))
    }

    fn remember(&self, ids: impl Iterator<Item = ChunkId>) {
        let mut known = lock(&self.known);
        if known.len() >= KNOWN_MAX {
            *known = HashSet::new();
        }
        known.extend(ids.map(|id| short(&id)));
    }

    /// Asks for all, seals and sends what is missing. What is sealed is counted as new.
    fn send(&self, items: &[ItemRef<'_>]) -> Result<(), VaultError> {
        let ids: Vec<ChunkId> = items.iter().map(|item| item.id).collect();
        let missing = self.keeper.missing(&ids)?;
        let lacking: Vec<&ItemRef<'_>> =
            items.iter().zip(&missing).filter(|(_, m)| **m).map(|(item, _)| item).collect();
        let mut sealed: Vec<Sealed> = Vec::with_capacity(lacking.len());
        for item in lacking {
            self.counters.new_objects.fetch_add(1, Ordering::Relaxed);
            self.counters.new_plain_bytes.fetch_add(item.plain.len() as u64, Ordering::Relaxed);
            sealed.push(Sealed::seal(&self.keys, &item.id, item.kind, item.refs, item.plain));
        }
        if self.shared && !sealed.is_empty() {
            let claims: Vec<_> = sealed.iter().map(|sealed| (sealed.id(), sealed.hash())).collect();
            let mut proven = self.keeper.prove(&claims)?.into_iter();
            sealed.retain(|_| !proven.next().unwrap_or(false));
        }
        if !sealed.is_empty() {
            let size = sealed.iter().map(|sealed| sealed.bytes().len() as u64).sum();
            self.counters.sent_bytes.fetch_add(size, Ordering::Relaxed);
            self.keeper.put(sealed)?;
        }
        self.remember(ids.into_iter());
        Ok(())
    }

    fn send_batch(&self, batch: &Batch) -> Result<(), VaultError> {
        let items: Vec<ItemRef<'_>> = batch.items.iter().map(Item::as_ref).collect();
        self.send(&items)
    }

    /// Sends what is gathered and makes everything put durable.
    ///
    /// # Errors
    /// Why something could not be stored; the session has failed then.
    pub fn flush(&self) -> Result<(), VaultError> {
        self.check()?;
        let batch = std::mem::take(&mut *lock(&self.batch));
        if !batch.items.is_empty() {
            self.guard(self.send_batch(&batch))?;
        }
        self.guard(self.keeper.flush())
    }

    /// Makes the snapshot visible, after all that is reachable from its root is durable.
    ///
    /// # Errors
    /// As [`Keeper::seal_snapshot`]. After [`VaultError::Missing`] a new session may try again from the source.
    pub fn seal(&self, draft: SnapshotDraft) -> Result<Snapshot, VaultError> {
        self.flush()?;
        let stats = self.stats();
        let mut record = SnapshotRecord {
            id: draft.id,
            client: self.keeper.client(),
            plan: draft.plan,
            run: draft.run,
            time: draft.time,
            root: draft.root,
            stats: SnapshotStats {
                entries: draft.entries,
                bytes: draft.bytes,
                new_objects: stats.new_objects,
                new_bytes: stats.sent_bytes,
            },
            meta: Vec::new(),
        };
        record.check()?;
        record.meta = self.keys.seal_meta(&record.clear(), &draft.meta)?;
        let sealed = self.guard(self.keeper.seal_snapshot(record));
        // What was known is no longer kept for this session.
        lock(&self.known).clear();
        sealed
    }

    /// The client's snapshots, each with what it says about itself; an error in place of that if it was changed.
    ///
    /// # Errors
    /// Why the keeper cannot say.
    #[allow(clippy::type_complexity)]
    pub fn snapshots(&self) -> Result<Vec<(Snapshot, Result<Vec<u8>, VaultError>)>, VaultError> {
        let all = self.keeper.snapshots()?;
        Ok(all
            .into_iter()
            .map(|snapshot| {
                let meta = snapshot.record.open_meta(&self.keys);
                (snapshot, meta)
            })
            .collect())
    }
}

/// An item whose content lies with the caller.
struct ItemRef<'a> {
    id: ChunkId,
    kind: Kind,
    refs: &'a [ChunkId],
    plain: &'a [u8],
}

impl Item {
    fn as_ref(&self) -> ItemRef<'_> {
        ItemRef { id: self.id, kind: self.kind, refs: &self.refs, plain: &self.plain }
    }
}

impl Sink for Session {
    fn put(&self, kind: Kind, refs: &[ChunkId], plain: &[u8]) -> Result<ChunkId, VaultError> {
        self.check()?;
        if plain.len() > PLAIN_SIZE_MAX {
            return Err(VaultError::TooLarge { what: "an object", size: plain.len(), max: PLAIN_SIZE_MAX });
        }
        if refs.len() > REFS_MAX || (kind == Kind::Data && !refs.is_empty()) {
            return Err(VaultError::TooLarge {
                what: "a list of references",
                size: refs.len(),
                max: REFS_MAX,
            });
        }
        let id = chunk_id(&self.keys.id, kind, refs, plain);
        self.counters.put_objects.fetch_add(1, Ordering::Relaxed);
        self.counters.put_bytes.fetch_add(plain.len() as u64, Ordering::Relaxed);
        if self.is_known(&id) {
            return Ok(id);
        }
        if self.near {
            self.guard(self.send(&[ItemRef { id, kind, refs, plain }]))?;
            return Ok(id);
        }
        let full = {
            let mut batch = lock(&self.batch);
            batch.size += plain.len() + 32 * refs.len();
            batch.items.push(Item { id, kind, refs: refs.to_vec(), plain: plain.to_vec() });
            let full = batch.size >= BATCH_SIZE || batch.items.len() >= BATCH_OBJECTS;
            full.then(|| std::mem::take(&mut *batch))
        };
        // Sent by the thread that filled it, while others fill the next one: as many are on their way as there are threads.
        if let Some(batch) = full {
            self.guard(self.send_batch(&batch))?;
        }
        Ok(id)
    }

    fn has(&self, id: &ChunkId) -> Result<bool, VaultError> {
        Ok(self.has_many(std::slice::from_ref(id))?[0])
    }

    fn has_many(&self, ids: &[ChunkId]) -> Result<Vec<bool>, VaultError> {
        let unknown: Vec<ChunkId> = {
            let known = lock(&self.known);
            ids.iter().filter(|id| !known.contains(&short(id))).copied().collect()
        };
        let mut there: HashSet<ChunkId> = HashSet::new();
        for group in unknown.chunks(crate::keeper::MISSING_MAX) {
            let missing = self.keeper.missing(group)?;
            there.extend(group.iter().zip(missing).filter(|(_, missing)| !missing).map(|(id, _)| *id));
        }
        self.remember(there.iter().copied());
        let asked: HashSet<ChunkId> = unknown.into_iter().collect();
        Ok(ids.iter().map(|id| !asked.contains(id) || there.contains(id)).collect())
    }
}

impl Source for Session {
    fn get(&self, id: &ChunkId) -> Result<Object, VaultError> {
        let sealed = self.keeper.get(std::slice::from_ref(id))?;
        let sealed = sealed.first().filter(|sealed| sealed.id() == *id).ok_or(VaultError::Missing(*id))?;
        sealed.open(&self.keys)
    }

    fn get_many(&self, ids: &[ChunkId]) -> Result<Vec<Object>, VaultError> {
        const { assert!(READ_AT_ONCE <= GET_MAX) };
        let mut all = Vec::with_capacity(ids.len());
        for group in ids.chunks(READ_AT_ONCE) {
            let sealed = self.keeper.get(group)?;
            if sealed.len() != group.len() || sealed.iter().zip(group).any(|(sealed, id)| sealed.id() != *id)
            {
                return Err(VaultError::damaged("the keeper's answer", "it is not what was asked for"));
            }
            for sealed in sealed {
                all.push(sealed.open(&self.keys)?);
            }
        }
        Ok(all)
    }
}
