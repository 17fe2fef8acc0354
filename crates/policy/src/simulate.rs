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
    let call_id = history.records.iter().map(|r| r.call_id).max().unwrap_or(0).max(0).saturating_add(1);
    let expected = if action.kind == ActionKind::Probe { NOT_RUNNING } else { action.expected };
    let mut record =
        OperationRecord::done(resource, &action.operation, action.interval_ms, call_id, expected)
            .expecting(expected);
    record.status = RecordStatus::Done;
    history.records.retain(|r| (&r.operation, r.interval_ms) != (&record.operation, record.interval_ms));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Colocation, Location, Node, Operation, Order, Resource, Score};
    use proptest::prelude::*;

    fn dummy(id: &str) -> Resource {
        Resource::primitive(id, Agent::new("ocf", "pacemaker", "Dummy"))
            .operation(Operation::monitor(10_000, 20_000))
    }

    /// Two nodes and a service: file system, then address, then program; nothing runs yet.
    fn site() -> Cluster {
        let mut cluster = Cluster::new();
        cluster.set("stonith-enabled", "false");
        cluster.nodes = vec![Node::online("a"), Node::online("b")];
        cluster.resources = vec![Resource::group("web", vec![dummy("fs"), dummy("ip"), dummy("httpd")])];
        cluster
    }

    fn running(cluster: &mut Cluster, node: &str) {
        for id in ["fs", "ip", "httpd"] {
            let agent = Agent::new("ocf", "pacemaker", "Dummy");
            for n in ["a", "b"] {
                let code = if n == node { 0 } else { 7 };
                let operation = if n == node { "start" } else { "monitor" };
                let done = OperationRecord::done(id, operation, 0, 1, code).expecting(code);
                cluster.node_mut(n).unwrap().record(id, agent.clone(), done);
                if n == node {
                    let watch = OperationRecord::done(id, "monitor", 10_000, 2, 0);
                    cluster.node_mut(n).unwrap().record(id, agent.clone(), watch);
                }
            }
        }
    }

    fn position(plan: &Plan, key: &str, node: &str) -> usize {
        let found = plan.actions.iter().position(|a| a.key == key && a.node.as_deref() == Some(node));
        found.unwrap_or_else(|| panic!("no {key} on {node} in {:#?}", plan.actions))
    }

    #[test]
    fn a_group_is_probed_everywhere_and_started_in_order_on_the_preferred_node() {
        let mut cluster = site();
        cluster.locations.push(Location::new("likes-b", "web", "b", Score::new(10)));
        let plan = plan(&cluster, UnixSeconds(0));
        assert!(plan.action("fs_monitor_0", "a").is_some() && plan.action("fs_monitor_0", "b").is_some());
        assert!(position(&plan, "fs_start_0", "b") < position(&plan, "ip_start_0", "b"));
        assert!(position(&plan, "ip_start_0", "b") < position(&plan, "httpd_start_0", "b"));
        assert_eq!(plan.placement("httpd").unwrap().target.as_deref(), Some("b"));
        assert!(plan.actions.iter().all(|a| !a.reason.is_empty()));
    }

    #[test]
    fn what_runs_well_is_left_alone() {
        let mut cluster = site();
        running(&mut cluster, "a");
        assert_eq!(plan(&cluster, UnixSeconds(0)).actions, []);
    }

    #[test]
    fn a_node_without_the_agent_runs_nothing_and_stops_nothing_elsewhere() {
        let mut cluster = site();
        cluster.nodes.push(Node::online("c"));
        cluster.locations.push(Location::new("witness", "web", "c", Score::NEVER));
        running(&mut cluster, "a");
        let agent = Agent::new("ocf", "pacemaker", "Dummy");
        for id in ["fs", "ip", "httpd"] {
            let looked = OperationRecord::done(id, "monitor", 0, 1, 5).expecting(7);
            cluster.node_mut("c").unwrap().record(id, agent.clone(), looked);
        }
        assert_eq!(plan(&cluster, UnixSeconds(0)).actions, []);
        // Nor does it on the node that would take over; but nothing goes there.
        let mut missing = Node::online("b");
        missing.record("fs", agent.clone(), OperationRecord::done("fs", "monitor", 0, 1, 5).expecting(7));
        for id in ["ip", "httpd"] {
            missing.record(id, agent.clone(), OperationRecord::done(id, "monitor", 0, 1, 7).expecting(7));
        }
        *cluster.node_mut("b").unwrap() = missing;
        assert_eq!(plan(&cluster, UnixSeconds(0)).actions, []);
        cluster.node_mut("a").unwrap().standby = true;
        let plan = plan(&cluster, UnixSeconds(0));
        assert!(plan.action("fs_start_0", "b").is_none() && plan.action("fs_stop_0", "b").is_none());
    }

    #[test]
    fn a_node_in_standby_hands_everything_over_in_reverse_order() {
        let mut cluster = site();
        running(&mut cluster, "a");
        cluster.node_mut("a").unwrap().standby = true;
        let plan = plan(&cluster, UnixSeconds(0));
        assert!(position(&plan, "httpd_stop_0", "a") < position(&plan, "fs_stop_0", "a"));
        assert!(position(&plan, "fs_stop_0", "a") < position(&plan, "fs_start_0", "b"));
        assert_eq!(plan.changes.iter().filter(|c| c.verb == "Move").count(), 3);
    }

    #[test]
    fn without_quorum_nothing_is_started_and_what_runs_is_stopped() {
        let mut cluster = site();
        running(&mut cluster, "a");
        cluster.quorum = false;
        let plan = plan(&cluster, UnixSeconds(0));
        assert!(plan.actions.iter().any(|a| a.kind == ActionKind::Stop));
        assert!(plan.actions.iter().all(|a| a.kind != ActionKind::Start));
    }

    #[test]
    fn a_lost_node_is_fenced_before_its_resources_start_elsewhere() {
        let mut cluster = site();
        cluster.set("stonith-enabled", "true");
        cluster.resources.push(Resource::primitive("power", Agent::new("stonith", "", "fence_dummy")));
        running(&mut cluster, "a");
        let a = cluster.node_mut("a").unwrap();
        (a.online, a.unclean) = (false, Some("peer is no longer part of the cluster".into()));
        let plan = plan(&cluster, UnixSeconds(0));
        let fence = plan.actions.iter().position(|x| x.kind == ActionKind::Fence).expect("fencing");
        assert!(fence < position(&plan, "fs_start_0", "b"));
    }

    #[test]
    fn a_ban_on_the_only_other_node_keeps_a_resource_stopped() {
        let mut cluster = site();
        cluster.locations.push(Location::new("not-b", "web", "b", Score::NEVER));
        cluster.node_mut("a").unwrap().standby = true;
        assert_eq!(plan(&cluster, UnixSeconds(0)).placement("fs").unwrap().target, None);
    }

    #[test]
    fn a_dependent_goes_where_its_primary_goes_and_starts_after_it() {
        let mut cluster = site();
        cluster.resources.push(dummy("cron"));
        cluster.colocations.push(Colocation::new("with", "cron", "web", Score::INFINITY));
        cluster.orders.push(Order::new("after", "web", "cron"));
        let plan = plan(&cluster, UnixSeconds(0));
        let node = plan.placement("httpd").unwrap().target.clone().unwrap();
        assert_eq!(plan.placement("cron").unwrap().target, Some(node.clone()));
        assert!(position(&plan, "httpd_start_0", &node) < position(&plan, "cron_start_0", &node));
    }

    const SMALL: &str = r#"<cib have-quorum="1"><configuration><crm_config/>
        <nodes><node id="1" uname="a"/><node id="2" uname="b"/></nodes>
        <resources><clone id="c"><meta_attributes id="m"><nvpair id="p" name="promotable" value="true"/></meta_attributes>
        <group id="g"><primitive id="x" class="ocf" provider="p" type="t"><operations><op id="o" name="monitor"
        interval="10"/></operations></primitive><primitive id="y" class="stonith" type="t"/></group></clone></resources>
        <constraints><rsc_location id="l" rsc="c" node="a" score="5"/><rsc_order id="r" first="c" then="x"/>
        <rsc_colocation id="k" rsc="x" with-rsc="c" score="-7"/></constraints></configuration>
        <status><node_state id="1" uname="a" in_ccm="true" crmd="online" join="member" expected="member"><lrm id="1">
        <lrm_resources><lrm_resource id="x:0" class="ocf" provider="p" type="t"><lrm_rsc_op id="z" operation="start"
        call-id="3" rc-code="1" op-status="4" interval="0"/></lrm_resource></lrm_resources></lrm></node_state></status></cib>"#;

    #[test]
    fn a_small_document_yields_all_four_sections() {
        let text = simulate(SMALL, None).unwrap();
        for head in
            ["Current cluster status:", "Transition Summary:", "Executing Cluster Transition:", "Revised"]
        {
            assert!(text.contains(head), "{head} is missing in {text}");
        }
    }

    proptest! {
        #[test]
        fn no_document_makes_the_scheduler_panic(
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0usize..24), 1..6),
        ) {
            let mut text = SMALL.to_owned();
            for (from, to, length) in edits {
                let start = from.index(text.len());
                let piece = text.get(start..start + length).unwrap_or("-INFINITY").to_owned();
                let at = to.index(text.len());
                let end = (at + length).min(text.len());
                if text.is_char_boundary(at) && text.is_char_boundary(end) {
                    text.replace_range(at..end, &piece);
                }
            }
            let _ = simulate(&text, None);
        }

        #[test]
        fn no_attribute_value_makes_the_scheduler_panic(
            which in any::<prop::sample::Index>(), value in "[-+0-9a-zA-Z:#.* ]{0,24}",
        ) {
            let quotes: Vec<usize> = SMALL.match_indices("=\"").map(|(i, _)| i + 2).collect();
            let start = quotes[which.index(quotes.len())];
            let end = start + SMALL[start..].find('"').unwrap();
            let text = format!("{}{value}{}", &SMALL[..start], &SMALL[end..]);
            let _ = simulate(&text, None);
        }
    }
}
