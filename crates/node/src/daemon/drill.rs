//! Rehearsing a failover: what would happen, or a real planned move with its times.

use super::{
    model,
    parts::parts,
    passage::Passage,
    site::{Site, unknown},
    world::World,
};
use crate::view::{DrillReport, DrillRequest, DrillTimes, RunState};
use anshin_base::{NodeId, Problem};
use anshin_ledger::state::Service;
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

/// A planned move takes as long as the programs need to stop and start.
const MOVE_LIMIT: Duration = Duration::from_secs(180);
/// How long the points of a move that is over may be on their way.
const TOLD_LIMIT: Duration = Duration::from_secs(2);
/// What the times of a move say and do not say.
const PLANNED: &str =
    "a move was asked for, so there was nothing to detect; its decision is the making of the plan";

/// Where a service can be moved.
///
/// # Errors
/// Why it cannot.
pub fn move_target(world: &World, service: &Service, to: Option<&str>) -> Result<NodeId, Problem> {
    let runs_on = running_on(world, service);
    let usable = |node: NodeId| {
        if !world.alive(node) {
            return Err("it is not heard".to_owned());
        }
        model::why_not(world, service, node).map_or(Ok(()), Err)
    };
    if let Some(name) = to {
        let node =
            world.node_named(name).ok_or_else(|| unknown("node", name, "list them: anshin node list"))?.id;
        return match usable(node) {
            Ok(()) => Ok(node),
            Err(why) => {
                Err(Problem::refused("move-refused", format!("{} cannot run on {name}: {why}", service.name)))
            }
        };
    }
    let mut others = world.state.nodes.keys().copied().filter(|&node| Some(node) != runs_on);
    others.find(|&node| usable(node).is_ok()).ok_or_else(|| {
        Problem::refused("move-refused", format!("no other node can run {} now", service.name))
            .hint(format!("see: anshin explain {}", service.name))
    })
}

/// The node on which the last part of a service runs.
#[must_use]
pub fn running_on(world: &World, service: &Service) -> Option<NodeId> {
    let last = parts(&world.state, service).pop()?;
    let nodes = world.reports.keys().copied().filter(|&node| world.alive(node));
    nodes.into_iter().find(|&node| {
        world.resource(node, &last.id).and_then(super::messages::ResourceReport::running) == Some(true)
    })
}

/// Carries out a rehearsal.
///
/// # Errors
/// If there is nothing to rehearse, or a real move was asked for and cannot be made.
pub async fn drill(site: &Site, request: DrillRequest) -> Result<DrillReport, Problem> {
    let world = site.now();
    let name = match (&request.service, world.state.services.len()) {
        (Some(name), _) => name.clone(),
        (None, 1) => world.state.services.keys().next().cloned().unwrap_or_default(),
        (None, 0) => {
            let problem = Problem::new("service-unknown", "there is no service to rehearse with");
            return Err(problem.hint("protect something first: anshin protect"));
        }
        (None, _) => {
            return Err(Problem::new("service-invalid", "there are several services").hint("name one"));
        }
    };
    let service = world.state.services.get(&name).cloned();
    let service = service.ok_or_else(|| unknown("service", &name, "list them: anshin service list"))?;
    let Some(from) = running_on(&world, &service) else {
        return Err(Problem::new("service-busy", format!("{name} does not run now"))
            .hint(format!("see: anshin explain {name}")));
    };
    if request.failover {
        moved(site, &world, &service, from).await
    } else {
        let mut report = rehearsed(&world, &service, from);
        report.restores = site.rehearse(Some(&name)).await?;
        report.passed &= report.restores.iter().all(|restore| restore.good);
        if report.restores.is_empty() && !world.state.director.records().vaults.is_empty() {
            report.findings.push(format!("{name} was not backed up yet: no restore could be rehearsed"));
        }
        Ok(report)
    }
}

/// What the scheduler would do if the node died, on the live state with that node taken away.
fn rehearsed(world: &World, service: &Service, from: NodeId) -> DrillReport {
    let mut without = world.clone();
    if let Some(heard) = without.heard.get_mut(&from) {
        heard.alive = false;
        heard.dead = true;
    }
    let votes = without.state.nodes.keys().filter(|&&node| node != from && world.alive(node)).count();
    let quorum = votes > without.state.nodes.len() / 2;
    let mut others = without.state.nodes.keys().copied().filter(|&node| node != from && world.alive(node));
    let to = others.find(|&node| model::why_not(&without, service, node).is_none());
    let mut findings = Vec::new();
    findings.push(if quorum {
        "the remaining nodes have quorum".to_owned()
    } else {
        "the remaining nodes would have no quorum: nothing could take over".to_owned()
    });
    findings.push(match to {
        Some(node) => format!("{} holds every acknowledged write and can be promoted", world.name_of(node)),
        None => "no other node holds every acknowledged write".to_owned(),
    });
    DrillReport {
        at: jiff::Timestamp::now().to_string(),
        service: service.name.clone(),
        from: world.name_of(from),
        to: to.map(|node| world.name_of(node)),
        moved: false,
        passed: quorum && to.is_some(),
        findings,
        times: DrillTimes::default(),
        total_ms: None,
        restores: Vec::new(),
    }
}

async fn moved(
    site: &Site,
    world: &Arc<World>,
    service: &Service,
    from: NodeId,
) -> Result<DrillReport, Problem> {
    let at = jiff::Timestamp::now();
    let begun = Instant::now();
    let before = known_passages(world);
    let to = site.move_service(&service.name, None).await?;
    let arrived = site.wait_for(MOVE_LIMIT, |world| {
        running_on(world, service) == Some(to)
            && super::facts::facts(world, String::new())
                .services
                .iter()
                .any(|view| view.name == service.name && view.state == RunState::Running)
    });
    let passed = arrived.await.is_some();
    let total = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    // Whoever leads tells of the last point a moment after the service has arrived.
    let told = |world: &World| {
        new_passage(world, &service.name, &before).is_some_and(|passage| passage.program.is_some())
    };
    let after = match passed {
        true => site.wait_for(TOLD_LIMIT, told).await,
        false => None,
    };
    let after = after.unwrap_or_else(|| site.now());
    let passage = new_passage(&after, &service.name, &before);
    let finding = if passed {
        format!("{} answers on {}", service.name, world.name_of(to))
    } else {
        format!("{} did not come up on {} within {} s", service.name, world.name_of(to), MOVE_LIMIT.as_secs())
    };
    Ok(DrillReport {
        at: at.to_string(),
        service: service.name.clone(),
        from: world.name_of(from),
        to: Some(world.name_of(to)),
        moved: true,
        passed,
        findings: vec![finding, PLANNED.to_owned()],
        times: passage.map(times).unwrap_or_default(),
        total_ms: Some(total),
        restores: Vec::new(),
    })
}

/// Beginnings of the passages that are known. Those who saw them have clocks of their own, so that a new one is one that
/// was not there before.
fn known_passages(world: &World) -> BTreeSet<i64> {
    world.reports.values().flat_map(|report| &report.passages).map(|passage| passage.at_ms).collect()
}

/// The passage of a service that was not known before, as whoever led saw it.
fn new_passage<'a>(world: &'a World, service: &str, before: &BTreeSet<i64>) -> Option<&'a Passage> {
    let all = world.reports.values().flat_map(|report| &report.passages);
    let new = all.filter(|passage| passage.service == service && !before.contains(&passage.at_ms));
    new.max_by_key(|passage| passage.at_ms)
}

/// How long each step took, from the points of a passage.
#[must_use]
pub fn times(passage: &Passage) -> DrillTimes {
    let mut last = 0;
    let mut step = |point: Option<u64>| {
        let took = point?.saturating_sub(last);
        last = point?;
        Some(took)
    };
    DrillTimes {
        detection_ms: step(passage.detected),
        decision_ms: step(passage.decided),
        stop_ms: step(passage.released),
        promotion_ms: step(passage.device.or(passage.promoted)),
        mount_ms: step(passage.mounted),
        address_ms: step(passage.address),
        program_ms: step(passage.program),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_the_differences_of_points_and_missing_points_are_no_steps() {
        let passage = Passage {
            planned: true,
            decided: Some(20),
            released: Some(300),
            promoted: Some(340),
            device: Some(400),
            address: Some(450),
            ..Passage::default()
        };
        let times = times(&passage);
        assert_eq!((times.detection_ms, times.decision_ms, times.stop_ms), (None, Some(20), Some(280)));
        assert_eq!((times.promotion_ms, times.mount_ms, times.address_ms), (Some(100), None, Some(50)));
        assert_eq!(times.program_ms, None);
    }
}
