//! What one daemon knows of the site at a moment: the ledger, who is heard, and what the nodes say of themselves.

use super::{
    director::DirectorNow,
    messages::{NodeReport, ResourceReport},
};
use anshin_base::{GroupEntry, Member, NodeId, ReplicaId, VoterId, local::ReplicaReport};
use anshin_ledger::{
    candidate::{Candidate, WhyNot, choose_candidate},
    state::{Node, State, Volume},
};
use std::{collections::BTreeMap, sync::Arc};

/// What the voter hears of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// It was heard recently enough to count as alive.
    pub alive: bool,
    /// It has been silent for long enough to count as dead. Neither is "not yet known".
    pub dead: bool,
    /// How long ago, in milliseconds; None for never.
    pub age_ms: Option<u64>,
    /// Only by way of another node.
    pub relayed: bool,
    /// Its voter, as its last sign of life says.
    pub voter: Option<VoterId>,
    /// Whether that follows or leads a leader.
    pub follows: bool,
    /// What its replicas said last.
    pub replicas: Vec<ReplicaReport>,
}

/// The names by which a node knows its site and itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnNames {
    /// The site.
    pub site: String,
    /// The node.
    pub node: String,
}

/// A daemon reports every second; one that says nothing for longer than this is taken for gone.
pub const DAEMON_SILENT_MS: u64 = 5_000;

/// One daemon's knowledge.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// The node this daemon runs on.
    pub me: NodeId,
    /// What the node's own file calls site and node: known before any ledger is.
    pub own: OwnNames,
    /// The newest ledger state applied here.
    pub state: Arc<State>,
    /// This node's voter hears a leader.
    pub quorate: bool,
    /// Milliseconds since that was last so; 0 while it is.
    pub ledger_age_ms: u64,
    /// The node whose voter leads.
    pub leader: Option<NodeId>,
    /// Who votes, as the own voter knows it; empty while that is not known.
    pub voters: Vec<VoterId>,
    /// Who is heard. The own node is always alive.
    pub heard: BTreeMap<NodeId, Heard>,
    /// Highest progress seen of each replica (R7).
    pub highest: BTreeMap<ReplicaId, u64>,
    /// The newest report of every daemon.
    pub reports: BTreeMap<NodeId, NodeReport>,
    /// How long ago each other daemon said something, in milliseconds; kept by the daemon from tick to tick.
    pub report_age_ms: BTreeMap<NodeId, u64>,
    /// What the director's last look came to.
    pub director: Arc<DirectorNow>,
}

impl World {
    /// Whether a node counts as alive.
    #[must_use]
    pub fn alive(&self, node: NodeId) -> bool {
        node == self.me || self.heard.get(&node).is_some_and(|heard| heard.alive)
    }

    /// Whether this daemon knows how the site stands: it has a leader, and of every node a word, or that it was heard and is
    /// silent now. One that was never heard may be about to speak.
    #[must_use]
    pub fn settled(&self) -> bool {
        let silent = |node| self.heard.get(node).is_some_and(|heard| heard.dead && heard.age_ms.is_some());
        self.quorate && self.state.nodes.keys().all(|node| self.reports.contains_key(node) || silent(node))
    }

    /// Whether this daemon is the one that decides.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.quorate && self.leader == Some(self.me)
    }

    /// A node by its name.
    #[must_use]
    pub fn node_named(&self, name: &str) -> Option<&Node> {
        self.state.nodes.values().find(|node| node.name == name)
    }

    /// A node's name; its number if neither the ledger nor, for this one, its own file knows it.
    #[must_use]
    pub fn name_of(&self, node: NodeId) -> String {
        match self.state.nodes.get(&node) {
            Some(known) => known.name.clone(),
            None if node == self.me && !self.own.node.is_empty() => self.own.node.clone(),
            None => node.to_string(),
        }
    }

    /// The site's name.
    #[must_use]
    pub fn site_name(&self) -> String {
        self.state.site.as_ref().map_or_else(|| self.own.site.clone(), |site| site.name.clone())
    }

    /// The ledger's entry for a volume.
    #[must_use]
    pub fn entry(&self, volume: &Volume) -> Option<&GroupEntry> {
        self.state.groups.get(&volume.group).map(|group| &group.entry)
    }

    /// The node that holds a replica.
    #[must_use]
    pub fn node_of(&self, volume: &Volume, replica: ReplicaId) -> Option<NodeId> {
        volume.replicas.iter().find(|(_, held)| held.replica == Some(replica)).map(|(node, _)| *node)
    }

    /// The node of the recorded primary.
    #[must_use]
    pub fn primary_node(&self, volume: &Volume) -> Option<NodeId> {
        self.node_of(volume, self.entry(volume)?.primary?.replica)
    }

    /// The live replica of a volume on a node, as its node reports it.
    #[must_use]
    pub fn live_member(&self, volume: &Volume, node: NodeId) -> Option<Member> {
        let replica = volume.replicas.get(&node)?.replica?;
        let report = self.replica_report(volume, node)?;
        (report.replica == replica).then_some(Member { replica, session: report.session })
    }

    /// What a node says of its replica of a volume.
    #[must_use]
    pub fn replica_report(&self, volume: &Volume, node: NodeId) -> Option<&ReplicaReport> {
        self.heard.get(&node)?.replicas.iter().find(|report| report.group == volume.group)
    }

    /// The member that may be promoted now; among equals the one on `wanted`.
    ///
    /// # Errors
    /// Why nobody can be, naming what must come back.
    pub fn choose(&self, volume: &Volume, wanted: Option<NodeId>) -> Result<Member, WhyNot> {
        let Some(group) = self.state.groups.get(&volume.group) else {
            return Err(WhyNot::NoMember { bring_back: Vec::new() });
        };
        let known = volume.replicas.keys().filter_map(|&node| {
            let report = self.replica_report(volume, node)?.clone();
            let highest = self.highest.get(&report.replica).copied().unwrap_or(0);
            let score = i64::from(wanted == Some(node));
            Some(Candidate { report, reachable: self.alive(node), score, highest })
        });
        choose_candidate(group, &known.collect::<Vec<_>>())
    }

    /// What a node says of a resource.
    #[must_use]
    pub fn resource(&self, node: NodeId, id: &str) -> Option<&ResourceReport> {
        self.reports.get(&node)?.resources.iter().find(|resource| resource.id == id)
    }
}

impl ResourceReport {
    /// Whether it runs, as far as the newest result tells; None if nothing was ever asked.
    #[must_use]
    pub fn running(&self) -> Option<bool> {
        let newest = self.records.iter().max_by_key(|record| record.call)?;
        Some(match newest.operation.as_str() {
            // A stop that failed leaves it running, as far as anybody knows; so does a start that failed half way.
            "stop" => !newest.result.is_ok(),
            // Without its agent nothing can have been started there.
            "monitor" if newest.interval.0 == 0 && newest.result.rc == anshin_agent::Rc::NOT_INSTALLED => {
                false
            }
            _ => newest.result.rc != anshin_agent::Rc::NOT_RUNNING,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::fixture;

    #[test]
    fn a_daemon_that_has_just_started_does_not_know_how_the_site_stands() {
        let settled = fixture::site();
        assert!(settled.settled());
        let without_leader = World { quorate: false, ..settled.clone() };
        assert!(!without_leader.settled());
        let mut unheard = settled;
        unheard.reports.remove(&NodeId(2));
        unheard.heard.insert(NodeId(2), Heard { dead: true, ..Heard::default() });
        assert!(!unheard.settled(), "it was never heard");
        unheard.heard.insert(NodeId(2), Heard { dead: true, age_ms: Some(4_000), ..Heard::default() });
        assert!(unheard.settled());
    }
}
