//! One way to run one operation of any resource.

use crate::{
    cgroup::Cgroup,
    command::Commands,
    guard, helpers,
    ocf::{self, Environment, Metadata},
    process, procfs,
    resource::{Action, Class, Operation, OperationResult, Rc, Resource, Status},
    systemd::Systemd,
};
use anshin_base::{Millis, Problem};
use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::process::Command;

/// How long an operation may take when neither the resource nor its agent says (Pacemaker's default).
const TIMEOUT: Millis = Millis(20_000);

/// Where things are on this node.
#[derive(Clone, Debug)]
pub struct Options {
    /// The root of the OCF agents.
    pub ocf_root: PathBuf,
    /// Where OCF agents keep their state (`HA_RSCTMP`).
    pub ocf_state_dir: PathBuf,
    /// anshin's run directory.
    pub run_dir: PathBuf,
    /// This node's name, as agents see it.
    pub node: String,
    /// The system bus; None asks `DBUS_SYSTEM_BUS_ADDRESS`, then the usual socket.
    pub bus: Option<String>,
    /// Where systemd reads settings that last until the next boot.
    pub systemd_run_dir: PathBuf,
    /// The guard's socket.
    pub guard_socket: PathBuf,
    /// The program `anshin`, for helper commands and the built-in `demo`.
    pub program: PathBuf,
}

impl Options {
    /// The usual places, for a node of this name.
    #[must_use]
    pub fn new(node: impl Into<String>, program: impl Into<PathBuf>) -> Self {
        Self {
            ocf_root: "/usr/lib/ocf".into(),
            ocf_state_dir: "/run/resource-agents".into(),
            run_dir: "/run/anshin".into(),
            node: node.into(),
            bus: None,
            systemd_run_dir: "/run/systemd/system".into(),
            guard_socket: "/run/anshin/guard.sock".into(),
            program: program.into(),
        }
    }
}

/// Runs operations. Cheap to clone; any number may run at once, but only one at a time per resource makes sense.
#[derive(Clone, Debug)]
pub struct Runner(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: Options,
    environment: Environment,
    commands: Commands,
    systemd: Systemd,
    descriptions: Mutex<HashMap<(String, String), Arc<Metadata>>>,
}

impl Runner {
    /// Prepares the helper commands and the agents' state directory.
    ///
    /// # Errors
    /// `agent-setup` if a directory cannot be made.
    pub fn new(options: Options) -> Result<Self, Problem> {
        let helper_dir = options.run_dir.join("helpers");
        let prepared = std::fs::create_dir_all(&options.ocf_state_dir)
            .and_then(|()| helpers::install(&helper_dir, &options.program));
        prepared.map_err(|error| {
            let place = options.run_dir.display();
            Problem::new("agent-setup", format!("agents cannot be run: {place}: {error}"))
        })?;
        let environment = Environment {
            root: options.ocf_root.clone(),
            state_dir: options.ocf_state_dir.clone(),
            helpers: helper_dir,
            node: options.node.clone(),
        };
        Ok(Self(Arc::new(Inner {
            commands: Commands::new(&options.run_dir),
            systemd: Systemd::new(options.bus.clone(), options.systemd_run_dir.clone()),
            environment,
            descriptions: Mutex::default(),
            options,
        })))
    }

    /// Where things are.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.0.options
    }

    /// The node's systemd.
    #[must_use]
    pub fn systemd(&self) -> &Systemd {
        &self.0.systemd
    }

    /// Runs one operation to its end or its timeout. Never fails otherwise than by what the result says. If the
    /// future is dropped, an agent that is running is killed.
    pub async fn run(&self, resource: &Resource, operation: &Operation) -> OperationResult {
        let begun = Instant::now();
        let mut result = match resource.check_name() {
            Err(problem) => OperationResult::from_problem(Rc::NOT_CONFIGURED, Status::Error, problem),
            Ok(()) => self.dispatch(resource, operation).await,
        };
        result.duration = process::millis(begun.elapsed());
        tracing::debug!(
            resource = resource.name,
            agent = resource.label(),
            action = operation.action.word(),
            rc = %result.rc,
            reason = result.reason,
            duration = %result.duration,
            "operation ended"
        );
        result
    }

    async fn dispatch(&self, resource: &Resource, operation: &Operation) -> OperationResult {
        let timeout = self.timeout(resource, operation).await;
        let length = Duration::from_millis(timeout.0);
        match resource.class {
            Class::Ocf => self.run_ocf(resource, operation, timeout).await,
            Class::Systemd => self.0.systemd.run(&resource.kind, operation.action, length).await,
            Class::Command => self.0.commands.run(resource, operation.action, length).await,
            Class::Builtin => self.run_builtin(resource, operation.action, length).await,
        }
    }

    /// What is wrong with a resource, before it is ever started: its agent is missing here, parameters are missing,
    /// unknown or malformed, a unit runs nothing.
    pub async fn check(&self, resource: &Resource) -> Vec<Problem> {
        if let Err(problem) = resource.check_name() {
            return vec![problem];
        }
        match resource.class {
            Class::Ocf => match self.metadata(resource).await {
                Ok(metadata) => metadata.check(resource),
                Err(problem) => vec![problem],
            },
            Class::Systemd => self.0.systemd.check(&resource.kind).await.err().into_iter().collect(),
            Class::Command | Class::Builtin => {
                let result = self.run(resource, &Operation::new(Action::ValidateAll)).await;
                let problem = |reason| Problem { hint: result.hint, ..Problem::new("bad-resource", reason) };
                result.reason.map(problem).into_iter().collect()
            }
        }
    }

    /// The resource is anshin's no longer: the node's own manager may do again what it was kept from.
    ///
    /// # Errors
    /// What systemd, or the file system, says.
    pub async fn release(&self, resource: &Resource) -> Result<(), Problem> {
        match resource.class {
            Class::Systemd => self.0.systemd.release(&resource.kind).await,
            Class::Ocf | Class::Command | Class::Builtin => Ok(()),
        }
    }

    /// The description of an OCF agent; asked once.
    ///
    /// # Errors
    /// `agent-missing` with the package to install, or `agent-metadata`.
    pub async fn metadata(&self, resource: &Resource) -> Result<Arc<Metadata>, Problem> {
        resource.check_name()?;
        let key = (resource.provider().to_owned(), resource.kind.clone());
        let known = |map: &Mutex<HashMap<_, Arc<Metadata>>>| map.lock().ok()?.get(&key).cloned();
        if let Some(metadata) = known(&self.0.descriptions) {
            return Ok(metadata);
        }
        self.agent(resource)?;
        let operation = Operation::new(Action::MetaData);
        let result = self.run_ocf(resource, &operation, TIMEOUT).await;
        if !result.is_ok() {
            let why = result.reason.unwrap_or_else(|| result.rc.to_string());
            return Err(Problem::new("agent-metadata", format!("{}: meta-data: {why}", resource.label())));
        }
        let metadata =
            Metadata::parse(&result.output).map_err(|problem| problem.context(resource.label()))?;
        let metadata = Arc::new(metadata);
        if let Ok(mut map) = self.0.descriptions.lock() {
            map.insert(key, metadata.clone());
        }
        Ok(metadata)
    }

    /// Kills the programs of a service at once, without asking them (R12): commands and units by their groups, what
    /// OCF agents started by the environment they gave it. Mounts and addresses are not touched. Returns what was
    /// killed, as `NAME (PID)`.
    ///
    /// # Errors
    /// `processes-remain` after trying all resources.
    pub async fn kill_programs(
        &self,
        resources: &[Resource],
        patience: Duration,
    ) -> Result<Vec<String>, Problem> {
        let mut killed = Vec::new();
        let mut failed = None;
        for resource in resources {
            let outcome = match resource.class {
                Class::Systemd => self.0.systemd.kill(&resource.kind, patience).await,
                Class::Command => self.kill_blocking(resource, patience, Self::kill_command).await,
                Class::Builtin => self.kill_blocking(resource, patience, Self::kill_command).await,
                Class::Ocf => self.kill_blocking(resource, patience, Self::kill_ocf).await,
            };
            match outcome {
                Ok(more) => killed.extend(more),
                Err(problem) => failed = Some(problem),
            }
        }
        failed.map_or(Ok(killed), Err)
    }

    /// After a stop that failed: ends the program's processes, and says that it is stopped if its own monitor says so then. One
    /// that cannot be stopped would keep its service where it is, and from running anywhere, until a person comes; its data
    /// stands the end of its processes as it stands the death of the server. Mounts and addresses are no programs.
    pub async fn stop_by_force(
        &self,
        resource: &Resource,
        failed: OperationResult,
        patience: Duration,
    ) -> OperationResult {
        let program = match resource.class {
            Class::Ocf => resource.kind != "Filesystem",
            Class::Builtin => resource.kind != "address",
            Class::Systemd | Class::Command => true,
        };
        if !program {
            return failed;
        }
        let killed = match self.kill_programs(std::slice::from_ref(resource), patience).await {
            Ok(killed) => killed,
            Err(problem) => {
                tracing::error!(resource = resource.name, %problem, "could not be stopped, nor killed");
                return failed;
            }
        };
        let looked = self.run(resource, &Operation::new(Action::Monitor)).await;
        if looked.rc != Rc::NOT_RUNNING {
            return failed;
        }
        let why = failed.reason.as_deref().unwrap_or_else(|| failed.rc.words());
        tracing::warn!(resource = resource.name, why, ?killed, "could not be stopped, and was killed");
        OperationResult { duration: failed.duration, ..OperationResult::done(Rc::OK) }
    }

    async fn kill_blocking(
        &self,
        resource: &Resource,
        patience: Duration,
        kill: fn(&Self, &Resource, Duration) -> Result<Vec<String>, Problem>,
    ) -> Result<Vec<String>, Problem> {
        let (runner, resource) = (self.clone(), resource.clone());
        let task = tokio::task::spawn_blocking(move || kill(&runner, &resource, patience));
        task.await.unwrap_or_else(|error| Err(Problem::new("internal", format!("killing stopped: {error}"))))
    }

    fn kill_command(&self, resource: &Resource, patience: Duration) -> Result<Vec<String>, Problem> {
        self.0.commands.kill(resource, patience)
    }

    fn kill_ocf(&self, resource: &Resource, patience: Duration) -> Result<Vec<String>, Problem> {
        let mark = format!("OCF_RESOURCE_INSTANCE={}", resource.name);
        let cgroup = Cgroup::of(&resource.name);
        // Looked for before the first is killed, see there.
        let mut find = procfs::marked_family(mark);
        let mut found = find();
        if let Some(cgroup) = &cgroup {
            found.extend(cgroup.members().into_iter().filter_map(procfs::alive));
            cgroup.kill();
        }
        let first = std::mem::take(&mut found);
        let mut first = Some(first);
        let killed =
            procfs::kill_all(|| first.take().unwrap_or_else(&mut find), patience).map_err(|left| {
                let message = format!("{}: still running: {}", resource.name, procfs::list(&left));
                Problem::new("processes-remain", message)
            })?;
        if let Some(cgroup) = cgroup {
            cgroup.remove();
        }
        Ok(killed.into_iter().map(|(pid, name)| format!("{name} ({pid})")).collect())
    }

    async fn timeout(&self, resource: &Resource, operation: &Operation) -> Millis {
        let own = operation.timeout.or_else(|| resource.timeouts.get(&operation.action).copied());
        match own {
            Some(timeout) => timeout,
            None if resource.class == Class::Ocf && operation.action != Action::MetaData => {
                let metadata = self.metadata(resource).await.ok();
                metadata.and_then(|metadata| metadata.timeout(operation.action)).unwrap_or(TIMEOUT)
            }
            None => TIMEOUT,
        }
    }

    fn agent(&self, resource: &Resource) -> Result<PathBuf, Problem> {
        let path = self.0.environment.agent(resource);
        if path.is_file() {
            return Ok(path);
        }
        let message = format!("{}: no agent {} on this node", resource.label(), path.display());
        let missing = Problem::new("agent-missing", message);
        Err(match resource.provider() {
            "heartbeat" => missing.hint("install the package resource-agents: apt install resource-agents"),
            provider => missing.hint(format!("install the package that brings the agents of `{provider}`")),
        })
    }

    async fn run_ocf(&self, resource: &Resource, operation: &Operation, timeout: Millis) -> OperationResult {
        let path = match self.agent(resource) {
            Ok(path) => path,
            Err(problem) => {
                return OperationResult::from_problem(Rc::NOT_INSTALLED, Status::NotInstalled, problem);
            }
        };
        let mut command = Command::new(path);
        command.arg(operation.action.word()).current_dir("/").env_clear();
        command.envs(self.0.environment.variables(resource, operation, timeout));
        if operation.action == Action::Start
            && let Some(cgroup) = Cgroup::create(&resource.name)
        {
            cgroup.take_in(&mut command);
        }
        match process::run(command, Duration::from_millis(timeout.0)).await {
            Err(error) => {
                let reason = format!("the agent cannot be run: {error}");
                OperationResult::failed(Rc::GENERIC, Status::Error, reason)
            }
            Ok(end) => {
                if operation.action == Action::Stop
                    && end.rc == Rc::OK
                    && let Some(cgroup) = Cgroup::of(&resource.name)
                {
                    cgroup.remove();
                }
                let said = ocf::exit_reason(&end.stderr).filter(|_| end.rc != Rc::OK);
                let output = match operation.action {
                    Action::MetaData => end.stdout,
                    _ => end.stdout + &end.stderr,
                };
                let done = OperationResult::done(end.rc);
                OperationResult { status: end.status, reason: end.reason.or(said), output, ..done }
            }
        }
    }

    async fn run_builtin(&self, resource: &Resource, action: Action, timeout: Duration) -> OperationResult {
        match resource.kind.as_str() {
            "address" => guard::operate(&self.0.options.guard_socket, resource, action, timeout).await,
            "demo" => match crate::demo::as_command(resource, &self.0.options.program) {
                Ok(command) => self.0.commands.run(&command, action, timeout).await,
                Err(problem) => OperationResult::from_problem(Rc::NOT_CONFIGURED, Status::Error, problem),
            },
            other => {
                let message = format!("there is no built-in resource `{other}`");
                let problem = Problem::new("no-such-builtin", message).hint("there are: address, demo");
                OperationResult::from_problem(Rc::NOT_INSTALLED, Status::NotInstalled, problem)
            }
        }
    }
}
