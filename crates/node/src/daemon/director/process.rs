//! The process of one attempt: started, listened to, ended.

use super::DirectorEvent;
use crate::backup::{hooks, job::BackupJob};
use anshin_director::{Attempt, RunId, run::AttemptState};
use rustix::process::{Pid, Signal, kill_process};
use std::{path::PathBuf, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::{mpsc, oneshot},
};

/// A process that was asked to stop, or has said its last word, is killed after this.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// It speaks at least every two seconds; one that is silent for this long hangs.
const SILENCE_MAX: Duration = Duration::from_secs(300);
/// Longest line that it may write.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// What is needed to start the process.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program.
    pub executable: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Where its words for humans go.
    pub log: PathBuf,
    /// What it is to do.
    pub job: BackupJob,
}

/// How listening ended.
enum Heard {
    /// The process closed its output.
    Closed,
    /// It said its last word.
    Last,
    /// It was to stop.
    Stop,
    /// It failed at this.
    Broken(String),
}

/// Starts the process of an attempt. What it says and how it ends is sent to `events`; when the other end of
/// `stop` is dropped, it is asked to end.
pub fn launch(launch: Launch, stop: oneshot::Receiver<()>, events: mpsc::Sender<DirectorEvent>) {
    tokio::spawn(async move {
        let (run, attempt) = (launch.job.work.run, launch.job.work.attempt);
        let how = match start(&launch).await {
            Ok((child, input, output)) => {
                let work = &launch.job.work;
                let limit = work.run_time.map(|span| Duration::from_secs(span.0));
                let after = hooks::after_failure(work);
                follow((run, attempt), (child, input, output), (limit, after), stop, &events).await
            }
            Err(why) => why,
        };
        let _ = events.send(DirectorEvent::Ended { run, attempt, how }).await;
    });
}

async fn start(launch: &Launch) -> Result<(Child, ChildStdin, ChildStdout), String> {
    let program = launch.executable.display();
    let log = std::fs::OpenOptions::new().create(true).append(true).open(&launch.log);
    let log = log.map_err(|error| format!("cannot open {}: {error}", launch.log.display()))?;
    let mut command = Command::new(&launch.executable);
    command.args(&launch.arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
    // A group of its own: a signal for the daemon is not one for the backup, which hears of the daemon by its input.
    let child = command.kill_on_drop(true).process_group(0).spawn();
    let mut child = child.map_err(|error| format!("cannot start {program}: {error}"))?;
    let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(format!("{program} has no input or output"));
    };
    let mut line =
        serde_json::to_vec(&launch.job).map_err(|error| format!("the job has no text: {error}"))?;
    line.push(b'\n');
    input.write_all(&line).await.map_err(|error| format!("{program} does not read its job: {error}"))?;
    Ok((child, input, output))
}

async fn follow(
    (run, attempt): (RunId, Attempt),
    (mut child, input, output): (Child, ChildStdin, ChildStdout),
    (limit, after): (Option<Duration>, Duration),
    stop: oneshot::Receiver<()>,
    events: &mpsc::Sender<DirectorEvent>,
) -> String {
    let too_long = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let say = |state| events.send(DirectorEvent::Said { run, attempt, state });
    let heard = tokio::select! {
        heard = listen(output, SILENCE_MAX + after, &say) => heard,
        _ = stop => Heard::Stop,
        () = too_long => {
            let limit = limit.unwrap_or_default().as_secs();
            let reason = format!("it took longer than {}", anshin_director::Span(limit));
            let _ = say(AttemptState::Failed { reason, again: true }).await;
            Heard::Stop
        }
    };
    // Its input stays open until here: closed, it means that the daemon is gone.
    drop(input);
    match heard {
        Heard::Closed | Heard::Last => {}
        Heard::Stop => terminate(&child),
        Heard::Broken(why) => {
            terminate(&child);
            let _ = wait(&mut child, after).await;
            return why;
        }
    }
    wait(&mut child, after).await
}

/// Reads until the last word.
async fn listen<S>(output: ChildStdout, silence: Duration, say: impl Fn(AttemptState) -> S) -> Heard
where
    S: Future<Output = Result<(), mpsc::error::SendError<DirectorEvent>>>,
{
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut bounded = (&mut reader).take(LINE_BYTES_MAX);
        let read = match tokio::time::timeout(silence, bounded.read_until(b'\n', &mut line)).await {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => return Heard::Broken(format!("its words cannot be read: {error}")),
            Err(_) => return Heard::Broken(format!("it said nothing for {} s", silence.as_secs())),
        };
        if read == 0 {
            return Heard::Closed;
        }
        let state: AttemptState = match serde_json::from_slice(&line) {
            Ok(state) => state,
            Err(error) => return Heard::Broken(format!("it said what makes no sense: {error}")),
        };
        let last = !matches!(state, AttemptState::Working(_));
        if say(state).await.is_err() || last {
            return Heard::Last;
        }
    }
}

fn terminate(child: &Child) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// Waits for the end, which is made if it does not come; what is to be done after a failure has its time.
async fn wait(child: &mut Child, after: Duration) -> String {
    let patience = STOP_PATIENCE + after;
    if let Ok(Ok(status)) = tokio::time::timeout(patience, child.wait()).await {
        return status.to_string();
    }
    let _ = child.kill().await;
    format!("killed, because it did not end within {} s", patience.as_secs())
}
