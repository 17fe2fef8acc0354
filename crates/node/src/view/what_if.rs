//! What the death of one node would do, from what is known now.

use super::{
    Facts, HEARD_MS_MAX, Level, NodeState, ReplicaState, ReplicaView, Role, RunState, ServiceView, VolumeView,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One event and what it would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhatIf {
    /// What happens, for example `node a dies`.
    pub event: String,
    /// What that does, one sentence.
    pub outcome: String,
    /// Green: everything goes on. Amber: something stops, no data at risk. Red: the only current copy would be gone
    /// with it. Unknown: not known.
    pub level: Level,
}

/// What becomes of one service or volume when a node dies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing changes for it.
    GoesOn,
    /// It goes on on another node.
    MovesTo(String),
    /// It stops, for this reason; no acknowledged write is at risk.
    Stops(String),
    /// It stops, and the node that died held the only current copy.
    OnlyCopy(String),
    /// It is not running now, and that does not change.
    Down,
    /// What is known does not suffice.
    Unknown(String),
}

impl Fate {
    pub(super) fn level(&self) -> Level {
        match self {
            Self::GoesOn | Self::MovesTo(_) => Level::Green,
            Self::Stops(_) | Self::Down => Level::Amber,
            Self::OnlyCopy(_) => Level::Red,
            Self::Unknown(_) => Level::Unknown,
        }
    }

    fn tell(&self, name: &str) -> String {
        match self {
            Self::GoesOn => format!("{name} goes on"),
            Self::MovesTo(node) => format!("{name} moves to {node}"),
            Self::Stops(why) | Self::OnlyCopy(why) => format!("{name} stops: {why}"),
            Self::Down => format!("{name} stays down"),
            Self::Unknown(why) => format!("{name}: not known, {why}"),
        }
    }
}

/// What the death of each node that is not dead already would do.
#[must_use]
pub fn what_if(facts: &Facts) -> Vec<WhatIf> {
    let living = facts.nodes.iter().filter(|node| node.state != NodeState::Offline);
    living.map(|node| death_of(facts, &node.name)).collect()
}

fn death_of(facts: &Facts, dead: &str) -> WhatIf {
    let event = format!("node {dead} dies");
    if !facts.quorate() {
        let outcome = "not known: without quorum this node cannot see what the others would do".to_owned();
        return WhatIf { event, outcome, level: Level::Unknown };
    }
    let services =
        facts.services.iter().map(|service| (service.name.clone(), service_fate(facts, service, dead)));
    let bare = facts.volumes.iter().filter(|volume| !carries_service(facts, volume));
    let volumes = bare.map(|volume| (format!("volume {}", volume.name), volume_fate(facts, volume, dead)));
    let mut fates: Vec<(String, Fate)> = services.chain(volumes).collect();
    let ledger = ledger_after(facts, dead);
    let level = fates.iter().map(|(_, fate)| fate.level()).max().unwrap_or(Level::Green);
    let calm = fates.iter().all(|(_, fate)| *fate == Fate::GoesOn);
    fates.sort_by_key(|(_, fate)| std::cmp::Reverse(fate.level()));
    let mut parts: Vec<String> = match calm {
        true if fates.is_empty() => vec!["nothing is protected yet".to_owned()],
        true => vec!["everything goes on".to_owned()],
        false => fates.iter().map(|(name, fate)| fate.tell(name)).collect(),
    };
    if !ledger {
        parts.push("nothing can be decided until a voter returns".to_owned());
    }
    WhatIf { event, outcome: parts.join("; "), level: if ledger { level } else { level.max(Level::Amber) } }
}

fn carries_service(facts: &Facts, volume: &VolumeView) -> bool {
    facts.services.iter().any(|service| service.volumes.contains(&volume.name))
}

/// Whether the ledger could still decide after the death of `dead`.
pub(super) fn ledger_after(facts: &Facts, dead: &str) -> bool {
    let quorum = &facts.quorum;
    let left = quorum.voters.iter().filter(|voter| voter.present && voter.node != dead).count();
    let lost = u32::from(quorum.voters.iter().any(|voter| voter.present && voter.node == dead));
    // The smaller of the two ways to count, should they disagree.
    left.min(quorum.votes_present.saturating_sub(lost) as usize) >= quorum.votes_needed as usize
}

/// Whether knowledge of that age is of now.
pub(super) fn fresh(heard_ms: Option<u64>) -> bool {
    heard_ms.is_some_and(|age| age <= HEARD_MS_MAX)
}

/// Whether the copy is known to hold every acknowledged write: the ledger says so, it says so, and it was heard just now.
pub(super) fn is_current(volume: &VolumeView, replica: &ReplicaView) -> bool {
    let says_so = match replica.state {
        ReplicaState::Primary => {
            volume.primary.as_ref() == Some(&replica.node) && replica.behind_bytes.unwrap_or(0) == 0
        }
        ReplicaState::InSync => replica.behind_bytes == Some(0),
        _ => false,
    };
    says_so && fresh(replica.last_heard_ms) && volume.in_sync.contains(&replica.node)
}

/// Whether services may start on that node.
pub(super) fn may_run(facts: &Facts, node: &str) -> bool {
    facts.node(node).is_some_and(|node| {
        node.state == NodeState::Online && fresh(node.last_heard_ms) && node.roles.contains(&Role::Data)
    })
}

pub(super) fn volume_fate(facts: &Facts, volume: &VolumeView, dead: &str) -> Fate {
    let Some(primary) = volume.primary.as_deref().filter(|_| volume.suspended.is_none()) else {
        return Fate::Down;
    };
    let served = volume.replicas.iter().any(|replica| {
        replica.node == primary && replica.state == ReplicaState::Primary && fresh(replica.last_heard_ms)
    });
    if !served {
        return Fate::Unknown(format!("nothing was heard of its primary on {primary}"));
    }
    if primary != dead {
        let member = volume.in_sync.iter().any(|node| node == dead);
        return match member && !ledger_after(facts, dead) {
            true => Fate::Stops(format!("without quorum {primary} cannot go on alone")),
            false => Fate::GoesOn,
        };
    }
    let mut others =
        volume.replicas.iter().filter(|replica| replica.node != dead && is_current(volume, replica));
    let Some(other) = others.clone().next() else {
        return Fate::OnlyCopy(format!("no other copy of {} is known to be current", volume.name));
    };
    if !ledger_after(facts, dead) {
        return Fate::Stops("no quorum would be left to decide a takeover".to_owned());
    }
    match others.find(|replica| may_run(facts, &replica.node)) {
        Some(replica) => Fate::MovesTo(replica.node.clone()),
        None => Fate::Stops(format!("{} has a current copy but may not run services", other.node)),
    }
}

pub(super) fn service_fate(facts: &Facts, service: &ServiceView, dead: &str) -> Fate {
    let Some(at) = service.node.as_deref().filter(|_| service.state == RunState::Running) else {
        return Fate::Down;
    };
    let volumes = service.volumes.iter().map(|name| match facts.volume(name) {
        Some(volume) => volume_fate(facts, volume, dead),
        None => Fate::Unknown(format!("volume {name} is not known")),
    });
    let volumes: Vec<Fate> = volumes.collect();
    if let Some(worst) =
        volumes.iter().filter(|fate| fate.level() != Level::Green).max_by_key(|fate| fate.level())
    {
        return worst.clone();
    }
    if at != dead {
        // A volume that would move away from under a running service means that the two are not together now.
        return match volumes.iter().all(|fate| *fate == Fate::GoesOn) {
            true => Fate::GoesOn,
            false => Fate::Unknown("its volume is not where it runs".to_owned()),
        };
    }
    if facts.node(dead).is_some_and(|node| node.state == NodeState::Maintenance) {
        return Fate::Stops(format!("{dead} is in maintenance, so nothing is recovered from it"));
    }
    if !ledger_after(facts, dead) {
        return Fate::Stops("no quorum would be left to decide a takeover".to_owned());
    }
    match new_home(facts, service, dead, &volumes) {
        Fate::MovesTo(home) => match service.barred.get(&home) {
            Some(why) => Fate::Stops(format!("{home} could not start it: {why}")),
            None => Fate::MovesTo(home),
        },
        other => other,
    }
}

/// Where a service goes whose volumes have these fates, none of them bad.
fn new_home(facts: &Facts, service: &ServiceView, dead: &str, volumes: &[Fate]) -> Fate {
    let Some(first) = volumes.first() else {
        let fit = |name: &String| name != dead && may_run(facts, name) && !service.barred.contains_key(name);
        let home = facts.nodes.iter().find(|node| fit(&node.name));
        return match home {
            Some(node) => Fate::MovesTo(node.name.clone()),
            None => Fate::Stops("no other node may run it".to_owned()),
        };
    };
    match volumes.iter().all(|fate| fate == first && *fate != Fate::GoesOn) {
        true => first.clone(),
        false => Fate::Unknown("its volumes would not be on one node".to_owned()),
    }
}
