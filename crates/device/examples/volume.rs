//! Runs single volumes without the rest of a site, for tests and measurements.
//!
//! ```text
//! volume create DIRECTORY SIZE [GROUP]
//! volume run NAME DIRECTORY RUN [--no-device] [--listen ADDRESS --identity DIRECTORY --voter SOCKET]
//! volume ask RUN NAME status|demote|fail-suspended|teardown|quiesce|resume|stop|subscribe
//! ```

use anshin_base::{ByteSize, GroupId, Problem};
use anshin_device::{Create, HOT_EXTENTS, Ledger, Network, Options, Times, control};
use std::{io::Write, path::PathBuf, process::ExitCode, str::FromStr};

fn usage() -> Problem {
    Problem::new(
        "usage",
        "volume create DIRECTORY SIZE [GROUP] | run NAME DIRECTORY RUN [options] | ask RUN NAME REQUEST",
    )
}

fn main() -> ExitCode {
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["create", directory, size, rest @ ..] => make(directory, size, rest.first().copied()),
        ["run", name, directory, run, rest @ ..] => {
            options(name, directory, run, rest).and_then(anshin_device::run)
        }
        ["ask", run, name, request] => ask(run, name, request),
        _ => Err(usage()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            let _ = writeln!(std::io::stderr(), "error: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn say(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn make(directory: &str, size: &str, group: Option<&str>) -> Result<(), Problem> {
    let group = GroupId(group.map_or(Ok(1), u64::from_str).map_err(|_| usage())?);
    let bytes = ByteSize::from_str(size)?;
    let what = Create { bytes, group, hot_extents: HOT_EXTENTS, preallocate: true };
    say(anshin_device::create(directory.as_ref(), &what)?.0);
    Ok(())
}

fn options(name: &str, directory: &str, run: &str, rest: &[&str]) -> Result<Options, Problem> {
    let value =
        |key: &str| rest.iter().position(|word| *word == key).and_then(|at| rest.get(at + 1)).copied();
    let network = match (value("--listen"), value("--identity")) {
        (Some(listen), Some(identity)) => {
            Some(Network { listen: listen.parse().map_err(|_| usage())?, identity: identity.into() })
        }
        _ => None,
    };
    Ok(Options {
        name: name.into(),
        directory: directory.into(),
        run: run.into(),
        devices: PathBuf::from(run).join("dev"),
        network,
        ledger: value("--voter").map_or(Ledger::Standalone, |path| Ledger::Voter(path.into())),
        block_device: !rest.contains(&"--no-device"),
        protect_memory: true,
        times: Times::default(),
        hot_extents: HOT_EXTENTS,
    })
}

fn ask(run: &str, name: &str, request: &str) -> Result<(), Problem> {
    let path = PathBuf::from(run).join(format!("volume-{name}.ctl"));
    let request = serde_json::from_value(serde_json::json!({ "request": request })).map_err(|_| usage())?;
    let mut client = control::Client::connect(&path, None)?;
    if request == control::Request::Subscribe {
        for event in client.subscribe()? {
            say(serde_json::to_string(&event?).map_err(|error| Problem::new("json", error.to_string()))?);
        }
        return Ok(());
    }
    let reply = client.ask(request)?;
    say(serde_json::to_string_pretty(&reply).map_err(|error| Problem::new("json", error.to_string()))?);
    Ok(())
}
