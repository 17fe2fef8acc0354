//! What this machine needs to reach a store by itself: its URL and credentials, in a file that only root reads.

use super::write_private;
use crate::paths::Paths;
use anshin_base::Problem;
use anshin_director::VaultName;
use anshin_vault::Place;
use serde::{Deserialize, Serialize};
use std::{fmt, fs, os::unix::fs::PermissionsExt, path::PathBuf};

/// The settings of one vault: `/etc/anshin/vaults/NAME.toml`, mode 0600.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultSettings {
    /// Where it lies: an absolute path or `s3://…`.
    pub url: String,
    /// Access key id of the object store; the environment's or the machine's own if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_key: Option<String>,
    /// Secret access key of the object store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key: Option<String>,
    /// This node serves it to its site.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub serve: bool,
}

impl fmt::Debug for VaultSettings {
    /// Without the secret key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultSettings").field("url", &self.url).finish_non_exhaustive()
    }
}

fn file(paths: &Paths, name: &VaultName) -> PathBuf {
    paths.vaults().join(format!("{name}.toml"))
}

impl VaultSettings {
    /// Settings of a place that has none yet: credentials come from the environment, if there are any in it.
    #[must_use]
    pub fn of_environment(url: &str) -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let is_bucket = url.starts_with("s3://");
        Self {
            url: url.to_owned(),
            access_key: variable("AWS_ACCESS_KEY_ID").filter(|_| is_bucket),
            secret_key: variable("AWS_SECRET_ACCESS_KEY").filter(|_| is_bucket),
            serve: false,
        }
    }

    /// Reads the settings of a vault; None if this machine has none.
    ///
    /// # Errors
    /// A file that others may read, that cannot be read, or that makes no sense.
    pub fn load(paths: &Paths, name: &VaultName) -> Result<Option<Self>, Problem> {
        let path = file(paths, name);
        let problem = |why: String| Problem::new("vault-settings", format!("{}: {why}", path.display()));
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(problem(error.to_string())),
        };
        let mode = fs::metadata(&path).map_err(|error| problem(error.to_string()))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(problem("others may read it, and it may hold the store's credentials".into())
                .hint(format!("chmod 600 {}", path.display())));
        }
        // Not the parser's own message: it would quote the line, which may be the secret key.
        toml::from_str(&text).map(Some).map_err(|_| {
            problem("it is not understood".into()).hint("it holds url, access_key, secret_key, serve")
        })
    }

    /// Writes the settings.
    ///
    /// # Errors
    /// The file system's.
    pub fn save(&self, paths: &Paths, name: &VaultName) -> Result<(), Problem> {
        let text = toml::to_string(self)
            .map_err(|error| Problem::new("vault-settings", format!("they cannot be written: {error}")))?;
        write_private(&file(paths, name), text.as_bytes())
    }

    /// The vaults that this machine has settings of.
    ///
    /// # Errors
    /// The file system's.
    pub fn list(paths: &Paths) -> Result<Vec<VaultName>, Problem> {
        let directory = paths.vaults();
        let problem = |error: std::io::Error| {
            Problem::new("vault-settings", format!("{}: {error}", directory.display()))
        };
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(problem(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(problem)?.file_name().to_string_lossy().into_owned();
            names.extend(name.strip_suffix(".toml").and_then(|name| VaultName::checked(name).ok()));
        }
        names.sort();
        Ok(names)
    }

    /// The place with its credentials.
    ///
    /// # Errors
    /// `vault-url` if the URL is none.
    pub fn place(&self) -> Result<Place, Problem> {
        let place = Place::parse(&self.url)?;
        Ok(match (&self.access_key, &self.secret_key) {
            (Some(access), Some(secret)) => place.with_credentials(access.clone(), secret.clone()),
            _ => place,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_private_and_refused_when_they_are_not() {
        let root = std::env::temp_dir().join(format!("anshin-settings-{}", std::process::id()));
        let paths = Paths::below(&root);
        let name = VaultName::checked("main").unwrap();
        assert_eq!(VaultSettings::load(&paths, &name).unwrap(), None);
        let settings = VaultSettings {
            url: "s3://bucket".into(),
            access_key: Some("who".into()),
            secret_key: Some("hush".into()),
            serve: true,
        };
        settings.save(&paths, &name).unwrap();
        assert_eq!(VaultSettings::load(&paths, &name).unwrap(), Some(settings.clone()));
        assert_eq!(VaultSettings::list(&paths).unwrap(), std::slice::from_ref(&name));
        assert!(!format!("{settings:?}").contains("hush"));

        let path = file(&paths, &name);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(VaultSettings::load(&paths, &name).unwrap_err().message.contains("others may read it"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "secret_key = hush").unwrap();
        assert!(!VaultSettings::load(&paths, &name).unwrap_err().to_string().contains("hush"));
        fs::remove_dir_all(root).unwrap();
    }
}
