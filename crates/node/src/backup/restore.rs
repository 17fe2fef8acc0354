//! Bringing a snapshot back: files, images and streams directly, services through their plugins.

use super::{
    Tools,
    about::{About, Form},
    log::PLACE,
    plugin::{
        host::{Plugin, Whom},
        protocol::{Operation, Say},
    },
    process::Voice,
    restore_job::{AtStart, Conflict, Destination, RestoreDone, RestoreJob, RestoreState, ServiceRestore},
    stage::{UNFINISHED, on_volume, passable, sweep},
    stop::Stop,
    swap::Swap,
};
use anshin_base::Problem;
use anshin_capture::{
    Monitor,
    image::restore_image,
    restore::{self as capture, RestoreOptions, RestoreReport, Selection},
};
use anshin_director::catalog::LogLabel;
use anshin_vault::{ChunkId, Session, Snapshot, SnapshotId};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{RecvTimeoutError, channel},
    },
    time::Duration,
};

/// The daemon hears at least every two seconds.
const TELL: Duration = Duration::from_secs(1);
/// The clocks of two nodes that wrote one log differ by less.
const CLOCKS_NANOSECONDS: i64 = 3_600_000_000_000;
/// Warnings that are told one by one.
const WARNINGS_MAX: usize = 100;

/// Carries a job out; says how far it is on `voice`, and gives its last word.
pub fn restore(job: &RestoreJob, tools: &Tools, stop: &Arc<Stop>, voice: &Voice) -> RestoreState {
    let doing = Mutex::new(String::from("reads the snapshot"));
    let (ended, told) = channel::<()>();
    let result = std::thread::scope(|scope| {
        let doing = &doing;
        scope.spawn(move || {
            loop {
                let progress = stop.monitor().progress();
                let doing = doing.lock().unwrap_or_else(PoisonError::into_inner).clone();
                voice.say(&RestoreState::Working { files: progress.entries, bytes: progress.bytes, doing });
                if told.recv_timeout(TELL) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        });
        let result = Restorer { job, tools, stop, doing, done: RestoreDone::default() }.run();
        drop(ended);
        result
    });
    match result {
        Ok(done) => RestoreState::Done(done),
        Err(problem) => RestoreState::Failed { problem: stop.reason().unwrap_or(problem) },
    }
}

struct Restorer<'j> {
    job: &'j RestoreJob,
    tools: &'j Tools,
    stop: &'j Arc<Stop>,
    doing: &'j Mutex<String>,
    done: RestoreDone,
}

impl Restorer<'_> {
    fn run(mut self) -> Result<RestoreDone, Problem> {
        let session = self.tools.vaults.open(&self.job.vault)?;
        let (snapshot, about) = find(&session, &self.job.snapshot.to_string())?;
        match (&self.job.service, about.form) {
            (Some(service), Form::Plugin) => self.service(&session, &snapshot, &about, service)?,
            (Some(_), _) => {
                let message = "the snapshot was not made by a plugin, so none can bring it back";
                return Err(Problem::new("restore-service", message).hint("restore its files"));
            }
            (None, _) => self.files(&session, &snapshot, &about)?,
        }
        // A service that is put in place is, whatever was wanted since.
        if self.job.service.is_none() || self.job.to != Destination::InPlace {
            self.stop.check()?;
        }
        Ok(self.done)
    }

    fn doing(&self, what: &str) {
        tracing::info!("{what}");
        what.clone_into(&mut self.doing.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn monitor(&self) -> &Monitor {
        self.stop.monitor()
    }

    fn files(&mut self, session: &Session, snapshot: &Snapshot, about: &About) -> Result<(), Problem> {
        let root = snapshot.record.root;
        let (target, selection) = match &self.job.to {
            Destination::Device { path } => {
                if about.form != Form::Image {
                    let message = "only a snapshot of an image can be restored over a device";
                    return Err(Problem::refused("restore-device", message));
                }
                self.doing("writes the image");
                let workers = std::thread::available_parallelism().map_or(2, usize::from);
                let report = restore_image(
                    session,
                    &root,
                    about.base.as_bytes(),
                    path,
                    None,
                    workers,
                    self.monitor(),
                )?;
                self.done.place = Some(path.clone());
                return self.count(&report);
            }
            Destination::Directory { path } => {
                (path.clone(), Selection::beneath(self.job.part.beneath.as_bytes()))
            }
            Destination::InPlace => self.in_place()?,
        };
        let selection = selection.only(self.job.part.only.iter().map(String::as_str))?;
        self.doing("restores files");
        self.tree(session, &root, &selection, &target, conflict(self.job.conflict))?;
        self.done.place = Some(target);
        Ok(())
    }

    /// The directory in which what is wanted was.
    fn in_place(&self) -> Result<(PathBuf, Selection), Problem> {
        let beneath = self.job.part.beneath.trim_matches('/');
        let target = Path::new("/").join(beneath);
        // A file goes into its directory; a directory's contents go into it.
        let is_file = !beneath.is_empty() && fs::symlink_metadata(&target).is_ok_and(|found| !found.is_dir());
        let target = if is_file { target.parent().unwrap_or(Path::new("/")).to_owned() } else { target };
        Ok((target, Selection::beneath(beneath.as_bytes())))
    }

    fn tree(
        &mut self,
        session: &Session,
        root: &ChunkId,
        selection: &Selection,
        target: &Path,
        conflict: capture::Conflict,
    ) -> Result<(), Problem> {
        let in_place = self.job.to == Destination::InPlace && self.job.service.is_none();
        let options = RestoreOptions { conflict, in_place, ..RestoreOptions::default() };
        let report = capture::restore(session, root, selection, target, &options, self.monitor())?;
        self.count(&report)?;
        if self.job.verify {
            self.doing("compares with the snapshot");
            let verified = capture::verify(session, root, selection, target, &options, self.monitor())?;
            let equal = verified.is_equal();
            self.done.verified = Some(self.done.verified.unwrap_or(true) && equal);
            if !equal {
                self.warn(verified.issues.first.iter().map(ToString::to_string));
            }
        }
        Ok(())
    }

    fn count(&mut self, report: &RestoreReport) -> Result<(), Problem> {
        self.done.files += report.files + report.directories + report.others;
        self.done.bytes_written += report.bytes_written;
        self.done.bytes_equal += report.bytes_equal;
        self.warn(report.issues.first.iter().map(ToString::to_string));
        self.stop.check()
    }

    fn warn(&mut self, texts: impl Iterator<Item = String>) {
        let room = WARNINGS_MAX.saturating_sub(self.done.warnings.len());
        self.done.warnings.extend(texts.take(room));
    }

    /// Restores beside, has the plugin make it ready there, and only then puts it where the service has it.
    fn service(
        &mut self,
        session: &Session,
        snapshot: &Snapshot,
        about: &About,
        service: &ServiceRestore,
    ) -> Result<(), Problem> {
        let known = about.plugin.as_ref().map_or(serde_json::Value::Null, |plugin| plugin.about.clone());
        let stage = self.stage(&known)?;
        let result = self.service_in(&stage, known, session, snapshot, about, service);
        if result.is_err() && stage.join(UNFINISHED).exists() {
            // It was new or empty: all that is in it is from here, and is not whole.
            let _ = fs::remove_dir_all(&stage);
        }
        result
    }

    fn service_in(
        &mut self,
        stage: &Path,
        known: serde_json::Value,
        session: &Session,
        snapshot: &Snapshot,
        about: &About,
        service: &ServiceRestore,
    ) -> Result<(), Problem> {
        let stage = stage.to_owned();
        let root = snapshot.record.root;
        self.doing("restores the snapshot");
        self.tree(session, &root, &Selection::all(), &stage, capture::Conflict::Overwrite)?;
        let log = stage.join(PLACE);
        let log = if service.log { self.log(session, snapshot, about, &log)? } else { None };
        self.doing("makes the service's data ready");
        let restored = self.plugin(
            service,
            Operation::Restore {
                about: known.clone(),
                directory: stage.clone(),
                log: log.clone(),
                time: service.time.clone(),
            },
        )?;
        let Some(Say::Restored { data, place, reached }) = restored else {
            return Err(Problem::new("plugin", "the plugin did not say where it restored to"));
        };
        self.done.reached = reached;
        if service.check {
            self.doing("starts it and looks whether it is good");
            let found = self.plugin(service, Operation::Check { about: known, directory: stage.clone() })?;
            let Some(Say::Checked { text }) = found else {
                return Err(Problem::new("plugin", "the plugin did not say what it found"));
            };
            self.done.checked = Some(text);
        }
        if let Some(log) = log {
            let _ = fs::remove_dir_all(log);
        }
        self.done.place = Some(stage.join(&data));
        if self.job.to == Destination::InPlace {
            self.doing("puts it in place");
            self.swap(&stage, &data, &place, service.at_start.as_ref())?;
        }
        let _ = fs::remove_file(stage.join(UNFINISHED));
        // What else the snapshot had stays if the data refers to it; an empty rest goes.
        let _ = fs::remove_dir(&stage);
        Ok(())
    }

    /// Where a service is restored to first. In place: beside its data, on the same file system, so that it can be
    /// put there by a rename.
    fn stage(&self, about: &serde_json::Value) -> Result<PathBuf, Problem> {
        let path = match &self.job.to {
            Destination::Directory { path } => path.clone(),
            Destination::InPlace => {
                let place = about.get("place").and_then(serde_json::Value::as_str).ok_or_else(|| {
                    Problem::new("restore-service", "the snapshot does not say where the service's data was")
                        .hint("restore it into a directory")
                })?;
                let place = Path::new(place);
                let parent = place.parent().filter(|_| place.is_absolute()).ok_or_else(|| {
                    Problem::refused("restore-service", format!("{} cannot be replaced", place.display()))
                })?;
                let name = place.file_name().unwrap_or_default().to_string_lossy();
                let start = format!("{name}.restore-");
                on_volume(self.job.service.as_ref(), parent)?;
                sweep(parent, &start);
                parent.join(format!("{start}{}", stamp()))
            }
            Destination::Device { .. } => {
                return Err(Problem::refused(
                    "restore-device",
                    "a service is restored to a directory or in place",
                ));
            }
        };
        let failed =
            |error: std::io::Error| Problem::new("restore-target", format!("{}: {error}", path.display()));
        if fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_some()) {
            let message = format!("{} is not empty", path.display());
            return Err(
                Problem::refused("restore-target", message).hint("restore a service into a new directory")
            );
        }
        fs::create_dir_all(&path).map_err(failed)?;
        // The service's user must be able to pass.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o711)).map_err(failed)?;
        fs::write(path.join(UNFINISHED), "").map_err(failed)?;
        passable(&path)?;
        Ok(path)
    }

    /// Fetches every piece of the target's log since the snapshot.
    fn log(
        &mut self,
        session: &Session,
        snapshot: &Snapshot,
        about: &About,
        directory: &Path,
    ) -> Result<Option<PathBuf>, Problem> {
        // By the vault's clock too: the one of who made the snapshot may have been ahead.
        let sealed = i64::try_from(snapshot.sealed).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
        let since = snapshot.record.time.min(sealed).saturating_sub(CLOCKS_NANOSECONDS);
        let mut pieces: Vec<Snapshot> = Vec::new();
        for (piece, meta) in session.snapshots()? {
            let ours = |meta: Vec<u8>| {
                About::decode(&meta)
                    .is_ok_and(|found| found.form == Form::Log && found.target == about.target)
            };
            if piece.record.time >= since && meta.is_ok_and(ours) {
                pieces.push(piece);
            }
        }
        last_of_rolls(&mut pieces);
        if pieces.is_empty() {
            return Ok(None);
        }
        // The log goes on: a session that began before a piece was sealed may not know where its objects are.
        let session = self.tools.vaults.open(&self.job.vault)?;
        self.doing("fetches the log");
        // Later snapshots have more of the piece that was being written.
        pieces.sort_by_key(|piece| (piece.sealed, piece.record.time));
        let options = RestoreOptions { conflict: capture::Conflict::Overwrite, ..RestoreOptions::default() };
        for piece in &pieces {
            let selection = Selection::beneath(PLACE.as_bytes());
            capture::restore(&session, &piece.record.root, &selection, directory, &options, self.monitor())?;
            self.done.log_pieces += 1;
            self.stop.check()?;
        }
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755))
            .map_err(|error| Problem::new("restore-target", error.to_string()))?;
        Ok(Some(directory.to_owned()))
    }

    /// Runs the plugin; gives the one word that says what came of it.
    fn plugin(&mut self, service: &ServiceRestore, operation: Operation) -> Result<Option<Say>, Problem> {
        let whom = Whom { service: service.service.clone(), facts: service.plugin.facts.clone() };
        let mut plugin =
            Plugin::start(&self.tools.plugins, &service.plugin.plugin, &whom, operation, self.stop)?;
        let mut word = None;
        for say in plugin.all()? {
            match say {
                Say::Warning { text } => self.warn(std::iter::once(text)),
                say @ (Say::Restored { .. } | Say::Checked { .. }) => word = Some(say),
                other => return plugin.unexpected(&other),
            }
        }
        Ok(word)
    }

    /// What was in the service's place is kept beside it.
    fn swap(
        &mut self,
        stage: &Path,
        data: &Path,
        place: &Path,
        at_start: Option<&AtStart>,
    ) -> Result<(), Problem> {
        let plain = data.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        if !plain || stage.parent() != place.parent() {
            let message = format!("{} cannot be put at {}", stage.join(data).display(), place.display());
            return Err(Problem::refused("restore-place", message));
        }
        let stamp = stamp();
        let beside = |path: &Path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            path.with_file_name(format!("{name}.before-restore-{stamp}"))
        };
        let swap = Swap {
            resource: at_start.map(|at| at.resource.clone()).unwrap_or_default(),
            ready: stage.join(data),
            place: place.to_owned(),
            before: beside(place),
            replaces: fs::symlink_metadata(place).is_ok(),
            aside: at_start
                .iter()
                .flat_map(|at| &at.aside)
                .map(|path| (path.clone(), beside(path)))
                .collect(),
        };
        self.done.before = swap.replaces.then(|| swap.before.clone());
        self.done.place = Some(place.to_owned());
        // From here on it is whole; a restore that comes later must not sweep it away.
        let _ = fs::remove_file(stage.join(UNFINISHED));
        match at_start {
            Some(at) => {
                // That takes long, and whoever gave up in the meantime was told that nothing would be replaced.
                let ready = self.settle(stage).and_then(|()| self.stop.check());
                // Nothing will put it in place then, so it is swept away like any that was broken off.
                let left = ready.and_then(|()| swap.leave(&at.mount));
                left.inspect_err(|_| drop(fs::write(stage.join(UNFINISHED), "")))
            }
            None => swap.carry_out(),
        }
    }

    /// What is started from must be on the disk before it is said to be ready.
    fn settle(&self, stage: &Path) -> Result<(), Problem> {
        let failed = |error| Problem::new("restore-place", format!("{}: {error}", stage.display()));
        rustix::fs::syncfs(fs::File::open(stage).map_err(failed)?).map_err(|error| failed(error.into()))
    }
}

/// The snapshot of this name, with what it says of itself.
fn find(session: &Session, name: &str) -> Result<(Snapshot, About), Problem> {
    let missing = || {
        Problem::new("snapshot-unknown", format!("the vault has no snapshot {name}"))
            .hint("`anshin snapshots` lists those that there are")
    };
    let id = SnapshotId::parse(name).ok_or_else(missing)?;
    let found = session.snapshots()?.into_iter().find(|(snapshot, _)| snapshot.record.id == id);
    let (snapshot, meta) = found.ok_or_else(missing)?;
    let about = About::decode(&meta?)?;
    Ok((snapshot, about))
}

fn conflict(conflict: Conflict) -> capture::Conflict {
    match conflict {
        Conflict::Refuse => capture::Conflict::Refuse,
        Conflict::Skip => capture::Conflict::Skip,
        Conflict::IfDifferent => capture::Conflict::IfDifferent,
        Conflict::Overwrite => capture::Conflict::Overwrite,
        Conflict::KeepNewer => capture::Conflict::KeepNewer,
    }
}

/// For names that must not be taken.
fn stamp() -> String {
    jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string()
}

/// The snapshots of a roll each hold what the ones before them hold.
fn last_of_rolls(pieces: &mut Vec<Snapshot>) {
    // Of one client: what another one says that it holds counts for nothing.
    let roll = |piece: &Snapshot| {
        let (name, number) = piece.record.run.parse::<LogLabel>().ok()?.roll?;
        Some(((piece.record.client.clone(), name), number))
    };
    let mut last: BTreeMap<(String, String), u64> = BTreeMap::new();
    for (name, number) in pieces.iter().filter_map(roll) {
        let known = last.entry(name).or_insert(number);
        *known = number.max(*known);
    }
    pieces.retain(|piece| roll(piece).is_none_or(|(name, number)| last.get(&name) == Some(&number)));
}
