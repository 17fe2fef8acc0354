//! What a node proves itself with: its key, its certificate and the authority's certificate.

use crate::{
    authority::{AUTHORITY_FILE, make_directory},
    files,
    identity::{Fingerprint, PeerIdentity, authority_identity},
    party::{ClientIdentity, Party},
    verify,
};
use anshin_base::Problem;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{fmt, path::Path, sync::Arc};

const CERTIFICATE_FILE: &str = "node.pem";
const KEY_FILE: &str = "node-key.pem";

/// A node's new key, before it has a certificate.
pub struct NodeKey(KeyPair);

impl NodeKey {
    /// A fresh key (ECDSA P-256).
    ///
    /// # Errors
    /// If the machine gives no randomness.
    pub fn generate() -> Result<Self, Problem> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map_err(|error| Problem::new("certificate", format!("cannot make a key: {error}")))?;
        Ok(Self(key))
    }

    /// The request for [`crate::Authority::issue`]: proves possession of the key and says nothing else.
    ///
    /// # Errors
    /// If it cannot be signed.
    pub fn request_pem(&self) -> Result<String, Problem> {
        CertificateParams::default().serialize_request(&self.0).and_then(|request| request.pem()).map_err(
            |error| Problem::new("certificate", format!("cannot make a certificate request: {error}")),
        )
    }

    /// The credentials, once the authority has signed.
    ///
    /// # Errors
    /// If the certificate is not for this key or not by this authority.
    pub fn with_certificate(
        self,
        certificate_pem: &str,
        authority_pem: &str,
    ) -> Result<Credentials, Problem> {
        Credentials::from_pem(authority_pem, certificate_pem, &self.0.serialize_pem())
    }

    /// [`Self::with_certificate`] for a machine outside the site.
    ///
    /// # Errors
    /// As [`Self::with_certificate`].
    pub fn with_client_certificate(
        self,
        certificate_pem: &str,
        authority_pem: &str,
    ) -> Result<CredentialsOf<ClientIdentity>, Problem> {
        CredentialsOf::from_pem(authority_pem, certificate_pem, &self.0.serialize_pem())
    }
}

/// Whom a certificate of the site can name.
pub trait Identity: Sized {
    /// The party as this kind of identity; None if it is of another kind.
    fn of_party(party: Party) -> Option<Self>;
}

impl Identity for PeerIdentity {
    fn of_party(party: Party) -> Option<Self> {
        match party {
            Party::Node(node) => Some(node),
            Party::Client(_) => None,
        }
    }
}

impl Identity for ClientIdentity {
    fn of_party(party: Party) -> Option<Self> {
        match party {
            Party::Client(client) => Some(client),
            Party::Node(_) => None,
        }
    }
}

/// A node's credentials.
pub type Credentials = CredentialsOf<PeerIdentity>;

/// A node's (or client's) key and certificate, and the authority's certificate that it trusts.
pub struct CredentialsOf<I> {
    identity: I,
    site_name: String,
    authority: CertificateDer<'static>,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    pems: Pems,
}

struct Pems {
    authority: String,
    certificate: String,
    key: String,
}

impl<I: Identity> CredentialsOf<I> {
    /// Puts credentials together from their three parts, checking that they belong together.
    ///
    /// # Errors
    /// If one cannot be read or they do not belong together.
    pub fn from_pem(authority_pem: &str, certificate_pem: &str, key_pem: &str) -> Result<Self, Problem> {
        let broken = |what: &str, why: String| Problem::new("identity-read", format!("{what}: {why}"));
        let certificate_of = |what: &str, pem: &str| {
            CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| broken(what, error.to_string()))
        };
        let authority = certificate_of("the authority's certificate", authority_pem)?;
        let certificate = certificate_of("the node's certificate", certificate_pem)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|error| broken("the node's key", error.to_string()))?;
        let (_, site_name) = authority_identity(&authority)
            .map_err(|error| broken("the authority's certificate", error.to_string()))?;
        let party = verify::check_party_chain(&authority, &certificate)
            .map_err(|error| broken("the node's certificate", error.to_string()))?;
        let identity = I::of_party(party)
            .ok_or_else(|| broken("the node's certificate", "it names a party of another kind".into()))?;
        rustls::crypto::aws_lc_rs::default_provider()
            .key_provider
            .load_private_key(key.clone_key())
            .map(|key| rustls::sign::CertifiedKey::new(vec![certificate.clone()], key))
            .and_then(|certified| certified.keys_match())
            .map_err(|error| {
                broken("the node's key does not belong to its certificate", error.to_string())
            })?;
        let pems = Pems {
            authority: authority_pem.to_owned(),
            certificate: certificate_pem.to_owned(),
            key: key_pem.to_owned(),
        };
        Ok(Self { identity, site_name, authority, certificate, key, pems })
    }

    /// The credentials stored in `directory` (`/etc/anshin`).
    ///
    /// # Errors
    /// If there are none, or they cannot be read.
    pub fn load(directory: &Path) -> Result<Arc<Self>, Problem> {
        let text = |file: &str| {
            Ok::<_, Problem>(String::from_utf8_lossy(&files::read(&directory.join(file))?).into_owned())
        };
        Self::from_pem(&text(AUTHORITY_FILE)?, &text(CERTIFICATE_FILE)?, &text(KEY_FILE)?)
            .map(Arc::new)
            .map_err(|problem| problem.context(directory.display()))
    }

    /// Stores them in `directory`, the key readable by its owner alone.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn save(&self, directory: &Path) -> Result<(), Problem> {
        make_directory(directory)?;
        files::replace(&directory.join(AUTHORITY_FILE), self.pems.authority.as_bytes(), 0o644)?;
        files::replace(&directory.join(KEY_FILE), self.pems.key.as_bytes(), 0o600)?;
        files::replace(&directory.join(CERTIFICATE_FILE), self.pems.certificate.as_bytes(), 0o644)
    }

    /// Who this node is.
    #[must_use]
    pub const fn identity(&self) -> &I {
        &self.identity
    }

    /// The site's name.
    #[must_use]
    pub fn site_name(&self) -> &str {
        &self.site_name
    }

    /// The authority's fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.authority)
    }

    /// The authority's certificate.
    #[must_use]
    pub fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    /// The authority's certificate as PEM text.
    #[must_use]
    pub fn authority_pem(&self) -> &str {
        &self.pems.authority
    }

    /// What is presented in a handshake: the node's certificate, then the authority's, so that one who joins can
    /// compare its fingerprint.
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone(), self.authority.clone()]
    }

    /// The private key.
    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }
}

impl<I: fmt::Debug> fmt::Debug for CredentialsOf<I> {
    /// Without the key: debug output ends up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("identity", &self.identity).finish_non_exhaustive()
    }
}
