//! Verification: every byte of the vault is read and compared with its checksum, every snapshot is walked. Without a key damage is
//! named by pack and snapshot; with a key contents are compared with their ids, and who knows the trees can name files.

use super::damage;
use super::domain::Domain;
use super::read::Copies;
use super::report::{DamagedSnapshot, Finding, VerifyOptions, VerifyReport};
use super::rounds;
use super::snapshots::decode_forgotten;
use super::vault::{DESCRIPTORS, Descriptor, Vault};
use crate::index::segment::{SegmentName, index_prefix};
use crate::index::set::Place;
use crate::keys::file::KeyFile;
use crate::keys::{DomainId, DomainKeys};
use crate::object::{ChunkId, VaultError};
use crate::pack::{Contents, HEADER_SIZE, PACK_SIZE_MAX, PackName, Row};
use crate::seal::{Sealed, SealedKind};
use crate::snapshot::SnapshotId;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Packs read at once; each is in memory as a whole.
const THREADS_MAX: usize = 4;
/// Read at once of a pack of which not all can be read.
const PLACE_SIZE: u64 = 4096;

fn is_damage(error: &VaultError) -> bool {
    matches!(error, VaultError::Damaged { .. } | VaultError::Version { .. } | VaultError::TooLarge { .. })
}

impl Vault {
    /// Reads and checks everything. What was damaged is no longer relied on afterwards, so that the next backup puts it anew;
    /// a damaged index is made anew at once.
    ///
    /// # Errors
    /// Why the storage cannot be read; damage is no error but a finding.
    pub fn verify(&self, options: &VerifyOptions) -> Result<VerifyReport, VaultError> {
        let mut report = VerifyReport::default();
        for name in DESCRIPTORS {
            let read = self.shared().store.get(name).and_then(|bytes| {
                report.bytes += bytes.len() as u64;
                Descriptor::decode(&bytes, "the vault's descriptor")
            });
            match read {
                Ok(found) if found == self.descriptor() => {}
                Ok(_) => {
                    report.find(None, "the vault's descriptor", format!("{name} is of another vault"), false)
                }
                Err(error) if is_damage(&error) || matches!(error, VaultError::NotFound(_)) => {
                    report.find(None, "the vault's descriptor", format!("{name}: {error}"), false);
                }
                Err(error) => return Err(error),
            }
        }
        self.find_strangers(&mut report)?;
        for id in self.domains()? {
            let keys = options.keys.iter().find(|keys| keys.domain() == id);
            self.domain(id)?.verify(keys, &mut report)?;
        }
        Ok(report)
    }

    /// Objects that no vault has: something else writes into the same place, or a name was damaged.
    fn find_strangers(&self, report: &mut VerifyReport) -> Result<(), VaultError> {
        for (name, _) in self.shared().store.list("")? {
            let mut parts = name.split('/');
            let (room, domain, own) = (parts.next(), parts.next(), parts.next());
            let known = match (room, domain.and_then(DomainId::parse), own) {
                (Some("packs"), Some(_), Some(own)) => PackName::parse(own).is_some(),
                (Some("index"), Some(_), Some(own)) => SegmentName::parse(own).is_some(),
                (Some("snapshots" | "intents" | "forgotten"), Some(_), Some(own)) => {
                    SnapshotId::parse(own).is_some()
                }
                (Some("keys"), Some(_), Some(own)) => own.ends_with(".key"),
                (Some("damaged"), Some(_), Some(own)) => damage::is_name(own),
                (Some("gc"), Some(_), Some(_)) => true,
                _ => DESCRIPTORS.contains(&&*name) || name.starts_with("probe/"),
            };
            if !known {
                report.find(None, name.clone(), "it is no part of a vault", false);
            }
        }
        Ok(())
    }
}

/// What was found while packs are read by several threads.
#[derive(Default)]
struct PackFindings {
    findings: Vec<(PackName, String, Vec<ChunkId>)>,
    bad: BTreeSet<(PackName, u32)>,
    unreadable: HashSet<PackName>,
    not_indexed: bool,
    packs: u64,
    objects: u64,
    decrypted: u64,
    bytes: u64,
}

impl Domain {
    fn verify(
        self: &Arc<Self>,
        keys: Option<&DomainKeys>,
        report: &mut VerifyReport,
    ) -> Result<(), VaultError> {
        self.refresh()?;
        self.verify_keys(report)?;
        self.verify_records(report)?;
        let index_was_bad = self.verify_index(report)?;
        let packs = self.verify_packs(keys)?;
        report.packs += packs.packs;
        report.objects += packs.objects;
        report.objects_decrypted += packs.decrypted;
        report.bytes += packs.bytes;
        if !index_was_bad && packs.not_indexed {
            report.find(Some(self.id), "index", "it does not name all objects; it was made anew", true);
        }
        if index_was_bad || packs.not_indexed {
            self.rebuild_index()?;
        }
        // From here on nothing damaged is relied on, here or by whoever opens the vault later; so what is still found is intact. What
        // was damaged and is no more, because the storage was put right or the link to it is good again, is relied on again.
        self.record_damage(&packs.bad, &packs.unreadable)?;
        self.index.change_avoided(|avoided| avoided.objects = packs.bad.iter().copied().collect());
        self.refresh()?;
        for (name, why, objects) in packs.findings {
            let mut lost = Vec::new();
            for id in objects {
                if self.index.copies(&id, crate::pack::WriterId::MIN)?.is_empty() {
                    lost.push(id);
                }
            }
            let (what, domain) = (format!("pack {name}"), Some(self.id));
            report.findings.push(Finding { what, why, domain, repaired: false, lost });
        }
        self.verify_snapshots(report)
    }

    fn verify_keys(&self, report: &mut VerifyReport) -> Result<(), VaultError> {
        for (name, size) in self.store().list(&format!("keys/{}/", self.id))? {
            report.bytes += size;
            let read = self.store().get(&name).and_then(|bytes| KeyFile::decode(&bytes));
            match read {
                Ok(file) if file.domain == self.id => {}
                Ok(_) => report.find(
                    Some(self.id),
                    format!("key file {name}"),
                    "it is of another key domain",
                    false,
                ),
                Err(error) if is_damage(&error) => {
                    report.find(Some(self.id), format!("key file {name}"), error, false);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The small objects beside snapshots and packs.
    fn verify_records(&self, report: &mut VerifyReport) -> Result<(), VaultError> {
        for name in rounds::load(self.store(), self.id, &[])?.1 {
            report.find(
                Some(self.id),
                format!("garbage collection record {name}"),
                "it cannot be read",
                false,
            );
        }
        for (name, size) in self.store().list(&damage::prefix(self.id))? {
            report.bytes += size;
            if !self.recorded().contains_key(&name) {
                report.find(
                    Some(self.id),
                    format!("damage record {name}"),
                    "it cannot be read; it is made anew",
                    true,
                );
            }
        }
        let prefix = format!("forgotten/{}/", self.id);
        for (name, size) in self.store().list(&prefix)? {
            report.bytes += size;
            let Some(id) = SnapshotId::parse(&name[prefix.len()..]) else { continue };
            let read = self.store().get(&name).and_then(|bytes| decode_forgotten(&bytes, id));
            match read {
                Err(error) if is_damage(&error) => {
                    report.find(
                        Some(self.id),
                        format!("the mark of forgetting of snapshot {id}"),
                        error,
                        false,
                    );
                }
                Err(VaultError::NotFound(_)) | Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
        for (id, _) in self.intents()?.into_iter().filter(|(_, intent)| intent.is_none()) {
            report.find(Some(self.id), format!("the intent of snapshot {id}"), "it cannot be read", false);
        }
        Ok(())
    }

    /// Compares all segments with their hashes; true if any was damaged.
    fn verify_index(&self, report: &mut VerifyReport) -> Result<bool, VaultError> {
        for segment in self.index.segments().iter() {
            match segment.verify(self.store()) {
                Ok(()) => {}
                Err(error) if is_damage(&error) => self.give_up_segment(segment.name),
                // Another keeper has merged it away.
                Err(VaultError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        for (_, size) in self.store().list(&index_prefix(self.id))? {
            report.bytes += size;
        }
        let damaged = self.damaged_segments.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for name in &damaged {
            let why = format!("segment {} was damaged; the index was made anew", crate::coder::hex(&name.0));
            report.find(Some(self.id), "index", why, true);
        }
        Ok(!damaged.is_empty())
    }

    fn verify_packs(self: &Arc<Self>, keys: Option<&DomainKeys>) -> Result<PackFindings, VaultError> {
        let packs = self.list_packs()?;
        let all = Mutex::new(PackFindings::default());
        let next = AtomicUsize::new(0);
        let failed = Mutex::new(None);
        let work = || {
            while let Some((name, size)) = packs.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(error) = self.verify_pack(*name, *size, keys, &all) {
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    return;
                }
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(all.into_inner().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// A pack of which some places cannot be read, with zeroes there: what lies elsewhere is not lost.
    fn readable_parts(&self, name: PackName, size: u64) -> Result<bytes::Bytes, VaultError> {
        let path = name.path(self.id);
        let mut all = Vec::with_capacity(size as usize);
        while (all.len() as u64) < size {
            let length = (size - all.len() as u64).min(PLACE_SIZE) as usize;
            match self.store().get_range(&path, all.len() as u64, length) {
                Ok(part) => all.extend_from_slice(&part),
                Err(error) if is_damage(&error) => all.resize(all.len() + length, 0),
                Err(error) => return Err(error),
            }
        }
        Ok(all.into())
    }

    fn verify_pack(
        &self,
        name: PackName,
        size: u64,
        keys: Option<&DomainKeys>,
        all: &Mutex<PackFindings>,
    ) -> Result<(), VaultError> {
        let all = || all.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = if size <= PACK_SIZE_MAX as u64 {
            match self.store().get(&name.path(self.id)) {
                // Deleted by garbage collection meanwhile.
                Err(VaultError::NotFound(_)) => return Ok(()),
                Err(error) if is_damage(&error) => self.readable_parts(name, size)?,
                bytes => bytes?,
            }
        } else {
            bytes::Bytes::new()
        };
        let contents = match self.contents_of(name, &bytes) {
            Ok(contents) => contents,
            Err(error) if is_damage(&error) => {
                // What the index says was in it is what is lost.
                let mut all = all();
                all.unreadable.insert(name);
                all.findings.push((name, error.to_string(), self.indexed_in(name)?));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let mut own = PackFindings { packs: 1, bytes: bytes.len() as u64, ..Default::default() };
        let mut lost = Vec::new();
        let mut why = String::new();
        let swept = self.index.avoided().packs.contains(&name);
        for row in &contents.rows {
            own.objects += 1;
            if !swept && !self.is_indexed(name, row)? {
                own.not_indexed = true;
            }
            match check_object(row, &bytes, keys) {
                Ok(decrypted) => own.decrypted += u64::from(decrypted),
                Err(error) => {
                    lost.push(row.id);
                    own.bad.insert((name, row.offset));
                    why = error.to_string();
                }
            }
        }
        let mut all = all();
        if !lost.is_empty() {
            let why = format!("{} of its {} objects are damaged; {why}", lost.len(), contents.rows.len());
            all.findings.push((name, why, lost));
        }
        all.bad.extend(own.bad);
        all.not_indexed |= own.not_indexed;
        all.packs += own.packs;
        all.objects += own.objects;
        all.decrypted += own.decrypted;
        all.bytes += own.bytes;
        Ok(())
    }

    fn contents_of(&self, name: PackName, bytes: &bytes::Bytes) -> Result<Contents, VaultError> {
        let cut = || VaultError::damaged(format!("pack {name}"), "no pack is of its length");
        let header = bytes.get(..HEADER_SIZE).ok_or_else(cut)?;
        let tail = Contents::tail_of(bytes).ok_or_else(cut)?;
        Contents::decode(self.id, name, bytes.len() as u64, header, tail)
    }

    /// What the index says lies in a pack that cannot be read.
    fn indexed_in(&self, name: PackName) -> Result<Vec<ChunkId>, VaultError> {
        let mut ids = Vec::new();
        for segment in self.index.segments().iter() {
            let Some(number) = segment.packs.iter().position(|pack| pack.name == name) else { continue };
            for entry in segment.scan(self.store()) {
                let entry = entry?;
                if entry.pack as usize == number {
                    ids.push(entry.id);
                }
            }
        }
        Ok(ids)
    }

    fn is_indexed(&self, name: PackName, row: &Row) -> Result<bool, VaultError> {
        let mut found = self.index.avoided().objects.contains(&(name, row.offset));
        self.index.visit(&row.id, |copy| {
            if let Place::Stored(stored) = copy.place {
                found |=
                    stored.pack.name == name && stored.offset == row.offset && stored.length == row.length;
            }
        })?;
        Ok(found)
    }

    /// Walks all snapshots, and names those that need something lost.
    fn verify_snapshots(&self, report: &mut VerifyReport) -> Result<(), VaultError> {
        let snapshots = self.snapshots()?;
        for (id, error, _) in snapshots.bad {
            report.find(Some(self.id), format!("snapshot {id}"), error, false);
        }
        // What was found whole below one snapshot is whole below the others.
        let mut whole = HashSet::new();
        for snapshot in snapshots.good {
            report.snapshots_walked += 1;
            let lost = self.lost_below(snapshot.record.root, &mut whole)?;
            if !lost.is_empty() {
                report.snapshots.push(DamagedSnapshot { domain: self.id, snapshot, lost });
            }
        }
        Ok(())
    }

    /// The objects below `root` of which no intact copy is left. What is not lost is added to `whole`, unless anything is.
    fn lost_below(&self, root: ChunkId, whole: &mut HashSet<ChunkId>) -> Result<Vec<ChunkId>, VaultError> {
        let mut seen: HashSet<ChunkId> = HashSet::new();
        let mut lost = BTreeMap::new();
        let mut waiting = vec![root];
        while let Some(id) = waiting.pop() {
            if whole.contains(&id) || seen.contains(&id) {
                continue;
            }
            let copies = self.index.copies(&id, crate::pack::WriterId::MIN)?;
            let good = copies.iter().any(|found| found.kind != SealedKind::Alias);
            if !good {
                lost.insert(id, ());
                continue;
            }
            if copies.iter().all(|found| found.kind == SealedKind::Object(crate::object::Kind::Data)) {
                continue;
            }
            // Only trees are remembered: there are not many of them.
            seen.insert(id);
            match self.read_any(&id, Copies::All) {
                Ok(sealed) => waiting.extend(sealed.refs()),
                Err(error)
                    if is_damage(&error)
                        || matches!(error, VaultError::Missing(_) | VaultError::NotFound(_)) =>
                {
                    lost.insert(id, ());
                }
                Err(error) => return Err(error),
            }
        }
        if lost.is_empty() {
            whole.extend(seen);
        }
        Ok(lost.into_keys().collect())
    }
}

/// Compares an object with its check, and with its id if there is a key; true if there was.
fn check_object(row: &Row, pack: &bytes::Bytes, keys: Option<&DomainKeys>) -> Result<bool, VaultError> {
    let start = row.offset as usize;
    let sealed = Sealed::parse(pack.slice(start..start + row.length as usize))?;
    if sealed.id() != row.id || sealed.kind() != row.kind {
        return Err(VaultError::damaged(format!("object {}", row.id), "another lies in its place"));
    }
    match keys {
        Some(keys) if sealed.kind() != SealedKind::Alias => sealed.open(keys).map(|_| true),
        _ => Ok(false),
    }
}
