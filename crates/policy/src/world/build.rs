//! Expands the model: nodes with states, resources with instances.

use super::meta::{CloneOptions, Meta};
use super::resource::{Kind, Rsc};
use super::{NodeState, RscIx, World};
use crate::cib::natural;
use crate::{Agent, Body, NodeKind, Resource, Role, Score};
use std::collections::{BTreeMap, BTreeSet};

impl<'c> World<'c> {
    pub(super) fn build_nodes(&mut self) {
        // By name, so that ties are broken the same way whatever the order of the reports was.
        let mut order: Vec<usize> = (0..self.cluster.nodes.len()).collect();
        order.sort_by_cached_key(|i| natural(&self.cluster.nodes[*i].name));
        for model in order {
            let node = &self.cluster.nodes[model];
            let mut unclean = node.unclean.clone();
            if !node.seen
                && self.options.fencing
                && self.options.startup_fencing
                && node.kind == NodeKind::Member
            {
                unclean = Some("node is unclean".into());
            }
            self.nodes.push(NodeState {
                name: node.name.clone(),
                kind: node.kind,
                online: node.online,
                unclean,
                pending: node.pending,
                shutting_down: node.shutting_down,
                standby: node.standby,
                standby_by_failure: false,
                maintenance: node.maintenance,
                model,
                running: Vec::new(),
                placed: 0,
                capacity: node.utilization.clone(),
                health: health(&node.attributes),
            });
        }
    }

    pub(super) fn build_resources(&mut self) {
        for resource in &self.cluster.resources {
            let at = self.add(resource, None, None, &[]);
            self.top.push(at);
        }
    }

    /// Adds `resource` and all that is in it. `above` are its containers, innermost first.
    fn add(
        &mut self,
        resource: &'c Resource,
        parent: Option<RscIx>,
        instance: Option<usize>,
        above: &[&'c Resource],
    ) -> RscIx {
        let kind = match &resource.body {
            Body::Primitive { .. } => Kind::Primitive,
            Body::Group(_) => Kind::Group,
            Body::Clone(_) => Kind::Clone,
        };
        let (agent, operations) = match &resource.body {
            Body::Primitive { agent, operations } => (agent.clone(), operations.as_slice()),
            _ => (Agent::default(), &[][..]),
        };
        let mut chain: Vec<&'c Resource> = vec![resource];
        chain.extend_from_slice(above);
        let defaults = &self.cluster.resource_defaults;
        let lookup = |name: &str| {
            chain.iter().find_map(|r| r.meta.get(name)).or_else(|| defaults.get(name)).map(String::as_str)
        };
        let meta = Meta::read(lookup, &agent, &self.options);
        let voters = self.nodes.len();
        let clone = (kind == Kind::Clone)
            .then(|| CloneOptions::read(|n| resource.meta.get(n).map(String::as_str), voters));
        let id = match instance {
            Some(number) => format!("{}:{number}", resource.id),
            None => resource.id.clone(),
        };
        let at = self.push(id, resource.id.clone(), kind, Some(resource), agent, meta, parent);
        self[at].operations = operations;
        let members: Vec<(&'c Resource, Option<usize>)> = match &resource.body {
            Body::Primitive { .. } => Vec::new(),
            Body::Group(members) => members.iter().map(|m| (m, instance)).collect(),
            Body::Clone(inner) => {
                let count = clone.as_ref().map_or(1, |c| c.max).max(1);
                (0..count).map(|number| (inner.as_ref(), Some(number))).collect()
            }
        };
        let none_wanted = clone.as_ref().is_some_and(|c| c.max == 0);
        self[at].clone = clone;
        for (member, number) in members {
            let child = self.add(member, Some(at), number, &chain);
            self[at].children.push(child);
            if none_wanted {
                self.mark_orphan(child);
            }
        }
        at
    }

    /// One more instance of the clone `at` than configured.
    pub(super) fn add_surplus_instance(&mut self, at: RscIx) -> Option<RscIx> {
        let config = self[at].config?;
        let Body::Clone(inner) = &config.body else { return None };
        let number = self[at].children.len();
        let child = self.add(inner.as_ref(), Some(at), Some(number), &[config]);
        self[at].children.push(child);
        self.mark_orphan(child);
        Some(child)
    }

    fn mark_orphan(&mut self, at: RscIx) {
        self[at].orphan = true;
        for child in self[at].children.clone() {
            self.mark_orphan(child);
        }
    }

    /// A resource that is in the history but not in the configuration.
    pub(super) fn add_orphan(&mut self, id: &str, agent: &Agent) -> RscIx {
        let meta = Meta::read(|_| None, agent, &self.options);
        let at = self.push(id.to_owned(), id.to_owned(), Kind::Primitive, None, agent.clone(), meta, None);
        self[at].orphan = true;
        if !self.options.stop_orphans {
            self[at].managed = false;
        }
        self.top.push(at);
        at
    }

    #[allow(clippy::too_many_arguments, reason = "a plain constructor")]
    fn push(
        &mut self,
        id: String,
        base: String,
        kind: Kind,
        config: Option<&'c Resource>,
        agent: Agent,
        meta: Meta,
        parent: Option<RscIx>,
    ) -> RscIx {
        let scores = self.fresh_scores();
        self.resources.push(Rsc {
            id,
            history_name: None,
            base,
            kind,
            config,
            agent,
            operations: &[],
            parent,
            children: Vec::new(),
            managed: meta.managed,
            priority: meta.priority,
            clone: None,
            orphan: false,
            role: Role::Stopped,
            running_on: Vec::new(),
            known_on: BTreeSet::new(),
            blocked: false,
            failed: false,
            failure_ignored: false,
            must_stop: false,
            pending_task: None,
            start_pending: false,
            on_fail: BTreeMap::new(),
            partial_migration: None,
            lock_node: None,
            demote_first: false,
            scores,
            assigned: None,
            placed: false,
            placing: false,
            next_role: Role::Unknown,
            next_role_reason: None,
            promotion_score: None,
            reasons: Vec::new(),
            exclusive_discovery: false,
            undiscovered: BTreeSet::new(),
            meta,
        });
        RscIx(self.resources.len() - 1)
    }
}

/// −1 if any health attribute is red, 0 if any is yellow, else 1.
fn health(attributes: &BTreeMap<String, String>) -> i8 {
    attributes
        .iter()
        .filter(|(name, _)| name.starts_with("#health"))
        .map(|(_, value)| match value.as_str() {
            "red" => -1,
            "yellow" => 0,
            "green" => 1,
            number => match Score::parse(number) {
                Some(s) if s < Score::ZERO => -1,
                Some(s) if s == Score::ZERO => 0,
                _ => 1,
            },
        })
        .min()
        .unwrap_or(1)
}
