//! The working state of one planning run: every instance of every resource, with what is observed of it and what
//! is decided about it.

mod build;
mod failures;
mod instances;
mod meta;
mod options;
mod resource;
mod results;

use crate::{Cluster, NodeKind, Score, UnixSeconds};
use std::collections::BTreeMap;
use std::ops::{Index, IndexMut};

pub(crate) use failures::{FailureExpiry, failure_limit_reached};
pub(crate) use meta::{CloneOptions, Meta, MultipleActive, Requires};
pub(crate) use options::{Options, Placing};
pub(crate) use resource::{Kind, Rsc};

/// Position of a node in [`World::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeIx(pub(crate) usize);

/// Position of a resource in [`World::resources`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RscIx(pub(crate) usize);

/// A node as this run sees it.
#[derive(Clone, Debug)]
pub(crate) struct NodeState {
    pub(crate) name: String,
    pub(crate) kind: NodeKind,
    pub(crate) online: bool,
    pub(crate) unclean: Option<String>,
    pub(crate) pending: bool,
    pub(crate) shutting_down: bool,
    pub(crate) standby: bool,
    pub(crate) standby_by_failure: bool,
    pub(crate) maintenance: bool,
    /// Position of the node's history among the model's nodes.
    pub(crate) model: usize,
    /// What runs there.
    pub(crate) running: Vec<RscIx>,
    /// How many resources this run has placed there (ties go to the emptier node).
    pub(crate) placed: usize,
    /// What is left of the capacities.
    pub(crate) capacity: BTreeMap<String, i64>,
    /// Worst of the health attributes: −1 red, 0 yellow, 1 green.
    pub(crate) health: i8,
}

impl NodeState {
    /// Something new may be placed there.
    pub(crate) fn can_run(&self) -> bool {
        self.online
            && self.unclean.is_none()
            && !self.pending
            && !self.shutting_down
            && !self.standby
            && !self.standby_by_failure
            && !self.maintenance
    }
}

/// Everything of one run.
#[derive(Debug)]
pub(crate) struct World<'c> {
    pub(crate) cluster: &'c Cluster,
    pub(crate) options: Options,
    pub(crate) now: UnixSeconds,
    pub(crate) nodes: Vec<NodeState>,
    pub(crate) resources: Vec<Rsc<'c>>,
    /// Resources without parents, in the order of the configuration; orphans at the end.
    pub(crate) top: Vec<RscIx>,
    /// Bans that come from results on nodes: resource, node, why.
    pub(crate) bans: Vec<(RscIx, NodeIx, String)>,
    pub(crate) warnings: Vec<String>,
}

impl Index<NodeIx> for World<'_> {
    type Output = NodeState;
    fn index(&self, at: NodeIx) -> &NodeState {
        &self.nodes[at.0]
    }
}

impl IndexMut<NodeIx> for World<'_> {
    fn index_mut(&mut self, at: NodeIx) -> &mut NodeState {
        &mut self.nodes[at.0]
    }
}

impl<'c> Index<RscIx> for World<'c> {
    type Output = Rsc<'c>;
    fn index(&self, at: RscIx) -> &Rsc<'c> {
        &self.resources[at.0]
    }
}

impl IndexMut<RscIx> for World<'_> {
    fn index_mut(&mut self, at: RscIx) -> &mut Self::Output {
        &mut self.resources[at.0]
    }
}

impl<'c> World<'c> {
    /// Expands `cluster` and interprets its history.
    pub(crate) fn new(cluster: &'c Cluster, now: UnixSeconds) -> Self {
        let options = Options::read(cluster);
        let mut world = Self {
            cluster,
            now,
            nodes: Vec::new(),
            resources: Vec::new(),
            top: Vec::new(),
            bans: Vec::new(),
            warnings: Vec::new(),
            options,
        };
        world.build_nodes();
        world.build_resources();
        world.interpret_history();
        world
    }

    /// All nodes.
    pub(crate) fn node_indices(&self) -> impl Iterator<Item = NodeIx> + use<> {
        (0..self.nodes.len()).map(NodeIx)
    }

    /// All resources.
    pub(crate) fn resource_indices(&self) -> impl Iterator<Item = RscIx> + use<> {
        (0..self.resources.len()).map(RscIx)
    }

    /// The node called `name`.
    pub(crate) fn find_node(&self, name: &str) -> Option<NodeIx> {
        self.nodes.iter().position(|n| n.name == name).map(NodeIx)
    }

    /// The resource a constraint names: by full name, or a clone's child by its name without number (then the
    /// clone itself is meant).
    pub(crate) fn find_resource(&self, id: &str) -> Option<RscIx> {
        let exact = self.resources.iter().position(|r| r.id == id && !r.orphan);
        exact.map(RscIx).or_else(|| {
            let inner = self.resources.iter().find(|r| r.base == id && !r.orphan)?;
            let mut at = inner.parent?;
            while let Some(up) = self[at].parent {
                at = up;
            }
            Some(at)
        })
    }

    /// The outermost resource that contains `at`.
    pub(crate) fn uppermost(&self, at: RscIx) -> RscIx {
        let mut top = at;
        while let Some(up) = self[top].parent {
            top = up;
        }
        top
    }

    /// The clone that `at` is an instance of (or in an instance of), if any.
    pub(crate) fn clone_above(&self, at: RscIx) -> Option<RscIx> {
        let top = self.uppermost(at);
        (self[top].kind == Kind::Clone && top != at).then_some(top)
    }

    /// The direct child of the clone above `at` that contains `at`.
    pub(crate) fn instance_of(&self, at: RscIx) -> RscIx {
        let mut instance = at;
        while let Some(up) = self[instance].parent {
            if self[up].kind == Kind::Clone {
                break;
            }
            instance = up;
        }
        instance
    }

    /// `at` and everything in it that has an agent.
    pub(crate) fn primitives_in(&self, at: RscIx) -> Vec<RscIx> {
        match self[at].kind {
            Kind::Primitive => vec![at],
            _ => self[at].children.iter().flat_map(|c| self.primitives_in(*c)).collect(),
        }
    }

    /// Nodes on which `at` or anything in it is active.
    pub(crate) fn active_nodes(&self, at: RscIx) -> Vec<NodeIx> {
        let mut nodes: Vec<NodeIx> = Vec::new();
        for p in self.primitives_in(at) {
            for n in &self[p].running_on {
                if !nodes.contains(n) {
                    nodes.push(*n);
                }
            }
        }
        nodes
    }

    /// A fresh row of scores: no preference where the cluster is symmetric, nothing allowed otherwise.
    pub(crate) fn fresh_scores(&self) -> Vec<Option<Score>> {
        self.nodes
            .iter()
            .map(|n| (self.options.symmetric && n.kind == NodeKind::Member).then_some(Score::ZERO))
            .collect()
    }
}
