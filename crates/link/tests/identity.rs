//! Who is let in and who is not, with real TLS in memory.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod common;

use anshin_base::NodeId;
use anshin_link::{Authority, Credentials, Fingerprint, NodeKey, tls};
use common::{authority, node};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, ServerConfig, ServerConnection, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use std::{os::unix::fs::PermissionsExt, sync::Arc};

/// Runs a handshake in memory; each end's connection and what it says in the end.
fn handshake(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> (Result<ClientConnection, rustls::Error>, Result<ServerConnection, rustls::Error>) {
    let mut client = ClientConnection::new(client, tls::server_name()).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    let (mut client_error, mut server_error) = (None, None);
    for _ in 0..8 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut bytes = &wire[..];
        while !bytes.is_empty() {
            server.read_tls(&mut bytes).unwrap();
            server_error = server_error.or(server.process_new_packets().err());
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut bytes = &wire[..];
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).unwrap();
            client_error = client_error.or(client.process_new_packets().err());
        }
    }
    (client_error.map_or(Ok(client), Err), server_error.map_or(Ok(server), Err))
}

/// A client that presents `credentials` and takes any server for genuine.
fn credulous_client(credentials: &Credentials) -> Arc<ClientConfig> {
    #[derive(Debug)]
    struct Credulous(Arc<CryptoProvider>);
    impl ServerCertVerifier for Credulous {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
    let directory = std::env::temp_dir().join(format!("anshin-credulous-{}", std::process::id()));
    credentials.save(&directory).unwrap();
    let certificate = CertificateDer::from_pem_file(directory.join("node.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(directory.join("node-key.pem")).unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous(provider)))
        .with_client_auth_cert(vec![certificate], key)
        .unwrap();
    Arc::new(config)
}

#[test]
fn nodes_of_one_site_know_each_other_by_certificate() {
    let site = authority("prod");
    let (a, b) = (node(&site, 1, "alpha"), node(&site, 2, "beta"));
    let (client, server) = handshake(tls::client_config(&a).unwrap(), tls::server_config(&b).unwrap());
    let (client, server) = (client.unwrap(), server.unwrap());
    assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    let seen = tls::peer_identity(client.peer_certificates()).unwrap();
    assert_eq!((seen.site, seen.node, &*seen.name), (site.site(), NodeId(2), "beta"));
    assert_eq!(tls::peer_identity(server.peer_certificates()).unwrap(), *a.identity());
}

#[test]
fn a_certificate_of_another_site_is_refused_by_either_end_and_named() {
    let (site, other) = (authority("prod"), authority("prod"));
    let (own, foreign) = (node(&site, 1, "alpha"), node(&other, 2, "stranger"));
    let (_, server) = handshake(credulous_client(&foreign), tls::server_config(&own).unwrap());
    let error = std::io::Error::other(server.unwrap_err());
    let said = tls::refusal(&error).unwrap().to_string();
    assert!(said.contains("certificate of another site") && said.contains("stranger"), "{said}");
    let (client, _) = handshake(tls::client_config(&own).unwrap(), tls::server_config(&foreign).unwrap());
    let error = std::io::Error::other(client.unwrap_err());
    assert!(tls::refusal(&error).unwrap().to_string().contains("stranger"));
}

#[test]
fn a_client_without_certificate_is_refused() {
    let site = authority("prod");
    let own = node(&site, 1, "alpha");
    let (_, server) =
        handshake(tls::join_client_config(site.fingerprint()), tls::server_config(&own).unwrap());
    assert_eq!(server.unwrap_err(), rustls::Error::NoCertificatesPresented);
}

#[test]
fn one_who_joins_trusts_only_the_authority_of_its_token() {
    let (site, other) = (authority("prod"), authority("prod"));
    let server = || tls::join_server_config(&node(&site, 1, "alpha")).unwrap();
    let (client, _) = handshake(tls::join_client_config(site.fingerprint()), server());
    assert!(client.is_ok());
    for wrong in [other.fingerprint(), Fingerprint([0; 32])] {
        let (client, _) = handshake(tls::join_client_config(wrong), server());
        let error = std::io::Error::other(client.unwrap_err());
        assert!(matches!(tls::refusal(&error), Some(tls::PeerRefused::NotPinned { .. })), "{error}");
    }
}

#[test]
fn an_impostor_cannot_borrow_the_authoritys_certificate() {
    // The chain holds the pinned certificate, but the node's own was signed by somebody else.
    let (site, other) = (authority("prod"), authority("prod"));
    let key = NodeKey::generate().unwrap();
    let forged = other.issue(&key.request_pem().unwrap(), NodeId(1), "alpha").unwrap();
    assert!(key.with_certificate(&forged, site.certificate_pem()).is_err());
}

#[test]
fn identity_survives_its_storage_and_keys_are_private() {
    let directory = std::env::temp_dir().join(format!("anshin-identity-{}", std::process::id()));
    let site = authority("prod");
    let alpha = node(&site, 1, "alpha");
    assert!(Authority::load(&directory).unwrap().is_none());
    assert!(Credentials::load(&directory).unwrap_err().hint.unwrap().contains("anshin init"));
    alpha.save(&directory).unwrap();
    assert!(Authority::load(&directory).unwrap().is_none(), "a witness holds no authority's key");
    site.save(&directory).unwrap();
    site.save(&directory).unwrap();

    let loaded = Credentials::load(&directory).unwrap();
    assert_eq!(loaded.identity(), alpha.identity());
    assert_eq!((loaded.fingerprint(), loaded.site_name()), (site.fingerprint(), "prod"));
    let again = Authority::load(&directory).unwrap().unwrap();
    let beta = node(&again, 2, "beta");
    let (client, server) =
        handshake(tls::client_config(&loaded).unwrap(), tls::server_config(&beta).unwrap());
    assert!(client.is_ok() && server.is_ok());
    for file in ["ca-key.pem", "node-key.pem"] {
        let mode = std::fs::metadata(directory.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    std::fs::remove_dir_all(&directory).unwrap();
}
