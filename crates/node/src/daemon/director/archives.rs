//! The continuous archives of the logs of services that run here: a process each, as long as the service runs here and a plan
//! backs it up.

use super::{ArchiveReport, observed, program};
use crate::{
    backup::{
        ArchiveEndJob, ArchiveJob, ArchiveState,
        job::{PluginSubject, VaultAccess},
    },
    daemon::{drill::running_on, world::World},
};
use anshin_base::{Millis, Mono};
use anshin_director::{
    Span, UnixMillis,
    plan::{Plan, Source},
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdout, Command},
    sync::oneshot,
    task::{AbortHandle, JoinHandle},
};

/// One that ended is started again after this, and after twice as long each time that it ends soon.
const AGAIN: Millis = Millis(5_000);
const AGAIN_DOUBLED_MAX: u32 = 6;
/// One that ran for so long did not end soon.
const SOON: Millis = Millis(300_000);
/// One that was asked to stop moves what it has once more; it is killed after this, because its volume leaves.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// A service that no plan backs up for so long is told so, and again each time: the program may not have run the last time.
const LET_GO_AFTER: Millis = Millis(600_000);
/// Longest line that it may write.
const LINE_BYTES_MAX: u64 = 64 << 10;

struct Running {
    job: ArchiveJob,
    /// The process ends when it is dropped.
    stopper: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

/// What each archive last said of itself.
type Said = Arc<Mutex<BTreeMap<String, ArchiveReport>>>;

fn lock(said: &Said) -> MutexGuard<'_, BTreeMap<String, ArchiveReport>> {
    said.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The archives of this node.
#[derive(Default)]
pub struct Archives {
    running: BTreeMap<String, Running>,
    /// Those that were asked to stop, until they have moved what they had: two on one spool would only report each other.
    ending: BTreeMap<String, AbortHandle>,
    /// When each was started last.
    started: BTreeMap<String, Mono>,
    /// How often in a row it ended soon.
    failures: BTreeMap<String, u32>,
    said: Said,
    /// When services that no plan backs up were told so last, or were first seen.
    let_go: BTreeMap<String, Mono>,
}

/// The archives that a node should run, and those that it should end.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// Services that run here and that a plan backs up.
    pub run: Vec<ArchiveJob>,
    /// Services that run here and that no plan backs up: what keeps their logs for an archive is let go, or it fills their volumes.
    pub end: Vec<ArchiveEndJob>,
}

impl Archives {
    /// Starts what is wanted and does not run, and ends what is not wanted any more.
    pub fn keep(
        &mut self,
        now: Mono,
        wall: UnixMillis,
        wanted: Wanted,
        executable: &std::path::Path,
        log: &std::path::Path,
    ) {
        let (failures, started, ending) = (&mut self.failures, &self.started, &mut self.ending);
        ending.retain(|_, task| !task.is_finished());
        self.running.retain(|service, running| {
            let same = wanted.run.iter().any(|job| job.service == *service && *job == running.job);
            let ended = running.stopper.is_closed();
            if ended {
                let soon = started.get(service).is_some_and(|at| now.since(*at) < SOON);
                let before = failures.get(service).copied().unwrap_or(0);
                failures.insert(service.clone(), if soon { before + 1 } else { 0 });
            }
            if !same && !ended {
                ending.insert(service.clone(), running.ended.abort_handle());
            }
            same && !ended
        });
        let is_wanted = |service: &String| wanted.run.iter().any(|job| job.service == *service);
        self.failures.retain(|service, _| is_wanted(service));
        lock(&self.said).retain(|service, _| is_wanted(service));
        self.end(now, wanted.end, executable, log);
        for job in wanted.run {
            let failures = self.failures.get(&job.service).copied().unwrap_or(0);
            let pause = Millis(AGAIN.0 << failures.min(AGAIN_DOUBLED_MAX));
            let recently = self.started.get(&job.service).is_some_and(|at| now.since(*at) < pause);
            let busy = self.running.contains_key(&job.service) || self.ending.contains_key(&job.service);
            if recently || busy {
                continue;
            }
            let (stopper, stop) = oneshot::channel();
            self.started.insert(job.service.clone(), now);
            let (service, said) = (job.service.clone(), self.said.clone());
            lock(&said).entry(service.clone()).or_insert(ArchiveReport {
                service,
                began: wall,
                moved: None,
                trouble: None,
                gap: None,
            });
            let ended = tokio::spawn(archive(executable.to_owned(), log.to_owned(), job.clone(), said, stop));
            self.running.insert(job.service.clone(), Running { job, stopper, ended });
        }
    }

    fn end(
        &mut self,
        now: Mono,
        wanted: Vec<ArchiveEndJob>,
        executable: &std::path::Path,
        log: &std::path::Path,
    ) {
        let names: BTreeSet<&String> = wanted.iter().map(|job| &job.service).collect();
        self.let_go.retain(|service, _| names.contains(service));
        for job in wanted {
            // Not at first sight: a plan that is made anew a moment later must not find a gap.
            let since = *self.let_go.entry(job.service.clone()).or_insert(now);
            if now.since(since) < LET_GO_AFTER || self.running.contains_key(&job.service) {
                continue;
            }
            self.let_go.insert(job.service.clone(), now);
            let (executable, log) = (executable.to_owned(), log.to_owned());
            tokio::spawn(async move {
                let service = job.service.clone();
                match start(&executable, &log, "archive-end", &job).await {
                    Err(why) => tracing::warn!(service, why, "the archive of a log is not ended"),
                    Ok((mut child, _input, _output)) => {
                        let status = tokio::time::timeout(STOP_PATIENCE, child.wait()).await;
                        tracing::debug!(service, ?status, "the log of a service is kept for nobody");
                    }
                }
            });
        }
    }

    /// What the archives say of themselves.
    #[must_use]
    pub fn reports(&self) -> Vec<ArchiveReport> {
        lock(&self.said).values().cloned().collect()
    }

    /// Ends the archive of a service whose volume is about to leave.
    pub fn leave(&mut self, service: &str) {
        self.stop(service);
    }

    /// Has what is in the spool of a service moved at once, by ending its archive, which the next look starts again. The
    /// handle tells when it is moved; None: nothing is archived here.
    pub fn flush(&mut self, service: &str) -> Option<JoinHandle<()>> {
        self.stop(service)
    }

    fn stop(&mut self, service: &str) -> Option<JoinHandle<()>> {
        let running = self.running.remove(service)?;
        self.ending.insert(service.to_owned(), running.ended.abort_handle());
        Some(running.ended)
    }
}

/// The archives that this node should run and end.
#[must_use]
pub fn wanted(world: &World) -> Wanted {
    let records = world.state.director.records();
    let inventory = observed(world).inventory;
    if inventory.services.iter().all(|service| service.plugin.is_none()) {
        return Wanted::default();
    }
    let plans: Vec<Option<Plan>> =
        records.plans.values().map(|plan| Plan::from_json(&plan.text).ok()).collect();
    let mut run: Vec<ArchiveJob> = Vec::new();
    let mut named: BTreeSet<String> = BTreeSet::new();
    // A log that nobody fetches fills its volume: the one of a plan that is disabled goes on.
    let (enabled, disabled): (Vec<&Plan>, Vec<&Plan>) = plans.iter().flatten().partition(|plan| plan.enabled);
    for plan in enabled.into_iter().chain(disabled) {
        for job in inventory.jobs(&plan.what) {
            let Source::Service { service: name, plugin: Some(plugin) } = &job.source else { continue };
            named.insert(name.clone());
            let Some(service) = world.state.services.get(name) else { continue };
            let (Some(mount), Some(vault)) = (&service.mount, records.vaults.get(&plan.vault)) else {
                continue;
            };
            let Some(node) = world.state.nodes.get(&vault.node) else { continue };
            let known = run.iter().any(|job| job.service == *name);
            if known || running_on(world, service) != Some(world.me) {
                continue;
            }
            let at =
                |address: &String| Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, node.ports.vault));
            run.push(ArchiveJob {
                vault: VaultAccess {
                    name: vault.name.clone(),
                    server: node.id,
                    addresses: node.addresses.iter().filter_map(at).collect(),
                },
                plan: plan.name.clone(),
                target: job.key.clone(),
                service: name.clone(),
                plugin: PluginSubject { plugin: plugin.clone(), facts: program::facts(service) },
                spool: PathBuf::from(mount).join(program::SPOOL),
                every: Span::minutes(1),
            });
        }
    }
    // What a plan that this build cannot read says is not known; only what is decided now counts; and where there never was a
    // plan there is nothing to let go.
    let known = world.quorate && records.position.0 > 0 && plans.iter().all(Option::is_some);
    let left = inventory.services.iter().filter(|service| known && !named.contains(&service.name));
    let end = left.filter_map(|info| {
        let service = world.state.services.get(&info.name)?;
        let (plugin, mount) = (info.plugin.clone()?, service.mount.as_ref()?);
        (running_on(world, service) == Some(world.me)).then(|| ArchiveEndJob {
            service: info.name.clone(),
            plugin: PluginSubject { plugin, facts: program::facts(service) },
            spool: PathBuf::from(mount).join(program::SPOOL),
        })
    });
    Wanted { run, end: end.collect() }
}

async fn archive(
    executable: PathBuf,
    log: PathBuf,
    job: ArchiveJob,
    said: Said,
    stop: oneshot::Receiver<()>,
) {
    let service = job.service.clone();
    match start(&executable, &log, "archive", &job).await {
        Err(why) => {
            tracing::warn!(service, why, "the log of a service is not archived");
            lock(&said).entry(service).and_modify(|known| known.trouble = Some(why));
        }
        Ok((mut child, input, output)) => {
            tokio::select! {
                () = listen(&service, output, &said) => {}
                _ = stop => {}
            }
            drop(input);
            terminate(&child);
            if tokio::time::timeout(STOP_PATIENCE, child.wait()).await.is_err() {
                let _ = child.kill().await;
            }
            tracing::info!(service, "the log of a service is no longer archived here");
        }
    }
}

async fn start(
    executable: &std::path::Path,
    log: &std::path::Path,
    process: &str,
    job: &impl serde::Serialize,
) -> Result<(Child, tokio::process::ChildStdin, ChildStdout), String> {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(log);
    let log = log.map_err(|error| format!("cannot open its log: {error}"))?;
    let mut command = Command::new(executable);
    command.args(["run", process]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
    let mut child = command.kill_on_drop(true).process_group(0).spawn().map_err(|error| error.to_string())?;
    let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("it has no input or output".into());
    };
    let mut line = serde_json::to_vec(job).map_err(|error| error.to_string())?;
    line.push(b'\n');
    input.write_all(&line).await.map_err(|error| format!("it does not read its job: {error}"))?;
    Ok((child, input, output))
}

/// Until it says no more; trouble is told once.
async fn listen(service: &str, output: ChildStdout, said: &Said) {
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    let mut told = None;
    loop {
        line.clear();
        let mut bounded = (&mut reader).take(LINE_BYTES_MAX);
        if bounded.read_until(b'\n', &mut line).await.unwrap_or(0) == 0 {
            return;
        }
        match serde_json::from_slice::<ArchiveState>(&line) {
            Ok(ArchiveState::Moved { gap, .. }) => {
                told = None;
                let now = UnixMillis(jiff::Timestamp::now().as_millisecond());
                lock(said).entry(service.to_owned()).and_modify(|known| {
                    (known.moved, known.trouble, known.gap) = (Some(now), None, gap);
                });
            }
            Ok(ArchiveState::Waiting { problem, waiting_bytes, gap }) => {
                if told.as_ref() != Some(&problem) {
                    tracing::warn!(service, %problem, waiting_bytes, "the log of a service waits for its vault");
                }
                lock(said).entry(service.to_owned()).and_modify(|known| {
                    (known.trouble, known.gap) = (Some(problem.message.clone()), gap);
                });
                told = Some(problem);
            }
            Err(_) => return,
        }
    }
}

fn terminate(child: &Child) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill_process(pid, Signal::TERM);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    struct Node {
        root: PathBuf,
        archives: Archives,
        now: Mono,
    }

    impl Node {
        /// Whose archive is the shell script `body`; it may write to the file `told` in `$0`'s directory.
        fn new(name: &str, body: &str) -> Self {
            let root = std::env::temp_dir().join(format!("anshin-archives-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&root);
            std::fs::create_dir_all(&root).unwrap();
            let program = root.join("program");
            std::fs::write(&program, format!("#!/bin/sh\ncd $(dirname $0)\n{body}\n")).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
            Self { root, archives: Archives::default(), now: Mono::default() }
        }

        fn keep(&mut self, run: &[ArchiveJob]) {
            let wanted = Wanted { run: run.to_vec(), end: Vec::new() };
            let (program, log) = (self.root.join("program"), self.root.join("log"));
            self.archives.keep(self.now, UnixMillis(0), wanted, &program, &log);
        }

        fn told(&self) -> String {
            std::fs::read_to_string(self.root.join("told")).unwrap_or_default()
        }

        async fn until(&self, told: &str) {
            let looking = async {
                while self.told() != told {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            let found = tokio::time::timeout(Duration::from_secs(30), looking).await;
            assert!(found.is_ok(), "{:?} instead of {told:?}", self.told());
        }
    }

    impl Drop for Node {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.root);
        }
    }

    fn job(plan: &str) -> ArchiveJob {
        ArchiveJob {
            vault: VaultAccess { name: "main".into(), server: anshin_base::NodeId(3), addresses: Vec::new() },
            plan: plan.into(),
            target: "service/db".into(),
            service: "db".into(),
            plugin: PluginSubject { plugin: "postgresql".into(), facts: BTreeMap::new() },
            spool: "/nonexistent".into(),
            every: Span::minutes(1),
        }
    }

    #[tokio::test]
    async fn the_next_archive_of_a_log_begins_when_the_one_before_has_moved_what_it_had() {
        let body = "echo -n '(' >>told; trap 'sleep 1; echo -n \")\" >>told; exit' TERM; while :; do sleep 0.05; done";
        let mut node = Node::new("turns", body);
        node.keep(&[job("nightly")]);
        node.until("(").await;
        let moved = node.archives.flush("db").unwrap();
        for _ in 0..5 {
            node.now = node.now.after(Millis(60_000));
            node.keep(&[job("nightly")]);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(node.told(), "(", "the one before still moves what it has");
        moved.await.unwrap();
        node.now = node.now.after(Millis(60_000));
        node.keep(&[job("nightly")]);
        node.until("()(").await;
        // Another job is another process.
        node.keep(&[job("hourly")]);
        node.until("()()").await;
        node.now = node.now.after(Millis(60_000));
        while node.told() == "()()" {
            node.keep(&[job("hourly")]);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        node.until("()()(").await;
    }

    #[tokio::test]
    async fn an_archive_that_ends_at_once_is_started_ever_more_rarely() {
        let mut node = Node::new("rarely", "echo -n x >>told");
        let mut starts = Vec::new();
        for second in 0..200 {
            node.now = Mono::default().after(Millis(second * 1_000));
            let before = node.told();
            node.keep(&[job("nightly")]);
            if node.archives.started.get("db") == Some(&node.now) {
                starts.push(second);
                node.until(&format!("{before}x")).await;
                while !node.archives.running.values().all(|running| running.stopper.is_closed()) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
        assert_eq!(starts, [0, 10, 30, 70, 150]);
    }
}
