//! The disk under one server fails, or hangs, while everything else is well.

use super::stage::{PATIENCE, Stage};
use crate::control;
use crate::error::{Context, Result, refuse};
use crate::lab::node;
use crate::lab::process::{self, Process};
use crate::report::ms;
use std::thread;
use std::time::{Duration, Instant};

/// The copy's file, as the fault disk names it.
const COPY: &str = "volumes/data/data";
/// How long a fault lasts at least, so that what follows from it is seen.
const LASTING: Duration = Duration::from_secs(3);
/// After this long with a copy that takes no writes nobody may call the volume protected.
const NOTICED: Duration = Duration::from_millis(2500);

/// Every operation on a disk that hangs takes so long: longer than anybody should wait for it.
const HANGS: &str = "slow 20000";
/// After this long with a disk that hangs nobody may call the site protected: a request has waited for 3 s, and the
/// nodes say so to each other once a second.
const HANG_NOTICED: Duration = Duration::from_secs(6);
/// Longest pause until the service goes on without the copy: its removal after ten times the silence, with room for a busy
/// machine.
const PAUSE_MAX: Duration = Duration::from_secs(25);
/// Longest time until the other server answers: as long, and the takeover.
const TAKEOVER_MAX: Duration = Duration::from_secs(35);
/// After healing, no process may wait for the disk for longer than this.
const RELEASED: Duration = Duration::from_secs(30);

/// The fault that shows only when somebody reads what is not in memory.
const READ: &str = "read";

/// More failures than any program tries again.
const FOR_EVER: &str = "1000000";

fn tell(stage: &Stage, node: &str, command: &str) -> Result<()> {
    let socket = stage.lab.dir().join(format!("disk-{node}.ctl"));
    control::ask(&socket, command).map(drop)
}

/// Every kind of fault, first under the copy, then under the active server's own.
pub fn run(stage: &mut Stage) -> Result<()> {
    let faults = [
        ("write", format!("fail write {FOR_EVER} {COPY}")),
        ("flush", format!("fail flush {FOR_EVER} {COPY}")),
    ];
    for _ in 0..stage.rounds {
        for (name, fault) in &faults {
            let copy = under_the_copy(stage, name, fault, NOTICED)?;
            let active = under_the_active(stage, name, fault)?;
            stage.report.say(&format!("{name}: pause {:.0} ms, takeover {:.0} ms", ms(copy), ms(active)));
            stage.report.row(&[("copy_fails_pause_ms", ms(copy)), ("active_fails_answer_ms", ms(active))]);
        }
        // Nothing of a copy is read while it only follows.
        let active = under_the_active(stage, READ, &format!("fail read {FOR_EVER} {COPY}"))?;
        stage.report.say(&format!("{READ}: takeover {:.0} ms", ms(active)));
        stage.report.row(&[("active_cannot_read_answer_ms", ms(active))]);
    }
    Ok(())
}

/// A disk that takes everything and answers nothing: under the replica's files and the ledger alike.
pub fn hang(stage: &mut Stage) -> Result<()> {
    for _ in 0..stage.rounds {
        let copy = under_the_copy(stage, "hang", HANGS, HANG_NOTICED)?;
        nobody_waits(stage)?;
        if copy > PAUSE_MAX {
            return refuse(format!("the copy's disk hung and nothing was acknowledged for {copy:?}"));
        }
        let start = Instant::now();
        let active = under_the_active(stage, "hang", HANGS)?;
        // From the fault to the answer of the other server everything was at risk.
        stage.never_green(start, HANG_NOTICED, start + active)?;
        nobody_waits(stage)?;
        if active > TAKEOVER_MAX {
            return refuse(format!("the active server's disk hung; the other answered after {active:?}"));
        }
        stage.report.say(&format!("hang: pause {:.0} ms, takeover {:.0} ms", ms(copy), ms(active)));
        stage.report.row(&[("copy_hangs_pause_ms", ms(copy)), ("active_hangs_answer_ms", ms(active))]);
    }
    Ok(())
}

/// No process waits for a disk any more.
fn nobody_waits(stage: &Stage) -> Result<()> {
    let waiting = |stage: &Stage| -> Result<Vec<Process>> {
        let mut all = Vec::new();
        for name in stage.site.nodes() {
            all.extend(process::same_machine(stage.lab.init(name)?.pid));
        }
        all.retain(|process| process.waits_for_disk());
        Ok(all)
    };
    let end = Instant::now() + RELEASED;
    let mut stuck = waiting(stage)?;
    while !stuck.is_empty() && Instant::now() < end {
        thread::sleep(Duration::from_millis(100));
        // One that is seen waiting again may wait for something else, but a busy process does not always do so.
        stuck.retain(|process| process.waits_for_disk());
    }
    match stuck.first() {
        Some(one) => refuse(format!(
            "process {} ({}) still waits for a disk that answers again",
            one.pid,
            process::words(one.pid).join(" ")
        )),
        None => Ok(()),
    }
}

/// The service goes on without the copy, and the status says so. Gives the longest pause.
fn under_the_copy(stage: &mut Stage, name: &str, fault: &str, noticed: Duration) -> Result<Duration> {
    let active = stage.site.active()?;
    let other = stage.site.other(&active)?;
    let client = stage.client(&format!("copy-{name}"));
    client.wait_after(Instant::now(), PATIENCE)?;
    let start = Instant::now();
    tell(stage, &other, fault)?;
    thread::sleep(LASTING);
    client.wait_after(Instant::now(), PATIENCE)?;
    thread::sleep(LASTING);
    let pause = client.longest_pause(start);
    stage.never_green(start, noticed, Instant::now())?;
    if stage.site.active()? != active {
        return refuse(format!("the service left {active} although only the disk of {other} failed"));
    }
    tell(stage, &other, "heal")?;
    stage.site.wait_protected(PATIENCE)?;
    stage.done(client);
    stage.rows_are_there()?;
    Ok(pause)
}

/// The service goes where the data can still be written. Gives the time to its answer from there.
fn under_the_active(stage: &mut Stage, name: &str, fault: &str) -> Result<Duration> {
    let active = stage.site.active()?;
    let other = stage.site.other(&active)?;
    let client = stage.client(&format!("active-{name}"));
    client.wait_after(Instant::now(), PATIENCE)?;
    let start = Instant::now();
    tell(stage, &active, fault)?;
    let mut reader = None;
    if name == READ {
        let words = ["dd", "if=/dev/anshin/data", "of=/dev/null", "bs=1M", "iflag=direct", "status=none"];
        reader = Some(node::command(&stage.lab, &active, &words)?.spawn().at("dd")?);
    }
    let successor = stage.client_inside(&format!("active-{name}-new"), &other);
    let answered = successor.wait_after(start, PATIENCE)?;
    client.wait_after(answered, PATIENCE)?;
    tell(stage, &active, "heal")?;
    stage.site.wait_protected(PATIENCE)?;
    if let Some(mut reader) = reader {
        reader.wait().at("dd")?;
    }
    for writer in [client, successor] {
        stage.done(writer);
    }
    stage.rows_are_there()?;
    Ok(answered - start)
}
