//! Actions: what must be done so that the observed state becomes the decided one.
//!
//! Every resource gets the steps its roles call for, some of them only in case others force them ([`build`]);
//! orders become edges between steps ([`order`]); then needs and consequences are followed along the edges until
//! nothing changes any more ([`settle`]). What is required and can be done goes into the plan ([`emit`]).

mod build;
mod cleanup;
mod digests;
mod edge;
mod emit;
mod fence;
mod migrate;
mod monitor;
mod notify;
mod order;
mod probe;
mod settle;
mod step;
mod summary;

pub(crate) use edge::Edge;
pub(crate) use step::{Step, StepIx, Task};

use crate::Plan;
use crate::world::{NodeIx, RscIx, World};
use std::collections::BTreeMap;

/// The state of one run.
pub(crate) struct Actor<'w, 'c> {
    pub(crate) world: &'w mut World<'c>,
    pub(crate) steps: Vec<Step>,
    pub(crate) edges: Vec<Edge>,
    index: BTreeMap<(Option<RscIx>, Task, Option<NodeIx>, u64), StepIx>,
    /// The second needs that many of the first ones; with the reason to give.
    any_of: Vec<(Vec<StepIx>, StepIx, usize, String)>,
    /// Resources whose definition changed so that they must be restarted.
    redefined: Vec<RscIx>,
    /// Recurring operations whose definition changed.
    reschedule: Vec<(RscIx, NodeIx, u64)>,
    /// Resources that move alive.
    migrating: Vec<RscIx>,
    /// Resources that take up changed parameters without a restart, and where.
    reloading: Vec<(RscIx, NodeIx)>,
}

/// Makes the plan for a world in which everything is placed.
pub(crate) fn act(world: &mut World<'_>) -> Plan {
    let mut actor = Actor {
        steps: Vec::new(),
        edges: Vec::new(),
        index: BTreeMap::new(),
        any_of: Vec::new(),
        redefined: Vec::new(),
        reschedule: Vec::new(),
        migrating: Vec::new(),
        reloading: Vec::new(),
        world,
    };
    actor.check_definitions();
    actor.fence_lost_nodes();
    actor.build_transitions();
    actor.cleanup_history();
    actor.apply_orders();
    actor.shutdown_nodes();
    actor.choose_migrations();
    actor.settle();
    actor.migrate_alive();
    actor.monitor();
    actor.probe();
    actor.notify();
    actor.emit()
}
