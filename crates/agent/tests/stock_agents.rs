//! Debian's resource agents, unmodified, run for real in namespaces of their own.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test program, its helpers included

mod common;

use anshin_agent::{
    Action, Class, Operation, OperationResult, Options, Rc, Resource, Runner, Status, ocf::Metadata, release,
};
use anshin_base::Millis;
use common::{Dir, in_namespaces, is_missing, sh, wait_until};
use std::{fs, path::Path, time::Duration};

const AGENTS: &str = "/usr/lib/ocf/resource.d/heartbeat";

struct Node {
    dir: Dir,
    runner: Runner,
}

impl Node {
    fn new(name: &str) -> Self {
        let dir = Dir::new(name);
        // Stands for the program where this machine has no modprobe of its own: ext4 is part of the kernel.
        let program = dir.path("anshin");
        fs::write(&program, "#!/bin/sh\nexit 0\n").unwrap();
        sh(&format!("chmod +x {}", program.display()));
        let mut options = Options::new("alpha", program);
        options.run_dir = dir.path("run");
        options.ocf_state_dir = dir.path("agents");
        options.systemd_run_dir = dir.path("systemd");
        options.bus = Some(format!("unix:path={}", dir.text("no-bus")));
        let runner = Runner::new(options).unwrap();
        Self { dir, runner }
    }

    async fn run(&self, resource: &Resource, action: Action) -> OperationResult {
        self.runner.run(resource, &Operation::new(action)).await
    }

    /// Runs an action that must answer `rc`.
    async fn expect(&self, resource: &Resource, action: Action, rc: Rc) -> OperationResult {
        let result = self.run(resource, action).await;
        println!("{} {}: {} in {}", resource.name, action.word(), result.rc, result.duration);
        assert_eq!((result.rc, result.status), (rc, Status::Done), "{} {result:?}", action.word());
        result
    }

    /// Takes a resource through its life.
    async fn live(&self, resource: &Resource) {
        assert_eq!(self.runner.check(resource).await, []);
        self.expect(resource, Action::ValidateAll, Rc::OK).await;
        self.expect(resource, Action::Monitor, Rc::NOT_RUNNING).await;
        self.expect(resource, Action::Start, Rc::OK).await;
        self.expect(resource, Action::Monitor, Rc::OK).await;
        self.expect(resource, Action::Start, Rc::OK).await;
    }

    async fn end(&self, resource: &Resource) {
        self.expect(resource, Action::Stop, Rc::OK).await;
        self.expect(resource, Action::Monitor, Rc::NOT_RUNNING).await;
        self.expect(resource, Action::Stop, Rc::OK).await;
    }
}

fn ocf(kind: &str) -> Resource {
    Resource::new(format!("the-{kind}"), Class::Ocf, kind)
}

#[tokio::test]
async fn a_missing_agent_is_not_installed_and_the_hint_names_the_package() {
    let mut node = Node::new("missing");
    let mut options = node.runner.options().clone();
    options.ocf_root = node.dir.path("no-agents");
    node.runner = Runner::new(options).unwrap();
    let result = node.run(&ocf("pgsql"), Action::Start).await;
    assert_eq!((result.rc, result.status), (Rc::NOT_INSTALLED, Status::NotInstalled));
    assert!(result.hint.unwrap().contains("apt install resource-agents"));
    let problems = node.runner.check(&ocf("pgsql")).await;
    assert_eq!(problems[0].code, "agent-missing");
}

/// An agent of our own that shows how failures, reasons and timeouts come back.
#[tokio::test]
async fn an_agents_reason_its_timeout_and_its_environment_come_back() {
    let mut node = Node::new("own-agent");
    let mut options = node.runner.options().clone();
    options.ocf_root = node.dir.path("ocf");
    let place = options.ocf_root.join("resource.d/heartbeat");
    fs::create_dir_all(&place).unwrap();
    let script = r#"#!/bin/sh
case "$1" in
meta-data) echo '<resource-agent name="x"><parameters/><actions><action name="start" timeout="300ms"/></actions></resource-agent>';;
start) sleep 1000;;
stop) echo "ocf-exit-reason:it is stuck" >&2; exit 1;;
monitor) env | sort; exit 190;;
esac
"#;
    fs::write(place.join("slow"), script).unwrap();
    sh(&format!("chmod +x {}", place.join("slow").display()));
    node.runner = Runner::new(options).unwrap();
    let resource = ocf("slow");
    let started = node.run(&resource, Action::Start).await;
    assert_eq!(started.status, Status::TimedOut);
    assert_eq!(started.reason.as_deref(), Some("not finished after 300 ms"), "the agent's own timeout");
    let stopped = node.run(&resource, Action::Stop).await;
    assert_eq!((stopped.rc, stopped.reason.as_deref()), (Rc::GENERIC, Some("it is stuck")));
    let operation = Operation::new(Action::Monitor).every(Millis(10_000)).within(Millis(5_000));
    let monitored = node.runner.run(&resource, &operation).await;
    assert_eq!(monitored.rc, Rc::DEGRADED);
    assert!(monitored.output.contains("OCF_RESKEY_CRM_meta_interval=10000\n"));
    assert!(monitored.output.contains("OCF_RESKEY_CRM_meta_timeout=5000\n"));
    assert!(!monitored.output.contains("CARGO"), "nothing of the daemon's own environment is inherited");
    let killed = node.runner.kill_programs(std::slice::from_ref(&resource), Duration::from_secs(10)).await;
    assert_eq!(killed, Ok(Vec::new()), "the timeout left nothing to kill");
}

#[tokio::test]
async fn a_program_that_does_not_stop_is_killed_and_what_is_no_program_is_not_taken_for_stopped() {
    let mut node = Node::new("stubborn");
    let mut options = node.runner.options().clone();
    options.ocf_root = node.dir.path("ocf");
    let place = options.ocf_root.join("resource.d/heartbeat");
    fs::create_dir_all(&place).unwrap();
    let pid = node.dir.text("pid");
    let actions = r#"<resource-agent name="x"><parameters/><actions/></resource-agent>"#;
    let scripts = [
        (
            "stubborn",
            format!(
                "start) setsid sleep 1000 >/dev/null 2>&1 & echo $! >{pid};;\nmonitor) grep -q sleep /proc/$(cat {pid})/cmdline || exit 7;;"
            ),
        ),
        ("export", "start|monitor) ;;".to_owned()),
    ];
    for (name, rest) in scripts {
        let agent = place.join(name);
        let text = format!(
            "#!/bin/sh\ncase \"$1\" in\nmeta-data) echo '{actions}';;\nstop) exit 1;;\n{rest}\nesac\n"
        );
        fs::write(&agent, text).unwrap();
        sh(&format!("chmod +x {}", agent.display()));
    }
    node.runner = Runner::new(options).unwrap();
    let patience = Duration::from_secs(10);
    for (kind, rc) in [("stubborn", Rc::OK), ("export", Rc::GENERIC)] {
        let resource = ocf(kind);
        node.expect(&resource, Action::Start, Rc::OK).await;
        node.expect(&resource, Action::Monitor, Rc::OK).await;
        let failed = node.expect(&resource, Action::Stop, Rc::GENERIC).await;
        assert_eq!(node.runner.stop_by_force(&resource, failed, patience).await.rc, rc, "{kind}");
    }
}

#[tokio::test]
async fn every_stock_agent_describes_itself() {
    if is_missing(AGENTS, "resource-agents") {
        return;
    }
    let node = Node::new("descriptions");
    let mut unread = Vec::new();
    let mut read = 0;
    for entry in fs::read_dir(AGENTS).unwrap() {
        let kind = entry.unwrap().file_name().into_string().unwrap();
        match node.runner.metadata(&ocf(&kind)).await {
            Ok(metadata) => {
                let metadata: &Metadata = &metadata;
                assert!(metadata.knows(Action::Start), "{kind}: {metadata:?}");
                read += 1;
            }
            Err(problem) => unread.push(format!("{kind}: {problem}")),
        }
    }
    println!("{read} descriptions read; not read: {unread:#?}");
    // Some agents need a program that is not installed even to describe themselves.
    assert!(unread.len() * 10 <= read, "{unread:#?}");
}

#[tokio::test]
async fn the_dummy_agent_lives() {
    if is_missing(AGENTS, "resource-agents") {
        return;
    }
    let node = Node::new("dummy");
    let resource = ocf("Dummy");
    node.live(&resource).await;
    node.end(&resource).await;
}

#[tokio::test]
async fn an_address_and_a_file_system_live() {
    if !in_namespaces("an_address_and_a_file_system_live") || is_missing(AGENTS, "resource-agents") {
        return;
    }
    let node = Node::new("agents");
    sh("ip link set lo up && ip link add wire0 type veth peer name wire1 && ip link set wire1 up");
    sh("ip addr add 10.78.0.1/24 dev wire0 && ip link set wire0 up");
    let address = ocf("IPaddr2").with("ip", "10.78.0.50").with("cidr_netmask", "24").with("nic", "wire0");
    node.live(&address).await;
    assert!(sh("ip -o addr show dev wire0").contains("10.78.0.50/24"));
    node.end(&address).await;

    let image = node.dir.path("image");
    sh(&format!("truncate -s 64M {0} && mkfs.ext4 -q {0}", image.display()));
    let device = Loop::new(&image);
    let point = node.dir.path("mount");
    fs::create_dir(&point).unwrap();
    let file_system = ocf("Filesystem")
        .with("device", device.0.as_str())
        .with("directory", point.display().to_string())
        .with("fstype", "ext4");
    node.live(&file_system).await;
    assert!(release::is_mounted(&point));
    fs::write(point.join("file"), "kept").unwrap();
    node.end(&file_system).await;
    assert!(!release::is_mounted(&point));
}

/// A loop device that is detached with its test.
struct Loop(String);

impl Loop {
    fn new(image: &Path) -> Self {
        Self(sh(&format!("losetup --find --show {}", image.display())).trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").args(["-d", &self.0]).status();
    }
}

const POSTGRESQL: &str = "/usr/lib/postgresql/15/bin";

fn database(node: &Node, port: u16) -> Resource {
    let home = node.dir.text("db");
    sh(&format!("install -d -o postgres -g postgres {home} && chmod 755 {}", node.dir.0.display()));
    sh(&format!(
        "cd {home} && setpriv --reuid postgres --regid postgres --init-groups {POSTGRESQL}/initdb -D {home}/data -A trust"
    ));
    sh(&format!("echo \"unix_socket_directories = '{home}'\" >> {home}/data/postgresql.conf"));
    ocf("pgsql")
        .with("pgctl", format!("{POSTGRESQL}/pg_ctl"))
        .with("psql", "/usr/bin/psql")
        .with("pgdata", format!("{home}/data"))
        .with("config", format!("{home}/data/postgresql.conf"))
        .with("socketdir", home.clone())
        .with("logfile", format!("{home}/log"))
        .with("pgport", port.to_string())
}

/// Stops a database that a failed test left behind.
struct Cleanup(String);

impl Drop for Cleanup {
    fn drop(&mut self) {
        let stop = format!("{POSTGRESQL}/pg_ctl -D {} stop -m immediate", self.0);
        let line = format!("cd / && setpriv --reuid postgres --regid postgres --init-groups {stop}");
        let _ = std::process::Command::new("sh").args(["-c", &line]).output();
    }
}

fn query(node: &Node, port: u16, text: &str) -> String {
    sh(&format!("psql -h {} -p {port} -U postgres -Atc '{text}'", node.dir.text("db")))
}

#[tokio::test]
async fn postgresql_lives_dies_with_its_service_and_keeps_its_rows() {
    if !in_namespaces("postgresql_lives_dies_with_its_service_and_keeps_its_rows")
        || is_missing(AGENTS, "resource-agents")
        || is_missing(POSTGRESQL, "PostgreSQL 15")
    {
        return;
    }
    sh("ip link set lo up");
    let node = Node::new("pgsql");
    let resource = database(&node, 54321);
    let _cleanup = Cleanup(node.dir.text("db/data"));
    node.live(&resource).await;
    query(&node, 54321, "create table t as select 1 as row");
    let before = fs::read_to_string(node.dir.path("db/data/postmaster.pid")).unwrap();
    let pid = before.lines().next().unwrap().to_owned();
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim(), "0");
    // R12: a deposed node kills the programs without asking them.
    let killed =
        node.runner.kill_programs(std::slice::from_ref(&resource), Duration::from_secs(10)).await.unwrap();
    println!("killed: {killed:?}");
    assert!(killed.len() > 4, "its children too: {killed:?}");
    assert!(killed.iter().any(|one| one == &format!("postgres ({pid})")), "{killed:?}");
    wait_until("the postmaster gone", Duration::from_secs(60), || {
        // The agent takes a zombie for a living process: it must have been reaped.
        !Path::new(&format!("/proc/{pid}")).exists()
    });
    node.expect(&resource, Action::Monitor, Rc::NOT_RUNNING).await;
    node.expect(&resource, Action::Start, Rc::OK).await;
    assert_eq!(query(&node, 54321, "select row from t").trim(), "1");
    node.end(&resource).await;
}
