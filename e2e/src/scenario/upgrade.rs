//! The control daemon is restarted or replaced under verified load.

use super::stage::{PATIENCE, Stage};
use crate::error::{Context, LabError, Result, refuse};
use crate::lab::node;
use crate::report::ms;
use rustix::process::Signal;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long the load runs around a restart, in seconds.
const LOAD_S: u32 = 12;

/// Starts fio with verification on the mounted volume.
fn load(stage: &Stage, active: &str) -> Result<Child> {
    if Command::new("fio").arg("--version").stdout(Stdio::null()).status().is_err() {
        return Err(LabError::Missing("the package fio is not installed".to_owned()));
    }
    let seconds = format!("--runtime={LOAD_S}");
    let words = [
        "fio",
        "--name=load",
        "--filename=/srv/data/load",
        "--size=16m",
        "--bs=4k",
        "--rw=randwrite",
        "--direct=1",
        "--ioengine=libaio",
        "--iodepth=8",
        "--verify=crc32c",
        "--verify_backlog=256",
        "--time_based",
        &seconds,
    ];
    let mut command = node::command(&stage.lab, active, &words)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().at("fio")
}

/// Ends the daemon of every node in turn; process 1 starts it again, from whatever program lies there then.
fn restart_daemons(stage: &Stage) -> Result<()> {
    for name in stage.site.nodes() {
        let daemons = node::processes(&stage.lab, name, &["run", "node"])?;
        if daemons.is_empty() {
            return refuse(format!("{name} has no control daemon"));
        }
        daemons.iter().for_each(|daemon| daemon.signal(Signal::TERM));
        thread::sleep(Duration::from_secs(2));
    }
    Ok(())
}

fn under_load(stage: &mut Stage, name: &str, change: impl FnOnce(&Stage) -> Result<()>) -> Result<()> {
    let active = stage.site.active()?;
    let client = stage.client(name);
    client.wait_after(Instant::now(), PATIENCE)?;
    let fio = load(stage, &active)?;
    thread::sleep(Duration::from_secs(1));
    let start = Instant::now();
    change(stage)?;
    let output = fio.wait_with_output().at("fio")?;
    if !output.status.success() {
        return refuse(format!("I/O failed: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    client.wait_after(Instant::now(), PATIENCE)?;
    let pause = client.longest_pause(start);
    stage.site.wait_protected(PATIENCE)?;
    if stage.site.active()? != active {
        return refuse("the restart of daemons moved the service");
    }
    node::output(&stage.lab, &active, &["rm", "/srv/data/load"])?;
    stage.done(client);
    stage.rows_are_there()?;
    stage.report.row(&[("longest_pause_ms", ms(pause))]);
    Ok(())
}

/// Every daemon is restarted in turn.
pub fn restart(stage: &mut Stage) -> Result<()> {
    (1..=stage.rounds).try_for_each(|round| under_load(stage, &format!("restart{round}"), restart_daemons))
}

/// Every node gets another build, and its daemon is restarted on it.
pub fn upgrade(stage: &mut Stage) -> Result<()> {
    let Some(next) = stage.settings.next_program.clone() else {
        return Err(LabError::Missing("no second build was given (--next)".to_owned()));
    };
    for round in 1..=stage.rounds {
        under_load(stage, &format!("upgrade{round}"), |stage| {
            for name in stage.site.nodes() {
                node::install(&stage.lab, name, &next)?;
            }
            restart_daemons(stage)
        })?;
    }
    let version = stage.site.must("a", &["--version"])?;
    stage.report.say(&format!("now runs {}", version.trim()));
    Ok(())
}
