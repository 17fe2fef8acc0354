//! What the leading voter does, and what is asked of it.

use super::{Asker, READ_AGAIN, VoterProcess, node_id};
use crate::world::{At, GROUP, World};
use anshin_base::{GroupChange, Member};
use anshin_ledger::{
    Command, Coordinator, Input,
    coordinator::View,
    engine::{Role, next_change},
};
use std::collections::BTreeMap;

impl World {
    /// Operator or daemon ask for a change through the leader; they look what came of it.
    pub fn demand(&mut self, leader: At, command: Command) {
        self.ask(leader, Asker::Noise, command);
    }

    /// Who votes follows the ledger's list of nodes.
    fn change_members(&mut self, at: At) {
        let me = self.nodes[at].voter_id;
        let Some(voter) = &mut self.nodes[at].voter else { return };
        if voter.asked.values().any(|asker| matches!(asker, Asker::Members)) {
            return;
        }
        let engine = &voter.engine;
        let Some(change) = next_change(engine.state(), &engine.members(), &engine.caught_up(), me) else {
            return;
        };
        voter.request_last += 1;
        let request = voter.request_last;
        voter.asked.insert(request, Asker::Members);
        self.engine(at, Input::ChangeMembers { request, change });
    }

    /// The leader judges the groups, once its state is proven fresh.
    pub(super) fn coordinate(&mut self, at: At) {
        let (now, world_now) = (self.local(at), self.now);
        let scenario = self.scenario;
        let Some(voter) = &mut self.nodes[at].voter else { return };
        if voter.engine.role() != Role::Leader {
            return;
        }
        if voter.coordinator.is_none() {
            if voter.reading.is_none_or(|(_, since)| world_now - since > READ_AGAIN) {
                voter.request_last += 1;
                let request = voter.request_last;
                voter.reading = Some((request, world_now));
                self.engine(at, Input::Read { request });
            }
            return;
        }
        self.create_group(at);
        self.change_members(at);
        let Some(voter) = &mut self.nodes[at].voter else { return };
        let VoterProcess { engine, detector, coordinator: Some(coordinator), .. } = voter else { return };
        let suits = (0..scenario.data).map(|at| (node_id(at), 0)).collect();
        let wanted = BTreeMap::from([(GROUP, suits)]);
        let view = View {
            state: engine.state(),
            detector,
            highest: &|replica| engine.highest(replica),
            wanted: &wanted,
        };
        for (request, command) in coordinator.judge(now, &view) {
            self.count("promotions proposed");
            self.trace.line(world_now, || format!("node {at}: proposes {command:?}"));
            self.ask(at, Asker::Coordinator { request }, command);
        }
    }

    /// The first entry of the group, once the first replica has reported.
    fn create_group(&mut self, at: At) {
        let now = self.local(at);
        let Some(voter) = &self.nodes[at].voter else { return };
        if !self.scenario.volumes || voter.engine.state().groups.contains_key(&GROUP) {
            return;
        }
        let first =
            voter.detector.reports(now).find(|(node, _)| *node == node_id(0)).map(|(_, report)| report);
        if let Some(report) = first {
            let first = Member { replica: report.replica, session: report.session };
            if !voter.asked.values().any(|asker| matches!(asker, Asker::Group)) {
                self.ask(at, Asker::Group, Command::Group(GroupChange::Create { group: GROUP, first }));
            }
        }
    }

    pub(super) fn read_ready(&mut self, at: At, request: u64) {
        let bugs = self.scenario.bugs.coordinator;
        let Some(voter) = &mut self.nodes[at].voter else { return };
        let applied = voter.engine.applied().0;
        if let Some(least) = voter.reads.remove(&request) {
            self.oracles.ledger.read(at, least, applied);
            return;
        }
        if voter.reading.is_some_and(|(reading, _)| reading == request) {
            voter.reading = None;
            voter.coordinator = Some(Coordinator::with_bugs(bugs));
        }
    }

    /// Now and then somebody reads the ledger: the answer must hold everything confirmed before.
    pub(super) fn oracle_reads(&mut self, at: At) {
        if !self.rng.permille(40) {
            return;
        }
        let least = self.oracles.ledger.confirmed_last();
        let Some(voter) = &mut self.nodes[at].voter else { return };
        if voter.reads.len() > 20 {
            voter.reads.clear();
        }
        voter.request_last += 1;
        let request = voter.request_last;
        voter.reads.insert(request, least);
        self.engine(at, Input::Read { request });
    }

    /// Other changes of the ledger, so that its log grows and its segments are left.
    pub(super) fn noise(&mut self, at: At) {
        let every = if self.scenario.volumes { 20 } else { 200 };
        if self.healed && self.scenario.volumes || !self.rng.permille(every) {
            return;
        }
        let node = node_id(self.rng.index(self.nodes.len()));
        let value = Some(format!("{:x}", self.rng.bits()));
        let name = format!("noise-{}", self.rng.below(4));
        self.ask(at, Asker::Noise, Command::SetNodeAttribute { node, name, value });
    }
}
