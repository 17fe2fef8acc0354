//! Lines fail while machines live: unplugged, one way only, between two only, or a machine that stands still.

use super::stage::{PATIENCE, Stage};
use crate::error::{Result, refuse};
use crate::lab::node;
use crate::lab::switch::{self, Way};
use crate::report::ms;
use std::thread;
use std::time::{Duration, Instant};

/// How long a fault lasts at least.
const FAULT: Duration = Duration::from_secs(5);
/// How long a machine stands still.
const FROZEN: Duration = Duration::from_secs(10);

/// What a fault with a living old primary showed.
struct Takeover {
    /// From the fault to the first acknowledgement of the new primary.
    total: Duration,
    /// From the fault to the last moment at which the old primary held the address.
    held: Duration,
}

/// Applies a fault to the active server, lets the other take over, heals, and checks every promise on the way.
fn isolate(
    stage: &mut Stage,
    name: &str,
    fault: impl FnOnce(&Stage, &str) -> Result<()>,
    heal: impl FnOnce(&Stage, &str) -> Result<()>,
    lasting: Duration,
) -> Result<Takeover> {
    let active = stage.site.active()?;
    let other = stage.site.other(&active)?;
    let client = stage.client(name);
    let inside = stage.client_inside(&format!("{name}-inside"), &active);
    client.wait_after(Instant::now(), PATIENCE)?;
    inside.wait_after(Instant::now(), PATIENCE)?;
    let start = Instant::now();
    fault(stage, &active)?;
    // What the client still gets now may come from the old primary, within its bound; the new one is asked inside.
    let successor = stage.client_inside(&format!("{name}-new"), &other);
    let answered = successor.wait_after(start, PATIENCE)?;
    client.wait_after(answered, PATIENCE)?;
    thread::sleep(lasting.saturating_sub(start.elapsed()));
    stage.one_after_the_other(&inside, &successor, start)?;
    heal(stage, &active)?;
    stage.site.wait_protected(PATIENCE)?;
    stage.one_after_the_other(&inside, &successor, start)?;
    let mut seen = stage.watch.seen(&active);
    let end = Instant::now() + PATIENCE;
    while seen.mount.is_so() && Instant::now() < end {
        thread::sleep(Duration::from_millis(50));
        seen = stage.watch.seen(&active);
    }
    for writer in [client, inside, successor] {
        stage.done(writer);
    }
    stage.rows_are_there()?;
    stage.promises_held()?;
    if seen.mount.is_so() {
        return refuse(format!("{active} still has the file system mounted after healing"));
    }
    let held = seen.address.last().map_or(Duration::ZERO, |last| last.saturating_duration_since(start));
    Ok(Takeover { total: answered - start, held })
}

fn row(stage: &mut Stage, takeover: &Takeover) {
    stage.report.row(&[("takeover_ms", ms(takeover.total)), ("old_address_held_ms", ms(takeover.held))]);
}

/// The active server is unplugged.
pub fn unplugged(stage: &mut Stage) -> Result<()> {
    for round in 1..=stage.rounds {
        let takeover = isolate(
            stage,
            &format!("cut{round}"),
            |stage, node| switch::cut(&stage.lab, node, true),
            |stage, node| switch::cut(&stage.lab, node, false),
            FAULT,
        )?;
        row(stage, &takeover);
    }
    Ok(())
}

/// What the active server sends vanishes; then, in another round, what is sent to it.
pub fn one_way(stage: &mut Stage) -> Result<()> {
    for round in 1..=stage.rounds {
        for (word, way) in [("out", Way::Out), ("in", Way::In)] {
            let takeover = isolate(
                stage,
                &format!("{word}{round}"),
                |stage, node| {
                    let pairs = switch::isolation(&stage.lab.load()?, node, way)?;
                    switch::block(&stage.lab, &pairs, true)
                },
                |stage, _| switch::heal_all(&stage.lab),
                FAULT,
            )?;
            row(stage, &takeover);
        }
    }
    Ok(())
}

/// Every process of the active server stops for ten seconds and then goes on where it stood. Its address may outlive
/// that for as long as the status says beforehand, and no longer.
pub fn freeze(stage: &mut Stage) -> Result<()> {
    stage.paused_hold = stage.shown_paused_hold()?;
    for round in 1..=stage.rounds {
        let takeover = isolate(
            stage,
            &format!("freeze{round}"),
            |stage, node| node::freeze(&stage.lab, node),
            |stage, node| node::thaw(&stage.lab, node),
            FROZEN,
        )?;
        if takeover.held > stage.paused_hold {
            return refuse(format!(
                "a paused machine held the address for {:?}, and the status says {:?} (I11)",
                takeover.held, stage.paused_hold
            ));
        }
        row(stage, &takeover);
    }
    Ok(())
}

/// The two data servers lose each other, while both still reach the witness: the primary stays (R13).
pub fn pair(stage: &mut Stage) -> Result<()> {
    for round in 1..=stage.rounds {
        let active = stage.site.active()?;
        let other = stage.site.other(&active)?;
        let client = stage.client(&format!("pair{round}"));
        client.wait_after(Instant::now(), PATIENCE)?;
        let start = Instant::now();
        switch::block(&stage.lab, &switch::pair(&active, &other, Way::Both), true)?;
        thread::sleep(FAULT);
        client.wait_after(Instant::now(), PATIENCE)?;
        if stage.watch.seen(&other).device.first_after(start).is_some() {
            return refuse(format!(
                "{other} was promoted although {active} lives and is reached over the witness (R13)"
            ));
        }
        stage.never_green(start, Duration::from_millis(2500), Instant::now())?;
        let pause = client.longest_pause(start);
        switch::heal_all(&stage.lab)?;
        let back = stage.site.wait_protected(PATIENCE)?;
        stage.done(client);
        stage.rows_are_there()?;
        stage.copies_are_equal()?;
        stage.report.row(&[("pause_ms", ms(pause)), ("in_sync_again_s", back.as_secs_f64())]);
    }
    Ok(())
}
