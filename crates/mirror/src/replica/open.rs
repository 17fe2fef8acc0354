//! Opening: superblocks, activity log, dirty records; then the new session is made durable before anything else.
//!
//! What a process that died had written may still be in a cache alone. It is flushed before it is read: the newest superblock says
//! which of the two may be overwritten.

use super::{Purpose, Replica, Role};
use crate::activity::ActivityLog;
use crate::api::{Output, Region};
use crate::bitmap::Bitmap;
use crate::codec::Stamped;
use crate::layout::{AL_OFFSET, AL_RECORDS, BLOCK, HOT_MIN, Layout, SLOTS};
use crate::superblock::{PeerSlot, Superblock};
use anshin_base::{GroupId, ReplicaId, SessionId};

/// Pages read at a time: 1 MiB.
const PAGES_AT_ONCE: u32 = 256;

/// What is being read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    Flushed,
    Superblocks,
    Log,
    Pages { slot: usize, first: u32, count: u32 },
}

/// How far the opening is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Opening {
    /// Reads of pages that are out.
    pages_left: u32,
    /// Everything is read; the replica opens when this version of the superblock is durable.
    version: Option<u64>,
}

pub(super) fn placeholder_layout() -> Layout {
    Layout::new(BLOCK, HOT_MIN).expect("invariant: the smallest layout is allowed")
}

pub(super) fn placeholder(layout: Layout, session: SessionId) -> Superblock {
    Superblock {
        sequence: 0,
        group: GroupId(0),
        replica: ReplicaId(0),
        session,
        progress: 0,
        presented: None,
        zeroed: false,
        target: false,
        old_image: false,
        layout,
        stamp: Stamped::default(),
        slots: [PeerSlot::default(); SLOTS],
    }
}

impl Replica {
    pub(super) fn open_start(&mut self) {
        let token = self.token(Purpose::Open(Wanted::Flushed));
        self.out.push(Output::DiskFlush { token, region: Region::Meta });
    }

    pub(super) fn opened(&mut self, wanted: Wanted, data: &[u8]) {
        match wanted {
            Wanted::Flushed => self.read(Purpose::Open(Wanted::Superblocks), Region::Meta, 0, 2 * BLOCK),
            Wanted::Superblocks => self.opened_superblocks(data),
            Wanted::Log => self.opened_log(data),
            Wanted::Pages { slot, first, count } => {
                let owner = self.superblock.slots[slot].replica;
                let pages = data.chunks(usize::try_from(BLOCK).expect("invariant: 4,096"));
                for (page, bytes) in (first..first + count).zip(pages) {
                    self.maps[slot].load_page(owner, page, bytes);
                }
                self.opening.pages_left -= 1;
                if self.opening.pages_left == 0 {
                    self.opened_all();
                }
            }
        }
    }

    fn opened_superblocks(&mut self, data: &[u8]) {
        let Ok(found) = Superblock::newest(data) else {
            return self.fail("neither superblock of the replica is valid");
        };
        if found.layout.volume_bytes != self.config.volume_bytes {
            return self.fail("the replica was made for a volume of another size");
        }
        self.maps = (0..SLOTS).map(|_| Bitmap::new(found.layout)).collect();
        self.superblock = found;
        let length = AL_RECORDS * self.superblock.layout.al_record_bytes();
        self.read(Purpose::Open(Wanted::Log), Region::Meta, AL_OFFSET, length);
    }

    fn opened_log(&mut self, data: &[u8]) {
        let (log, hot) = ActivityLog::load(self.superblock.layout, data);
        self.log = log;
        let layout = self.superblock.layout;
        for slot in 0..SLOTS {
            let kept = self.superblock.slots[slot];
            if kept.replica.0 == 0 {
                continue;
            }
            // What was hot may differ from anyone (R5): from here on the dirty records say so.
            for extent in &hot {
                self.maps[slot].set_extent(*extent);
            }
            if kept.full {
                self.maps[slot].set_all();
                continue;
            }
            let mut first = 0;
            while first < layout.pages() {
                let count = PAGES_AT_ONCE.min(layout.pages() - first);
                let purpose = Purpose::Open(Wanted::Pages { slot, first, count });
                self.read(purpose, Region::Meta, layout.page_offset(slot, first), u64::from(count) * BLOCK);
                self.opening.pages_left += 1;
                first += count;
            }
        }
        if self.opening.pages_left == 0 {
            self.opened_all();
        }
    }

    fn opened_all(&mut self) {
        for (slot, map) in self.maps.iter_mut().enumerate() {
            // A page loaded whole counts as saved, also if the log had added to it before: write those again.
            if self.superblock.slots[slot].replica.0 != 0 && !map.is_empty() {
                map.unsave_used();
            }
        }
        let presented = self.superblock.presented.unwrap_or(self.superblock.progress);
        self.superblock.presented = Some(presented);
        self.progress_loaded = presented;
        // The start itself is no progress: numbers count what was flushed, so that those of different replicas can be
        // compared after a restart of all.
        self.superblock.session = self.config.session;
        // A lease may have been granted in the session before (R11). Only a replica that was never in a set with
        // another one cannot have.
        let alone = self.recorded().keys().all(|replica| *replica == self.superblock.replica);
        if !alone {
            self.granted_until = self.now.after(self.grant_length());
        }
        if !self.log.virgin() {
            self.meta.empty_log();
        }
        self.meta.save_all();
        self.opening.version = Some(self.touch_superblock());
    }

    pub(super) fn open_pass(&mut self) {
        if self.opening.version.is_some_and(|version| self.superblock_durable >= version) {
            self.role = Role::Secondary;
            if let Some(view) = self.view.clone() {
                self.ledger_view(view);
            }
        }
    }
}
