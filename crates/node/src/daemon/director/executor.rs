//! [`Executor`]: the attempts that this daemon executes, and what it says of them. Sans-IO: processes are its owner's.

use super::{AttemptReport, NotReady};
use crate::backup::job::{BackupJob, Subject};
use anshin_base::{Millis, Mono};
use anshin_director::{
    Attempt, RunId,
    run::{AttemptState, Work},
};
use std::collections::BTreeMap;

/// Runs of which it is remembered which attempt was begun last; of older ones nothing is begun any more.
const RUNS_REMEMBERED: usize = 4_096;
/// What an attempt reads may take this long to be ready (mounted, started) before the attempt counts as failed.
const READY_LIMIT: Millis = Millis(5 * 60_000);

/// An attempt that was left because its volume leaves this node is not spoken of for this long: by then the ledger shows
/// where the volume is, and the run goes on there. Otherwise the attempt has failed.
const LEFT_LIMIT: Millis = Millis(60_000);

/// Ends the process of an attempt by being dropped.
pub type Stopper = tokio::sync::oneshot::Sender<()>;

struct Task {
    state: AttemptState,
    /// What it reads from.
    volume: Option<String>,
    /// None once the process is gone or was told to stop.
    stopper: Option<Stopper>,
}

/// The attempts of this start of the daemon.
pub struct Executor {
    session: u64,
    /// The last attempt of each run that was begun here: none is begun twice, so that it has one consistent point.
    begun: BTreeMap<RunId, Attempt>,
    /// Runs up to here were forgotten from `begun`.
    floor: RunId,
    tasks: BTreeMap<(RunId, Attempt), Task>,
    /// Attempts whose source is not ready, and since when.
    waiting: BTreeMap<(RunId, Attempt), Mono>,
    /// Attempts that were left, and when.
    left: BTreeMap<(RunId, Attempt), Mono>,
}

impl Executor {
    /// An executor that has done nothing yet, of the daemon's start `session`.
    #[must_use]
    pub fn new(session: u64) -> Self {
        Self {
            session,
            begun: BTreeMap::new(),
            floor: RunId(0),
            tasks: BTreeMap::new(),
            waiting: BTreeMap::new(),
            left: BTreeMap::new(),
        }
    }

    /// An order to work on an attempt: Some is what must be started now, and then told by [`Self::started`].
    pub fn order(
        &mut self,
        now: Mono,
        session: u64,
        work: &Work,
        prepare: impl FnOnce() -> Result<BackupJob, NotReady>,
    ) -> Option<BackupJob> {
        let key = (work.run, work.attempt);
        if session != self.session || self.tasks.contains_key(&key) {
            return None;
        }
        if self.left.get(&key).is_some_and(|left| now.since(*left) < LEFT_LIMIT) {
            return None;
        }
        if work.run <= self.floor || self.begun.get(&work.run).is_some_and(|begun| *begun >= work.attempt) {
            self.fail(key, "this attempt was begun here before and was given up".into(), true);
            return None;
        }
        match prepare() {
            Ok(job) => {
                self.remember(key);
                let state = AttemptState::Working(anshin_director::record::Progress::default());
                self.tasks.insert(key, Task { state, volume: volume_of(&job.subject), stopper: None });
                Some(job)
            }
            Err(NotReady::Never(why)) => {
                self.remember(key);
                self.fail(key, why, false);
                None
            }
            Err(NotReady::Yet(why)) => {
                let since = *self.waiting.entry(key).or_insert(now);
                if now.since(since) >= READY_LIMIT {
                    self.remember(key);
                    self.fail(key, why, true);
                }
                None
            }
        }
    }

    /// The process of an attempt runs.
    pub fn started(&mut self, run: RunId, attempt: Attempt, stopper: Stopper) {
        // If it was dropped meanwhile, so is the stopper, which ends the process.
        if let Some(task) = self.tasks.get_mut(&(run, attempt)) {
            task.stopper = Some(stopper);
        }
    }

    /// The process of an attempt said something. True if that was its last word.
    pub fn said(&mut self, run: RunId, attempt: Attempt, state: AttemptState) -> bool {
        let Some(task) = self.tasks.get_mut(&(run, attempt)) else { return false };
        if !matches!(task.state, AttemptState::Working(_)) {
            return false;
        }
        task.state = state;
        !matches!(task.state, AttemptState::Working(_))
    }

    /// The process of an attempt is gone. Without a last word the attempt has failed. True if that is news.
    pub fn ended(&mut self, run: RunId, attempt: Attempt, how: &str) -> bool {
        let Some(task) = self.tasks.get_mut(&(run, attempt)) else { return false };
        task.stopper = None;
        if !matches!(task.state, AttemptState::Working(_)) {
            return false;
        }
        let reason = format!("the process of the backup ended without a result: {how}");
        task.state = AttemptState::Failed { reason, again: true };
        true
    }

    /// Drops an attempt; its process is told to stop. True if there was one.
    pub fn drop_attempt(&mut self, run: RunId, attempt: Attempt) -> bool {
        self.waiting.remove(&(run, attempt));
        self.left.remove(&(run, attempt));
        // The stopper goes with the task, and with it the process.
        self.tasks.remove(&(run, attempt)).is_some()
    }

    /// Leaves every attempt that reads from a volume, because the volume is about to leave this node and nothing may hold
    /// it back. True if there was one.
    pub fn leave(&mut self, now: Mono, volume: &str) -> bool {
        let reads = |task: &Task| {
            task.volume.as_deref() == Some(volume) && matches!(task.state, AttemptState::Working(_))
        };
        let leaving: Vec<_> =
            self.tasks.iter().filter(|(_, task)| reads(task)).map(|(key, _)| *key).collect();
        self.left.retain(|_, left| now.since(*left) < LEFT_LIMIT);
        for key in &leaving {
            self.tasks.remove(key);
            self.left.insert(*key, now);
        }
        !leaving.is_empty()
    }

    /// What is said of the attempts.
    #[must_use]
    pub fn reports(&self) -> Vec<AttemptReport> {
        let report = |(&(run, attempt), task): (&(RunId, Attempt), &Task)| AttemptReport {
            run,
            attempt,
            state: task.state.clone(),
        };
        self.tasks.iter().map(report).collect()
    }

    fn fail(&mut self, key: (RunId, Attempt), reason: String, again: bool) {
        self.waiting.remove(&key);
        let state = AttemptState::Failed { reason, again };
        self.tasks.insert(key, Task { state, volume: None, stopper: None });
    }

    fn remember(&mut self, (run, attempt): (RunId, Attempt)) {
        self.waiting.retain(|(waiting, _), _| *waiting != run);
        self.begun.insert(run, attempt);
        while self.begun.len() > RUNS_REMEMBERED
            && let Some((oldest, _)) = self.begun.pop_first()
        {
            self.floor = self.floor.max(oldest);
        }
    }
}

fn volume_of(subject: &Subject) -> Option<String> {
    match subject {
        Subject::Volume(volume) | Subject::Service { volume: Some(volume), .. } => {
            Some(volume.volume.clone())
        }
        Subject::Service { volume: None, .. } | Subject::Machine => None,
    }
}
