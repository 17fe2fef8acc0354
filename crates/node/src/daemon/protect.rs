//! `protect`: from what a user asks for to a service of the ledger, refusing what would not be protected at all.

use super::{site::unknown, world::World};
use crate::view::{Program, ServiceCreate};
use anshin_agent as agent;
use anshin_base::{Millis, Problem};
use anshin_ledger::state::{Resource, ResourceKind, Service, ServiceTarget};
use std::{collections::BTreeMap, path::Path};

/// Failures on one node before a service moves away.
const FAILURES_MAX: u32 = 3;
/// Failures older than this no longer count.
const FAILURES_EXPIRE: Millis = Millis(600_000);
/// Where the program of demonstrations listens.
const DEMO_LISTEN: &str = "0.0.0.0:7000";
/// A service stays where it is unless something else speaks for another node.
const STICKINESS: i64 = 100;

/// The service that a request means.
///
/// # Errors
/// Names and addresses that make no sense, volumes that do not exist or are taken.
pub fn new_service(world: &World, request: &ServiceCreate) -> Result<Service, Problem> {
    anshin_link::identity::check_name("service", &request.name)?;
    if request.name.contains('.') {
        return Err(Problem::new("name-format", format!("`{}` has a dot in it", request.name)));
    }
    if world.state.services.contains_key(&request.name) {
        return Err(Problem::new("service-exists", format!("there is a service `{}` already", request.name)));
    }
    let [volume] = request.volumes.as_slice() else {
        return Err(Problem::new("volume-invalid", "a service stands on exactly one volume for now")
            .hint("name it with --volume"));
    };
    let known = world.state.volumes.get(volume);
    let known = known.ok_or_else(|| unknown("volume", volume, "make it: anshin volume create"))?;
    let taken = world.state.services.values().find(|service| service.volume.as_ref() == Some(volume));
    if let Some(other) = taken {
        let message = format!("volume {volume} belongs to service {}", other.name);
        return Err(Problem::new("volume-busy", message));
    }
    if let Some(address) = &request.address {
        check_address(address)?;
    }
    let mut program = program(&request.program)?;
    if let ResourceKind::BuiltIn { what } = &program.kind {
        demo_defaults(what, &mut program.parameters, known.mount.as_deref())?;
    }
    let preferred = match &request.prefer {
        Some(name) => {
            Some(world.node_named(name).ok_or_else(|| unknown("node", name, "see: anshin node list"))?.id)
        }
        None => None,
    };
    Ok(Service {
        name: request.name.clone(),
        volume: Some(volume.clone()),
        mount: known.mount.clone(),
        addresses: request.address.iter().cloned().collect(),
        resources: vec![program],
        target: ServiceTarget::Started,
        preferred,
        failures_max: FAILURES_MAX,
        failures_expire: FAILURES_EXPIRE,
        stickiness: STICKINESS,
    })
}

/// Where the program of demonstrations keeps its lines and listens unless told otherwise.
fn demo_defaults(
    what: &str,
    parameters: &mut BTreeMap<String, String>,
    mount: Option<&str>,
) -> Result<(), Problem> {
    if what != "demo" {
        let problem = Problem::new("program-unknown", format!("there is no built-in program `{what}`"));
        return Err(problem.hint("there is: demo"));
    }
    let Some(mount) = mount else {
        return Err(Problem::new(
            "mount-invalid",
            "the demonstration keeps its lines in a file, and the volume is a bare device",
        )
        .hint("make the volume with --mount"));
    };
    parameters.entry("dir".into()).or_insert_with(|| format!("{mount}/demo"));
    parameters.entry("listen".into()).or_insert_with(|| DEMO_LISTEN.into());
    Ok(())
}

fn check_address(text: &str) -> Result<(), Problem> {
    let valid = text.split_once('/').is_some_and(|(address, prefix)| {
        let bits = match address.parse() {
            Ok(std::net::IpAddr::V4(_)) => 32,
            Ok(std::net::IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        prefix.parse::<u8>().is_ok_and(|prefix| prefix > 0 && prefix <= bits)
    });
    if valid {
        return Ok(());
    }
    Err(Problem::new("address-invalid", format!("`{text}` is not an address with prefix length"))
        .hint("for example 10.0.0.50/24"))
}

fn program(program: &Program) -> Result<Resource, Problem> {
    let (kind, parameters) = match program {
        Program::Systemd { unit } => (ResourceKind::Systemd { unit: unit.clone() }, BTreeMap::new()),
        Program::Ocf { agent, parameters } => {
            let (provider, agent) = agent.split_once(':').unwrap_or(("heartbeat", agent));
            (ResourceKind::Ocf { provider: provider.into(), agent: agent.into() }, parameters.clone())
        }
        Program::Command { arguments } if arguments.is_empty() => {
            return Err(Problem::new("command-invalid", "the command is empty"));
        }
        Program::Command { arguments } => {
            let kind =
                ResourceKind::Command { start: arguments.clone(), stop: Vec::new(), monitor: Vec::new() };
            (kind, BTreeMap::new())
        }
        Program::BuiltIn { what, parameters } => {
            (ResourceKind::BuiltIn { what: what.clone() }, parameters.clone())
        }
    };
    Ok(Resource { name: "program".into(), kind, parameters, operations: Vec::new() })
}

/// Refuses what would run but not be protected: a unit without a process of its own, an agent that is missing, a
/// program whose data is elsewhere.
///
/// # Errors
/// The first thing found, with what to do about it.
pub async fn check(runner: &agent::Runner, world: &World, service: &Service) -> Result<(), Problem> {
    let parts = super::parts::parts(&world.state, service);
    for part in &parts {
        let super::messages::Work::Agent(resource) = &part.work else { continue };
        if resource.class == agent::Class::Builtin {
            continue;
        }
        if let Some(problem) = runner.check(resource).await.into_iter().next() {
            return Err(problem);
        }
        if part.id.ends_with(".program") {
            check_data_place(resource, service)?;
        }
    }
    Ok(())
}

/// Parameters of stock agents that say where a program keeps its data.
const DATA_PARAMETERS: [&str; 4] = ["pgdata", "datadir", "data_dir", "dir"];

fn check_data_place(resource: &agent::Resource, service: &Service) -> Result<(), Problem> {
    let Some(mount) = &service.mount else { return Ok(()) };
    let mut places: Vec<String> =
        DATA_PARAMETERS.iter().filter_map(|name| resource.parameter(name).map(str::to_owned)).collect();
    if resource.class == agent::Class::Systemd {
        places.extend(debian_postgresql_data(&resource.kind));
    }
    match places.into_iter().find(|place| !Path::new(place).starts_with(mount)) {
        None => Ok(()),
        Some(place) => Err(Problem::refused(
            "data-not-on-volume",
            format!(
                "{} keeps its data in {place}, which is not on the volume (mounted at {mount})",
                resource.label()
            ),
        )
        .hint(format!("move the data below {mount} and point the program at it, then protect it"))),
    }
}

/// The data directory of Debian's `postgresql@VERSION-CLUSTER.service`.
fn debian_postgresql_data(unit: &str) -> Option<String> {
    let instance = unit.strip_prefix("postgresql@")?.strip_suffix(".service")?;
    let (version, cluster) = instance.split_once('-')?;
    let file = format!("/etc/postgresql/{version}/{cluster}/postgresql.conf");
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().map(str::trim).rfind(|line| line.starts_with("data_directory"))?;
    let value = line.split_once('=')?.1.trim().strip_prefix('\'')?;
    Some(value.split('\'').next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::fixture;

    fn request() -> ServiceCreate {
        ServiceCreate {
            name: "web".into(),
            program: Program::Command { arguments: vec!["/bin/server".into()] },
            volumes: vec!["data".into()],
            address: Some("192.0.2.60/24".into()),
            prefer: None,
        }
    }

    #[test]
    fn a_volume_serves_one_service() {
        let world = fixture::site();
        assert_eq!(new_service(&world, &request()).unwrap_err().code, "volume-busy");
    }

    #[test]
    fn an_address_needs_its_prefix_length() {
        for bad in ["192.0.2.1", "192.0.2.1/33", "192.0.2.1/0", "x/24", "::1/129"] {
            assert!(check_address(bad).is_err(), "{bad}");
        }
        assert!(check_address("2001:db8::1/64").is_ok());
    }

    #[test]
    fn a_program_whose_data_is_elsewhere_is_refused() {
        let world = fixture::site();
        let service = &world.state.services["db"];
        let elsewhere = agent::Resource::new("db.program", agent::Class::Ocf, "pgsql")
            .with("pgdata", "/var/lib/postgresql");
        let problem = check_data_place(&elsewhere, service).unwrap_err();
        assert!(problem.refused_for_safety && problem.hint.is_some());
        let inside =
            agent::Resource::new("db.program", agent::Class::Ocf, "pgsql").with("pgdata", "/srv/data/pg");
        assert!(check_data_place(&inside, service).is_ok());
    }
}
