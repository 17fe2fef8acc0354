//! What is where: the node list and the resource list.

use crate::cib::natural;
use crate::world::{Kind, NodeIx, RscIx, World};
use crate::{NodeKind, Role};
use std::fmt::Write as _;

/// Node list and resource list.
pub(crate) fn status(world: &World<'_>) -> String {
    let mut out = String::from("  * Node List:\n");
    nodes(world, &mut out);
    out.push_str("\n  * Full List of Resources:\n");
    for at in &world.top {
        if world[*at].orphan && !world[*at].is_active() {
            continue;
        }
        resource(world, *at, 2, &mut out);
    }
    out
}

fn nodes(world: &World<'_>, out: &mut String) {
    let (mut online, mut offline) = (Vec::new(), Vec::new());
    for node in world.node_indices() {
        let state = &world[node];
        let words = if state.unclean.is_some() {
            Some(match (state.online, state.pending) {
                (true, true) => "UNCLEAN (pending)",
                (true, false) => "UNCLEAN (online)",
                _ => "UNCLEAN (offline)",
            })
        } else if state.pending {
            Some("pending")
        } else if state.standby_by_failure && state.online {
            Some("standby (on-fail)")
        } else if state.standby {
            Some(match (state.online, state.running.is_empty()) {
                (true, true) => "standby",
                (true, false) => "standby (with active resources)",
                _ => "OFFLINE (standby)",
            })
        } else if state.maintenance {
            Some(if state.online { "maintenance" } else { "OFFLINE (maintenance)" })
        } else if state.online
            && state.health < 1
            && world.cluster.properties.contains_key("node-health-strategy")
        {
            Some(if state.health < 0 { "online (health is RED)" } else { "online (health is YELLOW)" })
        } else {
            None
        };
        let (label, list) = match (state.kind, state.online) {
            (NodeKind::Member, true) => ("Node", &mut online),
            (NodeKind::Member, false) => ("Node", &mut offline),
            (NodeKind::Remote, true) => ("RemoteNode", &mut online),
            (NodeKind::Remote, false) => ("RemoteNode", &mut offline),
        };
        match words {
            Some(words) => {
                let _ = writeln!(out, "    * {label} {}: {words}", state.name);
            }
            None => list.push((state.kind, state.name.clone())),
        }
    }
    for (kind, label, list) in [
        (NodeKind::Member, "Online", &online),
        (NodeKind::Member, "OFFLINE", &offline),
        (NodeKind::Remote, "RemoteOnline", &online),
        (NodeKind::Remote, "RemoteOFFLINE", &offline),
    ] {
        let names: Vec<&str> = list.iter().filter(|(k, _)| *k == kind).map(|(_, n)| n.as_str()).collect();
        if !names.is_empty() {
            let _ = writeln!(out, "    * {label}: [ {} ]", names.join(" "));
        }
    }
}

fn resource(world: &World<'_>, at: RscIx, depth: usize, out: &mut String) {
    let indent = " ".repeat(depth * 2);
    match world[at].kind {
        Kind::Primitive => {
            let _ = writeln!(out, "{indent}* {}", primitive(world, at));
        }
        Kind::Group => group(world, at, depth, out),
        Kind::Clone => clone(world, at, depth, out),
    }
}

fn group(world: &World<'_>, at: RscIx, depth: usize, out: &mut String) {
    let indent = " ".repeat(depth * 2);
    let _ = writeln!(
        out,
        "{indent}* Resource Group: {}{}:",
        world[at].id,
        in_brackets(&container_flags(world, at))
    );
    for child in &world[at].children {
        resource(world, *child, depth + 1, out);
    }
}

fn container_flags(world: &World<'_>, at: RscIx) -> Vec<&'static str> {
    let mut flags = Vec::new();
    let rsc = &world[at];
    if rsc.meta.target_role == Some(Role::Stopped) {
        flags.push("disabled");
    }
    if rsc.meta.maintenance {
        flags.push("maintenance");
    } else if !rsc.managed {
        flags.push("unmanaged");
    }
    flags
}

fn in_brackets(flags: &[&str]) -> String {
    if flags.is_empty() { String::new() } else { format!(" ({})", flags.join(", ")) }
}

fn clone(world: &World<'_>, at: RscIx, depth: usize, out: &mut String) {
    let rsc = &world[at];
    let indent = " ".repeat(depth * 2);
    let options = rsc.clone.as_ref();
    let (promotable, unique) = (options.is_some_and(|o| o.promotable), options.is_some_and(|o| o.unique));
    let mut flags = Vec::new();
    if promotable {
        flags.push("promotable");
    }
    if unique {
        flags.push("unique");
    }
    flags.extend(container_flags(world, at));
    let inner = rsc.children.first().map_or("", |c| world[*c].base.as_str());
    let _ = writeln!(out, "{indent}* Clone Set: {} [{inner}]{}:", rsc.id, in_brackets(&flags));
    let (mut promoted, mut started, mut shown_on, mut stopped) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for child in &rsc.children {
        let active = !world.active_nodes(*child).is_empty();
        if world[*child].orphan && !active {
            continue;
        }
        if unique {
            resource(world, *child, depth + 1, out);
            continue;
        }
        if !active {
            stopped += 1;
            continue;
        }
        match plain_instance(world, *child) {
            Some((node, Role::Promoted)) => promoted.push(node),
            Some((node, _)) => started.push(node),
            None => {
                shown_on.extend(world.active_nodes(*child));
                resource(world, *child, depth + 1, out);
            }
        }
    }
    list(world, "Promoted", &mut promoted.clone(), depth, out);
    let active_label = if promotable {
        if rsc.meta.target_role == Some(Role::Unpromoted) { "Unpromoted (target-role)" } else { "Unpromoted" }
    } else {
        "Started"
    };
    list(world, active_label, &mut started.clone(), depth, out);
    if stopped == 0 || unique {
        return;
    }
    let mut idle: Vec<NodeIx> = world
        .node_indices()
        .filter(|n| world[*n].kind == NodeKind::Member)
        .filter(|n| !promoted.contains(n) && !started.contains(n) && !shown_on.contains(n))
        .collect();
    let label = if rsc.meta.target_role == Some(Role::Stopped) { "Stopped (disabled)" } else { "Stopped" };
    list(world, label, &mut idle, depth, out);
}

fn list(world: &World<'_>, label: &str, nodes: &mut [NodeIx], depth: usize, out: &mut String) {
    if nodes.is_empty() {
        return;
    }
    nodes.sort_by_key(|n| natural(&world[*n].name));
    let names: Vec<&str> = nodes.iter().map(|n| world[*n].name.as_str()).collect();
    let _ = writeln!(out, "{}* {label}: [ {} ]", " ".repeat(depth * 2 + 2), names.join(" "));
}

/// Node and role of an instance that needs no line of its own.
fn plain_instance(world: &World<'_>, at: RscIx) -> Option<(NodeIx, Role)> {
    let members = world.primitives_in(at);
    let mut found: Option<(NodeIx, Role)> = None;
    for member in members {
        let rsc = &world[member];
        let [node] = rsc.running_on.as_slice() else { return None };
        let plain = rsc.role.is_active()
            && !rsc.failed
            && !rsc.orphan
            && rsc.managed
            && rsc.pending_task.is_none()
            && !rsc.failure_ignored
            && world[*node].online
            && world[*node].unclean.is_none();
        if !plain || found.is_some_and(|(n, _)| n != *node) {
            return None;
        }
        let role = found.map_or(rsc.role, |(_, r)| r.max(rsc.role));
        found = Some((*node, role));
    }
    found
}

fn primitive(world: &World<'_>, at: RscIx) -> String {
    let rsc = &world[at];
    let name = match world.clone_above(at) {
        Some(clone) if !world[clone].clone.as_ref().is_some_and(|c| c.unique) => &rsc.base,
        _ => &rsc.id,
    };
    let agent = &rsc.agent;
    let provider = if agent.provider.is_empty() { String::new() } else { format!("{}:", agent.provider) };
    let mut text = format!("{name}\t({}:{provider}{}):\t", agent.class, agent.name);
    if rsc.orphan {
        text.push_str(" ORPHANED");
    }
    let promotable =
        world.clone_above(at).is_some_and(|c| world[c].clone.as_ref().is_some_and(|o| o.promotable));
    let role = match rsc.role {
        Role::Started if promotable => "Unpromoted",
        Role::Unknown => "Stopped",
        role => role.name(),
    };
    if rsc.failed && rsc.role > Role::Unpromoted {
        let _ = write!(text, " FAILED {role}");
    } else if rsc.failed {
        text.push_str(" FAILED");
    } else if let Some(task) = rsc.pending_task.filter(|t| *t != "Monitoring") {
        let _ = write!(text, " {task}");
    } else {
        let _ = write!(text, " {role}");
    }
    let on = &rsc.running_on;
    if let [node] = on.as_slice() {
        let _ = write!(text, " {}", world[*node].name);
    } else if let (true, Some(node)) = (on.is_empty(), rsc.lock_node) {
        let _ = write!(text, " {}", world[node].name);
    }
    text.push_str(&in_brackets(&flags(world, at)));
    if on.len() > 1 {
        let mut names: Vec<&str> = on.iter().map(|n| world[*n].name.as_str()).collect();
        names.sort_by_key(|n| natural(n));
        let _ = write!(text, " [ {} ]", names.join(" "));
    }
    text
}

fn flags(world: &World<'_>, at: RscIx) -> Vec<&'static str> {
    let rsc = &world[at];
    let mut flags = Vec::new();
    if let [node] = rsc.running_on.as_slice()
        && !world[*node].online
        && world[*node].unclean.is_some()
    {
        flags.push("UNCLEAN");
    }
    if rsc.lock_node.is_some() {
        flags.push("LOCKED");
    }
    if rsc.pending_task == Some("Monitoring") && !rsc.failed {
        flags.push("Monitoring");
    }
    match rsc.meta.target_role {
        Some(Role::Stopped) => flags.push("disabled"),
        Some(Role::Unpromoted) if rsc.role == Role::Promoted => flags.push("target-role:Unpromoted"),
        _ => {}
    }
    if rsc.blocked {
        flags.push("blocked");
    } else if rsc.meta.maintenance || !rsc.managed && rsc.running_on.iter().any(|n| world[*n].maintenance) {
        flags.push("maintenance");
    } else if !rsc.managed {
        flags.push("unmanaged");
    }
    if rsc.failure_ignored {
        flags.push("failure ignored");
    }
    flags
}
