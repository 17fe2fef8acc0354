//! What changes, in lines for people.

use super::{Actor, Task};
use crate::world::{Kind, NodeIx, RscIx};
use crate::{Change, Role};

impl Actor<'_, '_> {
    pub(super) fn changes(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        for step in self.steps.iter().filter(|s| s.task == Task::Fence && s.required) {
            let Some(node) = step.node else { continue };
            changes.push(Change {
                verb: format!("Fence ({})", step.how),
                subject: self.world[node].name.clone(),
                detail: String::new(),
                reason: step.reason.clone().unwrap_or_default(),
            });
        }
        for at in self.world.top.clone() {
            self.add_changes(at, &mut changes);
        }
        changes
    }

    fn add_changes(&self, at: RscIx, changes: &mut Vec<Change>) {
        if self.world[at].kind == Kind::Primitive {
            changes.extend(self.change_of(at));
            return;
        }
        for child in &self.world[at].children {
            self.add_changes(*child, changes);
        }
    }

    fn change_of(&self, at: RscIx) -> Option<Change> {
        let rsc = &self.world[at];
        if !rsc.managed {
            return None;
        }
        let current = rsc.current_node().filter(|_| rsc.role.is_active());
        let next = rsc.assigned.filter(|_| rsc.next_role.is_active());
        let name = |n: NodeIx| self.world[n].name.clone();
        let make = |verb: &str, detail: String, reason: String| {
            Some(Change { verb: verb.into(), subject: rsc.id.clone(), detail, reason })
        };
        match (current, next) {
            (None, None) => None,
            (None, Some(to)) => {
                let (required, reason) = self.start_state(at, to)?;
                if !required {
                    return None;
                }
                if rsc.next_role == Role::Promoted {
                    let detail = format!("Stopped -> Promoted {}", name(to));
                    return make("Promote", detail, reason);
                }
                make("Start", name(to), reason)
            }
            (Some(from), None) => {
                let stop = self.existing(at, Task::Stop, Some(from))?;
                let mut reason =
                    self.steps[stop.0].reason.clone().unwrap_or_else(|| "node availability".into());
                if !self.steps[stop.0].runnable {
                    reason.push_str(" (blocked)");
                }
                make("Stop", format!("{}{}", self.shown_role(at, rsc.role), name(from)), reason)
            }
            (Some(from), Some(to)) => {
                let (_, blocked) = self.start_state(at, to)?;
                let stop = self.existing(at, Task::Stop, Some(from));
                let stop_required = stop.is_some_and(|s| self.steps[s.0].required);
                let stays = rsc.running_on.contains(&to);
                if self.migrating.contains(&at) {
                    return make("Migrate", format!("{} -> {}", name(from), name(to)), String::new());
                }
                if !blocked.is_empty() && stop.is_some() && (!stays || stop_required) {
                    let possible = stop.is_some_and(|s| self.steps[s.0].runnable);
                    let why = self.start_blocker(at, to);
                    let reason = if possible { why } else { format!("{why} (blocked)") };
                    return make("Stop", format!("{}{}", self.shown_role(at, rsc.role), name(from)), reason);
                }
                if !stays {
                    let verb = if rsc.failed { "Recover" } else { "Move" };
                    let (was, will) = (self.role_word(at, rsc.role), self.role_word(at, rsc.next_role));
                    let detail = if rsc.role == Role::Promoted || rsc.next_role == Role::Promoted {
                        format!("{was} {} -> {will} {}", name(from), name(to))
                    } else {
                        format!("{} -> {}", name(from), name(to))
                    };
                    return make(verb, detail, blocked);
                }
                if stop_required && !self.will(at, Task::Start, to) {
                    let reason = stop.and_then(|s| self.steps[s.0].reason.clone()).unwrap_or_default();
                    return make("Stop", format!("{}{}", self.shown_role(at, rsc.role), name(from)), reason);
                }
                if stop_required {
                    let of = |s: Option<super::StepIx>| {
                        s.and_then(|s| self.steps[s.0].reason.clone()).filter(|r| !r.is_empty())
                    };
                    let start = self.existing(at, Task::Start, Some(to));
                    let reason = of(start).or_else(|| of(stop)).unwrap_or_default();
                    let verb = if rsc.failed { "Recover" } else { "Restart" };
                    return make(verb, format!("{}{}", self.shown_role(at, rsc.role), name(to)), reason);
                }
                self.role_change(at, to)
            }
        }
    }

    fn role_word(&self, at: RscIx, role: Role) -> &'static str {
        match role {
            Role::Promoted => "Promoted",
            _ if self.shown_role(at, role).is_empty() => "Started",
            _ => "Unpromoted",
        }
    }

    /// The role before the node's name, where roles matter.
    fn shown_role(&self, at: RscIx, role: Role) -> String {
        let promotable = self
            .world
            .clone_above(at)
            .is_some_and(|c| self.world[c].clone.as_ref().is_some_and(|o| o.promotable));
        if promotable {
            format!("{} ", if role == Role::Promoted { "Promoted" } else { "Unpromoted" })
        } else {
            String::new()
        }
    }

    fn role_change(&self, at: RscIx, node: NodeIx) -> Option<Change> {
        let rsc = &self.world[at];
        let promote = self.existing(at, Task::Promote, Some(node));
        let demote = self.existing(at, Task::Demote, Some(node));
        let required = |s: Option<super::StepIx>| s.is_some_and(|s| self.steps[s.0].required);
        let runnable = |s: Option<super::StepIx>| s.is_some_and(|s| self.steps[s.0].runnable);
        let place = &self.world[node].name;
        let change = |verb: &str, detail: String| {
            let reason = promote
                .and_then(|p| self.steps[p.0].blocked_by.clone())
                .map(|b| format!("{b} (blocked)"))
                .unwrap_or_default();
            Some(Change { verb: verb.into(), subject: rsc.id.clone(), detail, reason })
        };
        match (required(demote), required(promote)) {
            (true, true) if runnable(promote) => change("Re-promote", format!("Promoted {place}")),
            (true, _) => change("Demote", format!("Promoted -> Unpromoted {place}")),
            (false, true) => change("Promote", format!("Unpromoted -> Promoted {place}")),
            _ => None,
        }
    }

    fn start_blocker(&self, at: RscIx, node: NodeIx) -> String {
        let start = self.existing(at, Task::Start, Some(node));
        start.and_then(|s| self.steps[s.0].blocked_by.clone()).unwrap_or_default()
    }

    /// Whether the start is required, and why it cannot be done if so.
    fn start_state(&self, at: RscIx, node: NodeIx) -> Option<(bool, String)> {
        let start = &self.steps[self.existing(at, Task::Start, Some(node))?.0];
        let blocked = match (&start.blocked_by, start.runnable) {
            (_, true) => String::new(),
            (Some(why), false) => format!("{why} (blocked)"),
            (None, false) => "(blocked)".into(),
        };
        Some((start.required, blocked))
    }
}
