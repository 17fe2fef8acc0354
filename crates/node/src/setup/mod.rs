//! Making a site and joining one: what happens on a bare server before its daemon has anything to do.
//!
//! Both end by writing the node file ([`crate::paths::Paths::node_file`]); the daemon waits for it. Whatever fails
//! before that leaves nothing that a second attempt would stumble over.

mod client;
mod init;
mod join;
mod server;
#[cfg(test)]
mod tests;

pub use client::{ClientGrant, ClientHello, ask_as_client};
pub use init::init;
pub use join::join;
pub use server::{JoinServer, Propose};

use crate::{
    paths::Paths,
    voter::{Bootstrap, Fallback, Peer, VoterOptions},
};
use anshin_base::{LedgerEpoch, NodeId, Problem, VoterId};
use anshin_ledger::state::{Ports, Roles};
use anshin_link::{Credentials, mesh::MeshTimes};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

/// How long a join token can be used unless asked otherwise.
pub const TOKEN_VALID_S: u64 = 3_600;

/// Who this node is, as kept in `node.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeFile {
    /// Name of the site.
    pub site: String,
    /// Name of this node.
    pub node: String,
    /// Its number in the ledger.
    pub id: NodeId,
    /// Its voter.
    pub voter: VoterId,
    /// Address for other nodes.
    pub address: String,
    /// Whether it stores data.
    pub data: bool,
    /// Whether it votes only.
    pub witness: bool,
    /// Whether it serves a vault.
    #[serde(default)]
    pub vault: bool,
    /// Port of the join endpoint.
    pub join_port: u16,
    /// Port of the mesh.
    pub voter_port: u16,
    /// Port of the vault process.
    #[serde(default = "vault_port")]
    pub vault_port: u16,
}

fn vault_port() -> u16 {
    Ports::default().vault
}

impl NodeFile {
    /// Reads the file; None if the node is neither initialised nor joined.
    ///
    /// # Errors
    /// A file that cannot be read or makes no sense.
    pub fn load(paths: &Paths) -> Result<Option<Self>, Problem> {
        let path = paths.node_file();
        let problem = |why: String| Problem::new("node-file", format!("{}: {why}", path.display()));
        match fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).map(Some).map_err(|error| problem(error.to_string())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(problem(error.to_string())),
        }
    }

    /// Writes the file: from then on the node is part of its site.
    ///
    /// # Errors
    /// The file system's.
    pub fn save(&self, paths: &Paths) -> Result<(), Problem> {
        let path = paths.node_file();
        let problem = |why: String| Problem::new("node-file", format!("{}: {why}", path.display()));
        let text = toml::to_string(self).map_err(|error| problem(error.to_string()))?;
        anshin_link::files::write(&path, text.as_bytes(), 0o644).map_err(|error| problem(error.to_string()))
    }

    /// How the node's voter process is set up.
    ///
    /// # Errors
    /// If the node's identity cannot be read.
    pub fn voter_options(&self, paths: &Paths) -> Result<VoterOptions, Problem> {
        Ok(VoterOptions {
            directory: paths.voter(),
            credentials: Credentials::load(&paths.identity())?,
            listen: vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), self.voter_port)],
            socket: paths.voter_socket(),
            build: crate::VERSION.into(),
            lock_memory: true,
            times: MeshTimes::default(),
            fallback: Some(self.fallback(paths)?),
        })
    }

    /// Who the voter is if its ledger is lost.
    fn fallback(&self, paths: &Paths) -> Result<Fallback, Problem> {
        let known = KnownVoters::load(paths);
        let site = Credentials::load(&paths.identity())?.identity().site;
        let (node, voter, witness) = (self.id, self.voter, !self.data);
        let bootstrap = Bootstrap { site, node, voter, witness, peers: known.voters, first: Vec::new() };
        Ok(Fallback { bootstrap, epoch: known.epoch })
    }

    /// What the node does.
    #[must_use]
    pub fn roles(&self) -> Roles {
        Roles { data: self.data, witness: self.witness, vault: self.vault }
    }

    /// The ports of its services.
    #[must_use]
    pub fn ports(&self) -> Ports {
        Ports { join: self.join_port, voter: self.voter_port, vault: self.vault_port }
    }
}

/// Who votes and where, as the daemon last knew it: kept beside the identity, away from the ledger, because it is needed
/// when that is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownVoters {
    /// The ledger's epoch.
    pub epoch: LedgerEpoch,
    /// The other nodes' voters.
    pub voters: Vec<Peer>,
}

impl KnownVoters {
    /// What was kept; nobody if nothing was, or it cannot be read.
    #[must_use]
    pub fn load(paths: &Paths) -> Self {
        let kept = fs::read(paths.voters_file()).ok();
        let kept = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        kept.unwrap_or(Self { epoch: LedgerEpoch(1), voters: Vec::new() })
    }

    /// Keeps it.
    ///
    /// # Errors
    /// The file system's.
    pub fn save(&self, paths: &Paths) -> Result<(), Problem> {
        let path = paths.voters_file();
        let problem = |why: String| Problem::new("voters-file", format!("{}: {why}", path.display()));
        let text = serde_json::to_vec_pretty(self).map_err(|error| problem(error.to_string()))?;
        anshin_link::files::write(&path, &text, 0o644).map_err(|error| problem(error.to_string()))
    }
}

/// Refuses to go on where a node exists already.
pub(crate) fn refuse_second(paths: &Paths) -> Result<(), Problem> {
    match NodeFile::load(paths)? {
        None => Ok(()),
        Some(known) => Err(Problem::new(
            "node-exists",
            format!("this server is node {} of site {} already", known.node, known.site),
        )
        .hint(format!(
            "to start over, stop the daemon and remove {} and {}",
            paths.etc.display(),
            paths.var.display()
        ))),
    }
}

fn make_directories(paths: &Paths) -> Result<(), Problem> {
    paths.create().map_err(|error| {
        Problem::new("directories", format!("cannot make {}: {error}", paths.etc.display()))
            .hint("run this as root")
    })
}

/// The host's name up to its first dot.
fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    name.split('.').next().unwrap_or_default().to_owned()
}

/// The address of the interface by which the rest of the world would be reached; nothing is sent.
fn own_address(towards: &str) -> Result<IpAddr, Problem> {
    let ask = || -> std::io::Result<IpAddr> {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(towards)?;
        Ok(socket.local_addr()?.ip())
    };
    match ask() {
        Ok(address) if !address.is_unspecified() => Ok(address),
        Ok(_) | Err(_) => {
            Err(Problem::new("address-unknown", "cannot tell this server's address for other nodes")
                .hint("name it with --address"))
        }
    }
}

fn unix_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What the ledger keeps of a token.
pub(crate) fn token_hash(hash: [u8; 32]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}
