//! A database as it was the instant before a mistake.

use super::backups::{backed_up, ended, look_until, text};
use super::stage::{PATIENCE, Stage, service_address};
use crate::error::{Context, Result, refuse};
use crate::lab::node;
use crate::probe::program::Session;
use crate::probe::writer;
use crate::report::ms;
use crate::site;
use crate::sys;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

/// The log is moved to the vault every minute; this long at most until the first of it is there.
const ARCHIVED: Duration = Duration::from_secs(100);
/// Time on both sides of the instant in which nothing happens, far above what clocks are read with.
const AROUND: Duration = Duration::from_millis(300);
/// For how long there is load before and after each step.
const LOAD: Duration = Duration::from_secs(3);
/// Rows that are acknowledged after the instant and must not come back.
const LATE: usize = 20;
/// For one question to the database.
const ANSWER: Duration = Duration::from_secs(20);

/// A table is dropped: the database comes back, into scratch and in place, with exactly the rows that it had the instant before,
/// though its log was written on two servers.
pub fn dropped_table(stage: &mut Stage) -> Result<()> {
    for round in 1..=stage.rounds {
        let active = stage.site.active()?;
        let Some(service) = stage.site.leading_status()?.service_name() else {
            return refuse("there is no service");
        };
        let target = format!("service/{service}");
        beside(stage, &active)?;
        let client = stage.client(&format!("before{round}"));
        client.wait_after(Instant::now(), PATIENCE)?;
        let start = Instant::now();
        ended(stage, backed_up(stage, &active, "nightly")?)?;
        let backup = start.elapsed();
        let archived = wait_archived(stage, &active, &target)?;
        let moved = planned_move(stage, &active, &service)?;
        client.wait_after(Instant::now(), PATIENCE)?;
        thread::sleep(LOAD);
        stage.done(client);

        let (instant, rows) = mistake(stage)?;
        let active = stage.site.active()?;
        refused(stage, &active, &target, &instant)?;

        let start = Instant::now();
        let scratch = format!("/var/tmp/instant-{round}");
        let words = ["restore", &target, "--at", &instant, "--to", &scratch];
        let view = stage.site.json(&active, &words)?;
        let into_scratch = start.elapsed();
        same(&rows, &rows_of(stage, &active, &text(&view, "place")?)?, "in scratch")?;
        node::output(&stage.lab, &active, &["rm", "-r", &scratch])?;

        let start = Instant::now();
        let words = ["restore", &target, "--at", &instant, "--in-place", "--yes"];
        let view = stage.site.json(&active, &words)?;
        let in_place = start.elapsed();
        let there = writer::read_all(&stage.lab, stage.program, service_address(), PATIENCE)?;
        same(&rows, &there, "in place")?;
        let kept = format!("{}/PG_VERSION", text(&view, "before")?);
        node::output(&stage.lab, &active, &["test", "-e", &kept])?;

        let client = stage.client(&format!("after{round}"));
        client.wait_after(Instant::now(), PATIENCE)?;
        let Some(run) = view["run"].as_u64() else {
            return refuse(format!("no new base was asked for: {view}"));
        };
        look_until(stage, &active, run, |run| run["state"] == "ended" && run["outcome"] == "sealed")?;
        planned_move(stage, &active, &service)?;
        client.wait_after(Instant::now(), PATIENCE)?;
        stage.done(client);
        stage.rows_are_there()?;
        stage.site.wait_protected(PATIENCE)?;
        stage.report.row(&[
            ("backup_ms", ms(backup)),
            ("first_log_ms", ms(archived)),
            ("move_ms", ms(moved)),
            ("scratch_ms", ms(into_scratch)),
            ("in_place_ms", ms(in_place)),
            ("stopped_ms", view["pause_ms"].as_f64().unwrap_or(-1.0)),
            ("log_pieces", view["log_pieces"].as_f64().unwrap_or(-1.0)),
            ("rows_compared", rows.len() as f64),
        ]);
    }
    Ok(())
}

/// The server dies in the middle of a restore in place: the service runs from the other one as it was, and the restore is made
/// there; nothing is left of the first.
pub fn killed(stage: &mut Stage) -> Result<()> {
    for round in 1..=stage.rounds {
        let active = stage.site.active()?;
        let other = stage.site.other(&active)?;
        let Some(service) = stage.site.leading_status()?.service_name() else {
            return refuse("there is no service");
        };
        let target = format!("service/{service}");
        let client = stage.client(&format!("killed{round}"));
        client.wait_after(Instant::now(), PATIENCE)?;
        thread::sleep(LOAD);
        stage.done(client);
        let (instant, rows) = mistake(stage)?;

        let words = ["restore", &target, "--at", &instant, "--in-place", "--yes"];
        let begun = thread::scope(|scope| -> Result<Duration> {
            let asked = {
                let (site, active) = (stage.site.clone(), active.clone());
                scope.spawn(move || site.run(&active, &words).map(|outcome| outcome.code))
            };
            let start = Instant::now();
            while node::output(&stage.lab, &active, &["sh", "-c", "ls -d /srv/data/pg.restore-*/data"])
                .is_err()
            {
                if asked.is_finished() || start.elapsed() > PATIENCE {
                    return refuse(format!("nothing was restored beside the data: {:?}", asked.join()));
                }
                thread::sleep(Duration::from_millis(50));
            }
            let begun = start.elapsed();
            node::kill(&stage.lab, &active)?;
            let _dead = asked.join();
            Ok(begun)
        })?;
        let death = Instant::now();
        stage.site.wait("running on the other server", PATIENCE, |status| {
            status.service_node().as_ref() == Some(&other)
        })?;
        let over = death.elapsed();
        if ask(stage, |session| session.sql("SELECT * FROM row")).is_ok() {
            return refuse("a restore that was broken off was put in place");
        }
        let start = Instant::now();
        let view = stage.site.json(&other, &words)?;
        let in_place = start.elapsed();
        let there = writer::read_all(&stage.lab, stage.program, service_address(), PATIENCE)?;
        same(&rows, &there, "in place")?;
        let left = node::output(&stage.lab, &other, &["sh", "-c", "ls -d /srv/data/pg.restore-* || true"])?;
        if !left.trim().is_empty() {
            return refuse(format!("a broken off restore has left {left}"));
        }
        super::failover::come_back(stage, &active)?;
        stage.rows_are_there()?;
        stage.report.row(&[
            ("killed_after_ms", ms(begun)),
            ("took_over_ms", ms(over)),
            ("in_place_ms", ms(in_place)),
            ("stopped_ms", view["pause_ms"].as_f64().unwrap_or(-1.0)),
            ("rows_compared", rows.len() as f64),
        ]);
    }
    Ok(())
}

/// Waits until a piece of the log that was made after this call is in the vault; nobody asked for it.
fn wait_archived(stage: &Stage, node: &str, target: &str) -> Result<Duration> {
    let name = format!("log:{target}");
    let count = || -> Result<usize> {
        Ok(stage.site.must(node, &["snapshots", "list", "--all", "--json"])?.matches(&name).count())
    };
    let (start, before) = (Instant::now(), count()?);
    while start.elapsed() < ARCHIVED {
        if count()? > before {
            return Ok(start.elapsed());
        }
        thread::sleep(Duration::from_secs(1));
    }
    refuse(format!("no log of {target} came into the vault within {ARCHIVED:?}"))
}

/// A file that lies beside the database on its volume comes back too.
fn beside(stage: &Stage, node: &str) -> Result<()> {
    let letter = format!("{}/letter", site::MOUNT);
    let write = format!("echo 'not to be lost' > {letter}");
    node::output(&stage.lab, node, &["sh", "-c", &write])?;
    let opened = stage.site.json(node, &["plan", "run", "nightly"])?;
    let runs = opened["runs"].as_array().cloned().unwrap_or_default();
    for run in runs.iter().filter_map(serde_json::Value::as_u64) {
        ended(stage, run)?;
    }
    node::output(&stage.lab, node, &["rm", &letter])?;
    stage.site.must(node, &["restore", "latest", &letter, "--in-place"])?;
    let back = node::output(&stage.lab, node, &["cat", &letter])?;
    if back.trim() == "not to be lost" { Ok(()) } else { refuse(format!("{letter} came back as {back}")) }
}

/// The service goes to the other server, and with it its log.
fn planned_move(stage: &Stage, active: &str, service: &str) -> Result<Duration> {
    let other = stage.site.other(active)?;
    let start = Instant::now();
    stage.site.must(active, &["service", "move", service, "--to", &other])?;
    stage.site.wait("moved", PATIENCE, |status| status.service_node().as_ref() == Some(&other))?;
    Ok(start.elapsed())
}

/// The table with all its rows is dropped. The instant before, and the rows that it had then.
fn mistake(stage: &Stage) -> Result<(String, Vec<String>)> {
    let rows = writer::read_all(&stage.lab, stage.program, service_address(), PATIENCE)?;
    thread::sleep(AROUND);
    let mut instant = ask(stage, |session| {
        session
            .sql("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
    })?;
    thread::sleep(AROUND);
    ask(stage, |session| {
        (0..LATE).try_for_each(|number| session.append(&format!("late-{number}")))?;
        session.sql("DROP TABLE row")
    })?;
    match instant.pop() {
        Some(instant) => Ok((instant, rows)),
        None => refuse("the database does not know what time it is"),
    }
}

/// What would lose data, or makes no sense, is refused and changes nothing.
fn refused(stage: &Stage, node: &str, target: &str, instant: &str) -> Result<()> {
    let cases: [(&[&str], i32, &str); 3] = [
        (&["--at", instant, "--in-place"], 3, "--yes"),
        (&["--at", "2001-01-01T00:00:00Z", "--to", "/var/tmp/never"], 2, "before the first backup"),
        (&["--at", "2199-01-01T00:00:00Z", "--to", "/var/tmp/never"], 2, "has not come yet"),
    ];
    for (words, code, says) in cases {
        let words: Vec<&str> = ["restore", target].into_iter().chain(words.iter().copied()).collect();
        let outcome = stage.site.run(node, &words)?;
        if outcome.code != Some(code) || !outcome.err.contains(says) {
            return refuse(format!("{words:?} ended with {:?}: {}", outcome.code, outcome.err));
        }
    }
    Ok(())
}

/// The rows of a database in a directory of a node: a server of its own is started on it, that nobody else reaches.
fn rows_of(stage: &Stage, node: &str, data: &str) -> Result<Vec<String>> {
    let programs = site::postgres_programs()?;
    let programs = programs.display();
    let script = format!(
        "set -e\n\
         run=$(mktemp -d /var/tmp/instant-run-XXXXXX) && chown postgres {data} $run && cd /\n\
         su postgres -s /bin/sh -c \"{programs}/pg_ctl -D {data} -w -l $run/log -o '-k $run -p 5499 -c listen_addresses=' start\" >/dev/null || {{ cat $run/log >&2; exit 1; }}\n\
         su postgres -s /bin/sh -c \"psql -XqAt -h $run -p 5499 -c 'SELECT * FROM row'\"\n\
         su postgres -s /bin/sh -c \"{programs}/pg_ctl -D {data} -w -m fast stop\" >/dev/null\n\
         rm -r $run\n"
    );
    Ok(node::output(&stage.lab, node, &["sh", "-c", &script])?.lines().map(str::to_owned).collect())
}

fn same(expected: &[String], found: &[String], place: &str) -> Result<()> {
    let sorted = |rows: &[String]| {
        let mut rows = rows.to_vec();
        rows.sort_unstable();
        rows
    };
    let (expected, found) = (sorted(expected), sorted(found));
    if expected == found {
        return Ok(());
    }
    let lacking = expected.iter().find(|row| found.binary_search(row).is_err());
    let foreign = found.iter().find(|row| expected.binary_search(row).is_err());
    refuse(format!(
        "{place} there are {} rows instead of {}; the first that lacks is {lacking:?}, the first too many {foreign:?} (I12)",
        found.len(),
        expected.len()
    ))
}

/// One conversation with the database, from the client's place.
fn ask<T: Send + 'static>(
    stage: &Stage,
    act: impl FnOnce(&mut Session) -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let Some(client) = stage.lab.load()?.client else { return refuse("the client's place is not up") };
    let program = stage.program;
    let asked = sys::in_network(client.pid, move || {
        let mut session = program.connect(service_address(), ANSWER)?;
        act(&mut session)
    })?;
    asked.at("asking the database")
}
