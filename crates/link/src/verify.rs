//! Who is let in: verification of a peer's certificate against the site's own authority.
//!
//! Names of the DNS are not looked at: the peer is whoever the certificate's identity says.

use crate::{
    identity::{Fingerprint, IdentityError, PeerIdentity, SiteId, authority_identity, claim_of},
    party::Party,
};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature},
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::{sync::Arc, time::Duration};

/// A moment inside every certificate's validity. Certificates of a site do not end by date (see
/// `authority::lasting_params`), so that no link depends on a wall clock; what is checked is the signature.
const ANY_TIME: Duration = Duration::from_secs(1_700_000_000);

/// Why a peer's certificate is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerRefused {
    /// Not signed by this site's authority.
    #[error("certificate of another site: it claims to be {claim}, this is site {site}")]
    OtherSite {
        /// What the certificate says of itself; not verified.
        claim: String,
        /// This site.
        site: SiteId,
    },
    /// Signed by the authority but holds no identity, or one of another site.
    #[error("certificate of this site's authority that names no node of the site")]
    NoIdentity,
    /// One joins, and the peer does not belong to the site of the token.
    #[error("this is not the site of the join token: expected authority {expected}")]
    NotPinned {
        /// The token's fingerprint.
        expected: Fingerprint,
    },
}

impl From<PeerRefused> for Error {
    fn from(refused: PeerRefused) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refused))))
    }
}

/// The provider of all cryptography.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Checks that `certificate` was signed by `authority` and names a node of its site.
pub(crate) fn check_chain(
    authority: &CertificateDer<'static>,
    certificate: &CertificateDer<'_>,
) -> Result<PeerIdentity, Error> {
    SiteVerifier::new(authority)?.check(certificate)
}

/// Checks that `certificate` was signed by `authority` and names a node or client of its site.
pub(crate) fn check_party_chain(
    authority: &CertificateDer<'static>,
    certificate: &CertificateDer<'_>,
) -> Result<Party, Error> {
    SiteVerifier::new(authority)?.check_party(certificate)
}

/// Verifies peers of a link, in both directions.
#[derive(Debug)]
pub(crate) struct SiteVerifier {
    site: SiteId,
    roots: RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
    /// Whether clients from outside the site are let in beside nodes.
    clients: bool,
}

impl SiteVerifier {
    /// A verifier that trusts `authority` alone.
    pub(crate) fn new(authority: &CertificateDer<'static>) -> Result<Self, Error> {
        let (site, _) = authority_identity(authority).map_err(no_identity)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone())?;
        Ok(Self { site, roots, algorithms: provider().signature_verification_algorithms, clients: false })
    }

    /// The same, for the one door at which clients come in, too.
    pub(crate) fn with_clients(self) -> Self {
        Self { clients: true, ..self }
    }

    fn check_signature(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        // The extended key usage asked for here is that of a server; every certificate that the authority issues has both
        // usages.
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            &[],
            UnixTime::since_unix_epoch(ANY_TIME),
            self.algorithms.all,
        )
        .map_err(|_| PeerRefused::OtherSite { claim: claim_of(certificate), site: self.site }.into())
    }

    fn check(&self, certificate: &CertificateDer<'_>) -> Result<PeerIdentity, Error> {
        match self.check_party(certificate)? {
            Party::Node(node) => Ok(node),
            Party::Client(_) => Err(PeerRefused::NoIdentity.into()),
        }
    }

    fn check_party(&self, certificate: &CertificateDer<'_>) -> Result<Party, Error> {
        self.check_signature(certificate)?;
        let party = Party::of(certificate).map_err(no_identity)?;
        if party.site() != self.site {
            return Err(PeerRefused::NoIdentity.into());
        }
        Ok(party)
    }
}

fn no_identity(_: IdentityError) -> Error {
    PeerRefused::NoIdentity.into()
}

/// TLS 1.2 is not compiled in; this is never reached.
fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("only TLS 1.3 is spoken here".to_owned()))
}

impl ServerCertVerifier for SiteVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity).map(|_| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for SiteVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hint: a node of another site then presents its certificate and is named in the log.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let checked = if self.clients { self.check_party(end_entity).map(drop) } else { self.check(end_entity).map(drop) };
        checked.map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Verifies the server that one joins: its chain must hold the authority whose fingerprint the token carries.
#[derive(Debug)]
pub(crate) struct PinnedVerifier {
    pinned: Fingerprint,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PinnedVerifier {
    /// A verifier that trusts the authority with this fingerprint.
    pub(crate) fn new(pinned: Fingerprint) -> Self {
        Self { pinned, algorithms: provider().signature_verification_algorithms }
    }
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = intermediates
            .iter()
            .find(|certificate| Fingerprint::of(certificate) == self.pinned)
            .ok_or(PeerRefused::NotPinned { expected: self.pinned })?;
        check_chain(&authority.clone().into_owned(), end_entity).map(|_| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
