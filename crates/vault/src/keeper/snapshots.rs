//! The snapshots and key files of a domain in the storage.

use super::domain::Domain;
use crate::coder::{Reader, checked, close};
use crate::object::VaultError;
use crate::snapshot::{FORGOTTEN_FOR_GOOD, Snapshot, SnapshotId};
use std::collections::HashMap;
use std::sync::PoisonError;

const MAGIC: &[u8; 8] = b"anvfgot1";
const VERSION: u16 = 1;

/// All snapshots of a domain.
#[derive(Default)]
pub(crate) struct Snapshots {
    /// In the order they were sealed.
    pub good: Vec<Snapshot>,
    /// Snapshots that cannot be read, why, and when they were forgotten.
    pub bad: Vec<(SnapshotId, VaultError, Option<u64>)>,
    /// Marks of forgetting that cannot be read: they do not count.
    pub bad_marks: Vec<SnapshotId>,
}

/// What was read of the snapshots of a domain: they never change, and there are many.
#[derive(Default)]
pub(crate) struct Known {
    snapshots: HashMap<SnapshotId, Snapshot>,
    forgotten: HashMap<SnapshotId, u64>,
}

pub(crate) fn encode_forgotten(time: u64) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&time.to_le_bytes());
    close(&mut out);
    out
}

pub(crate) fn decode_forgotten(bytes: &[u8], id: SnapshotId) -> Result<u64, VaultError> {
    let what = format!("the mark of forgetting of snapshot {id}");
    let mut reader = Reader::new(checked(bytes, &what)?, &what);
    reader.opening(MAGIC, VERSION)?;
    let time = reader.u64()?;
    reader.end()?;
    Ok(time)
}

impl Domain {
    fn ids(&self, room: &str) -> Result<Vec<SnapshotId>, VaultError> {
        let prefix = format!("{room}/{}/", self.id);
        let listed = self.store().list(&prefix)?;
        Ok(listed.into_iter().filter_map(|(name, _)| SnapshotId::parse(&name[prefix.len()..])).collect())
    }

    /// Reads all snapshots.
    pub(crate) fn snapshots(&self) -> Result<Snapshots, VaultError> {
        self.gather(&mut Known::default())
    }

    /// The good snapshots that are in the storage, in the order they were sealed. What was read before is not read again: who wants
    /// to know whether it is still whole asks [`Self::snapshots`].
    pub(crate) fn known_snapshots(&self) -> Result<Vec<Snapshot>, VaultError> {
        Ok(self.gather(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))?.good)
    }

    fn gather(&self, known: &mut Known) -> Result<Snapshots, VaultError> {
        let mut all = Snapshots::default();
        let before = std::mem::take(known);
        for id in self.ids("forgotten")? {
            if let Some(time) = before.forgotten.get(&id) {
                known.forgotten.insert(id, *time);
                continue;
            }
            let bytes = self.store().get(&id.forgotten_path(self.id));
            match bytes.and_then(|bytes| decode_forgotten(&bytes, id)) {
                Ok(time) => drop(known.forgotten.insert(id, time)),
                Err(VaultError::NotFound(_)) => {}
                Err(VaultError::Damaged { .. } | VaultError::Version { .. }) => all.bad_marks.push(id),
                Err(error) => return Err(error),
            }
        }
        let mut before = before.snapshots;
        for id in self.ids("snapshots")? {
            if let Some((id, snapshot)) = before.remove_entry(&id) {
                known.snapshots.insert(id, snapshot);
                continue;
            }
            let bytes = self.store().get(&id.path(self.id));
            match bytes.and_then(|bytes| Snapshot::decode(id, &bytes)) {
                Ok(snapshot) => drop(known.snapshots.insert(id, snapshot)),
                Err(VaultError::NotFound(_)) => {}
                Err(error @ VaultError::Store { .. }) => return Err(error),
                Err(error) => all.bad.push((id, error, known.forgotten.get(&id).copied())),
            }
        }
        let marked = |snapshot: &Snapshot| {
            let forgotten = known.forgotten.get(&snapshot.record.id).copied();
            Snapshot { forgotten, ..snapshot.clone() }
        };
        all.good.extend(known.snapshots.values().map(marked));
        all.good.sort_by_key(|snapshot| (snapshot.sealed, snapshot.record.id));
        Ok(all)
    }

    /// Snapshots that someone is about to seal; None stands for one that cannot be read.
    pub(crate) fn intents(&self) -> Result<Vec<(SnapshotId, Option<Snapshot>)>, VaultError> {
        let mut all = Vec::new();
        for id in self.ids("intents")? {
            match self.store().get(&id.intent_path(self.id)) {
                Err(VaultError::NotFound(_)) => {}
                Err(VaultError::Damaged { .. }) => all.push((id, None)),
                bytes => all.push((id, Snapshot::decode(id, &bytes?).ok())),
            }
        }
        Ok(all)
    }

    pub(crate) fn forget(&self, id: SnapshotId) -> Result<(), VaultError> {
        self.mark(id, self.now())
    }

    /// Its delay is over at once.
    pub(crate) fn forget_for_good(&self, id: SnapshotId) -> Result<(), VaultError> {
        self.mark(id, FORGOTTEN_FOR_GOOD)
    }

    fn mark(&self, id: SnapshotId, time: u64) -> Result<(), VaultError> {
        self.store().get(&id.path(self.id))?;
        let path = id.forgotten_path(self.id);
        let put = || self.store().put(&path, &[encode_forgotten(time).into()]);
        match put() {
            Err(VaultError::Exists(_)) => match decode_forgotten(&self.store().get(&path)?, id) {
                Ok(_) => Ok(()),
                // A damaged mark does not count.
                Err(_) => self.store().delete(&path).and_then(|()| put()),
            },
            result => result,
        }
    }

    pub(crate) fn remember(&self, id: SnapshotId) -> Result<(), VaultError> {
        let _marks = self.marks();
        self.store().get(&id.path(self.id))?;
        self.store().delete(&id.forgotten_path(self.id))
    }

    /// All versions of the domain's key file that can be read, newest first.
    pub(crate) fn key_files(&self) -> Result<Vec<Vec<u8>>, VaultError> {
        let mut names: Vec<String> =
            self.store().list(&format!("keys/{}/", self.id))?.into_iter().map(|(name, _)| name).collect();
        names.reverse();
        let mut files = Vec::new();
        for name in names {
            match self.store().get(&name) {
                Ok(bytes) => files.push(bytes.to_vec()),
                // One that cannot be read must not keep the others from being of use; verification names it.
                Err(VaultError::Damaged { .. } | VaultError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(files)
    }

    pub(crate) fn add_key_file(&self, bytes: &[u8]) -> Result<(), VaultError> {
        let prefix = format!("keys/{}/", self.id);
        loop {
            let last = self.store().list(&prefix)?.into_iter().filter_map(|(name, _)| {
                u64::from_str_radix(name[prefix.len()..].strip_suffix(".key")?, 16).ok()
            });
            let next = last.max().map_or(1, |last| last.saturating_add(1));
            match self.store().put(&format!("{prefix}{next:016x}.key"), &[bytes.to_vec().into()]) {
                // Another came first; the next number is tried.
                Err(VaultError::Exists(_)) => {}
                result => return result,
            }
        }
    }
}
