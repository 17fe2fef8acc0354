//! What the director sees of the site, taken from what the daemon knows.

use super::program::{held, plugin_of};
use crate::daemon::{drill::running_on, world::World};
use anshin_base::{Millis, NodeId};
use anshin_director::{
    plan::{Inventory, ServiceInfo},
    record::{Place, VaultRecord},
    run::{AttemptSeen, NodeSeen, Observed, VaultSeen},
};

/// A node that is silent for a moment keeps its attempts: a line that was cut for seconds must not cost hours of backup.
/// When another node takes over what the attempt reads, that ends it at once, whatever is left of this.
const ATTEMPTS_KEPT: Millis = Millis(30_000);

/// Everything that the director looks at.
#[must_use]
pub fn observed(world: &World) -> Observed {
    let state = &world.state;
    let services = state.services.values();
    let volumes = state.volumes.values();
    let info = |service: &anshin_ledger::state::Service| ServiceInfo {
        name: service.name.clone(),
        volume: service.volume.clone(),
        plugin: plugin_of(service).map(str::to_owned),
        held: held(service),
    };
    Observed {
        inventory: Inventory {
            services: services.clone().map(info).collect(),
            volumes: state.volumes.keys().cloned().collect(),
        },
        nodes: state.nodes.keys().map(|&node| (node, node_seen(world, node))).collect(),
        clients: std::collections::BTreeMap::new(),
        services: services
            .filter_map(|service| Some((service.name.clone(), running_on(world, service)?)))
            .collect(),
        volumes: volumes
            .filter_map(|volume| Some((volume.name.clone(), world.primary_node(volume)?)))
            .collect(),
        vaults: state
            .director
            .records()
            .vaults
            .values()
            .map(|vault| (vault.name.clone(), vault_seen(world, vault)))
            .collect(),
        attempts: attempts(world),
    }
}

fn node_seen(world: &World, node: NodeId) -> NodeSeen {
    let age = world.heard.get(&node).and_then(|heard| heard.age_ms);
    let lately = age.is_some_and(|age| age < ATTEMPTS_KEPT.0);
    let report = world.reports.get(&node).filter(|_| world.alive(node));
    NodeSeen {
        name: world.name_of(node),
        alive: world.alive(node) || lately,
        session: report.map(|report| report.start),
    }
}

fn vault_seen(world: &World, vault: &VaultRecord) -> VaultSeen {
    let node = world.name_of(vault.node);
    let trouble = |why: String| VaultSeen { trouble: Some(why), snapshots: Vec::new() };
    if !world.alive(vault.node) {
        return trouble(format!("node {node}, which serves it, is down"));
    }
    let Some(report) = world.reports.get(&vault.node) else {
        return trouble(format!("the daemon of node {node}, which serves it, does not answer"));
    };
    let Some(seen) = report.vaults.iter().find(|seen| seen.name == vault.name) else {
        return trouble(format!("node {node} does not say anything of it yet"));
    };
    VaultSeen { trouble: seen.trouble.clone(), snapshots: seen.snapshots.clone() }
}

fn attempts(world: &World) -> Vec<AttemptSeen> {
    let alive = world.reports.iter().filter(|(node, _)| world.alive(**node));
    alive
        .flat_map(|(&node, report)| {
            report.attempts.iter().map(move |attempt| AttemptSeen {
                run: attempt.run,
                attempt: attempt.attempt,
                place: Place::Node(node),
                session: report.start,
                state: attempt.state.clone(),
            })
        })
        .collect()
}
