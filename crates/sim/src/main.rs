//! `anshin-sim`: runs seeds of the simulated cluster and proves that it finds bugs.

#![allow(clippy::print_stdout, reason = "a command-line tool")]

use anshin_sim::{
    prove, run,
    scenario::{BugSet, SCENARIOS, Scenario},
};
use std::{
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

const HELP: &str = "anshin-sim run --seeds A..B [--scenario NAME] [--budget SECONDS] [--bug NAME] [--twice N] [--threads N] [--keep-going] [--trace]
    without --scenario the seeds take turns over all of them; --budget stops after that time and tells how many were done
anshin-sim prove [--seeds N] [--threads N]
anshin-sim list";

struct Options {
    from: u64,
    to: u64,
    twice: u64,
    threads: usize,
    scenario: Option<Scenario>,
    bug: Option<String>,
    trace: bool,
    keep_going: bool,
    budget: Option<Duration>,
}

impl Options {
    /// What a seed is run in: the scenario asked for, or each in its turn.
    fn scenario_of(&self, seed: u64) -> Scenario {
        let turn = usize::try_from(seed % SCENARIOS.len() as u64).unwrap_or_default();
        self.scenario.unwrap_or(SCENARIOS[turn])
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) =
        arguments.split_first().map_or(("help", &arguments[..]), |(first, rest)| (first, rest));
    let options = match parse(rest) {
        Ok(options) => options,
        Err(why) => {
            println!("{why}\n{HELP}");
            return ExitCode::from(2);
        }
    };
    // A panic of a core is reported as the violation that it is.
    std::panic::set_hook(Box::new(|_| {}));
    match command {
        "run" => run_all(&options),
        "prove" => prove_all(&options),
        "list" => {
            println!("scenarios: {}", SCENARIOS.map(|scenario| scenario.name).join(" "));
            println!("bugs: {}", prove::BUGS.map(|bug| bug.name).join(" "));
            ExitCode::SUCCESS
        }
        _ => {
            println!("{HELP}");
            ExitCode::from(2)
        }
    }
}

fn parse(arguments: &[String]) -> Result<Options, String> {
    let threads = std::thread::available_parallelism().map_or(1, Into::into);
    let mut options = Options {
        from: 0,
        to: 1_000,
        twice: 0,
        threads,
        scenario: None,
        bug: None,
        trace: false,
        keep_going: false,
        budget: None,
    };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{argument} needs a value"));
        let number = |text: &str| text.parse::<u64>().map_err(|_| format!("`{text}` is not a number"));
        match argument.as_str() {
            "--seeds" => {
                let text = value()?;
                (options.from, options.to) = match text.split_once("..") {
                    Some((from, to)) => (number(from)?, number(to)?),
                    None => (0, number(text)?),
                };
            }
            "--seed" => {
                options.from = number(value()?)?;
                options.to = options.from + 1;
            }
            "--twice" => options.twice = number(value()?)?,
            "--budget" => options.budget = Some(Duration::from_secs(number(value()?)?)),
            "--threads" => options.threads = number(value()?)?.clamp(1, 256) as usize,
            "--scenario" => {
                let name = value()?;
                let known = Scenario::named(name).ok_or_else(|| format!("there is no scenario `{name}`"))?;
                options.scenario = Some(known);
            }
            "--bug" => options.bug = Some(value()?.clone()),
            "--trace" => options.trace = true,
            "--keep-going" => options.keep_going = true,
            other => return Err(format!("unknown option {other}")),
        }
    }
    Ok(options)
}

fn run_all(options: &Options) -> ExitCode {
    let mut bugs = BugSet::default();
    if let Some(name) = &options.bug {
        let Some(bug) = prove::bug(name) else {
            println!("there is no bug `{name}`; see anshin-sim list");
            return ExitCode::from(2);
        };
        bugs = bug.set();
    }
    let begun = Instant::now();
    let next = AtomicU64::new(options.from);
    let total = Mutex::new(Total::default());
    std::thread::scope(|threads| {
        for _ in 0..options.threads {
            threads.spawn(|| worker(options, bugs, begun, &next, &total));
        }
    });
    let total = total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let seconds = begun.elapsed().as_secs_f64();
    let hours = total.simulated as f64 / 3.6e12;
    println!(
        "scenario {}: {} of {} seeds ({} twice) in {seconds:.1} s = {:.0} seeds/s, {hours:.2} cluster-hours, {} violations",
        options.scenario.map_or("all", |scenario| scenario.name),
        total.seeds,
        options.to.saturating_sub(options.from),
        total.twice,
        total.seeds as f64 / seconds,
        total.violations
    );
    for (what, count) in &total.counts {
        println!("  {what}: {count}");
    }
    if total.violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[derive(Default)]
struct Total {
    seeds: u64,
    twice: u64,
    simulated: u128,
    violations: u64,
    counts: std::collections::BTreeMap<&'static str, u64>,
}

fn worker(options: &Options, bugs: BugSet, begun: Instant, next: &AtomicU64, total: &Mutex<Total>) {
    loop {
        if options.budget.is_some_and(|budget| begun.elapsed() >= budget) {
            return;
        }
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= options.to {
            return;
        }
        let scenario = Scenario { bugs, ..options.scenario_of(seed) };
        let report = run::seed(seed, scenario, options.trace);
        let twice = seed - options.from < options.twice;
        let same = !twice || run::seed(seed, scenario, false).hash == report.hash;
        let Ok(mut total) = total.lock() else { return };
        total.seeds += 1;
        total.twice += u64::from(twice);
        total.simulated += u128::from(report.simulated);
        for (what, count) in report.counts {
            *total.counts.entry(what).or_insert(0) += count;
        }
        for line in &report.lines {
            println!("{line}");
        }
        if report.violations.is_empty() && same {
            continue;
        }
        total.violations += 1;
        if !same {
            println!("seed {seed}: two runs differ");
        }
        if let Some(first) = report.violations.first() {
            println!("seed {seed}: {first}");
        }
        let bug = options.bug.as_ref().map_or(String::new(), |bug| format!(" --bug {bug}"));
        println!("  reproduce: anshin-sim run --scenario {} --seed {seed}{bug} --trace", scenario.name);
        if !options.keep_going {
            next.store(u64::MAX / 2, Ordering::Relaxed);
        }
    }
}

fn prove_all(options: &Options) -> ExitCode {
    let mut missed = 0;
    for bug in prove::BUGS {
        let begun = Instant::now();
        match prove::find(&bug, options.from, options.to, options.threads) {
            Some(found) => println!(
                "{:<28} found by seed {} of {} in {:.1} s: {}",
                bug.name,
                found.seed,
                bug.scenario,
                begun.elapsed().as_secs_f64(),
                found.violation
            ),
            None => {
                missed += 1;
                println!(
                    "{:<28} NOT FOUND in seeds {}..{} of {}",
                    bug.name, options.from, options.to, bug.scenario
                );
            }
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
