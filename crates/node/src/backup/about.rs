//! What a snapshot says about itself, for who has the key: JSON in its `meta`; docs/formats/executor.md.

use anshin_base::Problem;
use anshin_director::TargetKey;
use serde::{Deserialize, Serialize};

/// The version that this build writes.
pub const VERSION: u32 = 1;

/// How the source was read, which decides how it is brought back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Files and directories.
    Files,
    /// A device, block by block.
    Image,
    /// What a command printed.
    Stream,
    /// What a plugin asked for; it also brings it back.
    Plugin,
    /// A piece of a service's log, which follows the target's other snapshots.
    Log,
}

/// The plugin of a snapshot of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PluginAbout {
    /// Its name.
    pub plugin: String,
    /// What it wants to be given when it brings the snapshot back.
    pub about: serde_json::Value,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// 1.
    pub version: u32,
    /// What was backed up.
    pub target: TargetKey,
    /// How.
    pub form: Form,
    /// The machine that read it.
    pub host: String,
    /// The plan's tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Whether it was read from a point: one instant, whatever was written meanwhile.
    #[serde(default)]
    pub point: bool,
    /// Whether the file system was held still for that instant; false with `point`: it is as after a power failure.
    #[serde(default)]
    pub frozen: bool,
    /// Where in the snapshot its contents begin, without a leading slash.
    #[serde(default)]
    pub base: String,
    /// For [`Form::Plugin`] and [`Form::Log`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<PluginAbout>,
}

impl About {
    /// Of this machine, without anything special.
    #[must_use]
    pub fn new(target: TargetKey, form: Form) -> Self {
        Self {
            version: VERSION,
            target,
            form,
            host: super::host(),
            tags: Vec::new(),
            point: false,
            frozen: false,
            base: String::new(),
            plugin: None,
        }
    }

    /// As the snapshot carries it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("invariant: plain data")
    }

    /// Reads what a snapshot carries.
    ///
    /// # Errors
    /// `snapshot-about` if it is nothing of ours, or of a later version.
    pub fn decode(bytes: &[u8]) -> Result<Self, Problem> {
        let about: Self = serde_json::from_slice(bytes).map_err(|error| {
            Problem::new(
                "snapshot-about",
                format!("what the snapshot says of itself cannot be read: {error}"),
            )
        })?;
        if about.version > VERSION {
            let message = format!("the snapshot was made by a later version ({})", about.version);
            return Err(Problem::new("snapshot-about", message).hint("upgrade this node first"));
        }
        Ok(about)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_reads_as_it_was_written() {
        let text = r#"{"version":1,"target":"service/db","form":"plugin","host":"a","tags":["x"],"point":true,"frozen":true,"base":"","plugin":{"plugin":"postgresql","about":{"major":15}}}"#;
        let about = About::decode(text.as_bytes()).unwrap();
        assert_eq!(
            (about.form, about.point, about.plugin.as_ref().unwrap().plugin.as_str()),
            (Form::Plugin, true, "postgresql")
        );
        assert_eq!(String::from_utf8(about.encode()).unwrap(), text);
        assert_eq!(
            About::decode(br#"{"version":2,"target":"t","form":"files","host":"a"}"#).unwrap_err().code,
            "snapshot-about"
        );
    }
}
