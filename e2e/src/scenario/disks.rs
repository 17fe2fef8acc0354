//! The disk under one copy fails, fills up or stands still, while everything else is well.

use super::stage::{PATIENCE, Stage};
use crate::control;
use crate::error::{Result, refuse};
use crate::report::ms;
use std::thread;
use std::time::{Duration, Instant};

/// The copy's file, as the fault disk names it.
const COPY: &str = "volumes/data/data";
/// A disk that takes this long for every operation is no disk.
const STALLED_MS: u64 = 20_000;
/// How long a fault lasts at least, so that what follows from it is seen.
const LASTING: Duration = Duration::from_secs(3);
/// After this long with a copy that takes no writes nobody may call the volume protected.
const NOTICED: Duration = Duration::from_millis(2500);

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
        ("stall", format!("slow {STALLED_MS}")),
    ];
    for _ in 0..stage.rounds {
        for (name, fault) in &faults {
            let copy = under_the_copy(stage, name, fault)?;
            let active = under_the_active(stage, name, fault)?;
            stage.report.say(&format!("{name}: pause {:.0} ms, takeover {:.0} ms", ms(copy), ms(active)));
            stage.report.row(&[("copy_fails_pause_ms", ms(copy)), ("active_fails_answer_ms", ms(active))]);
        }
    }
    Ok(())
}

/// The service goes on without the copy, and the status says so. Gives the longest pause.
fn under_the_copy(stage: &mut Stage, name: &str, fault: &str) -> Result<Duration> {
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
    stage.never_green(start, NOTICED, Instant::now())?;
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
    let successor = stage.client_inside(&format!("active-{name}-new"), &other);
    let answered = successor.wait_after(start, PATIENCE)?;
    client.wait_after(answered, PATIENCE)?;
    tell(stage, &active, "heal")?;
    stage.site.wait_protected(PATIENCE)?;
    for writer in [client, successor] {
        stage.done(writer);
    }
    stage.rows_are_there()?;
    Ok(answered - start)
}
