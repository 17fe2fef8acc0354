//! Plugins: programs that know how one kind of service is backed up and brought back. Anyone can write one, in any language.
//!
//! They speak JSON lines over standard input and output: [`protocol`] has the words, docs/formats/plugin.md the description.
//! [`host`] is the executor's end. The built-in plugins ([`postgresql`]) are run as programs of their own and
//! speak the very same.

pub mod guest;
pub mod host;
pub mod postgresql;
pub mod protocol;

use anshin_base::Problem;
use std::{path::PathBuf, process::Command};

/// Names of the plugins that are part of this program.
pub const BUILT_IN: [&str; 1] = [postgresql::NAME];

/// Where plugins are looked for.
#[derive(Clone, Debug)]
pub struct Places {
    /// In this order. A file named like the plugin, executable.
    pub directories: Vec<PathBuf>,
    /// This program, which has the built-in ones.
    pub executable: PathBuf,
    /// What comes before the plugin's name in the arguments of this program.
    pub arguments: Vec<String>,
}

impl Places {
    /// The administrator's come first, then packages', then the built-in ones.
    #[must_use]
    pub fn usual(executable: PathBuf) -> Self {
        Self {
            directories: vec!["/etc/anshin/plugins".into(), "/usr/lib/anshin/plugins".into()],
            executable,
            arguments: vec!["run".into(), "plugin".into()],
        }
    }

    /// The command that runs the plugin of this name.
    ///
    /// # Errors
    /// `plugin-unknown`.
    pub fn command(&self, name: &str) -> Result<Command, Problem> {
        let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
        let found = self.directories.iter().map(|directory| directory.join(name)).find(|path| path.is_file());
        if let Some(path) = found.filter(|_| plain) {
            return Ok(Command::new(path));
        }
        if BUILT_IN.contains(&name) {
            let mut command = Command::new(&self.executable);
            command.args(&self.arguments).arg(name);
            return Ok(command);
        }
        let places: Vec<_> = self.directories.iter().map(|path| path.display().to_string()).collect();
        Err(Problem::new("plugin-unknown", format!("there is no plugin `{name}`"))
            .hint(format!("install it as an executable file in {}", places.join(" or "))))
    }

    /// Names of all plugins that are there.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let entries =
            self.directories.iter().flat_map(|directory| std::fs::read_dir(directory).into_iter().flatten());
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.extend(BUILT_IN.map(str::to_owned));
        names.sort();
        names.dedup();
        names.retain(|name| self.command(name).is_ok());
        names
    }
}
