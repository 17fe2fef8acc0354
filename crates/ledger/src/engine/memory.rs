//! The log in memory, as the consensus engine reads it. Small: the ledger holds decisions, not data.

use super::{convert, message::SnapshotImage};
use raft::{
    Error, GetEntriesContext, RaftState, Storage, StorageError,
    eraftpb::{ConfState, Entry, HardState, Snapshot},
};
use std::cell::Cell;

/// Everything raft asks its storage for. What stands here may not be durable yet; the engine tells raft separately
/// what is.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub hard: HardState,
    /// Who votes, as of the last applied entry.
    pub conf: ConfState,
    /// Index and term of the entry before the first one held.
    pub truncated: (u64, u64),
    /// Entries without a gap.
    pub entries: Vec<Entry>,
    /// The newest image for voters that lag.
    pub image: Option<SnapshotImage>,
    /// Raft asked for a (newer) image; the engine makes it after the present step.
    pub image_wanted: Cell<bool>,
}

impl Memory {
    pub fn first(&self) -> u64 {
        self.truncated.0 + 1
    }

    pub fn last(&self) -> u64 {
        self.truncated.0 + self.entries.len() as u64
    }

    /// Replaces every entry from the first one's index on.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(
            first.index >= self.first() && first.index <= self.last() + 1,
            "invariant: raft appends without a gap and never before what was compacted"
        );
        self.entries.truncate(place(first.index - self.first()));
        self.entries.extend_from_slice(entries);
    }

    /// Drops entries up to and including `index`, of which at least everything behind it stays.
    pub fn compact(&mut self, index: u64) {
        if index <= self.truncated.0 || index > self.last() {
            return;
        }
        let count = place(index - self.truncated.0);
        self.truncated = (index, self.entries[count - 1].term);
        self.entries.drain(..count);
    }

    /// A snapshot replaces everything.
    pub fn restore(&mut self, image: &SnapshotImage) {
        self.truncated = (image.index, image.term);
        self.entries.clear();
        self.conf = convert::conf_state(&image.members);
        self.hard.commit = self.hard.commit.max(image.index);
        self.image = Some(image.clone());
    }

    fn entry(&self, index: u64) -> Option<&Entry> {
        self.entries.get(place(index.checked_sub(self.first())?))
    }
}

/// Indices within the log in memory fit a usize on every platform this runs on.
fn place(distance: u64) -> usize {
    usize::try_from(distance).unwrap_or(usize::MAX)
}

impl Storage for Memory {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard.clone(), self.conf.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.first() {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let budget = max_size.into().unwrap_or(u64::MAX);
        let wanted = &self.entries[place(low - self.first())..place(high - self.first())];
        let mut taken = Vec::new();
        let mut size = 0;
        for entry in wanted {
            size += entry.data.len() as u64 + 64;
            // At least one, or a large entry would never be sent.
            if !taken.is_empty() && size > budget {
                break;
            }
            taken.push(entry.clone());
        }
        Ok(taken)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.truncated.0 {
            return Ok(self.truncated.1);
        }
        if index < self.truncated.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        let entry = self.entry(index).ok_or(Error::Store(StorageError::Unavailable))?;
        Ok(entry.term)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        // Raft refuses a snapshot from before its receiver joined.
        let knows = |image: &SnapshotImage| {
            let members = &image.members;
            members.voters.iter().chain(&members.learners).any(|voter| voter.0 == to)
        };
        match &self.image {
            Some(image)
                if image.index >= request_index && image.index + 1 >= self.first() && knows(image) =>
            {
                Ok(convert::snapshot(image))
            }
            _ => {
                self.image_wanted.set(true);
                Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}
