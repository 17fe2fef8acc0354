//! Units over a real bus, served by a stand-in for systemd's manager.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test program, its helpers included

mod common;

use anshin_agent::{
    Action, Class, Operation, OperationResult, Options, Rc, Resource, Runner, Status, systemd::Systemd,
};
use anshin_base::Millis;
use common::{Dir, Running, is_missing};
use std::{
    collections::BTreeMap,
    fs,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};
use zbus::{
    Connection, ObjectPath, OwnedObjectPath, connection, fdo, interface, object_server::SignalEmitter,
};

type Exec = (String, Vec<String>, bool, u64, u64, u64, u64, u32, i32, i32);

/// One unit of the stand-in.
#[derive(Clone)]
struct Fake {
    active: String,
    sub: String,
    kind: String,
    exec: String,
    result: String,
    main_pid: u32,
    /// How its next jobs end; None never.
    job: Option<String>,
    consists_of: Vec<String>,
    file_state: String,
}

fn program(exec: &str) -> Fake {
    Fake {
        active: "inactive".to_owned(),
        sub: "dead".to_owned(),
        kind: "notify".to_owned(),
        exec: exec.to_owned(),
        result: "success".to_owned(),
        main_pid: 0,
        job: Some("done".to_owned()),
        consists_of: Vec::new(),
        file_state: "disabled".to_owned(),
    }
}

type Units = Arc<Mutex<BTreeMap<String, Fake>>>;

struct Manager {
    units: Units,
    subscribed: bool,
    reloads: Arc<Mutex<u32>>,
    jobs: u32,
}

fn unit_path(name: &str) -> OwnedObjectPath {
    let escaped: String = name
        .bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("_{b:02x}") })
        .collect();
    ObjectPath::try_from(format!("/org/freedesktop/systemd1/unit/{escaped}")).unwrap().into()
}

#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.freedesktop.systemd1")]
enum SystemdError {
    #[zbus(error)]
    ZBus(zbus::Error),
    NoSuchUnit(String),
}

impl Manager {
    /// Queues a job whose end is signalled a moment later, as systemd does.
    fn queue(
        &mut self,
        name: &str,
        connection: &Connection,
        change: impl FnOnce(&mut Fake),
    ) -> Result<OwnedObjectPath, SystemdError> {
        let mut units = self.units.lock().unwrap();
        let unit =
            units.get_mut(name).ok_or_else(|| SystemdError::NoSuchUnit(format!("Unit {name} not found.")))?;
        self.jobs += 1;
        let job: OwnedObjectPath =
            ObjectPath::try_from(format!("/org/freedesktop/systemd1/job/{}", self.jobs)).unwrap().into();
        if let Some(result) = unit.job.clone() {
            if result == "done" {
                change(unit);
            } else {
                (unit.active, unit.result) = ("failed".to_owned(), "exit-code".to_owned());
            }
            let (connection, path, name) = (connection.clone(), job.clone(), name.to_owned());
            let (number, subscribed) = (self.jobs, self.subscribed);
            tokio::spawn(async move {
                let emitter = SignalEmitter::new(&connection, "/org/freedesktop/systemd1").unwrap();
                let other = OwnedObjectPath::from(ObjectPath::try_from("/other/job").unwrap());
                if subscribed {
                    Manager::job_removed(&emitter, 77, other, "other.service", "failed").await.unwrap();
                    Manager::job_removed(&emitter, number, path, &name, &result).await.unwrap();
                }
            });
        }
        Ok(job)
    }
}

#[interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    fn load_unit(&self, name: &str) -> OwnedObjectPath {
        unit_path(name)
    }

    fn subscribe(&mut self) {
        self.subscribed = true;
    }

    fn reset_failed_unit(&self, _name: &str) {}

    fn reload(&self) {
        *self.reloads.lock().unwrap() += 1;
    }

    fn start_unit(
        &mut self,
        name: &str,
        _mode: &str,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath, SystemdError> {
        self.queue(name, connection, |unit| {
            (unit.active, unit.sub, unit.main_pid) = ("active".to_owned(), "running".to_owned(), 4711);
        })
    }

    fn stop_unit(
        &mut self,
        name: &str,
        _mode: &str,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath, SystemdError> {
        self.queue(name, connection, |unit| {
            (unit.active, unit.sub, unit.main_pid) = ("inactive".to_owned(), "dead".to_owned(), 0);
        })
    }

    fn kill_unit(&self, name: &str, _whom: &str, signal: i32) -> fdo::Result<()> {
        assert_eq!(signal, 9);
        let mut units = self.units.lock().unwrap();
        let unit = units.get_mut(name).unwrap();
        (unit.active, unit.main_pid) = ("failed".to_owned(), 0);
        Ok(())
    }

    #[allow(clippy::type_complexity)] // systemd's own signature
    fn list_units_by_patterns(
        &self,
        _states: Vec<String>,
        patterns: Vec<String>,
    ) -> Vec<(String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath)>
    {
        let stem = patterns[0].strip_suffix("*.service").unwrap().to_owned();
        let none = || OwnedObjectPath::from(ObjectPath::try_from("/").unwrap());
        let text = String::new;
        let units = self.units.lock().unwrap();
        let named = units.keys().filter(|name| name.starts_with(&stem)).cloned();
        named.map(|name| (name, text(), text(), text(), text(), text(), none(), 0, text(), none())).collect()
    }

    #[zbus(signal)]
    async fn job_removed(
        emitter: &SignalEmitter<'_>,
        id: u32,
        job: OwnedObjectPath,
        unit: &str,
        result: &str,
    ) -> zbus::Result<()>;
}

struct General(String, Units);

impl General {
    fn of<T>(&self, get: impl FnOnce(&Fake) -> T) -> Option<T> {
        self.1.lock().unwrap().get(&self.0).map(get)
    }
}

#[interface(name = "org.freedesktop.systemd1.Unit")]
impl General {
    #[zbus(property)]
    fn id(&self) -> String {
        self.0.clone()
    }
    #[zbus(property)]
    fn load_state(&self) -> String {
        self.of(|_| "loaded").unwrap_or("not-found").to_owned()
    }
    #[zbus(property)]
    fn active_state(&self) -> String {
        self.of(|unit| unit.active.clone()).unwrap_or_else(|| "inactive".to_owned())
    }
    #[zbus(property)]
    fn sub_state(&self) -> String {
        self.of(|unit| unit.sub.clone()).unwrap_or_else(|| "dead".to_owned())
    }
    #[zbus(property)]
    fn unit_file_state(&self) -> String {
        self.of(|unit| unit.file_state.clone()).unwrap_or_default()
    }
    #[zbus(property)]
    fn consists_of(&self) -> Vec<String> {
        self.of(|unit| unit.consists_of.clone()).unwrap_or_default()
    }
}

struct Service(String, Units);

#[interface(name = "org.freedesktop.systemd1.Service")]
impl Service {
    #[zbus(property, name = "Type")]
    fn kind(&self) -> String {
        self.1.lock().unwrap()[&self.0].kind.clone()
    }
    #[zbus(property)]
    fn exec_start(&self) -> Vec<Exec> {
        let line = self.1.lock().unwrap()[&self.0].exec.clone();
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        vec![(words[0].clone(), words, false, 0, 0, 0, 0, 0, 0, 0)]
    }
    #[zbus(property)]
    fn result(&self) -> String {
        self.1.lock().unwrap()[&self.0].result.clone()
    }
    #[zbus(property)]
    fn control_group(&self) -> String {
        format!("/system.slice/{}", self.0)
    }
    #[zbus(property, name = "MainPID")]
    fn main_pid(&self) -> u32 {
        self.1.lock().unwrap()[&self.0].main_pid
    }
}

/// A bus of its own with the stand-in on it.
struct Node {
    dir: Dir,
    units: Units,
    reloads: Arc<Mutex<u32>>,
    runner: Runner,
    _bus: Running,
    _manager: Connection,
}

impl Node {
    /// None if there is no bus program on this machine.
    async fn new(name: &str, units: &[(&str, Fake)]) -> Option<Self> {
        if is_missing("/usr/bin/dbus-daemon", "dbus-daemon") {
            return None;
        }
        let dir = Dir::new(name);
        let address = format!("unix:path={}", dir.text("bus"));
        let configuration = format!(
            "<busconfig><type>system</type><listen>{address}</listen><auth>EXTERNAL</auth><policy context='default'>\
             <allow send_destination='*' eavesdrop='true'/><allow eavesdrop='true'/><allow own='*'/></policy></busconfig>"
        );
        fs::write(dir.path("bus.conf"), configuration).unwrap();
        let mut bus = Command::new("dbus-daemon");
        bus.arg(format!("--config-file={}", dir.text("bus.conf"))).args(["--nofork", "--nopidfile"]);
        let bus = Running::start(bus.stderr(Stdio::inherit()));
        common::wait_until("the bus", Duration::from_secs(10), || {
            std::os::unix::net::UnixStream::connect(dir.path("bus")).is_ok()
        });
        let all: BTreeMap<String, Fake> =
            units.iter().map(|(name, unit)| ((*name).to_owned(), unit.clone())).collect();
        let names: Vec<String> = all.keys().cloned().chain(["missing.service".to_owned()]).collect();
        let units = Arc::new(Mutex::new(all));
        let reloads = Arc::new(Mutex::new(0));
        let served = Manager { units: units.clone(), subscribed: false, reloads: reloads.clone(), jobs: 0 };
        let mut builder = connection::Builder::address(address.as_str())
            .name("org.freedesktop.systemd1")
            .serve_at("/org/freedesktop/systemd1", served);
        for name in names {
            builder = builder
                .serve_at(unit_path(&name), General(name.clone(), units.clone()))
                .serve_at(unit_path(&name), Service(name.clone(), units.clone()));
        }
        let manager = builder.build().await.unwrap();
        let mut options = Options::new("alpha", "/nonexistent/anshin");
        options.run_dir = dir.path("run");
        options.ocf_state_dir = dir.path("agents");
        options.systemd_run_dir = dir.path("systemd");
        options.bus = Some(address);
        let runner = Runner::new(options).unwrap();
        Some(Self { dir, units, reloads, runner, _bus: bus, _manager: manager })
    }

    async fn run(&self, unit: &str, action: Action) -> OperationResult {
        let resource = Resource::new("r", Class::Systemd, unit);
        self.runner.run(&resource, &Operation::new(action).within(Millis(5_000))).await
    }

    fn set(&self, unit: &str, change: impl FnOnce(&mut Fake)) {
        change(self.units.lock().unwrap().get_mut(unit).unwrap());
    }
}

const WEB: &str = "web.service";

#[tokio::test]
async fn a_unit_is_started_monitored_and_stopped_by_its_jobs() {
    let Some(node) = Node::new("unit-life", &[(WEB, program("/usr/sbin/web -D"))]).await else { return };
    assert_eq!(node.run(WEB, Action::ValidateAll).await.rc, Rc::OK);
    assert_eq!(node.run(WEB, Action::Monitor).await.rc, Rc::NOT_RUNNING);
    for _ in 0..2 {
        assert_eq!(node.run(WEB, Action::Start).await.rc, Rc::OK);
    }
    assert_eq!(node.run(WEB, Action::Monitor).await.rc, Rc::OK);
    let unit = node.runner.systemd().unit(WEB).await.unwrap();
    assert_eq!((unit.main_pid, unit.service_type.as_str()), (4711, "notify"));
    assert_eq!(unit.exec_start, [["/usr/sbin/web", "-D"]]);
    assert_eq!(node.run(WEB, Action::Stop).await.rc, Rc::OK);
    assert_eq!(node.run(WEB, Action::Monitor).await.rc, Rc::NOT_RUNNING);
}

#[tokio::test]
async fn systemd_does_not_restart_what_anshin_runs_and_may_again_after_release() {
    let Some(node) = Node::new("unit-hold", &[(WEB, program("/usr/sbin/web"))]).await else { return };
    let setting = node.dir.path("systemd/web.service.d/50-anshin.conf");
    for _ in 0..2 {
        assert_eq!(node.run(WEB, Action::Start).await.rc, Rc::OK);
    }
    assert!(fs::read_to_string(&setting).unwrap().contains("Restart=no"));
    assert_eq!(*node.reloads.lock().unwrap(), 1, "reloading costs time: once is enough");
    node.runner.release(&Resource::new("r", Class::Systemd, WEB)).await.unwrap();
    assert!(!setting.exists());
    assert_eq!(*node.reloads.lock().unwrap(), 2);
}

#[tokio::test]
async fn a_failed_job_and_one_that_never_ends_are_told_apart() {
    let Some(node) = Node::new("unit-fail", &[(WEB, program("/usr/sbin/web"))]).await else { return };
    node.set(WEB, |unit| unit.job = Some("failed".to_owned()));
    let failed = node.run(WEB, Action::Start).await;
    assert_eq!((failed.rc, failed.status), (Rc::GENERIC, Status::Done));
    assert!(failed.reason.unwrap().contains("the unit says `exit-code`"));
    assert!(failed.hint.unwrap().contains("journalctl -u web.service"));
    node.set(WEB, |unit| unit.job = None);
    let resource = Resource::new("r", Class::Systemd, WEB);
    let stop = Operation::new(Action::Stop).within(Millis(100));
    let endless = node.runner.run(&resource, &stop).await;
    assert_eq!((endless.rc, endless.status), (Rc::GENERIC, Status::TimedOut));
}

#[tokio::test]
async fn a_unit_that_starts_at_boot_is_refused_with_what_to_do() {
    let Some(node) = Node::new("unit-enabled", &[(WEB, program("/usr/sbin/web"))]).await else { return };
    assert_eq!(node.runner.systemd().check(WEB).await.map(|unit| unit.name).unwrap(), WEB);
    node.set(WEB, |unit| unit.file_state = "enabled".to_owned());
    let refused = node.runner.systemd().check(WEB).await.unwrap_err();
    assert!(refused.code == "unit-enabled" && refused.refused_for_safety, "{refused}");
    assert!(refused.hint.unwrap().contains("systemctl disable web.service"));
    assert_eq!(node.run(WEB, Action::Start).await.rc, Rc::OK, "what is protected already still starts");
}

#[tokio::test]
async fn debians_umbrella_is_refused_and_its_instances_are_named() {
    let mut umbrella = program("/bin/true");
    (umbrella.kind, umbrella.active, umbrella.sub) = ("oneshot".into(), "active".into(), "exited".into());
    umbrella.consists_of = vec!["postgresql@15-main.service".to_owned()];
    let mut instance = program("/usr/bin/pg_ctlcluster --skip-systemctl-redirect 15-main start");
    instance.kind = "forking".to_owned();
    let units = [("postgresql.service", umbrella), ("postgresql@15-main.service", instance)];
    let Some(node) = Node::new("unit-umbrella", &units).await else { return };
    let resource = Resource::new("db", Class::Systemd, "postgresql.service");
    let problems = node.runner.check(&resource).await;
    assert_eq!(problems[0].code, "unit-without-process");
    let hint = problems[0].hint.as_deref();
    assert_eq!(hint, Some("it stands for postgresql@15-main.service: protect that"));
    let instance = Resource::new("db", Class::Systemd, "postgresql@15-main.service");
    assert_eq!(node.runner.check(&instance).await, []);
}

#[tokio::test]
async fn a_missing_unit_does_not_run_cannot_start_and_is_stopped() {
    let Some(node) = Node::new("unit-missing", &[(WEB, program("/usr/sbin/web"))]).await else { return };
    assert_eq!(node.run("missing.service", Action::Monitor).await.rc, Rc::NOT_RUNNING);
    let started = node.run("missing.service", Action::Start).await;
    assert_eq!((started.rc, started.status), (Rc::NOT_INSTALLED, Status::NotInstalled));
    assert_eq!(node.run("missing.service", Action::Stop).await.rc, Rc::OK);
    let resource = Resource::new("r", Class::Systemd, "missing.service");
    assert_eq!(node.runner.check(&resource).await[0].code, "no-such-unit");
}

#[tokio::test]
async fn a_deposed_nodes_unit_is_killed_without_being_asked() {
    let Some(node) = Node::new("unit-kill", &[(WEB, program("/usr/sbin/web"))]).await else { return };
    assert_eq!(node.run(WEB, Action::Start).await.rc, Rc::OK);
    let resources = [Resource::new("r", Class::Systemd, WEB)];
    let killed = node.runner.kill_programs(&resources, Duration::from_secs(5)).await.unwrap();
    assert_eq!(killed, ["web.service (4711)"]);
    assert_eq!(node.run(WEB, Action::Monitor).await.rc, Rc::NOT_RUNNING);
    assert_eq!(node.runner.kill_programs(&resources, Duration::from_secs(5)).await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn a_node_without_a_bus_says_so() {
    let systemd = Systemd::new(Some("unix:path=/nonexistent/bus".to_owned()), "/nonexistent".into());
    assert_eq!(systemd.unit(WEB).await.unwrap_err().code, "no-systemd");
}
