//! Constraints: location, colocation, order and tickets, with sets, tags and templates.

use super::Reader;
use super::resources::{NodeFacts, node_facts};
use super::rule::{Facts, holds};
use crate::words;
use crate::{
    Body, Cluster, Colocation, Discovery, Location, LossPolicy, Order, OrderEnd, OrderKind, OrderSet,
    OrderSets, Resource, Role, Score, TicketConstraint,
};
use roxmltree::Node as Xml;
use std::collections::BTreeMap;

/// One `resource_set`.
struct Set<'d> {
    id: &'d str,
    members: Vec<String>,
    role: Option<Role>,
    action: Option<&'d str>,
    sequential: bool,
    require_all: bool,
    ordering: &'d str,
    score: Option<Score>,
    kind: Option<&'d str>,
}

impl<'d> Reader<'d> {
    pub(super) fn read_constraints(&self, cluster: &mut Cluster) {
        let nodes = node_facts(cluster);
        for element in self.section("constraints").iter().flat_map(|s| s.children()).filter(Xml::is_element) {
            match element.tag_name().name() {
                "rsc_location" => self.location(cluster, element, &nodes),
                "rsc_colocation" => self.colocation(cluster, element),
                "rsc_order" => self.order(cluster, element),
                "rsc_ticket" => self.ticket(cluster, element),
                _ => {}
            }
        }
    }

    /// The resources a name in a constraint stands for: itself, a tag's, or those made from a template.
    fn named(&self, name: &str) -> Vec<String> {
        match self.by_id.get(name) {
            Some(e) if e.has_tag_name("tag") => e
                .children()
                .filter(|c| c.has_tag_name("obj_ref"))
                .filter_map(|c| c.attribute("id"))
                .flat_map(|id| match self.template_users(id) {
                    users if users.is_empty() => vec![id.to_owned()],
                    users => users,
                })
                .collect(),
            Some(e) if e.has_tag_name("template") => self.template_users(name),
            _ => match self.tagged(name) {
                Some(tag) => tag,
                None => vec![name.to_owned()],
            },
        }
    }

    fn tagged(&self, name: &str) -> Option<Vec<String>> {
        let tag = self.section("tags")?.children().find(|t| t.attribute("id") == Some(name))?;
        Some(
            tag.children()
                .filter(|c| c.has_tag_name("obj_ref"))
                .filter_map(|c| c.attribute("id").map(str::to_owned))
                .collect(),
        )
    }

    fn template_users(&self, template: &str) -> Vec<String> {
        self.section("resources")
            .iter()
            .flat_map(|s| s.descendants())
            .filter(|e| e.has_tag_name("primitive") && e.attribute("template") == Some(template))
            .filter_map(|e| e.attribute("id").map(str::to_owned))
            .collect()
    }

    fn sets(&self, element: Xml<'d, 'd>) -> Vec<Set<'d>> {
        element
            .children()
            .filter(|c| c.has_tag_name("resource_set"))
            .map(|c| self.resolve(c))
            .map(|set| {
                let flag = |name: &str| set.attribute(name).and_then(words::boolean).unwrap_or(true);
                Set {
                    id: set.attribute("id").unwrap_or_default(),
                    members: set
                        .children()
                        .filter(|c| c.has_tag_name("resource_ref"))
                        .filter_map(|c| c.attribute("id"))
                        .flat_map(|id| self.named(id))
                        .collect(),
                    role: set.attribute("role").and_then(Role::parse),
                    action: set.attribute("action"),
                    sequential: flag("sequential"),
                    require_all: flag("require-all"),
                    ordering: set.attribute("ordering").unwrap_or("group"),
                    score: set.attribute("score").and_then(Score::parse),
                    kind: set.attribute("kind"),
                }
            })
            .collect()
    }

    fn location(&self, cluster: &mut Cluster, element: Xml<'d, 'd>, nodes: &NodeFacts) {
        let mut targets: Vec<(String, Option<Role>, Option<Score>)> = Vec::new();
        let role = element.attribute("role").and_then(Role::parse);
        if let Some(name) = element.attribute("rsc") {
            targets.extend(self.named(name).into_iter().map(|r| (r, role, None)));
        }
        if let Some(pattern) = element.attribute("rsc-pattern") {
            targets.extend(matching(cluster, pattern).into_iter().map(|r| (r, role, None)));
        }
        for set in self.sets(element) {
            targets.extend(set.members.into_iter().map(|r| (r, set.role.or(role), set.score)));
        }
        let discovery = match element.attribute("resource-discovery") {
            Some("never") => Discovery::Never,
            Some("exclusive") => Discovery::Exclusive,
            _ => Discovery::Always,
        };
        let id = element.attribute("id").unwrap_or_default();
        for (resource, role, set_score) in targets {
            let base = Location { id: id.into(), resource, role, scores: BTreeMap::new(), discovery };
            if let Some(node) = element.attribute("node") {
                let score = set_score.or_else(|| element.attribute("score").and_then(Score::parse));
                let scores = BTreeMap::from([(node.to_owned(), score.unwrap_or(Score::ZERO))]);
                cluster.locations.push(Location { scores, ..base });
                continue;
            }
            for rule in element.children().filter(|c| c.has_tag_name("rule")).map(|r| self.resolve(r)) {
                let found = self.rule_location(cluster, rule, nodes, base.clone());
                cluster.locations.push(found);
            }
        }
    }

    fn rule_location(
        &self,
        cluster: &Cluster,
        rule: Xml<'d, 'd>,
        nodes: &NodeFacts,
        base: Location,
    ) -> Location {
        let resource = find_resource(&cluster.resources, &base.resource);
        let mut location = base;
        location.role = rule.attribute("role").and_then(Role::parse).or(location.role);
        for (name, attributes) in nodes {
            let facts = Facts {
                now: self.now,
                node: Some(attributes),
                parameters: resource.map(|r| &r.parameters),
                meta: resource.map(|r| &r.meta),
                ..Facts::default()
            };
            if !holds(self, rule, &facts) {
                continue;
            }
            let score = match rule.attribute("score-attribute") {
                Some(attribute) => attributes.get(attribute).and_then(|v| Score::parse(v)),
                None => Some(rule.attribute("score").and_then(Score::parse).unwrap_or(Score::ZERO)),
            };
            if let Some(score) = score {
                location.scores.insert(name.clone(), score);
            }
        }
        location
    }

    fn colocation(&self, cluster: &mut Cluster, element: Xml<'d, 'd>) {
        let id = element.attribute("id").unwrap_or_default();
        let score = element.attribute("score").and_then(Score::parse).unwrap_or(Score::INFINITY);
        let influence = element.attribute("influence").and_then(words::boolean);
        let base = Colocation { influence, ..Colocation::new(id, "", "", score) };
        let sets = self.sets(element);
        if sets.is_empty() {
            let role = |name| element.attribute(name).and_then(Role::parse);
            let (Some(dependent), Some(primary)) = (element.attribute("rsc"), element.attribute("with-rsc"))
            else {
                return;
            };
            for d in self.named(dependent) {
                for p in self.named(primary) {
                    cluster.colocations.push(Colocation {
                        dependent: d.clone(),
                        dependent_role: role("rsc-role"),
                        primary: p,
                        primary_role: role("with-rsc-role"),
                        node_attribute: element.attribute("node-attribute").map(str::to_owned),
                        ..base.clone()
                    });
                }
            }
            return;
        }
        for set in &sets {
            within_set(cluster, set, &base);
        }
        for pair in sets.windows(2) {
            between_sets(cluster, &pair[0], &pair[1], &base);
        }
    }

    fn order(&self, cluster: &mut Cluster, element: Xml<'d, 'd>) {
        let id = element.attribute("id").unwrap_or_default();
        let kind = order_kind(element.attribute("kind"), element.attribute("score"));
        let symmetrical =
            element.attribute("symmetrical").and_then(words::boolean).unwrap_or(kind != OrderKind::Serialize);
        let sets = self.sets(element);
        if sets.is_empty() {
            let (Some(first), Some(then)) = (element.attribute("first"), element.attribute("then")) else {
                return;
            };
            let first_action = element.attribute("first-action").unwrap_or("start");
            let then_action = element.attribute("then-action").unwrap_or(first_action);
            let require_all = element.attribute("require-all").and_then(words::boolean).unwrap_or(true);
            for f in self.named(first) {
                for t in self.named(then) {
                    cluster.orders.push(Order {
                        id: id.into(),
                        first: OrderEnd { resource: f.clone(), action: first_action.into() },
                        then: OrderEnd { resource: t, action: then_action.into() },
                        kind,
                        symmetrical,
                        require_all,
                    });
                }
            }
            return;
        }
        let kind = sets.iter().find_map(|s| s.kind).map_or(kind, |k| order_kind(Some(k), None));
        let sets = sets
            .into_iter()
            .map(|set| OrderSet {
                id: set.id.into(),
                action: set.action.unwrap_or("start").into(),
                sequential: set.sequential,
                require_all: set.require_all,
                resources: set.members,
            })
            .collect();
        cluster.order_sets.push(OrderSets { id: id.into(), kind, symmetrical, sets });
    }

    fn ticket(&self, cluster: &mut Cluster, element: Xml<'d, 'd>) {
        let Some(ticket) = element.attribute("ticket") else { return };
        let mut targets: Vec<(String, Option<Role>)> = Vec::new();
        let role = element.attribute("rsc-role").and_then(Role::parse);
        if let Some(name) = element.attribute("rsc") {
            targets.extend(self.named(name).into_iter().map(|r| (r, role)));
        }
        for set in self.sets(element) {
            targets.extend(set.members.into_iter().map(|r| (r, set.role)));
        }
        for (resource, role) in targets {
            let loss_policy = match element.attribute("loss-policy") {
                Some("fence") => LossPolicy::Fence,
                Some("freeze") => LossPolicy::Freeze,
                Some("demote") => LossPolicy::Demote,
                Some("stop") => LossPolicy::Stop,
                _ if role == Some(Role::Promoted) => LossPolicy::Demote,
                _ => LossPolicy::Stop,
            };
            let id = element.attribute("id").unwrap_or_default();
            cluster.ticket_constraints.push(TicketConstraint {
                id: id.into(),
                resource,
                role,
                ticket: ticket.into(),
                loss_policy,
            });
        }
    }
}

fn order_kind(kind: Option<&str>, score: Option<&str>) -> OrderKind {
    match kind.map(str::to_ascii_lowercase).as_deref() {
        Some("optional") => OrderKind::Optional,
        Some("serialize") => OrderKind::Serialize,
        Some(_) => OrderKind::Mandatory,
        None if score.and_then(Score::parse) == Some(Score::ZERO) => OrderKind::Optional,
        None => OrderKind::Mandatory,
    }
}

/// Colocations between the members of one set.
fn within_set(cluster: &mut Cluster, set: &Set<'_>, base: &Colocation) {
    let score = set.score.unwrap_or(base.score);
    if !set.sequential || score == Score::ZERO {
        return;
    }
    if score < Score::ZERO {
        // Apart: each with each of those before it.
        for (i, dependent) in set.members.iter().enumerate() {
            for primary in &set.members[..i] {
                cluster.colocations.push(pair(base, dependent, set.role, primary, set.role, score));
            }
        }
        return;
    }
    for two in set.members.windows(2) {
        let (dependent, primary) =
            if set.ordering == "group" { (&two[1], &two[0]) } else { (&two[0], &two[1]) };
        cluster.colocations.push(pair(base, dependent, set.role, primary, set.role, score));
    }
}

/// Colocations of the members of one set with those of the set after it.
fn between_sets(cluster: &mut Cluster, dependents: &Set<'_>, primaries: &Set<'_>, base: &Colocation) {
    let pick = |set: &Set<'_>, last: bool| -> Vec<String> {
        if !set.sequential {
            return set.members.clone();
        }
        let one = if last { set.members.last() } else { set.members.first() };
        one.into_iter().cloned().collect()
    };
    // In a sequential set later members depend on earlier ones: the last one leads to the next set, the first
    // one is what the set before it leans on.
    for dependent in pick(dependents, false) {
        for primary in pick(primaries, true) {
            cluster.colocations.push(pair(
                base,
                &dependent,
                dependents.role,
                &primary,
                primaries.role,
                base.score,
            ));
        }
    }
}

fn pair(
    base: &Colocation,
    dependent: &str,
    dependent_role: Option<Role>,
    primary: &str,
    primary_role: Option<Role>,
    score: Score,
) -> Colocation {
    Colocation {
        dependent: dependent.into(),
        dependent_role,
        primary: primary.into(),
        primary_role,
        score,
        ..base.clone()
    }
}

fn find_resource<'a>(resources: &'a [Resource], id: &str) -> Option<&'a Resource> {
    resources.iter().find_map(|r| {
        if r.id == id {
            return Some(r);
        }
        match &r.body {
            Body::Primitive { .. } => None,
            Body::Group(members) => find_resource(members, id),
            Body::Clone(inner) => find_resource(std::slice::from_ref(inner.as_ref()), id),
        }
    })
}

/// Top-level resources whose name matches `pattern` (`!` before it inverts). Understood are literal text,
/// `.`, `.*`, `^` and `$`.
fn matching(cluster: &Cluster, pattern: &str) -> Vec<String> {
    let (pattern, invert) = match pattern.strip_prefix('!') {
        Some(rest) => (rest, true),
        None => (pattern, false),
    };
    cluster.resources.iter().filter(|r| glob(pattern, &r.id) != invert).map(|r| r.id.clone()).collect()
}

fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, from_start) = match pattern.strip_prefix('^') {
        Some(rest) => (rest, true),
        None => (pattern, false),
    };
    let (pattern, to_end) = match pattern.strip_suffix('$') {
        Some(rest) => (rest, true),
        None => (pattern, false),
    };
    let (mut at, mut loose) = (0, !from_start);
    for (i, piece) in pattern.split(".*").enumerate() {
        loose |= i > 0;
        match (loose, text[at..].find(piece)) {
            (true, Some(found)) => at += found + piece.len(),
            (false, Some(0)) => at += piece.len(),
            _ => return false,
        }
        loose = false;
    }
    !to_end || pattern.ends_with(".*") || text.ends_with(pattern.rsplit(".*").next().unwrap_or_default())
}
