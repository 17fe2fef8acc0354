//! Who may be promoted: the choice is a pure function of what is recorded and what was reported (R4, R7, R10).

use crate::state::GroupState;
use anshin_base::{Member, ReplicaId, local::ReplicaReport};
use serde::{Deserialize, Serialize};

/// The newest report of a replica, whether its node can be reached now, and how well it suits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The newest report that was ever received from the replica.
    pub report: ReplicaReport,
    /// Whether its node is alive now.
    pub reachable: bool,
    /// Higher is preferred among equals; below 0 is never chosen (standby, or the service may not run there).
    pub score: i64,
    /// The highest progress any party has seen of the replica (R7).
    pub highest: u64,
}

/// Why no member can be promoted now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum WhyNot {
    /// No recorded member can be promoted; bringing back one of these nodes' replicas ends it.
    #[error("no member of the in-sync set can be promoted; bring back one of {bring_back:?}")]
    NoMember {
        /// Recorded members that were not seen in a session that proves more.
        bring_back: Vec<ReplicaId>,
    },
    /// Every member restarted, and the one that holds the most is not there now.
    #[error("every member restarted and the one that holds the most, {0}, is away")]
    FurthestAway(ReplicaId),
    /// Members are there but may not be promoted (an old image, damaged, or placed where it may not run).
    #[error("{0:?} may not be promoted")]
    Unfit(Vec<ReplicaId>),
}

/// The member of the group's set to promote.
///
/// A live session that equals the recorded one still holds everything it acknowledged. If no such member is there, a
/// member may be promoted in a newer session only after *every* recorded member has shown a newer one: until then one
/// of them may still run in its recorded session, unseen, with writes that exist nowhere else. Sessions are random, so
/// "newer" is proven by the report's ledger index: a replica that knows the entry which records another session than
/// its own has started after that one (a report that is merely old knows less than the entry).
///
/// # Errors
/// [`WhyNot`], which names what must come back.
pub fn choose_candidate(group: &GroupState, known: &[Candidate]) -> Result<Member, WhyNot> {
    let entry = &group.entry;
    let of = |replica: ReplicaId| {
        known
            .iter()
            .find(|candidate| candidate.report.group == entry.group && candidate.report.replica == replica)
    };
    let fit = |candidate: &&Candidate| {
        candidate.reachable
            && candidate.report.promotable
            && candidate.report.progress >= candidate.highest
            && candidate.score >= 0
    };
    let live = entry.in_sync.iter().filter_map(|(replica, session)| {
        of(*replica).filter(fit).filter(|candidate| candidate.report.session == *session)
    });
    // The replica id breaks ties, so that the choice does not depend on the order of the reports.
    let best =
        live.max_by_key(|candidate| (candidate.score, candidate.report.progress, candidate.report.replica));
    if let Some(candidate) = best {
        return Ok(member(candidate));
    }
    after_total_restart(group, &of, &fit)
}

fn after_total_restart<'a>(
    group: &GroupState,
    of: &impl Fn(ReplicaId) -> Option<&'a Candidate>,
    fit: &impl Fn(&&'a Candidate) -> bool,
) -> Result<Member, WhyNot> {
    let mut unseen = Vec::new();
    let mut restarted = Vec::new();
    for (replica, session) in &group.entry.in_sync {
        let newer = |candidate: &&Candidate| {
            candidate.report.session != *session && candidate.report.ledger_index >= group.index
        };
        match of(*replica).filter(newer) {
            Some(candidate) => restarted.push(candidate),
            // Not seen, or seen in its recorded session but away or unfit: it may hold more than any other.
            None => unseen.push(*replica),
        }
    }
    if !unseen.is_empty() {
        let present = unseen.iter().all(|replica| of(*replica).is_some_and(|candidate| candidate.reachable));
        return Err(if present { WhyNot::Unfit(unseen) } else { WhyNot::NoMember { bring_back: unseen } });
    }
    // An old image, or a damaged replica, counts for nothing: whatever was flushed is on every other member too (R2).
    let sound = |candidate: &&Candidate| {
        candidate.report.promotable && candidate.report.progress >= candidate.highest
    };
    let most = restarted.iter().copied().filter(sound).map(|candidate| candidate.report.progress).max();
    let furthest = restarted.iter().copied().filter(|candidate| Some(candidate.report.progress) == most);
    let best = furthest.filter(fit).max_by_key(|candidate| (candidate.score, candidate.report.replica));
    if let Some(candidate) = best {
        return Ok(member(candidate));
    }
    match restarted.iter().find(|candidate| Some(candidate.report.progress) == most && !candidate.reachable) {
        Some(candidate) => Err(WhyNot::FurthestAway(candidate.report.replica)),
        None => Err(WhyNot::Unfit(restarted.iter().map(|candidate| candidate.report.replica).collect())),
    }
}

fn member(candidate: &Candidate) -> Member {
    Member { replica: candidate.report.replica, session: candidate.report.session }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anshin_base::{Generation, GroupEntry, GroupId, LedgerIndex, SessionId};
    use std::collections::BTreeMap;

    const INDEX: LedgerIndex = LedgerIndex(9);

    fn group() -> GroupState {
        let in_sync = BTreeMap::from([(ReplicaId(1), SessionId(11)), (ReplicaId(2), SessionId(21))]);
        let entry = GroupEntry { group: GroupId(7), generation: Generation(3), primary: None, in_sync };
        GroupState { index: INDEX, entry }
    }

    fn seen(replica: u64, session: u64, progress: u64) -> Candidate {
        let report = ReplicaReport {
            group: GroupId(7),
            replica: ReplicaId(replica),
            session: SessionId(session),
            progress,
            promotable: true,
            ledger_index: INDEX,
        };
        Candidate { report, reachable: true, score: 0, highest: 0 }
    }

    fn away(candidate: Candidate) -> Candidate {
        Candidate { reachable: false, ..candidate }
    }

    fn chosen(known: &[Candidate]) -> Result<(u64, u64), WhyNot> {
        choose_candidate(&group(), known).map(|member| (member.replica.0, member.session.0))
    }

    #[test]
    fn a_member_in_its_recorded_session_is_promoted() {
        assert_eq!(chosen(&[away(seen(1, 11, 5)), seen(2, 21, 3)]), Ok((2, 21)));
    }

    #[test]
    fn a_restarted_member_waits_for_the_one_that_was_not_seen() {
        let bring_back = WhyNot::NoMember { bring_back: vec![ReplicaId(1)] };
        assert_eq!(chosen(&[seen(2, 22, 3)]), Err(bring_back.clone()));
        assert_eq!(chosen(&[away(seen(1, 11, 5)), seen(2, 22, 3)]), Err(bring_back));
    }

    #[test]
    fn after_a_restart_of_all_the_furthest_is_promoted() {
        assert_eq!(chosen(&[seen(1, 12, 5), seen(2, 22, 6)]), Ok((2, 22)));
        assert_eq!(chosen(&[seen(1, 12, 5), away(seen(2, 22, 6))]), Err(WhyNot::FurthestAway(ReplicaId(2))));
        assert_eq!(chosen(&[away(seen(1, 12, 5)), seen(2, 22, 6)]), Ok((2, 22)));
    }

    #[test]
    fn an_old_image_does_not_hold_up_the_member_that_is_whole() {
        let image = Candidate { highest: 9, ..seen(1, 12, 8) };
        assert_eq!(chosen(&[image, seen(2, 22, 6)]), Ok((2, 22)));
    }

    #[test]
    fn an_old_report_proves_no_restart() {
        let mut old = away(seen(1, 10, 5));
        old.report.ledger_index = LedgerIndex(8);
        assert_eq!(chosen(&[old, seen(2, 22, 9)]), Err(WhyNot::NoMember { bring_back: vec![ReplicaId(1)] }));
    }

    #[test]
    fn an_old_image_is_never_promoted() {
        let image = Candidate { highest: 4, ..seen(2, 21, 3) };
        assert_eq!(
            chosen(&[image, away(seen(1, 11, 5))]),
            Err(WhyNot::NoMember { bring_back: vec![ReplicaId(1), ReplicaId(2)] })
        );
    }

    #[test]
    fn a_replica_that_is_no_member_is_never_promoted() {
        let known = [seen(3, 31, 100), away(seen(1, 11, 5)), away(seen(2, 21, 3))];
        assert!(matches!(chosen(&known), Err(WhyNot::NoMember { .. })));
    }

    #[test]
    fn policy_decides_among_equals_but_never_against_the_set() {
        let preferred = Candidate { score: 10, ..seen(2, 21, 3) };
        assert_eq!(chosen(&[seen(1, 11, 5), preferred]), Ok((2, 21)));
        let forbidden = Candidate { score: -1, ..seen(2, 21, 3) };
        assert!(chosen(&[away(seen(1, 12, 5)), forbidden]).is_err());
    }
}
