//! The endpoint where bare servers join: TLS by the site's authority, one question, one answer.
//!
//! Everything that arrives here comes from strangers: sizes and times are bounded, and what is not a whole and proper
//! question is closed with one line in the log.

use super::{
    TOKEN_VALID_S,
    client::{self, ClientHello},
    init::view_of,
    token_hash, unix_now,
};
use crate::view::JoinToken as JoinTokenView;
use anshin_base::{LedgerEpoch, Problem, VoterId, frame::Frame};
use anshin_ledger::state::{
    Applied, Command, JoinToken as LedgerToken, NewNode, Node, Ports, Refused, Roles, State, UnixSeconds,
};
use anshin_link::{Authority, Credentials, JoinToken, tls};
use anshin_vault::DomainKeys;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{future::Future, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;

/// Largest question or answer.
pub const FRAME_SIZE_MAX: usize = 256 << 10;
/// Protocol number of the joining frames.
const KIND: u16 = 0x4a4e;
const VERSION: u16 = 1;
/// A stranger that does not say everything within this is closed.
const STRANGER_LIMIT: Duration = Duration::from_secs(5);
/// Strangers served at once.
const STRANGERS_MAX: usize = 8;

/// The question.
#[derive(Clone, Serialize, Deserialize)]
pub struct Hello {
    /// What admits the bearer.
    pub secret: [u8; 16],
    /// Name of the new node.
    pub name: String,
    /// Its addresses for other nodes.
    pub addresses: Vec<String>,
    /// Its ports.
    pub ports: Ports,
    /// What it will be.
    pub roles: Roles,
    /// Certificate request.
    pub request_pem: String,
    /// Version of anshin.
    pub version: String,
}

/// The answer.
#[derive(Clone, Serialize, Deserialize)]
pub enum Admission {
    /// Welcome.
    Granted(Box<Grant>),
    /// No, and why.
    Refused(Problem),
}

/// What makes a server a node.
#[derive(Clone, Serialize, Deserialize)]
pub struct Grant {
    /// Its voter's id.
    pub voter: VoterId,
    /// The ledger's epoch.
    pub epoch: LedgerEpoch,
    /// Its certificate.
    pub certificate_pem: String,
    /// The authority's certificate.
    pub authority_pem: String,
    /// The authority's key, for data nodes, so that each of them can let others join.
    pub authority_key_pem: Option<String>,
    /// The secret of the site's key domain, for data nodes, so that each of them can back up and restore (docs/decisions/0009).
    #[serde(default)]
    pub backup_secret: Option<[u8; 32]>,
    /// The site's nodes.
    pub members: Vec<Node>,
    /// A token for the next server.
    pub next_token: Option<JoinTokenView>,
}

/// A value as a frame.
pub(super) fn frame<T: Serialize>(value: &T) -> Result<Frame, String> {
    let body = serde_json::to_vec(value).map_err(|error| error.to_string())?;
    Ok(Frame { kind: KIND, version: VERSION, body: body.into() })
}

/// The value in a frame.
pub(super) fn read<T: DeserializeOwned>(frame: &Frame) -> Result<T, String> {
    if frame.kind != KIND || frame.version != VERSION {
        return Err(format!("not a joining message of version {VERSION}"));
    }
    serde_json::from_slice(&frame.body).map_err(|error| error.to_string())
}

/// How a command gets into the ledger; the daemon's way to its voter.
pub type Propose = Arc<
    dyn Fn(Command) -> Pin<Box<dyn Future<Output = Result<Result<Applied, Refused>, Problem>> + Send>>
        + Send
        + Sync,
>;

/// Lets servers join.
#[derive(Clone)]
pub struct JoinServer {
    credentials: Arc<Credentials>,
    authority: Arc<Authority>,
    propose: Propose,
    state: Arc<dyn Fn() -> Arc<State> + Send + Sync>,
    backup_keys: Option<DomainKeys>,
}

impl JoinServer {
    /// Serves with this node's credentials; `state` gives the newest ledger state.
    pub fn new(
        credentials: Arc<Credentials>,
        authority: Arc<Authority>,
        propose: Propose,
        state: Arc<dyn Fn() -> Arc<State> + Send + Sync>,
    ) -> Self {
        Self { credentials, authority, propose, state, backup_keys: None }
    }

    /// The same, handing the keys of the site's backups to data nodes that join.
    #[must_use]
    pub fn with_backup_keys(self, keys: Option<DomainKeys>) -> Self {
        Self { backup_keys: keys, ..self }
    }

    /// Accepts until the listener fails.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub async fn run(self, address: SocketAddr) -> Result<(), Problem> {
        let acceptor = TlsAcceptor::from(tls::join_server_config(&self.credentials)?);
        let listener = TcpListener::bind(address).await.map_err(|error| {
            Problem::new("join-listen", format!("cannot listen on {address} for joining nodes: {error}"))
        })?;
        let places = Arc::new(Semaphore::new(STRANGERS_MAX));
        loop {
            let Ok((stream, peer)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let Ok(place) = places.clone().try_acquire_owned() else { continue };
            let (server, acceptor) = (self.clone(), acceptor.clone());
            tokio::spawn(async move {
                if let Err(why) = server.serve(&acceptor, stream, peer).await {
                    tracing::warn!(%peer, why, "a connection to the join endpoint was closed");
                }
                drop(place);
            });
        }
    }

    async fn serve(&self, acceptor: &TlsAcceptor, stream: TcpStream, peer: SocketAddr) -> Result<(), String> {
        let handshake = tokio::time::timeout(STRANGER_LIMIT, acceptor.accept(stream));
        let stream = handshake.await.map_err(|_| "no TLS handshake")?.map_err(|error| error.to_string())?;
        let (mut reader, mut writer) = anshin_link::framed::frames(stream, FRAME_SIZE_MAX, STRANGER_LIMIT);
        let question =
            reader.expect("the question", STRANGER_LIMIT).await.map_err(|error| error.to_string())?;
        if let Some(hello) = ClientHello::read(&question)? {
            let answer = self.admit_client(hello, peer).await;
            return writer.send(&answer?).await.map_err(|error| error.to_string());
        }
        let hello: Hello = read(&question)?;
        let name = hello.name.clone();
        let admission = match self.admit(hello).await {
            Ok(grant) => {
                tracing::info!(%peer, node = name, "a node joined");
                Admission::Granted(Box::new(grant))
            }
            Err(problem) => {
                tracing::warn!(%peer, node = name.escape_debug().to_string(), %problem, "a node was not let in");
                Admission::Refused(problem)
            }
        };
        writer.send(&frame(&admission)?).await.map_err(|error| error.to_string())
    }

    async fn admit_client(&self, hello: ClientHello, peer: SocketAddr) -> Result<Frame, String> {
        let name = hello.name.clone();
        let answer = client::admit(&self.authority, &self.propose, &(self.state)(), hello).await;
        match &answer {
            Ok(_) => tracing::info!(%peer, client = name, "a client joined"),
            Err(problem) => {
                tracing::warn!(%peer, client = name.escape_debug().to_string(), %problem, "a client was not let in");
            }
        }
        client::answer(&answer)
    }

    async fn admit(&self, hello: Hello) -> Result<Grant, Problem> {
        anshin_link::identity::check_name("node", &hello.name)?;
        let roles = hello.roles;
        let command = Command::Join {
            token: token_hash(JoinToken::hash_of(&hello.secret)),
            at: UnixSeconds(unix_now()),
            node: NewNode {
                name: hello.name.clone(),
                addresses: hello.addresses,
                ports: hello.ports,
                roles,
                fingerprint: String::new(),
            },
        };
        let Applied::Node { node, voter } = (self.propose)(command).await?.map_err(refusal)? else {
            return Err(Problem::new("internal", "the ledger answered joining with something else"));
        };
        let certificate_pem = self.authority.issue(&hello.request_pem, node, &hello.name)?;
        let state = (self.state)();
        Ok(Grant {
            voter,
            // Epochs begin with arbitration between two nodes, which does not exist yet.
            epoch: LedgerEpoch(1),
            certificate_pem,
            authority_pem: self.authority.certificate_pem().to_owned(),
            authority_key_pem: roles.data.then(|| self.authority.key_pem().to_owned()),
            backup_secret: self.backup_keys.as_ref().filter(|_| roles.data).map(|keys| *keys.secret()),
            members: state.nodes.values().cloned().collect(),
            next_token: self.new_token(TOKEN_VALID_S).await.ok(),
        })
    }

    /// Makes a token and records it.
    ///
    /// # Errors
    /// If the ledger cannot decide now.
    pub async fn new_token(&self, valid_s: u64) -> Result<JoinTokenView, Problem> {
        let state = (self.state)();
        let site = state.site.as_ref().map(|site| site.name.clone());
        let site = site.ok_or_else(|| {
            Problem::new("not-ready", "this node has not read its site's ledger yet")
                .hint("try again in a moment")
        })?;
        let endpoints = state.nodes.values().filter(|node| node.roles.data).flat_map(|node| {
            let at = |address: &String| join_endpoint(address, node.ports.join);
            node.addresses.iter().filter_map(at).collect::<Vec<_>>()
        });
        let endpoints: Vec<String> = endpoints.take(16).collect();
        let expires = unix_now() + valid_s;
        let token = JoinToken::create(&site, self.authority.fingerprint(), endpoints, expires)?;
        let command = Command::AddToken(LedgerToken {
            hash: token_hash(token.secret_hash()),
            roles: Roles::ALL,
            expires: UnixSeconds(expires),
            used_by: None,
        });
        (self.propose)(command).await?.map_err(refusal)?;
        Ok(view_of(&token))
    }
}

fn join_endpoint(address: &str, port: u16) -> Option<String> {
    Some(SocketAddr::new(address.parse().ok()?, port).to_string())
}

fn refusal(refused: Refused) -> Problem {
    match refused {
        Refused::TokenUsed | Refused::TokenExpired | Refused::Missing(_) => {
            Problem::new("token-refused", refused.to_string())
                .hint("a token admits one server, within its time; make a new one: anshin token create")
        }
        Refused::TokenRoles => Problem::new("token-refused", refused.to_string()),
        Refused::Exists(_) => Problem::new("node-exists", refused.to_string())
            .hint("choose another name with --name, or remove the old node first"),
        other => Problem::new("join-refused", other.to_string()),
    }
}
