//! systemd units over D-Bus: starting and stopping by jobs and their completion signal, never by polling.
//!
//! The unit's files are not touched. While anshin runs a unit, a setting under `/run` keeps systemd from restarting it
//! by itself: what failed is restarted by the cluster, perhaps on another node.

mod bus;
mod unit;

pub use unit::Unit;

use crate::resource::{Action, OperationResult, Rc, Status};
use anshin_base::Problem;
use bus::Bus;
use std::{fs, io, path::PathBuf, time::Duration};
use zbus::OwnedObjectPath;

/// How long a question to systemd may take that is not the operation itself.
const QUESTION: Duration = Duration::from_secs(10);
/// How soon the processes that a dying unit starts are killed too.
const KILL_AGAIN: Duration = Duration::from_millis(100);

/// The systemd of this node.
#[derive(Debug)]
pub struct Systemd {
    bus: Bus,
    /// Where settings until the next boot lie.
    run_dir: PathBuf,
}

impl Systemd {
    /// Nothing is connected before it is needed. `address` None asks `DBUS_SYSTEM_BUS_ADDRESS`, then the usual socket.
    #[must_use]
    pub fn new(address: Option<String>, run_dir: PathBuf) -> Self {
        Self { bus: Bus::new(address), run_dir }
    }

    /// What systemd knows about a unit, loading it if necessary.
    ///
    /// # Errors
    /// `no-systemd` if it cannot be reached; what speaks against starting it: `no-such-unit` if it has no file,
    /// `unit-masked`, `unit-invalid` if systemd cannot read its file.
    pub async fn unit(&self, name: &str) -> Result<Unit, Problem> {
        let unit = self.look(name).await?;
        unit.check_startable()?;
        Ok(unit)
    }

    /// The same for a unit that may run although it could not be started again.
    async fn look(&self, name: &str) -> Result<Unit, Problem> {
        let path: OwnedObjectPath = self.bus.call("LoadUnit", &(name,)).await?;
        Unit::read(&self.bus, name, &path).await
    }

    /// Refuses a unit that cannot be protected because it runs no process of its own, and names its instances.
    /// Debian's `postgresql.service` is such a one: it starts and stops others and is active whatever they do.
    ///
    /// # Errors
    /// `unit-without-process`, `unit-enabled` if systemd starts it by itself at boot, or what [`Self::unit`] says.
    pub async fn check(&self, name: &str) -> Result<Unit, Problem> {
        let unit = self.unit(name).await?;
        if unit.runs_a_process() {
            unit.check_not_enabled()?;
            return Ok(unit);
        }
        let instances = self.parts(&unit).await;
        let message = format!("{name} runs no process of its own ({})", unit.what_it_does());
        let problem = Problem::new("unit-without-process", message);
        Err(match instances.as_slice() {
            [] => problem.hint("name the unit that runs the program itself"),
            [one] => problem.hint(format!("it stands for {one}: protect that")),
            many => problem.hint(format!("it stands for {}: protect one of them", many.join(", "))),
        })
    }

    /// Starts the unit and waits for its job to end.
    ///
    /// # Errors
    /// With systemd's own word for what went wrong.
    pub async fn start(&self, name: &str, timeout: Duration) -> Result<(), Problem> {
        self.unit(name).await?;
        self.hold_restarts(name).await?;
        // How often a unit may start is the cluster's to decide; systemd counts our starts too, and refuses at some
        // point. Not loaded means not counted.
        match self.bus.call::<()>("ResetFailedUnit", &(name,)).await {
            Err(problem) if problem.code != "no-such-unit" => return Err(problem),
            _ => {}
        }
        self.job("StartUnit", name, timeout).await
    }

    /// Stops the unit and waits for its job to end. A unit that is not there is stopped.
    ///
    /// # Errors
    /// With systemd's own word for what went wrong.
    pub async fn stop(&self, name: &str, timeout: Duration) -> Result<(), Problem> {
        match self.job("StopUnit", name, timeout).await {
            Err(problem) if problem.code == "no-such-unit" => Ok(()),
            outcome => outcome,
        }
    }

    /// Kills every process of the unit at once (R12), and leaves it to systemd to notice.
    ///
    /// # Errors
    /// `processes-remain` if it is not down after `patience`.
    pub async fn kill(&self, name: &str, patience: Duration) -> Result<Vec<String>, Problem> {
        let unit = self.look(name).await?;
        if unit.is_down() {
            return Ok(Vec::new());
        }
        self.kill_all(name).await?;
        // The stop job ends when nothing of the unit is left, and keeps systemd from starting it again. What the unit
        // itself would do to stop is killed too, because it may take as long as it likes.
        let mut stop = std::pin::pin!(self.job("StopUnit", name, patience));
        let stopped = loop {
            match tokio::time::timeout(KILL_AGAIN, &mut stop).await {
                Ok(stopped) => break stopped,
                Err(_) => self.kill_all(name).await?,
            }
        };
        stopped.map_err(|problem| Problem {
            code: "processes-remain".to_owned(),
            ..problem.context(format!("killing {name}"))
        })?;
        let main = if unit.main_pid > 0 { format!(" ({})", unit.main_pid) } else { String::new() };
        Ok(vec![format!("{name}{main}")])
    }

    async fn kill_all(&self, name: &str) -> Result<(), Problem> {
        match self.bus.call::<()>("KillUnit", &(name, "all", libc::SIGKILL)).await {
            Err(problem) if !["no-such-process", "no-such-unit"].contains(&problem.code.as_str()) => {
                Err(problem)
            }
            _ => Ok(()),
        }
    }

    /// Lets systemd restart the unit by itself again, once the unit is no longer anshin's.
    ///
    /// # Errors
    /// If the setting cannot be removed.
    pub async fn release(&self, name: &str) -> Result<(), Problem> {
        match fs::remove_dir_all(self.setting_dir(name)) {
            Ok(()) => self.bus.call("Reload", &()).await,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(self.setting_problem(name, &error)),
        }
    }

    /// Runs one operation.
    pub(crate) async fn run(&self, name: &str, action: Action, timeout: Duration) -> OperationResult {
        let outcome = match action {
            Action::Start => self.start(name, timeout).await,
            Action::Stop => self.stop(name, timeout).await,
            Action::Monitor => return self.monitor(name, timeout.min(QUESTION)).await,
            Action::ValidateAll => self.check(name).await.map(|_| ()),
            Action::MetaData => return OperationResult::done(Rc::UNIMPLEMENTED),
        };
        outcome.map_or_else(result_of, |()| OperationResult::done(Rc::OK))
    }

    async fn monitor(&self, name: &str, timeout: Duration) -> OperationResult {
        let unit = match tokio::time::timeout(timeout, self.look(name)).await {
            Ok(Ok(unit)) => unit,
            Ok(Err(problem)) => return result_of(problem),
            Err(_) => return result_of(Problem::new("unit-timeout", "systemd does not answer")),
        };
        match unit.check_startable() {
            // What runs runs, even if its file was removed or masked since.
            Err(problem) if unit.is_down() => OperationResult {
                hint: problem.hint,
                ..OperationResult::failed(Rc::NOT_RUNNING, Status::Done, problem.message)
            },
            _ => unit.as_monitor(),
        }
    }

    async fn job(&self, method: &'static str, name: &str, timeout: Duration) -> Result<(), Problem> {
        let job = self.bus.job(method, name);
        let timed_out = |_| {
            let message = format!("{name}: not finished after {} ms", timeout.as_millis());
            Problem::new("unit-timeout", message)
        };
        let result = tokio::time::timeout(timeout, job).await.map_err(timed_out)??;
        match result.as_str() {
            "done" | "skipped" => Ok(()),
            "timeout" => Err(Problem::new("unit-timeout", format!("{name}: systemd's own timeout"))
                .hint(format!("journalctl -u {name} shows why"))),
            other => {
                let why = self.look(name).await.map(|unit| unit.result).unwrap_or_default();
                let message = format!("{name}: the job ended as `{other}`, the unit says `{why}`");
                Err(Problem::new("unit-failed", message).hint(format!("journalctl -u {name} shows why")))
            }
        }
    }

    /// The units that an umbrella stands for: its instances, and those that say they are part of it.
    async fn parts(&self, unit: &Unit) -> Vec<String> {
        let stem = unit.name.strip_suffix(".service").unwrap_or(&unit.name);
        let pattern = format!("{stem}@*.service");
        let listed = self.bus.units(&pattern).await.unwrap_or_default();
        let mut parts: Vec<String> = listed.into_iter().chain(unit.consists_of.iter().cloned()).collect();
        parts.sort_unstable();
        parts.dedup();
        parts.truncate(10);
        parts
    }

    /// Tells systemd not to restart the unit by itself, once per boot: a reload of all units costs time.
    async fn hold_restarts(&self, name: &str) -> Result<(), Problem> {
        const SETTING: &str = "# While anshin runs this unit, anshin restarts it.\n[Service]\nRestart=no\n";
        if !name.ends_with(".service") {
            return Ok(());
        }
        let dir = self.setting_dir(name);
        let file = dir.join("50-anshin.conf");
        if fs::read_to_string(&file).is_ok_and(|text| text == SETTING) {
            return Ok(());
        }
        let written = fs::create_dir_all(&dir).and_then(|()| fs::write(&file, SETTING));
        written.map_err(|error| self.setting_problem(name, &error))?;
        self.bus.call("Reload", &()).await
    }

    fn setting_dir(&self, name: &str) -> PathBuf {
        self.run_dir.join(format!("{name}.d"))
    }

    fn setting_problem(&self, name: &str, error: &io::Error) -> Problem {
        let place = self.setting_dir(name);
        Problem::new("unit-setting", format!("{}: {error}", place.display()))
    }
}

/// A problem as the answer of an operation.
fn result_of(problem: Problem) -> OperationResult {
    let (rc, status) = match problem.code.as_str() {
        "no-such-unit" | "unit-masked" | "unit-invalid" => (Rc::NOT_INSTALLED, Status::NotInstalled),
        "unit-without-process" | "unit-enabled" => (Rc::NOT_CONFIGURED, Status::Done),
        "unit-timeout" => (Rc::GENERIC, Status::TimedOut),
        "unit-failed" => (Rc::GENERIC, Status::Done),
        _ => (Rc::GENERIC, Status::Error),
    };
    OperationResult::from_problem(rc, status, problem)
}
