//! Units under the real systemd: `./test guest-systemd` boots a guest kernel with a systemd of its own and runs these
//! tests in it. Nowhere else may they run: they write units, kill programs and restart the bus.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test program, its helpers included

mod common;

use anshin_agent::{Action, Class, Operation, OperationResult, Options, Rc, Resource, Runner, Status};
use anshin_base::Millis;
use common::{Dir, sh, wait_until};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// The guest's kernel is slow, and so is a busy machine: what must happen gets this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A unit of the guest's systemd, and the runner that drives it.
struct Guest {
    dir: Dir,
    name: String,
    runner: Runner,
}

impl Guest {
    /// Writes the unit; `@` in its text stands for a directory of its own.
    fn with(name: &str, service: &str) -> Self {
        assert!(
            Path::new("/mnt/command").exists() && Path::new("/run/systemd/system").exists(),
            "not a guest"
        );
        let dir = Dir::new(name);
        let name = format!("{name}.service");
        let text = format!("[Service]\n{service}\n").replace('@', &dir.0.display().to_string());
        // Read when it is first asked for: no two tests use the same name.
        fs::write(unit_file(&name), text).unwrap();
        let mut options = Options::new("guest", "/nonexistent/anshin");
        options.run_dir = dir.path("run");
        options.ocf_state_dir = dir.path("agents");
        let runner = Runner::new(options).unwrap();
        Self { dir, name, runner }
    }

    fn resource(&self) -> Resource {
        Resource::new("r", Class::Systemd, &self.name)
    }

    async fn run(&self, action: Action) -> OperationResult {
        self.run_within(action, 30_000).await
    }

    async fn run_within(&self, action: Action, limit: u64) -> OperationResult {
        let result = self.runner.run(&self.resource(), &Operation::new(action).within(Millis(limit))).await;
        println!("{} {}: {result:?}", self.name, action.word());
        result
    }

    async fn starts(&self) -> u32 {
        assert_eq!(self.run(Action::Start).await.rc, Rc::OK);
        self.main_pid().await
    }

    async fn main_pid(&self) -> u32 {
        self.runner.systemd().unit(&self.name).await.unwrap().main_pid
    }

    async fn monitor(&self) -> Rc {
        self.run(Action::Monitor).await.rc
    }

    /// Looks as the node does, again and again, until the answer is this one.
    async fn comes_to(&self, wanted: Rc) -> OperationResult {
        let begun = Instant::now();
        loop {
            let result = self.run(Action::Monitor).await;
            if result.rc == wanted {
                return result;
            }
            assert!(begun.elapsed() < PATIENCE, "{}: never {wanted}, but {result:?}", self.name);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn lines(&self, file: &str) -> usize {
        fs::read_to_string(self.dir.path(file)).unwrap_or_default().lines().count()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let (name, file) = (&self.name, unit_file(&self.name));
        let _ = fs::remove_file(file);
        let _ = fs::remove_dir_all(format!("/run/systemd/system/{name}.d"));
        let quiet = "2>/dev/null || true";
        sh(&format!("systemctl kill -s KILL {name} {quiet}; systemctl stop {name} {quiet}"));
    }
}

fn unit_file(name: &str) -> PathBuf {
    Path::new("/etc/systemd/system").join(name)
}

/// systemd may tell the end of a unit a moment before it buries the dead.
fn runs(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z') && !line.contains('X'))
}

fn property(unit: &str, name: &str) -> String {
    sh(&format!("systemctl show --value -p {name} {unit}")).trim().to_owned()
}

#[tokio::test]
#[ignore = "needs a guest: ./test guest-systemd"]
async fn a_unit_is_started_monitored_and_stopped() {
    let web = Guest::with("web", "ExecStart=/bin/sleep infinity");
    assert_eq!(web.run(Action::ValidateAll).await.rc, Rc::OK);
    assert_eq!(web.monitor().await, Rc::NOT_RUNNING);
    let pid = web.starts().await;
    assert!(runs(pid));
    assert_eq!(web.starts().await, pid, "starting what runs changes nothing");
    assert_eq!(web.monitor().await, Rc::OK);
    let unit = web.runner.systemd().unit("web.service").await.unwrap();
    assert_eq!((unit.load_state.as_str(), unit.sub_state.as_str()), ("loaded", "running"));
    assert_eq!(
        (unit.service_type.as_str(), unit.control_group.as_str()),
        ("simple", "/system.slice/web.service")
    );
    assert_eq!(unit.exec_start, [["/bin/sleep", "infinity"]]);
    for _ in 0..2 {
        assert_eq!(web.run(Action::Stop).await.rc, Rc::OK);
        assert!(!runs(pid));
        assert_eq!(web.monitor().await, Rc::NOT_RUNNING);
    }
}

#[tokio::test]
#[ignore = "needs a guest: ./test guest-systemd"]
async fn a_start_ends_when_the_unit_is_ready_and_not_before() {
    let slow = Guest::with(
        "slow",
        "Type=notify\nNotifyAccess=all\n\
         ExecStart=/bin/sh -c 'sleep 2; touch @/ready; systemd-notify --ready; exec sleep infinity'",
    );
    slow.starts().await;
    assert!(slow.dir.path("ready").exists());
    assert_eq!(slow.monitor().await, Rc::OK);
}

#[tokio::test]
#[ignore = "needs a guest: ./test guest-systemd"]
async fn a_start_that_takes_too_long_is_told_and_can_be_stopped() {
    let never = Guest::with("never", "Type=notify\nTimeoutStartSec=600\nExecStart=/bin/sleep infinity");
    let started = never.run_within(Action::Start, 1_500).await;
    assert_eq!((started.rc, started.status), (Rc::GENERIC, Status::TimedOut));
    assert_eq!(never.monitor().await, Rc::GENERIC, "neither running nor stopped");
    assert_eq!(never.run(Action::Stop).await.rc, Rc::OK);
    assert_eq!(never.monitor().await, Rc::NOT_RUNNING);
}

#[tokio::test]
#[ignore = "needs a guest: ./test guest-systemd"]
async fn systemds_own_start_timeout_is_told_apart() {
    let never = Guest::with("impatient", "Type=notify\nTimeoutStartSec=2\nExecStart=/bin/sleep infinity");
    let started = never.run(Action::Start).await;
    assert_eq!(started.rc, Rc::GENERIC);
    assert!(started.reason.unwrap().contains("timeout"));
    assert_eq!(never.monitor().await, Rc::NOT_RUNNING);
}

#[tokio::test]
#[ignore = "needs a guest: ./test guest-systemd"]
async fn a_unit_that_cannot_start_says_why() {
    let broken = Guest::with("broken", "Type=forking\nExecStart=/bin/sh -c 'exit 3'");
    let started = broken.run(Action::Start).await;
    assert_eq!((started.rc, started.status), (Rc::GENERIC, Status::Done));
    assert!(started.reason.unwrap().contains("the unit says `exit-code`"));
    assert!(started.hint.unwrap().contains("journalctl -u broken.service"));
    let looked = broken.run(Action::Monitor).await;
    assert_eq!(looked.rc, Rc::NOT_RUNNING);
    assert!(looked.reason.unwrap().contains("exit-code"));
    assert_eq!(broken.run(Action::Stop).await.rc, Rc::OK);
}

#[tokio::test]
#[ignore = "needs a guest: ./test guest-systemd"]
async fn a_program_that_is_not_there_does_not_start() {
    let absent = Guest::with("absent", "Type=exec\nExecStart=/nonexistent/program");
    assert_eq!(absent.run(Action::Start).await.rc, Rc::GENERIC);
    assert_eq!(absent.monitor().await, Rc::NOT_RUNNING);
}

#[tokio::test]
#[ignore = "needs a guest: ./test guest-systemd"]
async fn a_unit_that_systemd_cannot_read_is_refused() {
    let senseless = Guest::with("senseless", "Type=simple\nRestart=no");
    let problems = senseless.runner.check(&senseless.resource()).await;
    assert_eq!(problems[0].code, "unit-invalid", "{problems:?}");
    assert_eq!(senseless.run(Action::Start).await.rc, Rc::NOT_INSTALLED);
    assert_eq!(senseless.run(Action::Stop).await.rc, Rc::OK);
}

#[tokio::test]
#[ignore = "needs a guest: ./test guest-systemd"]
async fn a_program_that_ignores_the_wish_to_stop_is_killed_at_the_units_timeout() {
    let stubborn = Guest::with(
        "stubborn",
        "TimeoutStopSec=2\nExecStart=/bin/bash -c 'trap \"\" TERM; while :; do sleep 1000; done'",
    );
    let pid = stubborn.starts().await;
    wait_until("the trap", PATIENCE, || ignores_term(pid));
    let stopped = stubborn.run(Action::Stop).await;
    assert_eq!(stopped.rc, Rc::OK);
    assert!(!runs(pid));
    assert_eq!(property("stubborn.service", "Result"), "timeout", "it did not go by itself");
    assert_eq!(stubborn.monitor().await, Rc::NOT_RUNNING);
}

#[tokio::test]
#[ignore = "needs a guest: ./test guest-systemd"]
async fn a_stop_that_takes_too_long_is_told_and_killing_ends_it() {
    let stubborn = Guest::with(
        "endless",
        "TimeoutStopSec=600\nExecStart=/bin/bash -c 'trap \"\" TERM; while :; do sleep 1000; done'",
    );
    let pid = stubborn.starts().await;
    wait_until("the trap", PATIENCE, || ignores_term(pid));
    let stopped = stubborn.run_within(Action::Stop, 1_500).await;
    assert_eq!((stopped.rc, stopped.status), (Rc::GENERIC, Status::TimedOut));
    assert!(runs(pid));
    assert_eq!(stubborn.monitor().await, Rc::GENERIC, "neither running nor stopped");
    let killed = stubborn.runner.kill_programs(&[stubborn.resource()], PATIENCE).await.unwrap();
    assert_eq!(killed, [format!("endless.service ({pid})")]);
    assert!(!runs(pid));
    assert_eq!(stubborn.monitor().await, Rc::NOT_RUNNING);
}

fn ignores_term(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap_or("0").trim();
    u64::from_str_radix(mask, 16).unwrap() & (1 << 14) != 0
}

#[tokio::test]
#[ignore = "needs a guest: ./test guest-systemd"]
async fn what_is_killed_behind_our_back_is_noticed_and_systemd_leaves_the_restart_to_us() {
    let hardy = Guest::with(
        "hardy",
        "Restart=always\nRestartSec=100ms\nExecStart=/bin/sh -c 'echo >>@/starts; exec sleep infinity'",
    );
    let first = hardy.starts().await;
    wait_until("its first line", PATIENCE, || hardy.lines("starts") == 1);
    sh(&format!("kill -9 {first}"));
    let noticed = hardy.comes_to(Rc::NOT_RUNNING).await;
    assert!(noticed.reason.unwrap().contains("signal"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(hardy.monitor().await, Rc::NOT_RUNNING, "systemd has restarted it by itself");
    let second = hardy.starts().await;
    assert!(runs(second) && second != first);
    wait_until("its second line", PATIENCE, || hardy.lines("starts") == 2);
    // Once it is not ours any more, it is systemd's again.
    hardy.runner.systemd().release("hardy.service").await.unwrap();
    assert!(runs(second), "letting go of a unit leaves it running");
    sh(&format!("kill -9 {second}"));
    wait_until("systemd restarts it", PATIENCE, || hardy.lines("starts") == 3);
    assert_eq!(hardy.comes_to(Rc::OK).await.rc, Rc::OK);
}

#[tokio::test]
#[ignore = "needs a guest: ./test guest-systemd"]
async fn a_service_may_come_and_go_as_often_as_it_likes() {
    // systemd counts the starts of a unit, by hand too, and forgets them only if no other unit names it.
    let busy = Guest::with(
        "busy",
        "ExecStart=/bin/sleep infinity\n[Unit]\nStartLimitIntervalSec=600\nStartLimitBurst=2",
    );
    let other = Guest::with("other", "ExecStart=/bin/sleep infinity\n[Unit]\nAfter=busy.service");
    other.starts().await;
    for _ in 0..4 {
        busy.starts().await;
        assert_eq!(busy.run(Action::Stop).await.rc, Rc::OK);
    }
}

#[tokio::test]
#[ignore = "needs a guest: ./test guest-systemd"]
async fn all_processes_of_a_deposed_nodes_unit_die_at_once() {
    let family = Guest::with(
        "family",
        "Type=forking\nKillMode=process\nTimeoutStopSec=600\n\
         ExecStart=/bin/bash -c 'trap \"\" TERM; (sleep 1001; :) & setsid sleep 1002 & exit 0'\n\
         ExecStop=/bin/sleep 1000",
    );
    family.starts().await;
    let members = || sh("cat /sys/fs/cgroup/system.slice/family.service/cgroup.procs 2>/dev/null || true");
    wait_until("its processes", PATIENCE, || members().lines().count() >= 3);
    let begun = Instant::now();
    family.runner.kill_programs(&[family.resource()], PATIENCE).await.unwrap();
    assert_eq!(members(), "", "nothing may survive, nor may its own way to stop be asked");
    assert!(begun.elapsed() < PATIENCE);
    assert_eq!(family.monitor().await, Rc::NOT_RUNNING);
    assert_eq!(family.runner.kill_programs(&[family.resource()], PATIENCE).await.unwrap(), [""; 0]);
}

#[tokio::test]
#[ignore = "needs a guest: ./test guest-systemd"]
async fn a_oneshot_that_remains_runs_until_it_is_stopped() {
    let export = Guest::with(
        "export",
        "Type=oneshot\nRemainAfterExit=yes\nExecStart=/bin/touch @/exported\nExecStop=/bin/rm @/exported",
    );
    assert_eq!(export.runner.check(&export.resource()).await, []);
    assert_eq!(export.run(Action::Start).await.rc, Rc::OK);
    assert!(export.dir.path("exported").exists());
    assert_eq!(export.monitor().await, Rc::OK);
    assert_eq!(export.run(Action::Stop).await.rc, Rc::OK);
    assert!(!export.dir.path("exported").exists());
    assert_eq!(export.monitor().await, Rc::NOT_RUNNING);
}

#[tokio::test]
#[ignore = "needs a guest: ./test guest-systemd"]
async fn a_masked_unit_is_refused_cannot_start_and_is_stopped() {
    let hidden = Guest::with("hidden", "ExecStart=/bin/sleep infinity");
    fs::remove_file(unit_file("hidden.service")).unwrap();
    sh("systemctl mask hidden.service");
    let problems = hidden.runner.check(&hidden.resource()).await;
    assert_eq!(problems[0].code, "unit-masked", "{problems:?}");
    let started = hidden.run(Action::Start).await;
    assert_eq!((started.rc, started.status), (Rc::NOT_INSTALLED, Status::NotInstalled));
    assert_eq!(hidden.run(Action::Stop).await.rc, Rc::OK);
    assert_eq!(hidden.runner.kill_programs(&[hidden.resource()], PATIENCE).await.unwrap(), [""; 0]);
}

#[tokio::test]
#[ignore = "needs a guest: ./test guest-systemd"]
async fn a_unit_masked_while_it_runs_can_still_be_seen_stopped_and_killed() {
    for (name, kill) in [("hidden-stop", false), ("hidden-kill", true)] {
        let hidden = Guest::with(name, "ExecStart=/bin/sleep infinity");
        let pid = hidden.starts().await;
        fs::remove_file(unit_file(&hidden.name)).unwrap();
        sh(&format!("systemctl mask {}", hidden.name));
        assert_eq!(hidden.monitor().await, Rc::OK, "it runs, whatever its file says");
        if kill {
            let killed = hidden.runner.kill_programs(&[hidden.resource()], PATIENCE).await.unwrap();
            assert_eq!(killed, [format!("{name}.service ({pid})")]);
        } else {
            assert_eq!(hidden.run(Action::Stop).await.rc, Rc::OK);
        }
        assert!(!runs(pid));
    }
}

#[tokio::test]
#[ignore = "needs a guest: ./test guest-systemd"]
async fn a_unit_whose_file_is_removed_while_it_runs_can_still_be_seen_stopped_and_killed() {
    for (name, kill) in [("orphan-stop", false), ("orphan-kill", true)] {
        let orphan = Guest::with(name, "ExecStart=/bin/sleep infinity");
        let pid = orphan.starts().await;
        fs::remove_file(unit_file(&orphan.name)).unwrap();
        sh("systemctl daemon-reload");
        assert_eq!(orphan.monitor().await, Rc::OK, "it runs, whether it has a file or not");
        if kill {
            let killed = orphan.runner.kill_programs(&[orphan.resource()], PATIENCE).await.unwrap();
            assert_eq!(killed, [format!("{name}.service ({pid})")]);
        } else {
            assert_eq!(orphan.run(Action::Stop).await.rc, Rc::OK);
        }
        assert!(!runs(pid));
    }
}

#[tokio::test]
#[ignore = "needs a guest: ./test guest-systemd"]
async fn a_missing_unit_does_not_run_cannot_start_and_is_stopped() {
    let gone = Guest::with("gone", "ExecStart=/bin/true");
    fs::remove_file(unit_file("gone.service")).unwrap();
    assert_eq!(gone.runner.check(&gone.resource()).await[0].code, "no-such-unit");
    assert_eq!(gone.monitor().await, Rc::NOT_RUNNING);
    let started = gone.run(Action::Start).await;
    assert_eq!((started.rc, started.status), (Rc::NOT_INSTALLED, Status::NotInstalled));
    assert_eq!(gone.run(Action::Stop).await.rc, Rc::OK);
    assert_eq!(gone.runner.kill_programs(&[gone.resource()], PATIENCE).await.unwrap(), [""; 0]);
}

#[tokio::test]
#[ignore = "needs a guest: ./test guest-systemd"]
async fn a_unit_survives_that_systemd_executes_itself_anew_in_the_middle_of_its_start() {
    let slow = Guest::with(
        "through",
        "Type=notify\nNotifyAccess=all\n\
         ExecStart=/bin/sh -c 'touch @/begun; while [ ! -e @/go ]; do sleep 0.1; done; systemd-notify --ready; exec sleep infinity'",
    );
    let (begun, go) = (slow.dir.path("begun"), slow.dir.path("go"));
    let again = tokio::task::spawn_blocking(move || {
        wait_until("the start", PATIENCE, || begun.exists());
        sh("systemctl daemon-reexec");
        fs::write(go, "").unwrap();
    });
    let pid = slow.starts().await;
    again.await.unwrap();
    assert!(runs(pid));
    assert_eq!(slow.monitor().await, Rc::OK);
    assert_eq!(slow.run(Action::Stop).await.rc, Rc::OK);
}

#[tokio::test]
#[ignore = "needs a guest: ./test guest-systemd"]
async fn a_restart_of_the_bus_is_no_failure_of_the_unit() {
    let web = Guest::with("steady", "ExecStart=/bin/sleep infinity");
    let pid = web.starts().await;
    sh("systemctl restart dbus.service");
    assert_eq!(web.monitor().await, Rc::OK);
    sh("systemctl restart dbus.service");
    assert_eq!(web.main_pid().await, pid);
    assert_eq!(web.run(Action::Stop).await.rc, Rc::OK);
    assert_eq!(web.monitor().await, Rc::NOT_RUNNING);
}

#[tokio::test]
#[ignore = "needs a guest: ./test guest-systemd"]
async fn debians_postgresql_is_refused_by_its_umbrella_and_runs_by_its_instance() {
    let instance = sh("for d in /etc/postgresql/*/*/; do \
         [ -e $d/postgresql.conf ] && basename $(dirname $d)-$(basename $d) && break; done; true");
    let instance = match instance.trim() {
        "" => {
            let version = sh("ls /usr/lib/postgresql | sort -V | tail -1");
            sh(&format!("pg_createcluster {} main", version.trim()));
            format!("{}-main", version.trim())
        }
        found => found.to_owned(),
    };
    sh("systemctl daemon-reload");
    let umbrella = Resource::new("db", Class::Systemd, "postgresql.service");
    let unit = format!("postgresql@{instance}.service");
    let mut db = Guest::with("unused", "ExecStart=/bin/true");
    let problems = db.runner.check(&umbrella).await;
    assert_eq!(problems[0].code, "unit-without-process", "{problems:?}");
    assert_eq!(problems[0].hint, Some(format!("it stands for {unit}: protect that")));

    db.name = unit;
    assert_eq!(db.runner.check(&db.resource()).await, []);
    assert_eq!(db.run_within(Action::Start, 120_000).await.rc, Rc::OK);
    let pid = db.main_pid().await;
    assert!(fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().contains("postgres"));
    assert_eq!(db.monitor().await, Rc::OK);
    assert_eq!(db.run_within(Action::Stop, 60_000).await.rc, Rc::OK);
    assert!(!runs(pid));
    assert_eq!(db.monitor().await, Rc::NOT_RUNNING);
}
