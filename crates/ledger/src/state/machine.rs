//! [`State`] and how a command changes it.

use super::{
    Applied, Command, Decision, Director, FenceRecord, JoinToken, NewNode, Node, NodeState, Refused, Service,
    Site, Timing, UnixSeconds, Volume,
};
use anshin_base::{
    GroupChange, GroupEntry, GroupId, LedgerIndex, NodeId, ReplicaId, VoterId, local::ReplicaPlace,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// Decisions kept; older ones are dropped.
pub const DECISIONS_MAX: usize = 1_000;
/// Join tokens kept at once; used and expired ones make room.
const TOKENS_MAX: usize = 100;
/// Nodes of one site.
const NODES_MAX: usize = 100;
/// Volumes, and services, of one site.
const THINGS_MAX: usize = 1_000;

/// A replication group's entry and when it last changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupState {
    /// Position in the log of the last change of the entry.
    pub index: LedgerIndex,
    /// The entry.
    pub entry: GroupEntry,
}

/// Everything the cluster has decided.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The site; None before `init`.
    pub site: Option<Site>,
    /// Its nodes.
    pub nodes: BTreeMap<NodeId, Node>,
    /// The last node id given.
    pub node_last: NodeId,
    /// The last voter id given.
    pub voter_last: VoterId,
    /// Rights to join, by hash.
    pub tokens: BTreeMap<String, JoinToken>,
    /// Volumes by name.
    pub volumes: BTreeMap<String, Volume>,
    /// Entries of the replication groups.
    pub groups: BTreeMap<GroupId, GroupState>,
    /// Services by name.
    pub services: BTreeMap<String, Service>,
    /// Nodes declared dead and not yet back.
    pub fenced: BTreeMap<NodeId, FenceRecord>,
    /// The newest decisions, oldest first.
    pub decisions: VecDeque<Decision>,
    /// What the director must not forget.
    pub director: Director,
}

impl State {
    /// Carries out `command`, which stands at `index` of the log. Deterministic: the same log gives the same state.
    ///
    /// # Errors
    /// [`Refused`]; the state is unchanged then.
    pub fn apply(&mut self, index: LedgerIndex, command: &Command) -> Result<Applied, Refused> {
        match command {
            Command::Group(change) => self.apply_group(index, change),
            Command::InitSite(_)
            | Command::SetTiming(_)
            | Command::FirstNode(_)
            | Command::AddToken(_)
            | Command::RemoveToken { .. }
            | Command::Join { .. } => self.apply_site(command),
            Command::SetNodeState { .. }
            | Command::SetNodeAttribute { .. }
            | Command::SetNodeAddresses { .. }
            | Command::NewVoter { .. }
            | Command::RemoveNode { .. }
            | Command::Fenced(_)
            | Command::Unfenced { .. } => self.apply_node(command),
            Command::CreateVolume(_)
            | Command::SetReplica { .. }
            | Command::ReplicaMade { .. }
            | Command::RemoveReplica { .. }
            | Command::RemoveVolume { .. } => self.apply_volume(command),
            Command::SetService(_)
            | Command::SetServiceTarget { .. }
            | Command::SetServicePreferred { .. }
            | Command::RemoveService { .. } => self.apply_service(command),
            Command::Decide(decision) => {
                if self.decisions.len() >= DECISIONS_MAX {
                    self.decisions.pop_front();
                }
                self.decisions.push_back(decision.clone());
                Ok(Applied::Done)
            }
            Command::Director(change) => Ok(Applied::Director(self.director.apply(change)?)),
        }
    }

    /// Every change of an entry is a compare-and-set on its exact generation (R3); [`GroupEntry::apply`] is the
    /// whole decision.
    fn apply_group(&mut self, index: LedgerIndex, change: &GroupChange) -> Result<Applied, Refused> {
        let group = change.group();
        if !self.volumes.values().any(|volume| volume.group == group) {
            return Err(Refused::Missing(format!("volume of group {group}")));
        }
        let entry = GroupEntry::apply(self.groups.get(&group).map(|known| &known.entry), change)?;
        self.groups.insert(group, GroupState { index, entry: entry.clone() });
        Ok(Applied::Group(entry))
    }

    fn apply_site(&mut self, command: &Command) -> Result<Applied, Refused> {
        match command {
            Command::InitSite(site) => {
                if self.site.is_some() {
                    return Err(Refused::Exists("the site".into()));
                }
                self.site = Some(site.clone());
            }
            Command::SetTiming(timing) => {
                let volume = self.volumes.keys().next().cloned();
                let site = self.site.as_mut().ok_or_else(|| Refused::Missing("site".into()))?;
                let promise = |timing: &Timing| (timing.lease, timing.drift_permille);
                // One copy trusts the lease for as long as another waits: both must have the same one at every moment
                // (R11). Decided here, so that no volume can be made at the same time.
                if let Some(volume) = volume.filter(|_| promise(timing) != promise(&site.timing)) {
                    return Err(Refused::InUse { what: "the lease".into(), by: format!("volume {volume}") });
                }
                site.timing = timing.clone();
            }
            Command::FirstNode(node) => {
                if !self.nodes.is_empty() {
                    return Err(Refused::Exists("a first node".into()));
                }
                return self.add_node(node);
            }
            Command::AddToken(token) => self.add_token(token)?,
            Command::RemoveToken { hash } => {
                self.tokens.remove(hash).ok_or_else(|| Refused::Missing("token".into()))?;
            }
            Command::Join { token, at, node } => return self.join(token, *at, node),
            _ => {}
        }
        Ok(Applied::Done)
    }

    fn add_token(&mut self, token: &JoinToken) -> Result<(), Refused> {
        if self.tokens.contains_key(&token.hash) {
            return Err(Refused::Exists("the token".into()));
        }
        if self.tokens.len() >= TOKENS_MAX {
            // The used one that would expire first goes; an unused one is somebody's right and stays.
            let oldest = self.tokens.values().filter(|known| known.used_by.is_some());
            let oldest = oldest.min_by_key(|known| known.expires).map(|known| known.hash.clone());
            self.tokens.remove(&oldest.ok_or_else(|| Refused::Full("join tokens".into()))?);
        }
        self.tokens.insert(token.hash.clone(), token.clone());
        Ok(())
    }

    fn join(&mut self, hash: &str, at: UnixSeconds, node: &NewNode) -> Result<Applied, Refused> {
        let token = self.tokens.get(hash).ok_or_else(|| Refused::Missing("such token".into()))?;
        if token.used_by.is_some() {
            return Err(Refused::TokenUsed);
        }
        if at > token.expires {
            return Err(Refused::TokenExpired);
        }
        if !node.roles.within(token.roles) {
            return Err(Refused::TokenRoles);
        }
        let added = self.add_node(node)?;
        if let (Applied::Node { node, .. }, Some(token)) = (&added, self.tokens.get_mut(hash)) {
            token.used_by = Some(*node);
        }
        Ok(added)
    }

    fn add_node(&mut self, new: &NewNode) -> Result<Applied, Refused> {
        if self.nodes.values().any(|node| node.name == new.name) {
            return Err(Refused::Exists(format!("node {}", new.name)));
        }
        if self.nodes.len() >= NODES_MAX {
            return Err(Refused::Full("nodes".into()));
        }
        self.node_last.0 += 1;
        self.voter_last.0 += 1;
        let (node, voter) = (self.node_last, self.voter_last);
        self.nodes.insert(
            node,
            Node {
                id: node,
                name: new.name.clone(),
                addresses: new.addresses.clone(),
                ports: new.ports,
                roles: new.roles,
                voter,
                fingerprint: new.fingerprint.clone(),
                state: NodeState::Active,
                attributes: BTreeMap::new(),
            },
        );
        Ok(Applied::Node { node, voter })
    }

    fn node_mut(&mut self, node: NodeId) -> Result<&mut Node, Refused> {
        self.nodes.get_mut(&node).ok_or_else(|| Refused::Missing(format!("node {node}")))
    }

    fn apply_node(&mut self, command: &Command) -> Result<Applied, Refused> {
        match command {
            Command::SetNodeState { node, state } => self.node_mut(*node)?.state = *state,
            Command::SetNodeAttribute { node, name, value } => {
                let attributes = &mut self.node_mut(*node)?.attributes;
                match value {
                    Some(value) => attributes.insert(name.clone(), value.clone()),
                    None => attributes.remove(name),
                };
            }
            Command::SetNodeAddresses { node, addresses, ports } => {
                let node = self.node_mut(*node)?;
                node.addresses.clone_from(addresses);
                node.ports = *ports;
            }
            Command::NewVoter { node, old } => {
                let next = VoterId(self.voter_last.0 + 1);
                let node = self.node_mut(*node)?;
                if node.voter != *old {
                    return Err(Refused::VoterReplaced);
                }
                node.voter = next;
                self.voter_last = next;
                return Ok(Applied::Voter(next));
            }
            Command::RemoveNode { node } => {
                if let Some(vault) = self.director.records().vaults.values().find(|vault| vault.node == *node)
                {
                    let by = format!("vault {}", vault.name);
                    return Err(Refused::InUse { what: format!("node {node}"), by });
                }
                let holds = self.volumes.values().find(|volume| volume.replicas.contains_key(node));
                if let Some(volume) = holds {
                    let by = format!("volume {}", volume.name);
                    return Err(Refused::InUse { what: format!("node {node}"), by });
                }
                self.nodes.remove(node).ok_or_else(|| Refused::Missing(format!("node {node}")))?;
                self.fenced.remove(node);
            }
            Command::Fenced(record) => {
                self.node_mut(record.node)?;
                self.fenced.insert(record.node, record.clone());
            }
            Command::Unfenced { node } => {
                self.fenced.remove(node);
            }
            _ => {}
        }
        Ok(Applied::Done)
    }

    fn volume_mut(&mut self, name: &str) -> Result<&mut Volume, Refused> {
        self.volumes.get_mut(name).ok_or_else(|| Refused::Missing(format!("volume {name}")))
    }

    fn apply_volume(&mut self, command: &Command) -> Result<Applied, Refused> {
        match command {
            Command::CreateVolume(volume) => {
                let taken = self.volumes.values().any(|known| known.group == volume.group);
                if self.volumes.contains_key(&volume.name) || taken {
                    return Err(Refused::Exists(format!("volume {}", volume.name)));
                }
                if self.volumes.len() >= THINGS_MAX {
                    return Err(Refused::Full("volumes".into()));
                }
                self.volumes.insert(volume.name.clone(), volume.clone());
            }
            Command::SetReplica { volume, node, replica } => {
                self.node_mut(*node)?;
                self.volume_mut(volume)?.replicas.insert(*node, replica.clone());
            }
            Command::ReplicaMade { volume, node, replica } => {
                let place = self.volume_mut(volume)?.replicas.get_mut(node);
                let place = place.ok_or_else(|| Refused::Missing(format!("replica on {node}")))?;
                place.replica = Some(*replica);
            }
            Command::RemoveReplica { volume, node } => {
                let known = self.volume_mut(volume)?;
                let (group, place) = (known.group, known.replicas.get(node));
                let place = place.ok_or_else(|| Refused::Missing(format!("replica on {node}")))?;
                let replica = place.replica;
                if replica.is_some_and(|replica| self.is_member(group, replica)) {
                    let what = format!("replica on {node}");
                    return Err(Refused::InUse { what, by: format!("the in-sync set of {volume}") });
                }
                self.volume_mut(volume)?.replicas.remove(node);
            }
            Command::RemoveVolume { volume } => {
                let used = self.services.values().find(|service| service.volume.as_ref() == Some(volume));
                if let Some(service) = used {
                    let by = format!("service {}", service.name);
                    return Err(Refused::InUse { what: format!("volume {volume}"), by });
                }
                let group = self.volume_mut(volume)?.group;
                self.volumes.remove(volume);
                self.groups.remove(&group);
            }
            _ => {}
        }
        Ok(Applied::Done)
    }

    fn apply_service(&mut self, command: &Command) -> Result<Applied, Refused> {
        let missing = |name: &str| Refused::Missing(format!("service {name}"));
        match command {
            Command::SetService(service) => {
                if let Some(volume) = &service.volume
                    && !self.volumes.contains_key(volume)
                {
                    return Err(Refused::Missing(format!("volume {volume}")));
                }
                if self.services.len() >= THINGS_MAX && !self.services.contains_key(&service.name) {
                    return Err(Refused::Full("services".into()));
                }
                self.services.insert(service.name.clone(), service.clone());
            }
            Command::SetServiceTarget { service, target } => {
                self.services.get_mut(service).ok_or_else(|| missing(service))?.target = *target;
            }
            Command::SetServicePreferred { service, preferred } => {
                self.services.get_mut(service).ok_or_else(|| missing(service))?.preferred = *preferred;
            }
            Command::RemoveService { service } => {
                self.services.remove(service).ok_or_else(|| missing(service))?;
            }
            _ => {}
        }
        Ok(Applied::Done)
    }

    fn is_member(&self, group: GroupId, replica: ReplicaId) -> bool {
        self.groups.get(&group).is_some_and(|known| known.entry.in_sync.contains_key(&replica))
    }

    /// The volume of a replication group.
    #[must_use]
    pub fn volume_of(&self, group: GroupId) -> Option<&Volume> {
        self.volumes.values().find(|volume| volume.group == group)
    }

    /// Where the group's replicas live, for those that were made.
    #[must_use]
    pub fn places(&self, group: GroupId) -> Vec<ReplicaPlace> {
        let replicas = self.volume_of(group).into_iter().flat_map(|volume| &volume.replicas);
        replicas
            .filter_map(|(node, place)| {
                let known = self.nodes.get(node)?;
                let addresses =
                    known.addresses.iter().map(|address| with_port(address, place.port)).collect();
                Some(ReplicaPlace { replica: place.replica?, node: *node, addresses })
            })
            .collect()
    }

    /// The node that a voter stands for.
    #[must_use]
    pub fn node_of_voter(&self, voter: VoterId) -> Option<&Node> {
        self.nodes.values().find(|node| node.voter == voter)
    }

    /// The node a replica lives on.
    #[must_use]
    pub fn node_of_replica(&self, replica: ReplicaId) -> Option<NodeId> {
        let mut replicas = self.volumes.values().flat_map(|volume| &volume.replicas);
        replicas.find(|(_, place)| place.replica == Some(replica)).map(|(node, _)| *node)
    }

    /// How many groups have their primary on each node: leadership follows the most primaries (R13).
    #[must_use]
    pub fn primaries(&self) -> BTreeMap<NodeId, usize> {
        let mut count = BTreeMap::new();
        for group in self.groups.values() {
            let node = group.entry.primary.and_then(|primary| self.node_of_replica(primary.replica));
            if let Some(node) = node {
                *count.entry(node).or_insert(0) += 1;
            }
        }
        count
    }
}

/// `address:port`, with brackets around an IPv6 address.
fn with_port(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}
