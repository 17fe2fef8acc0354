//! Recurring monitors: begun where a resource runs (or must not run), ended where they make no sense any more.

use super::{Actor, Edge, Task};
use crate::world::{Kind, NodeIx, RscIx};
use crate::{Operation, OperationRecord, RecordStatus, Role};

/// Exit codes a monitor may be told to expect.
const NOT_RUNNING: i32 = 7;
const RUNNING_PROMOTED: i32 = 8;

impl<'c> Actor<'_, 'c> {
    pub(super) fn monitor(&mut self) {
        for at in self.world.resource_indices() {
            if self.world[at].kind != Kind::Primitive || self.world[at].orphan && !self.world[at].is_active()
            {
                continue;
            }
            self.cancel_unwanted(at);
            let operations = self.world[at].operations;
            for operation in operations.iter().filter(|o| o.interval_ms > 0 && o.enabled && o.name != "start")
            {
                if operation.role == Some(Role::Stopped) {
                    self.monitor_stopped(at, operation);
                } else {
                    self.monitor_active(at, operation);
                }
            }
        }
    }

    /// Nothing at all is watched in maintenance.
    fn in_maintenance(&self, at: RscIx, node: NodeIx) -> bool {
        self.world[at].meta.maintenance || self.world[node].maintenance
    }

    fn monitor_active(&mut self, at: RscIx, operation: &Operation) {
        let rsc = &self.world[at];
        let Some(node) = rsc.assigned.filter(|_| rsc.next_role.is_active()) else { return };
        if !self.in_role(at, operation, rsc.next_role) || self.in_maintenance(at, node) || rsc.blocked {
            return;
        }
        let restarted = self.will(at, Task::Start, node)
            || self.will(at, Task::Promote, node)
            || self.will(at, Task::Demote, node)
            || self.will(at, Task::Stop, node)
            || self.will(at, Task::Reload, node);
        let here = rsc.role.is_active() && rsc.running_on.contains(&node);
        if !here && !self.will(at, Task::Start, node) && !self.migrating.contains(&at) {
            return;
        }
        if self.will(at, Task::Stop, node) && !self.will(at, Task::Start, node) {
            return;
        }
        let known = self.record(at, node, &operation.name, operation.interval_ms).is_some_and(|r| {
            !matches!(r.status, RecordStatus::Cancelled | RecordStatus::Pending) && !self.world[at].failed
        });
        let known = known && !self.reschedule.contains(&(at, node, operation.interval_ms));
        let arrived = self.migrating.contains(&at);
        if here && known && !restarted && !arrived {
            return;
        }
        let next = self.world[at].next_role;
        let step = self.step_every(at, Task::Monitor, Some(node), operation.interval_ms);
        self.steps[step.0].expected = if next == Role::Promoted { RUNNING_PROMOTED } else { 0 };
        self.require(step, "it is to be watched");
        for task in [Task::Start, Task::Promote, Task::Demote, Task::Reload, Task::MigrateFrom] {
            if let Some(first) = self.existing(at, task, Some(node)) {
                self.connect(Edge::sequence(first, step));
            }
        }
    }

    fn in_role(&self, at: RscIx, operation: &Operation, role: Role) -> bool {
        let promotable = self
            .world
            .clone_above(at)
            .is_some_and(|c| self.world[c].clone.as_ref().is_some_and(|o| o.promotable));
        match operation.role {
            Some(Role::Promoted) => role == Role::Promoted,
            None | Some(Role::Started | Role::Unpromoted) if promotable => role != Role::Promoted,
            _ => true,
        }
    }

    /// The step exists and will be carried out.
    pub(super) fn will(&self, at: RscIx, task: Task, node: NodeIx) -> bool {
        self.existing(at, task, Some(node))
            .is_some_and(|s| self.steps[s.0].required && self.steps[s.0].runnable)
    }

    /// The newest record of a recurring operation.
    pub(super) fn record(
        &self,
        at: RscIx,
        node: NodeIx,
        operation: &str,
        interval_ms: u64,
    ) -> Option<&'c OperationRecord> {
        let cluster = self.world.cluster;
        self.histories(at, node, cluster)
            .flat_map(|h| &h.records)
            .find(|r| r.operation == operation && r.interval_ms == interval_ms)
    }

    /// Histories of this resource on a node, under any of its names.
    pub(super) fn histories(
        &self,
        at: RscIx,
        node: NodeIx,
        cluster: &'c crate::Cluster,
    ) -> impl Iterator<Item = &'c crate::ResourceHistory> + use<'c> {
        let rsc = &self.world[at];
        let unique =
            self.world.clone_above(at).is_none_or(|c| self.world[c].clone.as_ref().is_some_and(|o| o.unique));
        let (id, base) = (rsc.id.clone(), rsc.base.clone());
        cluster.nodes[self.world[node].model].history.iter().filter(move |h| {
            h.resource == id
                || !unique
                    && (h.resource == base || h.resource.rsplit_once(':').is_some_and(|(b, _)| b == base))
        })
    }

    /// Where a resource must not run, a monitor can watch that it does not.
    fn monitor_stopped(&mut self, at: RscIx, operation: &Operation) {
        if self.world.clone_above(at).is_some_and(|c| self.world[c].clone.as_ref().is_some_and(|o| !o.unique))
        {
            return;
        }
        let next = self.world[at].assigned.filter(|_| self.world[at].next_role.is_active());
        for node in self.world.node_indices() {
            let state = &self.world[node];
            if !state.online || state.unclean.is_some() || state.pending {
                continue;
            }
            let known = self
                .record(at, node, &operation.name, operation.interval_ms)
                .is_some_and(|r| r.status != RecordStatus::Cancelled);
            let running_unmanaged = !self.world[at].managed && self.world[at].running_on.contains(&node);
            if Some(node) == next || running_unmanaged {
                if known {
                    self.cancel(at, node, operation.interval_ms, "it shall run there");
                }
                continue;
            }
            if known || self.world[at].undiscovered.contains(&node) {
                continue;
            }
            let step = self.step_every(at, Task::Monitor, Some(node), operation.interval_ms);
            self.steps[step.0].expected = NOT_RUNNING;
            self.require(step, "it is to be watched that it does not run there");
            for first in [Task::Stop, Task::Probe] {
                if let Some(first) = self.existing(at, first, Some(node)) {
                    self.connect(Edge::sequence(first, step));
                }
            }
        }
    }

    pub(super) fn cancel(&mut self, at: RscIx, node: NodeIx, interval_ms: u64, why: &str) {
        let step = self.step_every(at, Task::Cancel, Some(node), interval_ms);
        self.require(step, why);
        for then in [Task::Stop, Task::Demote, Task::Promote, Task::Start] {
            if let Some(then) = self.existing(at, then, Some(node)) {
                self.connect(Edge::sequence(step, then));
            }
        }
    }

    /// Ends monitors that are not configured any more, or not for the role to come.
    fn cancel_unwanted(&mut self, at: RscIx) {
        let cluster = self.world.cluster;
        for node in self.world[at].running_on.clone() {
            if !self.world[node].online || self.world[node].unclean.is_some() {
                continue;
            }
            if self.will(at, Task::Stop, node) {
                continue;
            }
            let records: Vec<&OperationRecord> = self
                .histories(at, node, cluster)
                .flat_map(|h| &h.records)
                .filter(|r| r.interval_ms > 0 && r.status != RecordStatus::Cancelled)
                .collect();
            for record in records {
                if let Some(why) = self.why_unwanted(at, node, record) {
                    self.cancel(at, node, record.interval_ms, &why);
                }
            }
        }
    }

    fn why_unwanted(&self, at: RscIx, node: NodeIx, record: &OperationRecord) -> Option<String> {
        let rsc = &self.world[at];
        let configured =
            rsc.operations.iter().find(|o| o.name == record.operation && o.interval_ms == record.interval_ms);
        let Some(operation) = configured else {
            return (self.world.options.cancel_orphan_actions && !rsc.orphan)
                .then(|| "not configured any more".to_owned());
        };
        if !operation.enabled {
            return Some("switched off".into());
        }
        if operation.role == Some(Role::Stopped) {
            return None;
        }
        if self.in_maintenance(at, node) {
            return Some("maintenance".into());
        }
        if !self.in_role(at, operation, rsc.next_role) && rsc.next_role.is_active() {
            return Some("not for the role to come".into());
        }
        None
    }
}
