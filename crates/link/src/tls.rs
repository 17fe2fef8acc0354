//! TLS 1.3 configurations. They are plain rustls values: tokio-rustls uses them for control traffic, the volume
//! process drives its connections itself.
//!
//! Sessions are never resumed: a handshake costs a millisecond, and every connection proves its peer anew.

pub use crate::verify::PeerRefused;
use crate::{
    credentials::{Credentials, CredentialsOf, Identity},
    identity::{Fingerprint, IdentityError, PeerIdentity},
    party::Party,
    verify::{PinnedVerifier, SiteVerifier, provider},
};
use anshin_base::Problem;
use rustls::{
    ClientConfig, ServerConfig, client::Resumption, server::NoServerSessionStorage, version::TLS13,
};
use rustls_pki_types::{CertificateDer, ServerName};
use std::{io, sync::Arc};

/// What a client says in its hello; servers ignore it, for nodes are not known by names of the DNS.
#[must_use]
pub fn server_name() -> ServerName<'static> {
    ServerName::try_from("node.anshin.invalid").expect("invariant: a constant and valid name")
}

/// For the accepting end of a link: presents this node, demands a certificate of the same site.
///
/// # Errors
/// If the credentials cannot be used.
pub fn server_config(credentials: &Credentials) -> Result<Arc<ServerConfig>, Problem> {
    accepting(credentials, Arc::new(SiteVerifier::new(credentials.authority()).map_err(unusable)?))
}

/// For the door of a vault: as [`server_config`], and clients of the site are let in, too.
///
/// # Errors
/// If the credentials cannot be used.
pub fn party_server_config(credentials: &Credentials) -> Result<Arc<ServerConfig>, Problem> {
    let verifier = Arc::new(SiteVerifier::new(credentials.authority()).map_err(unusable)?.with_clients());
    accepting(credentials, verifier)
}

fn accepting(credentials: &Credentials, verifier: Arc<SiteVerifier>) -> Result<Arc<ServerConfig>, Problem> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .and_then(|builder| {
            builder
                .with_client_cert_verifier(verifier)
                .with_single_cert(credentials.chain(), credentials.key())
        })
        .map_err(unusable)?;
    Ok(Arc::new(without_resumption(config)))
}

/// For the dialling end of a link: presents this node, demands a certificate of the same site.
///
/// # Errors
/// If the credentials cannot be used.
pub fn client_config<I: Identity>(credentials: &CredentialsOf<I>) -> Result<Arc<ClientConfig>, Problem> {
    let verifier = Arc::new(SiteVerifier::new(credentials.authority()).map_err(unusable)?);
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .and_then(|builder| {
            builder
                .dangerous()
                .with_custom_certificate_verifier(verifier)
                .with_client_auth_cert(credentials.chain(), credentials.key())
        })
        .map_err(unusable)?;
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// For the endpoint where nodes join: presents this node and asks for no certificate (one who joins has none yet;
/// the token's secret is what admits it).
///
/// # Errors
/// If the credentials cannot be used.
pub fn join_server_config(credentials: &Credentials) -> Result<Arc<ServerConfig>, Problem> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .and_then(|builder| {
            builder.with_no_client_auth().with_single_cert(credentials.chain(), credentials.key())
        })
        .map_err(unusable)?;
    Ok(Arc::new(without_resumption(config)))
}

/// For a node that joins: trusts a server only if its chain holds the authority with the token's fingerprint.
#[must_use]
pub fn join_client_config(pinned: Fingerprint) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("invariant: the provider speaks TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedVerifier::new(pinned)))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Arc::new(config)
}

/// Who the other end is, from the certificates that a finished handshake verified
/// (`connection.peer_certificates()`).
///
/// # Errors
/// If there is no certificate (a handshake not finished, or a join connection) or it names nobody.
pub fn peer_identity(certificates: Option<&[CertificateDer<'_>]>) -> Result<PeerIdentity, IdentityError> {
    let certificate = certificates.and_then(<[_]>::first).ok_or(IdentityError::NoIdentity)?;
    PeerIdentity::of(certificate)
}

/// [`peer_identity`] where clients are let in, too.
///
/// # Errors
/// As [`peer_identity`].
pub fn party(certificates: Option<&[CertificateDer<'_>]>) -> Result<Party, IdentityError> {
    let certificate = certificates.and_then(<[_]>::first).ok_or(IdentityError::NoIdentity)?;
    Party::of(certificate)
}

/// Why this end refused the peer's certificate, if `error` is such a refusal.
#[must_use]
pub fn refusal(error: &io::Error) -> Option<PeerRefused> {
    refused(error.get_ref()?.downcast_ref::<rustls::Error>()?)
}

fn refused(error: &rustls::Error) -> Option<PeerRefused> {
    let rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) = error else {
        return None;
    };
    other.0.downcast_ref::<PeerRefused>().cloned()
}

/// What went wrong with a peer's connection, in words for the log.
#[must_use]
pub fn explain(error: &rustls::Error) -> String {
    match (refused(error), error) {
        (Some(refused), _) => refused.to_string(),
        (None, rustls::Error::NoCertificatesPresented) => "it presented no certificate".to_owned(),
        (None, rustls::Error::AlertReceived(alert)) => {
            format!("it did not accept this node's certificate ({alert:?})")
        }
        (None, other) => format!("not a TLS 1.3 handshake ({other})"),
    }
}

/// [`explain`] for an error of a stream, which may be one of TLS.
#[must_use]
pub fn explain_io(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    inner.map_or_else(|| error.to_string(), explain)
}

fn without_resumption(mut config: ServerConfig) -> ServerConfig {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

#[allow(clippy::needless_pass_by_value, reason = "used as a function for map_err")]
fn unusable(error: rustls::Error) -> Problem {
    Problem::new("identity-unusable", format!("this node's certificate cannot be used: {error}"))
}
