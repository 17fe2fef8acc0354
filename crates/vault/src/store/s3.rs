//! A vault in a bucket of any S3-compatible object store.
//!
//! The client runs on a small run time of its own, so that callers may be plain threads or inside another run time's
//! blocking calls.

use super::{OBJECT_SIZE_MAX, Store, check_name};
use crate::object::VaultError;
use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// For an answer, besides the time that its bytes or those of the request take on a slow line.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(300);
const SLOWEST_BYTES_PER_SECOND: u64 = 64 << 10;
/// One whose writing failed for a moment is written again after these.
const PUT_AGAIN: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(25)];
/// What a listing of millions of objects comes to, for its time.
const LISTED_BYTES: u64 = 256 << 20;
/// The client's own limit, for what has none here.
const LONGEST: Duration = Duration::from_secs(3_600);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY_TIMEOUT: Duration = Duration::from_secs(180);
const RETRIES_MAX: usize = 8;

/// Which bucket, where, and with which credentials.
#[derive(Clone)]
pub struct S3Options {
    /// The bucket, which must be there.
    pub bucket: String,
    /// Put before every name; empty or without `/` at its ends.
    pub prefix: String,
    /// `https://host[:port]`; None is Amazon's own for the region. `http://` is taken only if written so.
    pub endpoint: Option<String>,
    /// The region, `us-east-1` where there is no such thing.
    pub region: String,
    /// Access key id; None takes the machine's own (environment, instance).
    pub access_key: Option<String>,
    /// Secret access key.
    pub secret_key: Option<String>,
}

impl std::fmt::Debug for S3Options {
    /// Without the secret key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { bucket, prefix, endpoint, region, .. } = self;
        write!(f, "S3Options({bucket}/{prefix} at {endpoint:?} in {region})")
    }
}

/// A bucket that holds a vault.
pub struct S3Store {
    client: Arc<AmazonS3>,
    options: S3Options,
    runtime: Option<tokio::runtime::Runtime>,
}

fn failed(what: &str, name: &str, error: Error) -> VaultError {
    match error {
        Error::NotFound { .. } => VaultError::NotFound(name.to_owned()),
        Error::AlreadyExists { .. } | Error::Precondition { .. } => VaultError::Exists(name.to_owned()),
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => VaultError::Store {
            what: format!("{what} {name}"),
            why: "the object store refuses these credentials".into(),
            transient: false,
        },
        other => {
            let why = other.to_string();
            // Not the bare number: names of objects and lengths of time are part of the text.
            let full = ["InsufficientStorage", "507 Insufficient Storage", "QuotaExceeded"];
            if full.iter().any(|word| why.contains(word)) {
                return VaultError::Full(format!("{what} {name}: {why}"));
            }
            VaultError::Store { what: format!("{what} {name}"), why, transient: true }
        }
    }
}

impl S3Store {
    /// A client of the bucket. Nothing is sent yet.
    ///
    /// # Errors
    /// [`VaultError::Store`] if the options make no sense.
    pub fn new(options: S3Options) -> Result<Self, VaultError> {
        let plain = options.endpoint.as_ref().is_some_and(|url| url.starts_with("http://"));
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(&options.bucket)
            .with_region(&options.region)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_allow_http(plain)
            .with_client_options(
                object_store::ClientOptions::new()
                    .with_allow_http(plain)
                    .with_timeout(LONGEST)
                    .with_connect_timeout(CONNECT_TIMEOUT),
            )
            .with_retry(object_store::RetryConfig {
                max_retries: RETRIES_MAX,
                retry_timeout: RETRY_TIMEOUT,
                ..Default::default()
            });
        if let Some(endpoint) = &options.endpoint {
            builder = builder.with_endpoint(endpoint).with_virtual_hosted_style_request(false);
        }
        if let (Some(access), Some(secret)) = (&options.access_key, &options.secret_key) {
            builder = builder.with_access_key_id(access).with_secret_access_key(secret);
        }
        let client = builder.build().map_err(|error| failed("opening", &options.bucket, error))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("vault-s3")
            .enable_all()
            .build()
            .map_err(|error| VaultError::Store {
                what: "starting the object store's client".into(),
                why: error.to_string(),
                transient: false,
            })?;
        Ok(Self { client: Arc::new(client), options, runtime: Some(runtime) })
    }

    fn path(&self, name: &str) -> Result<Path, VaultError> {
        check_name(name)?;
        Ok(Path::from(self.full(name)))
    }

    fn full(&self, name: &str) -> String {
        if self.options.prefix.is_empty() {
            name.to_owned()
        } else {
            format!("{}/{name}", self.options.prefix)
        }
    }

    /// Runs a request that moves at most so many bytes on the own run time and waits for it.
    fn wait<T: Send + 'static>(
        &self,
        what: &str,
        name: &str,
        bytes: u64,
        request: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, VaultError> {
        let (send, receive) = std::sync::mpsc::sync_channel(1);
        let runtime = self.runtime.as_ref().expect("invariant: only drop takes it");
        let limit = REQUEST_TIMEOUT + Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND);
        runtime.spawn(async move {
            if let Ok(result) = tokio::time::timeout(limit, request).await {
                let _ = send.send(result);
            }
        });
        match receive.recv() {
            Ok(result) => result.map_err(|error| failed(what, name, error)),
            Err(_) => Err(VaultError::Store {
                what: format!("{what} {name}"),
                why: format!("the request was given up, or not answered within {} s", limit.as_secs()),
                transient: true,
            }),
        }
    }
}

impl Drop for S3Store {
    fn drop(&mut self) {
        // The last owner may be a task of another run time, which must not be blocked.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Store for S3Store {
    fn put(&self, name: &str, parts: &[Bytes]) -> Result<(), VaultError> {
        let payload: PutPayload = parts.iter().cloned().collect();
        let mut pauses = PUT_AGAIN.iter();
        let result = loop {
            let (client, path, payload) = (self.client.clone(), self.path(name)?, payload.clone());
            let options = PutOptions { mode: PutMode::Create, ..Default::default() };
            let bytes = payload.content_length() as u64;
            let put = async move { client.put_opts(&path, payload, options).await.map(drop) };
            match (self.wait("writing", name, bytes, put), pauses.next()) {
                // The client does not repeat what must not happen twice; here it cannot.
                (Err(VaultError::Store { transient: true, .. }), Some(pause)) => std::thread::sleep(*pause),
                (result, _) => break result,
            }
        };
        match result {
            // A retry after a lost answer meets what the first try wrote.
            Err(VaultError::Exists(_)) if self.holds(name, parts)? => Ok(()),
            other => other,
        }
    }

    fn get(&self, name: &str) -> Result<Bytes, VaultError> {
        let (client, path) = (self.client.clone(), self.path(name)?);
        self.wait("reading", name, OBJECT_SIZE_MAX, async move {
            let answer = client.get(&path).await?;
            if answer.meta.size > OBJECT_SIZE_MAX {
                return Err(Error::NotSupported { source: "an object larger than any of a vault".into() });
            }
            answer.bytes().await
        })
    }

    fn get_range(&self, name: &str, offset: u64, length: usize) -> Result<Bytes, VaultError> {
        let (client, path) = (self.client.clone(), self.path(name)?);
        let options = GetOptions {
            range: Some(GetRange::Bounded(offset..offset + length as u64)),
            ..Default::default()
        };
        let read = async move { client.get_opts(&path, options).await?.bytes().await };
        let short = || VaultError::damaged(name, "it is shorter than it should be");
        match self.wait("reading", name, length as u64, read) {
            Ok(bytes) if bytes.len() == length => Ok(bytes),
            Ok(_) => Err(short()),
            // Perhaps because it ends before; the text of an error says many things.
            Err(error @ VaultError::Store { .. }) => match self.size(name) {
                Ok(size) if size < offset + length as u64 => Err(short()),
                _ => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, VaultError> {
        let client = self.client.clone();
        let within = self.full(prefix.trim_end_matches('/'));
        let within = (!within.trim_end_matches('/').is_empty()).then(|| Path::from(within));
        let found = self.wait("listing", prefix, LISTED_BYTES, async move {
            client
                .list(within.as_ref())
                .map_ok(|meta| (meta.location.to_string(), meta.size))
                .try_collect::<Vec<_>>()
                .await
        })?;
        let skip = if self.options.prefix.is_empty() { 0 } else { self.options.prefix.len() + 1 };
        let own = found.into_iter().filter_map(|(name, size)| Some((name.get(skip..)?.to_owned(), size)));
        let mut own: Vec<_> =
            own.filter(|(name, _)| name.starts_with(prefix) && check_name(name).is_ok()).collect();
        own.sort();
        Ok(own)
    }

    fn delete(&self, name: &str) -> Result<(), VaultError> {
        let (client, path) = (self.client.clone(), self.path(name)?);
        match self.wait("deleting", name, 0, async move { client.delete(&path).await }) {
            Err(VaultError::NotFound(_)) => Ok(()),
            other => other,
        }
    }

    fn is_near(&self) -> bool {
        false
    }

    fn describe(&self) -> String {
        let place = self.options.endpoint.as_deref().unwrap_or("Amazon S3");
        format!("s3://{}/{} at {place}", self.options.bucket, self.options.prefix)
    }
}

impl S3Store {
    fn size(&self, name: &str) -> Result<u64, VaultError> {
        let (client, path) = (self.client.clone(), self.path(name)?);
        self.wait("looking at", name, 0, async move { client.head(&path).await.map(|meta| meta.size) })
    }

    /// Whether the object holds exactly these bytes.
    fn holds(&self, name: &str, parts: &[Bytes]) -> Result<bool, VaultError> {
        let mut there = self.get(name)?;
        for part in parts {
            if there.len() < part.len() || there[..part.len()] != part[..] {
                return Ok(false);
            }
            there = there.slice(part.len()..);
        }
        Ok(there.is_empty())
    }
}
