//! Who waits for which answer of the engine.

use std::collections::BTreeMap;

/// Requests that may be open at once; the engine itself takes fewer.
const OPEN_MAX: usize = 10_000;

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A volume process, under its own number.
    Volume { connection: u64, request: u64 },
    /// A daemon, under its own number.
    Daemon { connection: u64, request: u64 },
    /// The coordinator, under its own number.
    Coordinator(u64),
    /// The voter itself: a change of who votes.
    Members,
    /// The voter itself: a founder's first commands.
    First,
}

/// The open requests. Numbers are the engine's.
#[derive(Debug, Default)]
pub(super) struct Requests {
    last: u64,
    open: BTreeMap<u64, Origin>,
}

impl Requests {
    /// A number for the engine. The oldest one is forgotten if there are too many: reads may stay unanswered.
    pub(super) fn open(&mut self, origin: Origin) -> u64 {
        if self.open.len() >= OPEN_MAX {
            self.open.pop_first();
        }
        self.last += 1;
        self.open.insert(self.last, origin);
        self.last
    }

    /// The answer has come.
    pub(super) fn close(&mut self, number: u64) -> Option<Origin> {
        self.open.remove(&number)
    }

    /// Whether `origin` waits for something.
    pub(super) fn waits(&self, origin: Origin) -> bool {
        self.open.values().any(|open| *open == origin)
    }

    /// The connection is gone; nobody waits for its answers.
    pub(super) fn forget(&mut self, gone: u64) {
        self.open.retain(|_, origin| match origin {
            Origin::Volume { connection, .. } | Origin::Daemon { connection, .. } => *connection != gone,
            Origin::Coordinator(_) | Origin::Members | Origin::First => true,
        });
    }
}
