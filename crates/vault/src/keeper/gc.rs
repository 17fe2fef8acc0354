//! Garbage collection: what no snapshot refers to is removed, beside running backups and without asking anyone to stop.
//!
//! docs/decisions/0006 argues why nothing that is needed is ever removed. In short: packs are *condemned* first, which everyone
//! sees; only then it is asked once more what sessions, intents and snapshots need. Who decides to reuse an object says so first
//! and looks for condemned packs afterwards. Whichever comes second sees the other.

use super::domain::Domain;
use super::marker::{Marker, Usage};
use super::rounds::{self, Round, Verdict};
use crate::index::merge;
use crate::index::segment::{Entry, PackInfo, Segment};
use crate::index::set::Place;
use crate::object::{ChunkId, Kind, VaultError};
use crate::pack::{PackBuilder, PackName, WriterId};
use crate::seal::SealedKind;
use crate::snapshot::FORGOTTEN_FOR_GOOD;
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
        fits(self.write_index())?;
        let (rounds, damaged) = rounds::load(self.store(), self.id, &self.rounds_seen())?;
        self.store().delete_many(&damaged)?;
        let last = rounds.last().map(|round| round.number);
        for round in rounds {
            self.continue_round(&round, &mut report)?;
            let over = round.end.is_some_and(|(_, ended)| self.now() >= ended.saturating_add(ROUND_AGE_MAX));
            // The last one stays: its number must not be given again, or whoever knows the old one takes the new one for it.
            if over && Some(round.number) != last {
                rounds::remove(self.store(), self.id, round.number)?;
            }
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
            Some((Verdict::Sweep, _)) => self.sweep(round, report)?,
            Some((Verdict::Abandon, _)) => {}
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
        let all = self.snapshots()?;
        let good = all.good.iter().map(|snapshot| (snapshot.record.id, snapshot.forgotten));
        for (id, forgotten) in good.chain(all.bad.iter().map(|(id, _, forgotten)| (*id, *forgotten))) {
            // What another one holds too stays while one cannot be read: it may be that one.
            let spared = forgotten == Some(FORGOTTEN_FOR_GOOD) && !all.bad.is_empty();
            if !spared && forgotten.is_some_and(|time| now >= time.saturating_add(delay)) {
                let _marks = self.marks();
                // Somebody may have taken it back since the snapshots were listed.
                match self.store().get(&id.forgotten_path(self.id)) {
                    Err(VaultError::NotFound(_) | VaultError::Damaged { .. }) => continue,
                    other => other?,
                };
                // The snapshot before its mark: a mark alone means nothing.
                self.store().delete(&id.path(self.id))?;
                self.store().delete(&id.forgotten_path(self.id))?;
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
        if let Some((id, error, _)) = snapshots.bad.first() {
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
        let (kept, full) = self.rewrite(&marker, &chosen, report)?;
        let condemned: Vec<PackName> =
            chosen.iter().map(|pack| pack.name).filter(|name| !kept.contains(name)).collect();
        // A tree pack that must be kept may hold dead trees; what they refer to is kept as well.
        if condemned.is_empty() || kept.iter().any(|name| name.kind == Kind::Tree) {
            return full.map_or(Ok(true), Err);
        }
        let Some(round) = self.condemn(&condemned)? else { return Ok(false) };
        // Who began to seal before the round was on record did not see it, and what it put before may be new here: trees that
        // are not known would hide what they refer to.
        self.refresh()?;
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
        // Those first that give back most for what they take: it must fit beside them.
        let live = |pack: &PackInfo| packs[&pack.name].live;
        rewritten.sort_unstable_by_key(|pack| live(pack) * 1_000 / pack.size.max(1));
        rewritten.truncate(REWRITTEN_MAX);
        if let Some(room) = self.store().room() {
            let mut taken = 0;
            rewritten.retain(|pack| {
                taken += live(pack);
                taken <= room / 2
            });
        }
        chosen.extend(rewritten);
        chosen.sort_unstable_by_key(|pack| pack.name);
        chosen
    }

    /// Copies what is live in the chosen packs into new ones; returns the packs that must stay because something live in them
    /// cannot be read or has no room elsewhere, and the word of a storage that is full.
    fn rewrite(
        self: &Arc<Self>,
        marker: &Marker<'_>,
        chosen: &[PackInfo],
        report: &mut GcReport,
    ) -> Result<(HashSet<PackName>, Option<VaultError>), VaultError> {
        let going: HashSet<PackName> = chosen.iter().map(|pack| pack.name).collect();
        let mut live = marker.live_in(&going)?;
        // In the order they lie in, so that what was written together stays together; trees first: where they do not fit nothing can go.
        let place =
            |(pack, entry): &(PackInfo, Entry)| (pack.name.kind != Kind::Tree, pack.name, entry.offset);
        live.sort_unstable_by_key(place);
        live.dedup_by_key(|found| place(found));
        // Each with the packs from which something is in it.
        let mut builders: HashMap<(WriterId, Kind), (PackBuilder, HashSet<PackName>)> = HashMap::new();
        let mut full = None;
        let mut kept = HashSet::new();
        let mut copied = HashSet::new();
        for (pack, entry) in live {
            let place = stored_of(pack, &entry);
            // An alias is no copy of what it stands for.
            let copy = (entry.id, pack.writer, kind_of(&entry) == SealedKind::Alias);
            if full.is_some() && pack.name.kind == Kind::Data {
                kept.insert(pack.name);
                continue;
            }
            if copied.contains(&copy) || self.has_good_copy_outside(copy, &going)? {
                continue;
            }
            let sealed = match self.read_copy(&entry.id, &place) {
                Ok(sealed) => sealed,
                Err(VaultError::Damaged { .. } | VaultError::NotFound(_)) => {
                    kept.insert(pack.name);
                    continue;
                }
                Err(error) => return Err(error),
            };
            copied.insert(copy);
            report.bytes_rewritten += sealed.bytes().len() as u64;
            let key = (pack.writer, pack.name.kind);
            let new = || (PackBuilder::new(pack.name.kind, self.id, pack.writer), HashSet::new());
            let (builder, from) = builders.entry(key).or_insert_with(new);
            builder.push(sealed);
            from.insert(pack.name);
            if builder.is_full(self.shared.options.pack_size) {
                let (builder, from) = builders.remove(&key).expect("invariant: it was just filled");
                self.store_copies(builder, from, &mut kept, &mut full)?;
            }
        }
        for (builder, from) in builders.into_values() {
            self.store_copies(builder, from, &mut kept, &mut full)?;
        }
        fits(self.write_index())?;
        Ok((kept, full))
    }

    /// Stores a pack of copies; where it has no room, the packs `from` which they are stay.
    fn store_copies(
        &self,
        pack: PackBuilder,
        from: HashSet<PackName>,
        kept: &mut HashSet<PackName>,
        full: &mut Option<VaultError>,
    ) -> Result<(), VaultError> {
        match self.store_pack(pack) {
            Err(error @ VaultError::Full(_)) => {
                kept.extend(from);
                *full = Some(error);
                Ok(())
            }
            result => result,
        }
    }

    /// Whether the same writer's object, or its alias, lies, intact, in a pack that stays: an earlier round may have copied it.
    fn has_good_copy_outside(
        &self,
        (id, writer, alias): (ChunkId, WriterId, bool),
        going: &HashSet<PackName>,
    ) -> Result<bool, VaultError> {
        for found in self.index.copies(&id, writer)? {
            let Place::Stored(stored) = &found.place else { continue };
            let same = found.writer == writer && (found.kind == SealedKind::Alias) == alias;
            if same && !going.contains(&stored.pack.name) {
                match self.read_copy(&id, &found.place) {
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
            fits(merge::merge(&self.index, &concerned, &going))?;
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

/// What an index that has no room costs is time: packs say themselves what is in them.
fn fits(written: Result<(), VaultError>) -> Result<(), VaultError> {
    match written {
        Err(VaultError::Full(_)) => Ok(()),
        result => result,
    }
}

fn kind_of(entry: &Entry) -> SealedKind {
    SealedKind::from_code(entry.kind).expect("invariant: checked when the block was read")
}

fn stored_of(pack: PackInfo, entry: &Entry) -> Place {
    let (offset, length) = (entry.offset, entry.length);
    Place::Stored(crate::index::set::Stored { pack, offset, length, kind: kind_of(entry) })
}
