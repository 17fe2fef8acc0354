//! The process of one restore, as its daemon sees it.

use crate::backup::restore_job::{RestoreDone, RestoreJob, RestoreState};
use anshin_base::Problem;
use anshin_director::Span;
use std::{future::Future, path::Path, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdout, Command},
};

/// A restore speaks at least every two seconds; one that is silent for this long hangs.
const SILENCE_MAX: Duration = Duration::from_secs(300);
/// Longest line that it may write: its last word has up to a hundred warnings.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// One that was told to stop gives back what it holds; it is killed after this.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// What a restore is started with.
pub struct RestoreProcess<'a> {
    /// The program.
    pub executable: &'a Path,
    /// Where what it says for humans goes.
    pub log: &'a Path,
    /// It may take this long.
    pub limit: Duration,
}

impl RestoreProcess<'_> {
    /// Runs it to its end, or until `stop` says why it is not wanted any more.
    ///
    /// # Errors
    /// Why it did not restore.
    pub async fn run(
        &self,
        job: &RestoreJob,
        stop: impl Future<Output = Problem>,
        mut told: impl FnMut(RestoreState),
    ) -> Result<RestoreDone, Problem> {
        let (mut child, output) = self.start(job).await?;
        // Its input closes when this ends: one that still works stops.
        let input = child.stdin.take();
        let mut reader = Lines { reader: BufReader::new(output), line: Vec::new() };
        let listen = async {
            loop {
                match reader.next().await {
                    Some(state @ RestoreState::Working { .. }) => told(state),
                    last => return last,
                }
            }
        };
        tokio::pin!(listen);
        let late = failed(format!("the restore took longer than {}", Span(self.limit.as_secs())));
        let last = tokio::select! {
            last = &mut listen => Ok(last),
            why = stop => Err(why),
            () = tokio::time::sleep(self.limit) => Err(late),
        };
        match last {
            Ok(Some(RestoreState::Done(done))) => Ok(done),
            Ok(Some(RestoreState::Failed { problem })) => Err(problem),
            Ok(_) => match tokio::time::timeout(STOP_PATIENCE, child.wait()).await {
                Ok(Ok(status)) => Err(failed(format!("the restore ended without a result: {status}"))),
                _ => Err(failed("the restore hangs".into())),
            },
            Err(why) => {
                drop(input);
                // What was done when the wish came is done, and its last word says so.
                let mut last = tokio::time::timeout(STOP_PATIENCE, &mut listen).await.ok();
                if last.is_none() {
                    // Not left alone to end later: what it did then would be known to nobody.
                    let _ = child.start_kill();
                    last = tokio::time::timeout(STOP_PATIENCE, listen).await.ok();
                }
                let _ = tokio::time::timeout(STOP_PATIENCE, child.wait()).await;
                if let Some(Some(RestoreState::Done(done))) = last { Ok(done) } else { Err(why) }
            }
        }
    }

    async fn start(&self, job: &RestoreJob) -> Result<(Child, ChildStdout), Problem> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log);
        let log = log.map_err(|error| failed(format!("cannot open its log: {error}")))?;
        let mut command = Command::new(self.executable);
        command.args(["run", "restore"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let child = command.kill_on_drop(true).process_group(0).spawn();
        let mut child = child.map_err(|error| failed(format!("cannot start the restore: {error}")))?;
        let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed("the restore has no input or output".into()));
        };
        let mut line = serde_json::to_vec(job).map_err(|error| failed(error.to_string()))?;
        line.push(b'\n');
        let sent = input.write_all(&line).await;
        sent.map_err(|error| failed(format!("the restore does not read its job: {error}")))?;
        child.stdin = Some(input);
        Ok((child, output))
    }
}

fn failed(why: String) -> Problem {
    Problem::new("restore-process", why)
}

struct Lines {
    reader: BufReader<ChildStdout>,
    line: Vec<u8>,
}

impl Lines {
    /// None at the end, after a silence that is too long, and of what cannot be read.
    async fn next(&mut self) -> Option<RestoreState> {
        self.line.clear();
        let mut bounded = (&mut self.reader).take(LINE_BYTES_MAX);
        let read = bounded.read_until(b'\n', &mut self.line);
        let read = tokio::time::timeout(SILENCE_MAX, read).await.ok()?.ok()?;
        if read == 0 { None } else { serde_json::from_slice(&self.line).ok() }
    }
}
