//! The continuous archives of the logs of services that run here: a process each, as long as the service runs here and a plan
//! backs it up.

use super::{observed, program};
use crate::{
    backup::{
        ArchiveJob, ArchiveState,
        job::{PluginSubject, VaultAccess},
    },
    daemon::{drill::running_on, world::World},
};
use anshin_base::{Millis, Mono};
use anshin_director::{
    Span,
    plan::{Plan, Source},
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdout, Command},
    sync::oneshot,
    task::JoinHandle,
};

/// One that ended is started again after this.
const AGAIN: Millis = Millis(5_000);
/// One that was asked to stop moves what it has once more; it is killed after this, because its volume leaves.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// Longest line that it may write.
const LINE_BYTES_MAX: u64 = 64 << 10;

struct Running {
    job: ArchiveJob,
    /// The process ends when it is dropped.
    stopper: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

/// The archives of this node.
#[derive(Default)]
pub struct Archives {
    running: BTreeMap<String, Running>,
    /// When each was started last.
    started: BTreeMap<String, Mono>,
}

impl Archives {
    /// Starts what is wanted and does not run, and ends what is not wanted any more.
    pub fn keep(
        &mut self,
        now: Mono,
        wanted: Vec<ArchiveJob>,
        executable: &std::path::Path,
        log: &std::path::Path,
    ) {
        self.running.retain(|service, running| {
            let same = wanted.iter().any(|job| job.service == *service && *job == running.job);
            same && !running.stopper.is_closed()
        });
        for job in wanted {
            let recently = self.started.get(&job.service).is_some_and(|at| now.since(*at) < AGAIN);
            if recently || self.running.contains_key(&job.service) {
                continue;
            }
            let (stopper, stop) = oneshot::channel();
            self.started.insert(job.service.clone(), now);
            let ended = tokio::spawn(archive(executable.to_owned(), log.to_owned(), job.clone(), stop));
            self.running.insert(job.service.clone(), Running { job, stopper, ended });
        }
    }

    /// Ends the archive of a service whose volume is about to leave.
    pub fn leave(&mut self, service: &str) {
        self.running.remove(service);
    }

    /// Has what is in the spool of a service moved at once, by ending its archive, which the next look starts again. The
    /// handle tells when it is moved; None: nothing is archived here.
    pub fn flush(&mut self, service: &str) -> Option<JoinHandle<()>> {
        self.running.remove(service).map(|running| running.ended)
    }
}

/// The archives that this node should run.
#[must_use]
pub fn wanted(world: &World) -> Vec<ArchiveJob> {
    let records = world.state.director.records();
    let inventory = observed(world).inventory;
    if inventory.services.iter().all(|service| service.plugin.is_none()) {
        return Vec::new();
    }
    let plans: Vec<Plan> =
        records.plans.values().filter_map(|plan| Plan::from_json(&plan.text).ok()).collect();
    let mut out: Vec<ArchiveJob> = Vec::new();
    for plan in plans.iter().filter(|plan| plan.enabled) {
        for job in inventory.jobs(&plan.what) {
            let Source::Service { service: name, plugin: Some(plugin) } = &job.source else { continue };
            let Some(service) = world.state.services.get(name) else { continue };
            let (Some(mount), Some(vault)) = (&service.mount, records.vaults.get(&plan.vault)) else {
                continue;
            };
            let Some(node) = world.state.nodes.get(&vault.node) else { continue };
            let known = out.iter().any(|job| job.service == *name);
            if known || running_on(world, service) != Some(world.me) {
                continue;
            }
            let at =
                |address: &String| Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, node.ports.vault));
            out.push(ArchiveJob {
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
    out
}

async fn archive(executable: PathBuf, log: PathBuf, job: ArchiveJob, stop: oneshot::Receiver<()>) {
    let service = job.service.clone();
    match start(&executable, &log, &job).await {
        Err(why) => tracing::warn!(service, why, "the log of a service is not archived"),
        Ok((mut child, input, output)) => {
            tokio::select! {
                () = listen(&service, output) => {}
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
    job: &ArchiveJob,
) -> Result<(Child, tokio::process::ChildStdin, ChildStdout), String> {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(log);
    let log = log.map_err(|error| format!("cannot open its log: {error}"))?;
    let mut command = Command::new(executable);
    command.args(["run", "archive"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
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
async fn listen(service: &str, output: ChildStdout) {
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
            Ok(ArchiveState::Moved { .. }) => told = None,
            Ok(ArchiveState::Waiting { problem, waiting_bytes }) if told.as_ref() != Some(&problem) => {
                tracing::warn!(service, %problem, waiting_bytes, "the log of a service waits for its vault");
                told = Some(problem);
            }
            Ok(ArchiveState::Waiting { .. }) => {}
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
