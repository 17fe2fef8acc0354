//! A service's parts: what a service of the ledger means as things that a node starts and stops, in starting order.

use super::messages::Work;
use anshin_agent as agent;
use anshin_base::Millis;
use anshin_ledger::state::{Operation, Resource, ResourceKind, Service, ServiceTarget, State};

/// One part of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// `SERVICE.PART`.
    pub id: String,
    /// What it is.
    pub work: Work,
    /// How long starting may take.
    pub start: Millis,
    /// How long stopping may take.
    pub stop: Millis,
    /// How often it is looked at, and how long that may take; None: not at all.
    pub monitor: Option<(Millis, Millis)>,
    /// What must be mounted where it is started.
    pub needs_mount: Option<String>,
}

impl Part {
    /// Class, provider and name as the scheduler wants them.
    #[must_use]
    pub fn agent(&self) -> anshin_policy::Agent {
        match &self.work {
            Work::Volume { .. } => anshin_policy::Agent::new("anshin", "", "volume"),
            Work::Agent(resource) => match resource.class {
                agent::Class::Ocf => anshin_policy::Agent::new("ocf", resource.provider(), &resource.kind),
                agent::Class::Systemd => anshin_policy::Agent::new("systemd", "", &resource.kind),
                agent::Class::Command => anshin_policy::Agent::new("anshin", "", "command"),
                agent::Class::Builtin => anshin_policy::Agent::new("anshin", "", &resource.kind),
            },
        }
    }

    /// The agent in the usual notation, for people.
    #[must_use]
    pub fn kind(&self) -> String {
        match &self.work {
            Work::Volume { .. } => "volume".into(),
            Work::Agent(resource) => resource.label(),
        }
    }
}

/// Promotion waits for the old lease and for reconciliation with every member; this is far above both.
const VOLUME_START: Millis = Millis(30_000);
/// A planned hand-over flushes what is in flight.
const VOLUME_STOP: Millis = Millis(60_000);

/// The parts of `service` in starting order: volume, file system, addresses, then its own resources.
#[must_use]
pub fn parts(state: &State, service: &Service) -> Vec<Part> {
    let id = |part: &str| format!("{}.{part}", service.name);
    let mut parts = Vec::new();
    let volume = service.volume.as_ref().and_then(|name| state.volumes.get(name));
    if let Some(volume) = volume {
        parts.push(Part {
            id: id("volume"),
            work: Work::Volume { volume: volume.name.clone() },
            start: VOLUME_START,
            stop: VOLUME_STOP,
            monitor: Some((Millis(2_000), Millis(10_000))),
            needs_mount: None,
        });
        if let (Some(directory), Some(file_system)) = (service.mount.as_ref(), volume.file_system.as_ref()) {
            let mut mount = agent::Resource::new(id("mount"), agent::Class::Ocf, "Filesystem")
                .with("device", format!("/dev/anshin/{}", volume.name))
                .with("directory", directory.clone())
                .with("fstype", file_system.clone())
                .with("run_fsck", "no");
            mount.provider = Some("heartbeat".into());
            parts.push(Part {
                id: id("mount"),
                work: Work::Agent(mount),
                start: Millis(60_000),
                stop: Millis(60_000),
                monitor: Some((Millis(10_000), Millis(40_000))),
                needs_mount: None,
            });
        }
    }
    for (number, address) in service.addresses.iter().enumerate() {
        let name = if number == 0 { id("address") } else { id(&format!("address{}", number + 1)) };
        let mut resource =
            agent::Resource::new(&name, agent::Class::Builtin, "address").with("address", address);
        if let Some(volume) = &service.volume {
            resource = resource.with("lease", format!("/run/anshin/lease-{volume}"));
        }
        parts.push(Part {
            id: name,
            work: Work::Agent(resource),
            start: Millis(20_000),
            stop: Millis(10_000),
            monitor: Some((Millis(5_000), Millis(10_000))),
            needs_mount: None,
        });
    }
    parts.extend(service.resources.iter().map(|resource| program(service, resource)));
    parts
}

/// Every service, and for each volume that no service stands on one that only keeps the volume active and mounted, so
/// that a new volume is usable (and its copies are brought in sync) before anything is protected.
#[must_use]
pub fn services(state: &State) -> Vec<Service> {
    let mut all: Vec<Service> = state.services.values().cloned().collect();
    for volume in state.volumes.values() {
        if all.iter().any(|service| service.volume.as_ref() == Some(&volume.name)) {
            continue;
        }
        all.push(Service {
            name: format!("{VOLUME_SERVICE}{}", volume.name),
            volume: Some(volume.name.clone()),
            mount: volume.mount.clone(),
            addresses: Vec::new(),
            resources: Vec::new(),
            target: ServiceTarget::Started,
            preferred: None,
            failures_max: 3,
            failures_expire: Millis(600_000),
            stickiness: 100,
        });
    }
    all
}

/// How the names of such services begin; no service of a user can be called so.
pub const VOLUME_SERVICE: &str = "volume:";

fn program(service: &Service, resource: &Resource) -> Part {
    let id = format!("{}.{}", service.name, resource.name);
    let mut made = match &resource.kind {
        ResourceKind::Ocf { provider, agent } => {
            let mut made = agent::Resource::new(&id, agent::Class::Ocf, agent);
            made.provider = Some(provider.clone());
            made
        }
        ResourceKind::Systemd { unit } => agent::Resource::new(&id, agent::Class::Systemd, unit),
        ResourceKind::BuiltIn { what } => agent::Resource::new(&id, agent::Class::Builtin, what),
        ResourceKind::Command { start, stop, monitor } => {
            let mut made = agent::Resource::new(&id, agent::Class::Command, "command");
            for (name, words) in [("start", start), ("stop", stop), ("check", monitor)] {
                if !words.is_empty() {
                    made.parameters.insert(name.into(), shell_line(words));
                }
            }
            made
        }
    };
    made.parameters.extend(resource.parameters.clone());
    let operation = |name: &str| resource.operations.iter().find(|operation| operation.name == name);
    let timeout = |name: &str, default: u64| {
        operation(name).map_or(Millis(default), |operation: &Operation| operation.timeout)
    };
    // A unit has its own time to stop, by default 90 s, after which systemd kills it.
    let stop = if matches!(resource.kind, ResourceKind::Systemd { .. }) { 120_000 } else { 60_000 };
    let monitor = operation("monitor");
    let every = monitor.map_or(Millis(5_000), |operation| operation.interval);
    Part {
        id,
        work: Work::Agent(made),
        start: timeout("start", 60_000),
        stop: timeout("stop", stop),
        monitor: (every.0 > 0).then(|| (every, timeout("monitor", 30_000))),
        needs_mount: service.mount.clone(),
    }
}

/// Words as one line that a shell cuts into the same words again.
fn shell_line(words: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    let quoted = words.iter().map(|word| {
        if !word.is_empty() && word.chars().all(plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_program_as_they_were_given() {
        let words = ["/bin/x", "a b", "it's", "", "$HOME"].map(str::to_owned);
        assert_eq!(shell_line(&words), r"/bin/x 'a b' 'it'\''s' '' '$HOME'");
    }
}
