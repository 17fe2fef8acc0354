//! The one-sentence answer to "is it safe, and what would the next failure do?" (I17).
//!
//! Green is said only of what is known, now, to survive the death of any one node. Every doubt takes it away.

use super::{
    Facts, Level, NodeState, NodeView, ProtectedView, ReplicaState, ReplicaView, RunState, ServiceView,
    VolumeView, VoterState,
    what_if::{Fate, fresh, is_current, ledger_after, service_fate, volume_fate, what_if},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How safe the site is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Posture {
    /// The worst of the lines.
    pub level: Level,
    /// In one sentence.
    pub sentence: String,
    /// Subject by subject: services, volumes, the ledger, and nodes that need attention.
    pub lines: Vec<PostureLine>,
}

/// How safe one thing is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PostureLine {
    /// What it is about, for example `volume data`.
    pub subject: String,
    /// How safe.
    pub level: Level,
    /// In one sentence.
    pub sentence: String,
    /// What that rests on.
    pub evidence: String,
}

/// The posture that follows from `facts`.
#[must_use]
pub fn posture(facts: &Facts) -> Posture {
    let mut lines: Vec<PostureLine> =
        facts.services.iter().map(|service| service_line(facts, service)).collect();
    lines.extend(facts.volumes.iter().map(|volume| volume_line(facts, volume)));
    lines.extend(facts.backups.things.iter().map(|thing| backup_line(facts, thing)));
    lines.push(ledger_line(facts));
    lines.extend(facts.nodes.iter().filter_map(|node| node_line(facts, node)));
    let worst = lines.iter().map(|line| line.level).max().unwrap_or(Level::Unknown);
    let empty = facts.volumes.is_empty() && facts.services.is_empty();
    let level = if empty { worst.max(Level::Amber) } else { worst };
    let sentence = if empty && level == Level::Amber {
        "Nothing is protected yet.".to_owned()
    } else {
        whole(facts, &lines, level)
    };
    Posture { level, sentence, lines }
}

fn whole(facts: &Facts, lines: &[PostureLine], level: Level) -> String {
    let mut bad = lines.iter().filter(|line| line.level == level);
    match level {
        Level::Green => {
            let names: Vec<&str> = facts.services.iter().map(|service| service.name.as_str()).collect();
            let what = match names[..] {
                [] => "All volumes are".to_owned(),
                [one] => format!("{one} is"),
                [one, two] => format!("{one} and {two} are"),
                _ => format!("All {} services are", names.len()),
            };
            format!("{what} protected: any one server may die now.")
        }
        Level::Amber => {
            let backups_only = bad.clone().all(PostureLine::is_backup);
            let stops = !backups_only && what_if(facts).iter().any(|event| event.level != Level::Green);
            let runs = facts.services.iter().all(|service| service.state == RunState::Running);
            let so = match (runs, stops) {
                (true, true) => "Everything runs, but the next failure can stop it",
                (true, false) => "Everything runs, but not all is well",
                (false, _) => "Not everything runs",
            };
            // The last line is the nearest to the cause: nodes come after the ledger, that after volumes and services. What
            // lacks a backup runs no worse for it.
            let nearest = bad.clone().rfind(|line| !line.is_backup()).or_else(|| bad.next_back());
            nearest.map(|line| format!("{so}: {}.", line.tell())).unwrap_or_default()
        }
        Level::Unknown if !facts.quorate() => format!(
            "This node has no quorum ({} of {} votes): what it knows of the site is {} old.",
            facts.quorum.votes_present,
            facts.quorum.votes_needed,
            age(facts.quorum.ledger_age_ms)
        ),
        Level::Unknown => {
            bad.next_back().map(|line| format!("Not known: {}.", line.tell())).unwrap_or_default()
        }
        // What the user feels comes first: the service that stopped, then its volume.
        Level::Red => {
            let first = bad.next().map(PostureLine::tell).unwrap_or_default();
            match bad.count() {
                0 => format!("{first}."),
                more => format!("{first} (and {more} more below)."),
            }
        }
    }
}

impl PostureLine {
    fn is_backup(&self) -> bool {
        self.subject.starts_with(BACKUP)
    }

    /// Subject and sentence in one.
    fn tell(&self) -> String {
        match self.subject == LEDGER || self.subject.starts_with("volume ") || self.is_backup() {
            true => format!("{}: {}", self.subject, self.sentence),
            false => format!("{} {}", self.subject, self.sentence),
        }
    }
}

const LEDGER: &str = "ledger";
const BACKUP: &str = "backup of ";

/// An age from here on means: never since this daemon started, and before that nobody knows.
pub const AGE_UNKNOWN_MS: u64 = u64::MAX / 2;

/// A length of time for people.
#[must_use]
pub fn age(ms: u64) -> String {
    if ms >= AGE_UNKNOWN_MS {
        return "an unknown time".into();
    }
    match ms / 1_000 {
        0..=1 => format!("{:.1} s", ms as f64 / 1_000.0),
        s @ 2..=119 => format!("{s} s"),
        s @ 120..=7_199 => format!("{} min", s / 60),
        s => format!("{} h", s / 3_600),
    }
}

fn ledger_line(facts: &Facts) -> PostureLine {
    let quorum = &facts.quorum;
    let absent: Vec<&str> = quorum.voters.iter().filter(|v| !v.present).map(|v| v.node.as_str()).collect();
    let fatal: Vec<&str> =
        quorum.voters.iter().map(|v| v.node.as_str()).filter(|node| !ledger_after(facts, node)).collect();
    let tail =
        if fatal.is_empty() { "" } else { "; until then the next failure of a voter stops all decisions" };
    let (level, sentence) = if !facts.quorate() {
        (Level::Unknown, "no quorum: nothing can be decided from here".to_owned())
    } else if let Some(voter) = quorum.voters.iter().find(|voter| voter.state == VoterState::Rejoining) {
        let why = voter.why.as_deref().unwrap_or("it forgot what it confirmed");
        (Level::Amber, format!("the voter of {} is being replaced: {why}{tail}", voter.node))
    } else if let Some(voter) = quorum.voters.iter().find(|voter| voter.state == VoterState::CatchingUp) {
        (Level::Amber, format!("the voter of {} is catching up{tail}", voter.node))
    } else if !fatal.is_empty() {
        let lost =
            if absent.is_empty() { String::new() } else { format!("without {}, ", absent.join(" and ")) };
        (Level::Amber, format!("{lost}the next failure of a voter stops all decisions and may stop services"))
    } else if !absent.is_empty() {
        (Level::Amber, format!("voter {} does not answer", absent.join(" and ")))
    } else {
        (Level::Green, "decides".to_owned())
    };
    let leader = quorum.leader.as_deref().unwrap_or("none");
    let evidence = format!(
        "{} of {} voters heard, {} needed; leader {leader}; known to be current {} ago",
        quorum.votes_present,
        quorum.voters.len(),
        quorum.votes_needed,
        age(quorum.ledger_age_ms)
    );
    PostureLine { subject: LEDGER.to_owned(), level, sentence, evidence }
}

/// How well one thing can be brought back.
fn backup_line(facts: &Facts, thing: &ProtectedView) -> PostureLine {
    let level = if facts.quorate() { thing.level } else { thing.level.max(Level::Unknown) };
    let mut reasons = thing.reasons.iter();
    let sentence = reasons.next().cloned().unwrap_or_else(|| "nothing is known of it".to_owned());
    let mut evidence: Vec<String> = reasons.cloned().collect();
    evidence.extend(thing.plan.as_ref().map(|plan| format!("plan {plan}")));
    evidence.extend(
        thing
            .last_good
            .as_ref()
            .map(|good| format!("snapshot {} in vault {} of {}", good.snapshot, good.vault, good.point)),
    );
    PostureLine {
        subject: format!("{BACKUP}{}", thing.target),
        level,
        sentence,
        evidence: evidence.join("; "),
    }
}

/// A line for a node that needs attention.
fn node_line(facts: &Facts, node: &NodeView) -> Option<PostureLine> {
    let heard = heard_text(node.last_heard_ms);
    let (level, sentence) = match node.state {
        // Without quorum it may be this node that is cut off, not that one.
        NodeState::Offline if !facts.quorate() => (Level::Unknown, "does not answer this node".to_owned()),
        NodeState::Offline => (Level::Amber, "does not answer".to_owned()),
        _ if !fresh(node.last_heard_ms) => (Level::Unknown, "was not heard from just now".to_owned()),
        NodeState::Maintenance => (Level::Amber, "is in maintenance: nothing there is recovered".to_owned()),
        _ if node.relayed => (Level::Amber, "is reached only through another node".to_owned()),
        NodeState::Online | NodeState::Standby => return None,
    };
    Some(PostureLine { subject: format!("node {}", node.name), level, sentence, evidence: heard })
}

fn heard_text(heard_ms: Option<u64>) -> String {
    match heard_ms {
        Some(ms) => format!("heard {} ago", age(ms)),
        None => "never heard".to_owned(),
    }
}

fn volume_line(facts: &Facts, volume: &VolumeView) -> PostureLine {
    let (level, sentence) = volume_finding(facts, volume);
    let copies = volume
        .replicas
        .iter()
        .map(|r| format!("{} {}, {}", r.node, r.state.word(), heard_text(r.last_heard_ms)));
    let evidence = format!(
        "generation {}, in sync by the ledger: {}; {}",
        volume.generation,
        if volume.in_sync.is_empty() { "none".to_owned() } else { volume.in_sync.join(", ") },
        copies.collect::<Vec<_>>().join("; ")
    );
    PostureLine { subject: format!("volume {}", volume.name), level, sentence, evidence }
}

fn volume_finding(facts: &Facts, volume: &VolumeView) -> (Level, String) {
    if let Some(why) = &volume.suspended {
        return (Level::Red, format!("writes wait: {why}"));
    }
    let Some(primary) = volume.primary.as_deref() else {
        return match facts.quorate() {
            true => (Level::Red, "no copy serves it".to_owned()),
            false => (Level::Unknown, "no copy was known to serve it".to_owned()),
        };
    };
    let at_primary = volume.replicas.iter().find(|replica| replica.node == primary);
    if !at_primary.is_some_and(|replica| fresh(replica.last_heard_ms)) {
        let dead = facts.node(primary).is_some_and(|node| node.state == NodeState::Offline);
        return match dead && facts.quorate() {
            true => (Level::Red, format!("its primary was on {primary}, which does not answer")),
            false => (Level::Unknown, format!("nothing was heard just now of its primary on {primary}")),
        };
    }
    if at_primary.is_none_or(|replica| replica.state != ReplicaState::Primary) {
        return (Level::Red, format!("{primary} is to serve it but does not yet"));
    }
    if !facts.quorate() {
        return match primary == facts.this_node {
            true => (
                Level::Amber,
                format!("goes on on {primary}; without quorum the next failure of a copy stops it"),
            ),
            false => (Level::Unknown, format!("was last known to be served by {primary}")),
        };
    }
    copies_finding(facts, volume, primary)
}

/// The finding on a volume that is served.
fn copies_finding(facts: &Facts, volume: &VolumeView, primary: &str) -> (Level, String) {
    if let Some(replica) = volume.replicas.iter().find(|replica| !is_current(volume, replica)) {
        return (Level::Amber, format!("{}; {primary} serves it", lacking(replica)));
    }
    let unseen =
        volume.in_sync.iter().find(|node| volume.replicas.iter().all(|replica| replica.node != **node));
    if let Some(node) = unseen {
        return (Level::Amber, format!("nothing is known of the copy on {node}; {primary} serves it"));
    }
    let others: Vec<&str> =
        volume.replicas.iter().map(|r| r.node.as_str()).filter(|node| *node != primary).collect();
    if others.is_empty() {
        return (Level::Amber, format!("there is only one copy, on {primary}"));
    }
    match worst_death(facts, |dead| volume_fate(facts, volume, dead)) {
        Some((dead, why)) => (Level::Amber, format!("served by {primary}; stops if {dead} dies: {why}")),
        None => (
            Level::Green,
            format!("served by {primary}; in sync on {}, 0 bytes behind", others.join(" and ")),
        ),
    }
}

/// Why a copy is not known to be current.
fn lacking(replica: &ReplicaView) -> String {
    let node = &replica.node;
    let by = match replica.behind_bytes {
        Some(bytes) => format!("at most {} behind", anshin_base::ByteSize(bytes)),
        None => "not known how far behind".to_owned(),
    };
    if !fresh(replica.last_heard_ms) {
        return format!("the copy on {node} does not answer, {by}");
    }
    match replica.state {
        ReplicaState::Resyncing => format!("the copy on {node} is being brought up to date, {by}"),
        ReplicaState::Behind => format!("the copy on {node} is {by}"),
        ReplicaState::OldImage => format!("the copy on {node} is an old image and never promoted"),
        ReplicaState::Failed => format!("the copy on {node} cannot be used"),
        ReplicaState::Primary | ReplicaState::InSync | ReplicaState::Unknown => {
            format!("the copy on {node} is not known to be current, {by}")
        }
    }
}

/// The node whose death would stop something first, and why.
fn worst_death(facts: &Facts, fate: impl Fn(&str) -> Fate) -> Option<(String, String)> {
    let living = facts.nodes.iter().filter(|node| node.state != NodeState::Offline);
    let mut bad = living.filter_map(|node| match fate(&node.name) {
        Fate::GoesOn | Fate::MovesTo(_) => None,
        Fate::Stops(why) | Fate::OnlyCopy(why) | Fate::Unknown(why) => Some((node.name.clone(), why)),
        Fate::Down => Some((node.name.clone(), "it is down now".to_owned())),
    });
    bad.next()
}

fn service_line(facts: &Facts, service: &ServiceView) -> PostureLine {
    let (level, sentence) = service_finding(facts, service);
    let parts = service.resources.iter().map(|resource| {
        let result = resource.last_result.as_deref().map(|result| format!(" ({result})")).unwrap_or_default();
        format!("{} {}{result}", resource.name, resource.state.word())
    });
    let mut evidence: Vec<String> = parts.collect();
    evidence.extend((!service.why.is_empty()).then(|| service.why.clone()));
    PostureLine { subject: service.name.clone(), level, sentence, evidence: evidence.join("; ") }
}

fn service_finding(facts: &Facts, service: &ServiceView) -> (Level, String) {
    let at = service.node.as_deref().unwrap_or("no node");
    let here = service.node.as_deref() == Some(facts.this_node.as_str());
    if !facts.quorate() && !here {
        return (Level::Unknown, format!("was last known to be {} on {at}", service.state.word()));
    }
    match service.state {
        RunState::Failed => (Level::Red, format!("failed on {at}: {}", service.why)),
        RunState::Blocked => (Level::Red, format!("cannot run anywhere: {}", service.why)),
        RunState::Starting => (Level::Red, format!("is starting on {at}")),
        RunState::Stopping => (Level::Red, format!("is stopping on {at}")),
        RunState::Stopped => (Level::Amber, "is stopped, as requested".to_owned()),
        RunState::Unknown => (Level::Unknown, "is in an unknown state".to_owned()),
        RunState::Running => running_finding(facts, service, at),
    }
}

/// The finding on a service that is said to run on `at`.
fn running_finding(facts: &Facts, service: &ServiceView, at: &str) -> (Level, String) {
    match facts.node(at) {
        None => return (Level::Unknown, "runs, but it is not known where".to_owned()),
        Some(node) if node.state == NodeState::Offline && facts.quorate() => {
            return (Level::Red, format!("ran on {at}, which does not answer"));
        }
        Some(node) if !fresh(node.last_heard_ms) => {
            return (Level::Unknown, format!("ran on {at}, which was not heard from just now"));
        }
        Some(_) => {}
    }
    for name in &service.volumes {
        match facts.volume(name).map(|volume| (volume, volume_finding(facts, volume))) {
            None => return (Level::Unknown, format!("runs on {at}; nothing is known of its volume {name}")),
            Some((_, (level @ (Level::Red | Level::Unknown), finding))) => {
                return (level, format!("is held up on {at}: volume {name}: {finding}"));
            }
            Some((volume, _)) if volume.primary.as_deref() != Some(at) => {
                return (Level::Unknown, format!("runs on {at}, but its volume {name} is not there"));
            }
            Some(_) => {}
        }
    }
    if let Some(part) = service.resources.iter().find(|resource| resource.state != RunState::Running) {
        return (Level::Amber, format!("runs on {at}, but its part {} is {}", part.name, part.state.word()));
    }
    if !facts.quorate() {
        return (Level::Amber, format!("runs on {at}, but without quorum it cannot be moved or recovered"));
    }
    match worst_death(facts, |dead| service_fate(facts, service, dead)) {
        Some((dead, why)) => (Level::Amber, format!("runs on {at}; stops if {dead} dies: {why}")),
        None => match service_fate(facts, service, at) {
            Fate::MovesTo(next) => {
                (Level::Green, format!("runs on {at}; {next} is ready; any one server may die"))
            }
            _ => (Level::Amber, format!("runs on {at}; no other node is known to be ready")),
        },
    }
}
