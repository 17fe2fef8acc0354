//! The continuous archive of a service's log: a plugin writes it into a spool, the executor moves the spool into the vault, as
//! small snapshots of the same target.
//!
//! The spool lies beside the service's data, on its volume: what is in it survives the node, and the node that takes the
//! service over goes on with it. A piece leaves the spool only after the snapshot that has it is sealed.

use super::{
    Tools,
    about::{About, Form, PluginAbout},
    job::{PluginSubject, VaultAccess},
    now_nanoseconds,
    plugin::{
        host::{Plugin, Whom},
        protocol::{Operation, Say},
    },
    process::Voice,
    stop::Stop,
};
use anshin_base::Problem;
use anshin_capture::{
    IssueKind, Monitor,
    backup::{BackupOptions, BackupRoot, backup},
};
use anshin_director::{PlanName, Span, TargetKey, catalog::LOG_RUN};
use anshin_vault::{SnapshotDraft, SnapshotId};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// What a piece of the log that is still being written is called.
pub const PARTIAL: &str = ".partial";
/// Where the pieces lie in a snapshot.
pub(super) const PLACE: &str = "log";

/// A service whose log is archived. One line on standard input, which stays open.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArchiveJob {
    /// Where the vault is.
    pub vault: VaultAccess,
    /// Put on the snapshots.
    pub plan: PlanName,
    /// The target whose snapshots the log completes: `service/db`.
    pub target: TargetKey,
    /// The service.
    pub service: String,
    /// The plugin that knows its program.
    pub plugin: PluginSubject,
    /// Where the log waits for the vault: on the service's volume. Made if need be.
    pub spool: PathBuf,
    /// How often it is moved.
    #[serde(default = "minute")]
    pub every: Span,
}

fn minute() -> Span {
    Span::minutes(1)
}

/// How the archive is, one line after each move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "archive", rename_all = "kebab-case")]
pub enum ArchiveState {
    /// Everything that was in the spool then is in the vault.
    Moved {
        /// The newest snapshot; None: there was nothing new.
        snapshot: Option<String>,
        /// Pieces that left the spool.
        pieces: u64,
        /// Bytes of the log that are still in the spool.
        waiting_bytes: u64,
    },
    /// It could not be moved; the spool grows until it can.
    Waiting {
        /// Why.
        problem: Problem,
        /// Bytes of the log in the spool.
        waiting_bytes: u64,
    },
}

/// Archives until told to stop; then what is in the spool is moved once more.
///
/// # Errors
/// Why the plugin ended by itself.
pub fn archive(job: &ArchiveJob, tools: &Tools, stop: &Arc<Stop>, voice: &Voice) -> Result<(), Problem> {
    fs::create_dir_all(&job.spool).map_err(|error| {
        Problem::new("archive-spool", format!("cannot make {}: {error}", job.spool.display()))
    })?;
    // The volume may belong to somebody who must not have root give directories elsewhere to the service's user.
    let own = |path: &Path| fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    if !own(&job.spool) || !job.spool.parent().is_some_and(own) {
        let message = format!("{} is a link to somewhere else", job.spool.display());
        return Err(Problem::new("archive-spool", message).hint("remove the link"));
    }
    let whom = Whom { service: job.service.clone(), facts: job.plugin.facts.clone() };
    let operation = Operation::Archive { spool: job.spool.clone() };
    let mut plugin = Plugin::start(&tools.plugins, &job.plugin.plugin, &whom, operation, stop)?;
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut mover = Mover { job, tools, partial: None };
            while !stop.sleep(Duration::from_secs(job.every.0.max(1))) && !ended.load(Ordering::Relaxed) {
                mover.turn(voice);
            }
        });
        let result = serve(&mut plugin);
        ended.store(true, Ordering::Relaxed);
        match stop.reason() {
            Some(_) => Ok(()),
            None => {
                let problem =
                    result.err().unwrap_or_else(|| Problem::new("plugin", "the archive ended by itself"));
                stop.ask(problem.clone());
                Err(problem)
            }
        }
    })?;
    Mover { job, tools, partial: None }.turn(voice);
    Ok(())
}

fn serve(plugin: &mut Plugin) -> Result<(), Problem> {
    while let Some(say) = plugin.next_word()? {
        match say {
            Say::Ready => tracing::info!("the log is being archived"),
            Say::Warning { text } => tracing::warn!("{text}"),
            other => return plugin.unexpected(&other),
        }
    }
    Ok(())
}

struct Mover<'j> {
    job: &'j ArchiveJob,
    tools: &'j Tools,
    /// The unfinished piece that the newest snapshot has, by name and time of change.
    partial: Option<BTreeMap<String, (i64, i64)>>,
}

impl Mover<'_> {
    fn turn(&mut self, voice: &Voice) {
        let state = match self.move_spool() {
            Ok(state) => state,
            Err(problem) => {
                tracing::warn!(%problem, "the log waits in its spool");
                ArchiveState::Waiting { problem, waiting_bytes: waiting(&self.job.spool) }
            }
        };
        voice.say(&state);
    }

    fn move_spool(&mut self) -> Result<ArchiveState, Problem> {
        let spool = &self.job.spool;
        let failed =
            |error: std::io::Error| Problem::new("archive-spool", format!("{}: {error}", spool.display()));
        let mut complete = Vec::new();
        let mut partial = BTreeMap::new();
        for entry in fs::read_dir(spool).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let Ok(found) = entry.metadata() else { continue };
            if found.is_file() && name.ends_with(PARTIAL) {
                partial.insert(name, (found.mtime(), found.mtime_nsec()));
            } else if found.is_file() && !name.starts_with('.') {
                complete.push(name);
            }
        }
        // The newest complete piece stays: programs go on from it when they are started again.
        complete.sort();
        complete.pop();
        if complete.is_empty() && self.partial.as_ref() == Some(&partial) {
            return Ok(ArchiveState::Moved { snapshot: None, pieces: 0, waiting_bytes: waiting(spool) });
        }
        let snapshot = self.seal()?;
        let mut pieces = 0;
        for name in complete {
            fs::remove_file(spool.join(name)).map_err(failed)?;
            pieces += 1;
        }
        self.partial = Some(partial);
        Ok(ArchiveState::Moved { snapshot: Some(snapshot), pieces, waiting_bytes: waiting(spool) })
    }

    /// One snapshot of the spool as it is.
    fn seal(&self) -> Result<String, Problem> {
        let job = self.job;
        let session = self.tools.vaults.open(&job.vault)?;
        let options = BackupOptions::new(Arc::new(session.chunker()));
        let time = now_nanoseconds();
        let root = BackupRoot { source: job.spool.clone(), path: Path::new("/").join(PLACE) };
        let done = backup(&session, &[root], &options, &Monitor::new())?;
        // A piece may be finished, and so renamed, while the others are read: the next snapshot has it.
        let mut issues = done.report.issues.first.iter();
        let lost = |kind| matches!(kind, IssueKind::Unreadable | IssueKind::Changed);
        if let Some(issue) =
            issues.find(|issue| lost(issue.kind) && !issue.path.ends_with(PARTIAL.as_bytes()))
        {
            return Err(Problem::new("archive-spool", issue.to_string()));
        }
        let mut about = About::new(job.target.clone(), Form::Log);
        about.base = PLACE.into();
        about.plugin =
            Some(PluginAbout { plugin: job.plugin.plugin.clone(), about: serde_json::Value::Null });
        let sealed = session.seal(SnapshotDraft {
            id: SnapshotId::generate()?,
            plan: job.plan.to_string(),
            run: format!("{LOG_RUN}{}", job.target),
            time,
            root: done.root,
            entries: done.report.files,
            bytes: done.report.bytes,
            meta: about.encode(),
        })?;
        Ok(sealed.record.id.to_string())
    }
}

fn waiting(spool: &Path) -> u64 {
    let entries = fs::read_dir(spool).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.metadata().ok())
        .filter(fs::Metadata::is_file)
        .map(|found| found.len())
        .sum()
}
