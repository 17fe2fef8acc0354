//! Which plugin knows a service's program, and what it is told of it.

use anshin_ledger::state::{Resource, ResourceKind, Service};
use std::collections::BTreeMap;

/// The plugin that knows PostgreSQL.
const POSTGRESQL: &str = "postgresql";

/// The plugin that knows the service's program, if there is one.
#[must_use]
pub fn plugin_of(service: &Service) -> Option<&'static str> {
    service.resources.iter().find_map(known)
}

/// The part of the service that the plugin knows: `db.postgresql`.
#[must_use]
pub fn part_of(service: &Service) -> Option<String> {
    let resource = service.resources.iter().find(|resource| known(resource).is_some())?;
    Some(format!("{}.{}", service.name, resource.name))
}

/// What the service's definition says of its program, by keys that the plugin knows: `unit`, `agent`, every parameter of the
/// agent by its own name, `address`, `mount`.
#[must_use]
pub fn facts(service: &Service) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    let known = service.resources.iter().find(|resource| known(resource).is_some());
    if let Some(resource) = known.or(service.resources.last()) {
        facts.extend(resource.parameters.clone());
        match &resource.kind {
            ResourceKind::Systemd { unit } => facts.insert("unit".into(), unit.clone()),
            ResourceKind::Ocf { provider, agent } => {
                facts.insert("agent".into(), format!("ocf:{provider}:{agent}"))
            }
            ResourceKind::Command { .. } | ResourceKind::BuiltIn { .. } => None,
        };
    }
    let address = service.addresses.first().and_then(|address| address.split('/').next());
    facts.extend(address.map(|address| ("address".into(), address.to_owned())));
    facts.extend(service.mount.clone().map(|mount| ("mount".into(), mount)));
    facts
}

/// Where a log waits for the vault, below the mount point of its service's volume.
pub const SPOOL: &str = ".anshin/log";

/// What on the service's volume its plugin's backup has, or is on its way into the vault already: patterns of what a backup of
/// the volume's files leaves out.
#[must_use]
pub fn held(service: &Service) -> Vec<String> {
    let (Some(mount), Some(_)) = (&service.mount, plugin_of(service)) else { return Vec::new() };
    let mount = mount.trim_end_matches('/');
    let data = facts(service).remove("pgdata");
    // Only a directory of its own: were it the whole volume, nothing would be left to back up, and that is no failure.
    let data = data.filter(|data| data.starts_with(&format!("{mount}/")));
    let directories = std::iter::once(format!("{mount}/{SPOOL}")).chain(data);
    directories.map(|directory| format!("{}/", directory.trim_end_matches('/'))).collect()
}

fn known(resource: &Resource) -> Option<&'static str> {
    let postgresql = match &resource.kind {
        ResourceKind::Systemd { unit } => unit.starts_with("postgresql@") || unit == "postgresql.service",
        ResourceKind::Ocf { agent, .. } => agent == "pgsql",
        ResourceKind::Command { .. } | ResourceKind::BuiltIn { .. } => false,
    };
    postgresql.then_some(POSTGRESQL)
}
