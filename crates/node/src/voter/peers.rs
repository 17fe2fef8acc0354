//! Which voter lives where, and who should vote: conclusions from the ledger's list of nodes.

use super::bootstrap::Bootstrap;
use anshin_base::{NodeId, VoterId};
pub(super) use anshin_ledger::engine::next_change;
use anshin_ledger::{State, state::ServiceTarget};
use anshin_link::mesh::Membership;
use std::collections::BTreeMap;

/// How much a service's preferred node is wanted more than another, while the daemon has not said anything.
const PREFERRED: i64 = 100;
/// Voters learned from their messages that are kept.
const LEARNED_MAX: usize = 64;

/// The nodes and voters this one talks to.
#[derive(Clone, Debug, Default)]
pub(super) struct Peers {
    voters: BTreeMap<VoterId, NodeId>,
    /// Voters that wrote before the ledger here knew them.
    learned: BTreeMap<VoterId, NodeId>,
}

impl Peers {
    /// Takes over who there is, from the ledger or, while it is empty, from the bootstrap.
    pub(super) fn update(&mut self, bootstrap: &Bootstrap, state: &State) -> Membership {
        if state.nodes.is_empty() {
            self.voters = bootstrap.peers.iter().map(|peer| (peer.voter, peer.node)).collect();
            let nodes = bootstrap.peers.iter().map(|peer| (peer.node, peer.addresses.clone())).collect();
            return Membership { nodes, next_node: NodeId(0) };
        }
        self.voters = state.nodes.values().map(|node| (node.voter, node.id)).collect();
        self.learned.retain(|voter, _| !self.voters.contains_key(voter));
        let nodes = state.nodes.values();
        let nodes = nodes.map(|node| (node.id, addresses(&node.addresses, node.ports.voter))).collect();
        Membership { nodes, next_node: NodeId(state.node_last.0 + 1) }
    }

    /// The node of a voter.
    pub(super) fn node_of(&self, voter: VoterId) -> Option<NodeId> {
        self.voters.get(&voter).or_else(|| self.learned.get(&voter)).copied()
    }

    /// The voter of a node.
    pub(super) fn voter_of(&self, node: NodeId) -> Option<VoterId> {
        let mut all = self.voters.iter().chain(&self.learned);
        all.find(|(_, known)| **known == node).map(|(voter, _)| *voter)
    }

    /// Whether a message by `voter` may come from `node`; an unknown voter is remembered.
    pub(super) fn admits(&mut self, voter: VoterId, node: NodeId) -> bool {
        match self.node_of(voter) {
            Some(known) => known == node,
            None => {
                if self.learned.len() < LEARNED_MAX {
                    self.learned.insert(voter, node);
                }
                true
            }
        }
    }
}

/// Where groups are wanted as far as the ledger itself says so: below every service that should run.
pub(super) fn wanted_by_services(state: &State) -> super::protocol::Wanted {
    let started = state.services.values().filter(|service| service.target == ServiceTarget::Started);
    let wanted = started.filter_map(|service| {
        let volume = state.volumes.get(service.volume.as_ref()?)?;
        let score = |node: &NodeId| if service.preferred == Some(*node) { PREFERRED } else { 0 };
        Some((volume.group, volume.replicas.keys().map(|node| (*node, score(node))).collect()))
    });
    wanted.collect()
}

/// Where a node's voter is reached.
#[must_use]
pub fn addresses(addresses: &[String], port: u16) -> Vec<String> {
    addresses.iter().map(|address| with_port(address, port)).collect()
}

/// `address:port`, with brackets around an IPv6 address.
fn with_port(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anshin_base::LedgerIndex;
    use anshin_ledger::{
        Command,
        engine::{MemberChange, message::Members},
        state::NewNode,
    };

    fn state(nodes: &[&str]) -> State {
        let mut state = State::default();
        for name in nodes {
            let node = state.node_last.0 + 1;
            let new = NewNode {
                name: (*name).to_owned(),
                addresses: vec![format!("10.0.0.{node}"), "fd00::1".to_owned()],
                ports: anshin_ledger::state::Ports::default(),
                roles: anshin_ledger::state::Roles { data: true, ..Default::default() },
                fingerprint: String::new(),
            };
            // Every further node is added as the first of an empty list, as if by a token.
            let others = std::mem::take(&mut state.nodes);
            state.apply(LedgerIndex(1), &Command::FirstNode(new)).unwrap();
            state.nodes.extend(others);
        }
        state
    }

    fn members(voters: &[u64], learners: &[u64]) -> Members {
        let ids = |list: &[u64]| list.iter().copied().map(VoterId).collect();
        Members { voters: ids(voters), learners: ids(learners) }
    }

    #[test]
    fn a_new_node_learns_then_votes() {
        let state = state(&["a", "b"]);
        let next = |members, caught_up: &[VoterId]| next_change(&state, &members, caught_up, VoterId(1));
        assert_eq!(next(members(&[1], &[]), &[]), Some(MemberChange::AddLearner(VoterId(2))));
        assert_eq!(next(members(&[1], &[2]), &[]), None);
        assert_eq!(next(members(&[1], &[2]), &[VoterId(2)]), Some(MemberChange::Promote(VoterId(2))));
        assert_eq!(next(members(&[1, 2], &[]), &[]), None);
    }

    #[test]
    fn r8_a_voter_that_was_replaced_goes_before_its_successor_comes() {
        let mut state = state(&["a", "b", "c"]);
        state.apply(LedgerIndex(9), &Command::NewVoter { node: NodeId(3), old: VoterId(3) }).unwrap();
        let next = |members| next_change(&state, &members, &[], VoterId(1));
        assert_eq!(next(members(&[1, 2, 3], &[])), Some(MemberChange::Remove(VoterId(3))));
        assert_eq!(next(members(&[1, 2], &[])), Some(MemberChange::AddLearner(VoterId(4))));
    }

    #[test]
    fn addresses_come_from_the_ledger_once_it_has_any() {
        let bootstrap = Bootstrap {
            site: anshin_link::SiteId([0; 16]),
            node: NodeId(2),
            voter: VoterId(2),
            witness: false,
            peers: vec![super::super::Peer {
                node: NodeId(1),
                voter: VoterId(1),
                addresses: vec!["10.9.9.9:1".to_owned()],
            }],
            first: Vec::new(),
        };
        let mut peers = Peers::default();
        let before = peers.update(&bootstrap, &State::default());
        assert_eq!(before.nodes[&NodeId(1)], ["10.9.9.9:1"]);
        assert_eq!(peers.node_of(VoterId(1)), Some(NodeId(1)));
        let after = peers.update(&bootstrap, &state(&["a", "b"]));
        assert_eq!(after.nodes[&NodeId(1)], ["10.0.0.1:7801", "[fd00::1]:7801"]);
        assert_eq!(after.next_node, NodeId(3));
    }

    #[test]
    fn a_voter_speaks_from_its_own_node_only() {
        let mut peers = Peers::default();
        assert!(peers.admits(VoterId(5), NodeId(2)), "not known yet");
        assert!(peers.admits(VoterId(5), NodeId(2)));
        assert!(!peers.admits(VoterId(5), NodeId(3)));
        assert_eq!(
            (peers.node_of(VoterId(5)), peers.voter_of(NodeId(2))),
            (Some(NodeId(2)), Some(VoterId(5)))
        );
    }
}
