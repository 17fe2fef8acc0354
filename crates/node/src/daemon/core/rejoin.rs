//! A voter that forgot what it confirmed gets a new id and learns everything anew (R8), without a human.
//!
//! ```text
//!  node whose voter is silent                     daemon of the ledger's leader
//!    Rejoin { wish }  ── to everybody, each second ──▶  NewVoter { node, its present voter } to the ledger
//!    stops its voter, makes an empty log    ◀── Rejoined { wish, new id, peers } ──  (the id was never used before)
//!    under the new id, starts it            the leading voter removes the old id, adds the new one as a learner,
//!                                           and lets it vote once it holds everything
//! ```
//! The old id never counts again: its voter is silent, and other voters refuse it. A wish that is granted twice (by two
//! leaders, or because an answer was lost) costs an id; the node takes the newest it hears of.

use super::{Core, Event};
use crate::{
    daemon::messages::Message,
    setup::{KnownVoters, NodeFile},
    voter::{self, Peer},
};
use anshin_base::{Millis, Mono, NodeId, Problem, VoterId};
use anshin_ledger::{Applied, Command as LedgerCommand};
use anshin_link::Credentials;
use std::{collections::BTreeSet, time::Duration};

/// How often a wish is repeated until it is granted.
const ASK_EVERY: Millis = Millis(1_000);
/// A voter that is another than the ledger's for this long is told so; it takes about that to hear of a new id.
const OTHER_VOTER_MAX: Millis = Millis(5_000);
/// How long the old voter process may take to end.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// A node's wish for a new voter.
#[derive(Clone, Debug)]
pub struct Wish {
    number: u64,
    /// Why, for people.
    pub why: String,
    asked: Mono,
}

/// What the leader did about a node's wish.
#[derive(Clone, Copy, Debug)]
pub struct Granted {
    wish: u64,
    /// None while the ledger has not decided.
    voter: Option<VoterId>,
}

impl Core {
    /// The voter here is silent, or not the one that the ledger knows.
    pub(super) fn wish_to_rejoin(&mut self, why: &str) {
        if self.wish.is_some() {
            return;
        }
        let Ok(number) = crate::random_id() else { return };
        self.note("ledger", "the voter here is replaced by a new one", why);
        self.wish = Some(Wish { number, why: why.to_owned(), asked: Mono(0) });
    }

    /// Repeats the wish.
    pub(super) fn keep_wishing(&mut self) {
        let now = self.now();
        let Some(wish) = self.wish.as_mut().filter(|wish| now.since(wish.asked) >= ASK_EVERY) else { return };
        wish.asked = now;
        let body = Message::Rejoin { wish: wish.number }.encode();
        for node in self.others() {
            self.setup.voter.send(node, body.clone());
        }
    }

    /// Every other node, also while the ledger here is empty.
    fn others(&self) -> BTreeSet<NodeId> {
        let known = self.world.state.nodes.keys().chain(self.world.heard.keys());
        known.copied().filter(|&node| node != self.setup.me).collect()
    }

    /// Another node's wish; the leader of the ledger grants it.
    pub(super) fn grant(&mut self, node: NodeId, wish: u64) {
        if !self.world.leads() {
            return;
        }
        let Some(known) = self.world.state.nodes.get(&node) else { return };
        let (name, old) = (known.name.clone(), known.voter);
        match self.granted.get(&node) {
            Some(granted) if granted.wish == wish => {
                if granted.voter == Some(old) {
                    self.tell_new_voter(node, wish, old);
                    return;
                }
                if granted.voter.is_none() {
                    return;
                }
            }
            _ => {}
        }
        self.granted.insert(node, Granted { wish, voter: None });
        self.note(
            "ledger",
            &format!("the voter of {name} gets a new id"),
            "it forgot what it confirmed (R8)",
        );
        let (voter, events) = (self.setup.voter.clone(), self.setup.events.clone());
        tokio::spawn(async move {
            // Always a new id, whatever the node takes itself for: one that was given before may have been used.
            let outcome = voter.propose(LedgerCommand::NewVoter { node, old }).await;
            let new = match outcome {
                Ok(Ok(Applied::Voter(new))) => Some(new),
                other => {
                    tracing::warn!(?other, %node, "no new voter id was recorded; the node asks again");
                    None
                }
            };
            let _ = events.send(Event::NewVoter { node, wish, voter: new }).await;
        });
    }

    /// The ledger gave a node a new voter id, or not.
    pub(super) fn new_voter(&mut self, node: NodeId, wish: u64, voter: Option<VoterId>) {
        match voter {
            Some(voter) => {
                self.granted.insert(node, Granted { wish, voter: Some(voter) });
                self.tell_new_voter(node, wish, voter);
            }
            None => {
                self.granted.remove(&node);
            }
        }
    }

    fn tell_new_voter(&self, node: NodeId, wish: u64, voter: VoterId) {
        let others = self.world.state.nodes.values().filter(|known| known.id != node);
        let peers = others.map(|known| Peer {
            node: known.id,
            voter: known.voter,
            addresses: voter::addresses(&known.addresses, known.ports.voter),
        });
        let message = Message::Rejoined { wish, voter, epoch: self.epoch, peers: peers.collect() };
        self.setup.voter.send(node, message.encode());
    }

    /// The wish is granted: the voter begins anew under its new id.
    pub(super) fn rejoined(
        &mut self,
        wish: u64,
        voter: VoterId,
        peers: Vec<Peer>,
        epoch: anshin_base::LedgerEpoch,
    ) {
        let asked = self.wish.as_ref().is_some_and(|known| known.number == wish) || self.wished == Some(wish);
        if !asked || voter <= self.setup.voter_id {
            return;
        }
        match self.begin_anew(voter, peers, epoch) {
            Ok(()) => {
                self.setup.voter_id = voter;
                self.voter_connected = false;
                // The ledger here knows the old one until the new voter has learned: that one does not count.
                self.world.heard.entry(self.setup.me).or_default().voter = Some(voter);
                self.wish = None;
                self.wished = Some(wish);
                self.note("ledger", "the voter here begins anew", &format!("its new id is {voter}"));
            }
            Err(problem) => {
                tracing::error!(%problem, "the voter cannot begin anew");
                self.note("ledger", "the voter here cannot begin anew", &problem.message);
            }
        }
        let arguments = ["run", "voter"].map(str::to_owned);
        self.supervisor.want("voter", &arguments);
    }

    fn begin_anew(
        &mut self,
        voter: VoterId,
        peers: Vec<Peer>,
        epoch: anshin_base::LedgerEpoch,
    ) -> Result<(), Problem> {
        let paths = self.setup.paths.clone();
        let mut file = NodeFile::load(&paths)?
            .ok_or_else(|| Problem::new("node-file", "this server's node file is gone"))?;
        let site = Credentials::load(&paths.identity())?.identity().site;
        self.supervisor.stop("voter", STOP_PATIENCE);
        voter::join(&paths.voter(), site, epoch, (file.id, voter, !file.data), peers)?;
        file.voter = voter;
        file.save(&paths)
    }

    /// Keeps who votes where a lost ledger does not take it along.
    pub(super) fn keep_voters(&mut self) {
        let others = self.world.state.nodes.values().filter(|node| node.id != self.setup.me);
        let voters = others.map(|node| Peer {
            node: node.id,
            voter: node.voter,
            addresses: voter::addresses(&node.addresses, node.ports.voter),
        });
        let known = KnownVoters { epoch: self.epoch, voters: voters.collect() };
        if known.voters.is_empty() || self.known_voters.as_ref() == Some(&known) {
            return;
        }
        match known.save(&self.setup.paths) {
            Ok(()) => self.known_voters = Some(known),
            Err(problem) => tracing::warn!(%problem, "who votes is not kept"),
        }
    }

    /// What the leader does about voters that are not the ledger's: an answer may have been lost for good.
    pub(super) fn look_for_other_voters(&mut self) {
        let now = self.now();
        let mut told = Vec::new();
        for node in self.world.state.nodes.values().filter(|node| node.id != self.setup.me) {
            let runs =
                self.world.heard.get(&node.id).filter(|heard| heard.alive).and_then(|heard| heard.voter);
            if runs.is_none_or(|runs| runs == node.voter) {
                self.other_voters.remove(&node.id);
                continue;
            }
            let since = *self.other_voters.entry(node.id).or_insert(now);
            if now.since(since) >= OTHER_VOTER_MAX {
                told.push((node.id, node.voter));
                self.other_voters.insert(node.id, now);
            }
        }
        for (node, voter) in told {
            self.setup.voter.send(node, Message::OtherVoter { voter }.encode());
        }
    }

    /// The leader knows another voter of this node.
    pub(super) fn other_voter(&mut self, from: NodeId, voter: VoterId) {
        if voter != self.setup.voter_id {
            let leader = self.world.name_of(from);
            self.wish_to_rejoin(&format!(
                "{leader} says that the ledger knows {voter}, not {}",
                self.setup.voter_id
            ));
        }
    }
}
