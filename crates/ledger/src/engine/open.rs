//! From the records on disk to the engine's state.

use super::{convert, core::OpenError, memory::Memory, message::SnapshotImage, peers::Seen};
use crate::log::{Identity, Record};
use anshin_base::{ReplicaId, VoterId};
use raft::eraftpb::{Entry, HardState};
use std::collections::BTreeMap;

#[derive(Default)]
pub(super) struct Found {
    pub identity: Option<Identity>,
    pub image: Option<SnapshotImage>,
    pub memory: Memory,
    pub seen: BTreeMap<VoterId, Seen>,
    pub progress: BTreeMap<ReplicaId, u64>,
    pub silenced: Option<String>,
}

/// Replays the records in order.
pub(super) fn replay(records: Vec<Record>) -> Result<Found, OpenError> {
    let mut found = Found::default();
    let mut entries: Vec<Entry> = Vec::new();
    for record in records {
        match record {
            Record::Identity(identity) => found.identity = Some(identity),
            Record::Snapshot(image) => {
                // In a base the entries follow their snapshot; elsewhere it replaces them.
                entries.clear();
                found.image = Some(image);
            }
            Record::Hard { term, vote, commit } => {
                found.memory.hard = HardState { term, vote, commit, ..HardState::default() };
            }
            Record::Entries(list) => append(&mut entries, list.iter().map(convert::entry))?,
            Record::Seen { peer, seen } => {
                found.seen.insert(peer, seen);
            }
            Record::Progress { replica, progress } => {
                let known = found.progress.entry(replica).or_default();
                *known = progress.max(*known);
            }
            Record::Silenced { why } => found.silenced = Some(why),
        }
    }
    place(&mut found, entries)?;
    Ok(found)
}

fn append(entries: &mut Vec<Entry>, list: impl Iterator<Item = Entry>) -> Result<(), OpenError> {
    for entry in list {
        if let Some(first) = entries.first() {
            let Some(at) = entry.index.checked_sub(first.index) else {
                return Err(OpenError::Damaged(format!("entry {} comes before the log", entry.index)));
            };
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            if at > entries.len() {
                return Err(OpenError::Damaged(format!("an entry before {} is missing", entry.index)));
            }
            entries.truncate(at);
        }
        entries.push(entry);
    }
    Ok(())
}

/// Joins snapshot and entries. Entries that the snapshot holds already are kept for voters that lag; the first of
/// them serves as the end of what was compacted.
fn place(found: &mut Found, mut entries: Vec<Entry>) -> Result<(), OpenError> {
    let (index, term) = found.image.as_ref().map_or((0, 0), |image| (image.index, image.term));
    let memory = &mut found.memory;
    memory.truncated = (index, term);
    if let Some(first) = entries.first() {
        if first.index > index + 1 {
            return Err(OpenError::Damaged(format!("entries begin at {} behind {index}", first.index)));
        }
        if first.index <= index {
            memory.truncated = (first.index, first.term);
            entries.remove(0);
        }
    }
    memory.entries = entries;
    if memory.last() < index {
        memory.truncated = (index, term);
        memory.entries.clear();
    }
    if let Some(image) = &found.image {
        memory.conf = convert::conf_state(&image.members);
        memory.hard.commit = memory.hard.commit.max(index);
        memory.hard.term = memory.hard.term.max(term);
        memory.image = Some(image.clone());
    }
    if memory.hard.commit > memory.last() {
        return Err(OpenError::Damaged(format!(
            "committed up to {} but the log ends at {}",
            memory.hard.commit,
            memory.last()
        )));
    }
    Ok(())
}
