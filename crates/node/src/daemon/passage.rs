//! How a service got from one node to another, point by point, as one daemon saw it: what a failover or a move took.
//!
//! All points are on the monotonic clock of the daemon that saw them, counted from the beginning: of a failover the last
//! sign of life of the lost node, of a move the moment at which it was asked for. The daemon whose voter decided records; it
//! goes on observing from the nodes' reports should it cease to lead. Pure.

use super::{
    drill,
    parts::{parts, services},
    world::World,
};
use anshin_base::{GroupId, Millis, Mono, NodeId};
use anshin_ledger::state::Service;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Passages kept and told.
const KEPT_MAX: usize = 10;
/// A passage that is not over by then did not get to its end.
const GIVEN_UP_AFTER: Millis = Millis(180_000);

/// One service's way from one node to another. Points are milliseconds since the beginning; None: not taken, or not yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passage {
    /// The service.
    pub service: String,
    /// Whether it was asked for; otherwise a node was lost.
    pub planned: bool,
    /// Where it ran.
    pub from: NodeId,
    /// Where it goes.
    pub to: Option<NodeId>,
    /// When it began, milliseconds since 1970 on the clock of the node that recorded it; for people.
    pub at_ms: i64,
    /// The loss was noticed.
    pub detected: Option<u64>,
    /// It was decided what to do: the promotion was proposed, or the move's plan made.
    pub decided: Option<u64>,
    /// The old primary gave up its role (moves only).
    pub released: Option<u64>,
    /// The promotion was recorded in the ledger.
    pub promoted: Option<u64>,
    /// The device was there.
    pub device: Option<u64>,
    /// The file system was mounted.
    pub mounted: Option<u64>,
    /// The address was there.
    pub address: Option<u64>,
    /// The program ran.
    pub program: Option<u64>,
}

/// What the deciding voter said of a promotion.
#[derive(Clone, Copy, Debug)]
pub struct Lost {
    /// The replication group that gets a new primary.
    pub group: GroupId,
    /// The node of the old primary, which was judged dead.
    pub node: NodeId,
    /// How long ago it was heard last.
    pub heard_ago: Millis,
    /// How long ago it was judged dead.
    pub judged_ago: Millis,
}

#[derive(Debug)]
struct Open {
    begun: Mono,
    passage: Passage,
}

/// Records passages.
#[derive(Debug, Default)]
pub struct Recorder {
    open: Vec<Open>,
    kept: VecDeque<Passage>,
}

impl Recorder {
    /// The voter here decided on a new primary because the old one's node was lost. `wall_ms` is now since 1970.
    pub fn lost(&mut self, world: &World, lost: Lost, now: Mono, wall_ms: i64) {
        let Some(volume) = world.state.volume_of(lost.group) else { return };
        let all = services(&world.state);
        let Some(service) = all.iter().find(|known| known.volume.as_ref() == Some(&volume.name)) else {
            return;
        };
        // A proposal that is repeated decides nothing new.
        let same = |open: &Open| open.passage.service == service.name && open.passage.from == lost.node;
        if self.open.iter().any(|open| same(open) && !open.passage.planned) {
            return;
        }
        // A move whose node dies on the way ends as a failover.
        self.open.retain(|open| open.passage.service != service.name);
        let begun = Mono(now.0.saturating_sub(lost.heard_ago.0.saturating_mul(1_000_000)));
        let since = |ago: Millis| Some(lost.heard_ago.0.saturating_sub(ago.0));
        let at_ms = wall_ms.saturating_sub(i64::try_from(lost.heard_ago.0).unwrap_or(0));
        self.open.push(Open {
            begun,
            passage: Passage {
                service: service.name.clone(),
                from: lost.node,
                at_ms,
                detected: since(lost.judged_ago),
                decided: Some(lost.heard_ago.0),
                ..Passage::default()
            },
        });
    }

    /// Looks for moves that were asked for. To be called by the daemon that leads; `planning` while it carries out a plan.
    pub fn lead(&mut self, world: &World, planning: bool, now: Mono, wall_ms: i64) {
        for service in world.state.services.values() {
            let open = self.open.iter_mut().find(|open| open.passage.service == service.name);
            if let Some(open) = open {
                if planning && open.passage.planned {
                    open.passage.decided.get_or_insert(now.since(open.begun).0);
                }
                continue;
            }
            let from = drill::running_on(world, service);
            if let (Some(to), Some(from)) = (service.preferred, from)
                && to != from
            {
                let passage = Passage {
                    service: service.name.clone(),
                    planned: true,
                    from,
                    to: Some(to),
                    at_ms: wall_ms,
                    ..Passage::default()
                };
                self.open.push(Open { begun: now, passage });
            }
        }
    }

    /// Notes what has come true since the last look.
    pub fn observe(&mut self, world: &World, now: Mono) {
        let all = services(&world.state);
        let mut over = Vec::new();
        self.open.retain_mut(|open| {
            let since = now.since(open.begun);
            let service = all.iter().find(|service| service.name == open.passage.service);
            let arrived = service.is_none_or(|service| observe(world, service, &mut open.passage, since.0));
            let ended = arrived || since >= GIVEN_UP_AFTER;
            if ended {
                over.push(open.passage.clone());
            }
            !ended
        });
        self.kept.extend(over);
        while self.kept.len() > KEPT_MAX {
            self.kept.pop_front();
        }
    }

    /// Every passage that is known, oldest first.
    #[must_use]
    pub fn passages(&self) -> Vec<Passage> {
        self.kept.iter().chain(self.open.iter().map(|open| &open.passage)).cloned().collect()
    }
}

/// Notes what is true by now; true once everything is.
fn observe(world: &World, service: &Service, passage: &mut Passage, since: u64) -> bool {
    let volume = service.volume.as_ref().and_then(|name| world.state.volumes.get(name));
    let primary = volume.and_then(|volume| world.primary_node(volume));
    if passage.planned && primary != Some(passage.from) {
        passage.released.get_or_insert(since);
    }
    let wanted = |node: NodeId| passage.to.map_or(node != passage.from, |to| to == node);
    let to = match volume {
        Some(_) => primary.filter(|node| wanted(*node)),
        None => passage.to,
    };
    let Some(to) = to else { return false };
    passage.to = Some(to);
    passage.promoted.get_or_insert(since);
    let all = parts(&world.state, service);
    let mut arrived = true;
    let last = all.last().map(|part| part.id.clone());
    for part in &all {
        let runs = world.resource(to, &part.id).and_then(super::messages::ResourceReport::running);
        if runs != Some(true) {
            arrived = false;
            continue;
        }
        let point = match part.id.rsplit_once('.').map(|(_, name)| name) {
            Some("volume") => &mut passage.device,
            Some("mount") => &mut passage.mounted,
            Some("address") => &mut passage.address,
            _ if Some(&part.id) == last.as_ref() => &mut passage.program,
            _ => continue,
        };
        point.get_or_insert(since);
    }
    arrived
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::fixture;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn at(ms: u64) -> Mono {
        Mono(0).after(Millis(10_000 + ms))
    }

    /// Service `db` runs on node 1 and is to be on node 2.
    fn running_on_a() -> World {
        let mut world = fixture::site();
        fixture::set_primary(&mut world, "data", 1);
        fixture::run_everything(&mut world, "db", A);
        world
    }

    fn arrive_on_b(world: &mut World) {
        fixture::set_primary(world, "data", 2);
        world.reports.values_mut().for_each(|report| report.resources.clear());
        fixture::run_everything(world, "db", B);
    }

    #[test]
    fn a_failover_is_counted_from_the_last_sign_of_the_lost_node() {
        let mut world = running_on_a();
        let mut recorder = Recorder::default();
        let group = world.state.volumes["data"].group;
        let lost = Lost { group, node: A, heard_ago: Millis(1_100), judged_ago: Millis(60) };
        recorder.lost(&world, lost, at(1_100), 5_000);
        recorder.lost(&world, Lost { heard_ago: Millis(1_200), ..lost }, at(1_200), 5_100);
        recorder.observe(&world, at(1_150));
        let [first] = &recorder.passages()[..] else { panic!("one passage") };
        assert_eq!((first.at_ms, first.detected, first.decided), (3_900, Some(1_040), Some(1_100)));
        assert_eq!((first.to, first.promoted), (None, None));
        fixture::set_primary(&mut world, "data", 2);
        recorder.observe(&world, at(1_200));
        arrive_on_b(&mut world);
        recorder.observe(&world, at(1_900));
        recorder.observe(&world, at(2_500));
        let [over] = &recorder.passages()[..] else { panic!("one passage") };
        assert_eq!((over.to, over.promoted), (Some(B), Some(1_200)));
        assert_eq!([over.device, over.mounted, over.address, over.program], [Some(1_900); 4]);
        assert_eq!(over.released, None, "a dead primary releases nothing");
    }

    #[test]
    fn a_move_has_nothing_to_detect_and_is_decided_when_its_plan_is_made() {
        let mut world = running_on_a();
        let mut recorder = Recorder::default();
        recorder.lead(&world, true, at(0), 5_000);
        assert_eq!(recorder.passages(), []);
        fixture::prefer(&mut world, "db", B);
        recorder.lead(&world, false, at(100), 5_100);
        recorder.lead(&world, true, at(120), 5_120);
        recorder.observe(&world, at(130));
        arrive_on_b(&mut world);
        recorder.observe(&world, at(700));
        let [moved] = &recorder.passages()[..] else { panic!("one passage") };
        assert!(moved.planned && moved.detected.is_none());
        assert_eq!((moved.decided, moved.released, moved.program), (Some(20), Some(600), Some(600)));
    }
}
