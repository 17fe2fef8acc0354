//! Nodes: configured attributes and observed state.

use super::Reader;
use super::rule::Facts;
use crate::words;
use crate::{Cluster, FailCount, Node, NodeKind, Score, UnixSeconds};
use roxmltree::Node as Xml;
use std::collections::BTreeMap;

impl<'d> Reader<'d> {
    pub(super) fn read_nodes(&self, cluster: &mut Cluster) {
        let facts = Facts { now: self.now, ..Facts::default() };
        for element in
            self.section("nodes").iter().flat_map(|s| s.children()).filter(|c| c.has_tag_name("node"))
        {
            let (Some(id), Some(name)) = (element.attribute("id"), element.attribute("uname")) else {
                continue;
            };
            if cluster.nodes.iter().any(|n| n.id == id || n.name == name) {
                continue;
            }
            let mut node = Node { name: name.into(), id: id.into(), ..Node::default() };
            if element.attribute("type") == Some("remote") {
                node.kind = NodeKind::Remote;
            }
            node.attributes = self.merged(Some(element), "instance_attributes", &facts, None);
            for (name, value) in self.merged(Some(element), "utilization", &facts, None) {
                node.utilization.insert(name, value.parse().unwrap_or(0));
            }
            cluster.nodes.push(node);
        }
        let fencing =
            cluster.properties.get("stonith-enabled").and_then(|v| words::boolean(v)).unwrap_or(true);
        let states: Vec<_> = self
            .status()
            .iter()
            .flat_map(|s| s.children())
            .filter(|c| c.has_tag_name("node_state"))
            .collect();
        for node in &mut cluster.nodes {
            let state = states.iter().find(|s| s.attribute("id") == Some(&node.id));
            if let Some(state) = state {
                self.read_state(node, *state, &facts, fencing, &cluster.properties);
            }
        }
        // Instance numbers are given in the order of the reports.
        let position =
            |id: &str| states.iter().position(|s| s.attribute("id") == Some(id)).unwrap_or(usize::MAX);
        cluster.nodes.sort_by_cached_key(|n| position(&n.id));
    }

    fn read_state(
        &self,
        node: &mut Node,
        state: Xml<'d, 'd>,
        facts: &Facts<'_>,
        fencing: bool,
        properties: &BTreeMap<String, String>,
    ) {
        node.seen = true;
        if let Some(transient) = state.children().find(|c| c.has_tag_name("transient_attributes")) {
            let attributes = self.merged(Some(transient), "instance_attributes", facts, None);
            node.fail_counts = fail_counts(&attributes);
            node.attributes.extend(attributes);
            for (name, value) in self.merged(Some(transient), "utilization", facts, None) {
                node.utilization.insert(name, value.parse().unwrap_or(0));
            }
        }
        let flag = |name: &str| node.attributes.get(name).and_then(|v| words::boolean(v)).unwrap_or(false);
        (node.standby, node.maintenance) = (flag("standby"), flag("maintenance"));
        let leaving = node.attributes.get("shutdown").is_some_and(|v| v != "0" && !v.is_empty());
        let terminate = node
            .attributes
            .get("terminate")
            .is_some_and(|v| words::boolean(v).unwrap_or_else(|| v.parse::<i64>().is_ok_and(|t| t > 0)));
        let pending_limit =
            properties.get("node-pending-timeout").and_then(|v| words::milliseconds(v)).unwrap_or(0) / 1_000;
        let seen = Seen::of(state, self.now, pending_limit as i64);
        seen.judge(node, fencing, leaving, terminate);
        node.shutting_down = leaving && node.online;
        self.read_history(node, state);
    }
}

/// What the membership layer reported of a node.
struct Seen {
    member: bool,
    process: bool,
    join: &'static str,
    expected: bool,
    pending_too_long: bool,
}

impl Seen {
    fn of(state: Xml<'_, '_>, now: UnixSeconds, pending_limit: i64) -> Self {
        let since = |name: &str| match state.attribute(name) {
            None => (false, 0),
            Some(v) => match v.parse::<i64>() {
                Ok(t) => (t > 0, t),
                Err(_) => (v == "online" || words::boolean(v).unwrap_or(false), 0),
            },
        };
        let ((member, member_since), (process, _)) = (since("in_ccm"), since("crmd"));
        let join = match state.attribute("join") {
            Some("member") => "member",
            Some("pending") => "pending",
            Some("banned") => "banned",
            _ => "down",
        };
        let pending_too_long = pending_limit > 0
            && member_since > 1
            && !process
            && now.0 >= member_since.saturating_add(pending_limit);
        let expected = state.attribute("expected").unwrap_or("down") == "member";
        Self { member, process, join, expected, pending_too_long }
    }

    /// Decides whether the node is online, joining, cleanly away or lost.
    fn judge(&self, node: &mut Node, fencing: bool, leaving: bool, terminate: bool) {
        node.expected_up = self.expected;
        let ready = self.join == "member";
        if !fencing {
            node.online = self.member && self.process && ready;
            let lost = self.member && !self.process;
            if lost && !node.online && self.expected && !leaving {
                node.unclean = Some("peer is unexpectedly down".into());
            }
            node.pending = self.member && self.process && self.join == "pending";
            if node.pending {
                node.online = true;
            }
            return;
        }
        if leaving {
            node.online = self.process && self.member;
            return;
        }
        if self.pending_too_long {
            node.unclean = Some("peer pending timed out on joining the process group".into());
            node.online = true;
            return;
        }
        if !self.member {
            if self.process || self.expected {
                node.unclean = Some("peer is no longer part of the cluster".into());
            }
            return;
        }
        node.online = true;
        if terminate {
            node.unclean = Some("fencing was requested".into());
            node.online = self.process;
        } else if !self.process && self.expected {
            node.unclean = Some("peer process is no longer available".into());
        } else if !self.process || self.join == "pending" || (self.join == "down" && !self.expected) {
            node.pending = true;
        } else if !ready {
            node.unclean = Some("peer failed Pacemaker membership criteria".into());
        }
    }
}

/// `fail-count-RESOURCE[#OPERATION_INTERVAL]` with its `last-failure-…`.
fn fail_counts(attributes: &BTreeMap<String, String>) -> Vec<FailCount> {
    let mut counts = Vec::new();
    for (name, value) in attributes {
        let Some(rest) = name.strip_prefix("fail-count-") else { continue };
        let (resource, operation) = rest.split_once('#').unwrap_or((rest, ""));
        let last =
            attributes.get(&format!("last-failure-{rest}")).and_then(|v| v.parse().ok()).map(UnixSeconds);
        counts.push(FailCount {
            resource: resource.into(),
            operation: operation.into(),
            count: Score::parse(value).unwrap_or(Score::ZERO),
            last,
        });
    }
    counts
}

/// Splits a name so that numbers in it compare as numbers: `node2` before `node10`.
pub(crate) fn natural(name: &str) -> Vec<(u64, String)> {
    let mut parts: Vec<(u64, String)> = Vec::new();
    let mut digits = String::new();
    let lower = name.to_ascii_lowercase();
    let flush = |digits: &mut String, parts: &mut Vec<(u64, String)>| {
        if !digits.is_empty() {
            parts.push((digits.parse().unwrap_or(u64::MAX), String::new()));
            digits.clear();
        }
    };
    for c in lower.chars() {
        if c.is_ascii_digit() {
            digits.push(c);
        } else {
            flush(&mut digits, &mut parts);
            // Letters sort after all numbers.
            parts.push((u64::MAX, c.to_string()));
        }
    }
    flush(&mut digits, &mut parts);
    parts
}
