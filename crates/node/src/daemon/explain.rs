//! Why something is as it is.

use super::{model, site::unknown, world::World};
use crate::view::{Explanation, FENCING, NO_BACKUP, Reason, SiteStatus, age};
use anshin_base::Problem;
use anshin_policy::UnixSeconds;

fn reason(what: impl Into<String>, why: impl Into<String>) -> Reason {
    Reason { what: what.into(), why: why.into() }
}

/// Explains a service, volume or node by its name.
///
/// # Errors
/// If there is no such thing.
pub fn explain(world: &World, status: &SiteStatus, subject: &str) -> Result<Explanation, Problem> {
    if world.state.services.contains_key(subject) {
        return Ok(service(world, status, subject));
    }
    if world.state.volumes.contains_key(subject) {
        return Ok(volume(world, status, subject));
    }
    if world.node_named(subject).is_some() {
        return Ok(node(world, status, subject));
    }
    if subject == FENCING {
        return Ok(fencing(status));
    }
    if subject == NO_BACKUP {
        return Ok(backup(status));
    }
    Err(unknown("service, volume or node", subject, "names are in: anshin status"))
}

fn limits(status: &SiteStatus) -> impl Iterator<Item = Reason> {
    status
        .limits
        .iter()
        .map(|limit| reason(limit.sentence.clone(), format!("more: anshin explain {}", limit.subject)))
}

/// What can be brought back, and what cannot.
fn backup(status: &SiteStatus) -> Explanation {
    let limit = status.limits.iter().find(|limit| limit.subject == NO_BACKUP);
    let backups = &status.facts.backups;
    let answer = match limit {
        Some(limit) => limit.sentence.clone(),
        None => format!("{} things are protected by {} vaults", backups.things.len(), backups.vaults.len()),
    };
    let because = match limit {
        Some(_) => vec![
            reason("copies are no backup", "a copy follows its primary, in a deletion as in everything else"),
            reason(
                "a small third box can keep backups",
                "join it with: anshin join TOKEN --role witness,vault",
            ),
        ],
        None => backups.things.iter().map(|thing| reason(&thing.target, thing.reasons.join("; "))).collect(),
    };
    Explanation { subject: NO_BACKUP.to_owned(), answer, because, rejected: Vec::new() }
}

/// What excludes a server that is lost, and what does not (R11, docs/decisions/0004).
fn fencing(status: &SiteStatus) -> Explanation {
    let times = &status.facts.times;
    let limit = status.limits.iter().find(|limit| limit.subject == FENCING);
    let answer = limit.map_or_else(
        || "no address of this site can be held by two servers".to_owned(),
        |limit| limit.sentence.clone(),
    );
    let lease = age(times.lease_ms);
    let because = vec![
        reason(
            "a lost server cannot write",
            "every copy refuses writes of an older generation, and the next primary has a newer one",
        ),
        reason(
            "a cut-off server drops its addresses",
            format!("its guard does so when the lease of {lease} ends, before another server may take them"),
        ),
        reason(
            "a server that stands still cannot do that",
            format!(
                "no process of it runs; the kernel drops an address that is not renewed within {}",
                age(times.address_left_ms)
            ),
        ),
        reason(
            "a virtual machine that is paused stops its clock, too",
            "it answers nobody while it is paused, and counts the rest of that time after it wakes",
        ),
        reason(
            "what it may answer until then",
            "what it held when it stood still: a read can be old, and a write is not acknowledged",
        ),
    ];
    let rejected = limit.map(|_| {
        reason(
            "wait for the paused server to be gone before its address is taken",
            "nobody can tell a paused server from a dead one; switching it off from outside would, and is not there yet",
        )
    });
    Explanation { subject: FENCING.to_owned(), answer, because, rejected: rejected.into_iter().collect() }
}

fn decisions(world: &World, subject: &str) -> Vec<Reason> {
    let about = world
        .state
        .decisions
        .iter()
        .rev()
        .filter(|decision| decision.subject.ends_with(&format!("/{subject}")));
    about.take(5).map(|decision| reason(decision.what.clone(), decision.reason.clone())).collect()
}

fn service(world: &World, status: &SiteStatus, name: &str) -> Explanation {
    let view = status.facts.services.iter().find(|service| service.name == name);
    let answer = view.map_or_else(String::new, |view| {
        let place = view.node.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
        format!(
            "{name} is {}{place}: {}",
            serde_json::to_value(view.state)
                .map_or_else(|_| String::new(), |state| state.as_str().unwrap_or_default().to_owned()),
            view.why
        )
    });
    let clock = jiff::Timestamp::now().as_second();
    let plan = anshin_policy::plan(&model::cluster(world), UnixSeconds(clock));
    let mut because = Vec::new();
    let first = plan.placements.iter().find(|placement| placement.resource.starts_with(&format!("{name}.")));
    if let Some(placement) = first {
        let scores: Vec<String> =
            placement.scores.iter().map(|(node, score)| format!("{node} {score}")).collect();
        because.push(reason("how much each node is wanted", scores.join(", ")));
        because.extend(placement.reasons.iter().map(|line| reason(line.clone(), "")));
    }
    because.extend(limits(status));
    because.extend(decisions(world, name));
    let rejected = world.state.services.get(name).map(|service| {
        let others = world.state.nodes.values();
        let refused = others.filter_map(|node| {
            let why = if world.alive(node.id) {
                model::why_not(world, service, node.id)
            } else {
                Some("it is not heard".to_owned())
            };
            why.map(|why| reason(format!("run on {}", node.name), why))
        });
        refused.collect()
    });
    Explanation { subject: name.to_owned(), answer, because, rejected: rejected.unwrap_or_default() }
}

fn volume(world: &World, status: &SiteStatus, name: &str) -> Explanation {
    let view = status.facts.volume(name);
    let answer = view.map_or_else(String::new, |view| match (&view.suspended, &view.primary) {
        (Some(why), _) => format!("{name} holds its I/O: {why}"),
        (None, Some(primary)) => format!("{name} is served by {primary} in generation {}", view.generation),
        (None, None) => format!("{name} has no primary"),
    });
    let mut because = Vec::new();
    if let Some(view) = view {
        let set = format!("generation {}: {}", view.generation, view.in_sync.join(", "));
        because.push(reason("the ledger's in-sync set", set));
        for replica in &view.replicas {
            let behind =
                replica.behind_bytes.map_or_else(|| "unknown".into(), |bytes| format!("{bytes} bytes"));
            because.push(reason(
                format!("the copy on {}", replica.node),
                format!("{:?}, behind {behind}", replica.state),
            ));
        }
    }
    because.extend(decisions(world, name));
    Explanation { subject: name.to_owned(), answer, because, rejected: Vec::new() }
}

fn node(world: &World, status: &SiteStatus, name: &str) -> Explanation {
    let view = status.facts.node(name);
    let answer = view.map_or_else(String::new, |view| match view.last_heard_ms {
        Some(age) => format!("{name} is {:?}, heard {age} ms ago", view.state),
        None => format!("{name} is {:?} and was never heard", view.state),
    });
    let what_if = status.what_if.iter().filter(|what| what.event.contains(name));
    let mut because: Vec<Reason> =
        what_if.map(|what| reason(what.event.clone(), what.outcome.clone())).collect();
    because.extend(limits(status));
    because.extend(decisions(world, name));
    Explanation { subject: name.to_owned(), answer, because, rejected: Vec::new() }
}
