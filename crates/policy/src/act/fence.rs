//! Fencing of lost nodes and the departure of those that asked to leave.

use super::{Actor, Edge, Task};
use crate::world::NodeIx;
use crate::{NodeKind, QuorumPolicy, Role};

impl Actor<'_, '_> {
    /// True if this partition is able and allowed to fence the node.
    pub(super) fn can_fence(&self, node: NodeIx) -> bool {
        let options = &self.world.options;
        let devices = options.have_watchdog || self.world.resources.iter().any(|r| r.agent.is_fence_device());
        options.fencing && devices && (options.may_fence() || self.world[node].online)
    }

    pub(super) fn fence_lost_nodes(&mut self) {
        self.fence_own_partition();
        for node in self.world.node_indices() {
            let Some(why) = self.world[node].unclean.clone() else { continue };
            if self.world[node].kind != NodeKind::Member || !self.can_fence(node) {
                continue;
            }
            let step = self.node_step(Task::Fence, node);
            self.steps[step.0].how = self.world.options.fence_action.clone();
            self.require(step, &why);
        }
    }

    /// With the policy to fence on loss of quorum, every node of this partition goes.
    fn fence_own_partition(&mut self) {
        let options = &self.world.options;
        if options.quorum || options.quorum_policy != QuorumPolicy::Fence {
            return;
        }
        for node in self.world.node_indices() {
            if self.world[node].online
                && self.world[node].unclean.is_none()
                && self.world[node].kind == NodeKind::Member
            {
                self.world[node].unclean = Some("cluster does not have quorum".into());
            }
        }
    }

    /// A node that asked for it leaves after everything on it has stopped.
    pub(super) fn shutdown_nodes(&mut self) {
        for node in self.world.node_indices() {
            let state = &self.world[node];
            if !state.shutting_down
                || !state.online
                || state.unclean.is_some()
                || state.kind != NodeKind::Member
            {
                continue;
            }
            let step = self.node_step(Task::Shutdown, node);
            self.require(step, "the node asked to leave");
            for at in self.world.resource_indices() {
                if !self.world[at].running_on.contains(&node) || self.world[at].role == Role::Stopped {
                    continue;
                }
                if let Some(stop) = self.existing(at, Task::Stop, Some(node))
                    && (self.world[at].managed || self.world[at].blocked)
                {
                    self.connect(Edge::need(stop, step));
                }
            }
        }
    }
}
