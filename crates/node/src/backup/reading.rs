//! Reading what a job names into the vault.

use super::{
    Tools,
    about::{About, Form, PluginAbout},
    child::Group,
    job::{BackupJob, PluginSubject, Subject, VolumeSubject},
    plugin::{
        host::{Plugin, Whom},
        protocol::{Answer, Operation, Say},
    },
    point::{Held, Mounted},
    stop::Stop,
};
use anshin_base::Problem;
use anshin_capture::{
    IssueKind, Monitor,
    backup::{Backup, BackupOptions, BackupReport, BackupRoot, CacheOptions, Composer, Excludes, backup},
    image::{backup_image, backup_stream},
};
use anshin_director::plan::{Source, VolumeForm};
use anshin_vault::{Chunker, Sink};
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

/// Seconds within which a file may change without its times showing it.
const GRANULARITY_S: i64 = 2;

/// What reading needs.
pub struct Reader<'j> {
    /// The job.
    pub job: &'j BackupJob,
    /// Directories, plugins.
    pub tools: &'j Tools,
    /// Where everything goes.
    pub sink: &'j dyn Sink,
    /// Where contents are cut.
    pub chunker: Arc<Chunker>,
    /// The wish to stop, and what is counted.
    pub stop: &'j Arc<Stop>,
}

/// What was read.
pub struct Taken {
    /// Its tree and report.
    pub backup: Backup,
    /// What the snapshot says of itself.
    pub about: About,
    /// What else a human should look at.
    pub warnings: u64,
}

impl Reader<'_> {
    /// Reads the job's subject.
    ///
    /// # Errors
    /// Why there is no backup; `cannot-back-up` if trying again is of no use.
    pub fn read(&self) -> Result<Taken, Problem> {
        match (&self.job.subject, &self.job.work.source) {
            (Subject::Volume(volume), Source::Volume { form: VolumeForm::Image, .. }) => self.volume_image(volume),
            (Subject::Volume(volume), Source::Volume { exclude, .. }) => self.volume_files(volume, exclude),
            (Subject::Service { service, volume, plugin: Some(plugin) }, _) => {
                self.plugin(service, volume.as_ref(), plugin)
            }
            (Subject::Service { volume: Some(volume), plugin: None, .. }, _) => self.volume_files(volume, &[]),
            (Subject::Service { service, .. }, _) => Err(Problem::new(
                "cannot-back-up",
                format!("nothing is known of where the data of service {service} is: it has no volume and no plugin"),
            )
            .hint("name a plugin for it in the plan, or back up its files with a source of kind `files`")),
            (Subject::Machine, Source::Files { paths, exclude, one_file_system, .. }) => {
                self.files(paths, exclude, *one_file_system)
            }
            (Subject::Machine, Source::Image { device, .. }) => self.image(Path::new(device)),
            (Subject::Machine, Source::Command { name, command, .. }) => self.command(name, command),
            (_, source) => {
                let message = format!("the job's subject does not fit its source {source:?}");
                Err(Problem::new("cannot-back-up", message))
            }
        }
    }

    fn monitor(&self) -> &Monitor {
        self.stop.monitor()
    }

    fn about(&self, form: Form) -> About {
        About::new(self.job.work.target.clone(), form)
    }

    /// Options with a cache of its own for `part` of the target.
    fn options(&self, part: &str) -> Result<BackupOptions, Problem> {
        let work = &self.job.work;
        let tag = |words: &[&str]| -> [u8; 32] {
            let mut hasher = blake3::Hasher::new();
            for word in words {
                hasher.update(&(word.len() as u64).to_le_bytes()).update(word.as_bytes());
            }
            hasher.finalize().into()
        };
        let (plan, target) = (work.plan.to_string(), work.target.to_string());
        let key = blake3::Hash::from(tag(&[&plan, &target, part])).to_hex();
        let vault = self.job.vault.name.to_string();
        let mut options = BackupOptions::new(self.chunker.clone());
        options.cache = Some(CacheOptions {
            path: self.tools.state()?.join(format!("files-{}", &key[..32])),
            tag: tag(&["files cache", &vault, &plan, &target, part]),
            granularity_s: GRANULARITY_S,
        });
        Ok(options)
    }

    fn volume_files(&self, volume: &VolumeSubject, exclude: &[String]) -> Result<Taken, Problem> {
        let mut options = self.options("")?;
        options.excludes = Excludes::new(exclude.iter().map(String::as_str))?;
        options.cache_device = Some(device_number(volume));
        let held = Held::open(volume, &self.tools.paths.var, self.stop)?;
        let mounted = held.mount(volume)?;
        let path = volume.mount.clone().unwrap_or_else(|| PathBuf::from("/"));
        let root = BackupRoot { source: mounted.path(), path: path.clone() };
        let backup = backup(self.sink, &[root], &options, self.monitor());
        // The mount goes before its device does.
        drop(mounted);
        let mut about = self.about(Form::Files);
        about.base = relative(&path);
        self.taken(backup.map_err(Problem::from)?, about, Some(held))
    }

    fn volume_image(&self, volume: &VolumeSubject) -> Result<Taken, Problem> {
        let held = Held::open(volume, &self.tools.paths.var, self.stop)?;
        let name = format!("/{}.img", volume.volume);
        let workers = self.options("")?.workers;
        let backup = backup_image(self.sink, held.device()?, Path::new(&name), workers, self.monitor())?;
        let mut about = self.about(Form::Image);
        about.base = relative(Path::new(&name));
        self.taken(backup, about, Some(held))
    }

    /// Completes what was read; a point that broke meanwhile has spoilt it.
    fn taken(&self, backup: Backup, mut about: About, held: Option<Held>) -> Result<Taken, Problem> {
        self.stop.check()?;
        if let Some(held) = held {
            held.check()?;
            about.point = true;
            about.frozen = held.status().frozen_ms.is_some();
        }
        Ok(Taken { backup, about, warnings: 0 })
    }

    fn files(&self, paths: &[String], exclude: &[String], one_file_system: bool) -> Result<Taken, Problem> {
        let mut options = self.options("")?;
        options.excludes = Excludes::new(exclude.iter().map(String::as_str))?;
        options.one_file_system = one_file_system;
        let roots: Vec<_> = paths.iter().map(BackupRoot::at).collect();
        let backup = backup(self.sink, &roots, &options, self.monitor())?;
        self.taken(backup, self.about(Form::Files), None)
    }

    fn image(&self, device: &Path) -> Result<Taken, Problem> {
        let workers = self.options("")?.workers;
        let backup = backup_image(self.sink, device, device, workers, self.monitor())?;
        let mut about = self.about(Form::Image);
        about.base = relative(device);
        self.taken(backup, about, None)
    }

    fn command(&self, name: &str, command: &[String]) -> Result<Taken, Problem> {
        let (program, arguments) = command.split_first().ok_or_else(|| {
            Problem::new("cannot-back-up", format!("the command of stream {name} is empty"))
        })?;
        let mut child = Command::new(program);
        child.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut group = Group::start(child, &format!("the command {program:?}"))?;
        let output = group.child().stdout.take().expect("invariant: piped above");
        let path = Path::new("/").join(name.trim_start_matches('/'));
        let stopped = end_with(self.stop, &group)?;
        let backup = backup_stream(self.sink, output, &path, &self.options("")?, self.monitor());
        drop(stopped);
        self.stop.check()?;
        let backup = backup.map_err(Problem::from)?;
        group.succeed(None, Some(self.stop))?;
        let mut about = self.about(Form::Stream);
        about.base = relative(&path);
        self.taken(backup, about, None)
    }

    fn plugin(
        &self,
        service: &str,
        volume: Option<&VolumeSubject>,
        subject: &PluginSubject,
    ) -> Result<Taken, Problem> {
        let whom = Whom { service: service.into(), facts: subject.facts.clone() };
        let mut plugin =
            Plugin::start(&self.tools.plugins, &subject.plugin, &whom, Operation::Backup, self.stop)?;
        let mut serving = Serving {
            reader: self,
            volume,
            composer: Composer::new(self.sink),
            held: None,
            about: serde_json::Value::Null,
            warnings: 0,
            changed: 0,
        };
        while let Some(say) = plugin.next_word()? {
            serving.said(&mut plugin, say)?;
        }
        let Serving { composer, held, about: said, warnings, changed, .. } = serving;
        let held = held.map(|(mounted, held)| {
            drop(mounted);
            held
        });
        let mut about = self.about(Form::Plugin);
        about.plugin = Some(PluginAbout { plugin: subject.plugin.clone(), about: said });
        let mut backup = composer.finish()?;
        forgive(&mut backup.report, changed);
        let mut taken = self.taken(backup, about, held)?;
        taken.warnings = warnings;
        Ok(taken)
    }
}

/// What a plugin asks the executor for.
struct Serving<'r> {
    reader: &'r Reader<'r>,
    volume: Option<&'r VolumeSubject>,
    composer: Composer<'r>,
    held: Option<(Mounted, Held)>,
    about: serde_json::Value,
    warnings: u64,
    /// Files that changed while they were read, which the plugin said does no harm.
    changed: u64,
}

impl Serving<'_> {
    fn said(&mut self, plugin: &mut Plugin, say: Say) -> Result<(), Problem> {
        match say {
            Say::Warning { text } => {
                tracing::warn!("{text}");
                self.warnings += 1;
            }
            Say::About { about } => self.about = about,
            Say::Hold => {
                let point = self.hold();
                plugin.answer(&Answer::Held { point })?;
            }
            Say::Read { path, name, exclude, live, changing } => {
                match self.read(&path, &name, &exclude, live, changing) {
                    Ok(report) => {
                        let files = report.files + report.directories + report.others;
                        plugin.answer(&Answer::Read { files, bytes: report.bytes })?;
                    }
                    Err(problem) => {
                        // The plugin may have to undo something; the failure is this one, whatever it says then.
                        let _ = plugin.answer(&Answer::Refused { reason: problem.to_string() });
                        while matches!(plugin.next_word(), Ok(Some(_))) {}
                        return Err(problem);
                    }
                }
            }
            Say::File { name, mode, bytes } => {
                let options = self.reader.options(&name)?;
                let (place, monitor) = (place(&name)?, self.reader.monitor());
                match bytes {
                    Some(bytes) => {
                        self.composer.stream(plugin.raw(bytes), &place, mode, &options, monitor)?;
                    }
                    None => {
                        self.composer.stream(plugin.pieces(), &place, mode, &options, monitor)?;
                    }
                }
                self.reader.stop.check()?;
            }
            other => return plugin.unexpected(&other),
        }
        Ok(())
    }

    /// Holds an instant, if the service stands on a mounted volume of which one can be had.
    fn hold(&mut self) -> bool {
        let Some(volume) = self.volume.filter(|volume| volume.mount.is_some()) else { return false };
        let held = Held::open(volume, &self.reader.tools.paths.var, self.reader.stop)
            .and_then(|held| Ok((held.mount(volume)?, held)));
        match held {
            Ok(held) => {
                self.held = Some(held);
                true
            }
            Err(problem) => {
                tracing::warn!(%problem, "no point of the volume; its files are read as they are");
                false
            }
        }
    }

    fn read(
        &mut self,
        path: &Path,
        name: &str,
        exclude: &[String],
        live: bool,
        changing: bool,
    ) -> Result<BackupReport, Problem> {
        let failed = |error: std::io::Error| {
            Problem::new("plugin-read", format!("cannot read {}: {error}", path.display()))
        };
        let path = path.canonicalize().map_err(failed)?;
        let place = place(name)?;
        let mut options = self.reader.options(name)?;
        let patterns: Vec<_> = exclude.iter().map(|pattern| beneath(name, pattern)).collect();
        options.excludes = Excludes::new(patterns.iter().map(String::as_str))?;
        let frozen = self.held.as_ref().filter(|_| !live).and_then(|(mounted, _)| {
            let volume = self.volume?;
            let within = path.strip_prefix(volume.mount.as_ref()?.canonicalize().ok()?).ok()?;
            Some((mounted.path().join(within), device_number(volume)))
        });
        let source = match frozen {
            Some((source, number)) => {
                options.cache_device = Some(number);
                source
            }
            None => path,
        };
        let report =
            self.composer.tree(BackupRoot { source, path: place }, &options, self.reader.monitor())?;
        if changing {
            self.changed += report.issues.count(IssueKind::Changed);
        }
        self.reader.stop.check()?;
        Ok(report)
    }
}

/// Where a plugin's part appears: beneath the top, never above it.
fn place(name: &str) -> Result<PathBuf, Problem> {
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    if name.is_empty() || !name.split('/').all(plain) {
        return Err(Problem::new("plugin", format!("a plugin named a part of its snapshot {name:?}")));
    }
    Ok(Path::new("/").join(name))
}

/// A pattern seen from a part, as one seen from the top.
fn beneath(name: &str, pattern: &str) -> String {
    let (not, pattern) = pattern.strip_prefix('!').map_or(("", pattern), |rest| ("!", rest));
    match pattern.strip_prefix('/') {
        Some(rest) => format!("{not}/{name}/{rest}"),
        None => format!("{not}{pattern}"),
    }
}

/// Takes back what was reported of files that may change.
fn forgive(report: &mut BackupReport, changed: u64) {
    if changed == 0 {
        return;
    }
    if let Some(count) = report.issues.counts.get_mut(&IssueKind::Changed) {
        *count = count.saturating_sub(changed);
    }
    report.issues.counts.retain(|_, count| *count > 0);
}

/// The files cache knows a volume by this, whatever number its device has today.
fn device_number(volume: &VolumeSubject) -> u64 {
    let hash = blake3::hash(format!("anshin volume {}", volume.volume).as_bytes());
    let (head, _) = hash.as_bytes().split_first_chunk().expect("invariant: a hash has 32 bytes");
    u64::from_le_bytes(*head)
}

/// Without the slash in front, as paths in snapshots are written.
fn relative(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches('/').to_owned()
}

/// Ends a program whose output is being read when everything is to stop.
fn end_with(stop: &Arc<Stop>, group: &Group) -> Result<std::sync::mpsc::Sender<()>, Problem> {
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let (stop, pid) = (stop.clone(), group.pid());
    let look = move || {
        let step = std::time::Duration::from_millis(100);
        while receiver.recv_timeout(step) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            if stop.reason().is_some() {
                return super::child::signal_group(pid, rustix::process::Signal::TERM);
            }
        }
    };
    let thread = std::thread::Builder::new().name("command".into()).spawn(look);
    thread.map_err(|error| Problem::new("backup-start", error.to_string()))?;
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_a_part_are_seen_from_the_part() {
        assert_eq!(beneath("data", "/pg_wal/*"), "/data/pg_wal/*");
        assert_eq!(beneath("data", "!/keep"), "!/data/keep");
        assert_eq!(beneath("data", "*.tmp"), "*.tmp");
    }

    #[test]
    fn a_part_cannot_leave_the_snapshot() {
        assert!(place("data").is_ok() && place("a/b").is_ok());
        for bad in ["", "/", "/etc", "a/../b", "..", "a//b", "."] {
            assert!(place(bad).is_err(), "{bad}");
        }
    }
}
