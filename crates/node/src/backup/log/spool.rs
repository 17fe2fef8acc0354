//! The spool of a log, and how what is in it comes into the vault.

use super::{ArchiveJob, ArchiveState, Gap, PARTIAL, PLACE};
use crate::backup::{
    Tools,
    about::{About, Form, PluginAbout},
    now_nanoseconds,
    process::Voice,
};
use anshin_base::Problem;
use anshin_capture::{
    IssueKind, Monitor,
    backup::{BackupOptions, BackupRoot, backup},
};
use anshin_director::{UnixMillis, catalog::LogLabel};
use anshin_vault::{SnapshotDraft, SnapshotId};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

/// Longest roll.
const ROLL_TIME: Duration = Duration::from_secs(3_600);
/// Largest roll, if the volume is not small: then it is a sixty-fourth of it.
const ROLL_BYTES: u64 = 512 << 20;
/// How often the spool is read anew because a piece was renamed meanwhile; after that the snapshot stands for itself.
const TRIES: u32 = 3;
/// After so many turns in a row that failed a log that is large is given up: a vault that is only started anew is back by then.
const FAILED_MAX: u32 = 3;

/// Where the newest gap is written down, in the spool.
const GAP: &str = ".gap";

/// Files of the spool by name, with their times of change and sizes.
pub type Pieces = BTreeMap<String, ((i64, i64), u64)>;

/// Moves the spool into the vault.
pub struct Mover<'j> {
    pub job: &'j ArchiveJob,
    pub tools: &'j Tools,
    /// What the newest snapshot has.
    sealed: Pieces,
    roll: Roll,
    /// Turns in a row that failed.
    failed: u32,
}

/// Snapshots of which each holds what those before it hold.
struct Roll {
    name: String,
    number: u64,
    began: Instant,
    /// Of the newest snapshot: a clock that is set back must not make the last of a roll look older than what it holds.
    time: i64,
    /// What its snapshots may hold.
    held: BTreeSet<String>,
}

impl Roll {
    fn begin() -> Result<Self, Problem> {
        let mut name = SnapshotId::generate()?.to_string();
        name.truncate(16);
        Ok(Self { name, number: 0, began: Instant::now(), time: 0, held: BTreeSet::new() })
    }

    /// Whether everything that it holds is among these, finished meanwhile or not.
    fn is_within(&self, pieces: &Pieces) -> bool {
        let there = |name: &str| pieces.contains_key(name);
        self.held.iter().all(|name| there(name) || name.strip_suffix(PARTIAL).is_some_and(there))
    }
}

impl<'j> Mover<'j> {
    pub fn new(job: &'j ArchiveJob, tools: &'j Tools) -> Result<Self, Problem> {
        Ok(Self { job, tools, sealed: Pieces::new(), roll: Roll::begin()?, failed: 0 })
    }

    /// What is in the spool.
    pub fn pieces(&self) -> Result<Pieces, Problem> {
        pieces(&self.job.spool).map_err(|error| self.failure(&error))
    }

    fn failure(&self, error: &io::Error) -> Problem {
        failure(&self.job.spool, error)
    }

    /// Whether it could be moved.
    pub fn turn(&mut self, voice: &Voice) -> bool {
        let state = match self.move_spool() {
            Ok(state) => {
                self.failed = 0;
                state
            }
            Err(problem) => {
                tracing::warn!(%problem, "the log waits in its spool");
                self.failed += 1;
                if self.is_tight()
                    && let Err(problem) = self.leave()
                {
                    tracing::warn!(%problem, "what is in the vault does not leave the spool");
                }
                state_of_waiting(&self.job.spool, problem)
            }
        };
        voice.say(&state);
        self.failed == 0
    }

    /// Moves what is new in the spool.
    pub fn move_spool(&mut self) -> Result<ArchiveState, Problem> {
        let found = self.pieces()?;
        let mut snapshot = None;
        if found != self.sealed && !found.is_empty() {
            snapshot = Some(self.seal()?);
        }
        let bytes: u64 = self.sealed.values().map(|(_, bytes)| bytes).sum();
        let over = bytes >= roll_bytes(&self.job.spool) || self.roll.began.elapsed() >= ROLL_TIME;
        let pieces = if over || self.is_tight() { self.leave()? } else { 0 };
        let spool = &self.job.spool;
        Ok(ArchiveState::Moved { snapshot, pieces, waiting_bytes: waiting(spool), gap: gap(spool) })
    }

    /// Everything in the spool is moved and removed: the log does not go on from it.
    pub fn move_all(&mut self) -> Result<(), Problem> {
        self.move_spool()?;
        self.begin_anew()?;
        clear(&self.job.spool)
    }

    /// What comes from here on is in another roll.
    pub fn begin_anew(&mut self) -> Result<(), Problem> {
        self.roll = Roll::begin()?;
        self.sealed = Pieces::new();
        Ok(())
    }

    /// Complete pieces that are in the vault leave the spool, and the roll ends. The newest one stays: programs go on from it when
    /// they are started again.
    fn leave(&mut self) -> Result<u64, Problem> {
        let mut complete: Vec<String> =
            self.sealed.keys().filter(|name| !name.ends_with(PARTIAL)).cloned().collect();
        complete.pop();
        if complete.is_empty() {
            return Ok(0);
        }
        // First, because what is removed will be in no later snapshot of this roll.
        self.begin_anew()?;
        for name in &complete {
            match fs::remove_file(self.job.spool.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(self.failure(&error)),
                _ => {}
            }
        }
        Ok(complete.len() as u64)
    }

    /// One snapshot of the spool as it is.
    fn seal(&mut self) -> Result<String, Problem> {
        let job = self.job;
        let session = self.tools.vaults.open(&job.vault)?;
        let options = BackupOptions::new(Arc::new(session.chunker()));
        let mut tries = 0;
        let (time, done, sealed, whole) = loop {
            let before = self.pieces()?;
            if !self.roll.is_within(&before) {
                self.begin_anew()?;
            }
            let time = now_nanoseconds();
            let root = BackupRoot { source: job.spool.clone(), path: Path::new("/").join(PLACE) };
            let done = backup(&session, &[root], &options, &Monitor::new())?;
            let after = self.pieces()?;
            tries += 1;
            // A piece that was finished, and so renamed, may be there under neither name.
            let whole = before.keys().all(|name| after.contains_key(name));
            if whole || tries == TRIES {
                let there = before.into_iter().filter(|(name, _)| after.contains_key(name));
                break (time, done, there.collect::<Pieces>(), whole);
            }
        };
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
        self.roll.time = self.roll.time.max(time);
        let roll = whole.then(|| {
            // Before it is sealed: whether it is may not be heard of.
            self.roll.number += 1;
            self.roll.held.extend(sealed.keys().cloned());
            (self.roll.name.clone(), self.roll.number)
        });
        let made = session.seal(SnapshotDraft {
            id: SnapshotId::generate()?,
            plan: job.plan.to_string(),
            run: LogLabel { target: job.target.clone(), roll }.to_string(),
            time: self.roll.time,
            root: done.root,
            entries: done.report.files,
            bytes: done.report.bytes,
            meta: about.encode(),
        })?;
        self.sealed = sealed;
        Ok(made.record.id.to_string())
    }

    /// What is not in the vault yet.
    fn unsealed(&self) -> u64 {
        let found = self.pieces().unwrap_or_default();
        let new = found.iter().filter(|(name, piece)| self.sealed.get(*name) != Some(piece));
        new.map(|(_, (_, bytes))| bytes).sum()
    }

    /// The spool takes more of the volume than is left of it.
    fn is_tight(&self) -> bool {
        room(&self.job.spool).is_some_and(|(left, _)| waiting(&self.job.spool) > left)
    }

    /// What is not in the vault takes more of the volume than is left of it.
    pub fn is_large(&self) -> bool {
        room(&self.job.spool).is_some_and(|(left, _)| self.unsealed() > left)
    }

    /// It must be given up now.
    pub fn crowded(&self) -> bool {
        let nearly_full = room(&self.job.spool).is_some_and(|(left, all)| left < all / 20);
        self.failed > 0 && self.is_large() && (self.failed >= FAILED_MAX || nearly_full)
    }

    pub fn no_room(&self) -> Problem {
        let message = format!(
            "the log that waits in {} takes more of the volume than is left: it is given up, and times from now on need the next base backup",
            self.job.spool.display()
        );
        Problem::new("archive-room", message).hint("bring the vault back, or make the volume larger")
    }
}

fn failure(spool: &Path, error: &io::Error) -> Problem {
    Problem::new("archive-spool", format!("{}: {error}", spool.display()))
}

fn pieces(spool: &Path) -> io::Result<Pieces> {
    let mut all = Pieces::new();
    for entry in fs::read_dir(spool)? {
        let entry = entry?;
        let (Ok(name), Ok(found)) = (entry.file_name().into_string(), entry.metadata()) else { continue };
        if found.is_file() && !name.starts_with('.') {
            all.insert(name, ((found.mtime(), found.mtime_nsec()), found.len()));
        }
    }
    Ok(all)
}

/// What is said of a log that cannot be moved.
pub fn state_of_waiting(spool: &Path, problem: Problem) -> ArchiveState {
    ArchiveState::Waiting { problem, waiting_bytes: waiting(spool), gap: gap(spool) }
}

fn gap(spool: &Path) -> Option<Gap> {
    let text = fs::read(spool.join(GAP)).ok()?;
    // One that cannot be read was one all the same.
    let unknown = || Gap {
        at: UnixMillis(jiff::Timestamp::now().as_millisecond()),
        reason: "it cannot be read any more why".into(),
    };
    Some(serde_json::from_slice(&text).unwrap_or_else(|_| unknown()))
}

/// From now on the log does not go on where it was.
pub fn note_gap(spool: &Path, reason: &str) -> Result<(), Problem> {
    let at = UnixMillis(jiff::Timestamp::now().as_millisecond());
    let text = serde_json::to_vec(&Gap { at, reason: reason.to_owned() })
        .map_err(|error| Problem::new("archive-spool", error.to_string()))?;
    anshin_link::files::write(&spool.join(GAP), &text, 0o600).map_err(|error| failure(spool, &error))
}

/// Bytes of the log in the spool.
fn waiting(spool: &Path) -> u64 {
    pieces(spool).unwrap_or_default().values().map(|(_, bytes)| bytes).sum()
}

/// Removes every piece from the spool.
pub fn clear(spool: &Path) -> Result<(), Problem> {
    let all = match pieces(spool) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        all => all.map_err(|error| failure(spool, &error))?,
    };
    for name in all.keys() {
        fs::remove_file(spool.join(name)).map_err(|error| failure(spool, &error))?;
    }
    Ok(())
}

/// What is free of the volume, and its size, in bytes.
fn room(spool: &Path) -> Option<(u64, u64)> {
    let space = rustix::fs::statvfs(spool).ok()?;
    Some((space.f_bavail.saturating_mul(space.f_frsize), space.f_blocks.saturating_mul(space.f_frsize)))
}

fn roll_bytes(spool: &Path) -> u64 {
    room(spool).map_or(ROLL_BYTES, |(_, all)| ROLL_BYTES.min(all / 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> Pieces {
        names.iter().map(|name| ((*name).to_owned(), ((1, 0), 16))).collect()
    }

    #[test]
    fn a_roll_goes_on_only_with_all_that_it_holds() {
        let mut roll = Roll::begin().unwrap();
        assert!(roll.is_within(&of(&[])));
        roll.held = ["1", "2.partial"].map(str::to_owned).into();
        assert!(roll.is_within(&of(&["1", "2.partial"])));
        assert!(roll.is_within(&of(&["1", "2", "3.partial"])), "a piece was finished");
        assert!(!roll.is_within(&of(&["2", "3.partial"])), "one has left the spool");
        assert!(!roll.is_within(&of(&["1", "3.partial"])));
    }

    #[test]
    fn a_gap_that_cannot_be_read_is_one_all_the_same() {
        let spool = std::env::temp_dir().join(format!("anshin-spool-gap-{}", std::process::id()));
        fs::create_dir_all(&spool).unwrap();
        assert!(gap(&spool).is_none());
        note_gap(&spool, "the slot was lost").unwrap();
        assert_eq!(gap(&spool).unwrap().reason, "the slot was lost");
        fs::write(spool.join(GAP), "").unwrap();
        assert!(gap(&spool).is_some());
        fs::remove_dir_all(&spool).unwrap();
    }
}
