//! `anshin backup`.

use super::{args::Backup, pick, progress, show};
use crate::cli::out::{Ending, Out};
use anshin_base::Problem;
use anshin_capture::{
    CaptureError, Monitor,
    backup::{BackupOptions, BackupRoot, CacheOptions, Excludes, backup},
    image::{backup_image, backup_stream},
};
use anshin_node::{
    VERSION,
    keep::{Description, describe::Captured, host_name},
    paths::Paths,
};
use anshin_vault::{SnapshotDraft, SnapshotId};
use serde::Serialize;
use std::{fs, io, path::PathBuf, sync::Arc};

/// A backup was made.
#[derive(Debug, Serialize)]
pub struct BackupDone {
    /// The new snapshot.
    pub snapshot: String,
    /// In which vault.
    pub vault: String,
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Everything else.
    pub others: u64,
    /// Files that the files cache knew to be unchanged.
    pub unchanged: u64,
    /// Bytes of contents.
    pub bytes: u64,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// Bytes that were new to the vault, as stored.
    pub new_bytes: u64,
    /// Seconds it took.
    pub seconds: f64,
    /// What did not go as it should: how much in all.
    pub issue_count: u64,
    /// The first of it.
    pub issues: Vec<String>,
}

/// What is to be read.
enum What {
    Files { roots: Vec<BackupRoot>, excludes: Vec<String> },
    Image(PathBuf),
    Stream(PathBuf),
}

/// Carries out `anshin backup`.
///
/// # Errors
/// What failed; then there is no snapshot.
pub fn carry_out(asked: &Backup, out: &Out) -> Result<Ending, Problem> {
    let begun = std::time::Instant::now();
    let what = what(asked)?;
    let desk = pick::open(&asked.which)?;
    let description = describe(&what, asked);
    let expected = pick::all(&desk.session)?
        .into_iter()
        .rfind(|told| {
            told.described().is_some_and(|other| {
                (&other.host, &other.paths, other.captured)
                    == (&description.host, &description.paths, description.captured)
            })
        })
        .map_or(0, |told| told.clear.bytes);
    let mut options = BackupOptions::new(Arc::new(desk.session.chunker()));
    options.one_file_system = asked.one_file_system;
    options.exclude_caches = asked.exclude_caches;
    if let What::Files { excludes, .. } = &what {
        options.excludes = Excludes::new(excludes.iter().map(String::as_str))?;
        options.cache = (!asked.no_cache).then(|| cache(&desk, &description)).transpose()?;
    }
    let time =
        i64::try_from(i128::from(options.now.seconds) * 1_000_000_000 + i128::from(options.now.nanoseconds));
    let (monitor, line) = progress::Line::monitor(out.is_json(), expected);
    progress::stop_on_signal(monitor.clone())?;
    let made = read(&what, &desk, &options, &monitor)?;
    if monitor.is_cancelled() {
        return Err(CaptureError::Cancelled.into());
    }
    let report = made.report;
    let issue_count = report.issues.counts.values().sum();
    let draft = SnapshotDraft {
        id: SnapshotId::generate()?,
        plan: String::new(),
        run: String::new(),
        time: time.unwrap_or_default(),
        root: made.root,
        entries: report.files + report.directories + report.others,
        bytes: report.bytes,
        meta: Description { issues: issue_count, ..description }.encode()?,
    };
    let sealed = desk.session.seal(draft)?;
    drop(line);
    let done = BackupDone {
        snapshot: sealed.record.id.to_string(),
        vault: desk.access.called().to_owned(),
        files: report.files,
        directories: report.directories,
        others: report.others,
        unchanged: report.unchanged,
        bytes: report.bytes,
        bytes_read: report.bytes_read,
        new_bytes: sealed.record.stats.new_bytes,
        seconds: begun.elapsed().as_secs_f64(),
        issue_count,
        issues: report.issues.first.iter().map(ToString::to_string).collect(),
    };
    out.show(&done, |_| show::backup_done(&done))?;
    Ok(if done.issue_count == 0 { Ending::Ok } else { Ending::Degraded })
}

fn what(asked: &Backup) -> Result<What, Problem> {
    let absolute = |path: &PathBuf| {
        std::path::absolute(path)
            .map_err(|error| Problem::new("backup-root", format!("`{}`: {error}", path.display())))
    };
    if let Some(name) = &asked.stdin {
        return Ok(What::Stream(PathBuf::from("/").join(name)));
    }
    if let Some(device) = &asked.image {
        return Ok(What::Image(absolute(device)?));
    }
    // `.` and `..` are not part of what a snapshot knows a place by.
    let roots = asked.paths.iter().map(|path| {
        let unreadable = |error: io::Error| {
            Problem::new("backup-root", format!("`{}` cannot be backed up: {error}", path.display()))
        };
        let whole = absolute(path)?;
        let has_dots = whole.components().any(|part| matches!(part, std::path::Component::ParentDir));
        Ok(BackupRoot::at(if has_dots { fs::canonicalize(path).map_err(unreadable)? } else { whole }))
    });
    let roots = roots.collect::<Result<Vec<_>, Problem>>()?;
    let mut excludes = asked.exclude.clone();
    for file in &asked.exclude_from {
        let text = fs::read_to_string(file).map_err(|error| {
            Problem::new("exclude-file", format!("cannot read {}: {error}", file.display()))
        })?;
        excludes.extend(text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned));
    }
    Ok(What::Files { roots, excludes })
}

fn describe(what: &What, asked: &Backup) -> Description {
    let shown = |path: &PathBuf| path.display().to_string();
    let (captured, paths, excludes) = match what {
        What::Files { roots, excludes } => {
            (Captured::Files, roots.iter().map(|root| shown(&root.path)).collect(), excludes.clone())
        }
        What::Image(path) => (Captured::Image, vec![shown(path)], Vec::new()),
        What::Stream(path) => (Captured::Stream, vec![shown(path)], Vec::new()),
    };
    Description {
        host: host_name(),
        captured,
        paths,
        excludes,
        tags: asked.tag.clone(),
        issues: 0,
        program: format!("anshin {VERSION}"),
    }
}

/// One files cache for each vault, key domain and set of paths.
fn cache(desk: &pick::Desk, description: &Description) -> Result<CacheOptions, Problem> {
    let paths = Paths::of_environment();
    let directory = paths.caches();
    fs::create_dir_all(&directory).map_err(|error| {
        Problem::new("files-cache", format!("cannot make {}: {error}", directory.display()))
    })?;
    let tag = desk.session.keys().tag(&[&desk.access.id(), description.paths.join("\0").as_bytes()]);
    let name: String = tag[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(CacheOptions { path: directory.join(format!("{name}.files")), tag, granularity_s: 2 })
}

fn read(
    what: &What,
    desk: &pick::Desk,
    options: &BackupOptions,
    monitor: &Monitor,
) -> Result<anshin_capture::backup::Backup, CaptureError> {
    match what {
        What::Files { roots, .. } => backup(&desk.session, roots, options, monitor),
        What::Image(path) => backup_image(&desk.session, path, path, options.workers, monitor),
        What::Stream(name) => backup_stream(&desk.session, io::stdin().lock(), name, options, monitor),
    }
}
