//! `anshin-lab`: machines, faults, probers and checks from the command line.

use anshin_e2e::error::{LabError, Result};
use anshin_e2e::lab::switch::{self, Way};
use anshin_e2e::lab::{Lab, forward, machine, node, up};
use anshin_e2e::probe::program::Program;
use anshin_e2e::probe::takeover;
use anshin_e2e::rng::Rng;
use anshin_e2e::{control, faultdisk, proxy, report, scenario, site};
use clap::{Parser, Subcommand, ValueEnum};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Machines, faults, probers and checks.
#[derive(Parser)]
#[command(name = "anshin-lab", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// Where the lab lives.
#[derive(clap::Args, Clone)]
struct Place {
    /// Directory of the lab's state.
    #[arg(long, default_value = "/var/tmp/anshin-lab")]
    dir: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Direction {
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
enum Command {
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
enum Service {
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
struct SiteArguments {
    #[command(flatten)]
    place: Place,
    /// The program under test.
    #[arg(long)]
    program: PathBuf,
    #[arg(long, default_value = "demo")]
    service: Service,
    /// Size of the volume.
    #[arg(long, default_value = "256M")]
    size: String,
    /// A copy of these files is put on the volume.
    #[arg(long)]
    data: Option<PathBuf>,
    /// First host port for the nodes' consoles.
    #[arg(long, default_value_t = 7880)]
    console: u16,
}

#[derive(clap::Args)]
struct CheckArguments {
    #[command(flatten)]
    place: Place,
    /// Names; all if none is given.
    names: Vec<String>,
    /// The program under test.
    #[arg(long)]
    program: PathBuf,
    /// A second build with a higher version, for the check of upgrades.
    #[arg(long)]
    next: Option<PathBuf>,
    /// How often to repeat; the check's own number if not given.
    #[arg(long)]
    rounds: Option<u32>,
    /// The full number of rounds.
    #[arg(long, conflicts_with = "rounds")]
    long: bool,
    #[arg(long)]
    service: Option<Service>,
    /// Where rows are appended.
    #[arg(long)]
    rows: Option<PathBuf>,
    /// Where the nodes' logs are kept after a failure.
    #[arg(long)]
    logs: Option<PathBuf>,
    /// Decides random moments; printed, so that a run can be repeated.
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(LabError::Missing(what)) => {
            eprintln!("anshin-lab: {what}");
            ExitCode::from(77)
        }
        Err(error) => {
            eprintln!("anshin-lab: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Up { place, nodes, programs, run, data_link } => {
            let run = run.into_iter().filter(|word| !word.is_empty()).collect();
            up::up(&Lab::at(&place.dir)?, &up::Plan { nodes, programs, run, data_link })?;
        }
        Command::Down { place } => up::down(&place.dir)?,
        Command::Kill { place, node } => drop(node::kill(&Lab::existing(&place.dir)?, &node)?),
        Command::Start { place, node } => {
            let lab = Lab::existing(&place.dir)?;
            node::start(&lab, &node)?;
            switch::cut(&lab, &node, false)?;
        }
        Command::Cut { place, node, silent } => cut(&Lab::existing(&place.dir)?, &node, silent)?,
        Command::CutPair { place, a, b, way } => {
            switch::block(&Lab::existing(&place.dir)?, &switch::pair(&a, &b, way.into()), true)?;
        }
        Command::Heal { place, node } => match node {
            Some(node) => switch::cut(&Lab::existing(&place.dir)?, &node, false)?,
            None => switch::heal_all(&Lab::existing(&place.dir)?)?,
        },
        Command::Freeze { place, node } => node::freeze(&Lab::existing(&place.dir)?, &node)?,
        Command::Thaw { place, node } => node::thaw(&Lab::existing(&place.dir)?, &node)?,
        Command::Exec { place, node, words } => {
            return Ok(code_of(node::exec(&Lab::existing(&place.dir)?, &node, &words)?));
        }
        Command::Client { place, words } => {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let status = node::client_command(&Lab::existing(&place.dir)?, &words)?.status();
            return Ok(code_of(anshin_e2e::error::Context::at(status, words.join(" "))?));
        }
        Command::Forward { place, host_port, node, port } => {
            forward::start(&Lab::existing(&place.dir)?, host_port, &node, port)?;
        }
        Command::Install { place, node, program } => {
            node::install(&Lab::existing(&place.dir)?, &node, &program)?;
        }
        Command::Proxy { listen, to, control, seed } => {
            let seed = seed.unwrap_or_else(Rng::fresh_seed);
            println!("listening on {}, seed {seed}", proxy::serve(listen, to, &control, seed)?);
            loop {
                std::thread::park();
            }
        }
        Command::Faultdisk { root, mount, control, seed } => {
            let seed = seed.unwrap_or_else(Rng::fresh_seed);
            println!("seed {seed}");
            faultdisk::fs::serve(&root, &mount, &control, seed)?;
        }
        Command::Ctl { socket, words } => println!("{}", control::ask(&socket, &words.join(" "))?),
        Command::Takeover { place, node, address, cut, limit } => {
            let limit = Duration::from_secs(limit);
            let (alone, both) = takeover::measure(&Lab::existing(&place.dir)?, &node, address, cut, limit)?;
            println!("address_ms={:.0} both_ms={:.0}", report::ms(alone), report::ms(both));
        }
        Command::Holder { place, address } => {
            println!("{}", takeover::holder(&Lab::existing(&place.dir)?, address)?);
        }
        Command::Site(arguments) => bring_up(&arguments)?,
        Command::Check(arguments) => return check(&arguments),
        Command::Checks => {
            for check in scenario::CHECKS {
                println!("{}\t{}", check.name, check.shows);
            }
        }
        Command::Hold => machine::hold()?,
        Command::MachineKeep { place, node } => machine::keep(&place.dir, &node)?,
        Command::MachineInit { place, node } => machine::init(&place.dir, &node)?,
        Command::ForwardServe { place, host_port, node, port } => {
            forward::serve(&Lab::existing(&place.dir)?, host_port, &node, port)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn cut(lab: &Lab, node: &str, silent: Option<Direction>) -> Result<()> {
    match silent {
        None => switch::cut(lab, node, true),
        Some(way) => switch::block(lab, &switch::isolation(&lab.load()?, node, way.into())?, true),
    }
}

fn bring_up(arguments: &SiteArguments) -> Result<()> {
    let lab = Lab::at(&arguments.place.dir)?;
    let options = site::Options {
        program: arguments.program.clone(),
        service: arguments.service.into(),
        size: arguments.size.clone(),
        nodes: ["a", "b", "c"].map(str::to_owned).to_vec(),
        data: arguments.data.clone(),
        progress: |step| println!("  {step}"),
    };
    let site = site::bring_up(&lab, &options)?;
    let published = lab.load()?.forwards;
    for (node, port) in site.nodes().iter().zip(arguments.console..) {
        let lives = |old: &anshin_e2e::lab::state::Forward| {
            old.host_port == port && old.process.is_some_and(|process| process.alive())
        };
        if !published.iter().any(lives) {
            forward::start(&lab, port, node, CONSOLE)?;
        }
    }
    println!("{}", site.leading_status()?.sentence());
    Ok(())
}

/// Port of a node's console on its own loopback.
const CONSOLE: u16 = 7880;

/// Runs checks; the exit code is that of the worst: failed, then skipped (77), then passed.
fn check(arguments: &CheckArguments) -> Result<ExitCode> {
    let chosen: Vec<&scenario::Check> = match arguments.names.as_slice() {
        [] => scenario::CHECKS.iter().collect(),
        names => names.iter().map(|name| scenario::find(name)).collect::<Result<_>>()?,
    };
    let (mut failed, mut skipped) = (0, 0);
    for check in &chosen {
        let settings = scenario::Settings {
            program: arguments.program.clone(),
            next_program: arguments.next.clone(),
            rounds: arguments.rounds.or(arguments.long.then_some(check.rounds_long)),
            service: arguments.service.map(Program::from),
            rows: arguments.rows.clone(),
            logs: arguments.logs.clone(),
            seed: arguments.seed.unwrap_or_else(Rng::fresh_seed),
        };
        match scenario::run(check, &arguments.place.dir, &settings) {
            Ok(()) => {}
            Err(LabError::Missing(_)) => skipped += 1,
            Err(_) => failed += 1,
        }
    }
    if chosen.len() > 1 {
        println!("{} passed, {failed} failed, {skipped} skipped", chosen.len() - failed - skipped);
    }
    Ok(match (failed, skipped) {
        (0, 0) => ExitCode::SUCCESS,
        (0, _) => ExitCode::from(77),
        _ => ExitCode::FAILURE,
    })
}

/// A command's exit code becomes ours; death by a signal is reported as shells do.
fn code_of(status: std::process::ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
