//! What changes, and what is done.

use crate::{Action, ActionKind, Plan};

/// One line per change.
pub(crate) fn changes(plan: &Plan) -> String {
    let width =
        plan.changes.iter().filter(|c| !c.detail.is_empty()).map(|c| c.subject.len()).max().unwrap_or(0);
    let details = plan.changes.iter().map(|c| c.detail.len()).max().unwrap_or(0);
    let mut out = String::new();
    for change in &plan.changes {
        if change.detail.is_empty() {
            out.push_str(&format!("  * {} {} '{}'\n", change.verb, change.subject, change.reason));
            continue;
        }
        let due =
            if change.reason.is_empty() { String::new() } else { format!("  due to {}", change.reason) };
        out.push_str(&format!(
            "  * {:<10} {:<width$}  ( {:>details$} ){due}\n",
            change.verb, change.subject, change.detail
        ));
    }
    out
}

/// One line for an action that is carried out.
pub(crate) fn execution(action: &Action) -> String {
    let node = action.node.as_deref().unwrap_or_default();
    let resource = action.resource.as_deref().unwrap_or_default();
    match action.kind {
        ActionKind::Fence => format!("  * Fencing {node} ({})\n", action.operation),
        ActionKind::Pseudo => {
            let on = if node.is_empty() || action.resource.is_some() {
                String::new()
            } else {
                format!(" on {node}")
            };
            format!("  * Pseudo action:   {}{on}\n", action.key)
        }
        ActionKind::Shutdown => format!("  * Cluster action:  do_shutdown on {node}\n"),
        ActionKind::ClearFailures => {
            format!("  * Cluster action:  clear_failcount for {resource} on {node}\n")
        }
        _ => {
            let every =
                if action.interval_ms > 0 { format!("={}", action.interval_ms) } else { String::new() };
            format!("  * Resource action: {resource:<15} {}{every} on {node}\n", action.operation)
        }
    }
}
