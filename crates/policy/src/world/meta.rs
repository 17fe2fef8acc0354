//! Meta attributes with their defaults.

use super::Options;
use crate::words;
use crate::{Agent, QuorumPolicy, Role, Score};

/// What must hold before a resource may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Requires {
    Nothing,
    Quorum,
    Fencing,
    Unfencing,
}

/// What happens to a resource found on several nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MultipleActive {
    StopStart,
    StopOnly,
    Block,
    StopUnexpected,
}

/// Options of a clone.
#[derive(Clone, Debug)]
pub(crate) struct CloneOptions {
    pub(crate) max: usize,
    pub(crate) node_max: usize,
    pub(crate) unique: bool,
    pub(crate) interleave: bool,
    pub(crate) notify: bool,
    pub(crate) min: usize,
    pub(crate) promotable: bool,
    pub(crate) promoted_max: usize,
    pub(crate) promoted_node_max: usize,
}

/// Options of one resource, inherited ones included.
#[derive(Clone, Debug)]
pub(crate) struct Meta {
    pub(crate) priority: i64,
    pub(crate) target_role: Option<Role>,
    pub(crate) managed: bool,
    pub(crate) maintenance: bool,
    pub(crate) stickiness: Option<Score>,
    pub(crate) requires: Requires,
    /// Failures on a node after which it is left; INFINITY for never (except by a fatal failure), 0 for never at all.
    pub(crate) migration_threshold: Score,
    pub(crate) failure_timeout_s: i64,
    pub(crate) multiple_active: MultipleActive,
    pub(crate) allow_migrate: bool,
    pub(crate) critical: bool,
    pub(crate) ignores_health: bool,
}

impl Meta {
    /// Reads the options of a resource; `lookup` finds a meta attribute, inherited ones included.
    pub(crate) fn read<'a>(
        lookup: impl Fn(&str) -> Option<&'a str>,
        agent: &Agent,
        options: &Options,
    ) -> Self {
        let flag = |name: &str, default: bool| lookup(name).and_then(words::boolean).unwrap_or(default);
        let requires = match lookup("requires") {
            Some("nothing") => Requires::Nothing,
            Some("quorum") => Requires::Quorum,
            Some("unfencing") if options.fencing => Requires::Unfencing,
            Some("fencing") if options.fencing => Requires::Fencing,
            _ if agent.is_fence_device() => Requires::Quorum,
            _ if options.fencing => Requires::Fencing,
            _ if options.quorum_policy == QuorumPolicy::Ignore => Requires::Nothing,
            _ => Requires::Quorum,
        };
        let multiple_active = match lookup("multiple-active") {
            Some("stop_only") => MultipleActive::StopOnly,
            Some("block") => MultipleActive::Block,
            Some("stop_unexpected") => MultipleActive::StopUnexpected,
            _ => MultipleActive::StopStart,
        };
        let target_role = match lookup("target-role") {
            Some(text) => Role::parse(text),
            None => None,
        };
        let maintenance = options.maintenance || flag("maintenance", false);
        Self {
            priority: lookup("priority").and_then(Score::parse).map_or(0, |s| i64::from(s.value())),
            target_role,
            managed: flag("is-managed", options.managed_default) && !maintenance,
            maintenance,
            stickiness: lookup("resource-stickiness").and_then(Score::parse),
            requires,
            migration_threshold: lookup("migration-threshold")
                .and_then(Score::parse)
                .filter(|s| *s >= Score::ZERO)
                .unwrap_or(Score::INFINITY),
            failure_timeout_s: lookup("failure-timeout")
                .and_then(words::milliseconds)
                .map_or(0, |ms| (ms / 1_000) as i64),
            multiple_active,
            allow_migrate: flag("allow-migrate", false),
            critical: flag("critical", true),
            ignores_health: flag("allow-unhealthy-nodes", false),
        }
    }
}

impl CloneOptions {
    /// Reads the options of a clone in a cluster of `nodes` nodes.
    pub(crate) fn read<'a>(lookup: impl Fn(&str) -> Option<&'a str>, nodes: usize) -> Self {
        let flag = |name: &str, default: bool| lookup(name).and_then(words::boolean).unwrap_or(default);
        // Instances are things in memory: an absurd number must not take it all.
        let count = |names: [&str; 2], default: usize| {
            names
                .iter()
                .find_map(|n| lookup(n))
                .and_then(Score::parse)
                .map_or(default, |s| usize::try_from(s.value()).unwrap_or(0).min(INSTANCES_MAX))
        };
        let promotable = flag("promotable", false);
        let node_max = count(["clone-node-max", "clone-node-max"], 1);
        let unique = flag("globally-unique", node_max > 1);
        Self {
            max: count(["clone-max", "clone-max"], nodes.max(1)),
            node_max: if unique { node_max } else { node_max.min(1) },
            unique,
            interleave: flag("interleave", false),
            notify: flag("notify", false),
            min: count(["clone-min", "clone-min"], 0),
            promotable,
            promoted_max: if promotable { count(["promoted-max", "master-max"], 1) } else { 0 },
            promoted_node_max: if promotable {
                count(["promoted-node-max", "master-node-max"], 1)
            } else {
                0
            },
        }
    }
}

/// More instances than any real clone has, few enough for any machine.
const INSTANCES_MAX: usize = 1_000;
