//! Orders between resources become edges between their steps.

use super::step::Phase;
use super::{Actor, Edge, StepIx, Task};
use crate::world::{Kind, NodeIx, RscIx};
use crate::{Order, OrderEnd, OrderKind, OrderSets};

/// One direction of an order, resolved.
struct Rule<'a> {
    first: RscIx,
    first_phase: Phase,
    then: RscIx,
    then_phase: Phase,
    kind: OrderKind,
    symmetrical: bool,
    require_all: bool,
    /// This is the reverse of what was written: it is driven by what comes second.
    reverse: bool,
    id: &'a str,
}

impl<'c> Actor<'_, 'c> {
    pub(super) fn apply_orders(&mut self) {
        let cluster = self.world.cluster;
        for order in &cluster.orders {
            self.apply_order(order);
        }
        for sets in &cluster.order_sets {
            self.apply_sets(sets);
        }
    }

    fn apply_order(&mut self, order: &Order) {
        let (Some(first), Some(then)) =
            (self.world.find_resource(&order.first.resource), self.world.find_resource(&order.then.resource))
        else {
            return;
        };
        let (Some(first_phase), Some(then_phase)) =
            (Phase::parse(&order.first.action), Phase::parse(&order.then.action))
        else {
            return;
        };
        let min = self.world[first].clone.as_ref().map_or(0, |c| c.min);
        let rule = Rule {
            first,
            first_phase,
            then,
            then_phase,
            kind: order.kind,
            symmetrical: order.symmetrical,
            require_all: order.require_all && min == 0,
            reverse: false,
            id: &order.id,
        };
        self.apply_rule(&rule);
        if order.symmetrical {
            self.apply_rule(&Rule {
                first: then,
                first_phase: then_phase.opposite(),
                then: first,
                then_phase: first_phase.opposite(),
                reverse: true,
                ..rule
            });
        }
    }

    fn apply_rule(&mut self, rule: &Rule<'_>) {
        if let Some(pairs) = self.interleaved(rule) {
            for (first, then) in pairs {
                let firsts = self.phase_steps(first, rule.first_phase);
                self.apply_pair(rule, first, &firsts, then);
            }
            return;
        }
        let firsts = self.phase_steps(rule.first, rule.first_phase);
        self.apply_pair(rule, rule.first, &firsts, rule.then);
    }

    fn phase_steps(&self, at: RscIx, phase: Phase) -> Vec<StepIx> {
        self.world.primitives_in(at).iter().flat_map(|p| self.steps_of(*p, phase.task())).collect()
    }

    /// Pairs of instances on the same node, if the second resource is an interleaved clone.
    fn interleaved(&mut self, rule: &Rule<'_>) -> Option<Vec<(RscIx, RscIx)>> {
        let dependent = if rule.reverse { rule.first } else { rule.then };
        let clones = self.world[rule.first].kind == Kind::Clone && self.world[rule.then].kind == Kind::Clone;
        let counted = self.world[if rule.reverse { rule.then } else { rule.first }]
            .clone
            .as_ref()
            .is_some_and(|c| c.min > 0);
        if !clones || counted || !self.world[dependent].clone.as_ref().is_some_and(|c| c.interleave) {
            return None;
        }
        let (mut pairs, mut lonely) = (Vec::new(), Vec::new());
        for then in &self.world[rule.then].children {
            let here = self.phase_nodes(*then, rule.then_phase);
            for first in &self.world[rule.first].children {
                let there = self.phase_nodes(*first, rule.first_phase);
                if here.iter().any(|n| there.contains(n)) {
                    pairs.push((*first, *then));
                }
            }
            if !rule.reverse
                && rule.require_all
                && !here.is_empty()
                && !pairs.iter().any(|(_, t)| t == then)
                && rule.kind == OrderKind::Mandatory
                && matches!(rule.first_phase, Phase::Start | Phase::Promote)
            {
                lonely.push(*then);
            }
        }
        for then in lonely {
            // No partner on that node: there is nothing this instance could lean on.
            for member in self.world.primitives_in(then) {
                self.withdraw(member);
            }
        }
        Some(pairs)
    }

    /// The instance does not run after all.
    fn withdraw(&mut self, at: RscIx) {
        if !self.world[at].managed {
            return;
        }
        for start in self.steps_of(at, Task::Start) {
            self.block(start, "node availability");
        }
        self.world[at].assigned = None;
        self.world[at].next_role = crate::Role::Stopped;
        for stop in self.steps_of(at, Task::Stop) {
            self.require(stop, "node availability");
        }
    }

    fn phase_nodes(&self, at: RscIx, phase: Phase) -> Vec<NodeIx> {
        self.phase_steps(at, phase).into_iter().filter_map(|s| self.steps[s.0].node).collect()
    }

    fn apply_pair(&mut self, rule: &Rule<'_>, first: RscIx, firsts: &[StepIx], then: RscIx) {
        let pairwise = (first, then) != (rule.first, rule.then);
        let thens = self.phase_steps(then, rule.then_phase);
        let what = if self.world[first].kind == Kind::Primitive {
            rule.first_phase.begin_name()
        } else {
            rule.first_phase.done_name()
        };
        let why = format!("{} {what}", self.world[first].id);
        let before = if self.world[first].kind == Kind::Primitive && firsts.len() == 1 || rule.reverse {
            firsts.to_vec()
        } else {
            let one = self.completion(first, firsts, rule);
            one.into_iter().collect()
        };
        if before.is_empty()
            && !rule.reverse
            && rule.kind == OrderKind::Mandatory
            && rule.first_phase != Phase::Stop
            && rule.first_phase != Phase::Demote
        {
            for then in &thens {
                if self.steps[then.0].required || rule.symmetrical {
                    self.block(*then, &format!("unrunnable {why}"));
                }
            }
            return;
        }
        for first in &before {
            for then in &thens {
                self.connect(self.edge(rule, *first, *then, &why, pairwise));
            }
        }
    }

    fn edge(&self, rule: &Rule<'_>, first: StepIx, then: StepIx, why: &str, pairwise: bool) -> Edge {
        let end = if rule.reverse { (rule.then, rule.then_phase) } else { (rule.first, rule.first_phase) };
        let whole = (self.world[end.0].kind == Kind::Clone && !pairwise).then(|| (end.0, end.1.task()));
        let base = Edge { why: why.to_owned(), whole, ..Edge::sequence(first, then) };
        match (rule.kind, rule.reverse, rule.symmetrical) {
            (OrderKind::Optional | OrderKind::Serialize, ..) => base,
            // The second must be gone before the first may go.
            (_, true, _) => Edge { pulls_first: true, needs: true, ..base },
            (_, false, true) => Edge { needs: true, pulls_then: true, ..base },
            (_, false, false) => Edge { needs_if_required: true, ..base },
        }
    }

    /// A marker that is reached when the first resource is done with its phase.
    fn completion(&mut self, at: RscIx, steps: &[StepIx], rule: &Rule<'_>) -> Option<StepIx> {
        if steps.is_empty() {
            return None;
        }
        let done = self.step(at, Task::Done(rule.first_phase), None);
        let clone = self.world[at].kind == Kind::Clone;
        if !clone {
            for step in steps {
                self.connect(Edge { pulls_then: true, ..Edge::need(*step, done) });
            }
            return Some(done);
        }
        for step in steps {
            self.connect(Edge { pulls_then: true, ..Edge::sequence(*step, done) });
        }
        if matches!(rule.first_phase, Phase::Start | Phase::Promote) {
            let min = self.world[at].clone.as_ref().map_or(1, |c| c.min.max(1));
            let why = if min > 1 || !rule.require_all {
                format!("clone-one-or-more:{}", rule.id)
            } else {
                format!("{} {}", self.world[at].id, rule.first_phase.done_name())
            };
            self.any_of.push((steps.to_vec(), done, min, why));
        }
        Some(done)
    }

    fn apply_sets(&mut self, order: &OrderSets) {
        let end =
            |resource: &str, action: &str| OrderEnd { resource: resource.into(), action: action.into() };
        let pair = |first: OrderEnd, then: OrderEnd| Order {
            id: order.id.clone(),
            first,
            then,
            kind: order.kind,
            symmetrical: order.symmetrical,
            require_all: true,
        };
        for set in &order.sets {
            if set.sequential {
                for two in set.resources.windows(2) {
                    self.apply_order(&pair(end(&two[0], &set.action), end(&two[1], &set.action)));
                }
            }
        }
        for two in order.sets.windows(2) {
            let (first, then) = (&two[0], &two[1]);
            let then_members: Vec<&String> = if then.sequential {
                then.resources.first().into_iter().collect()
            } else {
                then.resources.iter().collect()
            };
            if !first.require_all {
                self.apply_any_of(order, first, &then_members, &then.action);
                continue;
            }
            let first_members: Vec<&String> = if first.sequential {
                first.resources.last().into_iter().collect()
            } else {
                first.resources.iter().collect()
            };
            for f in &first_members {
                for t in &then_members {
                    self.apply_order(&pair(end(f, &first.action), end(t, &then.action)));
                }
            }
        }
    }

    /// One member of the first set is enough.
    fn apply_any_of(
        &mut self,
        order: &OrderSets,
        set: &crate::OrderSet,
        thens: &[&String],
        then_action: &str,
    ) {
        let (Some(first_phase), Some(then_phase)) = (Phase::parse(&set.action), Phase::parse(then_action))
        else {
            return;
        };
        let firsts: Vec<StepIx> = set
            .resources
            .iter()
            .filter_map(|r| self.world.find_resource(r))
            .flat_map(|r| self.phase_steps(r, first_phase))
            .collect();
        let why = format!("one-or-more:{}", set.id);
        for then in thens {
            let Some(at) = self.world.find_resource(then) else { continue };
            for step in self.phase_steps(at, then_phase) {
                if order.kind == OrderKind::Mandatory {
                    self.any_of.push((firsts.clone(), step, 1, why.clone()));
                }
                for first in &firsts {
                    self.connect(Edge::sequence(*first, step));
                }
            }
        }
    }
}
