//! One attempt, from the commands before to the sealed snapshot.

use super::{
    Tools, hooks,
    job::BackupJob,
    now_nanoseconds,
    process::Voice,
    reading::{Reader, Taken},
    stop::Stop,
    throttle::Throttled,
};
use anshin_base::Problem;
use anshin_director::{
    catalog::Label,
    record::{Progress, Sealed},
    run::{AttemptState, Work},
};
use anshin_vault::{Session, SnapshotDraft, SnapshotId};
use std::{
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, channel},
    },
    time::{Duration, Instant},
};

/// The daemon hears at least every two seconds.
const TELL: Duration = Duration::from_secs(1);

/// An attempt of which nothing goes on for so long ends, and is made again.
const STALL_MAX: Duration = Duration::from_secs(4 * 3_600);

/// Reasons that another attempt would meet again.
const FINAL: [&str; 6] =
    ["cannot-back-up", "plugin-refused", "plugin-unknown", "exclude-pattern", "point-mount", "backup-root"];

/// Carries a job out; says how far it is on `voice`, and gives its last word.
pub fn backup(job: &BackupJob, tools: &Tools, stop: &Arc<Stop>, voice: &Voice) -> AttemptState {
    match attempt(job, tools, stop, voice) {
        Ok(sealed) => AttemptState::Sealed(sealed),
        Err(problem) => {
            // What was asked to stop fails for other reasons too; the wish is the one that counts.
            let problem = stop.reason().unwrap_or(problem);
            if let Err(problem) = hooks::run(&job.work.after, &job.work, hooks::Outcome::Failed, None) {
                tracing::warn!(%problem, "a command after the failed attempt failed too");
            }
            let again = !FINAL.contains(&problem.code.as_str());
            AttemptState::Failed { reason: problem.to_string(), again }
        }
    }
}

fn attempt(job: &BackupJob, tools: &Tools, stop: &Arc<Stop>, voice: &Voice) -> Result<Sealed, Problem> {
    let work = &job.work;
    // Told from the first moment on: the commands before may take long.
    let session = Arc::new(tools.vaults.open(&job.vault)?);
    telling(session.clone(), stop, voice, || {
        let mut warnings = hooks::run(&work.before, work, hooks::Outcome::Begin, Some(stop))?;
        stop.check()?;
        // The consistent point is the director's; this is the machine's own idea of it, for humans.
        let time = now_nanoseconds();
        let sink = Throttled::new(session.clone(), work.bandwidth.0, stop.clone());
        let chunker = Arc::new(session.chunker());
        let reader = Reader { job, tools, sink: &sink, chunker, stop };
        let taken = reader.read()?;
        session.flush()?;
        warnings += hooks::run(&work.after, work, hooks::Outcome::Good, Some(stop))?;
        stop.check()?;
        seal(work, &session, taken, time, warnings)
    })
}

/// Runs `act` while another thread says how far it is.
fn telling<T>(
    session: Arc<Session>,
    stop: &Arc<Stop>,
    voice: &Voice,
    act: impl FnOnce() -> Result<T, Problem>,
) -> Result<T, Problem> {
    let (done, told) = channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut stall = Stall::default();
            loop {
                let progress = stop.monitor().progress();
                let progress = Progress {
                    files: progress.entries,
                    bytes: progress.bytes.max(progress.bytes_moved),
                    sent: session.stats().sent_bytes,
                    files_total: None,
                    bytes_total: None,
                };
                if stall.is_over(Instant::now(), &progress) {
                    let message = format!("nothing of it went on for {} hours", STALL_MAX.as_secs() / 3_600);
                    stop.ask(Problem::new("no-progress", message));
                }
                voice.say(&AttemptState::Working(progress));
                if told.recv_timeout(TELL) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        });
        let result = act();
        drop(done);
        result
    })
}

/// Whether anything goes on: what waits for ever for a lock or a server would keep every later run from beginning.
#[derive(Default)]
struct Stall {
    last: Option<(Instant, Progress)>,
}

impl Stall {
    fn is_over(&mut self, now: Instant, progress: &Progress) -> bool {
        match &self.last {
            Some((since, last)) if last == progress => now.duration_since(*since) >= STALL_MAX,
            _ => {
                self.last = Some((now, *progress));
                false
            }
        }
    }
}

fn seal(work: &Work, session: &Session, taken: Taken, time: i64, warnings: u64) -> Result<Sealed, Problem> {
    let Taken { backup, mut about, warnings: said } = taken;
    about.tags.clone_from(&work.tags);
    let report = backup.report;
    for issue in &report.issues.first {
        tracing::warn!("{issue}");
    }
    let files = report.files + report.directories + report.others;
    let label = Label { run: work.run, attempt: work.attempt, target: work.target.clone() };
    let sealed = session.seal(SnapshotDraft {
        id: SnapshotId::generate()?,
        plan: work.plan.to_string(),
        run: label.to_string(),
        time,
        root: backup.root,
        entries: files,
        bytes: report.bytes,
        meta: about.encode(),
    })?;
    let issues: u64 = report.issues.counts.values().sum();
    tracing::info!(
        snapshot = %sealed.record.id, files, unchanged = report.unchanged, bytes = report.bytes,
        read = report.bytes_read, sent = sealed.record.stats.new_bytes, issues, "sealed"
    );
    Ok(Sealed {
        snapshot: sealed.record.id.to_string().as_str().into(),
        files,
        bytes: report.bytes,
        new_bytes: sealed.record.stats.new_bytes,
        warnings: issues + warnings + said,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_of_which_nothing_goes_on_is_over_after_hours() {
        let (mut stall, begin) = (Stall::default(), Instant::now());
        let minute = |minutes: u64| begin + Duration::from_secs(60 * minutes);
        let progress = |files| Progress { files, ..Progress::default() };
        for (minutes, files, over) in [
            (0, 0, false),
            (200, 0, false),
            (230, 1, false),
            (469, 1, false),
            (470, 1, true),
            (471, 2, false),
        ] {
            assert_eq!(stall.is_over(minute(minutes), &progress(files)), over, "{minutes}");
        }
    }
}
