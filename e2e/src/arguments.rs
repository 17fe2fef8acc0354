//! What can be typed.

use anshin_e2e::lab::switch::Way;
use anshin_e2e::probe::program::Program;
use clap::{Parser, Subcommand, ValueEnum};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Machines, faults, probers and checks.
#[derive(Parser)]
#[command(name = "anshin-lab", version)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

/// Where the lab lives.
#[derive(clap::Args, Clone)]
pub struct Place {
    /// Directory of the lab's state.
    #[arg(long, default_value = "/var/tmp/anshin-lab")]
    pub dir: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Direction {
    Out,
    In,
    Both,
}

impl From<Direction> for Way {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Out => Self::Out,
            Direction::In => Self::In,
            Direction::Both => Self::Both,
        }
    }
}

#[derive(Subcommand)]
pub enum Command {
    /// Build the machines, the switch between them and a client's place.
    Up {
        #[command(flatten)]
        place: Place,
        /// Names of the machines.
        #[arg(long, value_delimiter = ',', default_value = "a,b,c")]
        nodes: Vec<String>,
        /// Programs to put on every machine.
        #[arg(long = "bin")]
        programs: Vec<PathBuf>,
        /// What each machine keeps running; nothing by default.
        #[arg(long, value_delimiter = ' ', default_value = "")]
        run: Vec<String>,
        /// Add a second network (eth1, 10.78.0.0/24).
        #[arg(long)]
        data_link: bool,
    },
    /// Remove every trace of the lab.
    Down {
        #[command(flatten)]
        place: Place,
    },
    /// Kill a machine as a power cut would: cables first, then every process.
    Kill {
        #[command(flatten)]
        place: Place,
        node: String,
    },
    /// Switch a machine on again, with its cables plugged in.
    Start {
        #[command(flatten)]
        place: Place,
        node: String,
    },
    /// Unplug a machine, or let what it sends or gets vanish silently.
    Cut {
        #[command(flatten)]
        place: Place,
        node: String,
        /// Vanish silently in this direction instead of unplugging.
        #[arg(long)]
        silent: Option<Direction>,
    },
    /// Let frames between two machines vanish; everybody else still reaches both.
    CutPair {
        #[command(flatten)]
        place: Place,
        a: String,
        b: String,
        /// Only this direction, seen from the first.
        #[arg(long, default_value = "both")]
        way: Direction,
    },
    /// Undo the cuts of one machine, or all.
    Heal {
        #[command(flatten)]
        place: Place,
        node: Option<String>,
    },
    /// Stop every process of a machine where it stands.
    Freeze {
        #[command(flatten)]
        place: Place,
        node: String,
    },
    /// Let a frozen machine go on.
    Thaw {
        #[command(flatten)]
        place: Place,
        node: String,
    },
    /// Run a command inside a machine.
    Exec {
        #[command(flatten)]
        place: Place,
        node: String,
        #[arg(last = true, required = true)]
        words: Vec<String>,
    },
    /// Run a command in the client's place, on the network but outside every machine.
    Client {
        #[command(flatten)]
        place: Place,
        #[arg(last = true, required = true)]
        words: Vec<String>,
    },
    /// Publish a machine's port on 127.0.0.1.
    Forward {
        #[command(flatten)]
        place: Place,
        host_port: u16,
        node: String,
        port: u16,
    },
    /// Put another version of a program on a machine; what runs keeps the old one until restarted.
    Install {
        #[command(flatten)]
        place: Place,
        node: String,
        program: PathBuf,
    },
    /// Relay TCP over a line that misbehaves on command.
    Proxy {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        to: SocketAddr,
        /// Control socket; see `ctl`.
        #[arg(long)]
        control: PathBuf,
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Mount a directory as a disk with a volatile cache that fails on command.
    Faultdisk {
        /// Directory with the durable content.
        #[arg(long)]
        root: PathBuf,
        #[arg(long)]
        mount: PathBuf,
        /// Control socket; see `ctl`.
        #[arg(long)]
        control: PathBuf,
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Send one command to the control socket of a line or a disk.
    Ctl { socket: PathBuf, words: Vec<String> },
    /// Bring up a site with a protected service on machines of this one, or whatever of it is missing.
    Site(SiteArguments),
    /// Take a machine away and measure how long until another one holds an address; for comparisons.
    Takeover {
        #[command(flatten)]
        place: Place,
        /// The machine that holds the address now.
        node: String,
        address: IpAddr,
        /// Unplug it instead of killing it.
        #[arg(long)]
        cut: bool,
        /// Give up after this many seconds.
        #[arg(long, default_value_t = 60)]
        limit: u64,
    },
    /// Name the machine that holds an address.
    Holder {
        #[command(flatten)]
        place: Place,
        address: IpAddr,
    },
    /// Run checks, each on a lab of its own.
    Check(CheckArguments),
    /// List the checks, one per line: name, then what it shows.
    Checks,
    #[command(hide = true)]
    Hold,
    #[command(hide = true)]
    MachineKeep {
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        node: String,
    },
    #[command(hide = true)]
    MachineInit {
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        node: String,
    },
    #[command(hide = true)]
    ForwardServe {
        #[command(flatten)]
        place: Place,
        host_port: u16,
        node: String,
        port: u16,
    },
}

/// What the protected service runs.
#[derive(Clone, Copy, ValueEnum)]
pub enum Service {
    /// The built-in store of lines.
    Demo,
    /// Debian's PostgreSQL under its stock OCF agent.
    Postgresql,
}

impl From<Service> for Program {
    fn from(service: Service) -> Self {
        match service {
            Service::Demo => Self::Demo,
            Service::Postgresql => Self::Postgres,
        }
    }
}

#[derive(clap::Args)]
pub struct SiteArguments {
    #[command(flatten)]
    pub place: Place,
    /// The program under test.
    #[arg(long)]
    pub program: PathBuf,
    #[arg(long, default_value = "demo")]
    pub service: Service,
    /// Size of the volume.
    #[arg(long, default_value = "256M")]
    pub size: String,
    /// A copy of these files is put on the volume.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// First host port for the nodes' consoles.
    #[arg(long, default_value_t = 7880)]
    pub console: u16,
}

#[derive(clap::Args)]
pub struct CheckArguments {
    #[command(flatten)]
    pub place: Place,
    /// Names; all if none is given.
    pub names: Vec<String>,
    /// The program under test.
    #[arg(long)]
    pub program: PathBuf,
    /// A second build with a higher version, for the check of upgrades.
    #[arg(long)]
    pub next: Option<PathBuf>,
    /// How often to repeat; the check's own number if not given.
    #[arg(long)]
    pub rounds: Option<u32>,
    /// The full number of rounds.
    #[arg(long, conflicts_with = "rounds")]
    pub long: bool,
    #[arg(long)]
    pub service: Option<Service>,
    /// Where rows are appended.
    #[arg(long)]
    pub rows: Option<PathBuf>,
    /// Where the nodes' logs are kept after a failure.
    #[arg(long)]
    pub logs: Option<PathBuf>,
    /// Decides random moments; printed, so that a run can be repeated.
    #[arg(long)]
    pub seed: Option<u64>,
}
