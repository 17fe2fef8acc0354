//! Version 1 of commands and snapshots: nodes had no vault role and no vault port, and the ledger carried no records of
//! the director. Everything else is as today, so only what differs is described here.

use super::{
    Command, Decision, Director, FenceRecord, GroupState, NewNode, NodeState, Service, Site, State,
    UnixSeconds, Volume,
    codec::{CodecError, Proposal, part, whole},
};
use anshin_base::{GroupId, NodeId, VoterId};
use serde::Deserialize;
use std::collections::{BTreeMap, VecDeque};

#[derive(Clone, Copy, Deserialize)]
struct Ports {
    join: u16,
    voter: u16,
}

impl From<Ports> for super::Ports {
    fn from(old: Ports) -> Self {
        Self { join: old.join, voter: old.voter, ..Self::default() }
    }
}

#[derive(Clone, Copy, Deserialize)]
struct Roles {
    data: bool,
    witness: bool,
}

impl From<Roles> for super::Roles {
    fn from(old: Roles) -> Self {
        Self { data: old.data, witness: old.witness, vault: false }
    }
}

#[derive(Deserialize)]
struct NewNodeV1 {
    name: String,
    addresses: Vec<String>,
    ports: Ports,
    roles: Roles,
    fingerprint: String,
}

impl From<NewNodeV1> for NewNode {
    fn from(old: NewNodeV1) -> Self {
        let NewNodeV1 { name, addresses, ports, roles, fingerprint } = old;
        Self { name, addresses, ports: ports.into(), roles: roles.into(), fingerprint }
    }
}

#[derive(Deserialize)]
struct Node {
    id: NodeId,
    name: String,
    addresses: Vec<String>,
    ports: Ports,
    roles: Roles,
    voter: VoterId,
    fingerprint: String,
    state: NodeState,
    attributes: BTreeMap<String, String>,
}

impl From<Node> for super::Node {
    fn from(old: Node) -> Self {
        let Node { id, name, addresses, ports, roles, voter, fingerprint, state, attributes } = old;
        let (ports, roles) = (ports.into(), roles.into());
        Self { id, name, addresses, ports, roles, voter, fingerprint, state, attributes }
    }
}

#[derive(Deserialize)]
struct JoinToken {
    hash: String,
    roles: Roles,
    expires: UnixSeconds,
    used_by: Option<NodeId>,
}

impl From<JoinToken> for super::JoinToken {
    fn from(old: JoinToken) -> Self {
        Self { hash: old.hash, roles: old.roles.into(), expires: old.expires, used_by: old.used_by }
    }
}

#[derive(Deserialize)]
struct StateV1 {
    site: Option<Site>,
    nodes: BTreeMap<NodeId, Node>,
    node_last: NodeId,
    voter_last: VoterId,
    tokens: BTreeMap<String, JoinToken>,
    volumes: BTreeMap<String, Volume>,
    groups: BTreeMap<GroupId, GroupState>,
    services: BTreeMap<String, Service>,
    fenced: BTreeMap<NodeId, FenceRecord>,
    decisions: VecDeque<Decision>,
}

/// A snapshot.
pub(super) fn state(body: &[u8]) -> Result<State, CodecError> {
    let old: StateV1 = whole(body)?;
    Ok(State {
        site: old.site,
        nodes: old.nodes.into_iter().map(|(id, node)| (id, node.into())).collect(),
        node_last: old.node_last,
        voter_last: old.voter_last,
        tokens: old.tokens.into_iter().map(|(hash, token)| (hash, token.into())).collect(),
        volumes: old.volumes,
        groups: old.groups,
        services: old.services,
        fenced: old.fenced,
        decisions: old.decisions,
        director: Director::default(),
    })
}

/// Numbers of the commands that have changed since.
const FIRST_NODE: u32 = 3;
const ADD_TOKEN: u32 = 4;
const JOIN: u32 = 6;
const SET_NODE_ADDRESSES: u32 = 9;

/// A proposal.
pub(super) fn proposal(body: &[u8]) -> Result<Proposal, CodecError> {
    let (incarnation, rest) = part(body)?;
    let (request, command) = part(rest)?;
    // A command begins with its number.
    let (number, fields) = part::<u32>(command)?;
    let command = match number {
        FIRST_NODE => Command::FirstNode(whole::<NewNodeV1>(fields)?.into()),
        ADD_TOKEN => Command::AddToken(whole::<JoinToken>(fields)?.into()),
        JOIN => {
            let (token, at, node): (String, UnixSeconds, NewNodeV1) = whole(fields)?;
            Command::Join { token, at, node: node.into() }
        }
        SET_NODE_ADDRESSES => {
            let (node, addresses, ports): (NodeId, Vec<String>, Ports) = whole(fields)?;
            Command::SetNodeAddresses { node, addresses, ports: ports.into() }
        }
        _ => whole(command)?,
    };
    Ok(Proposal { incarnation, request, command })
}
