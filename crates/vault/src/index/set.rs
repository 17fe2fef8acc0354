//! All that is known of where objects lie: stored segments, and what was put since the last one was written.

use super::segment::{Entry, PackInfo, Run, SEGMENT_ENTRIES_MAX, Segment, SegmentName, build};
use crate::keys::{DomainId, random};
use crate::object::{ChunkId, Kind, VaultError};
use crate::pack::{Contents, PackName, Row, WriterId};
use crate::seal::{Sealed, SealedKind};
use crate::store::Store;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// One copy of an object.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub writer: WriterId,
    pub kind: SealedKind,
    pub place: Place,
}

/// Where a copy is.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// On its way into a pack.
    Held(Sealed),
    /// In a stored pack.
    Stored(Stored),
}

/// A copy in a stored pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stored {
    pub pack: PackInfo,
    pub offset: u32,
    pub length: u32,
    pub kind: SealedKind,
}

/// Packs and objects that must not be relied on: condemned, gone, or known to be damaged.
#[derive(Clone, Default, Debug)]
pub(crate) struct Avoided {
    pub packs: HashSet<PackName>,
    pub objects: HashSet<(PackName, u32)>,
}

impl Avoided {
    fn covers(&self, pack: &PackName, offset: u32) -> bool {
        (!self.packs.is_empty() && self.packs.contains(pack))
            || (!self.objects.is_empty() && self.objects.contains(&(*pack, offset)))
    }
}

type PendingKey = (ChunkId, WriterId, Option<PackName>);

/// All pending copies of an object, or those of one writer.
fn range(id: &ChunkId, from: WriterId, to: WriterId) -> std::ops::RangeInclusive<PendingKey> {
    let last = PackName { kind: Kind::Tree, hash: [255; 32] };
    (*id, from, None)..=(*id, to, Some(last))
}

struct State {
    segments: Arc<Vec<Arc<Segment>>>,
    /// Copies that are in no segment: on their way (no pack yet), or in stored packs. An object may be in several.
    pending: BTreeMap<PendingKey, Place>,
    avoided: Arc<Avoided>,
}

/// The index of one domain.
pub(crate) struct Index {
    pub store: Arc<dyn Store>,
    pub domain: DomainId,
    state: RwLock<State>,
    /// Held by whoever changes the list of segments in the storage, or reads it.
    writing: Mutex<()>,
    /// Segments in which a lookup met a damaged block.
    bad: Mutex<Vec<SegmentName>>,
}

impl Index {
    pub(crate) fn new(store: Arc<dyn Store>, domain: DomainId) -> Self {
        let state = State { segments: Arc::default(), pending: BTreeMap::new(), avoided: Arc::default() };
        Self { store, domain, state: RwLock::new(state), writing: Mutex::default(), bad: Mutex::default() }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn segments(&self) -> Arc<Vec<Arc<Segment>>> {
        self.read().segments.clone()
    }

    pub(crate) fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The segments in which a lookup met a damaged block since the last call.
    pub(crate) fn take_bad(&self) -> Vec<SegmentName> {
        std::mem::take(&mut *self.bad.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_segments(&self, segments: Vec<Arc<Segment>>) {
        self.write().segments = Arc::new(segments);
    }

    /// Puts `new` in the place of `old`.
    pub(crate) fn replace_segments(&self, old: &[Arc<Segment>], new: Vec<Arc<Segment>>) {
        let mut state = self.write();
        let stays = |segment: &&Arc<Segment>| !old.iter().any(|old| old.name == segment.name);
        let mut segments: Vec<_> = state.segments.iter().filter(stays).cloned().collect();
        segments.extend(new);
        state.segments = Arc::new(segments);
    }

    pub(crate) fn avoided(&self) -> Arc<Avoided> {
        self.read().avoided.clone()
    }

    pub(crate) fn change_avoided(&self, change: impl FnOnce(&mut Avoided)) {
        let mut state = self.write();
        let mut avoided = (*state.avoided).clone();
        change(&mut avoided);
        state.avoided = Arc::new(avoided);
    }

    /// Calls `found` with each copy that can be relied on.
    pub(crate) fn visit(&self, id: &ChunkId, mut found: impl FnMut(Found)) -> Result<(), VaultError> {
        let (segments, avoided) = {
            let state = self.read();
            for ((_, writer, _), place) in state.pending.range(range(id, WriterId::MIN, WriterId::MAX)) {
                let kind = match place {
                    Place::Held(sealed) => sealed.kind(),
                    Place::Stored(stored) if state.avoided.covers(&stored.pack.name, stored.offset) => {
                        continue;
                    }
                    Place::Stored(stored) => stored.kind,
                };
                found(Found { writer: *writer, kind, place: place.clone() });
            }
            (state.segments.clone(), state.avoided.clone())
        };
        for segment in segments.iter() {
            let result = segment.find(&*self.store, id, |_, entry| {
                let stored = stored(segment, &entry);
                if !avoided.covers(&stored.pack.name, stored.offset) {
                    found(Found {
                        writer: stored.pack.writer,
                        kind: stored.kind,
                        place: Place::Stored(stored),
                    });
                }
            });
            if matches!(result, Err(VaultError::Damaged { .. })) {
                self.bad.lock().unwrap_or_else(PoisonError::into_inner).push(segment.name);
            }
            result?;
        }
        Ok(())
    }

    /// All copies that can be relied on, those of `writer` first.
    pub(crate) fn copies(&self, id: &ChunkId, writer: WriterId) -> Result<Vec<Found>, VaultError> {
        let mut copies = Vec::new();
        self.visit(id, |found| copies.push(found))?;
        copies.sort_by_key(|found| found.writer != writer);
        Ok(copies)
    }

    /// The kind of the object if `writer` has put it.
    pub(crate) fn own_kind(&self, id: &ChunkId, writer: WriterId) -> Result<Option<SealedKind>, VaultError> {
        let mut kind = None;
        self.visit(id, |found| {
            if found.writer == writer {
                kind = Some(found.kind);
            }
        })?;
        Ok(kind)
    }

    /// [`Self::own_kind`], if the object is durable.
    pub(crate) fn own_stored_kind(
        &self,
        id: &ChunkId,
        writer: WriterId,
    ) -> Result<Option<SealedKind>, VaultError> {
        let mut kind = None;
        self.visit(id, |found| {
            if found.writer == writer && matches!(found.place, Place::Stored(_)) {
                kind = Some(found.kind);
            }
        })?;
        Ok(kind)
    }

    /// Remembers an object that is on its way; false if it is on its way or there already, as far as is known in memory.
    pub(crate) fn hold(&self, writer: WriterId, sealed: &Sealed) -> bool {
        let mut state = self.write();
        let id = sealed.id();
        let there = state.pending.range(range(&id, writer, writer)).any(|(_, place)| match place {
            Place::Held(_) => true,
            Place::Stored(stored) => !state.avoided.covers(&stored.pack.name, stored.offset),
        });
        if !there {
            state.pending.insert((id, writer, None), Place::Held(sealed.clone()));
        }
        !there
    }

    /// What was held for this pack is stored, or lost if `stored` is false.
    pub(crate) fn settle(&self, contents: &Contents, stored: bool) {
        if stored {
            self.learn(contents);
        }
        let mut state = self.write();
        for row in &contents.rows {
            state.pending.remove(&(row.id, contents.writer, None));
        }
    }

    /// Takes in what lies in a stored pack.
    pub(crate) fn learn(&self, contents: &Contents) {
        let pack = PackInfo { name: contents.name, writer: contents.writer, size: contents.size };
        let mut state = self.write();
        for row in &contents.rows {
            let key = (row.id, contents.writer, Some(contents.name));
            state.pending.insert(key, Place::Stored(place(pack, row)));
        }
    }

    /// Objects that are stored and in no segment yet.
    pub(crate) fn pending_stored(&self) -> usize {
        self.read().pending.values().filter(|place| matches!(place, Place::Stored(_))).count()
    }

    /// Writes what is stored and in no segment yet into new ones, in place of `supersedes`.
    pub(crate) fn write_pending(&self, supersedes: &[SegmentName]) -> Result<(), VaultError> {
        let _one = self.writing();
        let ready: Vec<(PendingKey, Stored)> = {
            let state = self.read();
            let stored = |(key, place): (&PendingKey, &Place)| match place {
                Place::Stored(stored) => Some((*key, *stored)),
                Place::Held(_) => None,
            };
            state.pending.iter().filter_map(stored).collect()
        };
        if ready.is_empty() && supersedes.is_empty() {
            return Ok(());
        }
        let run = random::<16>()?;
        let parts = ready.len().div_ceil(SEGMENT_ENTRIES_MAX).max(1);
        let mut new = Vec::with_capacity(parts);
        let mut groups = ready.chunks(SEGMENT_ENTRIES_MAX);
        for part in 0..parts {
            let group = groups.next().unwrap_or_default();
            let last = part + 1 == parts;
            let number = |n: usize| u32::try_from(n).expect("invariant: segments are bounded");
            let supersedes = if last { supersedes.to_vec() } else { Vec::new() };
            let run = Run { id: run, part: number(part), parts: number(parts), supersedes };
            let (packs, entries) = number_packs(group.iter().map(|((id, _, _), stored)| (*id, *stored)));
            new.push(self.store_segment(&run, &packs, &entries)?);
        }
        let mut state = self.write();
        let mut segments: Vec<_> = state.segments.to_vec();
        segments.extend(new);
        state.segments = Arc::new(segments);
        for (key, _) in ready {
            state.pending.remove(&key);
        }
        Ok(())
    }

    /// Writes one segment and reads it back as others will.
    pub(crate) fn store_segment(
        &self,
        run: &Run,
        packs: &[PackInfo],
        entries: &[Entry],
    ) -> Result<Arc<Segment>, VaultError> {
        let (name, parts) = build(self.domain, run, packs, entries);
        let size = parts.iter().map(|part| part.len() as u64).sum();
        self.store.put(&name.path(self.domain), &parts)?;
        Segment::load(&*self.store, self.domain, name, size).map(Arc::new)
    }

    /// Forgets what is pending, as a restart does.
    pub(crate) fn drop_pending_stored(&self) {
        self.write().pending.retain(|_, place| matches!(place, Place::Held(_)));
    }
}

fn place(pack: PackInfo, row: &Row) -> Stored {
    Stored { pack, offset: row.offset, length: row.length, kind: row.kind }
}

pub(crate) fn stored(segment: &Segment, entry: &Entry) -> Stored {
    let kind = SealedKind::from_code(entry.kind).expect("invariant: checked when the block was read");
    let pack = segment.packs[entry.pack as usize];
    Stored { pack, offset: entry.offset, length: entry.length, kind }
}

/// The list of packs of these entries, and the entries with their places in it.
fn number_packs(all: impl Iterator<Item = (ChunkId, Stored)>) -> (Vec<PackInfo>, Vec<Entry>) {
    let mut numbers: HashMap<PackName, u32> = HashMap::new();
    let (mut packs, mut entries) = (Vec::new(), Vec::new());
    for (id, stored) in all {
        let next = u32::try_from(packs.len()).expect("invariant: segments are bounded");
        let pack = *numbers.entry(stored.pack.name).or_insert_with(|| {
            packs.push(stored.pack);
            next
        });
        let (offset, length, kind) = (stored.offset, stored.length, stored.kind.code());
        entries.push(Entry { id, pack, offset, length, kind });
    }
    entries.sort_unstable();
    (packs, entries)
}
