//! Backups of a protected service: what was deleted comes back, also when servers die meanwhile.

use super::failover::come_back;
use super::stage::{PATIENCE, Stage};
use crate::error::{Context, Result, refuse};
use crate::lab::node;
use crate::report::ms;
use crate::site::MOUNT;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks at a run.
const LOOK: Duration = Duration::from_millis(200);
/// How long a run may take: it is paced to about ten seconds, and a failover may come in between.
const RUN: Duration = Duration::from_secs(180);
/// Data of a run that is to be interrupted, and its pace: long enough to be hit in the middle.
const NOISE_MIB: u64 = 128;
const PACE: &str = "16M";

/// What was deleted comes back; a rehearsal is good; one of a secretly damaged backup is not, and the status says so.
pub fn restore(stage: &mut Stage) -> Result<()> {
    for round in 1..=stage.rounds {
        let active = stage.site.active()?;
        let file = format!("{MOUNT}/files/kept-{round}");
        let client = stage.client(&format!("backup{round}"));
        client.wait_after(Instant::now(), PATIENCE)?;
        make_noise(stage, &active, &file, 4)?;
        let before = hash(stage, &active, &file)?;

        let start = Instant::now();
        let run = ended(stage, backed_up(stage, &active, "nightly")?)?;
        let took = start.elapsed();
        let pause = client.longest_pause(start);
        stage.done(client);
        let snapshot = text(&run, "snapshot")?;

        node::output(&stage.lab, &active, &["rm", &file])?;
        stage.site.must(&active, &["restore", &snapshot, &file, "--in-place"])?;
        if hash(stage, &active, &file)? != before {
            return refuse(format!("{file} came back as something else (I12)"));
        }
        stage.rows_are_there()?;
        let drill = stage.site.json(&active, &["drill"])?;
        let rto = drilled(&drill, true)?;
        stage.report.row(&[
            ("backup_ms", ms(took)),
            ("longest_pause_ms", ms(pause)),
            ("drill_rto_s", rto),
            ("snapshot_bytes", run["bytes"].as_f64().unwrap_or(-1.0)),
        ]);
    }
    damaged(stage)
}

/// Bytes in the middle of every pack change behind everybody's back: the next rehearsal is red, and so is the status.
fn damaged(stage: &mut Stage) -> Result<()> {
    let active = stage.site.active()?;
    let Some(keeper) = stage.site.witness().map(str::to_owned) else {
        return refuse("no node holds a vault");
    };
    let packs = packs(&stage.lab.node_dir(&keeper, "lib").join("vault"))?;
    if packs.is_empty() {
        return refuse("the vault holds no pack");
    }
    for pack in &packs {
        flip_middle(pack)?;
    }
    let outcome = stage.site.run(&active, &["drill", "--json"])?;
    if outcome.code == Some(0) {
        return refuse(format!("a rehearsal from a damaged vault was called good: {}", outcome.out));
    }
    let said = serde_json::from_str::<Value>(&outcome.out);
    if let Ok(report) = &said {
        drilled(report, false)?;
    }
    stage.site.wait("red after the bad rehearsal", PATIENCE, |status| !status.green())?;
    let found = stage.site.run(&keeper, &["vault", "verify"])?;
    if found.code == Some(0) {
        return refuse(format!("the vault's verification found no damage (I14): {}", found.out));
    }
    stage.report.say(&format!("{} packs damaged: drill and verification found it", packs.len()));
    Ok(())
}

/// The server that executes a backup dies in the middle: the run ends well from the other server, under the same number, as
/// a new attempt from a new instant, and what the vault has is not sent again.
pub fn kill(stage: &mut Stage) -> Result<()> {
    for round in 1..=stage.rounds {
        let active = stage.site.active()?;
        let other = stage.site.other(&active)?;
        let service = stage.site.leading_status()?.service_name();
        let Some(service) = service else { return refuse("there is no service") };
        let (plan, file) = (format!("killed{round}"), format!("{MOUNT}/files/noise-{round}"));
        make_noise(stage, &active, &file, NOISE_MIB)?;
        let before = hash(stage, &active, &file)?;
        let what = format!("service/{service}");
        stage.site.must(
            &active,
            &["plan", "add", &plan, "--what", &what, "--keep", "last=3", "--bandwidth", PACE],
        )?;
        let client = stage.client(&plan);
        client.wait_after(Instant::now(), PATIENCE)?;
        let run = backed_up(stage, &active, &plan)?;
        let halfway = (NOISE_MIB << 20) / 2;
        let first = look_until(stage, &active, run, |run| {
            run["sent_bytes"].as_u64().is_some_and(|sent| sent >= halfway) || run["state"] == "ended"
        })?;
        if first["state"] == "ended" {
            return refuse("the backup was faster than the fault; make it slower");
        }
        let death = node::kill(&stage.lab, &active)?;
        client.wait_reconnected(death.unplugged, PATIENCE)?;
        let done = look_until(stage, &other, run, |run| run["state"] == "ended")?;
        let took = death.at.elapsed();
        stage.done(client);
        stage.rows_are_there()?;
        if done["outcome"] != "sealed" || done["on"] != other.as_str() {
            return refuse(format!("the run did not end well on {other}: {done}"));
        }
        if done["attempt"].as_u64().unwrap_or(0) < 2 {
            return refuse(format!("a dead server's attempt was counted: {done}"));
        }
        one_snapshot(stage, &other, run)?;
        let snapshot = text(&done, "snapshot")?;
        let scratch = format!("/var/tmp/restored-{round}");
        stage.site.must(&other, &["restore", &snapshot, &file, "--to", &scratch])?;
        if hash(stage, &other, &format!("{scratch}{file}"))? != before {
            return refuse("the snapshot holds something else than what was backed up (I12)");
        }
        // Noise cannot be deduplicated: whatever the second attempt sent beyond what the first had not, it sent twice.
        let (sent_first, sent_second) =
            (first["sent_bytes"].as_f64().unwrap_or(0.0), done["new_bytes"].as_f64().unwrap_or(0.0));
        let whole = (NOISE_MIB << 20) as f64;
        let twice = 100.0 * (sent_first + sent_second - whole).max(0.0) / whole;
        stage.report.row(&[
            ("sealed_after_kill_s", took.as_secs_f64()),
            ("first_sent_bytes", sent_first),
            ("second_new_bytes", sent_second),
            ("sent_twice_percent", twice),
        ]);
        if twice >= 5.0 {
            return refuse(format!("{twice:.1} % of the bytes were sent twice"));
        }
        node::output(&stage.lab, &other, &["rm", "-r", &scratch, &file])?;
        stage.site.must(&other, &["plan", "remove", &plan])?;
        come_back(stage, &active)?;
    }
    Ok(())
}

/// Asks for a run of a plan's only target now; its number.
pub(super) fn backed_up(stage: &Stage, node: &str, plan: &str) -> Result<u64> {
    let opened = stage.site.json(node, &["plan", "run", plan])?;
    opened["runs"][0].as_u64().map_or_else(|| refuse(format!("no run was opened: {opened}")), Ok)
}

pub(super) fn ended(stage: &Stage, run: u64) -> Result<Value> {
    let active = stage.site.active()?;
    let run = look_until(stage, &active, run, |run| run["state"] == "ended")?;
    if run["outcome"] == "sealed" { Ok(run) } else { refuse(format!("the backup did not end well: {run}")) }
}

/// Of a run exactly one snapshot is in the vault, whatever its attempts have left.
fn one_snapshot(stage: &Stage, node: &str, run: u64) -> Result<()> {
    let listed = stage.site.must(node, &["snapshots", "list", "--json"])?;
    match listed.matches(&format!("run-{run}/")).count() {
        1 => Ok(()),
        count => refuse(format!("{count} snapshots of run {run} are in the vault: {listed}")),
    }
}

/// Looks at a run until it is as wanted.
pub(super) fn look_until(
    stage: &Stage,
    node: &str,
    run: u64,
    wanted: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let (end, number) = (Instant::now() + RUN, run.to_string());
    let mut last = String::from("nothing");
    while Instant::now() < end {
        // The exit code tells how the run ended; any answer is an answer.
        let outcome = stage.site.run(node, &["runs", "show", &number, "--json"])?;
        match serde_json::from_str::<Value>(&outcome.out) {
            Ok(value) if wanted(&value) => return Ok(value),
            Ok(value) => last = value.to_string(),
            Err(_) => last = outcome.err,
        }
        thread::sleep(LOOK);
    }
    refuse(format!("run {run} is not where it should be after {RUN:?}: {last}"))
}

/// What a rehearsal came to; the seconds that it took until what was restored was judged.
fn drilled(report: &Value, good: bool) -> Result<f64> {
    let restores = report["restores"].as_array().map(Vec::as_slice).unwrap_or_default();
    if restores.is_empty() {
        return refuse(format!("nothing was rehearsed: {report}"));
    }
    if restores.iter().all(|one| one["good"] == true) != good {
        return refuse(format!(
            "expected rehearsals that are {}: {report}",
            if good { "good" } else { "bad" }
        ));
    }
    Ok(restores.iter().filter_map(|one| one["rto_s"].as_f64()).fold(0.0, f64::max))
}

pub(super) fn text(value: &Value, field: &str) -> Result<String> {
    value[field].as_str().map_or_else(|| refuse(format!("no {field} in {value}")), |text| Ok(text.to_owned()))
}

fn make_noise(stage: &Stage, node: &str, file: &str, mib: u64) -> Result<()> {
    let script =
        format!("mkdir -p \"$(dirname {file})\" && head -c {mib}M /dev/urandom > {file} && sync -f {file}");
    node::output(&stage.lab, node, &["sh", "-c", &script]).map(drop)
}

fn hash(stage: &Stage, node: &str, file: &str) -> Result<String> {
    let line = node::output(&stage.lab, node, &["sha256sum", file])?;
    Ok(line.split_whitespace().next().unwrap_or_default().to_owned())
}

/// Every pack of a vault in a directory.
fn packs(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_path_buf()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).at(dir.display())? {
            let entry = entry.at(dir.display())?;
            let kind = entry.file_type().at(dir.display())?;
            let inside = entry.path().components().any(|part| part.as_os_str() == "packs");
            if kind.is_dir() {
                left.push(entry.path());
            } else if inside {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

fn flip_middle(file: &Path) -> Result<()> {
    let mut bytes = std::fs::read(file).at(file.display())?;
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 0x40;
    }
    std::fs::write(file, bytes).at(file.display())
}
