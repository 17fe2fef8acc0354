//! The keys of a key domain, which only those hold who own the data.
//!
//! A domain has one random secret of 32 bytes. Everything else is derived from it with BLAKE3's key derivation, so that
//! one wrapped secret (see [`mod@file`]) is all that must be kept.

pub mod file;
pub mod machine;
pub mod recovery;

use crate::chunker::Chunker;
use crate::object::{ChunkId, Kind, VaultError};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use std::fmt;

/// A key domain: those who share it deduplicate against each other. Derived from the domain's secret, so a key that opens
/// another domain is noticed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainId(pub [u8; 16]);

impl DomainId {
    /// 32 hexadecimal digits, as in the names of the vault's objects.
    #[must_use]
    pub fn hex(&self) -> String {
        crate::coder::hex(&self.0)
    }

    /// Reads [`DomainId::hex`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        crate::coder::unhex(text).map(Self)
    }
}

impl fmt::Display for DomainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

impl fmt::Debug for DomainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DomainId({})", &self.hex()[..8])
    }
}

/// All keys of a domain. Never leaves the machines that own the data.
#[derive(Clone)]
pub struct DomainKeys {
    pub(crate) secret: [u8; 32],
    domain: DomainId,
    pub(crate) id: [u8; 32],
    pub(crate) seal: [u8; 32],
    pub(crate) nonce: [u8; 32],
    chunker: [u8; 32],
    meta: [u8; 32],
}

impl fmt::Debug for DomainKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DomainKeys({:?})", self.domain)
    }
}

impl DomainKeys {
    /// The keys of the domain with this secret.
    #[must_use]
    pub fn derive(secret: [u8; 32]) -> Self {
        let key = |context| blake3::derive_key(context, &secret);
        let domain = key("anshin vault v1 domain id");
        Self {
            secret,
            domain: DomainId(domain[..16].try_into().expect("invariant: a key has 32 bytes")),
            id: key("anshin vault v1 object ids"),
            seal: key("anshin vault v1 sealing"),
            nonce: key("anshin vault v1 nonces"),
            chunker: key("anshin vault v1 chunker"),
            meta: key("anshin vault v1 snapshot meta"),
        }
    }

    /// The keys of a new domain.
    ///
    /// # Errors
    /// If the machine gives no randomness.
    pub fn generate() -> Result<Self, VaultError> {
        Ok(Self::derive(random()?))
    }

    /// Which domain they belong to.
    #[must_use]
    pub const fn domain(&self) -> DomainId {
        self.domain
    }

    /// Where contents of this domain are cut.
    #[must_use]
    pub fn chunker(&self) -> Chunker {
        Chunker::new(&self.chunker)
    }

    /// The secret that all of them are derived from, to be handed to another machine that owns the same data. Whoever has it reads
    /// everything in the domain.
    #[must_use]
    pub const fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// The id that this content has as an object of data in this domain: what is on a disk can be compared with a snapshot
    /// without fetching anything.
    #[must_use]
    pub fn name_of_data(&self, plain: &[u8]) -> ChunkId {
        crate::ids::chunk_id(&self.id, Kind::Data, &[], plain)
    }

    /// Names something that this machine remembers of this domain, a cache for example, by what it is for.
    #[must_use]
    pub fn tag(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("anshin cache tag v1");
        hasher.update(&self.domain.0);
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        *hasher.finalize().as_bytes()
    }

    /// Encrypts what a snapshot says about itself beside its clear fields, which are authenticated with it.
    pub(crate) fn seal_meta(&self, clear: &[u8], meta: &[u8]) -> Result<Vec<u8>, VaultError> {
        wrap(&self.meta, clear, meta)
    }

    /// The reverse of [`Self::seal_meta`]; None if anything was changed.
    pub(crate) fn open_meta(&self, clear: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        unwrap(&self.meta, clear, sealed)
    }
}

/// Random bytes of the system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], VaultError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| VaultError::Store {
        what: "asking the machine for random bytes".into(),
        why: error.to_string(),
        transient: false,
    })?;
    Ok(bytes)
}

/// An AES-256-GCM key.
pub(crate) fn aead(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(
        UnboundKey::new(&AES_256_GCM, key).expect("invariant: a key of this cipher has 32 bytes"),
    )
}

/// Bytes that [`wrap`] adds.
pub(crate) const WRAP_OVERHEAD: usize = 12 + 16;

/// Encrypts something that is written rarely: a random nonce of 12 bytes, ciphertext, tag. 2^32 of these under one key
/// keep the chance of an equal nonce below 2^-32 (NIST SP 800-38D); a domain makes one per snapshot.
pub(crate) fn wrap(key: &[u8; 32], clear: &[u8], plain: &[u8]) -> Result<Vec<u8>, VaultError> {
    let nonce = random::<12>()?;
    let mut out = nonce.to_vec();
    let mut body = plain.to_vec();
    let tag = aead(key)
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(clear), &mut body)
        .expect("invariant: plaintexts are far below the cipher's limit");
    out.extend_from_slice(&body);
    out.extend_from_slice(tag.as_ref());
    Ok(out)
}

/// The reverse of [`wrap`]; None if key, clear text or bytes are not the same.
pub(crate) fn unwrap(key: &[u8; 32], clear: &[u8], wrapped: &[u8]) -> Option<Vec<u8>> {
    let (nonce, body) = wrapped.split_at_checked(12)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut body = body.to_vec();
    let length = aead(key).open_in_place(nonce, Aad::from(clear), &mut body).ok()?.len();
    body.truncate(length);
    Some(body)
}
