//! From the URL of a vault to its storage.

use super::Store;
use super::local::LocalStore;
use super::s3::{S3Options, S3Store};
use anshin_base::Problem;
use std::path::PathBuf;
use std::sync::Arc;

/// Where a vault lies, as a user writes it.
#[derive(Clone, Debug)]
pub enum Place {
    /// A directory: an absolute path or `file:///path`.
    Directory(PathBuf),
    /// A bucket: `s3://bucket[/prefix][?endpoint=URL&region=NAME]`.
    Bucket(S3Options),
}

impl Place {
    /// Reads the URL. Credentials are not part of it, because URLs are shown and logged: see [`Place::with_credentials`].
    ///
    /// # Errors
    /// `vault-url` if it is none of the known forms.
    pub fn parse(url: &str) -> Result<Self, Problem> {
        let bad = |why: &str| {
            Problem::new("vault-url", format!("`{url}` is not the place of a vault: {why}"))
                .hint("write an absolute path, or s3://BUCKET/PREFIX?endpoint=https://HOST&region=NAME")
        };
        if let Some(rest) = url.strip_prefix("s3://") {
            let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
            let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
            if bucket.is_empty() {
                return Err(bad("the bucket's name is missing"));
            }
            let prefix = prefix.trim_matches('/').to_owned();
            if !prefix.is_empty() && super::check_name(&prefix).is_err() {
                return Err(bad("the prefix may hold a-z 0-9 . - _ and / only"));
            }
            let mut options = S3Options {
                bucket: bucket.to_owned(),
                prefix,
                endpoint: None,
                region: "us-east-1".into(),
                access_key: None,
                secret_key: None,
            };
            for pair in query.split('&').filter(|pair| !pair.is_empty()) {
                match pair.split_once('=') {
                    Some(("endpoint", value))
                        if value.starts_with("http://") || value.starts_with("https://") =>
                    {
                        options.endpoint = Some(value.trim_end_matches('/').to_owned());
                    }
                    Some(("region", value)) if !value.is_empty() => value.clone_into(&mut options.region),
                    _ => return Err(bad(&format!("`{pair}` is not understood"))),
                }
            }
            return Ok(Self::Bucket(options));
        }
        let path = url.strip_prefix("file://").unwrap_or(url);
        if !path.starts_with('/') {
            return Err(bad("a directory is written with its whole path"));
        }
        Ok(Self::Directory(PathBuf::from(path)))
    }

    /// The same place with credentials; a directory has none.
    #[must_use]
    pub fn with_credentials(self, access_key: String, secret_key: String) -> Self {
        match self {
            Self::Bucket(options) => Self::Bucket(S3Options {
                access_key: Some(access_key),
                secret_key: Some(secret_key),
                ..options
            }),
            directory @ Self::Directory(_) => directory,
        }
    }

    /// The storage at this place. `create` makes a directory that is not there.
    ///
    /// # Errors
    /// The storage's own.
    pub fn store(self, create: bool) -> Result<Arc<dyn Store>, crate::VaultError> {
        Ok(match self {
            Self::Directory(path) if create => Arc::new(LocalStore::create(&path)?),
            Self::Directory(path) => Arc::new(LocalStore::open(&path)?),
            Self::Bucket(options) => Arc::new(S3Store::new(options)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        assert!(
            matches!(Place::parse("/srv/vault").unwrap(), Place::Directory(path) if path == *"/srv/vault")
        );
        assert!(
            matches!(Place::parse("file:///srv/v").unwrap(), Place::Directory(path) if path == *"/srv/v")
        );
        let Place::Bucket(options) =
            Place::parse("s3://b/a/c/?endpoint=http://127.0.0.1:9/&region=eu").unwrap()
        else {
            panic!("not a bucket")
        };
        assert_eq!((&*options.bucket, &*options.prefix, &*options.region), ("b", "a/c", "eu"));
        assert_eq!(options.endpoint.as_deref(), Some("http://127.0.0.1:9"));
        for bad in ["", "relative", "s3://", "s3:///x", "s3://b/../x", "s3://b?key=1", "ftp://x"] {
            assert_eq!(Place::parse(bad).unwrap_err().code, "vault-url", "{bad}");
        }
    }

    #[test]
    fn credentials_are_never_shown() {
        let place = Place::parse("s3://b").unwrap().with_credentials("who".into(), "hush".into());
        assert!(!format!("{place:?}").contains("hush"));
    }
}
