//! The join token: the one line that carries trust from a site to a bare server.
//!
//! ```text
//! an1.<base64url without padding of:>
//!    postcard of the fields of JoinToken in their order
//!    first 4 bytes of blake3 of the bytes before (a typing or pasting mistake is told from a wrong token)
//! ```
//! The site keeps only [`JoinToken::secret_hash`]; who reads the ledger cannot join with it.
//!
//! A token that lets a machine outside the site back up into it ([`ClientToken`]) has the same content and begins with `anc1.`, so
//! that neither is taken for the other.

use crate::identity::{Fingerprint, check_name};
use anshin_base::Problem;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

const PREFIX: &str = "an1.";
const CLIENT_PREFIX: &str = "anc1.";
const CHECK_SIZE: usize = 4;
/// Longest token that is looked at; sixteen addresses of full length fit.
const TEXT_LENGTH_MAX: usize = 4096;
const ADDRESSES_MAX: usize = 16;

/// What a server needs to join a site.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// The site's name.
    pub site: String,
    /// The authority that the server answering at `addresses` must prove.
    pub authority: Fingerprint,
    /// Join endpoints as `address:port`, to be tried in order.
    pub addresses: Vec<String>,
    /// What admits its bearer, once.
    pub secret: [u8; 16],
    /// When the site stops accepting it, in seconds of Unix time by the site's clock.
    pub expires: u64,
}

impl JoinToken {
    /// A new token with a random secret.
    ///
    /// # Errors
    /// If the machine gives no randomness.
    pub fn create(
        site: &str,
        authority: Fingerprint,
        addresses: Vec<String>,
        expires: u64,
    ) -> Result<Self, Problem> {
        let mut secret = [0; 16];
        getrandom::fill(&mut secret).map_err(|error| {
            Problem::new("randomness", format!("the machine gives no random bytes: {error}"))
        })?;
        Ok(Self { site: site.to_owned(), authority, addresses, secret, expires })
    }

    /// What the site keeps to recognise the secret, and what names the token.
    #[must_use]
    pub fn secret_hash(&self) -> [u8; 32] {
        Self::hash_of(&self.secret)
    }

    /// The hash of a secret that was presented.
    #[must_use]
    pub fn hash_of(secret: &[u8; 16]) -> [u8; 32] {
        blake3::derive_key("anshin join token secret v1", secret)
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, PREFIX, self)
    }
}

fn write(f: &mut fmt::Formatter<'_>, prefix: &str, token: &JoinToken) -> fmt::Result {
    let mut bytes = postcard::to_allocvec(token).map_err(|_| fmt::Error)?;
    let check = blake3::hash(&bytes);
    bytes.extend_from_slice(&check.as_bytes()[..CHECK_SIZE]);
    write!(f, "{prefix}{}", data_encoding::BASE64URL_NOPAD.encode(&bytes))
}

/// What a machine outside the site needs to become its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientToken(pub JoinToken);

impl fmt::Display for ClientToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, CLIENT_PREFIX, &self.0)
    }
}

impl FromStr for ClientToken {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let text = text.trim();
        match text.strip_prefix(CLIENT_PREFIX) {
            Some(encoded) => {
                parse(encoded, "copy the whole line that `anshin client token create` printed").map(Self)
            }
            None => Err(Problem::new("token-format", "this is not a token for a client: it does not begin with `anc1.`")
                .hint("make one on a data node of the site: anshin client token create")),
        }
    }
}

impl fmt::Debug for JoinToken {
    /// Without the secret: tokens end up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("site", &self.site)
            .field("authority", &self.authority)
            .field("addresses", &self.addresses)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

impl FromStr for JoinToken {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let bad = |why: &str| Problem::new("token-format", format!("this is not a join token: {why}"));
        let again = "copy the whole line that `anshin init` or `anshin node invite` printed";
        let text = text.trim();
        let Some(encoded) = text.strip_prefix(PREFIX) else {
            let newer = text.strip_prefix("an").is_some_and(|rest| {
                rest.split_once('.').is_some_and(|(version, _)| version.parse::<u32>().is_ok_and(|v| v > 1))
            });
            return Err(match newer {
                true => {
                    bad("it is of a newer format").hint("install the same version of anshin as the site has")
                }
                false => bad("it does not begin with `an1.`").hint(again),
            });
        };
        parse(encoded, again)
    }
}

fn parse(encoded: &str, again: &str) -> Result<JoinToken, Problem> {
    let bad = |why: &str| Problem::new("token-format", format!("this is not a join token: {why}"));
    if encoded.len() > TEXT_LENGTH_MAX {
        return Err(bad("it is too long").hint(again));
    }
    let bytes = data_encoding::BASE64URL_NOPAD
        .decode(encoded.as_bytes())
        .map_err(|_| bad("it is cut off or has foreign characters").hint(again))?;
    let (body, check) = bytes
        .split_at_checked(bytes.len().saturating_sub(CHECK_SIZE))
        .filter(|(body, check)| blake3::hash(body).as_bytes()[..CHECK_SIZE] == **check)
        .ok_or_else(|| bad("its checksum does not match").hint(again))?;
    debug_assert_eq!(check.len(), CHECK_SIZE);
    let token: JoinToken = postcard::from_bytes(body).map_err(|_| bad("its content is damaged").hint(again))?;
    check_name("site", &token.site)?;
    if token.addresses.is_empty() || token.addresses.len() > ADDRESSES_MAX {
        return Err(bad("it names no address to reach the site").hint(again));
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token() -> JoinToken {
        JoinToken {
            site: "prod".to_owned(),
            authority: Fingerprint([0xab; 32]),
            addresses: vec!["10.0.0.1:7800".to_owned()],
            secret: [0xcd; 16],
            expires: 1_800_000_000,
        }
    }

    #[test]
    fn version_1_has_this_text() {
        let text = "an1.BHByb2Srq6urq6urq6urq6urq6urq6urq6urq6urq6urq6urqwENMTAuMC4wLjE6NzgwMM3Nzc3Nzc3Nzc3Nzc3Nzc2ApKfaBqvMq9c";
        assert_eq!(token().to_string(), text);
        assert_eq!(text.parse::<JoinToken>().unwrap(), token());
    }

    #[test]
    fn a_clients_token_is_no_nodes_token() {
        let text = ClientToken(token()).to_string();
        assert_eq!(text, token().to_string().replacen("an1.", "anc1.", 1));
        assert_eq!(text.parse::<ClientToken>().unwrap().0, token());
        assert!(text.parse::<JoinToken>().is_err());
        assert!(token().to_string().parse::<ClientToken>().is_err());
    }

    #[test]
    fn a_token_is_read_with_the_white_space_of_a_paste_around_it() {
        assert_eq!(format!(" {}\n", token()).parse::<JoinToken>().unwrap(), token());
    }

    #[test]
    fn every_mistake_says_what_is_wrong_and_what_to_do() {
        let text = token().to_string();
        let mut cut = text.clone();
        cut.truncate(text.len() - 4);
        let code = |text: &str| text.parse::<JoinToken>().unwrap_err();
        for (bad, why) in [
            ("", "does not begin"),
            ("hello", "does not begin"),
            ("an2.AAAA", "newer format"),
            ("an1.", "checksum"),
            ("an1.!!!", "foreign characters"),
            (&*cut, "cut off"),
        ] {
            let problem = code(bad);
            assert!(problem.message.contains(why), "{bad}: {problem}");
            assert!(problem.hint.is_some(), "{bad}");
        }
    }

    #[test]
    fn debug_output_does_not_carry_the_secret() {
        assert!(!format!("{:?}", token()).contains("205"));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text: String, bytes: Vec<u8>) {
            let _ = text.parse::<JoinToken>();
            let _ = format!("an1.{}", data_encoding::BASE64URL_NOPAD.encode(&bytes)).parse::<JoinToken>();
        }

        #[test]
        fn one_changed_character_is_noticed(at in 4usize..100, new in "[A-Za-z0-9_-]") {
            let text = token().to_string();
            prop_assume!(text[at..=at] != new);
            let mut changed = text.clone();
            changed.replace_range(at..=at, &new);
            prop_assert!(changed.parse::<JoinToken>().is_err());
        }
    }
}
