//! Plain commands: programs that anshin starts itself and that outlive its daemon.
//!
//! The program runs in a session of its own, with a mark in its environment, and in a cgroup where cgroup v2 can be
//! written. Its number and start time are recorded under the run directory, so that a restarted daemon knows it.
//!
//! | parameter | meaning |
//! |---|---|
//! | `start` | the command line, run by `/bin/sh -c` in the foreground; must be given |
//! | `stop` | a command line that asks it to end; without it the program's process group gets SIGTERM |
//! | `check` | a command line that exits 0 while the service is well |
//! | `directory` | where it runs; `/` if not given |
//! | `user` | as whom it runs; root if not given |
//! | `log` | a file its output is added to; without it the last of it is kept under the run directory |
//! | `grace` | seconds between asking it to end and SIGKILL; 10 if not given |

mod record;

use crate::{
    cgroup::Cgroup,
    process,
    procfs::{self, Identity},
    resource::{Action, OperationResult, Rc, Resource, Status},
};
use anshin_base::Problem;
use record::Record;
use rustix::process::Signal;
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::process::Command;

/// How long a started program must live before its start counts, when there is no check to ask. Long enough for a
/// wrong option or a missing file to show, short because a service is waiting.
const SETTLE: Duration = Duration::from_millis(50);
/// How often a condition is looked at while waiting for it.
const STEP: Duration = Duration::from_millis(10);
/// Default of the parameter `grace`.
const GRACE: Duration = Duration::from_secs(10);
/// Kept of each operation's time for killing what did not end politely.
const KILL_RESERVE: Duration = Duration::from_secs(1);
/// The kept output is cut to nothing when it grows beyond this; it lies in memory.
const LOG_SIZE_MAX: u64 = 1 << 20;
/// Marks every process of a command: the value is the path of its record, unique on the machine.
const MARK: &str = "ANSHIN_COMMAND";

/// The plain commands of one node.
#[derive(Clone, Debug)]
pub struct Commands {
    directory: PathBuf,
}

impl Commands {
    /// Keeps records under `run_dir`/commands.
    #[must_use]
    pub fn new(run_dir: &Path) -> Self {
        Self { directory: run_dir.join("commands") }
    }

    /// Runs one operation.
    pub(crate) async fn run(
        &self,
        resource: &Resource,
        action: Action,
        timeout: Duration,
    ) -> OperationResult {
        let outcome = match action {
            Action::Start => self.start(resource, timeout).await,
            Action::Stop => self.stop(resource, timeout).await,
            Action::Monitor => self.monitor(resource, timeout).await,
            Action::ValidateAll => validate(resource).map(|()| OperationResult::done(Rc::OK)),
            Action::MetaData => Ok(OperationResult::done(Rc::UNIMPLEMENTED)),
        };
        outcome.unwrap_or_else(|problem| {
            OperationResult::from_problem(Rc::NOT_CONFIGURED, Status::Error, problem)
        })
    }

    /// Kills every process of the command at once (R12). Blocks.
    ///
    /// # Errors
    /// `processes-remain` if some are still there after `patience`.
    pub fn kill(&self, resource: &Resource, patience: Duration) -> Result<Vec<String>, Problem> {
        let cgroup = Cgroup::of(&resource.name);
        if let Some(cgroup) = &cgroup {
            cgroup.kill();
        }
        let killed = procfs::kill_all(|| self.members(resource), patience).map_err(|left| {
            let message = format!("{}: still running: {}", resource.name, procfs::list(&left));
            Problem::new("processes-remain", message)
        })?;
        Record::remove(&self.record(resource));
        if let Some(cgroup) = cgroup {
            cgroup.remove();
        }
        Ok(killed.into_iter().map(|(pid, name)| format!("{name} ({pid})")).collect())
    }

    async fn start(&self, resource: &Resource, timeout: Duration) -> Result<OperationResult, Problem> {
        validate(resource)?;
        let begun = Instant::now();
        if self.leader(resource).is_some() {
            return Ok(OperationResult::done(Rc::OK));
        }
        // What an earlier start left behind would be a second writer.
        self.kill_soon(resource).await?;
        let leader = self.spawn(resource).map_err(|error| {
            Problem::new("command-start", format!("{} cannot be started: {error}", resource.name))
        })?;
        loop {
            tokio::time::sleep(if resource.parameter("check").is_some() { STEP } else { SETTLE }).await;
            if procfs::alive(leader.pid) != Some(leader) {
                let reason = format!("it ended at once{}", self.last_words(resource));
                self.kill_soon(resource).await?;
                return Ok(OperationResult::failed(Rc::GENERIC, Status::Done, reason));
            }
            let left = timeout.saturating_sub(begun.elapsed());
            let checked = check(resource, left).await;
            if checked.is_ok() || left.is_zero() {
                return Ok(checked);
            }
        }
    }

    async fn stop(&self, resource: &Resource, timeout: Duration) -> Result<OperationResult, Problem> {
        let begun = Instant::now();
        let grace = grace(resource).min(timeout.saturating_sub(KILL_RESERVE));
        let leader = self.leader(resource);
        if let Some(line) = resource.parameter("stop").filter(|_| leader.is_some()) {
            // Its answer does not matter: what counts is whether the program ends.
            let _ = process::run(self.shell(resource, line)?, grace).await;
        } else if let Some(group) = leader.and_then(|leader| rustix::process::Pid::from_raw(leader.pid)) {
            // The leader lives and made its own session, so the group of its number is its own.
            let _ = rustix::process::kill_process_group(group, Signal::TERM);
        }
        while leader.is_some_and(|leader| procfs::alive(leader.pid) == Some(leader))
            && begun.elapsed() < grace
        {
            tokio::time::sleep(STEP).await;
        }
        self.kill_soon(resource).await?;
        Ok(OperationResult::done(Rc::OK))
    }

    async fn monitor(&self, resource: &Resource, timeout: Duration) -> Result<OperationResult, Problem> {
        self.bound_log(resource);
        if self.leader(resource).is_some() {
            return Ok(check(resource, timeout).await);
        }
        let left = self.members(resource);
        if left.is_empty() {
            return Ok(OperationResult::done(Rc::NOT_RUNNING));
        }
        let names: Vec<_> = left.iter().map(|left| (left.pid, procfs::name(left.pid))).collect();
        let reason = format!("the program ended and left {}", procfs::list(&names));
        Ok(OperationResult::failed(Rc::GENERIC, Status::Done, reason))
    }

    /// The recorded program, if it is the one that still runs.
    fn leader(&self, resource: &Resource) -> Option<Identity> {
        let record = Record::read(&self.record(resource))?;
        procfs::alive(record.identity().pid).filter(|now| *now == record.identity())
    }

    fn members(&self, resource: &Resource) -> Vec<Identity> {
        let mut found = procfs::with_environment(&format!("{MARK}={}", self.record(resource).display()));
        found.extend(self.leader(resource));
        if let Some(cgroup) = Cgroup::of(&resource.name) {
            found.extend(cgroup.members().into_iter().filter_map(procfs::alive));
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    async fn kill_soon(&self, resource: &Resource) -> Result<(), Problem> {
        let (commands, resource) = (self.clone(), resource.clone());
        let killing = move || commands.kill(&resource, KILL_RESERVE).map(|_| ());
        tokio::task::spawn_blocking(killing).await.unwrap_or_else(|error| {
            Err(Problem::new("internal", format!("killing was interrupted: {error}")))
        })
    }

    fn spawn(&self, resource: &Resource) -> io::Result<Identity> {
        let line = resource.parameter("start").unwrap_or_default();
        let mut command = self.shell(resource, line).map_err(io::Error::other)?;
        fs::create_dir_all(&self.directory)?;
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log(resource))?;
        if resource.parameter("log").is_none() {
            log.set_len(0)?;
        }
        command.env(MARK, self.record(resource)).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        process::ordinary_process(&mut command);
        process::own_session(&mut command);
        if let Some(cgroup) = Cgroup::create(&resource.name) {
            cgroup.take_in(&mut command);
        }
        let mut child = command.spawn()?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
        let identity = procfs::stat(pid).map(|stat| stat.identity);
        // Reaped as soon as it ends; after a restart of the daemon that is the namespace's first process's job.
        tokio::spawn(async move { child.wait().await });
        let identity = identity.ok_or_else(|| io::Error::other("it vanished"))?;
        if let Err(error) = Record::of(identity).write(&self.record(resource)) {
            procfs::signal(identity, Signal::KILL);
            return Err(error);
        }
        Ok(identity)
    }

    fn shell(&self, resource: &Resource, line: &str) -> Result<Command, Problem> {
        let mut command = match resource.parameter("user") {
            None => Command::new("/bin/sh"),
            Some(user) => {
                let (uid, gid) = account(user)?;
                let mut command = Command::new("setpriv");
                command.args([&format!("--reuid={uid}"), &format!("--regid={gid}"), "--init-groups"]);
                command.args(["--", "/bin/sh"]);
                command
            }
        };
        command.args(["-c", line]).current_dir(resource.parameter("directory").unwrap_or("/"));
        command.env("ANSHIN_RESOURCE", &resource.name);
        Ok(command)
    }

    fn record(&self, resource: &Resource) -> PathBuf {
        self.directory.join(format!("{}.json", resource.name))
    }

    fn log(&self, resource: &Resource) -> PathBuf {
        match resource.parameter("log") {
            Some(path) => PathBuf::from(path),
            None => self.directory.join(format!("{}.log", resource.name)),
        }
    }

    /// The kept output must not fill the memory it lies in. It is written at its end, so it can be cut at any time.
    fn bound_log(&self, resource: &Resource) {
        let path = self.log(resource);
        let long = fs::metadata(&path).is_ok_and(|at| at.len() > LOG_SIZE_MAX);
        if long && resource.parameter("log").is_none() {
            let _ = fs::OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(0));
        }
    }

    fn last_words(&self, resource: &Resource) -> String {
        let text = fs::read(self.log(resource)).unwrap_or_default();
        match String::from_utf8_lossy(&text).lines().rev().find(|line| !line.trim().is_empty()) {
            Some(line) => format!("; it said: {}", line.trim().chars().take(200).collect::<String>()),
            None => String::new(),
        }
    }
}

fn validate(resource: &Resource) -> Result<(), Problem> {
    const KNOWN: [&str; 7] = ["start", "stop", "check", "directory", "user", "log", "grace"];
    let place = format!("{} ({})", resource.name, resource.label());
    if resource.parameter("start").is_none() {
        return Err(Problem::new("missing-parameter", format!("{place}: `start` must be given"))
            .hint("start: the command line of the program, which stays in the foreground"));
    }
    if let Some(name) = resource.parameters.keys().find(|name| !KNOWN.contains(&name.as_str())) {
        return Err(Problem::new("unknown-parameter", format!("{place}: a command knows no `{name}`"))
            .hint(format!("it knows: {}", KNOWN.join(", "))));
    }
    if let Some(text) = resource.parameter("grace").filter(|text| text.parse::<u32>().is_err()) {
        return Err(Problem::new("bad-parameter", format!("{place}: `grace` is {text:?}, not seconds")));
    }
    resource.parameter("user").map_or(Ok(()), |user| account(user).map(|_| ()))
}

fn grace(resource: &Resource) -> Duration {
    let given = resource.parameter("grace").and_then(|text| text.parse::<u32>().ok());
    given.map_or(GRACE, |seconds| Duration::from_secs(u64::from(seconds)))
}

/// Asks the check command, if there is one.
async fn check(resource: &Resource, timeout: Duration) -> OperationResult {
    let Some(line) = resource.parameter("check") else { return OperationResult::done(Rc::OK) };
    let mut command = Command::new("/bin/sh");
    command.args(["-c", line]).current_dir(resource.parameter("directory").unwrap_or("/"));
    match process::run(command, timeout).await {
        Ok(end) if end.rc == Rc::OK && end.status == Status::Done => OperationResult::done(Rc::OK),
        Ok(end) => {
            let said = end.stderr.lines().chain(end.stdout.lines()).last().unwrap_or_default().to_owned();
            let reason = end.reason.unwrap_or_else(|| format!("the check failed: {said} ({})", end.rc.0));
            OperationResult { output: said, ..OperationResult::failed(Rc::GENERIC, end.status, reason) }
        }
        Err(error) => OperationResult::failed(Rc::GENERIC, Status::Error, format!("the check: {error}")),
    }
}

/// A user's number and group, from the system's own list of users.
fn account(user: &str) -> Result<(u32, u32), Problem> {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let found = users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.len() > 3 && fields[0] == user)
            .then(|| Some((fields[2].parse().ok()?, fields[3].parse().ok()?)))
    });
    found.flatten().ok_or_else(|| {
        Problem::new("no-such-user", format!("this node has no user `{user}`"))
            .hint("create the user with the same number on every node")
    })
}

#[cfg(test)]
mod tests;
