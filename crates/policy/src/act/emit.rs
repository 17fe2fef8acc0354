//! Puts what is required and possible into the plan, predecessors first.

use super::{Actor, StepIx, Task};
use crate::world::Kind;
use crate::{Action, ActionId, ActionKind, Placement, Plan};
use std::collections::{BTreeMap, BTreeSet};

impl Actor<'_, '_> {
    pub(super) fn emit(&self) -> Plan {
        let order = self.sequence();
        let number: BTreeMap<StepIx, ActionId> = order
            .iter()
            .enumerate()
            .map(|(i, s)| (*s, ActionId(u32::try_from(i).unwrap_or(u32::MAX))))
            .collect();
        let mut after: BTreeMap<StepIx, BTreeSet<ActionId>> = BTreeMap::new();
        for edge in &self.edges {
            if let (Some(first), Some(_)) = (number.get(&edge.first), number.get(&edge.then)) {
                after.entry(edge.then).or_default().insert(*first);
            }
        }
        let actions = order
            .iter()
            .map(|s| {
                let id = number[s];
                // Contradicting orders were cut: nobody waits for a later one.
                let before = after.remove(s).unwrap_or_default().into_iter().filter(|b| *b < id).collect();
                self.action(*s, id, before)
            })
            .collect();
        Plan {
            actions,
            changes: self.changes(),
            placements: self.placements(),
            warnings: self.world.warnings.clone(),
        }
    }

    /// Steps of the plan, every one after those it waits for.
    fn sequence(&self) -> Vec<StepIx> {
        let chosen: Vec<bool> = self.steps.iter().map(|s| s.required && s.runnable).collect();
        let mut waiting = vec![0usize; self.steps.len()];
        let mut followers: Vec<Vec<usize>> = vec![Vec::new(); self.steps.len()];
        for edge in &self.edges {
            if chosen[edge.first.0] && chosen[edge.then.0] {
                waiting[edge.then.0] += 1;
                followers[edge.first.0].push(edge.then.0);
            }
        }
        let mut left: BTreeSet<usize> = (0..self.steps.len()).filter(|i| chosen[*i]).collect();
        let mut ready: BTreeSet<usize> = left.iter().copied().filter(|i| waiting[*i] == 0).collect();
        let mut order = Vec::new();
        loop {
            // In a circle the earliest step goes first.
            let Some(next) = ready.pop_first().or_else(|| left.first().copied()) else { return order };
            if !left.remove(&next) {
                continue;
            }
            order.push(StepIx(next));
            for follower in &followers[next] {
                waiting[*follower] = waiting[*follower].saturating_sub(1);
                if waiting[*follower] == 0 && left.contains(follower) {
                    ready.insert(*follower);
                }
            }
        }
    }

    fn action(&self, at: StepIx, id: ActionId, after: Vec<ActionId>) -> Action {
        let step = &self.steps[at.0];
        let node = step.node.map(|n| self.world[n].name.clone());
        let kind = match step.task {
            _ if step.pseudo => ActionKind::Pseudo,
            Task::Start => ActionKind::Start,
            Task::Stop => ActionKind::Stop,
            Task::Promote => ActionKind::Promote,
            Task::Demote => ActionKind::Demote,
            Task::MigrateTo => ActionKind::MigrateTo,
            Task::MigrateFrom => ActionKind::MigrateFrom,
            Task::Probe => ActionKind::Probe,
            Task::Monitor => ActionKind::Monitor,
            Task::Cancel => ActionKind::Cancel,
            Task::Reload => ActionKind::Reload,
            Task::Delete => ActionKind::DeleteHistory,
            Task::ClearFailures => ActionKind::ClearFailures,
            Task::NotifyBefore(_) | Task::NotifyAfter(_) => ActionKind::Notify,
            Task::Fence => ActionKind::Fence,
            Task::Shutdown => ActionKind::Shutdown,
            Task::Begin(_) | Task::Done(_) => ActionKind::Pseudo,
        };
        let name = step.resource.map(|r| self.action_name(r, step.node));
        let operation = if step.task == Task::Fence { step.how.clone() } else { step.task.name().to_owned() };
        let key = match (&name, &node) {
            (Some(name), _) => format!("{name}_{}_{}", step.task.name(), step.interval_ms),
            (None, node) => {
                format!("{}-{}-{operation}", step.task.name(), node.as_deref().unwrap_or("cluster"))
            }
        };
        Action {
            id,
            kind,
            key,
            resource: name,
            node,
            timeout_ms: self.timeout(at),
            parameters: self.parameters(at),
            operation,
            interval_ms: step.interval_ms,
            expected: step.expected,
            after,
            reason: self.reason(at),
        }
    }

    /// The name for whoever executes: instances of anonymous clones are alike and have no number.
    pub(super) fn action_name(&self, at: crate::world::RscIx, node: Option<crate::world::NodeIx>) -> String {
        let anonymous = self
            .world
            .clone_above(at)
            .is_some_and(|c| self.world[c].clone.as_ref().is_some_and(|o| !o.unique));
        let rsc = &self.world[at];
        if anonymous && rsc.kind == Kind::Primitive {
            let plain = node.is_some_and(|n| {
                let model = &self.world.cluster.nodes[self.world[n].model];
                model.history.iter().any(|h| h.resource == rsc.base)
            });
            if plain {
                return rsc.base.clone();
            }
        }
        match &rsc.history_name {
            Some(name) if anonymous && rsc.kind == Kind::Primitive => name.clone(),
            _ => rsc.id.clone(),
        }
    }

    fn timeout(&self, at: StepIx) -> u64 {
        let step = &self.steps[at.0];
        if step.task == Task::Fence {
            return self.world.options.stonith_timeout_ms;
        }
        let configured = step.resource.and_then(|r| {
            let operations = self.world[r].operations;
            let exact =
                |o: &&crate::Operation| o.name == step.task.name() && o.interval_ms == step.interval_ms;
            operations
                .iter()
                .find(exact)
                .or_else(|| operations.iter().find(|o| o.name == step.task.name()))?
                .timeout_ms
        });
        let default = || {
            let text = self.world.cluster.operation_defaults.get("timeout")?;
            crate::words::milliseconds(text)
        };
        configured.or_else(default).unwrap_or(self.world.options.default_timeout_ms)
    }

    fn parameters(&self, at: StepIx) -> BTreeMap<String, String> {
        let step = &self.steps[at.0];
        let Some(config) = step.resource.and_then(|r| self.world[r].config) else { return BTreeMap::new() };
        let node = step.node.map(|n| &self.world[n].name);
        node.and_then(|n| config.node_parameters.get(n)).unwrap_or(&config.parameters).clone()
    }

    fn reason(&self, at: StepIx) -> String {
        let step = &self.steps[at.0];
        if let Some(reason) = step.reason.clone().filter(|r| !r.is_empty()) {
            return reason;
        }
        let Some(rsc) = step.resource.map(|r| &self.world[r]) else { return "part of the transition".into() };
        match (step.task, rsc.failed, rsc.role.is_active()) {
            (Task::Start, true, _) => format!("{} failed", rsc.id),
            (Task::Start, _, false) => "it shall run there and runs nowhere".into(),
            (Task::Start, ..) => "it is moved or restarted".into(),
            (Task::Stop, true, _) => format!("{} failed there", rsc.id),
            (Task::Stop, ..) if rsc.assigned.is_none() => "no node is allowed or fit to run it".into(),
            (Task::Stop, ..) => "it is moved or restarted".into(),
            (Task::Promote, ..) => "this instance has the best promotion score".into(),
            (Task::Demote, ..) => "another instance is preferred, or this one stops".into(),
            _ => "part of the transition".into(),
        }
    }

    fn placements(&self) -> Vec<Placement> {
        let mut placements = Vec::new();
        for at in self.world.resource_indices().filter(|at| self.world[*at].kind == Kind::Primitive) {
            let rsc = &self.world[at];
            let name = |n: &crate::world::NodeIx| self.world[*n].name.clone();
            placements.push(Placement {
                resource: rsc.id.clone(),
                current: rsc.running_on.iter().map(name).collect(),
                role: rsc.role,
                target: rsc.assigned.as_ref().map(name),
                target_role: rsc.next_role,
                scores: self.world.node_indices().map(|n| (name(&n), rsc.score(n))).collect(),
                reasons: rsc.reasons.clone(),
            });
        }
        placements
    }
}
