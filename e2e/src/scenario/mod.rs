//! The checks: what a site must show with the real program on a lab's machines.

mod backups;
mod crash;
mod cuts;
mod deaths;
mod disks;
mod failover;
mod instant;
mod old_image;
mod old_voter;
mod stage;
mod strangers;
mod timing;
mod tools;
mod upgrade;

pub use stage::{Settings, Stage};

use crate::error::{LabError, Result, refuse};
use crate::lab::{Lab, up};
use crate::probe::program::Program;
use std::path::Path;
use std::time::Instant;

/// One check.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// What it shows, one sentence.
    pub shows: &'static str,
    /// Rounds that fit a quick run.
    pub rounds: u32,
    /// Rounds of the full size.
    pub rounds_long: u32,
    /// What the service runs unless told otherwise.
    pub service: Program,
    run: fn(&mut Stage) -> Result<()>,
}

macro_rules! checks {
    ($($name:literal, $rounds:literal, $long:literal, $service:ident, $run:path, $shows:literal;)*) => {
        /// Every check, in the order in which they run.
        pub const CHECKS: &[Check] = &[$(Check {
            name: $name, shows: $shows, rounds: $rounds, rounds_long: $long, service: Program::$service, run: $run,
        }),*];
    };
}

checks! {
    "failover-kill", 2, 10, Postgres, failover::kill,
        "the active server dies: the service answers from the other one with every acknowledged row";
    "return-resync", 1, 5, Demo, failover::return_resync,
        "a dead server comes back: it fetches only what it may lack, both copies are equal, it can take over";
    "planned-move", 2, 10, Demo, failover::planned_move,
        "a move under load: a client that reconnects sees no error and loses no row";
    "cut", 2, 10, Demo, cuts::unplugged,
        "the active server is unplugged: it lets go of address and writes before the other takes over, and heals alone";
    "cut-oneway", 1, 5, Demo, cuts::one_way,
        "everything that the active server sends, or gets, vanishes: never two writers or two addresses";
    "cut-pair", 1, 5, Demo, cuts::pair,
        "the two data servers lose only each other: the service stays where it is";
    "freeze", 1, 5, Demo, cuts::freeze,
        "a server stands still for ten seconds: never two writers";
    "witness-dies", 1, 5, Demo, deaths::witness,
        "the witness dies: everything goes on and the status says what the next failure would do";
    "secondary-then-witness", 1, 5, Demo, deaths::secondary_then_witness,
        "first the copy, then the witness: the primary goes on alone and says so";
    "both-die", 1, 5, Demo, deaths::both,
        "copy and witness die at once: the survivor suspends, says why, and goes on when one returns";
    "total-restart", 1, 6, Demo, deaths::total_restart,
        "all servers die and return in any order: the site recovers alone";
    "total-restart-faultdisk", 2, 20, Demo, deaths::total_restart_faultdisk,
        "the same on disks that lose, tear and reorder what was not flushed";
    "disk-faultdisk", 1, 5, Demo, disks::run,
        "the disk under one copy fails: the service goes on with the other copy, and heals alone";
    "disk-hang-faultdisk", 1, 5, Demo, disks::hang,
        "the disk under one server neither answers nor fails: the other goes on, no status claims too much, it heals alone";
    "old-image", 1, 3, Demo, old_image::run,
        "a copy replaced by yesterday's is never promoted, compared in full and reported";
    "old-voter", 1, 5, Demo, old_voter::run,
        "a voter whose ledger was replaced by an earlier copy, or is gone, is expelled, rejoins alone and votes again";
    "timing", 1, 3, Demo, timing::run,
        "a longer silence in the ledger makes a failover longer by that; unsafe times are refused";
    "memory", 1, 3, Demo, crash::memory,
        "memory full of dirty pages, then the peer dies: the volume goes on";
    "fs-crash", 3, 100, Demo, crash::file_system,
        "crashes at random moments under load: the file system is clean after its journal, the data intact";
    "daemon-restart", 2, 10, Demo, upgrade::restart,
        "the control daemon is restarted under load: not one I/O error";
    "upgrade", 1, 3, Demo, upgrade::upgrade,
        "the program is replaced by another build under load: not one I/O error";
    "backup-restore", 1, 3, Demo, backups::restore,
        "what was deleted comes back; a rehearsal finds a backup that was secretly damaged";
    "backup-kill", 1, 5, Demo, backups::kill,
        "the server that runs a backup dies: the other one finishes the run, from one instant, sending almost nothing twice";
    "backup-postgres", 1, 3, Postgres, instant::dropped_table,
        "a dropped table: the database comes back, in scratch and in place, with exactly the rows of the instant before";
    "backup-postgres-kill", 1, 3, Postgres, instant::killed,
        "the server dies while a database is restored in place: it runs on as it was, and is restored by the other one";
    "strangers", 1, 1, Demo, strangers::run,
        "wrong, expired and foreign tokens and garbage on every port: refused, logged, nothing crashes";
    "nbd-tools", 1, 1, Demo, tools::nbd,
        "qemu-img, nbdinfo, nbdcopy and fio work against the volume's socket";
}

/// The check of that name.
pub fn find(name: &str) -> Result<&'static Check> {
    let names: Vec<&str> = CHECKS.iter().map(|check| check.name).collect();
    let found = CHECKS.iter().find(|check| check.name == name);
    found.map_or_else(|| refuse(format!("no check {name}; there are: {}", names.join(", "))), Ok)
}

/// Runs a check on a lab of its own in `dir` and prints its result; what the nodes logged is kept if it fails.
pub fn run(check: &Check, dir: &Path, settings: &Settings) -> Result<()> {
    up::down(dir)?;
    let start = Instant::now();
    println!("{}: {}", check.name, check.shows);
    let result = Stage::set(check, Lab::at(dir)?, settings).and_then(|mut stage| {
        let result = (check.run)(&mut stage);
        stage.finish(result)
    });
    if let Err(error) = &result
        && !matches!(error, LabError::Missing(_))
    {
        keep_logs(check, dir, settings);
    }
    let swept = up::down(dir);
    let verdict = match (&result, &swept) {
        (Ok(()), Ok(())) => "passed".to_owned(),
        (Err(LabError::Missing(what)), _) => format!("SKIPPED: {what}"),
        (Err(error), _) | (Ok(()), Err(error)) => format!("FAILED: {error}"),
    };
    println!("{}: {verdict} ({:.0} s)", check.name, start.elapsed().as_secs_f64());
    result.and(swept)
}

/// Copies the nodes' logs to where they survive the lab: the daemon's, and in `run` those of voter, guard and volumes.
fn keep_logs(check: &Check, dir: &Path, settings: &Settings) {
    let Some(kept) = &settings.logs else { return };
    let kept = kept.join(check.name);
    let _old = std::fs::remove_dir_all(&kept);
    let Ok(nodes) = std::fs::read_dir(dir.join("nodes")) else { return };
    for node in nodes.flatten() {
        let to = kept.join(node.file_name());
        keep_run_logs(dir, &node.file_name().to_string_lossy(), &to.join("run"));
        let made = std::fs::create_dir_all(&to);
        let copied =
            std::process::Command::new("cp").arg("-r").arg(node.path().join("log")).arg(&to).status();
        if made.is_err() || copied.is_err() {
            println!("{}: the logs of {} could not be kept", check.name, node.path().display());
        }
    }
    println!("{}: the nodes' logs are in {}", check.name, kept.display());
}

/// Those logs lie in the machine's memory, and only while it is up.
fn keep_run_logs(dir: &Path, node: &str, to: &Path) {
    let Some(init) = Lab::at(dir).ok().and_then(|lab| lab.init(node).ok()) else { return };
    let Ok(files) = std::fs::read_dir(format!("/proc/{}/root/run/anshin", init.pid)) else { return };
    let logs = files.flatten().map(|file| file.path());
    for log in logs.filter(|path| path.extension().is_some_and(|kind| kind == "log")) {
        let Some(name) = log.file_name() else { continue };
        let made = std::fs::create_dir_all(to);
        if made.and_then(|()| std::fs::copy(&log, to.join(name))).is_err() {
            println!("{} of {node} could not be kept", name.to_string_lossy());
        }
    }
}
