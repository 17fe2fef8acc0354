//! A copy that is replaced by yesterday's while its server is down (R7).

use super::stage::{PATIENCE, Stage};
use crate::error::{Context, Result, refuse};
use crate::lab::{node, switch};
use crate::report::ms;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// How long the stale copy has to be tempted: nobody else is there to serve.
const TEMPTED: Duration = Duration::from_secs(6);

fn copy(from: &Path, to: &Path) -> Result<()> {
    let _old = std::fs::remove_dir_all(to);
    let copied =
        Command::new("cp").args(["-a", "--sparse=always", "--"]).arg(from).arg(to).status().at("cp")?;
    if copied.success() { Ok(()) } else { refuse(format!("{} could not be copied", from.display())) }
}

/// The restored copy is never promoted, is compared in full when a good one is there, and is reported.
pub fn run(stage: &mut Stage) -> Result<()> {
    for round in 1..=stage.rounds {
        let active = stage.site.active()?;
        let other = stage.site.other(&active)?;
        let volumes = stage.lab.node_dir(&other, "lib").join("volumes");
        let yesterday = stage.lab.dir().join("yesterday");
        let client = stage.client(&format!("old{round}"));
        client.wait_after(Instant::now(), PATIENCE)?;
        node::kill(&stage.lab, &other)?;
        copy(&volumes, &yesterday)?;
        // Until its death is noticed the status is that of before, and would pass for the one after its return.
        stage.site.wait("noticing the death", PATIENCE, |status| !status.green())?;
        start(stage, &other)?;
        stage.site.wait_protected(PATIENCE)?;
        // Acknowledged by both copies, and unknown to yesterday's.
        client.wait_after(Instant::now(), PATIENCE)?;
        thread::sleep(Duration::from_secs(1));
        node::kill(&stage.lab, &active)?;
        node::kill(&stage.lab, &other)?;
        copy(&yesterday, &volumes)?;
        let tempted = Instant::now();
        start(stage, &other)?;
        thread::sleep(TEMPTED);
        if client.first_after(tempted).is_some()
            || stage.watch.seen(&other).device.first_after(tempted).is_some()
        {
            return refuse(format!("{other} serves yesterday's copy (R7)"));
        }
        start(stage, &active)?;
        let answered = client.wait_after(Instant::now(), PATIENCE)?;
        let back = stage.site.wait_protected(PATIENCE)?;
        stage.done(client);
        stage.rows_are_there()?;
        stage.copies_are_equal()?;
        let reported = reported(stage, &other, tempted);
        if !reported {
            return refuse(format!("no status ever said that the copy on {other} is an old image (R7)"));
        }
        std::fs::remove_dir_all(&yesterday).at(yesterday.display())?;
        stage.report.row(&[
            ("answer_after_return_ms", ms(answered - tempted - TEMPTED)),
            ("protected_again_s", back.as_secs_f64()),
        ]);
    }
    Ok(())
}

fn reported(stage: &Stage, node: &str, from: Instant) -> bool {
    let reports = stage.honesty.reports();
    let mut later = reports.iter().filter(|report| report.asked >= from);
    later.any(|report| {
        let said = report.status.recent().iter().any(|line| line.contains("old image"));
        said || report.status.replica_state(node).as_deref() == Some("old-image")
    })
}

fn start(stage: &Stage, name: &str) -> Result<()> {
    node::start(&stage.lab, name)?;
    switch::cut(&stage.lab, name, false)
}
