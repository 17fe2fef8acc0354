//! `anshin status`: the posture first, then what it is about. A common site fits 24 lines of 80 columns.

use super::out::Style;
use anshin_base::ByteSize;
use anshin_node::view::{Facts, HEARD_MS_MAX, ReplicaView, SiteStatus, VolumeView, age};

/// The whole status.
pub fn status(style: Style, status: &SiteStatus) -> String {
    let facts = &status.facts;
    let mut parts = vec![format!(
        "{}\n{}\n{}",
        style.level(status.posture.level),
        style.wrap(&status.posture.sentence, 0),
        place(facts)
    )];
    match (facts.volumes.is_empty(), facts.services.is_empty()) {
        (true, true) => {
            parts.push("next: anshin volume create data --size 100G --mount /srv/data".to_owned())
        }
        (_, true) => parts.push(format!(
            "next: anshin protect NAME.service --volume {} --address 10.0.0.50/24",
            facts.volumes.first().map_or("data", |volume| &volume.name)
        )),
        (_, false) => parts.push(services(style, facts)),
    }
    if !facts.volumes.is_empty() {
        parts.push(copies(style, &facts.volumes));
    }
    parts.push(backups(style, facts));
    parts.push(nodes(style, facts));
    let what_if =
        status.what_if.iter().map(|event| style.wrap(&format!("If {}: {}", event.event, event.outcome), 2));
    parts.push(what_if.collect::<Vec<_>>().join("\n"));
    let limits = status.limits.iter().map(|limit| style.wrap(&format!("Limit: {}", limit.sentence), 2));
    parts.push(limits.collect::<Vec<_>>().join("\n"));
    parts.retain(|part| !part.is_empty());
    let text = parts.join("\n\n");
    // Empty lines between the parts cost a small screen too much once everything is there.
    if text.lines().count() <= SCREEN_LINES { text } else { parts.join("\n") }
}

/// Lines of a small terminal.
const SCREEN_LINES: usize = 24;

fn place(facts: &Facts) -> String {
    let known = match facts.quorate() {
        true => "known now".to_owned(),
        false => format!("as last known {} ago", age(facts.quorum.ledger_age_ms)),
    };
    format!("site {}, seen from {}, {known} ({})", facts.site, facts.this_node, clock(&facts.at))
}

/// A time as [`clock`] shows it, to the minute and without its zone, for narrow columns.
fn minute(at: &str) -> String {
    let text = clock(at);
    text.get(..16).map_or_else(|| text.clone(), str::to_owned)
}

/// `2026-03-02 09:30:00 UTC` for an RFC 3339 time in UTC, and the text itself for any other.
pub fn clock(at: &str) -> String {
    match (at.get(..10), at.get(10..11), at.get(11..19), at.ends_with('Z')) {
        (Some(day), Some("T"), Some(time), true) => format!("{day} {time} UTC"),
        _ => at.to_owned(),
    }
}

fn services(style: Style, facts: &Facts) -> String {
    // What an isolated node shows must not read as if it were so now.
    let was = if facts.quorate() { "" } else { "was " };
    let rows = facts.services.iter().map(|service| {
        let here = service.node.as_deref() == Some(facts.this_node.as_str());
        vec![
            service.name.clone(),
            service.node.clone().unwrap_or_else(|| "-".to_owned()),
            format!("{}{}", if here { "" } else { was }, service.state.word()),
            service.address.clone().unwrap_or_else(|| "-".to_owned()),
            service.since.as_deref().map(clock).unwrap_or_default(),
        ]
    });
    style.table(&["SERVICE", "ON", "STATE", "ADDRESS", "SINCE"], rows.collect())
}

/// Volumes with their copies.
pub fn copies(style: Style, volumes: &[VolumeView]) -> String {
    let rows = volumes.iter().flat_map(|volume| {
        volume.replicas.iter().enumerate().map(|(at, replica)| {
            let (name, size) = match at {
                0 => (volume.name.clone(), ByteSize(volume.size_bytes).to_string()),
                _ => (String::new(), String::new()),
            };
            vec![
                name,
                size,
                replica.node.clone(),
                state(volume, replica),
                behind(replica),
                heard(replica.last_heard_ms),
            ]
        })
    });
    style.table(&["VOLUME", "SIZE", "COPY", "STATE", "BEHIND", "HEARD"], rows.collect())
}

fn state(volume: &VolumeView, replica: &ReplicaView) -> String {
    let here = volume.primary.as_ref() == Some(&replica.node);
    let word = replica.state.word();
    if here && volume.suspended.is_some() {
        return format!("{word}, writes wait");
    }
    match &replica.resync {
        Some(resync) => {
            let percent = resync.done_bytes.saturating_mul(100) / resync.total_bytes.max(1);
            format!("{word}, {} %", percent.min(100))
        }
        None => word.to_owned(),
    }
}

fn behind(replica: &ReplicaView) -> String {
    let left = replica.resync.as_ref().and_then(|resync| resync.seconds_left);
    let left = left.map(|s| format!(", {} left", age(s.saturating_mul(1_000)))).unwrap_or_default();
    match replica.behind_bytes {
        Some(0) => "0 bytes".to_owned(),
        Some(bytes) => format!("≤ {}{left}", ByteSize(bytes)),
        None => "not known".to_owned(),
    }
}

/// How old the knowledge is.
pub fn heard(heard_ms: Option<u64>) -> String {
    match heard_ms {
        Some(ms) if ms <= HEARD_MS_MAX => "just now".to_owned(),
        Some(ms) => format!("{} ago", age(ms)),
        None => "never".to_owned(),
    }
}

/// How well each thing can be brought back; nothing where there is no vault.
fn backups(style: Style, facts: &Facts) -> String {
    if facts.backups.things.is_empty() {
        return String::new();
    }
    let rows = facts.backups.things.iter().map(|thing| {
        let ago = |seconds: u64| format!("{} ago", age(seconds.saturating_mul(1_000)));
        let drill = match &thing.drill {
            Some(drill) if drill.good => minute(&drill.at),
            Some(drill) => format!("failed {}", minute(&drill.at)),
            None => "never".to_owned(),
        };
        vec![
            thing.target.clone(),
            thing.level.word().to_owned(),
            thing.age_s.map_or_else(|| "never".to_owned(), ago),
            drill,
            thing.next.as_deref().map_or_else(|| "-".to_owned(), minute),
        ]
    });
    style.table(&["BACKUP", "STATE", "LAST GOOD", "DRILL", "NEXT"], rows.collect())
}

/// The nodes.
pub fn nodes(style: Style, facts: &Facts) -> String {
    let rows = facts.nodes.iter().map(|node| {
        let mut roles: Vec<&str> = node.roles.iter().map(|role| role.word()).collect();
        roles.extend((facts.quorum.leader.as_ref() == Some(&node.name)).then_some("leader"));
        let mut when = match node.name == facts.this_node {
            true => "this node".to_owned(),
            false => heard(node.last_heard_ms),
        };
        if node.relayed {
            when.push_str(", relayed");
        }
        let version = node.version.clone().unwrap_or_else(|| "-".to_owned());
        vec![node.name.clone(), roles.join(", "), node.state.word().to_owned(), when, version]
    });
    style.table(&["NODE", "ROLE", "STATE", "HEARD", "VERSION"], rows.collect())
}
