//! A voter whose ledger was replaced by an earlier copy, or is gone, while its server was down (R8).

use super::stage::{PATIENCE, Stage};
use crate::error::{Context, Result, refuse};
use crate::lab::{node, switch};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// What the ledger learns after the copy was made, and the copy does not know.
const CHANGES: usize = 5;

/// It is expelled, gets a new voter by itself and votes again; what it forgot is never counted on.
pub fn run(stage: &mut Stage) -> Result<()> {
    for round in 1..=stage.rounds {
        let active = stage.site.active()?;
        let victim = stage.site.other(&active)?;
        let client = stage.client(&format!("voter{round}"));
        client.wait_after(Instant::now(), PATIENCE)?;
        let ledger = stage.lab.node_dir(&victim, "lib").join("voter");
        let earlier = stage.lab.dir().join("earlier-voter");

        node::kill(&stage.lab, &victim)?;
        copy(&ledger, &earlier)?;
        start(stage, &victim)?;
        stage.site.wait_protected(PATIENCE)?;
        for _ in 0..CHANGES {
            decide(stage, &active)?;
        }
        // Only what it had confirmed can be forgotten.
        has_read(stage, &active, &victim)?;
        node::kill(&stage.lab, &victim)?;
        copy(&earlier, &ledger)?;
        let restored = replaced(stage, &active, &victim)?;

        node::kill(&stage.lab, &victim)?;
        std::fs::remove_dir_all(&ledger).at(ledger.display())?;
        let lost = replaced(stage, &active, &victim)?;

        the_new_voter_votes(stage, &active)?;
        stage.done(client);
        stage.rows_are_there()?;
        if stage.site.active()? != active {
            return refuse(format!(
                "the service left {active} although only the voter of {victim} was replaced"
            ));
        }
        std::fs::remove_dir_all(&earlier).at(earlier.display())?;
        stage.report.row(&[
            ("restored_rejoined_s", restored.0.as_secs_f64()),
            ("restored_protected_s", restored.1.as_secs_f64()),
            ("lost_rejoined_s", lost.0.as_secs_f64()),
            ("lost_protected_s", lost.1.as_secs_f64()),
        ]);
    }
    Ok(())
}

/// Has the ledger decide something. A leader that died a moment ago takes what was on its way with it, and then nobody knows
/// what became of it: the program says so, and a token more does no harm.
fn decide(stage: &Stage, node: &str) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        match stage.site.must(node, &["token", "create"]) {
            Ok(_) => return Ok(()),
            Err(error) if error.to_string().contains("outcome-unknown") && Instant::now() < end => {}
            Err(error) => return Err(error),
        }
    }
}

/// Waits until the victim's ledger holds every token that the active server's holds.
fn has_read(stage: &Stage, active: &str, victim: &str) -> Result<()> {
    let tokens = |node: &str| stage.site.json(node, &["token", "list"]);
    let wanted = tokens(active)?;
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if tokens(victim).is_ok_and(|known| known == wanted) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(100));
    }
    refuse(format!("{victim} does not read what {active} decides"))
}

/// Starts the victim and waits for its new voter and a protected site; how long both took.
fn replaced(stage: &Stage, active: &str, victim: &str) -> Result<(Duration, Duration)> {
    let before = stage.site.status(active)?.voter(victim);
    let Some(before) = before else { return refuse(format!("{active} knows no voter of {victim}")) };
    let began = Instant::now();
    start(stage, victim)?;
    let other = |status: &crate::site::Status| {
        status.voter(victim).is_some_and(|voter| voter.id != before.id && voter.present)
    };
    let rejoined = stage.site.wait("a new voter that votes", PATIENCE, other)?;
    stage.site.wait_protected(PATIENCE)?;
    let protected = began.elapsed();
    let reports = stage.honesty.reports();
    let later: Vec<_> = reports.iter().filter(|report| report.asked >= began).collect();
    let says = |report: &&&crate::probe::honesty::Report| {
        report.status.voter(victim).is_some_and(|voter| voter.state == "rejoining")
    };
    let Some(said) = later.iter().find(says) else {
        return refuse(format!("no status ever said that the voter of {victim} was being replaced (R8)"));
    };
    let counted = later.iter().filter(|report| report.asked > said.answered).find(|report| {
        report.status.voter(victim).is_some_and(|voter| voter.id == before.id && voter.present)
    });
    if let Some(counted) = counted {
        return refuse(format!(
            "{} counted the voter of {victim} that forgot what it confirmed (R8)",
            counted.node
        ));
    }
    Ok((rejoined, protected))
}

/// Without the witness both data servers' voters are needed: the ledger decides only if the new one really votes.
fn the_new_voter_votes(stage: &Stage, active: &str) -> Result<()> {
    let Some(witness) = stage.site.witness().map(str::to_owned) else {
        return refuse("the site has no witness");
    };
    node::kill(&stage.lab, &witness)?;
    let without = |status: &crate::site::Status| status.voter(&witness).is_some_and(|voter| !voter.present);
    stage.site.wait("without the witness", PATIENCE, without)?;
    decide(stage, active)?;
    start(stage, &witness)?;
    stage.site.wait_protected(PATIENCE).map(drop)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let _old = std::fs::remove_dir_all(to);
    let copied = Command::new("cp").args(["-a", "--"]).arg(from).arg(to).status().at("cp")?;
    if copied.success() { Ok(()) } else { refuse(format!("{} could not be copied", from.display())) }
}

fn start(stage: &Stage, name: &str) -> Result<()> {
    node::start(&stage.lab, name)?;
    switch::cut(&stage.lab, name, false)
}
