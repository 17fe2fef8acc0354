//! Files with several names: restored once, linked for the rest.

use super::job::Job;
use crate::tree::{Entry, EntryKind, LinkGroup};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// What to do with an entry that has other names.
pub(crate) enum Claim {
    /// It is the first: restore it and tell the table.
    First(Entry),
    /// It is kept by the table until the first is done.
    Waits,
    /// Link it to this one.
    Link(Entry, Arc<Job>, Box<[u8]>),
    /// Only seemingly the same file (its inode was used again while the snapshot was made): restore it by itself.
    Alone(Entry),
}

enum Group {
    Working { kind: EntryKind, waiting: Vec<(Arc<Job>, Entry)> },
    Done { kind: EntryKind, job: Arc<Job>, name: Box<[u8]> },
}

#[derive(Default)]
pub(crate) struct LinkTable {
    groups: Mutex<HashMap<LinkGroup, Group>>,
}

impl LinkTable {
    pub fn claim(&self, group: LinkGroup, job: &Arc<Job>, entry: Entry) -> Claim {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        match groups.get_mut(&group) {
            None => {
                groups.insert(group, Group::Working { kind: entry.kind.clone(), waiting: Vec::new() });
                Claim::First(entry)
            }
            Some(Group::Working { kind, .. } | Group::Done { kind, .. }) if *kind != entry.kind => {
                Claim::Alone(entry)
            }
            Some(Group::Working { waiting, .. }) => {
                waiting.push((job.clone(), entry));
                Claim::Waits
            }
            Some(Group::Done { job, name, .. }) => Claim::Link(entry, job.clone(), name.clone()),
        }
    }

    /// The first is there (`made`), or could not be restored and another becomes the first. Gives those that waited.
    pub fn first_done(&self, group: LinkGroup, made: Option<(Arc<Job>, &[u8])>) -> Vec<(Arc<Job>, Entry)> {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Group::Working { kind, waiting }) = groups.remove(&group) else { return Vec::new() };
        if let Some((job, name)) = made {
            groups.insert(group, Group::Done { kind, job, name: name.into() });
        }
        waiting
    }
}
