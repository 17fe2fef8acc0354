//! Signs of life, and what the ledger's leader does with them.

use super::{ClientKind, Voter};
use crate::voter::{
    beat::Beat,
    local::{self, Slot},
    peers::{next_change, wanted_by_services},
    protocol::{FromVoter, KIND, VERSION},
    request::Origin,
};
use anshin_base::{GroupChange, Millis, Mono, NodeId, VoterId, local::ReplicaReport};
use anshin_ledger::{Command, Input, Sign, coordinator::View, engine::Role};
use anshin_link::clock;
use std::collections::BTreeMap;

/// Between two attempts to hand leadership to the node with the most primaries.
const HAND_OVER_PAUSE: Millis = Millis(3_000);

impl Voter {
    /// A sign of life of a node, this one included.
    pub(super) fn heard(&mut self, node: NodeId, beat: Beat) {
        let before = self.beats.get(&node);
        let known = |report: &ReplicaReport| before.is_some_and(|beat| beat.sign.reports.contains(report));
        let news: Vec<_> = beat.sign.reports.iter().filter(|report| !known(report)).cloned().collect();
        self.detector.hear(clock::now(), beat.sign.clone());
        self.beats.insert(node, beat);
        for report in news {
            // Volumes are told the highest progress that was seen.
            self.changed.ledger = true;
            self.feed(Input::Report(report));
        }
    }

    pub(super) fn beat(&mut self) {
        self.refresh_beat();
        self.judge_silence();
        // What is decided by an old state is refused or superfluous; one that can lead takes over soon.
        if self.engine.role() == Role::Leader && !self.engine.stalled() {
            self.lead();
        }
        let nodes = FromVoter::Nodes(self.nodes());
        let frame = local::encode(KIND, VERSION, &nodes);
        for client in self.clients.values() {
            if matches!(client.kind, ClientKind::Daemon { subscribed: true, .. }) {
                client.connection.replace(Slot::Nodes, frame.clone());
            }
        }
    }

    /// Remembers since when each node is judged dead, so that a failover can tell how long that took.
    fn judge_silence(&mut self) {
        let now = clock::now();
        for node in self.detector.heard().keys() {
            if self.detector.dead(now, *node) {
                self.judged.entry(*node).or_insert(now);
            } else {
                self.judged.remove(node);
            }
        }
    }

    /// Tells the daemon when a promotion is proposed because a node was lost.
    fn tell_of_loss(&mut self, now: Mono, command: &Command) {
        let Command::Group(GroupChange::Promote { group, .. }) = command else { return };
        let state = self.engine.state();
        let primary = state.groups.get(group).and_then(|known| known.entry.primary);
        let node = primary.and_then(|primary| state.node_of_replica(primary.replica));
        let Some((node, judged)) = node.and_then(|node| Some((node, *self.judged.get(&node)?))) else {
            return;
        };
        let heard_ago = self.detector.last_heard(node).map_or(0, |at| now.since(at).0);
        let lost = FromVoter::Lost { group: *group, node, heard_ago, judged_ago: now.since(judged).0 };
        self.tell_daemons(&lost);
    }

    /// What this node says of itself from now on.
    pub(super) fn refresh_beat(&mut self) {
        self.sequence += 1;
        let now = clock::now();
        let mut reports = BTreeMap::new();
        for client in self.clients.values() {
            match &client.kind {
                // Of two processes for one group the one that connected last is the living one.
                ClientKind::Volume { word, .. } if word.lasts(now) => {
                    reports.insert(word.report.group, word.report.clone());
                }
                ClientKind::Volume { word, .. } => {
                    tracing::debug!(report = ?word.report, "its process stands still")
                }
                ClientKind::New | ClientKind::Daemon { .. } => {}
            }
        }
        let sign = Sign {
            node: self.me,
            start: self.start,
            sequence: self.sequence,
            reports: reports.into_values().collect(),
        };
        let beat = Beat {
            sign,
            voter: self.voter,
            leads: self.engine.role() == Role::Leader,
            quorate: self.engine.quorate(),
            applied: self.engine.applied(),
            health: self.health.clone(),
        };
        self.mesh.set_heartbeat(self.settings.epoch, beat.encode().into());
        self.heard(self.me, beat);
    }

    /// What the ledger's leader does at each beat.
    pub(super) fn lead(&mut self) {
        let (now, me) = (clock::now(), self.voter);
        let state = self.engine.state();
        let members = self.engine.members();
        if !self.requests.waits(Origin::Members)
            && let Some(change) = next_change(state, &members, &self.engine.caught_up(), me)
        {
            tracing::info!(?change, "changing who votes");
            let request = self.requests.open(Origin::Members);
            self.feed(Input::ChangeMembers { request, change });
        }
        let state = self.engine.state();
        let wanted = self.wanted.clone().unwrap_or_else(|| wanted_by_services(state));
        let highest = |replica| self.engine.highest(replica);
        let view = View { state, detector: &self.detector, highest: &highest, wanted: &wanted };
        let proposals = self.coordinator.judge(now, &view);
        for (number, command) in proposals {
            tracing::info!(?command, "promoting");
            self.tell_of_loss(now, &command);
            let request = self.requests.open(Origin::Coordinator(number));
            self.feed(Input::Propose { request, command });
        }
        self.changed.status = true;
        if let Some(to) = self.better_leader(now) {
            tracing::info!(%to, "handing leadership to the node it belongs to");
            self.led_since = Some(now);
            self.feed(Input::TransferLeader { to });
        }
    }

    /// Leadership follows the node with the most primaries (R13), and leaves a node that was removed.
    pub(super) fn better_leader(&self, now: Mono) -> Option<VoterId> {
        if now.since(self.led_since?) < HAND_OVER_PAUSE {
            return None;
        }
        let state = self.engine.state();
        let primaries = state.primaries();
        let count = |node: NodeId| primaries.get(&node).copied().unwrap_or_default();
        let removed = !state.nodes.is_empty() && state.node_of_voter(self.voter).is_none();
        // One whose disk does not answer cannot even stand for election, and meanwhile nothing is decided.
        let present = |node: NodeId| self.beats.get(&node).is_some_and(|beat| beat.quorate);
        let candidates = state.nodes.values().filter(|node| {
            self.engine.fit_to_lead(node.voter) && self.detector.alive(now, node.id) && present(node.id)
        });
        let best = candidates.max_by_key(|node| (count(node.id), node.roles.data, node.voter))?;
        (removed || count(best.id) > count(self.me)).then_some(best.voter)
    }
}
