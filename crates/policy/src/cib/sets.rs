//! Sets of named values: ordered by score, limited by rules, the first value found wins.

use super::Reader;
use super::rule::{Facts, holds};
use crate::Score;
use roxmltree::Node as Xml;
use std::collections::BTreeMap;

/// Bound on references from one set to another, so that a circle ends.
const REFERENCE_DEPTH_MAX: usize = 8;

impl<'d> Reader<'d> {
    /// The element an `id-ref` stands for, or the element itself.
    pub(super) fn resolve(&self, element: Xml<'d, 'd>) -> Xml<'d, 'd> {
        let mut at = element;
        for _ in 0..REFERENCE_DEPTH_MAX {
            match at.attribute("id-ref").and_then(|id| self.by_id.get(id)) {
                Some(target) => at = *target,
                None => break,
            }
        }
        at
    }

    /// Values of all sets called `tag` directly below `parent`; the set with id `first` goes before the others.
    pub(super) fn merged(
        &self,
        parent: Option<Xml<'d, 'd>>,
        tag: &str,
        facts: &Facts<'_>,
        first: Option<&str>,
    ) -> BTreeMap<String, String> {
        let mut values = BTreeMap::new();
        let Some(parent) = parent else { return values };
        let mut sets: Vec<Xml<'d, 'd>> =
            parent.children().filter(|c| c.has_tag_name(tag)).map(|c| self.resolve(c)).collect();
        sets.sort_by_key(|set| {
            let score = set.attribute("score").and_then(Score::parse).unwrap_or(Score::ZERO);
            (first.is_none() || set.attribute("id") != first, std::cmp::Reverse(score))
        });
        for set in sets {
            if set.children().filter(|c| c.has_tag_name("rule")).all(|r| holds(self, r, facts)) {
                self.add_pairs(set, &mut values);
            }
        }
        values
    }

    fn add_pairs(&self, set: Xml<'d, 'd>, values: &mut BTreeMap<String, String>) {
        for child in set.children().filter(|c| c.has_tag_name("nvpair")) {
            let pair = self.resolve(child);
            let Some(name) = child.attribute("name").or_else(|| pair.attribute("name")) else { continue };
            let Some(value) = pair.attribute("value") else { continue };
            if value == "#default" {
                continue;
            }
            values.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
    }

    /// True if any set called `tag` below `parent` depends on the node.
    pub(super) fn depends_on_node(&self, parent: Xml<'d, 'd>, tag: &str) -> bool {
        parent
            .children()
            .filter(|c| c.has_tag_name(tag))
            .map(|c| self.resolve(c))
            .any(|set| set.descendants().any(|e| e.has_tag_name("expression")))
    }
}
