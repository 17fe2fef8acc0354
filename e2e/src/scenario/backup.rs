//! A vault joins, backups run by plan, survive the death of the node that makes them, and are rehearsed.

use super::stage::{PATIENCE, Stage};
use crate::error::{Context, Result, refuse};
use crate::lab::{node, switch};
use crate::site::MOUNT;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Where the witness keeps the vault.
const VAULT: &str = "/var/lib/anshin/vault";
/// What is backed up, so that a backup that is slowed down takes long enough to be killed in.
const MEGABYTES: usize = 24;
/// How long a backup may take, slowed down, with an attempt that died.
const BACKUP: Duration = Duration::from_secs(300);

/// The node that makes a backup dies in the middle: the run is finished from the other one, under its number, from one
/// instant, and what was backed up is brought back.
pub fn failover(stage: &mut Stage) -> Result<()> {
    let Some(keeper) = stage.site.witness().map(str::to_owned) else {
        return refuse("the site has no witness");
    };
    stage.site.must(&keeper, &["vault", "init", VAULT, "--yes"])?;
    let active = stage.site.active()?;
    until("a nightly plan", || Ok(stage.site.json(&active, &["plan", "list"])?.get(0).is_some()))?;
    fill(stage, &active)?;
    let first = backed_up(stage, &active)?;
    stage.site.wait_protected(PATIENCE)?;
    for round in 1..=stage.rounds {
        let active = stage.site.active()?;
        let other = stage.site.other(&active)?;
        fill(stage, &active)?;
        stage.site.must(&other, &["plan", "edit", "nightly", "--bandwidth", "2M"])?;
        let opened = stage.site.json(&other, &["plan", "run", "nightly"])?;
        let Some(run) = opened["runs"][0].as_u64() else { return refuse("no run was opened") };
        until("data on its way to the vault", || {
            Ok(show(stage, &other, run)?["sent_bytes"].as_u64().is_some_and(|sent| sent > 1 << 20))
        })?;
        let client = stage.client(&format!("backup{round}"));
        client.wait_after(Instant::now(), PATIENCE)?;
        let death = node::kill(&stage.lab, &active)?;
        client.wait_reconnected(death.unplugged, PATIENCE)?;
        stage.site.must(&other, &["plan", "edit", "nightly", "--bandwidth", "100M"])?;
        let ended = ended(stage, &other, run)?;
        if ended["outcome"] != "sealed" || ended["on"] != other.as_str() {
            return refuse(format!("run {run} was not finished by {other}: {ended}"));
        }
        if ended["attempt"].as_u64().is_none_or(|attempt| attempt < 2) {
            return refuse(format!("run {run} has one attempt, but its node died: {ended}"));
        }
        one_snapshot(stage, &keeper, run)?;
        stage.done(client);
        stage.rows_are_there()?;
        node::start(&stage.lab, &active)?;
        switch::cut(&stage.lab, &active, false)?;
        stage.site.wait_protected(PATIENCE)?;
        stage.report.row(&[
            ("first_s", first.as_secs_f64()),
            ("attempts", ended["attempt"].as_f64().unwrap_or_default()),
            ("bytes", ended["bytes"].as_f64().unwrap_or_default()),
            ("new_bytes_of_last_attempt", ended["new_bytes"].as_f64().unwrap_or_default()),
        ]);
    }
    Ok(())
}

/// A restore is rehearsed and judged; a backup that is secretly damaged makes the rehearsal, and the status, red.
pub fn drill(stage: &mut Stage) -> Result<()> {
    let Some(keeper) = stage.site.witness().map(str::to_owned) else {
        return refuse("the site has no witness");
    };
    stage.site.must(&keeper, &["vault", "init", VAULT, "--yes"])?;
    let active = stage.site.active()?;
    until("a nightly plan", || Ok(stage.site.json(&active, &["plan", "list"])?.get(0).is_some()))?;
    fill(stage, &active)?;
    let took = backed_up(stage, &active)?;
    let good = stage.site.json(&active, &["drill"])?;
    if good["passed"] != true || good["restores"][0]["good"] != true {
        return refuse(format!("a sound backup cannot be restored: {good}"));
    }
    stage.site.wait_protected(PATIENCE)?;
    damage(&stage.lab.node_dir(&keeper, "lib").join("vault"))?;
    let bad = stage.site.run(&active, &["drill", "--json"])?;
    let report: Value = serde_json::from_str(&bad.out).at("the drill's answer")?;
    if bad.code != Some(1) || report["restores"][0]["good"] != false {
        return refuse(format!("a damaged backup passes: {:?} {report}", bad.code));
    }
    stage.site.wait("red", PATIENCE, |status| status.sentence().contains("its last drill"))?;
    stage.report.row(&[
        ("backup_s", took.as_secs_f64()),
        ("rto_s", good["restores"][0]["rto_s"].as_f64().unwrap_or_default()),
        ("rpo_s", good["restores"][0]["rpo_s"].as_f64().unwrap_or_default()),
    ]);
    Ok(())
}

/// Data that no compression makes small, other than before.
fn fill(stage: &Stage, active: &str) -> Result<()> {
    let script = format!("head -c {}M /dev/urandom > {MOUNT}/bulk && sync -f {MOUNT}", MEGABYTES);
    node::output(&stage.lab, active, &["sh", "-c", &script]).map(drop)
}

fn backed_up(stage: &Stage, from: &str) -> Result<Duration> {
    let begun = Instant::now();
    let opened = stage.site.json(from, &["plan", "run", "nightly"])?;
    let Some(run) = opened["runs"][0].as_u64() else { return refuse("no run was opened") };
    let ended = ended(stage, from, run)?;
    match ended["outcome"] == "sealed" {
        true => Ok(begun.elapsed()),
        false => refuse(format!("the first backup failed: {ended}")),
    }
}

fn show(stage: &Stage, from: &str, run: u64) -> Result<Value> {
    // Its exit code tells how it ended.
    let outcome = stage.site.run(from, &["runs", "show", &run.to_string(), "--json"])?;
    serde_json::from_str(&outcome.out).at(format!("run {run}: {}", outcome.err.trim()))
}

fn ended(stage: &Stage, from: &str, run: u64) -> Result<Value> {
    let begun = Instant::now();
    loop {
        let last = show(stage, from, run);
        match &last {
            Ok(run) if run["state"] == "ended" => return last,
            _ if begun.elapsed() < BACKUP => thread::sleep(Duration::from_millis(500)),
            _ => return refuse(format!("run {run} did not end within {BACKUP:?}: {last:?}")),
        }
    }
}

/// Of a run exactly one snapshot is in the vault, whatever its attempts have left.
fn one_snapshot(stage: &Stage, keeper: &str, run: u64) -> Result<()> {
    let files = node::output(&stage.lab, keeper, &["anshin", "snapshots", "list", "--json"]);
    let listed = match files {
        Ok(text) => text,
        // A node without the site's key lists none; any data node does.
        Err(_) => stage.site.must(&stage.site.active()?, &["snapshots", "list", "--json"])?,
    };
    let label = format!("run-{run}/");
    let count = listed.matches(&label).count();
    match count {
        1 => Ok(()),
        count => refuse(format!("{count} snapshots of run {run} are in the vault: {listed}")),
    }
}

/// Flips bits in the middle of every large pack.
fn damage(vault: &Path) -> Result<()> {
    let mut packs = 0;
    for file in files(vault)? {
        let bytes = std::fs::read(&file).at(file.display())?;
        if bytes.len() < 1 << 20 {
            continue;
        }
        let mut bytes = bytes;
        let middle = bytes.len() / 2;
        bytes[middle..middle + 64].iter_mut().for_each(|byte| *byte ^= 0x55);
        std::fs::write(&file, bytes).at(file.display())?;
        packs += 1;
    }
    if packs == 0 { refuse("the vault has no pack to damage") } else { Ok(()) }
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).at(directory.display())? {
        let path = entry.at(directory.display())?.path();
        match path.is_dir() {
            true => found.extend(files(&path)?),
            false => found.push(path),
        }
    }
    Ok(found)
}

fn until(what: &str, mut so: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    let mut last = None;
    while Instant::now() < end {
        match so() {
            Ok(true) => return Ok(()),
            Ok(false) => last = None,
            Err(error) => last = Some(error.to_string()),
        }
        thread::sleep(Duration::from_millis(200));
    }
    refuse(format!("waiting for this took too long: {what}: {}", last.unwrap_or_default()))
}
