//! Operation history of a node.

use super::Reader;
use crate::{Agent, Node, OperationRecord, RecordStatus, ResourceHistory, UnixSeconds};
use roxmltree::Node as Xml;

impl<'d> Reader<'d> {
    pub(super) fn read_history(&self, node: &mut Node, state: Xml<'d, 'd>) {
        let resources = state
            .children()
            .filter(|c| c.has_tag_name("lrm"))
            .flat_map(|l| l.children())
            .filter(|c| c.has_tag_name("lrm_resources"))
            .flat_map(|l| l.children())
            .filter(|c| c.has_tag_name("lrm_resource"));
        for element in resources {
            let Some(id) = element.attribute("id") else { continue };
            let text = |name| element.attribute(name).unwrap_or_default();
            let agent = Agent::new(text("class"), text("provider"), text("type"));
            let mut history = ResourceHistory::new(id, agent);
            history.locked_since = element
                .attribute("shutdown-lock")
                .and_then(|v| v.parse().ok())
                .filter(|t| *t > 0)
                .map(UnixSeconds);
            history.records = element
                .children()
                .filter(|c| c.has_tag_name("lrm_rsc_op"))
                .filter_map(|op| record(op))
                .collect();
            node.history.push(history);
        }
    }
}

fn record(op: Xml<'_, '_>) -> Option<OperationRecord> {
    let integer = |name: &str| op.attribute(name).and_then(|v| v.trim().parse::<i64>().ok());
    let time = |name: &str| integer(name).filter(|t| *t > 0).map(UnixSeconds);
    let key = op.attribute("operation_key").or_else(|| op.attribute("id"))?.to_owned();
    let operation = op.attribute("operation")?.to_owned();
    // `action:transition:expected:coordinator`
    let expected =
        op.attribute("transition-key").and_then(|k| k.split(':').nth(2)).and_then(|v| v.parse().ok());
    let status = match integer("op-status").unwrap_or(-1) {
        -1 => RecordStatus::Pending,
        0 => RecordStatus::Done,
        1 => RecordStatus::Cancelled,
        2 => RecordStatus::TimedOut,
        3 => RecordStatus::NotSupported,
        5 => RecordStatus::ErrorHard,
        6 => RecordStatus::ErrorFatal,
        7 => RecordStatus::NotInstalled,
        _ => RecordStatus::Error,
    };
    let restart_digest = op.attribute("op-restart-digest").map(|d| {
        let names = op.attribute("op-force-restart").unwrap_or_default();
        (d.to_owned(), names.split_whitespace().map(str::to_owned).collect())
    });
    Some(OperationRecord {
        key,
        operation,
        interval_ms: integer("interval").and_then(|i| u64::try_from(i).ok()).unwrap_or(0),
        call_id: integer("call-id").unwrap_or(0),
        exit_code: integer("rc-code").and_then(|v| i32::try_from(v).ok()).unwrap_or(1),
        status,
        expected: expected.unwrap_or(-1),
        changed: time("last-rc-change"),
        last_run: time("last-run"),
        digest: op.attribute("op-digest").map(str::to_owned),
        restart_digest,
        migrate_source: op.attribute("migrate_source").map(str::to_owned),
        migrate_target: op.attribute("migrate_target").map(str::to_owned),
        exit_reason: op.attribute("exit-reason").unwrap_or_default().to_owned(),
    })
}
