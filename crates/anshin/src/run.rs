//! What runs on the node itself rather than through its API: the processes of a node, and the two commands that come
//! before there is any daemon.

use crate::processes;
use anshin_base::Problem;
use anshin_node::{
    paths::Paths,
    view::{InitDone, InitRequest, JoinDone, JoinRequest},
};
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
        /// The site's times
        #[command(flatten)]
        times: Times,
    },
    /// A vault, on the node that holds its store
    Vault {
        /// Its name
        name: String,
        /// Where it listens; the node's own port for it if not given
        #[arg(long)]
        listen: Option<SocketAddr>,
    },
    /// One attempt of a backup; the job on standard input
    Backup,
    /// One restore; the job on standard input
    Restore,
    /// The continuous archive of a service's log; the job on standard input
    Archive,
    /// Lets go of what keeps the log of a service that nobody archives any more; the job on standard input
    ArchiveEnd,
    /// A built-in plugin
    Plugin {
        /// Its name
        name: String,
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

/// The times of a volume's process; the daemon gives those that the ledger records.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Times {
    /// Between two signs of life
    #[arg(long, default_value_t = 100)]
    pub heartbeat_ms: u64,
    /// A copy that was not heard for this long is taken out
    #[arg(long, default_value_t = 1_000)]
    pub silence_ms: u64,
    /// How long a lease lasts
    #[arg(long, default_value_t = 900)]
    pub lease_ms: u64,
    /// By how much its grantor waits longer, in thousandths
    #[arg(long, default_value_t = 20)]
    pub drift_permille: u32,
}

/// Runs one of the node's processes until it ends.
///
/// # Errors
/// When it cannot start or ends badly.
pub fn process(process: &Process) -> Result<(), Problem> {
    match process {
        Process::Node => processes::node(),
        Process::Voter => processes::voter(),
        Process::Volume { name, port, times } => processes::volume(name, *port, times),
        Process::Vault { name, listen } => processes::vault(name, *listen),
        Process::Backup => processes::executor(anshin_node::backup::run_backup),
        Process::Restore => processes::executor(anshin_node::backup::run_restore),
        Process::Archive => processes::executor(anshin_node::backup::run_archive),
        Process::ArchiveEnd => processes::executor(anshin_node::backup::run_archive_end),
        Process::Plugin { name } => processes::plugin(name),
        Process::Guard => processes::guard(),
        Process::Demo { dir, listen } => processes::demo(dir, *listen),
    }
}

/// Makes a site with this machine as its first node.
///
/// # Errors
/// When the machine belongs to a site already, or cannot keep an identity.
pub fn init(request: InitRequest) -> Result<InitDone, Problem> {
    anshin_node::setup::init(&Paths::of_environment(), &request)
}

/// Makes this machine a node of the site that gave the token.
///
/// # Errors
/// When the site cannot be reached or refuses the token.
pub fn join(request: JoinRequest) -> Result<JoinDone, Problem> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Problem::new("join-start", error.to_string()))?;
    runtime.block_on(anshin_node::setup::join(&Paths::of_environment(), &request))
}
