//! What can be typed.

use super::director::args as director;
use super::keep::args as keep;
use crate::run::Process;
use anshin_base::{ByteSize, Problem};
use anshin_node::view::Role;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Servers that do not stop, data that does not vanish.
#[derive(Debug, Parser)]
#[command(
    name = "anshin",
    version = anshin_node::VERSION,
    propagate_version = true,
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = "Exit codes: 0 ok, 1 degraded, 2 error, 3 refused because data could be lost.\n\
        Environment: ANSHIN_API_SOCKET (another node's socket), ANSHIN_VAULT, ANSHIN_ROOT, NO_COLOR."
)]
pub struct Cli {
    /// Print JSON, as the API gives it
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a site with this machine as its first node
    Init(Init),
    /// Make this machine a node of a site
    Join(Join),
    /// Is it safe, and what would the next failure do?
    Status {
        /// Go on showing it until interrupted
        #[arg(long, short)]
        watch: bool,
    },
    /// Replicated volumes
    #[command(subcommand)]
    Volume(Volume),
    /// Keep a program running, with its data and its address
    Protect(Protect),
    /// What is kept running
    #[command(subcommand)]
    Service(Service),
    /// The site's servers
    #[command(subcommand)]
    Node(Node),
    /// The site as a whole
    #[command(subcommand)]
    Site(Site),
    /// Tokens with which nodes join
    #[command(subcommand)]
    Token(Token),
    /// Why a node, volume or service is as it is, or a limit that the status names
    Explain {
        /// Its name, or `fencing`
        subject: String,
    },
    /// Rehearse a failover
    Drill {
        /// Which service, if there are several
        #[arg(long)]
        service: Option<String>,
        /// Really move it, and measure
        #[arg(long)]
        failover: bool,
    },
    /// What is backed up, when, where to, kept how long
    #[command(subcommand)]
    Plan(director::Plan),
    /// Runs of plans
    #[command(subcommand)]
    Runs(director::Runs),
    /// The searchable record of runs, snapshots and files on this node
    #[command(subcommand)]
    Catalog(director::Catalog),
    /// Stores of backups, and their keys
    #[command(subcommand)]
    Vault(keep::Vault),
    /// Back up files, a device, or what a program prints
    Backup(keep::Backup),
    /// What was backed up: list, look into, compare, mount
    #[command(subcommand)]
    Snapshots(keep::Snapshots),
    /// Bring back what was backed up, all or a part
    Restore(keep::Restore),
    /// Forget snapshots, by name or by rules
    Forget(keep::Forget),
    /// Machines outside the site that back up into its vaults
    #[command(subcommand)]
    Client(keep::Client),
    /// The scheduler by itself
    #[command(subcommand)]
    Policy(Policy),
    /// Print the version
    Version,
    /// The processes of a node
    #[command(subcommand, hide = true)]
    Run(Process),
}

/// `anshin init`
#[derive(Debug, Args)]
pub struct Init {
    /// Name of the new site
    pub site: String,
    /// Name of this node; its host name if not given
    #[arg(long)]
    pub node: Option<String>,
    /// Address under which other nodes reach this one
    #[arg(long)]
    pub address: Option<String>,
}

/// `anshin join`
#[derive(Debug, Args)]
pub struct Join {
    /// As printed by `init` or `token create`
    pub token: String,
    /// What this node will be for: data, witness, vault, or several
    #[arg(long = "role", value_delimiter = ',', default_value = "data", value_parser = role)]
    pub roles: Vec<Role>,
    /// Name of this node; its host name if not given
    #[arg(long)]
    pub node: Option<String>,
    /// Address under which other nodes reach this one
    #[arg(long)]
    pub address: Option<String>,
}

fn role(text: &str) -> Result<Role, String> {
    match text {
        "data" => Ok(Role::Data),
        "witness" => Ok(Role::Witness),
        "vault" => Ok(Role::Vault),
        _ => Err("a role is data, witness or vault".to_owned()),
    }
}

/// `anshin volume`
#[derive(Debug, Subcommand)]
pub enum Volume {
    /// Make a volume
    Create {
        /// Its name
        name: String,
        /// Its size, for example 100G
        #[arg(long, value_parser = |text: &str| text.parse::<ByteSize>().map_err(|problem: Problem| problem.message))]
        size: ByteSize,
        /// Where to mount it on the primary; a bare device if not given
        #[arg(long)]
        mount: Option<String>,
        /// File system to make on it
        #[arg(long)]
        filesystem: Option<String>,
        /// Nodes that hold a copy; every data node if not given
        #[arg(long = "on", value_delimiter = ',')]
        nodes: Vec<String>,
    },
    /// Every volume and its copies
    List,
    /// One volume and its copies
    Show {
        /// Its name
        name: String,
    },
}

/// `anshin protect`
#[derive(Debug, Args)]
pub struct Protect {
    /// A systemd unit (NAME.service), an OCF agent (ocf:PROVIDER:TYPE), or, after `--`, a program's path with its
    /// arguments
    #[arg(required = true)]
    pub program: Vec<String>,
    /// A volume that it stands on
    #[arg(long = "volume", value_name = "VOLUME")]
    pub volumes: Vec<String>,
    /// Address under which it is reached, for example 10.0.0.50/24
    #[arg(long)]
    pub address: Option<String>,
    /// Name of the service; made from the program if not given
    #[arg(long)]
    pub name: Option<String>,
    /// Node on which it prefers to run
    #[arg(long)]
    pub prefer: Option<String>,
    /// A parameter of the OCF agent
    #[arg(long = "param", value_name = "NAME=VALUE")]
    pub parameters: Vec<String>,
}

/// `anshin service`
#[derive(Debug, Subcommand)]
pub enum Service {
    /// Every service
    List,
    /// One service and its parts
    Show {
        /// Its name
        name: String,
    },
    /// Move it to another node
    Move {
        /// Its name
        name: String,
        /// Where to; the best other node if not given
        #[arg(long)]
        to: Option<String>,
    },
    /// Let it run
    Start {
        /// Its name
        name: String,
    },
    /// Stop it, and keep it stopped
    Stop {
        /// Its name
        name: String,
    },
}

/// `anshin node`
#[derive(Debug, Subcommand)]
pub enum Node {
    /// Every node
    List,
    /// Run no services there: what runs there moves away
    Standby {
        /// Its name
        name: String,
    },
    /// Leave alone what runs there: nothing is started, stopped or recovered
    Maintenance {
        /// Its name
        name: String,
    },
    /// Back to normal
    Active {
        /// Its name
        name: String,
    },
}

/// `anshin site`
#[derive(Debug, Subcommand)]
pub enum Site {
    /// Show the times that the site runs by, or change them
    Timing {
        /// After how long a node or copy counts as silent, for example 2500ms
        #[arg(long, value_parser = milliseconds)]
        silence: Option<u64>,
        /// How long a lease lasts; only before the first volume is made
        #[arg(long, value_parser = milliseconds)]
        lease: Option<u64>,
        /// Between two signs of life
        #[arg(long, value_parser = milliseconds)]
        heartbeat: Option<u64>,
    },
}

/// A length of time in milliseconds from `2500ms`, `2500` or `2s`.
fn milliseconds(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is not a length of time: write for example 2500ms or 2s");
    let (number, factor) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 1),
        (None, Some(number)) => (number, 1_000),
        (None, None) => (text, 1),
    };
    let number: u64 = number.parse().map_err(|_| bad())?;
    number.checked_mul(factor).ok_or_else(bad)
}

/// `anshin token`
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token with which one node can join
    Create {
        /// For how long, for example 30m or 2h
        #[arg(long, value_parser = seconds)]
        valid: Option<u64>,
    },
    /// Tokens neither used nor expired
    List,
    /// Take a token back
    Revoke {
        /// Its id, as listed
        id: String,
    },
}

/// A length of time in seconds from `90s`, `30m`, `2h` or `1d`.
fn seconds(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is not a length of time: write for example 30m or 2h");
    let unit = text.chars().last().ok_or_else(bad)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(bad()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| bad())?;
    number.checked_mul(factor).ok_or_else(bad)
}

/// `anshin policy`
#[derive(Debug, Subcommand)]
pub enum Policy {
    /// What the scheduler would do with a Pacemaker configuration
    Simulate {
        /// The CIB, in XML
        file: PathBuf,
        /// The time to assume
        #[arg(long, short)]
        time: Option<String>,
    },
}
