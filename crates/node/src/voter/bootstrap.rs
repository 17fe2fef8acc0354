//! How a voter comes into being: `init` founds the ledger, `join` prepares a voter that learns it.
//!
//! The voter's directory holds the log (`ledger-a`, `ledger-b`) and `bootstrap.json`: whom to talk to before the ledger
//! itself says so, and what a founder proposes first. The file is written last: without it there is no voter.

use anshin_base::{LedgerEpoch, NodeId, Problem, VoterId};
use anshin_ledger::{
    Command, Engine, Settings,
    log::{Identity, Journal, Record},
    store::FileStore,
};
use anshin_link::SiteId;
use serde::{Deserialize, Serialize};
use std::{fs, io::Write, path::Path};

const FILE: &str = "bootstrap.json";
/// Code of problems that mean: the ledger of this node is gone or damaged, and the node can begin anew (R8).
pub const LOST: &str = "ledger-lost";

/// A voter that one who joins can learn from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its node.
    pub node: NodeId,
    /// The voter.
    pub voter: VoterId,
    /// `address:port` of its voter process, most preferred first.
    pub addresses: Vec<String>,
}

/// What a voter knows before it has a ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// The site.
    pub site: SiteId,
    /// This node.
    pub node: NodeId,
    /// Its voter.
    pub voter: VoterId,
    /// Whether it votes only: the last choice as leader.
    pub witness: bool,
    /// The voters there were.
    #[serde(default)]
    pub peers: Vec<Peer>,
    /// What the founder proposes while its ledger is empty (`InitSite`, `FirstNode`, …).
    #[serde(default)]
    pub first: Vec<Command>,
}

/// Prepares the first voter of a new site: node 1, voter 1, voting alone. Once it runs it proposes `first`.
/// Anything older in `directory` is replaced.
///
/// # Errors
/// If the files cannot be written.
pub fn found(directory: &Path, site: SiteId, first: Vec<Command>) -> Result<(), Problem> {
    let bootstrap =
        Bootstrap { site, node: NodeId(1), voter: VoterId(1), witness: false, peers: Vec::new(), first };
    bootstrap.create(directory, Engine::found(bootstrap.identity(LedgerEpoch(1)), Bootstrap::area_bytes()))
}

/// Prepares a voter that joins: it knows nothing and learns from `peers` once the ledger's leader has added it (the
/// leader does so by itself after `Command::Join`). Also for a node whose voter must rejoin under a new id (R8).
/// Anything older in `directory` is replaced.
///
/// # Errors
/// If the files cannot be written.
pub fn join(
    directory: &Path,
    site: SiteId,
    epoch: LedgerEpoch,
    (node, voter, witness): (NodeId, VoterId, bool),
    peers: Vec<Peer>,
) -> Result<(), Problem> {
    let bootstrap = Bootstrap { site, node, voter, witness, peers, first: Vec::new() };
    bootstrap.create(directory, Engine::join(bootstrap.identity(epoch), Bootstrap::area_bytes()))
}

/// Where a lost ledger's remains are kept for people, beside the voter's directory.
const REMAINS: &str = "voter.lost";
/// Where the new one is made.
const FRESH: &str = "voter.new";

/// Prepares a voter whose ledger is gone or damaged: it is silent under its former id, keeps the mesh alive, and waits
/// for a new id (R8). What is left of `directory` is put aside.
///
/// # Errors
/// If the files cannot be written.
pub fn lost(directory: &Path, voter: &Bootstrap, epoch: LedgerEpoch, why: &str) -> Result<(), Problem> {
    let (remains, fresh) = (directory.with_file_name(REMAINS), directory.with_file_name(FRESH));
    let failed = |error: std::io::Error| {
        Problem::new("voter-state", format!("cannot put {} aside: {error}", directory.display()))
    };
    // Beside it, so that an interruption leaves nothing that the next try would put aside in place of the remains.
    if fresh.exists() {
        fs::remove_dir_all(&fresh).map_err(failed)?;
    }
    let base = [Record::Identity(voter.identity(epoch)), Record::Silenced { why: why.to_owned() }];
    voter.create(&fresh, Journal::create(Bootstrap::area_bytes(), &base).map(|(_, ops)| ops))?;
    let exchange = || -> std::io::Result<()> {
        if directory.exists() {
            if remains.exists() {
                fs::remove_dir_all(&remains)?;
            }
            fs::rename(directory, &remains)?;
        }
        fs::rename(&fresh, directory)?;
        directory.parent().map_or(Ok(()), |parent| fs::File::open(parent)?.sync_all())
    };
    exchange().map_err(failed)
}

impl Bootstrap {
    /// The bootstrap in a voter's directory.
    ///
    /// # Errors
    /// If there is none or it cannot be read.
    pub fn load(directory: &Path) -> Result<Self, Problem> {
        let path = directory.join(FILE);
        let text = fs::read_to_string(&path).map_err(|error| {
            let code = if error.kind() == std::io::ErrorKind::NotFound { LOST } else { "voter-state" };
            Problem::new(code, format!("cannot read {}: {error}", path.display()))
                .hint("this node belongs to no site yet: `anshin init` or `anshin join`")
        })?;
        serde_json::from_str(&text)
            .map_err(|error| Problem::new(LOST, format!("{} is damaged: {error}", path.display())))
    }

    fn identity(&self, epoch: LedgerEpoch) -> Identity {
        Identity { site: site_number(self.site), node: self.node, voter: self.voter, epoch }
    }

    fn area_bytes() -> u64 {
        Settings::new(VoterId(0), LedgerEpoch(0), 1, false).area_bytes
    }

    fn create<E: std::fmt::Display>(
        &self,
        directory: &Path,
        ops: Result<Vec<anshin_ledger::log::DiskOp>, E>,
    ) -> Result<(), Problem> {
        let failed = |error: &dyn std::fmt::Display| {
            Problem::new("voter-state", format!("cannot make the ledger in {}: {error}", directory.display()))
        };
        let path = directory.join(FILE);
        // Without this file there is no voter; a crash from here on leaves none, not a mixture.
        if path.exists() {
            fs::remove_file(&path).map_err(|error| failed(&error))?;
        }
        let ops = ops.map_err(|error| failed(&error))?;
        FileStore::create(directory, Self::area_bytes(), &ops).map_err(|error| failed(&error))?;
        let text = serde_json::to_vec_pretty(self).map_err(|error| failed(&error))?;
        let beside = directory.join("bootstrap.json.new");
        let write = || -> std::io::Result<()> {
            let mut file = fs::File::create(&beside)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            fs::File::open(directory)?.sync_all()
        };
        write().map_err(|error| failed(&error))
    }
}

/// The site's id as the ledger keeps it.
#[must_use]
pub fn site_number(site: SiteId) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = site.0;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}
