//! Telling volumes and daemons what has changed.

use super::{Client, ClientKind, Voter};
use crate::voter::{
    local::{self, Slot},
    protocol::{FromVoter, KIND, NodeLiveness, Status, VERSION, VOLUME_KIND, VOLUME_VERSION},
};
use anshin_base::{GroupId, LedgerEpoch, local::FromVoter as ToVolume};
use anshin_ledger::{Engine, State, coordinator::Conclusion, engine::Role};
use anshin_link::mesh::table::Route;
use std::collections::BTreeSet;

impl Voter {
    /// Tells everyone what has changed in this turn.
    pub(super) fn publish(&mut self) {
        if std::mem::take(&mut self.changed.reports) {
            self.refresh_beat();
        }
        self.publish_ledger();
        if std::mem::take(&mut self.changed.status) {
            self.publish_status();
        }
    }

    /// Tells of the ledger if it has changed: also before an answer that rests on it. Feeds nothing to the engine.
    pub(super) fn publish_ledger(&mut self) {
        if !std::mem::take(&mut self.changed.ledger) {
            return;
        }
        let is_daemon = |client: &Client| matches!(client.kind, ClientKind::Daemon { subscribed: true, .. });
        if self.clients.values().any(is_daemon) {
            let state = Box::new(self.engine.state().clone());
            let ledger =
                FromVoter::Ledger { epoch: self.settings.epoch, index: self.engine.applied(), state };
            let frame = local::encode(KIND, VERSION, &ledger);
            for client in self.clients.values().filter(|client| is_daemon(client)) {
                client.connection.replace(Slot::Ledger, frame.clone());
            }
        }
        for client in self.clients.values_mut() {
            if let ClientKind::Volume { word, view } = &mut client.kind {
                let new = volume_view(&self.engine, self.settings.epoch, word.report.group);
                if view.as_ref() != Some(&new) {
                    let frame = local::encode(VOLUME_KIND, VOLUME_VERSION, &new);
                    client.connection.replace(Slot::Ledger, frame);
                    *view = Some(new);
                }
            }
        }
    }

    pub(super) fn publish_status(&mut self) {
        let now = self.status();
        let frame = local::encode(KIND, VERSION, &FromVoter::Status(now.clone()));
        for client in self.clients.values_mut() {
            if let ClientKind::Daemon { subscribed: true, status } = &mut client.kind
                && status.as_ref() != Some(&now)
            {
                client.connection.replace(Slot::Status, frame.clone());
                *status = Some(now.clone());
            }
        }
    }

    pub(super) fn status(&self) -> Status {
        let members = self.engine.members();
        let (leads, leader) = match self.engine.role() {
            Role::Leader => (true, Some(self.me)),
            Role::Follower { leader } => (false, leader.and_then(|voter| self.peers.node_of(voter))),
        };
        let conclusions = self.coordinator.conclusions().iter().filter(|_| leads);
        let stuck = conclusions.filter_map(|(group, conclusion)| match conclusion {
            Conclusion::Stuck(why) => Some((*group, why.to_string())),
            _ => None,
        });
        Status {
            leads,
            leader,
            quorate: self.engine.quorate(),
            voters: members.voters,
            learners: members.learners,
            silenced: self.engine.silenced().map(str::to_owned),
            stuck: stuck.collect(),
        }
    }

    pub(super) fn nodes(&self) -> Vec<NodeLiveness> {
        let own = NodeLiveness {
            node: self.me,
            heard: Some(0),
            heard_directly: Some(0),
            linked: true,
            relay: None,
            round_trip_micros: Some(0),
            incarnation: self.start,
            epoch: self.settings.epoch,
            beat: self.beats.get(&self.me).cloned(),
        };
        let others = self.mesh.liveness().into_iter().map(|peer| NodeLiveness {
            node: peer.node,
            heard: peer.heard.map(|age| age.0),
            heard_directly: peer.heard_directly.map(|age| age.0),
            linked: peer.linked,
            relay: match peer.route {
                Route::Via(relay) => Some(relay),
                Route::Direct | Route::None => None,
            },
            round_trip_micros: peer.round_trip_micros,
            incarnation: peer.incarnation,
            epoch: peer.epoch,
            beat: self.beats.get(&peer.node).cloned(),
        });
        std::iter::once(own).chain(others).collect()
    }
}

/// The ledger as the volume of `group` sees it.
fn volume_view(engine: &Engine, epoch: LedgerEpoch, group: GroupId) -> ToVolume {
    let state: &State = engine.state();
    let known = state.groups.get(&group);
    let places = state.places(group);
    let members = known.into_iter().flat_map(|known| known.entry.in_sync.keys().copied());
    let replicas: BTreeSet<_> = places.iter().map(|place| place.replica).chain(members).collect();
    ToVolume::View {
        epoch,
        index: known.map_or_else(|| engine.applied(), |known| known.index),
        entry: known.map(|known| known.entry.clone()),
        places,
        highest: replicas.into_iter().map(|replica| (replica, engine.highest(replica))).collect(),
        quorate: engine.quorate(),
    }
}
