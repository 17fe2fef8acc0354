//! What runs on the node itself rather than through its API: the processes of a node, and the two commands that come
//! before there is any daemon.

use anshin_base::Problem;
use anshin_node::view::{InitDone, InitRequest, JoinDone, JoinRequest};
use clap::Subcommand;
use std::{net::SocketAddr, path::PathBuf};

/// The processes of a node.
#[derive(Debug, Subcommand)]
pub enum Process {
    /// The control daemon
    Node,
    /// The ledger's voter and the mesh
    Voter,
    /// One volume's replica
    Volume {
        /// Name of the volume
        name: String,
        /// Port of its data link
        #[arg(long)]
        port: u16,
    },
    /// The holder of service addresses
    Guard,
    /// The small service that `./try` protects
    Demo {
        /// Where it keeps its data
        #[arg(long)]
        dir: PathBuf,
        /// Where it listens
        #[arg(long)]
        listen: SocketAddr,
    },
}

fn not_in_this_build(what: &str) -> Problem {
    Problem::new("not-in-build", format!("{what} is not available in this build"))
        .hint("use a build that contains the whole node")
}

/// Runs one of the node's processes until it ends.
///
/// # Errors
/// When it cannot start or ends badly.
pub fn process(process: &Process) -> Result<(), Problem> {
    let name = match process {
        Process::Node => "the control daemon",
        Process::Voter => "the voter process",
        Process::Volume { .. } => "the volume process",
        Process::Guard => "the guard process",
        Process::Demo { .. } => "the demo service",
    };
    Err(not_in_this_build(name))
}

/// Makes a site with this machine as its first node.
///
/// # Errors
/// When the machine belongs to a site already, or cannot keep an identity.
pub fn init(_request: InitRequest) -> Result<InitDone, Problem> {
    Err(not_in_this_build("making a site"))
}

/// Makes this machine a node of the site that gave the token.
///
/// # Errors
/// When the site cannot be reached or refuses the token.
pub fn join(_request: JoinRequest) -> Result<JoinDone, Problem> {
    Err(not_in_this_build("joining a site"))
}
