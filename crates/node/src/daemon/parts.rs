//! A service's parts: what a service of the ledger means as things that a node starts and stops, in starting order.

use super::messages::Work;
use anshin_agent as agent;
use anshin_base::Millis;
use anshin_ledger::state::{Operation, Resource, ResourceKind, Service, State};

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
            });
        }
    }
    for (number, address) in service.addresses.iter().enumerate() {
        let name = if number == 0 { id("address") } else { id(&format!("address{}", number + 1)) };
        parts.push(Part {
            id: name,
            work: Work::Address { address: address.clone(), volume: service.volume.clone() },
            start: Millis(20_000),
            stop: Millis(10_000),
            monitor: Some((Millis(5_000), Millis(10_000))),
        });
    }
    parts.extend(service.resources.iter().map(|resource| program(service, resource)));
    parts
}

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
            for (name, words) in [("start", start), ("stop", stop), ("monitor", monitor)] {
                if !words.is_empty() {
                    let text = serde_json::to_string(words).expect("invariant: a list of texts is JSON");
                    made.parameters.insert(name.into(), text);
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
    let monitor = operation("monitor");
    let every = monitor.map_or(Millis(5_000), |operation| operation.interval);
    Part {
        id,
        work: Work::Agent(made),
        start: timeout("start", 60_000),
        stop: timeout("stop", 60_000),
        monitor: (every.0 > 0).then(|| (every, timeout("monitor", 30_000))),
    }
}
