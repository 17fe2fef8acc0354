//! What volume processes and daemons say, and answering them.

use super::{Client, ClientKind, Voter, Word};
use crate::voter::{
    beat::HEALTH_LENGTH_MAX,
    local,
    protocol::{CONTROL_LENGTH_MAX, FromVoter, KIND, ToVoter, VERSION, VOLUME_KIND, VOLUME_VERSION},
    request::Origin,
};
use anshin_base::{Mono, NodeId, frame::Frame, local::ToVoter as FromVolume};
use anshin_ledger::{Command, Input};
use anshin_link::{clock, mesh::wire::kind};

impl Voter {
    pub(super) fn arrived(&mut self, arrival: local::Arrival) {
        match arrival {
            local::Arrival::Opened { id, connection } => {
                self.clients.insert(id, Client { connection, kind: ClientKind::New });
            }
            local::Arrival::Closed { id } => self.close(id),
            local::Arrival::Frame { id, frame } => {
                let understood = match frame.kind {
                    VOLUME_KIND => local::decode(&frame, VOLUME_KIND, VOLUME_VERSION)
                        .is_some_and(|message| self.volume_said(id, message)),
                    _ => local::decode(&frame, KIND, VERSION)
                        .is_some_and(|message| self.daemon_said(id, message)),
                };
                if !understood {
                    tracing::warn!(
                        kind = frame.kind,
                        "closed a local connection: a message that makes no sense"
                    );
                    self.close(id);
                }
            }
        }
    }

    pub(super) fn close(&mut self, id: u64) {
        let Some(client) = self.clients.remove(&id) else { return };
        self.requests.forget(id);
        self.changed.reports |= matches!(client.kind, ClientKind::Volume { .. });
        let is_daemon = |client: &Client| matches!(client.kind, ClientKind::Daemon { .. });
        if is_daemon(&client) && !self.clients.values().any(is_daemon) {
            // Nobody speaks for the daemon now; others see that it is gone.
            self.health.clear();
        }
    }

    /// False if the message makes no sense here.
    pub(super) fn volume_said(&mut self, id: u64, message: FromVolume) -> bool {
        let Some(client) = self.clients.get_mut(&id) else { return true };
        let at = clock::now();
        match (message, &mut client.kind) {
            (FromVolume::Report(report), ClientKind::Volume { word, .. })
                if report.group == word.report.group =>
            {
                let repeats = word.repeats || report == word.report;
                self.changed.reports |= report != word.report || !word.lasts(at);
                *word = Word { report, at, repeats };
            }
            (FromVolume::Report(report), ClientKind::New) => {
                let word = Word { report, at, repeats: false };
                client.kind = ClientKind::Volume { word, view: None };
                self.changed.reports = true;
                self.changed.ledger = true;
            }
            (FromVolume::Propose { request, change }, ClientKind::Volume { word, .. })
                if change.group() == word.report.group =>
            {
                let number = self.requests.open(Origin::Volume { connection: id, request });
                self.feed(Input::Propose { request: number, command: Command::Group(change) });
            }
            _ => return false,
        }
        true
    }

    /// This process stood still: what volumes said meanwhile may still wait to be read.
    pub(super) fn hear_all_volumes(&mut self, now: Mono) {
        for client in self.clients.values_mut() {
            if let ClientKind::Volume { word, .. } = &mut client.kind {
                word.at = now;
            }
        }
    }

    /// False if the message makes no sense here.
    pub(super) fn daemon_said(&mut self, id: u64, message: ToVoter) -> bool {
        let Some(client) = self.clients.get_mut(&id) else { return true };
        match (message, &mut client.kind) {
            (ToVoter::Hello { version_min, version_max }, kind @ ClientKind::New) => {
                if !(version_min..=version_max).contains(&VERSION) {
                    tracing::warn!(
                        version_min,
                        version_max,
                        "the daemon speaks another version of the protocol"
                    );
                    return false;
                }
                *kind = ClientKind::Daemon { subscribed: false, status: None };
                let build = self.build.clone();
                let welcome =
                    FromVoter::Welcome { version: VERSION, node: self.me, voter: self.voter, build };
                self.tell(id, &welcome);
            }
            (ToVoter::Subscribe, ClientKind::Daemon { subscribed, .. }) => {
                *subscribed = true;
                self.changed.ledger = true;
                self.changed.status = true;
            }
            (message, ClientKind::Daemon { .. }) => return self.daemon_asked(id, message),
            _ => return false,
        }
        true
    }

    pub(super) fn daemon_asked(&mut self, id: u64, message: ToVoter) -> bool {
        match message {
            ToVoter::Propose { request, command } => {
                let number = self.requests.open(Origin::Daemon { connection: id, request });
                self.feed(Input::Propose { request: number, command });
            }
            ToVoter::Read { request } => {
                let number = self.requests.open(Origin::Daemon { connection: id, request });
                self.feed(Input::Read { request: number });
            }
            ToVoter::Send { to, body } if body.len() <= CONTROL_LENGTH_MAX => self.send_control(id, to, body),
            ToVoter::Wanted(wanted) => self.wanted = wanted,
            ToVoter::Health(health) if health.len() <= HEALTH_LENGTH_MAX => self.health = health,
            ToVoter::HandOver { to } => {
                if let Some(to) = self.peers.voter_of(to) {
                    self.feed(Input::TransferLeader { to });
                }
            }
            ToVoter::Hello { .. } | ToVoter::Subscribe | ToVoter::Send { .. } | ToVoter::Health(_) => {
                return false;
            }
        }
        true
    }

    pub(super) fn send_control(&mut self, id: u64, to: NodeId, body: Vec<u8>) {
        if to == self.me {
            self.tell_daemons(&FromVoter::Received { from: to, body });
        } else if let Err(error) = self.mesh.send(to, kind::DAEMON, body.into()) {
            self.tell(id, &FromVoter::NotSent { to, why: error.to_string() });
        }
    }

    pub(super) fn tell(&mut self, id: u64, message: &FromVoter) {
        self.tell_raw(id, local::encode(KIND, VERSION, message));
    }

    pub(super) fn tell_raw(&mut self, id: u64, frame: Frame) {
        if self.clients.get(&id).is_some_and(|client| !client.connection.answer(frame)) {
            tracing::warn!("closed a local connection that does not read its answers");
            self.close(id);
        }
    }

    pub(super) fn tell_daemons(&mut self, message: &FromVoter) {
        let frame = local::encode(KIND, VERSION, message);
        let daemon = |client: &Client| matches!(client.kind, ClientKind::Daemon { .. });
        let daemons: Vec<_> =
            self.clients.iter().filter(|(_, client)| daemon(client)).map(|(id, _)| *id).collect();
        for id in daemons {
            self.tell_raw(id, frame.clone());
        }
    }
}
