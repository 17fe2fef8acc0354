//! One key domain as the keeper serves it: its index, the packs being filled, and who must not be disturbed.

use super::damage::Recorded;
use super::rounds::{self, Round, Verdict};
use super::snapshots::Known;
use super::upload::Uploader;
use super::writer::Writer;
use crate::index::merge;
use crate::index::segment::{Segment, SegmentName, index_prefix};
use crate::index::set::Index;
use crate::keys::DomainId;
use crate::object::{ChunkId, VaultError};
use crate::pack::{Contents, PackBuilder, PackName, WriterId, packs_prefix};
use crate::store::Store;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Objects in no segment at which one is written, so that memory stays bounded in a long backup.
const PENDING_MAX: usize = 1 << 16;

/// What the domains of a vault share.
pub(crate) struct Shared {
    pub store: Arc<dyn Store>,
    pub options: super::vault::Options,
    pub uploader: Uploader,
}

/// Objects that a session was told are there: prefixes of their ids. Two ids of one prefix only keep one object too many.
#[derive(Default)]
pub(crate) struct Pins {
    prefixes: Mutex<HashSet<u64>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn prefix(id: &ChunkId) -> u64 {
    u64::from_le_bytes(id.0[..8].try_into().expect("invariant: an id has 32 bytes"))
}

impl Pins {
    pub(crate) fn add(&self, ids: &[ChunkId]) {
        lock(&self.prefixes).extend(ids.iter().map(prefix));
    }

    pub(crate) fn clear(&self) {
        let mut prefixes = lock(&self.prefixes);
        *prefixes = HashSet::new();
    }

    pub(crate) fn collect_into(&self, all: &mut HashSet<u64>) {
        all.extend(lock(&self.prefixes).iter());
    }
}

/// One key domain.
pub(crate) struct Domain {
    pub id: DomainId,
    pub shared: Arc<Shared>,
    pub index: Index,
    writers: Mutex<HashMap<WriterId, Arc<Writer>>>,
    sessions: Mutex<Vec<Weak<Pins>>>,
    /// Held by whoever changes segments or deletes packs.
    pub maintenance: Mutex<()>,
    /// Held while the state of the storage is read: the rounds of garbage collection that the index goes by.
    refreshing: Mutex<Vec<Round>>,
    /// Segments to be removed when the next one is written: superseded, or damaged and made anew.
    obsolete: Mutex<Vec<SegmentName>>,
    /// Segments that were found damaged since the vault was opened.
    pub damaged_segments: Mutex<Vec<SegmentName>>,
    /// What is on record as damaged.
    recorded: Mutex<Recorded>,
    /// Held while a mark of forgetting is taken away, by whoever takes a snapshot back or removes it for good.
    marks: Mutex<()>,
    /// Snapshots that were read once.
    pub known: Mutex<Known>,
    /// Packs whose header or table cannot be read, and why.
    pub unreadable: Mutex<HashMap<PackName, VaultError>>,
}

impl Domain {
    pub(crate) fn open(shared: Arc<Shared>, id: DomainId) -> Result<Arc<Self>, VaultError> {
        let domain = Arc::new(Self {
            id,
            index: Index::new(shared.store.clone(), id),
            shared,
            writers: Mutex::default(),
            sessions: Mutex::default(),
            maintenance: Mutex::default(),
            refreshing: Mutex::default(),
            obsolete: Mutex::default(),
            damaged_segments: Mutex::default(),
            recorded: Mutex::default(),
            marks: Mutex::default(),
            known: Mutex::default(),
            unreadable: Mutex::default(),
        });
        domain.refresh()?;
        Ok(domain)
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &*self.shared.store
    }

    pub(crate) fn now(&self) -> u64 {
        (self.shared.options.clock)()
    }

    pub(crate) fn writer(&self, id: WriterId) -> Arc<Writer> {
        lock(&self.writers).entry(id).or_insert_with(|| Arc::new(Writer::new(self.id, id))).clone()
    }

    pub(crate) fn pins(&self) -> Arc<Pins> {
        let pins = Arc::new(Pins::default());
        let mut sessions = lock(&self.sessions);
        sessions.retain(|session| session.strong_count() > 0);
        sessions.push(Arc::downgrade(&pins));
        pins
    }

    /// All that sessions were told is there.
    pub(crate) fn all_pins(&self) -> HashSet<u64> {
        let mut all = HashSet::new();
        for pins in lock(&self.sessions).iter().filter_map(Weak::upgrade) {
            pins.collect_into(&mut all);
        }
        all
    }

    /// Runs what may meet objects that another keeper has removed, or miss what it has stored, since; reads the storage's
    /// state anew then.
    pub(crate) fn retry<T>(&self, run: impl Fn() -> Result<T, VaultError>) -> Result<T, VaultError> {
        match run() {
            Err(VaultError::Missing(_) | VaultError::NotFound(_) | VaultError::Damaged { .. }) => {
                self.refresh()?;
                run()
            }
            result => result,
        }
    }

    /// Reads the state of the storage: rounds of garbage collection, segments, packs. Packs that are in no segment are
    /// looked into, packs that are gone are no longer relied on.
    pub(crate) fn refresh(&self) -> Result<(), VaultError> {
        let mut seen = lock(&self.refreshing);
        let (rounds, _) = rounds::load(self.store(), self.id, &seen)?;
        let of = |wanted: fn(Option<Verdict>) -> bool| -> HashSet<PackName> {
            let rounds = rounds.iter().filter(|round| wanted(round.end.map(|(verdict, _)| verdict)));
            rounds.flat_map(|round| round.packs.iter().copied()).collect()
        };
        let condemned = of(|end| end != Some(Verdict::Abandon));
        let swept = of(|end| end == Some(Verdict::Sweep));
        // The segments before the packs: a pack is stored before the segment that names it.
        self.refresh_segments()?;
        let listed: HashMap<PackName, u64> = self.list_packs()?.into_iter().collect();
        let known: HashSet<PackName> =
            self.index.segments().iter().flat_map(|s| s.packs.iter().map(|pack| pack.name)).collect();
        self.read_damage()?;
        let damage = self.known_damage();
        self.index.change_avoided(|avoided| {
            avoided.packs = condemned;
            avoided.packs.extend(&damage.packs);
            avoided.objects.extend(&damage.objects);
            avoided.packs.extend(known.iter().filter(|pack| !listed.contains_key(*pack)));
        });
        for (name, size) in listed {
            if !known.contains(&name) && !swept.contains(&name) {
                self.index_pack(name, size)?;
            }
        }
        *seen = rounds;
        Ok(())
    }

    pub(crate) fn marks(&self) -> MutexGuard<'_, ()> {
        lock(&self.marks)
    }

    pub(crate) fn recorded(&self) -> MutexGuard<'_, Recorded> {
        lock(&self.recorded)
    }

    /// The rounds of garbage collection as of the last refresh.
    pub(crate) fn rounds_seen(&self) -> Vec<Round> {
        lock(&self.refreshing).clone()
    }

    /// The packs of the domain in the storage, with their sizes.
    pub(crate) fn list_packs(&self) -> Result<Vec<(PackName, u64)>, VaultError> {
        let prefix = packs_prefix(self.id);
        let listed = self.store().list(&prefix)?;
        Ok(listed
            .into_iter()
            .filter_map(|(name, size)| Some((PackName::parse(&name[prefix.len()..])?, size)))
            .collect())
    }

    fn index_pack(&self, name: PackName, size: u64) -> Result<(), VaultError> {
        match Contents::load(self.store(), self.id, name, size) {
            Ok(contents) => self.index.learn(&contents),
            Err(VaultError::NotFound(_)) => {}
            Err(error @ (VaultError::Damaged { .. } | VaultError::Version { .. })) => {
                lock(&self.unreadable).insert(name, error);
            }
            Err(error) => return Err(error),
        }
        if self.index.pending_stored() > 8 * PENDING_MAX {
            self.index.write_pending(&[])?;
        }
        Ok(())
    }

    fn refresh_segments(&self) -> Result<(), VaultError> {
        let _one = self.index.writing();
        self.index.take_bad().into_iter().for_each(|name| self.give_up_segment(name));
        let prefix = index_prefix(self.id);
        let old: HashMap<SegmentName, Arc<Segment>> =
            self.index.segments().iter().map(|segment| (segment.name, segment.clone())).collect();
        let mut loaded = Vec::new();
        for (path, size) in self.store().list(&prefix)? {
            let Some(name) = SegmentName::parse(&path[prefix.len()..]) else { continue };
            if lock(&self.damaged_segments).contains(&name) {
                continue;
            }
            if let Some(segment) = old.get(&name) {
                loaded.push(segment.clone());
                continue;
            }
            match Segment::load(self.store(), self.id, name, size) {
                Ok(segment) => loaded.push(Arc::new(segment)),
                Err(VaultError::NotFound(_)) => {}
                Err(VaultError::Damaged { .. }) => self.give_up_segment(name),
                Err(error) => return Err(error),
            }
        }
        let mut parts: HashMap<[u8; 16], u32> = HashMap::new();
        loaded.iter().for_each(|segment| *parts.entry(segment.run.id).or_default() += 1);
        let whole = |segment: &Arc<Segment>| parts[&segment.run.id] == segment.run.parts;
        let superseded: HashSet<SegmentName> =
            loaded.iter().filter(|s| whole(s)).flat_map(|s| s.run.supersedes.iter().copied()).collect();
        let (live, dead): (Vec<_>, Vec<_>) =
            loaded.into_iter().partition(|segment| whole(segment) && !superseded.contains(&segment.name));
        // Incomplete runs may be another keeper's that is writing the rest: only what is superseded is removed.
        lock(&self.obsolete).extend(dead.iter().map(|s| s.name).filter(|name| superseded.contains(name)));
        self.index.set_segments(live);
        Ok(())
    }

    /// A segment that is damaged: its packs are looked into at the next refresh, and the next segment takes its place.
    pub(crate) fn give_up_segment(&self, name: SegmentName) {
        let mut damaged = lock(&self.damaged_segments);
        if !damaged.contains(&name) {
            damaged.push(name);
            lock(&self.obsolete).push(name);
        }
    }

    /// Begins a round of garbage collection: from here on nobody relies on these packs. None if another keeper began one.
    pub(crate) fn condemn(&self, packs: &[PackName]) -> Result<Option<Round>, VaultError> {
        let _one = lock(&self.refreshing);
        let round = rounds::begin(self.store(), self.id, self.now(), packs)?;
        if round.is_some() {
            self.index.change_avoided(|avoided| avoided.packs.extend(packs));
        }
        Ok(round)
    }

    /// Decides a round; returns what was decided.
    pub(crate) fn decide(&self, round: &Round, verdict: Verdict) -> Result<Verdict, VaultError> {
        let _one = lock(&self.refreshing);
        let decided = rounds::end(self.store(), self.id, round.number, verdict, self.now())?;
        if decided == Verdict::Abandon {
            self.index.change_avoided(|avoided| avoided.packs.retain(|pack| !round.packs.contains(pack)));
        }
        Ok(decided)
    }

    /// Stores a pack and takes it into the index.
    pub(crate) fn store_pack(&self, pack: PackBuilder) -> Result<(), VaultError> {
        let pack = pack.finish()?;
        let result = self.store().put(&pack.contents.name.path(self.id), &pack.parts);
        match result {
            // The name is random: only an earlier try of this very put can have taken it.
            Ok(()) | Err(VaultError::Exists(_)) => {
                self.index.settle(&pack.contents, true);
                if self.index.pending_stored() >= PENDING_MAX {
                    self.index.write_pending(&[])?;
                }
                Ok(())
            }
            Err(error) => {
                self.index.settle(&pack.contents, false);
                Err(error)
            }
        }
    }

    /// Gives up a pack because the storage is all but full.
    pub(crate) fn refuse_pack(&self, pack: PackBuilder) -> VaultError {
        match pack.finish() {
            Ok(pack) => self.index.settle(&pack.contents, false),
            Err(error) => return error,
        }
        VaultError::Full(format!(
            "what is left at {} is kept for garbage collection",
            self.store().describe()
        ))
    }

    /// Writes what is in no segment yet, removes segments that are obsolete, merges if there are too many.
    pub(crate) fn write_index(&self) -> Result<(), VaultError> {
        let obsolete = std::mem::take(&mut *lock(&self.obsolete));
        let written = self.index.write_pending(&obsolete);
        if written.is_err() {
            lock(&self.obsolete).extend(obsolete);
            return written;
        }
        for name in obsolete {
            self.store().delete(&name.path(self.id))?;
        }
        // Only if nobody else is at it; the next one comes soon.
        let Ok(_maintenance) = self.maintenance.try_lock() else { return Ok(()) };
        let many = merge::choose(&self.index.segments());
        if many.is_empty() { Ok(()) } else { merge::merge(&self.index, &many, &HashSet::new()) }
    }

    /// Makes the whole index anew from the packs.
    pub(crate) fn rebuild_index(&self) -> Result<usize, VaultError> {
        let _maintenance = lock(&self.maintenance);
        let prefix = index_prefix(self.id);
        let old: Vec<SegmentName> = self
            .store()
            .list(&prefix)?
            .into_iter()
            .filter_map(|(path, _)| SegmentName::parse(&path[prefix.len()..]))
            .collect();
        {
            let _one = lock(&self.refreshing);
            self.index.drop_pending_stored();
            self.index.set_segments(Vec::new());
            lock(&self.damaged_segments).extend(&old);
        }
        self.refresh()?;
        let count = self.index.pending_stored();
        self.index.write_pending(&old)?;
        for name in old {
            self.store().delete(&name.path(self.id))?;
        }
        lock(&self.damaged_segments).clear();
        lock(&self.obsolete).clear();
        Ok(count)
    }
}
