//! What a daemon does while its voter leads the ledger.

use super::{Core, Event, TICK};
use crate::daemon::{
    drill,
    leader::{Command, Leader},
    messages::Message,
    model,
};
use anshin_base::GroupChange;
use anshin_ledger::Command as LedgerCommand;

impl Core {
    pub(super) fn lead(&mut self) {
        if !self.world.leads() {
            self.leader = None;
            self.wanted = None;
            return;
        }
        let mut leader = match self.leader.take() {
            Some(leader) => leader,
            None => {
                self.broadcast(&Message::Ask);
                // Plans of a leader that knows nothing of the others yet would probe what it could have heard.
                Leader::new(crate::random_id().unwrap_or(self.start))
            }
        };
        let commands = if self.knows_all_living() {
            leader.step(&self.world, self.now(), jiff::Timestamp::now().as_second())
        } else {
            Vec::new()
        };
        let planning = leader.transition().is_some();
        self.leader = Some(leader);
        let (now, wall) = (self.now(), jiff::Timestamp::now().as_millisecond());
        self.recorder.lead(&self.world, planning, now, wall);
        for command in commands {
            match command {
                Command::Send(node, Message::Run(order)) if node == self.setup.me => {
                    self.take_new_order(node, order);
                }
                Command::Send(node, message) if node == self.setup.me => self.received(node, message),
                Command::Send(node, message) => self.setup.voter.send(node, message.encode()),
                Command::Propose(change) => self.propose_quietly(LedgerCommand::Group(change)),
                Command::Happened { subject, what, why } => self.note(&subject, &what, &why),
            }
        }
        self.tell_wanted();
        self.create_groups();
        self.forget_moves_that_ended();
    }

    pub(super) fn knows_all_living(&self) -> bool {
        self.world
            .state
            .nodes
            .keys()
            .all(|&node| !self.world.alive(node) || self.world.reports.contains_key(&node))
    }

    pub(super) fn tell_wanted(&mut self) {
        let state = self.world.state.clone();
        for volume in state.volumes.values() {
            if let Some(node) = self.world.primary_node(volume) {
                self.last_primary.insert(volume.group, node);
            }
        }
        let wanted = model::wanted(&self.world, &self.last_primary);
        if self.wanted.as_ref() != Some(&wanted) && self.setup.voter.wanted(wanted.clone()) {
            self.wanted = Some(wanted);
        }
    }

    /// A group begins with the replica that its node made first; the others are resynced into it.
    pub(super) fn create_groups(&mut self) {
        let state = self.world.state.clone();
        for volume in state.volumes.values().filter(|volume| !state.groups.contains_key(&volume.group)) {
            let first = volume.replicas.keys().find_map(|&node| {
                let replica = volume.replicas.get(&node)?.replica?;
                let live = self.world.live_member(volume, node)?;
                (live.replica == replica).then_some(live)
            });
            if let Some(first) = first {
                let change = GroupChange::Create { group: volume.group, first };
                self.propose_quietly(LedgerCommand::Group(change));
            }
        }
    }

    /// A move leaves no constraint behind: once the service has arrived, or failed there too often, the wish is taken back.
    pub(super) fn forget_moves_that_ended(&mut self) {
        if self.leader.as_ref().is_none_or(|leader| leader.transition().is_some()) {
            return;
        }
        let state = self.world.state.clone();
        for service in state.services.values() {
            let Some(wanted) = service.preferred else { continue };
            let arrived = drill::running_on(&self.world, service) == Some(wanted);
            if !arrived && !model::gave_up(&self.world, service, wanted) {
                continue;
            }
            let command =
                LedgerCommand::SetServicePreferred { service: service.name.clone(), preferred: None };
            // Told once, not at every look until the ledger shows it.
            if !arrived && !self.proposed.contains(&key(&command)) {
                let what = format!("the move to {} is given up", self.world.name_of(wanted));
                let why = "it failed there too often; it would be tried again and again";
                self.note(&service.name, &what, why);
            }
            self.propose_quietly(command);
        }
    }

    /// Proposes in the background; what came of it shows in the ledger. The same command is not proposed twice at once.
    pub(super) fn propose_quietly(&mut self, command: LedgerCommand) {
        let key = key(&command);
        if !self.proposed.insert(key.clone()) {
            return;
        }
        let (voter, events) = (self.setup.voter.clone(), self.setup.events.clone());
        tokio::spawn(async move {
            match voter.propose(command).await {
                Ok(Ok(_)) => {}
                Ok(Err(refused)) => tracing::debug!(%refused, "the ledger refused a proposal"),
                Err(problem) => tracing::debug!(%problem, "a proposal was not decided"),
            }
            // The state that shows the change may be on its way still; proposing it again would only be refused.
            tokio::time::sleep(TICK).await;
            let _ = events.send(Event::Proposed(key)).await;
        });
    }
}

/// By which a proposal that is under way is known.
fn key(command: &LedgerCommand) -> String {
    format!("{command:?}")
}
