//! The times that the ledger records are the ones that things run by.

use super::stage::{PATIENCE, Stage};
use crate::error::{Result, refuse};
use crate::lab::{node, switch};
use crate::report::ms;
use std::time::{Duration, Instant};

/// A silence that differs from the default by more than a busy machine's delays.
const LONGER: Duration = Duration::from_millis(3_000);
/// The least by which that must show.
const SHOWS: Duration = Duration::from_millis(1_200);

/// A longer silence makes a failover's detection longer by that; what is not safe is refused with a hint.
pub fn run(stage: &mut Stage) -> Result<()> {
    refused(stage, &["--silence", "500ms"], 2)?;
    refused(stage, &["--heartbeat", "800ms"], 2)?;
    refused(stage, &["--lease", "500ms"], 3)?;
    for round in 1..=stage.rounds {
        let before = failover(stage, &format!("before{round}"))?;
        let longer = format!("{}ms", LONGER.as_millis());
        let active = stage.site.active()?;
        stage.site.must(&active, &["site", "timing", "--silence", &longer])?;
        let after = failover(stage, &format!("after{round}"))?;
        stage.site.must("a", &["site", "timing", "--silence", "1s"])?;
        stage.report.row(&[("detection_1s_ms", ms(before)), ("detection_3s_ms", ms(after))]);
        if after < before + SHOWS {
            return refuse(format!(
                "detection took {before:?} before and {after:?} after silence was made longer"
            ));
        }
    }
    Ok(())
}

fn refused(stage: &Stage, words: &[&str], code: i32) -> Result<()> {
    let words: Vec<&str> = ["site", "timing"].into_iter().chain(words.iter().copied()).collect();
    let outcome = stage.site.run("a", &words)?;
    if outcome.code != Some(code) || !outcome.err.contains("hint:") {
        return refuse(format!(
            "anshin {} ended with {:?}: {}",
            words.join(" "),
            outcome.code,
            outcome.err.trim()
        ));
    }
    stage.report.say(outcome.err.lines().next().unwrap_or_default());
    Ok(())
}

/// Kills the active server; from the kill to the moment at which the survivors judged it lost.
fn failover(stage: &mut Stage, name: &str) -> Result<Duration> {
    let active = stage.site.active()?;
    let client = stage.client(name);
    client.wait_after(Instant::now(), PATIENCE)?;
    let death = node::kill(&stage.lab, &active)?;
    client.wait_reconnected(death.unplugged, PATIENCE)?;
    stage.done(client);
    node::start(&stage.lab, &active)?;
    switch::cut(&stage.lab, &active, false)?;
    stage.site.wait_protected(PATIENCE)?;
    stage.rows_are_there()?;
    let passage = stage.failover_since(&active, death.clock)?;
    match passage.since(passage.detected, death.clock) {
        Some(detected) => Ok(detected),
        None => refuse("the failover's detection was not recorded"),
    }
}
