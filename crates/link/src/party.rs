//! Who may come to the vault's door: nodes of the site, and clients that are machines outside it.

use crate::identity::{IdentityError, PeerIdentity, SiteId, check_name, identity_uri, split_uri};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A machine outside the site that backs up into one of its vaults. Its certificate carries
/// `anshin://<site id>/client/<client id>/<client name>`; no link between nodes accepts it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClientIdentity {
    /// The site that vouches for it.
    pub site: SiteId,
    /// Its number in the site's records, never given again.
    pub client: u64,
    /// Its name.
    pub name: String,
}

impl ClientIdentity {
    /// The URI in the certificate.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("anshin://{}/client/{}/{}", self.site, self.client, self.name)
    }
}

impl FromStr for ClientIdentity {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Self, IdentityError> {
        let (site, rest) = split_uri(uri)?;
        let (client, name) = rest
            .strip_prefix("client/")
            .and_then(|rest| rest.split_once('/'))
            .ok_or(IdentityError::NoIdentity)?;
        let client: u64 = client.parse().map_err(|_| IdentityError::NoIdentity)?;
        if client == 0 || check_name("client", name).is_err() {
            return Err(IdentityError::NoIdentity);
        }
        Ok(Self { site, client, name: name.to_owned() })
    }
}

/// A node of the site or one of its clients.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Party {
    /// A node.
    Node(PeerIdentity),
    /// A machine outside the site.
    Client(ClientIdentity),
}

impl Party {
    /// Reads the identity out of a certificate. Says nothing about whether the certificate is genuine.
    ///
    /// # Errors
    /// [`IdentityError`] if it holds none.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let uri = identity_uri(certificate)?;
        uri.parse().map(Self::Node).or_else(|_| uri.parse().map(Self::Client))
    }

    /// The site that vouches for it.
    #[must_use]
    pub const fn site(&self) -> SiteId {
        match self {
            Self::Node(node) => node.site,
            Self::Client(client) => client.site,
        }
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "node {node}"),
            Self::Client(client) => write!(f, "client {} (c{})", client.name, client.client),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_client_is_no_node_and_a_node_no_client() {
        let client = ClientIdentity { site: SiteId([7; 16]), client: 3, name: "laptop".into() };
        assert_eq!(client.uri(), "anshin://07070707070707070707070707070707/client/3/laptop");
        assert_eq!(client.uri().parse(), Ok(client.clone()));
        assert!(client.uri().parse::<PeerIdentity>().is_err());
        let node = client.uri().replace("/client/", "/node/");
        assert!(node.parse::<ClientIdentity>().is_err());
    }

    proptest! {
        #[test]
        fn reading_never_panics(uri: String, bytes: Vec<u8>) {
            let _ = uri.parse::<ClientIdentity>();
            let _ = Party::of(&bytes.into());
        }
    }
}
