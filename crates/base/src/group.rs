//! The entry of a replication group in the ledger and the compare-and-set that changes it (R1, R3, R4).
//!
//! [`GroupEntry::apply`] is the whole decision: the ledger's state machine calls it for every committed change,
//! and nothing else alters an entry.

use crate::ids::{Generation, GroupId, ReplicaId, SessionId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A replica in one of its sessions. After a restart the same replica is another member (R4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Member {
    /// Which copy.
    pub replica: ReplicaId,
    /// Which start of it.
    pub session: SessionId,
}

/// What the ledger records per group (R1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupEntry {
    /// Whose entry this is.
    pub group: GroupId,
    /// Grows by one with every change; the only value that a change may be compared with.
    pub generation: Generation,
    /// Who may write. None after a planned hand-over began and before the next promotion.
    pub primary: Option<Member>,
    /// The replicas that hold every acknowledged write of this generation, each with its session. Never empty.
    pub in_sync: BTreeMap<ReplicaId, SessionId>,
}

/// A proposed change of one entry. `expect` is the generation the proposer has seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupChange {
    /// The first entry of a group that does not exist yet, with one member and no primary.
    Create {
        /// The new group.
        group: GroupId,
        /// The replica that starts as the whole set.
        first: Member,
    },
    /// The primary adds or removes members. It must itself remain in the set.
    SetMembers {
        /// Which group.
        group: GroupId,
        /// The generation this rests on.
        expect: Generation,
        /// The primary that proposes; refused unless it is the recorded one, session included, or has just been
        /// promoted in an older session that nobody else can hold (see `Promote`).
        proposer: Member,
        /// The new set.
        in_sync: BTreeMap<ReplicaId, SessionId>,
    },
    /// The ledger's leader makes a recorded member the primary. The set stays as it is (R3). The candidate's
    /// session is its present one and may differ from the recorded one only after a restart of every member.
    Promote {
        /// Which group.
        group: GroupId,
        /// The generation this rests on.
        expect: Generation,
        /// The next primary.
        candidate: Member,
    },
    /// The primary gives up its role, having stopped writing and flushed. The set stays as it is.
    Demote {
        /// Which group.
        group: GroupId,
        /// The generation this rests on.
        expect: Generation,
        /// The primary that proposes.
        proposer: Member,
    },
}

/// Why a change was not applied. The entry is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ChangeRefused {
    /// There is no such group (or, for `Create`, there is one already).
    #[error("the group does not exist, or exists already")]
    Existence,
    /// The entry has moved on.
    #[error("the change expects generation {expected} but the ledger is at {current}")]
    Generation {
        /// What the proposer had seen.
        expected: Generation,
        /// What is recorded.
        current: Generation,
    },
    /// Only the recorded primary may propose this.
    #[error("the proposer is not the recorded primary")]
    NotPrimary,
    /// Only a member of the set can be promoted.
    #[error("the candidate is not in the in-sync set")]
    NotMember,
    /// The new set is empty or lacks its primary.
    #[error("the new set does not hold the primary")]
    PrimaryMissing,
}

impl GroupChange {
    /// Which group the change is about.
    #[must_use]
    pub fn group(&self) -> GroupId {
        match self {
            Self::Create { group, .. }
            | Self::SetMembers { group, .. }
            | Self::Promote { group, .. }
            | Self::Demote { group, .. } => *group,
        }
    }
}

impl GroupEntry {
    /// The entry after `change`, or why it is refused. `current` is None if the group has no entry.
    ///
    /// # Errors
    /// [`ChangeRefused`]; nothing has changed then.
    pub fn apply(current: Option<&Self>, change: &GroupChange) -> Result<Self, ChangeRefused> {
        let (entry, expected) = match (current, change) {
            (None, GroupChange::Create { group, first }) => {
                return Ok(Self {
                    group: *group,
                    generation: Generation(1),
                    primary: None,
                    in_sync: BTreeMap::from([(first.replica, first.session)]),
                });
            }
            (None, _) | (Some(_), GroupChange::Create { .. }) => return Err(ChangeRefused::Existence),
            (
                Some(entry),
                GroupChange::SetMembers { expect, .. }
                | GroupChange::Promote { expect, .. }
                | GroupChange::Demote { expect, .. },
            ) => (entry, *expect),
        };
        if expected != entry.generation {
            return Err(ChangeRefused::Generation { expected, current: entry.generation });
        }
        let mut next = entry.clone();
        next.generation = entry.generation.next();
        match change {
            GroupChange::Create { .. } => return Err(ChangeRefused::Existence),
            GroupChange::SetMembers { proposer, in_sync, .. } => {
                if entry.primary != Some(*proposer) {
                    return Err(ChangeRefused::NotPrimary);
                }
                if in_sync.get(&proposer.replica) != Some(&proposer.session) {
                    return Err(ChangeRefused::PrimaryMissing);
                }
                next.in_sync.clone_from(in_sync);
            }
            GroupChange::Promote { candidate, .. } => {
                if !entry.in_sync.contains_key(&candidate.replica) {
                    return Err(ChangeRefused::NotMember);
                }
                next.primary = Some(*candidate);
            }
            GroupChange::Demote { proposer, .. } => {
                if entry.primary != Some(*proposer) {
                    return Err(ChangeRefused::NotPrimary);
                }
                next.primary = None;
            }
        }
        Ok(next)
    }

    /// Whether `member` is in the set in exactly this session.
    #[must_use]
    pub fn holds(&self, member: Member) -> bool {
        self.in_sync.get(&member.replica) == Some(&member.session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: GroupId = GroupId(7);

    fn member(replica: u64, session: u64) -> Member {
        Member { replica: ReplicaId(replica), session: SessionId(session) }
    }

    fn entry() -> GroupEntry {
        let created =
            GroupEntry::apply(None, &GroupChange::Create { group: G, first: member(1, 1) }).unwrap();
        let promote = GroupChange::Promote { group: G, expect: Generation(1), candidate: member(1, 1) };
        GroupEntry::apply(Some(&created), &promote).unwrap()
    }

    #[test]
    fn every_change_compares_the_exact_generation() {
        let entry = entry();
        let stale = GroupChange::Demote { group: G, expect: Generation(1), proposer: member(1, 1) };
        assert_eq!(
            GroupEntry::apply(Some(&entry), &stale),
            Err(ChangeRefused::Generation { expected: Generation(1), current: Generation(2) })
        );
    }

    #[test]
    fn only_the_primary_in_its_session_changes_the_set() {
        let entry = entry();
        let change = |proposer: Member| GroupChange::SetMembers {
            group: G,
            expect: Generation(2),
            proposer,
            in_sync: BTreeMap::from([(ReplicaId(1), proposer.session), (ReplicaId(2), SessionId(9))]),
        };
        assert_eq!(GroupEntry::apply(Some(&entry), &change(member(1, 2))), Err(ChangeRefused::NotPrimary));
        let added = GroupEntry::apply(Some(&entry), &change(member(1, 1))).unwrap();
        assert!(added.holds(member(2, 9)));
        assert_eq!(added.generation, Generation(3));
    }

    #[test]
    fn only_a_member_is_promoted_and_the_set_stays() {
        let entry = entry();
        let promote = |candidate| GroupChange::Promote { group: G, expect: Generation(2), candidate };
        assert_eq!(GroupEntry::apply(Some(&entry), &promote(member(3, 1))), Err(ChangeRefused::NotMember));
        let promoted = GroupEntry::apply(Some(&entry), &promote(member(1, 5))).unwrap();
        assert_eq!(promoted.in_sync, entry.in_sync);
        assert_eq!(promoted.primary, Some(member(1, 5)));
    }

    #[test]
    fn the_set_never_loses_its_primary() {
        let entry = entry();
        let change = GroupChange::SetMembers {
            group: G,
            expect: Generation(2),
            proposer: member(1, 1),
            in_sync: BTreeMap::from([(ReplicaId(2), SessionId(1))]),
        };
        assert_eq!(GroupEntry::apply(Some(&entry), &change), Err(ChangeRefused::PrimaryMissing));
    }
}
