//! Reads a CIB document (schema 4.0) into the model.

mod constraints;
mod history;
mod nodes;
mod resources;
mod rule;
mod sets;

pub(crate) use nodes::natural;

use crate::words;
use crate::{Cluster, Ticket, UnixSeconds};
use anshin_base::Problem;
use roxmltree::{Document, Node as Xml};
use std::collections::BTreeMap;

/// What was read, with the point in time the document itself names.
pub(crate) struct Input {
    /// The model.
    pub(crate) cluster: Cluster,
    /// The time to plan for.
    pub(crate) now: UnixSeconds,
    /// The document's own time, if that decided.
    pub(crate) original_time: Option<UnixSeconds>,
}

/// The document with what several of its parts need.
pub(crate) struct Reader<'d> {
    root: Xml<'d, 'd>,
    by_id: BTreeMap<&'d str, Xml<'d, 'd>>,
    now: UnixSeconds,
}

/// Later than anything in a document without a time of its own: whatever can have expired has.
const NO_CLOCK: UnixSeconds = UnixSeconds(2_096_841_600);

/// Reads `text`; `time` overrides the document's own point in time.
pub(crate) fn read(text: &str, time: Option<&str>) -> Result<Input, Problem> {
    let document = Document::parse(text)
        .map_err(|e| Problem::new("cib-not-xml", format!("the document is not well-formed XML: {e}")))?;
    let root = document.root_element();
    if root.tag_name().name() != "cib" {
        return Err(Problem::new("cib-no-root", "the document's root element is not <cib>")
            .hint("save one with `cibadmin --query`"));
    }
    let given = match time {
        Some(t) => Some(UnixSeconds(words::instant(t).ok_or_else(|| {
            Problem::new("bad-time", format!("`{t}` is no point in time"))
                .hint("write it as 2026-01-31T12:00:00Z")
        })?)),
        None => None,
    };
    let original = root.attribute("execution-date").and_then(|t| t.trim().parse().ok()).map(UnixSeconds);
    let now = given.or(original).unwrap_or(NO_CLOCK);
    let mut by_id = BTreeMap::new();
    for element in root.children().filter(|c| c.has_tag_name("configuration")).flat_map(|c| c.descendants()) {
        if let Some(id) = element.attribute("id") {
            by_id.entry(id).or_insert(element);
        }
    }
    let reader = Reader { root, by_id, now };
    Ok(Input { cluster: reader.cluster(), now, original_time: if given.is_some() { None } else { original } })
}

impl<'d> Reader<'d> {
    fn cluster(&self) -> Cluster {
        let mut cluster = Cluster {
            quorum: self.root.attribute("have-quorum").and_then(words::boolean).unwrap_or(false),
            ..Cluster::default()
        };
        let base = rule::Facts { now: self.now, ..rule::Facts::default() };
        cluster.properties = self.merged(
            self.section("crm_config"),
            "cluster_property_set",
            &base,
            Some("cib-bootstrap-options"),
        );
        self.read_nodes(&mut cluster);
        if let Some(uuid) = self.root.attribute("dc-uuid") {
            cluster.coordinator = cluster.nodes.iter().find(|n| n.id == uuid).map(|n| n.name.clone());
        }
        self.read_resources(&mut cluster);
        self.read_constraints(&mut cluster);
        self.read_tickets(&mut cluster);
        cluster
    }

    /// The named part of the configuration.
    fn section(&self, name: &str) -> Option<Xml<'d, 'd>> {
        self.root
            .children()
            .find(|c| c.has_tag_name("configuration"))?
            .children()
            .find(|c| c.has_tag_name(name))
    }

    fn status(&self) -> Option<Xml<'d, 'd>> {
        self.root.children().find(|c| c.has_tag_name("status"))
    }

    fn read_tickets(&self, cluster: &mut Cluster) {
        let Some(status) = self.status() else { return };
        for state in status.descendants().filter(|e| e.has_tag_name("ticket_state")) {
            let Some(id) = state.attribute("id") else { continue };
            let flag = |name| state.attribute(name).and_then(words::boolean).unwrap_or(false);
            cluster.tickets.insert(id.into(), Ticket { granted: flag("granted"), standby: flag("standby") });
        }
    }
}
