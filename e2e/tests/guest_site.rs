//! A site of one node as a user would run it: `anshin.service` as in the guide, and Debian's PostgreSQL as a systemd
//! unit on a protected volume. Runs in a guest kernel with a systemd of its own (`./test guest-systemd`), with the
//! program under test in `ANSHIN_PROGRAM` and an empty disk `/dev/ubda`.
#![allow(clippy::unwrap_used)] // a test program

use serde_json::Value;
use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// The guest's kernel is slow, and so is a busy machine: what must happen gets this long.
const PATIENCE: Duration = Duration::from_secs(120);
const GUIDE: &str = include_str!("../../docs/guide/setup.md");
const DATA: &str = "/srv/data/pg";

/// Runs a line of shell that must succeed; what it printed.
fn sh(line: &str) -> String {
    let (good, output, error) = attempt("/bin/sh", &["-c", line]);
    assert!(good, "{line}: {output}{error}");
    output.trim().to_owned()
}

/// Runs `anshin`, which must succeed.
fn anshin(words: &[&str]) -> String {
    println!("$ anshin {}", words.join(" "));
    let (good, output, error) = attempt("/usr/bin/anshin", words);
    assert!(good, "anshin {}: {output}{error}", words.join(" "));
    output
}

/// What `anshin` says to something it must refuse, as JSON.
fn refused(words: &[&str]) -> Value {
    let (good, output, error) = attempt("/usr/bin/anshin", &[&["--json"], words].concat());
    assert!(!good, "anshin {} was not refused: {output}", words.join(" "));
    let text = if output.trim().is_empty() { error } else { output };
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn attempt(program: &str, words: &[&str]) -> (bool, String, String) {
    let output = Command::new(program).args(words).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

/// The status, whatever it says and however it exits.
fn status() -> Value {
    let output = Command::new("/usr/bin/anshin").args(["--json", "status"]).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}; {:#}", status());
        thread::sleep(Duration::from_millis(200));
    }
    println!("{what}: {:.1} s", begun.elapsed().as_secs_f64());
}

fn service_is(state: &str) -> bool {
    status()["services"][0]["state"] == state
}

fn main_pid(unit: &str) -> String {
    sh(&format!("systemctl show --value -p MainPID {unit}"))
}

/// The processes that the daemon leaves to themselves.
fn lasting_processes() -> String {
    let found = sh("pgrep -f 'anshin run (volume|guard|voter)' | sort -n");
    assert!(found.lines().count() >= 3, "not all of volume, guard and voter run: {found}");
    found
}

fn sql(line: &str) -> Option<String> {
    let words = ["-u", "postgres", "--", "psql", "-p", "5499", "-qAtc", line];
    let (good, output, _) = attempt("/usr/sbin/runuser", &words);
    good.then(|| output.trim().to_owned())
}

/// The unit that the guide tells to install, word for word.
fn unit_of_the_guide() -> String {
    let block = GUIDE.lines().skip_while(|line| !line.contains("/etc/systemd/system/anshin.service")).skip(1);
    let lines: Vec<&str> = block.map_while(|line| line.strip_prefix("    ")).collect();
    assert!(lines.contains(&"[Service]"), "the guide has no unit any more");
    lines.join("\n") + "\n"
}

fn make_site() {
    let program = std::env::var("ANSHIN_PROGRAM").unwrap();
    sh(&format!("ln -sf '{program}' /usr/bin/anshin"));
    sh(
        "modprobe dummy && ip link add lan type dummy && ip addr add 192.0.2.1/24 dev lan && ip link set lan up",
    );
    sh(
        "ip link set lo up && mkfs.ext4 -q /dev/ubda && mkdir -p /var/lib/anshin && mount /dev/ubda /var/lib/anshin",
    );
    fs::write("/etc/systemd/system/anshin.service", unit_of_the_guide()).unwrap();
    anshin(&["init", "prod", "--address", "192.0.2.1"]);
    sh("systemctl start anshin.service");
    wait_until("a quorum", || status()["quorum"]["have"] == true);
    anshin(&["volume", "create", "data", "--size", "256M", "--mount", "/srv/data"]);
    wait_until("the new volume is mounted", || attempt("mountpoint", &["-q", "/srv/data"]).0);
}

/// A cluster with its data on the volume; its unit.
fn make_database() -> String {
    let version = sh("ls /usr/lib/postgresql | sort -V | tail -1");
    sh(&format!("pg_createcluster {version} live -d {DATA} -p 5499 -- --no-sync --auth-local=peer"));
    sh("systemctl daemon-reload");
    format!("postgresql@{version}-live.service")
}

/// What would run but not be protected.
fn refusals(unit: &str) {
    let umbrella = refused(&["protect", "postgresql.service", "--volume", "data"]);
    assert_eq!(umbrella["code"], "unit-without-process", "{umbrella}");
    assert!(umbrella["hint"].as_str().unwrap().contains(unit), "{umbrella}");
    let elsewhere = unit.replace("live", "elsewhere");
    let directory = format!("/etc/postgresql/{}/elsewhere", unit[11..].split('-').next().unwrap());
    fs::create_dir_all(&directory).unwrap();
    fs::write(format!("{directory}/postgresql.conf"), "data_directory = '/var/lib/postgresql/x'\n").unwrap();
    let elsewhere = refused(&["protect", &elsewhere, "--volume", "data"]);
    assert_eq!(elsewhere["code"], "data-not-on-volume", "{elsewhere}");
    let missing = refused(&["protect", "no-such.service", "--volume", "data"]);
    assert_eq!(missing["code"], "no-such-unit", "{missing}");
    assert_eq!(status()["services"].as_array().map(Vec::len), Some(0));
}

#[test]
#[ignore = "needs a guest: ./test guest-systemd"]
fn a_unit_on_a_protected_volume_runs_comes_back_and_stops() {
    assert!(Path::new("/mnt/command").exists() && Path::new("/dev/ubda").exists(), "not a guest");
    make_site();
    let unit = make_database();
    refusals(&unit);

    anshin(&["protect", &unit, "--volume", "data", "--name", "db", "--address", "192.0.2.50/24"]);
    wait_until("the service runs", || service_is("running"));
    assert!(sh("ip -o addr show dev lan").contains("192.0.2.50/24"));
    wait_until("the database answers", || sql("CREATE TABLE IF NOT EXISTS row (text text)").is_some());
    assert_eq!(
        sql("INSERT INTO row VALUES ('acknowledged') RETURNING text").as_deref(),
        Some("acknowledged")
    );

    let first = main_pid(&unit);
    sh(&format!("kill -9 {first}"));
    wait_until("it is started again after a kill", || !["0", &first].contains(&main_pid(&unit).as_str()));
    wait_until("it answers again", || sql("SELECT text FROM row").as_deref() == Some("acknowledged"));
    wait_until("and the status knows", || service_is("running"));

    let (database, processes) = (main_pid(&unit), lasting_processes());
    let daemon = main_pid("anshin.service");
    sh("systemctl restart anshin.service");
    wait_until("the daemon is back", || service_is("running") && status()["quorum"]["stale"] != true);
    assert_ne!(main_pid("anshin.service"), daemon);
    assert_eq!(main_pid(&unit), database, "a restart of the daemon is nothing to the database");
    assert_eq!(lasting_processes(), processes, "nor to the processes of the volume");

    anshin(&["service", "stop", "db"]);
    wait_until("the service stops", || service_is("stopped"));
    assert_eq!(main_pid(&unit), "0");
    assert!(!attempt("mountpoint", &["-q", "/srv/data"]).0, "what is stopped is not mounted");
    assert!(!sh("ip -o addr show dev lan").contains("192.0.2.50/24"));
    anshin(&["service", "start", "db"]);
    wait_until("it starts again", || sql("SELECT text FROM row").as_deref() == Some("acknowledged"));
}
