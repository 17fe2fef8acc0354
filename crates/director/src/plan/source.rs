//! What a plan backs up, and the jobs that follow from it for the site as it is.

use crate::words::TargetKey;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// One entry of a plan's `what`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Source {
    /// Every service, and every volume that no service stands on; also those that are added later.
    Protected {
        /// Services and volumes that are left out, by name.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        except: Vec<String>,
    },
    /// A service: by the plugin that knows its program, otherwise its volume, frozen for an instant.
    Service {
        /// Which service.
        service: String,
        /// The plugin; None: the one that knows the service's program, if there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        plugin: Option<String>,
    },
    /// A volume.
    Volume {
        /// Which volume.
        volume: String,
        /// As files or as an image.
        #[serde(default)]
        form: VolumeForm,
        /// Patterns that are left out.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        exclude: Vec<String>,
    },
    /// Directories and files of a node or client.
    Files {
        /// Which machine.
        on: String,
        /// Tells several of one machine apart.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// Absolute paths.
        paths: Vec<String>,
        /// Patterns that are left out.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        exclude: Vec<String>,
        /// Whether mount points below the paths are left out.
        #[serde(default)]
        one_file_system: bool,
    },
    /// A block device or image file of a node or client.
    Image {
        /// Which machine.
        on: String,
        /// Absolute path.
        device: String,
    },
    /// What a command writes to its standard output.
    Command {
        /// Which machine.
        on: String,
        /// Name of the stream, as in `all.sql`.
        name: String,
        /// Program and arguments.
        command: Vec<String>,
    },
}

/// How a volume is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeForm {
    /// Its file system's files, frozen for an instant.
    #[default]
    Files,
    /// The device, block by block.
    Image,
}

/// Where a job must run: where this is now.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Locus {
    /// Where the service's volume is primary, or the service runs.
    Service(String),
    /// Where the volume is primary.
    Volume(String),
    /// A node or client by name.
    Machine(String),
}

/// One thing that a plan backs up, for the site as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// What its runs and snapshots are remembered under.
    pub key: TargetKey,
    /// Where it must run.
    pub locus: Locus,
    /// What to read; never [`Source::Protected`].
    pub source: Source,
}

/// A service as plans see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceInfo {
    /// Its name.
    pub name: String,
    /// The volume it stands on.
    pub volume: Option<String>,
    /// The plugin that knows its program, if one does.
    pub plugin: Option<String>,
    /// What on its volume the plugin's backup has or nobody needs: exclude patterns.
    pub held: Vec<String>,
}

/// What the site has, for [`Source::Protected`] and for checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Its services.
    pub services: Vec<ServiceInfo>,
    /// Names of its volumes.
    pub volumes: Vec<String>,
}

impl Source {
    /// The target's key; None for [`Source::Protected`], which is several.
    #[must_use]
    pub fn key(&self) -> Option<TargetKey> {
        let key = match self {
            Self::Protected { .. } => return None,
            Self::Service { service, .. } => format!("service/{service}"),
            Self::Volume { volume, form: VolumeForm::Files, .. } => format!("volume/{volume}"),
            Self::Volume { volume, form: VolumeForm::Image, .. } => format!("volume-image/{volume}"),
            Self::Files { on, name: None, .. } => format!("files/{on}"),
            Self::Files { on, name: Some(name), .. } => format!("files/{on}:{name}"),
            Self::Image { on, device } => format!("image/{on}:{device}"),
            Self::Command { on, name, .. } => format!("stream/{on}:{name}"),
        };
        Some(TargetKey(key))
    }

    /// Where it must be read; None for [`Source::Protected`].
    #[must_use]
    pub fn locus(&self) -> Option<Locus> {
        Some(match self {
            Self::Protected { .. } => return None,
            Self::Service { service, .. } => Locus::Service(service.clone()),
            Self::Volume { volume, .. } => Locus::Volume(volume.clone()),
            Self::Files { on, .. } | Self::Image { on, .. } | Self::Command { on, .. } => {
                Locus::Machine(on.clone())
            }
        })
    }

    fn job(&self) -> Option<Job> {
        Some(Job { key: self.key()?, locus: self.locus()?, source: self.clone() })
    }
}

impl Inventory {
    /// The jobs of a plan's sources, each target once, in the order of the sources.
    #[must_use]
    pub fn jobs(&self, sources: &[Source]) -> Vec<Job> {
        let mut seen = BTreeSet::new();
        let jobs = sources.iter().flat_map(|source| match source {
            Source::Protected { except } => self.protected(except),
            source => source.job().into_iter().collect(),
        });
        jobs.filter(|job| seen.insert(job.key.clone())).collect()
    }

    /// Everything protected: services, and volumes of which nobody else keeps everything. A plugin keeps the data of its
    /// program; what else lies on the service's volume is backed up with the volume.
    fn protected(&self, except: &[String]) -> Vec<Job> {
        let wanted = |name: &String| !except.contains(name);
        let services = self
            .services
            .iter()
            .filter(|service| wanted(&service.name))
            .map(|service| Source::Service { service: service.name.clone(), plugin: service.plugin.clone() });
        let volumes = self.volumes.iter().filter(|name| wanted(name)).filter_map(|volume| {
            let on = || self.services.iter().filter(|service| service.volume.as_ref() == Some(volume));
            // By its service, or not at all because that is excepted.
            if on().any(|service| service.plugin.is_none() || !wanted(&service.name)) {
                return None;
            }
            let exclude = on().flat_map(|service| service.held.clone()).collect();
            Some(Source::Volume { volume: volume.clone(), form: VolumeForm::Files, exclude })
        });
        services.chain(volumes).filter_map(|source| source.job()).collect()
    }
}
