//! The failure detector's conclusions: which member becomes primary, proposed by the ledger's leader.
//!
//! Pure and small: what is recorded, who is alive, and what the replicas report go in; proposals come out. The real
//! voter and the simulator run this same code.

use crate::{
    candidate::{Candidate, WhyNot, choose_candidate},
    liveness::Detector,
    state::{Command, GroupState, NodeState, State},
};
use anshin_base::{GroupChange, GroupId, Member, Millis, Mono, NodeId, ReplicaId, local::ReplicaReport};
use std::collections::{BTreeMap, BTreeSet};

/// Time to wait for a promotion to take effect, or an outcome to become known, before judging the group again.
const PATIENCE: Millis = Millis(1_000);
/// A living node whose volume process says nothing for this long: it does not come back by itself. Promoting another
/// member is safe at any time (R2, R3); waiting only avoids needless moves.
const PROCESS_SILENT: Millis = Millis(3_000);

/// Faults that tests can switch on, each breaking one rule, to prove that the simulator finds it. All off in every
/// build that is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bugs {
    /// Promote a restarted member although another recorded member was not seen (breaks R4).
    pub promote_unseen: bool,
    /// Choose from a state read long ago but expect the present generation (breaks R3).
    pub stale_read: bool,
}

/// What the coordinator sees.
pub struct View<'a> {
    /// The ledger, read linearizably in this leadership.
    pub state: &'a State,
    /// Who is alive and what the replicas report.
    pub detector: &'a Detector,
    /// Highest progress seen of a replica (R7).
    pub highest: &'a dyn Fn(ReplicaId) -> u64,
    /// Groups whose volume should be active somewhere, and how well each node suits (policy's word; below 0: not
    /// there). A group that is missing here is left without a primary once it has none.
    pub wanted: &'a BTreeMap<GroupId, BTreeMap<NodeId, i64>>,
}

/// What the coordinator concluded about a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conclusion {
    /// Its primary is alive, or not wanted.
    Well,
    /// Not known yet: too early to judge.
    Wait,
    /// This proposal was made.
    Promote(Member),
    /// Its primary is gone and no member may be promoted.
    Stuck(WhyNot),
}

#[derive(Clone, Debug)]
struct Open {
    request: u64,
    since: Mono,
}

/// Watches every group for the ledger's leader.
#[derive(Clone, Debug, Default)]
pub struct Coordinator {
    open: BTreeMap<GroupId, Open>,
    request_last: u64,
    conclusions: BTreeMap<GroupId, Conclusion>,
    /// Since when a living node says nothing of its primary.
    missing: BTreeMap<GroupId, Mono>,
    bugs: Bugs,
    /// For [`Bugs::stale_read`] only.
    stale: BTreeMap<GroupId, GroupState>,
}

impl Coordinator {
    /// A coordinator for one leadership: make a new one when leadership begins.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A coordinator with faults, for proving the simulator.
    #[doc(hidden)]
    #[must_use]
    pub fn with_bugs(bugs: Bugs) -> Self {
        Self { bugs, ..Self::default() }
    }

    /// Judges every group and returns the proposals to make, each with a number.
    pub fn judge(&mut self, now: Mono, view: &View<'_>) -> Vec<(u64, Command)> {
        self.open
            .retain(|group, open| view.state.groups.contains_key(group) && now.since(open.since) < PATIENCE);
        self.conclusions.retain(|group, _| view.state.groups.contains_key(group));
        self.missing.retain(|group, _| view.state.groups.contains_key(group));
        let mut proposals = Vec::new();
        for (group, known) in &view.state.groups {
            if self.open.contains_key(group) {
                continue;
            }
            let conclusion = self.conclude(now, view, *group, known);
            if let Conclusion::Promote(candidate) = conclusion {
                self.request_last += 1;
                let (request, expect) = (self.request_last, known.entry.generation);
                let change = GroupChange::Promote { group: *group, expect, candidate };
                proposals.push((request, Command::Group(change)));
                self.open.insert(*group, Open { request, since: now });
            }
            self.conclusions.insert(*group, conclusion);
        }
        proposals
    }

    /// The outcome of a proposal is known (applied, refused or dropped). An unknown one is not handed in: the group
    /// is judged again from the state after a while (R3).
    pub fn answered(&mut self, request: u64) {
        self.open.retain(|_, open| open.request != request);
    }

    /// What was concluded of each group, for the status.
    #[must_use]
    pub fn conclusions(&self) -> &BTreeMap<GroupId, Conclusion> {
        &self.conclusions
    }

    fn conclude(&mut self, now: Mono, view: &View<'_>, group: GroupId, known: &GroupState) -> Conclusion {
        let Some(wanted) = view.wanted.get(&group) else { return Conclusion::Well };
        if let Some(primary) = known.entry.primary {
            match self.primary_lives(now, view, group, known, primary) {
                Some(true) => return Conclusion::Well,
                None => return Conclusion::Wait,
                Some(false) => {}
            }
        }
        let known = self.perhaps_stale(group, known);
        let candidates = candidates(now, view, group, wanted);
        match choose_candidate(&known, &candidates) {
            Ok(candidate) => Conclusion::Promote(candidate),
            Err(why) => match restarted(self.bugs, &known, &candidates) {
                Some(candidate) => Conclusion::Promote(candidate),
                None => Conclusion::Stuck(why),
            },
        }
    }

    /// Whether the recorded primary lives in its recorded session; None if that cannot be judged yet.
    fn primary_lives(
        &mut self,
        now: Mono,
        view: &View<'_>,
        group: GroupId,
        known: &GroupState,
        primary: Member,
    ) -> Option<bool> {
        let Some(node) = view.state.node_of_replica(primary.replica) else { return Some(false) };
        if !view.detector.alive(now, node) {
            return if view.detector.dead(now, node) { Some(false) } else { None };
        }
        let mut reports = view.detector.reports(now);
        let report = reports.find(|(_, report)| report.group == group && report.replica == primary.replica);
        if report.is_some() {
            self.missing.remove(&group);
        }
        match report {
            // One whose disk failed says so; it serves nothing any more.
            Some((_, report)) if report.session == primary.session => Some(report.promotable),
            // Another session that knows this entry: it has restarted. One that does not may simply be old news.
            Some((_, report)) if report.ledger_index >= known.index => Some(false),
            Some(_) => None,
            // The node lives but the volume's process does not say anything: it ended, or has not started yet. Its
            // supervisor starts it again in a new session.
            None => {
                let since = *self.missing.entry(group).or_insert(now);
                (now.since(since) >= PROCESS_SILENT).then_some(false)
            }
        }
    }

    fn perhaps_stale(&mut self, group: GroupId, known: &GroupState) -> GroupState {
        if self.bugs.stale_read {
            return self.stale.entry(group).or_insert_with(|| known.clone()).clone();
        }
        known.clone()
    }
}

/// Every replica's newest report, from the living and the dead.
fn candidates(now: Mono, view: &View<'_>, group: GroupId, wanted: &BTreeMap<NodeId, i64>) -> Vec<Candidate> {
    let of_group = |report: &&ReplicaReport| report.group == group;
    let mut found = Vec::new();
    for (node, heard) in view.detector.heard() {
        let stands_by = view.state.nodes.get(node).is_none_or(|node| node.state != NodeState::Active);
        let score = if stands_by { -1 } else { wanted.get(node).copied().unwrap_or(-1) };
        for report in heard.sign.reports.iter().filter(of_group) {
            let highest = (view.highest)(report.replica);
            let reachable = view.detector.alive(now, *node);
            found.push(Candidate { report: report.clone(), reachable, score, highest });
        }
    }
    found
}

/// [`Bugs::promote_unseen`].
fn restarted(bugs: Bugs, known: &GroupState, candidates: &[Candidate]) -> Option<Member> {
    if !bugs.promote_unseen {
        return None;
    }
    let members: BTreeSet<_> = known.entry.in_sync.keys().collect();
    let fit = candidates.iter().find(|candidate| {
        candidate.reachable && candidate.report.promotable && members.contains(&candidate.report.replica)
    });
    fit.map(|candidate| Member { replica: candidate.report.replica, session: candidate.report.session })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        liveness::Sign,
        state::{Node, Ports, Replica, Roles, Volume},
    };
    use anshin_base::{ByteSize, Generation, GroupEntry, LedgerIndex, Millis, SessionId, VoterId};

    const GROUP: GroupId = GroupId(7);
    const INDEX: LedgerIndex = LedgerIndex(9);

    fn member(number: u64) -> Member {
        Member { replica: ReplicaId(number), session: SessionId(10 * number) }
    }

    /// A volume with copies on nodes 1 and 2, both in sync, the first of them primary.
    fn state() -> State {
        let mut state = State::default();
        for number in [1, 2] {
            let node = Node {
                id: NodeId(number),
                name: number.to_string(),
                addresses: Vec::new(),
                ports: Ports::default(),
                roles: Roles { data: true, ..Roles::default() },
                voter: VoterId(number.into()),
                fingerprint: String::new(),
                state: NodeState::Active,
                attributes: BTreeMap::new(),
            };
            state.nodes.insert(node.id, node);
        }
        let replica = |number| Replica { replica: Some(ReplicaId(number)), port: 0, path: String::new() };
        let volume = Volume {
            name: "data".into(),
            group: GROUP,
            size: ByteSize(1 << 20),
            file_system: None,
            mount: None,
            replicas: [1, 2].map(|number| (NodeId(number), replica(u64::from(number)))).into(),
        };
        state.volumes.insert(volume.name.clone(), volume);
        let in_sync = [1, 2].map(member).map(|member| (member.replica, member.session)).into();
        let entry = GroupEntry { group: GROUP, generation: Generation(3), primary: Some(member(1)), in_sync };
        state.groups.insert(GROUP, GroupState { index: INDEX, entry });
        state
    }

    fn conclusion(primary_promotable: bool) -> Conclusion {
        let (state, now) = (state(), Mono(5_000_000_000));
        let mut detector = Detector::new(Mono(0), Millis(1_000));
        for (number, promotable) in [(1, primary_promotable), (2, true)] {
            let Member { replica, session } = member(number);
            let report = ReplicaReport {
                group: GROUP,
                replica,
                session,
                progress: 5,
                promotable,
                ledger_index: INDEX,
            };
            let node = NodeId(u32::try_from(number).unwrap());
            detector.hear(now, Sign { node, start: 1, sequence: 1, reports: vec![report] });
        }
        let wanted = BTreeMap::from([(GROUP, BTreeMap::from([(NodeId(1), 1), (NodeId(2), 0)]))]);
        let view = View { state: &state, detector: &detector, highest: &|_| 0, wanted: &wanted };
        let mut coordinator = Coordinator::new();
        coordinator.judge(now, &view);
        coordinator.conclusions()[&GROUP].clone()
    }

    #[test]
    fn a_living_primary_stays_until_it_says_that_it_cannot_serve_any_more() {
        assert_eq!(conclusion(true), Conclusion::Well);
        assert_eq!(conclusion(false), Conclusion::Promote(member(2)));
    }
}
