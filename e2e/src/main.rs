//! `anshin-lab`: machines, faults, probers and checks from the command line.

mod arguments;

use anshin_e2e::error::{LabError, Result};
use anshin_e2e::lab::switch;
use anshin_e2e::lab::{Lab, forward, machine, node, up};
use anshin_e2e::probe::program::Program;
use anshin_e2e::probe::takeover;
use anshin_e2e::rng::Rng;
use anshin_e2e::{control, faultdisk, proxy, report, scenario, site};
use arguments::{Arguments, CheckArguments, Command, Direction, SiteArguments};
use clap::Parser;
use std::process::ExitCode;
use std::time::Duration;

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
        vault: true,
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
