//! Resources: primitives, groups and clones, with templates and defaults.

use super::Reader;
use super::rule::Facts;
use crate::words;
use crate::{Agent, Body, Cluster, OnFail, Operation, Resource, Role};
use roxmltree::Node as Xml;
use std::collections::BTreeMap;

impl<'d> Reader<'d> {
    pub(super) fn read_resources(&self, cluster: &mut Cluster) {
        let facts = Facts { now: self.now, ..Facts::default() };
        cluster.resource_defaults =
            self.merged(self.section("rsc_defaults"), "meta_attributes", &facts, None);
        cluster.operation_defaults =
            self.merged(self.section("op_defaults"), "meta_attributes", &facts, None);
        let nodes = node_facts(cluster);
        for element in self.section("resources").iter().flat_map(|s| s.children()).filter(Xml::is_element) {
            if let Some(resource) = self.resource(element, &nodes) {
                cluster.resources.push(resource);
            }
        }
    }

    fn resource(&self, element: Xml<'d, 'd>, nodes: &NodeFacts) -> Option<Resource> {
        let id = element.attribute("id")?;
        let facts = Facts { now: self.now, ..Facts::default() };
        let mut resource = match element.tag_name().name() {
            "primitive" => return self.primitive(id, element, nodes),
            "group" => {
                let members: Vec<Resource> = element
                    .children()
                    .filter(|c| c.has_tag_name("primitive"))
                    .filter_map(|c| self.resource(c, nodes))
                    .collect();
                if members.is_empty() {
                    return None;
                }
                Resource::group(id, members)
            }
            "clone" | "master" => {
                let inner =
                    element.children().find(|c| c.has_tag_name("primitive") || c.has_tag_name("group"))?;
                Resource::clone_of(id, self.resource(inner, nodes)?)
            }
            _ => return None,
        };
        resource.meta = self.merged(Some(element), "meta_attributes", &facts, None);
        resource.parameters = self.merged(Some(element), "instance_attributes", &facts, None);
        Some(resource)
    }

    fn primitive(&self, id: &str, element: Xml<'d, 'd>, nodes: &NodeFacts) -> Option<Resource> {
        let template = element
            .attribute("template")
            .and_then(|t| self.by_id.get(t).copied())
            .filter(|t| t.has_tag_name("template"));
        let name = |key| element.attribute(key).or_else(|| template?.attribute(key)).unwrap_or_default();
        let agent = Agent::new(name("class"), name("provider"), name("type"));
        let facts = Facts { now: self.now, agent: Some(&agent), ..Facts::default() };
        let both = |tag: &str, facts: &Facts<'_>| {
            let mut values = self.merged(Some(element), tag, facts, None);
            for (key, value) in self.merged(template, tag, facts, None) {
                values.entry(key).or_insert(value);
            }
            values
        };
        let mut resource = Resource::primitive(id, agent.clone());
        resource.meta = both("meta_attributes", &facts);
        // Only what a rule on this very agent adds; the rest comes with the cluster's defaults, which rank behind
        // what is inherited from a group or clone.
        let defaults =
            |facts: &Facts<'_>| self.merged(self.section("rsc_defaults"), "meta_attributes", facts, None);
        let common = defaults(&Facts { agent: None, ..facts });
        for (key, value) in defaults(&facts) {
            if common.get(&key) != Some(&value) {
                resource.meta.entry(key).or_insert(value);
            }
        }
        resource.parameters = both("instance_attributes", &facts);
        if std::iter::once(element).chain(template).any(|e| self.depends_on_node(e, "instance_attributes")) {
            for (node, attributes) in nodes {
                let facts = Facts { node: Some(attributes), ..facts };
                resource.node_parameters.insert(node.clone(), both("instance_attributes", &facts));
            }
        }
        for (key, value) in both("utilization", &facts) {
            resource.utilization.insert(key, value.parse().unwrap_or(0));
        }
        resource.body = Body::Primitive { operations: self.operations(element, template, &agent), agent };
        Some(resource)
    }

    /// Operations of the primitive, then those of its template that it does not define itself.
    fn operations(
        &self,
        element: Xml<'d, 'd>,
        template: Option<Xml<'d, 'd>>,
        agent: &Agent,
    ) -> Vec<Operation> {
        let mut found: Vec<Operation> = Vec::new();
        for source in std::iter::once(element).chain(template) {
            let own: Vec<Operation> = source
                .children()
                .filter(|c| c.has_tag_name("operations"))
                .map(|c| self.resolve(c))
                .flat_map(|c| c.children())
                .filter(|c| c.has_tag_name("op"))
                .filter_map(|c| self.operation(self.resolve(c), agent))
                .filter(|op| !found.iter().any(|f| f.name == op.name && f.interval_ms == op.interval_ms))
                .collect();
            for operation in own {
                // The first of two with the same name and interval counts.
                let twice =
                    |f: &Operation| f.name == operation.name && f.interval_ms == operation.interval_ms;
                if !found.iter().any(twice) {
                    found.push(operation);
                }
            }
        }
        found
    }

    fn operation(&self, op: Xml<'d, 'd>, agent: &Agent) -> Option<Operation> {
        let name = op.attribute("name")?.to_owned();
        let interval_ms = op.attribute("interval").and_then(words::milliseconds).unwrap_or(0);
        let facts = Facts {
            now: self.now,
            agent: Some(agent),
            operation: Some((&name, interval_ms)),
            ..Facts::default()
        };
        let mut meta: BTreeMap<String, String> = op
            .attributes()
            .filter(|a| !matches!(a.name(), "id" | "name" | "interval"))
            .map(|a| (a.name().to_owned(), a.value().to_owned()))
            .collect();
        for (key, value) in self.merged(Some(op), "meta_attributes", &facts, None) {
            meta.entry(key).or_insert(value);
        }
        for (key, value) in self.merged(self.section("op_defaults"), "meta_attributes", &facts, None) {
            meta.entry(key).or_insert(value);
        }
        let text = |key: &str| meta.get(key).map(String::as_str);
        Some(Operation {
            interval_ms,
            timeout_ms: text("timeout").and_then(words::milliseconds),
            on_fail: text("on-fail").and_then(OnFail::parse),
            role: text("role").and_then(Role::parse),
            enabled: text("enabled").and_then(words::boolean).unwrap_or(true),
            parameters: self.merged(Some(op), "instance_attributes", &facts, None),
            name: name.clone(),
            meta,
        })
    }
}

/// Attributes by node name, with the built-in ones rules may ask for.
pub(super) type NodeFacts = Vec<(String, BTreeMap<String, String>)>;

pub(super) fn node_facts(cluster: &Cluster) -> NodeFacts {
    let site = cluster.properties.get("cluster-name");
    cluster
        .nodes
        .iter()
        .map(|node| {
            let mut facts = node.attributes.clone();
            facts.insert("#uname".into(), node.name.clone());
            facts.insert("#id".into(), node.id.clone());
            let kind = if node.kind == crate::NodeKind::Remote { "remote" } else { "cluster" };
            facts.insert("#kind".into(), kind.into());
            let leads = cluster.coordinator.as_deref() == Some(node.name.as_str());
            facts.insert("#is_dc".into(), leads.to_string());
            if let Some(name) = site {
                facts.insert("#cluster-name".into(), name.clone());
                facts.entry("#site-name".into()).or_insert_with(|| name.clone());
            }
            if let Some(name) = node.attributes.get("site-name") {
                facts.insert("#site-name".into(), name.clone());
            }
            (node.name.clone(), facts)
        })
        .collect()
}
