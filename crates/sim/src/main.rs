//! `anshin-sim`: runs seeds of the simulated cluster and proves that it finds bugs.

#![allow(clippy::print_stdout, reason = "a command-line tool")]

use anshin_sim::{
    progress::{Progress, Total},
    prove, run,
    scenario::{BugSet, SCENARIOS, Scenario},
};
use std::{
    ops::Range,
    path::PathBuf,
    process::ExitCode,
    sync::Mutex,
    time::{Duration, Instant},
};

const HELP: &str = "anshin-sim run --seeds A..B [--scenario NAME] [--budget SECONDS] [--bug NAME] [--twice N] [--threads N] [--keep-going] [--trace] [--progress FILE]
    without --scenario the seeds take turns over all of them; --budget stops after that time and tells how many were done;
    --progress keeps in FILE what was done, and the same build asked for the same goes on from there
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
    progress: Option<PathBuf>,
}

/// Seeds that are taken, and noted as done, together.
const PIECE_MAX: u64 = 100;

impl Options {
    /// What distinguishes one run's seeds from those of another.
    fn plan(&self) -> String {
        let scenario = self.scenario.map_or("all", |scenario| scenario.name);
        let bug = self.bug.as_deref().unwrap_or("none");
        format!("scenario {scenario} bug {bug} from {} twice {}", self.from, self.twice)
    }

    /// Small enough that every thread has work to the end.
    fn piece(&self) -> u64 {
        (self.to.saturating_sub(self.from) / (self.threads as u64 * 16)).clamp(1, PIECE_MAX)
    }

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
        to: 5_000,
        twice: 0,
        threads,
        scenario: None,
        bug: None,
        trace: false,
        keep_going: false,
        budget: None,
        progress: None,
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
            "--progress" => options.progress = Some(value()?.into()),
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
    let progress = match &options.progress {
        Some(path) => Progress::open(path, &options.plan()),
        None => Ok(Progress::default()),
    };
    let progress = match progress {
        Ok(progress) => progress,
        Err(error) => {
            println!("the progress cannot be kept: {error}");
            return ExitCode::from(2);
        }
    };
    let mut left = progress.left(options.from..options.to, options.piece());
    left.reverse();
    let campaign = Campaign {
        options,
        bugs,
        begun: Instant::now(),
        left: Mutex::new(left),
        done: Mutex::new((Total::default(), progress)),
    };
    std::thread::scope(|threads| {
        for _ in 0..options.threads {
            threads.spawn(|| campaign.worker());
        }
    });
    campaign.summary()
}

/// A run of many seeds by several threads.
struct Campaign<'a> {
    options: &'a Options,
    bugs: BugSet,
    begun: Instant,
    /// What is not taken yet, the next last.
    left: Mutex<Vec<Range<u64>>>,
    done: Mutex<(Total, Progress)>,
}

impl Campaign<'_> {
    fn worker(&self) {
        while self.options.budget.is_none_or(|budget| self.begun.elapsed() < budget) {
            let Some(range) = self.left.lock().ok().and_then(|mut left| left.pop()) else { return };
            let mut total = Total::default();
            for seed in range.clone() {
                self.seed(seed, &mut total);
                if total.violations > 0 && !self.options.keep_going {
                    if let Ok(mut left) = self.left.lock() {
                        left.clear();
                    }
                    break;
                }
            }
            let Ok(mut done) = self.done.lock() else { return };
            done.0.add(&total);
            if total.violations == 0
                && let Err(error) = done.1.done(&range, &total)
            {
                println!("the progress cannot be kept: {error}");
            }
        }
    }

    fn seed(&self, seed: u64, total: &mut Total) {
        let options = self.options;
        let scenario = Scenario { bugs: self.bugs, ..options.scenario_of(seed) };
        let report = run::seed(seed, scenario, options.trace);
        let twice = seed - options.from < options.twice;
        let same = !twice || run::seed(seed, scenario, false).hash == report.hash;
        total.seeds += 1;
        total.twice += u64::from(twice);
        total.simulated += u128::from(report.simulated);
        for (what, count) in report.counts {
            *total.counts.entry(what.to_owned()).or_insert(0) += count;
        }
        for line in &report.lines {
            println!("{line}");
        }
        if report.violations.is_empty() && same {
            return;
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
    }

    fn summary(self) -> ExitCode {
        let options = self.options;
        let (now, progress) = self.done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let seconds = self.begun.elapsed().as_secs_f64();
        let mut total = progress.earlier;
        let earlier = match total.seeds {
            0 => String::new(),
            seeds => format!("{seeds} of them earlier, "),
        };
        total.add(&now);
        println!(
            "scenario {}: {} of {} seeds ({earlier}{} twice) in {seconds:.1} s = {:.0} seeds/s, {:.2} cluster-hours, {} violations",
            options.scenario.map_or("all", |scenario| scenario.name),
            total.seeds,
            options.to.saturating_sub(options.from),
            total.twice,
            now.seeds as f64 / seconds,
            total.simulated as f64 / 3.6e12,
            total.violations
        );
        for (what, count) in &total.counts {
            println!("  {what}: {count}");
        }
        if total.violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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
