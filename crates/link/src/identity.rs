//! Who a party is: the names that a certificate of the site carries.
//!
//! A node's certificate holds exactly one URI in its subject alternative names:
//! `anshin://<site id, 32 hex digits>/node/<node id>/<node name>`, the authority's certificate
//! `anshin://<site id>/authority/<site name>`. Names of the DNS play no part.

use anshin_base::{NodeId, Problem};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

/// Longest name of a site or node in characters; the limit of one DNS label, so that a host name fits.
const NAME_LENGTH_MAX: usize = 63;

/// A site's own id: random, made with its authority. Two sites of the same name stay apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SiteId(pub [u8; 16]);

impl fmt::Display for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SiteId({self})")
    }
}

/// blake3 of the authority's certificate (DER). Whoever knows it can tell the site from any other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of a certificate.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(*blake3::hash(certificate).as_bytes())
    }
}

impl Fingerprint {
    /// The fingerprint of something else that stands for a party.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// Who the other end of a link is, as its certificate says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PeerIdentity {
    /// The site that vouches for it.
    pub site: SiteId,
    /// Its number in the ledger.
    pub node: NodeId,
    /// Its name.
    pub name: String,
}

/// Why a certificate names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not a certificate that can be parsed.
    #[error("not a readable certificate")]
    Certificate,
    /// No URI, or several, or one that is not anshin's.
    #[error("a certificate that names no anshin node")]
    NoIdentity,
}

impl PeerIdentity {
    /// The URI in the certificate.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("anshin://{}/node/{}/{}", self.site, self.node.0, self.name)
    }

    /// Reads the identity out of a certificate. Says nothing about whether the certificate is genuine.
    ///
    /// # Errors
    /// [`IdentityError`] if it holds none.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        identity_uri(certificate)?.parse()
    }
}

impl FromStr for PeerIdentity {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Self, IdentityError> {
        let (site, rest) = split_uri(uri)?;
        let (node, name) = rest
            .strip_prefix("node/")
            .and_then(|rest| rest.split_once('/'))
            .ok_or(IdentityError::NoIdentity)?;
        let node: u32 = node.parse().map_err(|_| IdentityError::NoIdentity)?;
        if node == 0 || check_name("node", name).is_err() {
            return Err(IdentityError::NoIdentity);
        }
        Ok(Self { site, node: NodeId(node), name: name.to_owned() })
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.node)
    }
}

/// The site an authority's certificate is for, and its name.
pub(crate) fn authority_identity(
    certificate: &CertificateDer<'_>,
) -> Result<(SiteId, String), IdentityError> {
    let uri = identity_uri(certificate)?;
    let (site, rest) = split_uri(&uri)?;
    let name = rest.strip_prefix("authority/").ok_or(IdentityError::NoIdentity)?;
    check_name("site", name).map_err(|_| IdentityError::NoIdentity)?;
    Ok((site, name.to_owned()))
}

/// The URI in an authority's certificate.
pub(crate) fn authority_uri(site: SiteId, name: &str) -> String {
    format!("anshin://{site}/authority/{name}")
}

/// What a certificate claims to be, for a log line about one that was refused. Control characters cannot occur.
pub(crate) fn claim_of(certificate: &CertificateDer<'_>) -> String {
    match identity_uri(certificate) {
        Ok(uri) => format!("`{}`", uri.chars().take(200).collect::<String>().escape_default()),
        Err(error) => error.to_string(),
    }
}

/// Whether `name` may be the name of a site or node: letters, digits, `-`, `.` and `_`, starting with a letter or
/// digit, at most 63 characters. `what` is "site" or "node" for the message.
///
/// # Errors
/// A [`Problem`] that says what a name may hold.
pub fn check_name(what: &str, name: &str) -> Result<(), Problem> {
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let holds_well = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
    if starts_well && holds_well && name.len() <= NAME_LENGTH_MAX {
        return Ok(());
    }
    Err(Problem::new("name-format", format!("`{}` cannot be the name of a {what}", name.escape_default())).hint(
        format!("use letters, digits, `-`, `.` and `_`, starting with a letter or digit, at most {NAME_LENGTH_MAX}"),
    ))
}

pub(crate) fn split_uri(uri: &str) -> Result<(SiteId, &str), IdentityError> {
    let (site, rest) = uri
        .strip_prefix("anshin://")
        .and_then(|rest| rest.split_once('/'))
        .ok_or(IdentityError::NoIdentity)?;
    let site = data_encoding::HEXLOWER.decode(site.as_bytes()).map_err(|_| IdentityError::NoIdentity)?;
    Ok((SiteId(site.try_into().map_err(|_| IdentityError::NoIdentity)?), rest))
}

/// The one URI of a certificate.
pub(crate) fn identity_uri(certificate: &CertificateDer<'_>) -> Result<String, IdentityError> {
    let (_, parsed) = parse_x509_certificate(certificate).map_err(|_| IdentityError::Certificate)?;
    let names = parsed
        .subject_alternative_name()
        .map_err(|_| IdentityError::Certificate)?
        .ok_or(IdentityError::NoIdentity)?;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => Ok(uri.to_owned()),
        _ => Err(IdentityError::NoIdentity),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_identity_survives_its_uri() {
        let identity =
            PeerIdentity { site: SiteId([7; 16]), node: NodeId(3), name: "db-1.example".to_owned() };
        assert_eq!(identity.uri(), "anshin://07070707070707070707070707070707/node/3/db-1.example");
        assert_eq!(identity.uri().parse(), Ok(identity));
    }

    #[test]
    fn names_that_could_break_a_uri_or_a_log_line_are_refused() {
        for bad in ["", "-a", "a/b", "a b", "a\n", "é", &"a".repeat(64)] {
            assert!(check_name("node", bad).is_err(), "{bad:?}");
        }
        for good in ["a", "node1", "db-1.example", "A_b", &"a".repeat(63)] {
            assert!(check_name("node", good).is_ok(), "{good:?}");
        }
    }

    proptest! {
        #[test]
        fn reading_an_identity_never_panics(uri: String, bytes: Vec<u8>) {
            let _ = uri.parse::<PeerIdentity>();
            let _ = PeerIdentity::of(&bytes.clone().into());
            let _ = claim_of(&bytes.into());
        }
    }
}
