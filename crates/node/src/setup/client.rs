//! What a machine asks that becomes a client of the site, at the endpoint where nodes join: another kind of frame, so that
//! neither is taken for the other.

use super::{join::exchange, server::Propose, token_hash, unix_now};
use crate::{backup::job::VaultAccess, keep::members};
use anshin_base::{Problem, frame::Frame};
use anshin_director::{
    ClientName, UnixMillis,
    record::{Applied as Recorded, Change, NewClient},
};
use anshin_ledger::{Applied, Command, State};
use anshin_link::{Authority, JoinToken, identity::check_name};
use serde::{Deserialize, Serialize};

/// Protocol number of the frames.
const KIND: u16 = 0x434a;
const VERSION: u16 = 1;
/// Longest description of a platform that is kept.
const PLATFORM_LENGTH_MAX: usize = 64;

/// The question.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClientHello {
    /// What admits the bearer.
    pub secret: [u8; 16],
    /// Name of the new client.
    pub name: String,
    /// Certificate request.
    pub request_pem: String,
    /// Its operating system and processor.
    pub platform: String,
    /// Version of anshin.
    pub version: String,
}

/// What makes a machine a client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClientGrant {
    /// Its number.
    pub client: u64,
    /// Its certificate.
    pub certificate_pem: String,
    /// The authority's certificate.
    pub authority_pem: String,
    /// The site's vaults.
    pub vaults: Vec<VaultAccess>,
}

/// The answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum ClientAdmission {
    Granted(ClientGrant),
    Refused(Problem),
}

fn frame<T: Serialize>(value: &T) -> Result<Frame, String> {
    let body = serde_json::to_vec(value).map_err(|error| error.to_string())?;
    Ok(Frame { kind: KIND, version: VERSION, body: body.into() })
}

impl ClientHello {
    /// Reads the question; None if it is not of a client.
    pub(super) fn read(frame: &Frame) -> Result<Option<Self>, String> {
        match (frame.kind, frame.version) {
            (KIND, VERSION) => {
                serde_json::from_slice(&frame.body).map(Some).map_err(|error| error.to_string())
            }
            (KIND, _) => Err(format!("not a client's message of version {VERSION}")),
            _ => Ok(None),
        }
    }
}

/// Asks the site that made the token, at each of its addresses in turn.
///
/// # Errors
/// `site-unreachable`, or why it refuses.
pub async fn ask_as_client(token: &JoinToken, hello: &ClientHello) -> Result<ClientGrant, Problem> {
    let question = frame(hello).map_err(|why| Problem::new("join-start", why))?;
    let mut failures = Vec::new();
    for address in &token.addresses {
        let answer = exchange(address, token, &question).await.and_then(|answer| {
            serde_json::from_slice::<ClientAdmission>(&answer.body).map_err(|error| error.to_string())
        });
        match answer {
            Ok(ClientAdmission::Granted(grant)) => return Ok(grant),
            Ok(ClientAdmission::Refused(problem)) => return Err(problem),
            Err(why) => failures.push(format!("{address}: {why}")),
        }
    }
    let message = format!("site {} cannot be reached: {}", token.site, failures.join("; "));
    Err(Problem::new("site-unreachable", message)
        .hint("is the daemon running there, and is the port open between the two machines?"))
}

/// Lets a client in: uses up its token, signs its certificate.
pub(super) async fn admit(
    authority: &Authority,
    propose: &Propose,
    state: &State,
    hello: ClientHello,
) -> Result<ClientGrant, Problem> {
    check_name("client", &hello.name)?;
    let client = NewClient {
        name: ClientName::checked(&hello.name)?,
        // Of its key, which its certificate is made for.
        fingerprint: anshin_link::Fingerprint::of_bytes(hello.request_pem.as_bytes()).to_string(),
        platform: hello.platform.chars().take(PLATFORM_LENGTH_MAX).collect(),
    };
    let change = Change::JoinClient {
        token: token_hash(JoinToken::hash_of(&hello.secret)),
        at: UnixMillis(i64::try_from(unix_now().saturating_mul(1_000)).unwrap_or(i64::MAX)),
        client,
    };
    let applied = propose(Command::Director(change)).await?.map_err(|refused| {
        Problem::new("token-refused", refused.to_string()).hint(
            "a token admits one machine, within its time and under its name; make a new one: anshin client token create",
        )
    })?;
    let Applied::Director(Recorded::Client(id)) = applied else {
        return Err(Problem::new("internal", "the ledger answered joining with something else"));
    };
    Ok(ClientGrant {
        client: id.0,
        certificate_pem: authority.issue_client(&hello.request_pem, id.0, &hello.name)?,
        authority_pem: authority.certificate_pem().to_owned(),
        vaults: members::vaults_of(state),
    })
}

/// The answer as a frame.
pub(super) fn answer(answer: &Result<ClientGrant, Problem>) -> Result<Frame, String> {
    frame(&match answer {
        Ok(grant) => ClientAdmission::Granted(grant.clone()),
        Err(problem) => ClientAdmission::Refused(problem.clone()),
    })
}
