//! From what the leader ordered to what a process needs to know, on the machine where it runs.

use super::program;
use crate::{
    backup::job::{BackupJob, PluginSubject, Subject, VaultAccess, VolumeSubject},
    daemon::{drill::running_on, world::World},
    paths::Paths,
};
use anshin_director::{plan::Source, run::Work};
use anshin_ledger::state::Service;
use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

/// Why an attempt cannot begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotReady {
    /// It can once this has passed: a service is starting, a file system is not mounted yet.
    Yet(String),
    /// It never can as it was ordered.
    Never(String),
}

/// What the process of an attempt is given.
///
/// # Errors
/// [`NotReady`].
pub fn job(
    world: &World,
    paths: &Paths,
    mounted: &dyn Fn(&Path) -> bool,
    work: &Work,
) -> Result<BackupJob, NotReady> {
    let vault = vault(world, work)?;
    let subject = match &work.source {
        Source::Service { service, plugin } => {
            service_subject(world, paths, mounted, service, plugin.as_deref())?
        }
        Source::Volume { volume, .. } => {
            let mount = world.state.volumes.get(volume).and_then(|volume| volume.mount.clone());
            Subject::Volume(volume_subject(world, paths, mounted, volume, mount)?)
        }
        Source::Files { .. } | Source::Image { .. } | Source::Command { .. } => Subject::Machine,
        Source::Protected { .. } => {
            return Err(NotReady::Never("`protected` is several things, and an attempt is of one".into()));
        }
    };
    Ok(BackupJob { work: work.clone(), vault, subject })
}

fn vault(world: &World, work: &Work) -> Result<VaultAccess, NotReady> {
    let missing = || NotReady::Yet(format!("vault {} is not known here", work.vault));
    let vault = world.state.director.records().vaults.get(&work.vault).ok_or_else(missing)?;
    let node = world.state.nodes.get(&vault.node).ok_or_else(missing)?;
    let at = |address: &String| Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, node.ports.vault));
    Ok(VaultAccess {
        name: vault.name.clone(),
        server: node.id,
        addresses: node.addresses.iter().filter_map(at).collect(),
    })
}

fn service_subject(
    world: &World,
    paths: &Paths,
    mounted: &dyn Fn(&Path) -> bool,
    name: &str,
    plugin: Option<&str>,
) -> Result<Subject, NotReady> {
    let service = world.state.services.get(name);
    let service = service.ok_or_else(|| NotReady::Yet(format!("there is no service {name}")))?;
    let volume = match &service.volume {
        Some(volume) => {
            let mount = service.mount.clone();
            Some(volume_subject(world, paths, mounted, volume, mount)?)
        }
        None => None,
    };
    let plugin = plugin.map(|wanted| plugin_subject(world, service, wanted)).transpose()?;
    if plugin.is_none() && volume.is_none() {
        return Err(NotReady::Never(format!(
            "service {name} stands on no volume, and no plugin knows how to back it up"
        )));
    }
    Ok(Subject::Service { service: name.to_owned(), volume, plugin })
}

/// A plugin speaks with the program, which must run for it.
fn plugin_subject(world: &World, service: &Service, wanted: &str) -> Result<PluginSubject, NotReady> {
    if running_on(world, service) != Some(world.me) {
        return Err(NotReady::Yet(format!("service {} does not run here", service.name)));
    }
    Ok(PluginSubject { plugin: wanted.to_owned(), facts: program::facts(service) })
}

fn volume_subject(
    world: &World,
    paths: &Paths,
    mounted: &dyn Fn(&Path) -> bool,
    name: &str,
    mount: Option<String>,
) -> Result<VolumeSubject, NotReady> {
    let volume = world.state.volumes.get(name);
    let volume = volume.ok_or_else(|| NotReady::Yet(format!("there is no volume {name}")))?;
    if world.primary_node(volume) != Some(world.me) {
        return Err(NotReady::Yet(format!("volume {name} is not primary here")));
    }
    let report = world.reports.get(&world.me);
    let report = report.and_then(|report| report.volumes.iter().find(|report| report.volume == name));
    if !report.is_some_and(|report| report.serving) {
        return Err(NotReady::Yet(format!("volume {name} has no device here yet")));
    }
    let mount = mount.filter(|_| volume.file_system.is_some()).map(std::path::PathBuf::from);
    if let Some(mount) = mount.as_ref().filter(|mount| !mounted(mount)) {
        return Err(NotReady::Yet(format!("volume {name} is not mounted on {} yet", mount.display())));
    }
    Ok(VolumeSubject {
        volume: name.to_owned(),
        control: paths.volume_control(name),
        device: paths.device(name),
        mount,
        filesystem: volume.file_system.clone(),
    })
}
