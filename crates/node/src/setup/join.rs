//! `anshin join`: a bare server becomes a node of an existing site.

use super::{NodeFile, host_name, make_directories, own_address, refuse_second, server, unix_now};
use crate::{
    keep::{Keyring, make::make_usual},
    paths::Paths,
    view::{JoinDone, JoinRequest, Role},
    voter,
};
use anshin_base::{Problem, frame::Frame};
use anshin_ledger::state::{Ports, Roles};
use anshin_link::{Authority, JoinToken, NodeKey, identity::check_name, tls};
use anshin_vault::DomainKeys;
use server::{Admission, Grant, Hello};
use std::{net::IpAddr, time::Duration};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long connecting to one address may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// How long the site may take to decide: the ledger may be electing a leader.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// Joins the site that made the token.
///
/// # Errors
/// A token that is malformed, expired, used or of a site that cannot be reached; a server that cannot prove to be of
/// that site; a name that is taken.
pub async fn join(paths: &Paths, request: &JoinRequest) -> Result<JoinDone, Problem> {
    refuse_second(paths)?;
    let token: JoinToken = request.token.parse()?;
    if token.expires < unix_now() {
        let problem = Problem::new("token-expired", format!("this token of site {} has expired", token.site));
        return Err(problem.hint("make a new one on a node of the site: anshin token create"));
    }
    let node = request.node.clone().unwrap_or_else(host_name);
    check_name("node", &node)?;
    let key = NodeKey::generate()?;
    let roles = roles_of(&request.roles);
    if roles.vault {
        // Before the site knows of this node: a place that cannot hold a vault is told at once.
        make_usual(paths)?;
    }
    let mut failures = Vec::new();
    for address in &token.addresses {
        let own = match &request.address {
            Some(text) => text
                .parse::<IpAddr>()
                .map_err(|_| Problem::new("address-format", format!("`{text}` is not an IP address")))?,
            None => match own_address(address) {
                Ok(own) => own,
                Err(problem) => {
                    failures.push(format!("{address}: {}", problem.message));
                    continue;
                }
            },
        };
        let ports = Ports::default();
        let hello = Hello {
            secret: token.secret,
            name: node.clone(),
            addresses: vec![own.to_string()],
            ports,
            roles,
            request_pem: key.request_pem()?,
            version: crate::VERSION.into(),
        };
        match ask(address, &token, &hello).await {
            Ok(Admission::Granted(grant)) => {
                return settle(paths, *grant, key, &token.site, own, ports, roles);
            }
            Ok(Admission::Refused(problem)) => return Err(problem),
            Err(why) => failures.push(format!("{address}: {why}")),
        }
    }
    let message = format!("site {} cannot be reached: {}", token.site, failures.join("; "));
    Err(Problem::new("site-unreachable", message)
        .hint("is the daemon running there, and is the port open between the two servers?"))
}

fn roles_of(roles: &[Role]) -> Roles {
    let (witness, vault) = (roles.contains(&Role::Witness), roles.contains(&Role::Vault));
    Roles { data: roles.contains(&Role::Data) || !(witness || vault), witness, vault }
}

async fn ask(address: &str, token: &JoinToken, hello: &Hello) -> Result<Admission, String> {
    server::read(&exchange(address, token, &server::frame(hello)?).await?)
}

/// Asks one question at the join endpoint, whose authority the token names.
pub(super) async fn exchange(address: &str, token: &JoinToken, question: &Frame) -> Result<Frame, String> {
    let connect = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(address));
    let stream = connect.await.map_err(|_| "no answer")?.map_err(|error| error.to_string())?;
    let connector = TlsConnector::from(tls::join_client_config(token.authority));
    let handshake = tokio::time::timeout(CONNECT_LIMIT, connector.connect(tls::server_name(), stream));
    let stream = handshake.await.map_err(|_| "no TLS answer")?.map_err(|error| error.to_string())?;
    let (mut reader, mut writer) = anshin_link::framed::frames(stream, server::FRAME_SIZE_MAX, CONNECT_LIMIT);
    writer.send(question).await.map_err(|error| error.to_string())?;
    reader.expect("the answer", ANSWER_LIMIT).await.map_err(|error| error.to_string())
}

fn settle(
    paths: &Paths,
    grant: Grant,
    key: NodeKey,
    site: &str,
    own: IpAddr,
    ports: Ports,
    roles: Roles,
) -> Result<JoinDone, Problem> {
    make_directories(paths)?;
    let credentials = key.with_certificate(&grant.certificate_pem, &grant.authority_pem)?;
    if let Some(authority_key) = &grant.authority_key_pem {
        Authority::from_pem(&grant.authority_pem, authority_key)?.save(&paths.identity())?;
    }
    credentials.save(&paths.identity())?;
    if let Some(secret) = grant.backup_secret {
        Keyring::open(paths, None)?.take_site(
            site,
            &credentials.identity().name,
            DomainKeys::derive(secret),
        )?;
    }
    let identity = credentials.identity();
    let peers = grant.members.iter().filter(|member| member.id != identity.node).map(|member| voter::Peer {
        node: member.id,
        voter: member.voter,
        addresses: member.addresses.iter().map(|address| endpoint(address, member.ports.voter)).collect(),
    });
    let who = (identity.node, grant.voter, !roles.data);
    voter::join(&paths.voter(), identity.site, grant.epoch, who, peers.collect())?;
    let file = NodeFile {
        site: site.to_owned(),
        node: identity.name.clone(),
        id: identity.node,
        voter: grant.voter,
        address: own.to_string(),
        data: roles.data,
        witness: roles.witness,
        vault: roles.vault,
        join_port: ports.join,
        voter_port: ports.voter,
        vault_port: ports.vault,
    };
    file.save(paths)?;
    Ok(JoinDone {
        site: site.to_owned(),
        node: identity.name.clone(),
        id: identity.node.0,
        token: grant.next_token,
    })
}

/// An address and port as one text; an IPv6 address in brackets.
fn endpoint(address: &str, port: u16) -> String {
    address
        .parse::<IpAddr>()
        .map_or_else(|_| format!("{address}:{port}"), |ip| std::net::SocketAddr::new(ip, port).to_string())
}
