//! An executor as a process: its job comes on standard input, its words go to standard output, and it stops when it is asked
//! to, when its daemon is gone, or when its time is over.

use super::{
    Tools, backup, hooks,
    job::BackupJob,
    log::{ArchiveEndJob, ArchiveJob, archive, end_archive},
    restore,
    restore_job::{RestoreJob, RestoreState},
    stop::Stop,
};
use anshin_base::Problem;
use anshin_capture::Monitor;
use anshin_director::run::AttemptState;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    io::{BufRead, Read, Write, stdin},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// No job is longer.
const JOB_MAX: u64 = 4 << 20;
/// What holds after the wish to stop for longer is left to the end of the process: the kernel gives back what it had.
const STOPPING_MAX: Duration = Duration::from_secs(60);

/// Where an executor says how it goes: one JSON value per line.
pub struct Voice(Mutex<Box<dyn Write + Send>>);

impl Voice {
    /// A voice that writes to `output`.
    #[must_use]
    pub fn new(output: impl Write + Send + 'static) -> Self {
        Self(Mutex::new(Box::new(output)))
    }

    /// Says something. That nobody listens is found out elsewhere.
    pub fn say(&self, what: &impl Serialize) {
        let mut line = serde_json::to_vec(what).expect("invariant: plain data");
        line.push(b'\n');
        let mut output = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = output.write_all(&line).and_then(|()| output.flush());
    }
}

/// `anshin run backup`.
///
/// # Errors
/// If there is no job; the failure of a job is told in its last word.
pub fn run_backup(tools: &Tools) -> Result<bool, Problem> {
    let job: BackupJob = job()?;
    let run_time = job.work.run_time.map(|time| Duration::from_secs(time.0));
    let stop = begin(run_time, STOPPING_MAX + hooks::after_failure(&job.work))?;
    let voice = Voice::new(std::io::stdout());
    let last = backup(&job, tools, &stop, &voice);
    voice.say(&last);
    Ok(matches!(last, AttemptState::Sealed(_)))
}

/// `anshin run restore`.
///
/// # Errors
/// As [`run_backup`].
pub fn run_restore(tools: &Tools) -> Result<bool, Problem> {
    let job: RestoreJob = job()?;
    let stop = begin(None, STOPPING_MAX)?;
    let voice = Voice::new(std::io::stdout());
    let last = restore(&job, tools, &stop, &voice);
    voice.say(&last);
    Ok(matches!(last, RestoreState::Done(_)))
}

/// `anshin run archive`.
///
/// # Errors
/// As [`run_backup`].
pub fn run_archive(tools: &Tools) -> Result<bool, Problem> {
    let job: ArchiveJob = job()?;
    let stop = begin(None, STOPPING_MAX)?;
    let voice = Voice::new(std::io::stdout());
    archive(&job, tools, &stop, &voice).map(|()| true)
}

/// `anshin run archive-end`.
///
/// # Errors
/// As [`run_backup`].
pub fn run_archive_end(tools: &Tools) -> Result<bool, Problem> {
    let job: ArchiveEndJob = job()?;
    let stop = begin(None, STOPPING_MAX)?;
    end_archive(&job, tools, &stop).map(|()| true)
}

fn job<T: DeserializeOwned>() -> Result<T, Problem> {
    let mut line = Vec::new();
    let read = stdin().lock().take(JOB_MAX).read_until(b'\n', &mut line);
    read.map_err(|error| Problem::new("job", format!("no job on standard input: {error}")))?;
    serde_json::from_slice(&line).map_err(|error| {
        Problem::new("job", format!("the line on standard input is no job: {error}"))
            .hint("the node's daemon starts this process; people use `anshin backup` and `anshin restore`")
    })
}

/// Watches for reasons to stop.
fn begin(run_time: Option<Duration>, stopping: Duration) -> Result<Arc<Stop>, Problem> {
    let stop = Stop::new(Arc::new(Monitor::new()));
    let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
        let thread = std::thread::Builder::new().name(name.into()).spawn(work);
        thread.map(drop).map_err(|error| Problem::new("backup-start", error.to_string()))
    };
    let asked = stop.clone();
    spawn(
        "daemon",
        Box::new(move || {
            let mut rest = [0; 512];
            while matches!(stdin().lock().read(&mut rest), Ok(count) if count > 0) {}
            asked.ask(Problem::new("stopped", "the node's daemon is gone"));
        }),
    )?;
    let asked = stop.clone();
    let signals = signals()?;
    spawn(
        "signals",
        Box::new(move || {
            signals();
            asked.ask(Problem::new("stopped", "it was told to stop"));
        }),
    )?;
    let asked = stop.clone();
    spawn(
        "limits",
        Box::new(move || {
            if let Some(limit) = run_time
                && !asked.sleep(limit)
            {
                let message = format!("it took longer than the {} s that its plan allows", limit.as_secs());
                asked.ask(Problem::new("run-time", message).hint("raise `limits.run_time` of the plan"));
            }
            while !asked.sleep(Duration::from_secs(3600)) {}
            std::thread::sleep(stopping);
            tracing::error!("something does not stop; the process ends without it");
            std::process::exit(1);
        }),
    )?;
    Ok(stop)
}

/// Gives what waits for SIGTERM or SIGINT, which from now on do nothing else.
fn signals() -> Result<impl FnOnce() + Send + 'static, Problem> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |error: std::io::Error| Problem::new("backup-start", error.to_string());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let guard = runtime.enter();
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    drop(guard);
    Ok(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
    })
}
