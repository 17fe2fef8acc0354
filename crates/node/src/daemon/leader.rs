//! What the leading daemon does with a plan: asks nodes to run its actions in order, proposes promotions, starts over
//! when the site changed. Sans-IO: it looks at a [`World`] and gives commands.

use super::{
    messages::{Message, Order, Record, Work},
    model,
    parts::{Part, parts, services},
    transition::Transition,
    world::World,
};
use anshin_agent::Rc;
use anshin_base::{Generation, GroupChange, Member, Millis, Mono, NodeId};
use anshin_ledger::state::Volume;
use anshin_policy::{Action, ActionId, ActionKind, Plan, UnixSeconds};
use std::collections::{BTreeMap, hash_map::DefaultHasher};
use std::hash::{Hash, Hasher};

/// After a plan that failed the next one waits this long, unless the site changed.
const PAUSE_AFTER_FAILURE: Millis = Millis(500);
/// An order that was not answered is sent again after this.
const ASK_AGAIN: Millis = Millis(500);
/// An order that is not answered by then counts as failed: its own timeout, plus this for the way.
const ORDER_SLACK: Millis = Millis(2_000);

/// Something for the daemon to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Send to a node's daemon (which may be the own one).
    Send(NodeId, Message),
    /// Propose to the ledger; the result shows in the next world.
    Propose(GroupChange),
    /// For the log, the audit and the console.
    Happened {
        /// What it concerns.
        subject: String,
        /// What.
        what: String,
        /// Why.
        why: String,
    },
}

/// Where an action that has begun stands.
#[derive(Clone, Debug)]
enum Open {
    /// A node was asked with this order, last at `sent`.
    Asked { order: Box<Order>, node: NodeId, sent: Mono, until: Mono },
    /// A volume's promotion was proposed against this generation; the node is asked once it is recorded.
    Promoting { proposed: Option<Generation>, until: Mono },
}

/// The leading daemon's state. Dropped when leadership is lost: a successor needs nothing of it.
#[derive(Debug, Default)]
pub struct Leader {
    transition: Option<Transition>,
    open: BTreeMap<ActionId, Open>,
    signature: u64,
    request_last: u64,
    pause_until: Option<Mono>,
}

impl Leader {
    /// A leader whose orders are numbered from `start`, a random number, so that an answer to an earlier leader's order
    /// is never taken for one to this one's.
    #[must_use]
    pub fn new(start: u64) -> Self {
        Self { request_last: start, ..Self::default() }
    }

    /// An order was answered; the world holds what came of it.
    pub fn ran(&mut self, world: &World, request: u64, well: bool) {
        let asked = self.open.iter().find_map(|(id, open)| match open {
            Open::Asked { order, node, .. } if order.request == request => Some((*id, order, *node)),
            _ => None,
        });
        let Some((id, order, node)) = asked else { return };
        if well || !found(world, order, node) {
            return self.end(id, well);
        }
        self.open.remove(&id);
        if let Some(transition) = &mut self.transition {
            transition.found(id);
        }
    }

    /// Looks at the site and goes on: plans if nothing is under way, begins what can begin.
    pub fn step(&mut self, world: &World, now: Mono, clock: i64) -> Vec<Command> {
        let mut out = Vec::new();
        let signature = signature(world);
        if let Some(transition) = &mut self.transition
            && signature != self.signature
        {
            transition.abort("the site changed");
        }
        self.give_up_lost(world, now);
        self.ask_again(now, &mut out);
        self.finish(signature, now, &mut out);
        if self.transition.is_none() && self.may_plan(signature, now) {
            self.plan(world, signature, clock, &mut out);
        }
        let begun = self.transition.as_mut().map(Transition::begin).unwrap_or_default();
        for action in begun {
            self.begin(world, &action, now, &mut out);
        }
        self.promote(world, now, &mut out);
        self.finish(signature, now, &mut out);
        out
    }

    /// The plan under way, if there is one.
    #[must_use]
    pub fn transition(&self) -> Option<&Transition> {
        self.transition.as_ref()
    }

    fn may_plan(&mut self, signature: u64, now: Mono) -> bool {
        if signature != self.signature || self.pause_until.is_none_or(|until| now >= until) {
            self.pause_until = None;
            return true;
        }
        false
    }

    fn plan(&mut self, world: &World, signature: u64, clock: i64, out: &mut Vec<Command>) {
        self.signature = signature;
        let plan: Plan = anshin_policy::plan(&model::cluster(world), UnixSeconds(clock));
        if plan.is_empty() {
            return;
        }
        for change in &plan.changes {
            out.push(Command::Happened {
                subject: change.subject.clone(),
                what: format!("{} {}", change.verb, change.detail).trim().to_owned(),
                why: change.reason.clone(),
            });
        }
        self.transition = Some(Transition::new(plan));
    }

    fn finish(&mut self, signature: u64, now: Mono, out: &mut Vec<Command>) {
        if !self.transition.as_ref().is_some_and(Transition::is_over) {
            return;
        }
        let Some(over) = self.transition.take() else { return };
        self.open.clear();
        if let Some(why) = over.aborted() {
            // A plan cut short by a change is followed by the next at once, one that failed after a pause.
            if signature == self.signature && !over.surprised() {
                self.pause_until = Some(now.after(PAUSE_AFTER_FAILURE));
            }
            let what = "plans anew".to_owned();
            out.push(Command::Happened { subject: "site".into(), what, why: why.to_owned() });
        }
    }

    fn end(&mut self, id: ActionId, well: bool) {
        self.open.remove(&id);
        if let Some(transition) = &mut self.transition {
            transition.ended(id, well);
        }
    }

    fn give_up_lost(&mut self, world: &World, now: Mono) {
        let lost = self.open.iter().filter(|(_, open)| match open {
            Open::Asked { node, until, .. } => !world.alive(*node) || now > *until,
            Open::Promoting { until, .. } => now > *until,
        });
        let lost: Vec<ActionId> = lost.map(|(id, _)| *id).collect();
        for id in lost {
            self.end(id, false);
        }
    }

    /// Orders and answers can be lost on the way; a node that has an order already does not run it twice.
    fn ask_again(&mut self, now: Mono, out: &mut Vec<Command>) {
        for open in self.open.values_mut() {
            if let Open::Asked { order, node, sent, .. } = open
                && now.since(*sent) >= ASK_AGAIN
            {
                *sent = now;
                out.push(Command::Send(*node, Message::Run((**order).clone())));
            }
        }
    }

    fn begin(&mut self, world: &World, action: &Action, now: Mono, out: &mut Vec<Command>) {
        let node = action.node.as_deref().and_then(|name| world.node_named(name)).map(|node| node.id);
        let part = action.resource.as_deref().and_then(|id| part_named(world, id));
        let (Some(node), Some(part)) = (node, part) else {
            // Nothing of ours: a resource that left the configuration, or a step for machines we cannot fence.
            self.end(action.id, true);
            return;
        };
        let interval = Millis(action.interval_ms);
        let operation = match action.kind {
            ActionKind::Start if matches!(part.work, Work::Volume { .. }) => {
                let until = now.after(part.start);
                self.open.insert(action.id, Open::Promoting { proposed: None, until });
                return;
            }
            ActionKind::Start => "start",
            ActionKind::Stop => "stop",
            ActionKind::Probe | ActionKind::Monitor => "monitor",
            ActionKind::Cancel => {
                let operation = action.operation.clone();
                let message = Message::Cancel { resource: part.id, operation, interval };
                out.push(Command::Send(node, message));
                self.end(action.id, true);
                return;
            }
            ActionKind::ClearFailures | ActionKind::DeleteHistory => {
                out.push(Command::Send(node, Message::CleanUp { resource: part.id }));
                self.end(action.id, true);
                return;
            }
            _ => {
                self.end(action.id, true);
                return;
            }
        };
        self.ask(action, node, &part, operation, now, out);
    }

    fn ask(
        &mut self,
        action: &Action,
        node: NodeId,
        part: &Part,
        operation: &str,
        now: Mono,
        out: &mut Vec<Command>,
    ) {
        self.request_last = self.request_last.wrapping_add(1);
        let timeout = Millis(action.timeout_ms.max(1_000));
        let order = Order {
            request: self.request_last,
            resource: part.id.clone(),
            work: part.work.clone(),
            operation: operation.to_owned(),
            interval: Millis(action.interval_ms),
            timeout,
            expected: u8::try_from(action.expected).unwrap_or(0),
            needs_mount: part.needs_mount.clone(),
        };
        let until = now.after(timeout).after(ORDER_SLACK);
        self.open.insert(action.id, Open::Asked { order: Box::new(order.clone()), node, sent: now, until });
        out.push(Command::Send(node, Message::Run(order)));
    }

    /// Volumes that should be started: proposes their promotion (R3: the ledger's leader does that), and asks the node
    /// once it is recorded.
    fn promote(&mut self, world: &World, now: Mono, out: &mut Vec<Command>) {
        let promoting: Vec<ActionId> = self
            .open
            .iter()
            .filter(|(_, open)| matches!(open, Open::Promoting { .. }))
            .map(|(id, _)| *id)
            .collect();
        for id in promoting {
            let action = self.transition.as_ref().and_then(|transition| {
                transition.plan().actions.iter().find(|action| action.id == id).cloned()
            });
            let Some(action) = action else { continue };
            let part = action.resource.as_deref().and_then(|id| part_named(world, id));
            let node = action.node.as_deref().and_then(|name| world.node_named(name)).map(|node| node.id);
            let (Some(part), Some(node)) = (part, node) else {
                self.end(id, false);
                continue;
            };
            let Work::Volume { volume } = &part.work else { continue };
            let Some(volume) = world.state.volumes.get(volume) else {
                self.end(id, false);
                continue;
            };
            match next_for_promotion(world, volume, node) {
                Promotion::Recorded => self.ask(&action, node, &part, "start", now, out),
                Promotion::Wait => {}
                // The leading voter promoted another node meanwhile: the next plan follows it.
                Promotion::Elsewhere => self.end(id, false),
                Promotion::Propose(generation, candidate) => {
                    if let Some(Open::Promoting { proposed, .. }) = self.open.get_mut(&id)
                        && *proposed != Some(generation)
                    {
                        *proposed = Some(generation);
                        let group = volume.group;
                        out.push(Command::Propose(GroupChange::Promote {
                            group,
                            expect: generation,
                            candidate,
                        }));
                    }
                }
            }
        }
    }
}

/// Whether an order was a first look, and the look found something that runs or something that does not.
fn found(world: &World, order: &Order, node: NodeId) -> bool {
    let probe = |record: &&Record| record.operation == "monitor" && record.interval.0 == 0;
    let known = world.resource(node, &order.resource);
    let record = known.and_then(|known| known.records.iter().find(probe));
    order.operation == "monitor"
        && order.interval.0 == 0
        && record.is_some_and(|record| [Rc::OK, Rc::NOT_RUNNING].contains(&record.result.rc))
}

#[derive(Debug, PartialEq, Eq)]
enum Promotion {
    /// The node's live replica is the recorded primary.
    Recorded,
    /// The node's replica is not known yet, or a dead primary is about to be replaced: wait.
    Wait,
    /// Another node is primary and alive.
    Elsewhere,
    /// Propose this candidate against this generation.
    Propose(Generation, Member),
}

fn next_for_promotion(world: &World, volume: &Volume, node: NodeId) -> Promotion {
    let (Some(entry), Some(live)) = (world.entry(volume), world.live_member(volume, node)) else {
        return Promotion::Wait;
    };
    if entry.primary == Some(live) {
        return Promotion::Recorded;
    }
    // A living primary gives up its role by itself (its stop comes before our start); only the leading voter replaces
    // one that died.
    if entry.primary.is_some() {
        let other = world.primary_node(volume).filter(|&primary| primary != node && world.alive(primary));
        return if other.is_some() { Promotion::Elsewhere } else { Promotion::Wait };
    }
    match world.choose(volume, Some(node)) {
        Ok(candidate) if candidate == live => Promotion::Propose(entry.generation, candidate),
        _ => Promotion::Wait,
    }
}

fn part_named(world: &World, id: &str) -> Option<Part> {
    let (name, _) = id.rsplit_once('.')?;
    let service = services(&world.state).into_iter().find(|service| service.name == name)?;
    parts(&world.state, &service).into_iter().find(|part| part.id == id)
}

/// What a plan rests on besides the results of its own actions. Another value means: plan anew.
fn signature(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    for node in world.state.nodes.values() {
        let settled = model::settled(world, node.id);
        (node.id, world.alive(node.id), settled, format!("{:?}", node.state)).hash(&mut hasher);
    }
    for service in services(&world.state) {
        format!("{service:?}").hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::fixture;

    #[test]
    fn a_volume_is_promoted_in_the_ledger_before_its_node_is_asked_to_start_it() {
        let mut world = fixture::site();
        let volume = world.state.volumes["data"].clone();
        let live = world.live_member(&volume, NodeId(2)).unwrap();
        assert_eq!(next_for_promotion(&world, &volume, NodeId(2)), Promotion::Propose(Generation(3), live));
        fixture::set_primary(&mut world, "data", 2);
        assert_eq!(next_for_promotion(&world, &volume, NodeId(2)), Promotion::Recorded);
    }

    #[test]
    fn a_living_primary_is_never_replaced_by_the_daemon() {
        let mut world = fixture::site();
        fixture::set_primary(&mut world, "data", 1);
        let volume = world.state.volumes["data"].clone();
        assert_eq!(next_for_promotion(&world, &volume, NodeId(2)), Promotion::Elsewhere);
    }
}
