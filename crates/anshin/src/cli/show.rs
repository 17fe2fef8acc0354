//! Everything else that is shown.

use super::{
    out::Style,
    status::{clock, copies},
};
use anshin_base::ByteSize;
use anshin_node::view::{
    DrillReport, Explanation, InitDone, JoinToken, JoinTokenInfo, Reason, ResourceView, ServiceView, Times,
    VolumeView, age,
};

/// A site was made.
pub fn init_done(_style: Style, done: &InitDone) -> String {
    let made = format!("site {} is made; this is node {} at {}", done.site, done.node, done.address);
    match &done.token {
        Some(made_token) => format!("{made}\n\n{}", token(made_token)),
        None => format!("{made}\nprint a join line for the next node with: anshin token create"),
    }
}

/// A token, with the line to type on the other machine.
pub fn token(token: &JoinToken) -> String {
    // Never wrapped: it is copied as one line.
    format!("on the next node, before {}, run:\n  anshin join {}", clock(&token.expires), token.token)
}

/// Tokens.
pub fn tokens(style: Style, tokens: &[JoinTokenInfo]) -> String {
    if tokens.is_empty() {
        return "no token can be used; make one with: anshin token create".to_owned();
    }
    let rows = tokens.iter().map(|token| vec![token.id.clone(), clock(&token.expires)]).collect();
    style.table(&["TOKEN", "EXPIRES"], rows)
}

/// Volumes with their copies.
pub fn volumes(style: Style, volumes: &[VolumeView]) -> String {
    match volumes.is_empty() {
        true => "there is no volume; make one with: anshin volume create data --size 100G --mount /srv/data"
            .to_owned(),
        false => copies(style, volumes),
    }
}

/// One volume.
pub fn volume(style: Style, volume: &VolumeView) -> String {
    let mut lines = vec![
        format!("volume {}, {}", volume.name, ByteSize(volume.size_bytes)),
        format!("mounted on:  {}", volume.mount.as_deref().unwrap_or("nowhere, a bare device")),
        format!("device here: {}", volume.device.as_deref().unwrap_or("none, only the primary has it")),
        format!("generation:  {}", volume.generation),
        format!("primary:     {}", volume.primary.as_deref().unwrap_or("none")),
        format!(
            "in sync:     {}",
            if volume.in_sync.is_empty() { "none".to_owned() } else { volume.in_sync.join(", ") }
        ),
    ];
    for replica in &volume.replicas {
        let Some(resynced) = &replica.resynced else { continue };
        let bytes = |bytes: u64| ByteSize(bytes).to_string();
        let text = format!(
            "resyncs of {}: {}, {} compared, {} sent; the last: {} compared, {} sent",
            replica.node,
            resynced.count,
            bytes(resynced.compared_bytes),
            bytes(resynced.sent_bytes),
            bytes(resynced.last_compared_bytes),
            bytes(resynced.last_sent_bytes),
        );
        lines.push(style.wrap(&text, 2));
    }
    lines.extend(volume.suspended.as_ref().map(|why| style.wrap(&format!("writes wait: {why}"), 2)));
    format!("{}\n\n{}", lines.join("\n"), copies(style, std::slice::from_ref(volume)))
}

/// Services.
pub fn services(style: Style, services: &[ServiceView]) -> String {
    if services.is_empty() {
        return "no service is protected; protect one with: anshin protect NAME.service --volume data"
            .to_owned();
    }
    let rows = services.iter().map(|service| {
        vec![
            service.name.clone(),
            service.node.clone().unwrap_or_else(|| "-".to_owned()),
            service.state.word().to_owned(),
            service.address.clone().unwrap_or_else(|| "-".to_owned()),
            service.volumes.join(", "),
        ]
    });
    style.table(&["SERVICE", "ON", "STATE", "ADDRESS", "VOLUMES"], rows.collect())
}

/// One service with its parts.
pub fn service(style: Style, service: &ServiceView) -> String {
    let at = service.node.as_deref().map(|node| format!(" on {node}")).unwrap_or_default();
    let since = service.since.as_deref().map(|since| format!(" since {}", clock(since))).unwrap_or_default();
    let address =
        service.address.as_deref().map(|address| format!(", reached at {address}")).unwrap_or_default();
    let mut parts = vec![format!("{} is {}{at}{since}{address}", service.name, service.state.word())];
    if !service.why.is_empty() {
        parts.push(style.wrap(&format!("why: {}", service.why), 2));
    }
    if !service.resources.is_empty() {
        let rows = service.resources.iter().map(|resource| {
            vec![
                resource.name.clone(),
                resource.kind.clone(),
                resource.state.word().to_owned(),
                last_result(resource),
            ]
        });
        parts.push(String::new());
        parts.push(style.table(&["PART", "KIND", "STATE", "LAST RESULT"], rows.collect()));
    }
    parts.join("\n")
}

fn last_result(resource: &ResourceView) -> String {
    let failures = match resource.fail_count {
        0 => None,
        1 => Some("1 failure".to_owned()),
        count => Some(format!("{count} failures")),
    };
    resource.last_result.clone().into_iter().chain(failures).collect::<Vec<_>>().join(", ")
}

/// Why something is as it is.
pub fn explanation(style: Style, answer: &Explanation) -> String {
    let mut parts = vec![style.wrap(&format!("{}: {}", answer.subject, answer.answer), 2)];
    let list = |title: &str, reasons: &[Reason]| {
        let lines =
            reasons.iter().map(|reason| style.wrap(&format!("- {} ({})", reason.what, reason.why), 2));
        (!reasons.is_empty()).then(|| format!("{title}\n{}", lines.collect::<Vec<_>>().join("\n")))
    };
    parts.extend(list("because", &answer.because));
    parts.extend(list("not done", &answer.rejected));
    parts.join("\n\n")
}

/// The times that the site runs by.
pub fn times(style: Style, times: &Times, changed: bool) -> String {
    let row = |name: &str, value: String, what: &str| vec![name.to_owned(), value, what.to_owned()];
    let ms = |ms: u64| format!("{ms} ms");
    let rows = vec![
        row("heartbeat", ms(times.heartbeat_ms), "between two signs of life"),
        row("silence", ms(times.silence_ms), "then a node or copy is given up"),
        row("lease", ms(times.lease_ms), "how long a primary may go on unasked"),
        row("address", ms(times.address_left_ms), "how long the kernel keeps one unasked"),
    ];
    let table = style.table(&["TIME", "IS", "WHAT"], rows);
    let note = "nodes go by a new silence at once; a new heartbeat, and silence between the copies of a volume, count \
                from the next start of the processes concerned (a node's restart)";
    if changed { format!("{table}\n\n{}", style.wrap(note, 0)) } else { table }
}

/// What a rehearsal showed.
pub fn drill(style: Style, report: &DrillReport) -> String {
    let verdict = if report.passed { "passed" } else { "NOT passed" };
    let to = report.to.as_deref().unwrap_or("nowhere");
    let what = match report.moved {
        true => format!("drill {verdict}: {} moved from {} to {to}", report.service, report.from),
        false => format!("drill {verdict}: {} would move from {} to {to}", report.service, report.from),
    };
    let total = report.total_ms.map(|ms| format!(", {} in all", age(ms))).unwrap_or_default();
    let mut parts = vec![format!("{what}{total}")];
    parts.extend(report.findings.iter().map(|finding| style.wrap(&format!("- {finding}"), 2)));
    parts.extend(report.restores.iter().map(|restore| {
        let verdict = if restore.good { "restored" } else { "NOT restored" };
        let span = |seconds: Option<u64>, what: &str| {
            seconds.map(|s| format!(", {what} {}", age(s.saturating_mul(1_000)))).unwrap_or_default()
        };
        let numbers = format!("{}{}", span(restore.rpo_s, "RPO"), span(restore.rto_s, "RTO"));
        style.wrap(&format!("- {} {verdict}{numbers}: {}", restore.target, restore.summary), 2)
    }));
    let times = &report.times;
    let steps = [
        ("detection", times.detection_ms),
        ("decision", times.decision_ms),
        ("stop", times.stop_ms),
        ("promotion", times.promotion_ms),
        ("mount", times.mount_ms),
        ("address", times.address_ms),
        ("program", times.program_ms),
    ];
    let rows =
        steps.iter().filter_map(|(step, ms)| ms.map(|ms| vec![(*step).to_owned(), format!("{ms} ms")]));
    let rows: Vec<Vec<String>> = rows.collect();
    if !rows.is_empty() {
        parts.push(format!("\n{}", style.table(&["STEP", "TIME"], rows)));
    }
    parts.join("\n")
}
