//! What did not go as it should, without being a reason to stop.

use std::{collections::BTreeMap, fmt};

/// Issues are kept up to this many; beyond, they are only counted.
const KEPT_MAX: usize = 1000;

/// Kind of an issue.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum IssueKind {
    /// A file or directory could not be read; it is in the snapshot without contents, or not at all.
    Unreadable,
    /// A file changed while it was read, twice; what is in the snapshot may be a mixture.
    Changed,
    /// Some attribute could not be read.
    AttributeUnread,
    /// The files cache could not be used or written.
    Cache,
    /// Something is in the way, and the policy says to leave it.
    Kept,
    /// An entry was not restored.
    NotRestored,
    /// An attribute was not restored.
    AttributeNotRestored,
    /// Contents that were never captured cannot be restored.
    NeverCaptured,
    /// What is on disk is not what is in the snapshot.
    Differs,
}

impl IssueKind {
    /// Stable name, kebab-case.
    pub fn code(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Changed => "changed-while-read",
            Self::AttributeUnread => "attribute-unread",
            Self::Cache => "cache",
            Self::Kept => "kept",
            Self::NotRestored => "not-restored",
            Self::AttributeNotRestored => "attribute-not-restored",
            Self::NeverCaptured => "never-captured",
            Self::Differs => "differs",
        }
    }
}

/// One issue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Issue {
    /// Its kind.
    pub kind: IssueKind,
    /// Path within the snapshot or the target, without a leading slash.
    pub path: Vec<u8>,
    /// What happened.
    pub message: String,
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} [{}]", self.path.escape_ascii(), self.message, self.kind.code())
    }
}

/// Issues: the first ones, and how many there were of each kind.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Issues {
    /// The first 1,000.
    pub first: Vec<Issue>,
    /// All of them, counted.
    pub counts: BTreeMap<IssueKind, u64>,
}

impl Issues {
    pub(crate) fn add(&mut self, issue: Issue) {
        *self.counts.entry(issue.kind).or_default() += 1;
        if self.first.len() < KEPT_MAX {
            self.first.push(issue);
        }
    }

    /// Those of another part as well.
    pub(crate) fn append(&mut self, other: &Self) {
        for (kind, count) in &other.counts {
            *self.counts.entry(*kind).or_default() += count;
        }
        let room = KEPT_MAX.saturating_sub(self.first.len());
        self.first.extend(other.first.iter().take(room).cloned());
    }

    /// How many there were of one kind.
    pub fn count(&self, kind: IssueKind) -> u64 {
        self.counts.get(&kind).copied().unwrap_or(0)
    }

    /// True if there were none.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}
