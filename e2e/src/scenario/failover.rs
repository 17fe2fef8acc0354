//! The active server dies, returns, and hands over on request.

use super::stage::{PATIENCE, Stage};
use crate::error::{Result, refuse};
use crate::lab::{node, switch};
use crate::report::ms;
use std::thread;
use std::time::{Duration, Instant};

/// Load before a fault, so that caches, connections and the journal are warm.
const WARM: Duration = Duration::from_secs(1);
/// After this long without word of a dead copy nobody may call the volume protected.
const NOTICED: Duration = Duration::from_millis(2500);

/// The active server dies: the service answers on the same address from the other one, with every acknowledged row.
pub fn kill(stage: &mut Stage) -> Result<()> {
    for round in 1..=stage.rounds {
        let active = stage.site.active()?;
        let other = stage.site.other(&active)?;
        let client = stage.client(&format!("kill{round}"));
        client.wait_after(Instant::now(), PATIENCE)?;
        thread::sleep(WARM);
        let death = node::kill(&stage.lab, &active)?;
        let answered = client.wait_reconnected(death.unplugged, PATIENCE)?;
        thread::sleep(WARM);
        stage.done(client);
        let rows = stage.rows_are_there()?;
        stage.never_green(death.at, NOTICED, Instant::now())?;
        let back = come_back(stage, &active)?;
        let seen = stage.watch.seen(&other);
        // Steps seen from outside; their differences are the time that each step took.
        let since = |at: Option<Instant>| at.map_or(-1.0, |at| ms(at.saturating_duration_since(death.at)));
        // What only the program itself can tell.
        let passage = stage.failover_since(&active, death.clock)?;
        let told = |point: Option<i64>| passage.since(point, death.clock).map_or(-1.0, ms);
        if passage.detected.is_none() || passage.decided.is_none() || passage.promoted.is_none() {
            return refuse("the failover's detection, decision or promotion was not recorded");
        }
        stage.report.row(&[
            ("total_ms", ms(answered - death.at)),
            ("detection_at_ms", told(passage.detected)),
            ("decision_at_ms", told(passage.decided)),
            ("promotion_at_ms", told(passage.promoted)),
            ("device_at_ms", since(seen.device.first_after(death.at))),
            ("mount_at_ms", since(seen.mount.first_after(death.at))),
            ("address_at_ms", since(seen.address.first_after(death.at))),
            ("program_at_ms", ms(answered - death.at)),
            ("in_sync_again_s", back.as_secs_f64()),
            ("rows", rows as f64),
        ]);
        for line in stage.site.leading_status()?.recent().iter().take(12).rev() {
            stage.report.say(line);
        }
        if stage.site.active()? != other {
            return refuse(format!("the service does not run on {other} after the death of {active}"));
        }
    }
    Ok(())
}

/// Switches a dead server on and waits until the site is protected again.
pub fn come_back(stage: &Stage, name: &str) -> Result<Duration> {
    node::start(&stage.lab, name)?;
    switch::cut(&stage.lab, name, false)?;
    stage.site.wait_protected(PATIENCE)
}

/// A dead server comes back: only what it may lack is sent, the copies are equal, and it can take over.
pub fn return_resync(stage: &mut Stage) -> Result<()> {
    for round in 1..=stage.rounds {
        let active = stage.site.active()?;
        let other = stage.site.other(&active)?;
        let client = stage.client(&format!("return{round}"));
        client.wait_after(Instant::now(), PATIENCE)?;
        node::kill(&stage.lab, &other)?;
        thread::sleep(2 * WARM);
        let before = stage.site.leading_status()?.resynced(&other).map_or(0, |resynced| resynced.count);
        let back = come_back(stage, &other)?;
        stage.done(client);
        let resynced =
            stage.site.leading_status()?.resynced(&other).filter(|resynced| resynced.count > before);
        let Some(resynced) = resynced else {
            return refuse(format!("no status tells what the resync of {other} took"));
        };
        let size = std::fs::metadata(stage.site.backing_file(&active)).map_or(0, |meta| meta.len());
        if resynced.sent * 2 > size {
            return refuse(format!(
                "{} of {size} bytes were sent after two seconds of absence",
                resynced.sent
            ));
        }
        stage.copies_are_equal()?;
        let client = stage.client(&format!("again{round}"));
        client.wait_after(Instant::now(), PATIENCE)?;
        let death = node::kill(&stage.lab, &active)?;
        client.wait_reconnected(death.unplugged, PATIENCE)?;
        stage.done(client);
        stage.rows_are_there()?;
        come_back(stage, &active)?;
        stage.report.row(&[
            ("in_sync_again_s", back.as_secs_f64()),
            ("resync_compared_bytes", resynced.compared as f64),
            ("resync_sent_bytes", resynced.sent as f64),
            ("volume_bytes", size as f64),
        ]);
    }
    Ok(())
}

/// A planned move under load loses no row and no client that reconnects sees more than a pause.
pub fn planned_move(stage: &mut Stage) -> Result<()> {
    for round in 1..=stage.rounds {
        let active = stage.site.active()?;
        let other = stage.site.other(&active)?;
        let Some(service) = stage.site.leading_status()?.service_name() else {
            return refuse("there is no service");
        };
        let client = stage.client(&format!("move{round}"));
        client.wait_after(Instant::now(), PATIENCE)?;
        thread::sleep(WARM);
        let start = Instant::now();
        stage.site.must(&active, &["service", "move", &service, "--to", &other])?;
        stage.site.wait("moved", PATIENCE, |status| status.service_node().as_ref() == Some(&other))?;
        client.wait_after(Instant::now(), PATIENCE)?;
        let took = start.elapsed();
        let pause = client.longest_pause(start);
        stage.done(client);
        stage.rows_are_there()?;
        stage.site.wait_protected(PATIENCE)?;
        stage.report.row(&[("pause_ms", ms(pause)), ("command_and_answer_ms", ms(took))]);
    }
    drilled(stage)
}

/// A drill moves the service, too, and tells where the time went: all but a detection, for there was nothing to detect.
fn drilled(stage: &mut Stage) -> Result<()> {
    let active = stage.site.active()?;
    let report = stage.site.json(&active, &["drill", "--failover"])?;
    let times = &report["times"];
    let steps = ["decision", "stop", "promotion", "mount", "address", "program"];
    if let Some(missing) = steps.iter().find(|step| !times[format!("{step}_ms")].is_u64()) {
        return refuse(format!("the drill does not say how long its {missing} took: {report}"));
    }
    if !times["detection_ms"].is_null() {
        return refuse(format!("a planned move detected something: {report}"));
    }
    stage.site.wait_protected(PATIENCE)?;
    stage.rows_are_there()?;
    let took: Vec<String> =
        steps.iter().map(|step| format!("{step} {}", times[format!("{step}_ms")])).collect();
    stage.report.say(&format!("drill: {} ms", took.join(", ")));
    Ok(())
}
