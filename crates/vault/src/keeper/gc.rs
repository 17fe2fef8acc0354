//! Garbage collection: what no snapshot refers to is removed, beside running backups and without asking anyone to stop.
//!
//! docs/decisions/0006 argues why nothing that is needed is ever removed. In short: packs are *condemned* first, which everyone
//! sees; only then it is asked once more what sessions, intents and snapshots need. Who decides to reuse an object says so first
//! and looks for condemned packs afterwards. Whichever comes second sees the other.

use super::domain::{Domain, prefix};
use super::read::Copies;
use super::rounds::{self, Round, Verdict};
use crate::index::merge;
use crate::index::segment::{Entry, PackInfo, Segment};
use crate::index::set::{Place, stored};
use crate::object::{ChunkId, Kind, VaultError};
use crate::pack::{PackBuilder, PackName, WriterId};
use crate::seal::SealedKind;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};

/// Seconds after which what a dead keeper left of a seal is removed.
const INTENT_AGE_MAX: u64 = 7 * 24 * 3600;
/// Seconds for which ended rounds stay on record, for keepers that were away.
const ROUND_AGE_MAX: u64 = 30 * 24 * 3600;
/// A pack below this part of the target is small; so many small ones of one kind and writer are gathered.
const SMALL_PART: u64 = 4;
const SMALL_PACKS_MAX: usize = 16;
/// Most packs that one round rewrites, which bounds its memory and its time; the next collection does more.
const REWRITTEN_MAX: usize = 1024;
/// Rounds that are abandoned because a session came in between, before leaving it to the next collection.
const TRIES: usize = 3;
/// Trees read at once.
const TREES_AT_ONCE: usize = 64;

/// What a collection did.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct GcReport {
    /// Forgotten snapshots that were removed for good.
    pub snapshots_removed: u64,
    /// Packs that were deleted.
    pub packs_deleted: u64,
    /// Their bytes.
    pub bytes_deleted: u64,
    /// Bytes that were written anew because their packs were mostly garbage.
    pub bytes_rewritten: u64,
    /// Packs that are condemned and will be deleted by a later collection.
    pub packs_condemned: u64,
    /// When that will be, in seconds of Unix time.
    pub next: Option<u64>,
    /// A running backup came in between; the next collection does the rest.
    pub postponed: bool,
}

impl GcReport {
    pub(crate) fn add(&mut self, other: Self) {
        self.snapshots_removed += other.snapshots_removed;
        self.packs_deleted += other.packs_deleted;
        self.bytes_deleted += other.bytes_deleted;
        self.bytes_rewritten += other.bytes_rewritten;
        self.packs_condemned += other.packs_condemned;
        self.next = self.next.max(other.next);
        self.postponed |= other.postponed;
    }
}

impl Domain {
    /// Collects the garbage of this domain. The index must name every object, so segments are written first.
    ///
    /// # Errors
    /// [`VaultError::Refused`] if something that a snapshot needs is damaged or missing: then nothing is deleted.
    pub(crate) fn gc(self: &Arc<Self>) -> Result<GcReport, VaultError> {
        let _maintenance = self.maintenance.lock().unwrap_or_else(PoisonError::into_inner);
        let mut report = GcReport::default();
        self.refresh()?;
        self.write_index()?;
        let (rounds, damaged) = rounds::load(self.store(), self.id)?;
        self.store().delete_many(&damaged)?;
        for round in rounds {
            self.continue_round(&round, &mut report)?;
        }
        if report.next.is_some() {
            return Ok(report);
        }
        self.expire(&mut report)?;
        for _ in 0..TRIES {
            if self.new_round(&mut report)? {
                report.postponed = false;
                break;
            }
            report.postponed = true;
        }
        Ok(report)
    }

    /// Does what a round that is on record asks for.
    fn continue_round(&self, round: &Round, report: &mut GcReport) -> Result<(), VaultError> {
        let now = self.now();
        match round.end {
            Some((verdict, ended)) => {
                if verdict == Verdict::Sweep {
                    self.sweep(round, report)?;
                }
                if now >= ended.saturating_add(ROUND_AGE_MAX) {
                    rounds::remove(self.store(), self.id, round.number)?;
                }
            }
            None if now < round.marked.saturating_add(self.shared.options.grace) => {
                report.packs_condemned += round.packs.len() as u64;
                report.next = Some(round.marked.saturating_add(self.shared.options.grace));
            }
            None => {
                let mut marker = Marker::new(self);
                marker.condemned = round.packs.iter().copied().collect();
                let whole = self.mark_all(&mut marker).and_then(|()| marker.complete());
                let verdict =
                    if whole.is_ok() && !marker.conflict { Verdict::Sweep } else { Verdict::Abandon };
                if self.decide(round, verdict)? == Verdict::Sweep {
                    self.sweep(round, report)?;
                }
                whole?;
            }
        }
        Ok(())
    }

    /// Removes snapshots whose time after forgetting is over, and what dead keepers left of seals.
    fn expire(&self, report: &mut GcReport) -> Result<(), VaultError> {
        let (now, delay) = (self.now(), self.shared.options.forget_delay);
        for snapshot in self.snapshots()?.good {
            if snapshot.forgotten.is_some_and(|time| now >= time.saturating_add(delay)) {
                // The snapshot before its mark: a mark alone means nothing.
                self.store().delete(&snapshot.record.id.path(self.id))?;
                self.store().delete(&snapshot.record.id.forgotten_path(self.id))?;
                report.snapshots_removed += 1;
            }
        }
        for (id, intent) in self.intents()? {
            if intent.is_none_or(|intent| now >= intent.sealed.saturating_add(INTENT_AGE_MAX)) {
                self.store().delete(&id.intent_path(self.id))?;
            }
        }
        Ok(())
    }

    /// Marks from all snapshots, intents and sessions.
    fn mark_all(&self, marker: &mut Marker<'_>) -> Result<(), VaultError> {
        // Sessions before intents before snapshots: a session that ends meanwhile has sealed its snapshot by then.
        let pins = self.all_pins();
        let intents = self.intents()?;
        let snapshots = self.snapshots()?;
        if let Some((id, error)) = snapshots.bad.first() {
            return Err(VaultError::Refused(format!(
                "nothing is collected while it is unknown what snapshot {id} needs: {error}"
            )));
        }
        marker.mark(snapshots.good.iter().map(|s| s.record.root).collect(), true)?;
        marker.mark(intents.iter().filter_map(|(_, s)| Some(s.as_ref()?.record.root)).collect(), false)?;
        let pinned = marker.pinned(&pins)?;
        marker.mark(pinned, false)
    }

    /// One round from marking to condemning, and to deleting if there is no grace. False if a session came in between.
    fn new_round(self: &Arc<Self>, report: &mut GcReport) -> Result<bool, VaultError> {
        let mut marker = Marker::new(self);
        self.mark_all(&mut marker)?;
        marker.complete()?;
        let packs = marker.usage()?;
        let chosen = self.choose(&packs);
        if chosen.is_empty() {
            return Ok(true);
        }
        let kept = self.rewrite(&marker, &chosen, report)?;
        let condemned: Vec<PackName> =
            chosen.iter().map(|pack| pack.name).filter(|name| !kept.contains(name)).collect();
        // A tree pack that must be kept may hold dead trees; what they refer to is kept as well.
        if condemned.is_empty() || kept.iter().any(|name| name.kind == Kind::Tree) {
            return Ok(true);
        }
        let Some(round) = self.condemn(&condemned)? else { return Ok(false) };
        marker.condemned = condemned.iter().copied().collect();
        let again = self.mark_all(&mut marker).and_then(|()| marker.complete());
        if again.is_err() || marker.conflict {
            self.decide(&round, Verdict::Abandon)?;
            again?;
            return Ok(false);
        }
        if self.shared.options.grace > 0 {
            report.packs_condemned += condemned.len() as u64;
            report.next = Some(round.marked.saturating_add(self.shared.options.grace));
        } else if self.decide(&round, Verdict::Sweep)? == Verdict::Sweep {
            self.sweep(&round, report)?;
        }
        Ok(true)
    }

    /// Which packs are to go: trees with any garbage, so that no dead tree outlives what it refers to; data without use
    /// or with too much waste; many small ones.
    fn choose(&self, packs: &HashMap<PackName, Usage>) -> Vec<PackInfo> {
        let options = &self.shared.options;
        let mut small: HashMap<(Kind, WriterId), Vec<PackInfo>> = HashMap::new();
        let (mut chosen, mut rewritten) = (Vec::new(), Vec::new());
        for usage in packs.values() {
            let wasteful = match usage.pack.name.kind {
                Kind::Tree => usage.dead > 0,
                Kind::Data => usage.live == 0 || usage.dead * 100 >= usage.pack.size * options.waste_percent,
            };
            if wasteful && usage.live > 0 && usage.pack.name.kind == Kind::Data {
                rewritten.push(usage.pack);
            } else if wasteful {
                chosen.push(usage.pack);
            } else if usage.pack.size < options.pack_size as u64 / SMALL_PART {
                small.entry((usage.pack.name.kind, usage.pack.writer)).or_default().push(usage.pack);
            }
        }
        rewritten.extend(small.into_values().filter(|packs| packs.len() >= SMALL_PACKS_MAX).flatten());
        rewritten.truncate(REWRITTEN_MAX);
        chosen.extend(rewritten);
        chosen.sort_unstable_by_key(|pack| pack.name);
        chosen
    }

    /// Copies what is live in the chosen packs into new ones; returns the packs that must stay because something live in them
    /// cannot be read.
    fn rewrite(
        self: &Arc<Self>,
        marker: &Marker<'_>,
        chosen: &[PackInfo],
        report: &mut GcReport,
    ) -> Result<HashSet<PackName>, VaultError> {
        let going: HashSet<PackName> = chosen.iter().map(|pack| pack.name).collect();
        let mut live = marker.live_in(&going)?;
        // In the order they lie in, so that what was written together stays together.
        live.sort_unstable_by_key(|(pack, entry)| (pack.name, entry.offset));
        live.dedup_by_key(|(pack, entry)| (pack.name, entry.offset));
        let mut builders: HashMap<(WriterId, Kind), PackBuilder> = HashMap::new();
        let mut kept = HashSet::new();
        let mut copied = HashSet::new();
        for (pack, entry) in live {
            if copied.contains(&(entry.id, pack.writer))
                || self.has_good_copy_outside(&entry.id, pack.writer, &going)?
            {
                continue;
            }
            let place = stored_of(pack, &entry);
            let sealed = match self.read_copy(&entry.id, &place) {
                Ok(sealed) => sealed,
                Err(VaultError::Damaged { .. } | VaultError::NotFound(_)) => {
                    kept.insert(pack.name);
                    continue;
                }
                Err(error) => return Err(error),
            };
            copied.insert((entry.id, pack.writer));
            report.bytes_rewritten += sealed.bytes().len() as u64;
            let key = (pack.writer, pack.name.kind);
            let new = || PackBuilder::new(pack.name.kind, self.id, pack.writer);
            let builder = builders.entry(key).or_insert_with(new);
            builder.push(sealed);
            if builder.is_full(self.shared.options.pack_size) {
                self.store_pack(std::mem::replace(builder, new()))?;
            }
        }
        for builder in builders.into_values().filter(|builder| !builder.is_empty()) {
            self.store_pack(builder)?;
        }
        self.write_index()?;
        Ok(kept)
    }

    /// Whether the same writer's object lies, intact, in a pack that stays: an earlier round may have copied it.
    fn has_good_copy_outside(
        &self,
        id: &ChunkId,
        writer: WriterId,
        going: &HashSet<PackName>,
    ) -> Result<bool, VaultError> {
        for found in self.index.copies(id, writer)? {
            let Place::Stored(stored) = &found.place else { continue };
            if found.writer == writer && !going.contains(&stored.pack.name) {
                match self.read_copy(id, &found.place) {
                    Ok(_) => return Ok(true),
                    Err(VaultError::Damaged { .. } | VaultError::NotFound(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(false)
    }

    /// Deletes the packs of a round that was decided: out of the index first, then trees before data, so that no tree is ever
    /// there without what it refers to.
    fn sweep(&self, round: &Round, report: &mut GcReport) -> Result<(), VaultError> {
        let going: HashSet<PackName> = round.packs.iter().copied().collect();
        let present: Vec<(PackName, u64)> =
            self.list_packs()?.into_iter().filter(|(name, _)| going.contains(name)).collect();
        let concerned: Vec<Arc<Segment>> = self
            .index
            .segments()
            .iter()
            .filter(|segment| segment.packs.iter().any(|pack| going.contains(&pack.name)))
            .cloned()
            .collect();
        if !concerned.is_empty() {
            merge::merge(&self.index, &concerned, &going)?;
        }
        for kind in [Kind::Tree, Kind::Data] {
            let of_kind = present.iter().filter(|(name, _)| name.kind == kind);
            let names: Vec<String> = of_kind.map(|(name, _)| name.path(self.id)).collect();
            self.store().delete_many(&names)?;
        }
        report.packs_deleted += present.len() as u64;
        report.bytes_deleted += present.iter().map(|(_, size)| size).sum::<u64>();
        Ok(())
    }
}

fn stored_of(pack: PackInfo, entry: &Entry) -> Place {
    let kind = SealedKind::from_code(entry.kind).expect("invariant: checked when the block was read");
    Place::Stored(crate::index::set::Stored { pack, offset: entry.offset, length: entry.length, kind })
}

/// How much of a pack is needed.
#[derive(Clone, Copy, Debug)]
struct Usage {
    pack: PackInfo,
    live: u64,
    dead: u64,
}

/// Finds what is live: one bit for each entry of the segments there were when it began. Objects that came later lie in packs
/// that are not judged.
struct Marker<'a> {
    domain: &'a Domain,
    segments: Arc<Vec<Arc<Segment>>>,
    bits: Vec<Vec<u64>>,
    /// Visited objects that are in none of the segments.
    outside: HashSet<ChunkId>,
    /// Needed by a snapshot and not there.
    missing: Vec<ChunkId>,
    condemned: HashSet<PackName>,
    /// Something newly found to be live lies in condemned packs only.
    conflict: bool,
}

impl<'a> Marker<'a> {
    fn new(domain: &'a Domain) -> Self {
        let segments = domain.index.segments();
        let bits = segments
            .iter()
            .map(|segment| vec![0; segment.entries.next_multiple_of(84).div_ceil(64)])
            .collect();
        Self {
            domain,
            segments,
            bits,
            outside: HashSet::new(),
            missing: Vec::new(),
            condemned: HashSet::new(),
            conflict: false,
        }
    }

    /// An error if something that a snapshot needs is missing.
    fn complete(&self) -> Result<(), VaultError> {
        match self.missing.first() {
            None => Ok(()),
            Some(id) => Err(VaultError::Refused(format!(
                "nothing is collected while {} objects that snapshots need are missing or damaged, the first is {id}",
                self.missing.len()
            ))),
        }
    }

    /// Marks all that is reachable. `needed` says that what is not there is missed.
    fn mark(&mut self, roots: Vec<ChunkId>, needed: bool) -> Result<(), VaultError> {
        let mut waiting = roots;
        while !waiting.is_empty() && !self.conflict {
            let mut trees = Vec::new();
            for id in std::mem::take(&mut waiting) {
                if let Some(true) = self.visit(&id, needed)? {
                    trees.push(id);
                }
            }
            // Depth first in groups: the list of what waits stays short in a wide tree.
            for group in trees.chunks(TREES_AT_ONCE) {
                self.children(group, needed, &mut waiting)?;
            }
        }
        Ok(())
    }

    fn children(
        &mut self,
        trees: &[ChunkId],
        needed: bool,
        waiting: &mut Vec<ChunkId>,
    ) -> Result<(), VaultError> {
        match self.domain.read_many(trees, Copies::All) {
            Ok(read) => read.iter().for_each(|sealed| waiting.extend(sealed.refs())),
            Err(VaultError::Missing(_) | VaultError::Damaged { .. } | VaultError::NotFound(_)) => {
                for id in trees {
                    match self.domain.read_any(id, Copies::All) {
                        Ok(sealed) => waiting.extend(sealed.refs()),
                        Err(
                            VaultError::Missing(_) | VaultError::Damaged { .. } | VaultError::NotFound(_),
                        ) => {
                            if needed {
                                self.missing.push(*id);
                            }
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Marks one object: None if it was marked before or is not there, otherwise whether it is a tree.
    fn visit(&mut self, id: &ChunkId, needed: bool) -> Result<Option<bool>, VaultError> {
        let (mut new, mut known, mut tree, mut safe) = (false, false, false, false);
        for (segment, bits) in self.segments.iter().zip(&mut self.bits) {
            segment.find(self.domain.store(), id, |at, entry| {
                known = true;
                let (word, bit) = (at / 64, 1 << (at % 64));
                new |= bits[word] & bit == 0;
                bits[word] |= bit;
                tree |= entry.kind == Kind::Tree.code();
                safe |= !self.condemned.contains(&segment.packs[entry.pack as usize].name);
            })?;
        }
        if known && (!new || safe) {
            return Ok(new.then_some(tree));
        }
        // Put since the marking began, or only in condemned packs as far as the segments know.
        let copies = self.domain.index.copies(id, WriterId::MIN)?;
        if copies.is_empty() {
            self.conflict |= known;
            if !known && needed {
                self.missing.push(*id);
            }
            return Ok(None);
        }
        tree |= copies.iter().any(|found| found.kind == SealedKind::Object(Kind::Tree));
        Ok((self.outside.insert(*id) || (known && new)).then_some(tree))
    }

    /// The objects of the segments that sessions were told are there.
    fn pinned(&self, pins: &HashSet<u64>) -> Result<Vec<ChunkId>, VaultError> {
        let mut found = Vec::new();
        if pins.is_empty() {
            return Ok(found);
        }
        for segment in self.segments.iter() {
            for entry in segment.scan(self.domain.store()) {
                let id = entry?.id;
                if pins.contains(&prefix(&id)) {
                    found.push(id);
                }
            }
        }
        Ok(found)
    }

    /// Calls `each` with every entry, its pack, and whether it is live.
    fn entries(&self, mut each: impl FnMut(PackInfo, Entry, bool)) -> Result<(), VaultError> {
        for (segment, bits) in self.segments.iter().zip(&self.bits) {
            for (at, entry) in segment.scan(self.domain.store()).enumerate() {
                let entry = entry?;
                let live = bits[at / 64] & (1 << (at % 64)) != 0;
                each(stored(segment, &entry).pack, entry, live);
            }
        }
        Ok(())
    }

    /// How much of each pack is live. Packs that must not be relied on anyway are left out.
    fn usage(&self) -> Result<HashMap<PackName, Usage>, VaultError> {
        let avoided = self.domain.index.avoided();
        let mut packs: HashMap<PackName, Usage> = HashMap::new();
        self.entries(|pack, entry, live| {
            if avoided.packs.contains(&pack.name) {
                return;
            }
            let usage = packs.entry(pack.name).or_insert(Usage { pack, live: 0, dead: 0 });
            let length = u64::from(entry.length);
            if live {
                usage.live += length;
            } else {
                usage.dead += length;
            }
        })?;
        Ok(packs)
    }

    fn live_in(&self, packs: &HashSet<PackName>) -> Result<Vec<(PackInfo, Entry)>, VaultError> {
        let mut found = Vec::new();
        self.entries(|pack, entry, live| {
            if live && packs.contains(&pack.name) {
                found.push((pack, entry));
            }
        })?;
        Ok(found)
    }
}
