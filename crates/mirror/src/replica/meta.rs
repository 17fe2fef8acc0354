//! Writing the metadata: one cycle at a time, in an order that a crash at any point leaves covered (I3, I10).
//!
//! ```text
//! pages of dirty records -> flush -> record of the log + superblock -> flush
//! ```
//! So an extent leaves the log only after the dirty records that take over from it are durable, and whatever
//! waited for the log or the superblock goes on together (group commit).

use super::{Purpose, Replica, Role};
use crate::activity::Transaction;
use crate::api::{Output, Region};
use crate::layout::SLOTS;
use crate::superblock::Superblock;
use bytes::Bytes;
use std::collections::BTreeSet;

/// Where the cycle is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    Idle,
    Pages,
    PagesFlush,
    Records,
    RecordsFlush,
}

/// State of the metadata writer.
#[derive(Debug, Default)]
pub(super) struct Meta {
    step: Step,
    /// Commands of the step that are out.
    left: u32,
    transaction: Option<Transaction>,
    logged: bool,
    /// Version and progress number of the superblock in the cycle.
    superblock: Option<(u64, u64)>,
    want_empty_log: bool,
    want_save: bool,
    /// Slots to lose their mark of being full, once their pages are durable.
    want_clear: BTreeSet<usize>,
    clearing: BTreeSet<usize>,
}

impl Meta {
    /// Write a log record that names nothing, after all dirty records.
    pub fn empty_log(&mut self) {
        self.want_empty_log = true;
    }

    /// Write every unsaved page.
    pub fn save_all(&mut self) {
        self.want_save = true;
    }

    /// Write the pages of the slot, then take its mark of being full away.
    pub fn clear_full(&mut self, slot: usize) {
        self.want_clear.insert(slot);
    }

    /// The slot is full again: whatever is on the way must not take the mark away.
    pub fn keep_full(&mut self, slot: usize) {
        self.want_clear.remove(&slot);
        self.clearing.remove(&slot);
    }
}

impl Replica {
    /// The superblock in memory changed; returns the version to wait for in `superblock_durable`.
    pub(super) fn touch_superblock(&mut self) -> u64 {
        self.superblock_version += 1;
        self.superblock_version
    }

    pub(super) fn meta_pass(&mut self) {
        if self.meta.step != Step::Idle || (self.role == Role::Opening && self.superblock_version == 0) {
            return;
        }
        let durable = self.log_durable();
        self.meta.transaction = if std::mem::take(&mut self.meta.want_empty_log) {
            Some(self.log.begin_empty())
        } else {
            self.log.begin(durable)
        };
        self.meta.logged = self.meta.transaction.is_some();
        if let Some(transaction) = &self.meta.transaction {
            // What cools rests on flushes of others: what they reached with them is kept (R7). And a target's log answers
            // for what the source has ticked off: an image that lacks the record must look older.
            if self.superblock.target && self.role == Role::Secondary {
                self.superblock.progress = self.superblock.progress.saturating_add(1);
                self.touch_superblock();
            } else if !transaction.cooled.is_empty() {
                self.touch_superblock();
            }
        }
        self.meta.clearing.append(&mut self.meta.want_clear);
        let pages = self.pages_to_write();
        let nothing = pages.is_empty()
            && !self.meta.logged
            && self.meta.clearing.is_empty()
            && self.superblock_version == self.superblock_durable;
        if nothing {
            return;
        }
        self.meta.left = 0;
        for (offset, page) in pages {
            self.meta_write(offset, page);
        }
        self.meta.step = Step::Pages;
        if self.meta.left == 0 {
            self.meta_records();
        }
    }

    /// The flush that an extent's last write must precede for the extent to cool.
    fn log_durable(&self) -> u64 {
        if self.bugs.cool_early() {
            return u64::MAX;
        }
        match &self.primary {
            Some(primary) => primary.points.durable,
            None => self.stream.durable(),
        }
    }

    fn pages_to_write(&mut self) -> Vec<(u64, Bytes)> {
        let layout = self.superblock.layout;
        let all = std::mem::take(&mut self.meta.want_save);
        let mut found = Vec::new();
        for slot in 0..SLOTS {
            let kept = self.superblock.slots[slot];
            if kept.replica.0 == 0 {
                continue;
            }
            let clearing = self.meta.clearing.contains(&slot);
            // A slot marked full needs no pages: the mark says it all, until it is taken away.
            if kept.full && !clearing {
                continue;
            }
            let mut pages = BTreeSet::new();
            if all || clearing {
                pages = self.maps[slot].take_unsaved();
            } else if let Some(transaction) = &self.meta.transaction {
                for extent in &transaction.cooled {
                    pages.extend(self.maps[slot].take_unsaved_of(*extent));
                }
            }
            let map = &self.maps[slot];
            found.extend(
                pages
                    .into_iter()
                    .map(|page| (layout.page_offset(slot, page), map.encode_page(kept.replica, page))),
            );
        }
        found
    }

    fn meta_write(&mut self, offset: u64, data: Bytes) {
        let token = self.token(Purpose::Meta);
        self.meta.left += 1;
        self.out.push(Output::DiskWrite { token, region: Region::Meta, offset, data });
    }

    fn meta_flush(&mut self, step: Step) {
        let token = self.token(Purpose::Meta);
        self.meta.left = 1;
        self.meta.step = step;
        self.out.push(Output::DiskFlush { token, region: Region::Meta });
    }

    fn meta_records(&mut self) {
        self.meta.step = Step::Records;
        self.meta.left = 0;
        if let Some(transaction) = self.meta.transaction.take() {
            self.counters.log_transactions += 1;
            self.meta_write(transaction.offset, transaction.record);
        }
        for slot in std::mem::take(&mut self.meta.clearing) {
            self.superblock.slots[slot].full = false;
            self.touch_superblock();
        }
        if self.superblock_version > self.superblock_durable {
            self.superblock.sequence += 1;
            self.meta.superblock = Some((self.superblock_version, self.superblock.progress));
            let (offset, data) = (Superblock::offset(self.superblock.sequence), self.superblock.encode());
            self.meta_write(offset, data);
        }
        if self.meta.left == 0 {
            self.meta.step = Step::Idle;
        }
    }

    pub(super) fn meta_done(&mut self) {
        self.meta.left -= 1;
        if self.meta.left > 0 {
            return;
        }
        match self.meta.step {
            Step::Idle => {}
            Step::Pages => self.meta_flush(Step::PagesFlush),
            Step::PagesFlush => self.meta_records(),
            Step::Records => self.meta_flush(Step::RecordsFlush),
            Step::RecordsFlush => {
                self.meta.step = Step::Idle;
                if std::mem::take(&mut self.meta.logged) {
                    self.log.commit();
                }
                if let Some((version, progress)) = self.meta.superblock.take() {
                    self.superblock_durable = version;
                    self.progress_durable = progress;
                }
            }
        }
    }
}
