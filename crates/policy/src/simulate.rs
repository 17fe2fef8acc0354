//! The text of a dry run.

use crate::act;
use crate::cib;
use crate::place;
use crate::text;
use crate::words::show_instant;
use crate::world::World;
use crate::{
    Action, ActionKind, Agent, Cluster, OperationRecord, Plan, RecordStatus, ResourceHistory, UnixSeconds,
};
use anshin_base::Problem;

/// Exit codes a resource's records may carry.
const NOT_RUNNING: i32 = 7;

/// Decides what is to be done in `cluster` at the time `now`.
#[must_use]
pub fn plan(cluster: &Cluster, now: UnixSeconds) -> Plan {
    let mut world = World::new(cluster, now);
    place::place(&mut world);
    act::act(&mut world)
}

/// Plans for the CIB document `xml` as of `time` (or the time it names itself) and tells what would happen, in four
/// sections: status now, changes, actions in a possible order, status afterwards.
///
/// # Errors
/// If `xml` is not a CIB document or `time` is not a point in time.
pub fn simulate(xml: &str, time: Option<&str>) -> Result<String, Problem> {
    let input = cib::read(xml, time)?;
    let mut out = String::new();
    let clock = match (input.original_time, time) {
        (Some(original), _) => {
            format!("Using the original execution date of: {}\n", show_instant(original.0))
        }
        (None, Some(time)) => format!("Setting effective cluster time: {time}\n"),
        (None, None) => String::new(),
    };
    out.push_str(&clock);
    out.push_str("Current cluster status:\n");
    let mut world = World::new(&input.cluster, input.now);
    out.push_str(&text::status(&world));
    place::place(&mut world);
    let plan = act::act(&mut world);
    out.push_str("\nTransition Summary:\n");
    out.push_str(&text::changes(&plan));
    out.push_str("\nExecuting Cluster Transition:\n");
    let mut after = input.cluster.clone();
    for action in &plan.actions {
        out.push_str(&text::execution(action));
        carry_out(&mut after, action, &input.cluster);
    }
    out.push_str(&clock);
    out.push_str("\nRevised Cluster Status:\n");
    out.push_str(&text::status(&World::new(&after, input.now)));
    Ok(out)
}

/// Changes the model as if the action had ended as expected.
fn carry_out(cluster: &mut Cluster, action: &Action, before: &Cluster) {
    let Some(name) = action.node.as_deref() else { return };
    let Some(node) = cluster.node_mut(name) else { return };
    match action.kind {
        ActionKind::Fence => {
            if action.operation != "on" {
                node.online = false;
                node.unclean = None;
                node.pending = false;
                node.shutting_down = false;
                node.seen = true;
                node.history.clear();
                node.fail_counts.clear();
                let permanent = before.node(name).map(|n| n.standby).unwrap_or_default();
                node.standby = permanent;
            }
            return;
        }
        // Leaving is the node's own affair, after everything there has stopped.
        ActionKind::Shutdown | ActionKind::Pseudo | ActionKind::Notify => return,
        _ => {}
    }
    let Some(resource) = action.resource.as_deref() else { return };
    let agent = agent_of(before, resource);
    match action.kind {
        ActionKind::DeleteHistory => node.history.retain(|h| h.resource != resource),
        ActionKind::ClearFailures => node.fail_counts.retain(|f| f.resource != resource),
        ActionKind::Cancel => {
            for history in node.history.iter_mut().filter(|h| h.resource == resource) {
                history.records.retain(|r| r.interval_ms != action.interval_ms);
            }
        }
        _ => record(node, resource, action, agent),
    }
}

fn same(history: &str, resource: &str) -> bool {
    history == resource || history.rsplit_once(':').is_some_and(|(base, _)| base == resource)
}

fn record(node: &mut crate::Node, resource: &str, action: &Action, agent: Option<Agent>) {
    let at = match node.history.iter().position(|h| h.resource == resource) {
        Some(at) => at,
        None => {
            node.history.push(ResourceHistory::new(resource, agent.unwrap_or_default()));
            node.history.len() - 1
        }
    };
    let history = &mut node.history[at];
    let call_id = history.records.iter().map(|r| r.call_id).max().unwrap_or(0).max(0) + 1;
    let expected = if action.kind == ActionKind::Probe { NOT_RUNNING } else { action.expected };
    let mut record =
        OperationRecord::done(resource, &action.operation, action.interval_ms, call_id, expected)
            .expecting(expected);
    record.status = RecordStatus::Done;
    history.records.retain(|r| {
        (&r.operation, r.interval_ms) != (&record.operation, record.interval_ms)
    });
    history.records.push(record);
}

fn agent_of(cluster: &Cluster, resource: &str) -> Option<Agent> {
    cluster
        .nodes
        .iter()
        .flat_map(|n| &n.history)
        .find(|h| same(&h.resource, resource))
        .map(|h| h.agent.clone())
}
