//! `anshin init`: the first node of a new site.

use super::{
    NodeFile, TOKEN_VALID_S, host_name, make_directories, own_address, refuse_second, token_hash, unix_now,
};
use crate::{
    keep::Keyring,
    paths::Paths,
    view::{InitDone, InitRequest, JoinToken as JoinTokenView},
    voter,
};
use anshin_base::{NodeId, Problem, VoterId};
use anshin_ledger::state::{
    Command, JoinToken as LedgerToken, NewNode, Ports, Roles, Site, Timing, UnixSeconds,
};
use anshin_link::{Authority, JoinToken, NodeKey, identity::check_name};
use anshin_vault::DomainKeys;
use std::net::IpAddr;

/// Makes a site whose only node is this one, with a first join token.
///
/// # Errors
/// If this server is part of a site already, or a name or address cannot be used.
pub fn init(paths: &Paths, request: &InitRequest) -> Result<InitDone, Problem> {
    refuse_second(paths)?;
    let node = request.node.clone().unwrap_or_else(host_name);
    check_name("node", &node)?;
    let address = match &request.address {
        Some(text) => text.parse::<IpAddr>().map_err(|_| {
            Problem::new("address-format", format!("`{text}` is not an IP address"))
                .hint("for example 10.0.0.11")
        })?,
        None => own_address("192.0.2.1:9")?,
    };
    make_directories(paths)?;
    let authority = Authority::create(&request.site)?;
    let key = NodeKey::generate()?;
    let certificate = authority.issue(&key.request_pem()?, NodeId(1), &node)?;
    let credentials = key.with_certificate(&certificate, authority.certificate_pem())?;
    authority.save(&paths.identity())?;
    credentials.save(&paths.identity())?;
    Keyring::open(paths, None)?.take_site(&request.site, &node, DomainKeys::generate()?)?;

    let ports = Ports::default();
    let expires = unix_now() + TOKEN_VALID_S;
    let join_at = std::net::SocketAddr::new(address, ports.join).to_string();
    let token = JoinToken::create(&request.site, authority.fingerprint(), vec![join_at], expires)?;
    let roles = Roles { data: true, ..Roles::default() };
    let commands = vec![
        Command::InitSite(Site {
            name: request.site.clone(),
            id: voter::site_number(authority.site()),
            ca_certificate: authority.certificate_pem().to_owned(),
            timing: Timing::default(),
        }),
        Command::FirstNode(NewNode {
            name: node.clone(),
            addresses: vec![address.to_string()],
            ports,
            roles,
            fingerprint: credentials.fingerprint().to_string(),
        }),
        Command::AddToken(LedgerToken {
            hash: token_hash(token.secret_hash()),
            roles: Roles::ALL,
            expires: UnixSeconds(expires),
            used_by: None,
        }),
    ];
    voter::found(&paths.voter(), authority.site(), commands)?;
    let file = NodeFile {
        site: request.site.clone(),
        node: node.clone(),
        id: NodeId(1),
        voter: VoterId(1),
        address: address.to_string(),
        data: roles.data,
        witness: roles.witness,
        vault: roles.vault,
        join_port: ports.join,
        voter_port: ports.voter,
        vault_port: ports.vault,
    };
    file.save(paths)?;
    Ok(InitDone {
        site: request.site.clone(),
        node,
        address: address.to_string(),
        token: Some(view_of(&token)),
    })
}

/// A token as the user sees it.
pub(super) fn view_of(token: &JoinToken) -> JoinTokenView {
    let expires =
        jiff::Timestamp::from_second(i64::try_from(token.expires).unwrap_or(i64::MAX)).unwrap_or_default();
    let id = token_hash(token.secret_hash())[..12].to_owned();
    JoinTokenView { id, token: token.to_string(), expires: expires.to_string() }
}
