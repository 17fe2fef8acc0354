//! The continuous archive of a service's log: a plugin writes it into a spool, the executor moves the spool into the vault, as
//! small snapshots of the same target.
//!
//! The spool lies beside the service's data, on its volume: what is in it survives the node, and the node that takes the
//! service over goes on with it. A piece leaves the spool only after the snapshot that has it is sealed, and not at once: the
//! snapshots of a *roll* each hold what those before them hold, so that the vault needs to keep only the last of them. What is
//! in the vault leaves the spool when the roll ends: after an hour, or when it has become large.

mod spool;

use self::spool::{Mover, clear, note_gap, state_of_waiting};
use super::{
    Tools,
    job::{PluginSubject, VaultAccess},
    plugin::{
        host::{Plugin, Whom},
        protocol::{Answer, Operation, Say},
    },
    process::Voice,
    stop::Stop,
};
use anshin_base::Problem;
use anshin_director::{PlanName, Span, TargetKey, UnixMillis};
use serde::{Deserialize, Serialize};
use std::{
    fs,
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

/// A service whose log nobody archives any more. One line on standard input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArchiveEndJob {
    /// The service.
    pub service: String,
    /// The plugin that knows its program.
    pub plugin: PluginSubject,
    /// Where the log waited for a vault.
    pub spool: PathBuf,
}

fn minute() -> Span {
    Span::minutes(1)
}

/// How the archive is, one line after each move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "archive", rename_all = "kebab-case")]
pub enum ArchiveState {
    /// Everything that is in the spool is in the vault.
    Moved {
        /// The newest snapshot; None: there was nothing new.
        snapshot: Option<String>,
        /// Pieces that left the spool.
        pieces: u64,
        /// Bytes of the log that are in the spool, in the vault or not.
        waiting_bytes: u64,
        /// The newest gap, if there ever was one.
        #[serde(default)]
        gap: Option<Gap>,
    },
    /// It could not be moved; the spool grows until it can.
    Waiting {
        /// Why.
        problem: Problem,
        /// Bytes of the log in the spool.
        waiting_bytes: u64,
        /// The newest gap, if there ever was one.
        #[serde(default)]
        gap: Option<Gap>,
    },
}

/// Where the log does not go on. Kept beside the spool, because the service may move before anybody has made a new backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Instants from here on are reached only from a backup that is made later.
    pub at: UnixMillis,
    /// Why.
    pub reason: String,
}

/// Archives until told to stop; then what is in the spool is moved once more.
///
/// # Errors
/// Why the plugin ended by itself.
pub fn archive(job: &ArchiveJob, tools: &Tools, stop: &Arc<Stop>, voice: &Voice) -> Result<(), Problem> {
    let result = archive_until_told(job, tools, stop, voice);
    if let Err(problem) = &result {
        voice.say(&state_of_waiting(&job.spool, problem.clone()));
    }
    result
}

/// Nothing archives the log of this service any more: what keeps it is let go, and what waits is given up.
///
/// # Errors
/// What the plugin says; then everything is as it was.
pub fn end_archive(job: &ArchiveEndJob, tools: &Tools, stop: &Arc<Stop>) -> Result<(), Problem> {
    let whom = Whom { service: job.service.clone(), facts: job.plugin.facts.clone() };
    let operation = Operation::ArchiveEnd { spool: job.spool.clone() };
    let mut plugin = Plugin::start(&tools.plugins, &job.plugin.plugin, &whom, operation, stop)?;
    serve(&mut plugin)?;
    clear(&job.spool)
}

fn archive_until_told(
    job: &ArchiveJob,
    tools: &Tools,
    stop: &Arc<Stop>,
    voice: &Voice,
) -> Result<(), Problem> {
    fs::create_dir_all(&job.spool).map_err(|error| {
        Problem::new("archive-spool", format!("cannot make {}: {error}", job.spool.display()))
    })?;
    // The volume may belong to somebody who must not have root give directories elsewhere to the service's user.
    let own = |path: &Path| fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    if !own(&job.spool) || !job.spool.parent().is_some_and(own) {
        let message = format!("{} is a link to somewhere else", job.spool.display());
        return Err(Problem::new("archive-spool", message).hint("remove the link"));
    }
    let mut mover = Mover::new(job, tools)?;
    make_room(&mut mover, stop, voice)?;
    let at_start = mover.pieces()?;
    let whom = Whom { service: job.service.clone(), facts: job.plugin.facts.clone() };
    let operation = Operation::Archive { spool: job.spool.clone() };
    let mut plugin = Plugin::start(&tools.plugins, &job.plugin.plugin, &whom, operation, stop)?;
    begin(&mut plugin, &mut mover)?;
    let ended = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.sleep(Duration::from_secs(job.every.0.max(1))) && !ended.load(Ordering::Relaxed) {
                if !mover.turn(voice) && mover.crowded() {
                    // The next start gives it up, unless the vault is back by then.
                    stop.ask(mover.no_room());
                }
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
    });
    if result.is_ok() {
        mover.turn(voice);
    } else if mover.pieces()? != at_start
        && let Err(problem) = mover.move_spool()
    {
        tracing::warn!(%problem, "the log waits in its spool");
    }
    result
}

/// A log that cannot be moved must not fill the volume: the service would stop. What waits is given up then, and the archive
/// begins anew, with a gap, once the vault can be reached.
fn make_room(mover: &mut Mover<'_>, stop: &Arc<Stop>, voice: &Voice) -> Result<(), Problem> {
    let every = Duration::from_secs(mover.job.every.0.max(1));
    while mover.is_large() {
        if mover.turn(voice) {
            return Ok(());
        }
        if mover.crowded() {
            break;
        }
        if stop.sleep(every) {
            return stop.check();
        }
    }
    if !mover.crowded() {
        return Ok(());
    }
    let problem = mover.no_room();
    tracing::error!(service = mover.job.service, %problem, "the log is given up");
    let ArchiveJob { service, plugin, spool, .. } = mover.job.clone();
    let job = ArchiveEndJob { service, plugin, spool };
    note_gap(&job.spool, &problem.message)?;
    mover.begin_anew()?;
    let mut told = false;
    loop {
        if !told {
            let ended = end_archive(&job, mover.tools, stop);
            stop.check()?;
            // The program may be down because the volume is full; when it is back, it must not keep its log for nobody.
            clear(&job.spool)?;
            told = ended
                .inspect_err(
                    |problem| tracing::warn!(%problem, "the program does not hear that its log is given up"),
                )
                .is_ok();
        }
        let Err(away) = mover.tools.vaults.open(&mover.job.vault) else { return Ok(()) };
        let problem = Problem::new("archive-room", format!("{problem}; it waits for the vault: {away}"));
        voice.say(&state_of_waiting(&job.spool, problem));
        if stop.sleep(every) {
            return stop.check();
        }
    }
}

/// What the plugin says before it is ready.
fn begin(plugin: &mut Plugin, mover: &mut Mover<'_>) -> Result<(), Problem> {
    while let Some(say) = plugin.next_word()? {
        match say {
            Say::Ready => {
                tracing::info!("the log is being archived");
                return Ok(());
            }
            Say::Warning { text } => tracing::warn!("{text}"),
            Say::Stale { reason } => {
                tracing::warn!(reason, "the log does not go on where the spool ends");
                match mover.move_all().and_then(|()| note_gap(&mover.job.spool, &reason)) {
                    Ok(()) => plugin.answer(&Answer::Moved)?,
                    Err(problem) => {
                        plugin.answer(&Answer::Refused { reason: problem.to_string() })?;
                        return Err(problem);
                    }
                }
            }
            other => return plugin.unexpected(&other),
        }
    }
    Err(Problem::new("plugin", "the archive ended by itself"))
}

fn serve(plugin: &mut Plugin) -> Result<(), Problem> {
    while let Some(say) = plugin.next_word()? {
        match say {
            Say::Warning { text } => tracing::warn!("{text}"),
            other => return plugin.unexpected(&other),
        }
    }
    Ok(())
}
