//! The site's certificate authority: made by `init`, kept by every data node, so that any of them can let a node join.

use crate::{
    files,
    identity::{Fingerprint, PeerIdentity, SiteId, authority_identity, authority_uri, check_name},
    party::ClientIdentity,
};
use anshin_base::{NodeId, Problem};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
    date_time_ymd,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use std::{fmt, fs, os::unix::fs::DirBuilderExt, path::Path};

/// Name of the authority's certificate in the identity's directory.
pub(crate) const AUTHORITY_FILE: &str = "ca.pem";
const AUTHORITY_KEY_FILE: &str = "ca-key.pem";

/// The site's authority with its private key (ECDSA P-256).
pub struct Authority {
    site: SiteId,
    site_name: String,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new site.
    ///
    /// # Errors
    /// If the name cannot be a site's, or the machine gives no randomness.
    pub fn create(site_name: &str) -> Result<Self, Problem> {
        check_name("site", site_name)?;
        let mut site = [0; 16];
        getrandom::fill(&mut site).map_err(|error| {
            Problem::new("randomness", format!("the machine gives no random bytes: {error}"))
        })?;
        let site = SiteId(site);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params =
            lasting_params(&authority_uri(site, site_name), &format!("anshin site {site_name}"))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(failed)?;
        Self::from_pem(&certificate.pem(), &key.serialize_pem())
    }

    /// The authority whose certificate and key are given, as handed to a data node that joins.
    ///
    /// # Errors
    /// If either cannot be read, or the key is not the certificate's.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, Problem> {
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(|error| {
            Problem::new("authority-read", format!("the authority's certificate: {error}"))
        })?;
        let (site, site_name) = authority_identity(&certificate).map_err(|error| {
            Problem::new("authority-read", format!("the authority's certificate: {error}"))
        })?;
        let key = KeyPair::from_pem(key_pem)
            .map_err(|error| Problem::new("authority-read", format!("the authority's key: {error}")))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)
            .map_err(|_| Problem::new("authority-read", "the authority's certificate is not readable"))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(Problem::new(
                "authority-read",
                "the authority's key does not belong to its certificate",
            ));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(failed)?;
        Ok(Self {
            site,
            site_name,
            certificate,
            certificate_pem: certificate_pem.to_owned(),
            key_pem: key_pem.to_owned(),
            issuer,
        })
    }

    /// The authority stored in `directory`; None on a node that holds no key (a witness).
    ///
    /// # Errors
    /// If it is there but cannot be read.
    pub fn load(directory: &Path) -> Result<Option<Self>, Problem> {
        let key = directory.join(AUTHORITY_KEY_FILE);
        if !key.exists() {
            return Ok(None);
        }
        let text = |path: &Path| Ok::<_, Problem>(String::from_utf8_lossy(&files::read(path)?).into_owned());
        Self::from_pem(&text(&directory.join(AUTHORITY_FILE))?, &text(&key)?)
            .map(Some)
            .map_err(|problem| problem.context(directory.display()))
    }

    /// Stores certificate and key in `directory`, the key readable by its owner alone.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn save(&self, directory: &Path) -> Result<(), Problem> {
        make_directory(directory)?;
        files::replace(&directory.join(AUTHORITY_FILE), self.certificate_pem.as_bytes(), 0o644)?;
        files::replace(&directory.join(AUTHORITY_KEY_FILE), self.key_pem.as_bytes(), 0o600)
    }

    /// Signs a joining node's request ([`crate::NodeKey::request_pem`]); only its public key is taken from it.
    ///
    /// # Errors
    /// If the request is not genuine or the name cannot be a node's.
    pub fn issue(&self, request_pem: &str, node: NodeId, name: &str) -> Result<String, Problem> {
        check_name("node", name)?;
        if node.0 == 0 {
            return Err(Problem::new("node-id", "0 is no node"));
        }
        let identity = PeerIdentity { site: self.site, node, name: name.to_owned() };
        self.sign(request_pem, &identity.uri(), name)
    }

    /// Signs the request of a machine outside the site, as [`Self::issue`] that of a node. No link between nodes takes the
    /// certificate.
    ///
    /// # Errors
    /// As [`Self::issue`].
    pub fn issue_client(&self, request_pem: &str, client: u64, name: &str) -> Result<String, Problem> {
        check_name("client", name)?;
        if client == 0 {
            return Err(Problem::new("client-id", "0 is no client"));
        }
        let identity = ClientIdentity { site: self.site, client, name: name.to_owned() };
        self.sign(request_pem, &identity.uri(), name)
    }

    fn sign(&self, request_pem: &str, uri: &str, name: &str) -> Result<String, Problem> {
        let mut request = CertificateSigningRequestParams::from_pem(request_pem).map_err(|error| {
            Problem::new("certificate-request", format!("not a certificate request: {error}"))
        })?;
        let mut params = lasting_params(uri, name)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        request.params = params;
        Ok(request.signed_by(&self.issuer).map_err(failed)?.pem())
    }

    /// The site's id.
    #[must_use]
    pub fn site(&self) -> SiteId {
        self.site
    }

    /// The site's name.
    #[must_use]
    pub fn site_name(&self) -> &str {
        &self.site_name
    }

    /// What a join token pins.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// The certificate, for a node that joins.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The private key, for a data node that joins (over its pinned TLS connection only).
    #[must_use]
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }
}

impl fmt::Debug for Authority {
    /// Without the key: debug output ends up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("site", &self.site)
            .field("name", &self.site_name)
            .finish_non_exhaustive()
    }
}

/// Parameters of a certificate that no clock invalidates: a node whose clock is wrong must still be a node, and a
/// site must not die of a date. What ends a node's right is its removal from the ledger.
fn lasting_params(uri: &str, common_name: &str) -> Result<CertificateParams, Problem> {
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(1970, 1, 1);
    params.not_after = date_time_ymd(9999, 12, 31);
    params.subject_alt_names = vec![SanType::URI(uri.try_into().map_err(failed)?)];
    params.distinguished_name = DistinguishedName::new();
    // The standard bounds a common name to 64 characters; it is for people, the URI is the identity.
    let short: String = common_name.chars().take(64).collect();
    params.distinguished_name.push(DnType::CommonName, short);
    Ok(params)
}

/// The identity's directory: only root needs to look into it.
pub(crate) fn make_directory(directory: &Path) -> Result<(), Problem> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(|error| {
        Problem::new("identity-write", format!("cannot make {}: {error}", directory.display()))
    })
}

// rcgen's failures here are internal: the inputs were checked before.
#[allow(clippy::needless_pass_by_value, reason = "used as a function for map_err")]
fn failed(error: rcgen::Error) -> Problem {
    Problem::new("certificate", format!("cannot make a certificate: {error}"))
}
