//! The volume processes of this node, as the daemon drives them: operations of the part `volume` of a service, events,
//! and taking down what a lost primary role leaves behind (R12).

use super::messages::{PeerReport, Resynced, VolumeReport};
use crate::{paths::Paths, supervise};
use anshin_agent::{OperationResult, Rc, Resource, Runner, Status, release};
use anshin_base::{NodeId, Problem, ReplicaId};
use anshin_device::control::{Client, DeviceState, Reply, Request, SILENT, VolumeEvent, VolumeStatus};
use anshin_ledger::state::Timing;
use anshin_mirror::RoleName;
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// How often a volume process is asked for its status, besides its events.
pub const STATUS_EVERY: Duration = Duration::from_millis(500);
/// How long a volume process may take to answer a question that waits for nothing.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How often a device that is being made is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Killing programs that wait for suspended I/O succeeds only after that I/O has failed: do not wait long before.
const KILL_LIMIT: Duration = Duration::from_secs(1);
/// Killing and unmounting after that.
pub(super) const RELEASE_LIMIT: Duration = Duration::from_secs(20);
/// A device whose first bytes are all zero holds no file system: those of ext4, xfs and btrfs lie within.
const SIGNATURE_SIZE: usize = 128 << 10;

/// Asks a volume process on a thread that may block.
pub async fn ask(
    paths: &Paths,
    volume: &str,
    request: Request,
    patience: Duration,
) -> Result<Reply, Problem> {
    let path = paths.volume_control(volume);
    blocking(move || Client::connect(&path, Some(patience))?.ask(request)).await
}

/// The status of a volume process.
///
/// # Errors
/// If it does not answer.
pub async fn status(paths: &Paths, volume: &str) -> Result<VolumeStatus, Problem> {
    let path = paths.volume_control(volume);
    blocking(move || Client::connect(&path, Some(ANSWER_LIMIT))?.status()).await
}

/// Runs work that blocks on a thread that may.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Problem::new("internal", format!("a blocking task ended: {error}"))))
}

/// Reports a volume process's events until `tell` says to stop; connects again whenever it restarts. Blocks.
pub fn follow(path: &Path, mut tell: impl FnMut(Option<VolumeEvent>) -> bool) {
    loop {
        let events = Client::connect(path, None).and_then(Client::subscribe);
        if let Ok(events) = events {
            for event in events.map_while(Result::ok) {
                if !tell(Some(event)) {
                    return;
                }
            }
        }
        if !tell(None) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Whether the node is primary with a device that stands.
#[must_use]
pub fn serves(status: &VolumeStatus) -> bool {
    let primary = status.replica.as_ref().is_some_and(|replica| replica.role == RoleName::Primary);
    primary && matches!(status.device, DeviceState::Present { .. })
}

/// Starting the part `volume`: the ledger has made this replica primary; waits for its device.
pub async fn start(paths: &Paths, volume: &str, limit: Duration) -> OperationResult {
    let until = Instant::now() + limit;
    let mut last = String::from("its process does not answer");
    while Instant::now() < until {
        match status(paths, volume).await {
            Ok(status) if serves(&status) => return OperationResult::done(Rc::OK),
            Ok(VolumeStatus { device: DeviceState::Failed { problem }, .. }) => {
                return OperationResult::from_problem(Rc::GENERIC, Status::Error, problem);
            }
            Ok(status) => last = why_not_yet(&status),
            Err(problem) => last = problem.message,
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    OperationResult::failed(Rc::GENERIC, Status::TimedOut, format!("the device is not there: {last}"))
}

fn why_not_yet(status: &VolumeStatus) -> String {
    let Some(replica) = &status.replica else { return "its metadata is being read".into() };
    match (&replica.failed, &replica.suspended) {
        (Some(why), _) | (None, Some(why)) => why.clone(),
        (None, None) => format!("the replica is {:?}", replica.role),
    }
}

/// Stopping the part `volume`: a planned hand-over.
pub async fn stop(paths: &Paths, volume: &str, limit: Duration) -> OperationResult {
    let until = Instant::now() + limit;
    let mut known = status(paths, volume).await;
    // It may be busy, or ending just now; what is not known is not taken for stopped.
    while known.as_ref().is_err_and(|problem| problem.code == SILENT) && Instant::now() < until {
        tokio::time::sleep(LOOK_EVERY).await;
        known = status(paths, volume).await;
    }
    match known {
        // Without a process there is no device and no role.
        Err(problem) if problem.code == "volume-unreachable" => return OperationResult::done(Rc::OK),
        Ok(status) if !is_primary(&status) && status.device == DeviceState::Absent => {
            return OperationResult::done(Rc::OK);
        }
        // A failed replica can hand nothing over; its process is started again in a new session.
        Ok(VolumeStatus { replica: Some(anshin_mirror::Status { failed: Some(_), .. }), .. }) => {
            return match ask(paths, volume, Request::Stop, limit).await {
                Ok(_) => OperationResult::done(Rc::OK),
                Err(problem) => OperationResult::from_problem(Rc::GENERIC, Status::Error, problem),
            };
        }
        _ => {}
    }
    match ask(paths, volume, Request::Demote, limit).await {
        Ok(_) => OperationResult::done(Rc::OK),
        Err(problem) => OperationResult::from_problem(Rc::GENERIC, Status::Error, problem),
    }
}

fn is_primary(status: &VolumeStatus) -> bool {
    let role = status.replica.as_ref().map(|replica| replica.role);
    matches!(role, Some(RoleName::Primary | RoleName::Promoting))
}

/// Looking at the part `volume`.
pub async fn monitor(paths: &Paths, volume: &str) -> OperationResult {
    match status(paths, volume).await {
        Ok(status) if serves(&status) => OperationResult::done(Rc::OK),
        Ok(VolumeStatus { replica: Some(anshin_mirror::Status { failed: Some(why), .. }), .. }) => {
            OperationResult::failed(Rc::GENERIC, Status::Done, why)
        }
        Ok(_) => OperationResult::done(Rc::NOT_RUNNING),
        Err(problem) if problem.code == "volume-unreachable" => OperationResult::done(Rc::NOT_RUNNING),
        Err(problem) => OperationResult::from_problem(Rc::GENERIC, Status::Error, problem),
    }
}

/// Before a file system is mounted for the first time: makes it, if the beginning of the device has never been written.
///
/// # Errors
/// If the device cannot be read or the file system not be made.
pub async fn prepare(mount: &Resource) -> Result<(), Problem> {
    let (Some(device), Some(file_system)) = (mount.parameter("device"), mount.parameter("fstype")) else {
        return Ok(());
    };
    let (device, file_system) = (PathBuf::from(device), file_system.to_owned());
    blocking(move || {
        use std::io::Read;
        let problem = |why: String| Problem::new("file-system", format!("{}: {why}", device.display()));
        let mut beginning = vec![0; SIGNATURE_SIZE];
        let mut file = std::fs::File::open(&device).map_err(|error| problem(error.to_string()))?;
        file.read_exact(&mut beginning).map_err(|error| problem(error.to_string()))?;
        drop(file);
        if beginning.iter().any(|&byte| byte != 0) {
            return Ok(());
        }
        tracing::info!(device = %device.display(), file_system, "making the file system of a new volume");
        let output = Command::new(format!("mkfs.{file_system}")).arg("-q").arg(&device).output();
        let output = output.map_err(|error| {
            problem(format!("mkfs.{file_system}: {error}"))
                .hint("install the file system's tools (e2fsprogs, xfsprogs)")
        })?;
        if output.status.success() {
            return Ok(());
        }
        Err(problem(format!("mkfs.{file_system}: {}", String::from_utf8_lossy(&output.stderr).trim())))
    })
    .await
}

/// What the others are told of a volume here.
#[must_use]
pub fn report(status: &VolumeStatus, node_of: impl Fn(ReplicaId) -> Option<NodeId>) -> VolumeReport {
    let replica = status.replica.as_ref();
    let peers = replica.map(|replica| replica.peers.as_slice()).unwrap_or_default();
    VolumeReport {
        volume: status.name.clone(),
        serving: serves(status),
        suspended: replica.and_then(|replica| replica.suspended.clone()),
        failed: replica.and_then(|replica| replica.failed.clone()),
        old_image: replica.is_some_and(|replica| replica.old_image),
        waiting_s: status.waiting_ms / 1_000,
        peers: peers
            .iter()
            .filter_map(|peer| {
                let total = peer.resync_total_bytes;
                Some(PeerReport {
                    node: node_of(peer.replica)?,
                    connected: peer.connected,
                    behind_bytes: peer.dirty_bytes,
                    resync: (total > 0).then(|| (total.saturating_sub(peer.resync_left_bytes), total)),
                    resynced: status.resynced.iter().find(|known| known.target == peer.replica).map(resynced),
                })
            })
            .collect(),
    }
}

fn resynced(known: &anshin_device::control::Resynced) -> Resynced {
    Resynced {
        count: known.count,
        compared: (known.compared_bytes, known.last_compared_bytes),
        sent: (known.sent_bytes, known.last_sent_bytes),
    }
}

/// What stands on a volume and must go when another node became its primary.
#[derive(Clone, Debug)]
pub struct Leftovers {
    /// The volume.
    pub volume: String,
    /// Programs and addresses, in starting order.
    pub resources: Vec<Resource>,
    /// Where the volume may be mounted.
    pub mount: Option<PathBuf>,
}

/// Takes down what a lost primary role leaves behind: addresses, programs, mount, device, in this order (R12). The
/// guard dropped the addresses when the lease ended; releasing them keeps it from taking them up again.
///
/// # Errors
/// The first thing that could not be taken down; call it again after a while.
pub async fn take_down(paths: &Paths, runner: &Runner, what: &Leftovers) -> Result<(), Problem> {
    use anshin_agent::{Action, Class, Operation};
    let is_address = |resource: &&Resource| resource.class == Class::Builtin && resource.kind == "address";
    for address in what.resources.iter().filter(is_address) {
        runner.run(address, &Operation::new(Action::Stop)).await;
    }
    let programs: Vec<Resource> = what
        .resources
        .iter()
        .filter(|resource| !is_address(resource) && resource.kind != "Filesystem")
        .cloned()
        .collect();
    let early = runner.kill_programs(&programs, KILL_LIMIT).await;
    ask(paths, &what.volume, Request::FailSuspended, ANSWER_LIMIT).await.ok();
    if early.is_err() {
        runner.kill_programs(&programs, RELEASE_LIMIT).await?;
    }
    if let Some(mount) = what.mount.clone() {
        blocking(move || {
            if release::is_mounted(&mount) {
                release::kill_users(&mount, RELEASE_LIMIT)?;
                release::unmount(&mount, RELEASE_LIMIT, false)?;
            }
            Ok(())
        })
        .await?;
    }
    // Promoted again meanwhile: the device is a new one, with nothing of the old role.
    if status(paths, &what.volume).await.is_ok_and(|status| is_primary(&status)) {
        return Ok(());
    }
    ask(paths, &what.volume, Request::Teardown, RELEASE_LIMIT).await.map(|_| ())
}

/// The record of processes, for messages.
#[must_use]
pub fn process_name(volume: &str) -> String {
    format!("volume-{volume}")
}

/// Whether the replica's files exist.
#[must_use]
pub fn exists(paths: &Paths, volume: &str) -> bool {
    paths.volume(volume).join("meta").exists()
}

/// Starts keeping a volume's process alive.
pub fn want(supervisor: &mut supervise::Supervisor, volume: &str, port: u16, timing: &Timing) {
    let mut arguments = ["run", "volume", volume].map(str::to_owned).to_vec();
    let numbers = [
        ("--port", u64::from(port)),
        ("--heartbeat-ms", timing.heartbeat.0),
        ("--silence-ms", timing.silent.0),
        ("--lease-ms", timing.lease.0),
        ("--drift-permille", u64::from(timing.drift_permille)),
    ];
    arguments.extend(numbers.iter().flat_map(|(name, value)| [(*name).to_owned(), value.to_string()]));
    supervisor.want(&process_name(volume), &arguments);
}
