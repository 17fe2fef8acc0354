//! What the voter tells, and what the daemons of a site tell each other.

use super::Core;
use crate::{
    daemon::{
        messages::{Message, NodeReport, VolumeReport},
        parts::{self, services},
        volumes,
        voter_link::VoterEvent,
        world::{DAEMON_SILENT_MS, Heard},
    },
    voter::protocol,
};
use anshin_base::NodeId;
use anshin_ledger::State;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

impl Core {
    pub(super) fn voter_event(&mut self, event: VoterEvent) {
        match event {
            VoterEvent::Connected { voter } => {
                self.setup.voter_id = voter;
                self.voter_connected = true;
                self.wanted = None;
                self.report_due = true;
                self.broadcast(&Message::Ask);
            }
            VoterEvent::Lost => {
                self.voter_connected = false;
                self.world.quorate = false;
                self.world.leader = None;
            }
            VoterEvent::Ledger { epoch, state } => {
                self.epoch = epoch;
                self.new_state(*state);
            }
            VoterEvent::Status(status) => {
                if status.leader != self.world.leader {
                    let whom = status.leader.map_or_else(|| "nobody".into(), |node| self.world.name_of(node));
                    self.note("ledger", &format!("{whom} leads"), "");
                }
                self.world.quorate = status.quorate;
                self.world.voters.clone_from(&status.voters);
                // What a voter that was replaced meanwhile said last concerns nobody.
                if let Some(why) = status.silenced.as_ref().filter(|_| self.voter_connected) {
                    self.wish_to_rejoin(why);
                }
                self.world.leader = status.leader;
                if status.quorate {
                    self.quorate_at = Some(self.now());
                }
            }
            VoterEvent::Nodes(nodes) => self.nodes(nodes),
            VoterEvent::NodeLost(lost) => {
                let (now, wall) = (self.now(), jiff::Timestamp::now().as_millisecond());
                self.recorder.lost(&self.world, lost, now, wall);
            }
            VoterEvent::Received { from, body } => match Message::decode(&body) {
                Ok(message) => self.received(from, message),
                Err(error) => tracing::warn!(%from, %error, "a message from another daemon cannot be read"),
            },
            VoterEvent::Notice(notice) => {
                tracing::warn!(?notice, "the voter");
                let (what, why) = self.in_words(&notice);
                self.note("ledger", &what, &why);
            }
        }
    }

    fn in_words(&self, notice: &protocol::Notice) -> (String, String) {
        use protocol::Notice;
        let of_voter = |voter| self.world.state.node_of_voter(voter).map(|node| node.name.clone());
        match notice {
            Notice::MustRejoin { why } => ("the voter here may not speak any more".into(), why.clone()),
            Notice::Expelled { voter } => (
                format!(
                    "the voter of {} is not listened to any more",
                    of_voter(*voter).unwrap_or_else(|| voter.to_string())
                ),
                "it came back with less than it had confirmed".into(),
            ),
            Notice::NewerEpoch { epoch } => {
                (format!("another node speaks for epoch {epoch}"), "the ledger here is outdated".into())
            }
            Notice::OldImage { replica, presented, seen } => (
                format!("replica {replica} is an old image"),
                format!("it presents progress {presented}, {seen} was seen"),
            ),
        }
    }

    pub(super) fn nodes(&mut self, nodes: Vec<protocol::NodeLiveness>) {
        let silent = self.world.state.site.as_ref().map_or(1_000, |site| site.timing.silent.0);
        for node in nodes {
            let alive = node.heard.is_some_and(|age| age < silent);
            let was = self.world.heard.get(&node.node).is_some_and(|heard| heard.alive);
            if was != alive && node.node != self.setup.me {
                let what = if alive { "is heard" } else { "is no longer heard" };
                self.note(&self.world.name_of(node.node), what, "");
            }
            if was && !alive {
                // What it said last may be long past when it is heard again: it is asked anew.
                self.world.reports.remove(&node.node);
            }
            let heard = Heard {
                alive,
                dead: !alive,
                age_ms: node.heard,
                relayed: node.relay.is_some(),
                // What runs here is known best here: signs of a voter that was replaced may still be on their way.
                voter: match node.node == self.setup.me {
                    true => Some(self.setup.voter_id),
                    false => node.beat.as_ref().map(|beat| beat.voter),
                },
                follows: node.beat.as_ref().is_none_or(|beat| beat.quorate),
                replicas: node.beat.map(|beat| beat.sign.reports).unwrap_or_default(),
            };
            self.world.heard.insert(node.node, heard);
        }
        if self.world.quorate {
            self.quorate_at = Some(self.now());
        }
    }

    pub(super) fn new_state(&mut self, state: State) {
        self.world.state = Arc::new(state);
        let known: BTreeSet<NodeId> = self.world.state.nodes.keys().copied().collect();
        self.world.reports.retain(|node, _| known.contains(node));
        let configured: BTreeSet<String> = services(&self.world.state)
            .iter()
            .flat_map(|service| parts::parts(&self.world.state, service))
            .map(|part| part.id)
            .collect();
        for work in self.local.keep(|id| configured.contains(id)) {
            // A ledger that begins anew knows nothing: that is no word about what is configured.
            if !self.world.state.nodes.is_empty() {
                self.let_go(work);
            }
        }
        let volumes = self.world.state.clone();
        self.files.keep(|volume| volumes.volumes.contains_key(volume));
        self.keep_voters();
        self.keep_volumes();
    }

    pub(super) fn received(&mut self, from: NodeId, message: Message) {
        match message {
            Message::Report(report) => self.take_report(from, report),
            Message::Ask => self.report_due = true,
            Message::Run(order) => {
                // An order of somebody who no longer leads is not followed: its successor plans anew.
                if self.world.leader.is_some_and(|leader| leader != from) {
                    tracing::warn!(%from, resource = order.resource, "an order of a node that does not lead");
                    return;
                }
                self.take_new_order(from, order);
            }
            Message::Ran { request, well, report } => {
                self.take_report(from, report);
                if let Some(leader) = &mut self.leader {
                    leader.ran(&self.world, request, well);
                }
            }
            Message::Cancel { resource, interval, .. } => {
                self.local.cancel(&resource, interval);
                self.refresh_own_report();
            }
            Message::Rejoin { wish } => self.grant(from, wish),
            Message::Rejoined { wish, voter, epoch, peers } => self.rejoined(wish, voter, peers, epoch),
            Message::OtherVoter { voter } => self.other_voter(from, voter),
            Message::Director(message) => self.director_message(from, message),
            Message::CleanUp { resource } => {
                self.local.clean_up(&resource, false);
                self.refresh_own_report();
            }
        }
    }

    /// Notes how old the daemons' reports are. A voter speaks for its node as long as it runs; a daemon that ended or hangs
    /// beside it could neither stop nor start anything.
    pub(super) fn age_reports(&mut self) {
        let now = self.now();
        let living =
            self.world.state.nodes.keys().filter(|&&node| node != self.setup.me && self.world.alive(node));
        let living: BTreeSet<NodeId> = living.copied().collect();
        self.report_heard.retain(|node, _| living.contains(node));
        for node in living {
            // One that lives and has not spoken yet is given as long as any other.
            self.report_heard.entry(node).or_insert(now);
        }
        let ages: BTreeMap<NodeId, u64> =
            self.report_heard.iter().map(|(node, heard)| (*node, now.since(*heard).0)).collect();
        for (node, age) in &ages {
            let silent = |age: u64| age > DAEMON_SILENT_MS;
            let was = self.world.report_age_ms.get(node).is_some_and(|age| silent(*age));
            if silent(*age) != was && self.world.alive(*node) {
                let what = if was {
                    "its daemon speaks again"
                } else {
                    "its daemon says nothing, though it is heard"
                };
                let why = if was {
                    ""
                } else {
                    "nothing is stopped or started there; `systemctl status anshin` on that server"
                };
                self.note(&self.world.name_of(*node), what, why);
            }
        }
        self.world.report_age_ms = ages;
    }

    pub(super) fn take_report(&mut self, from: NodeId, report: NodeReport) {
        if report.node != from || from == self.setup.me {
            return;
        }
        self.report_heard.insert(from, self.now());
        let newer = self
            .world
            .reports
            .get(&from)
            .is_none_or(|known| known.start != report.start || known.sequence < report.sequence);
        if newer {
            self.world.reports.insert(from, report);
        }
    }

    pub(super) fn broadcast(&mut self, message: &Message) {
        let body = message.encode();
        let others: Vec<NodeId> =
            self.world.state.nodes.keys().copied().filter(|&node| node != self.setup.me).collect();
        for node in others {
            self.setup.voter.send(node, body.clone());
        }
    }

    pub(super) fn own_report(&mut self) -> NodeReport {
        self.sequence += 1;
        let expected = self
            .world
            .state
            .volumes
            .iter()
            .filter(|(_, volume)| volume.replicas.contains_key(&self.setup.me));
        let heard =
            expected.map(|(name, _)| name).all(|name| self.volumes.get(name).is_some_and(|here| here.heard));
        let state = self.world.state.clone();
        let volumes: Vec<VolumeReport> = self
            .volumes
            .iter()
            .filter_map(|(name, here)| {
                let volume = state.volumes.get(name)?;
                here.status.as_ref().map(|status| {
                    volumes::report(status, |replica| {
                        volume
                            .replicas
                            .iter()
                            .find(|(_, held)| held.replica == Some(replica))
                            .map(|(node, _)| *node)
                    })
                })
            })
            .collect();
        NodeReport {
            node: self.setup.me,
            version: crate::VERSION.into(),
            start: self.start,
            sequence: self.sequence,
            cleaning: self.volumes.values().any(|here| here.cleaning),
            ready: heard && !self.world.state.nodes.is_empty(),
            resources: self.local.reports(),
            volumes,
            happened: self.happened.iter().cloned().collect(),
            passages: self.recorder.passages(),
            rejoining: self.wish.as_ref().map(|wish| wish.why.clone()),
            attempts: self.backups.attempts(),
            vaults: self.backups.vaults(),
            archives: self.backups.archives(),
            #[cfg(feature = "next")]
            said_by_next: Some("a field that the build before does not know".into()),
        }
    }

    pub(super) fn refresh_own_report(&mut self) {
        let report = self.own_report();
        self.world.reports.insert(self.setup.me, report);
        self.report_due = true;
    }

    pub(super) fn send_report(&mut self) {
        self.report_due = false;
        self.reported = self.now();
        let report = self.own_report();
        self.world.reports.insert(self.setup.me, report.clone());
        self.broadcast(&Message::Report(report));
    }
}
