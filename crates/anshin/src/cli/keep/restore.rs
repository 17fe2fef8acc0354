//! `anshin restore`.

use super::{
    args::{OnConflict, OwnersAre, Restore},
    pick::{self, Desk, Told},
    progress, show,
};
use crate::cli::out::{Ending, Out};
use anshin_base::Problem;
use anshin_capture::{
    CaptureError, IssueKind, Issues, Monitor, browse,
    image::{restore_image, restore_stream},
    restore::{Conflict, Owners, RestoreOptions, RestorePlan, Selection, plan, restore, verify},
    tree::{Entry, EntryKind, Listing},
};
use anshin_vault::ChunkId;
use serde::Serialize;
use std::{
    ffi::OsStr,
    fs, io,
    os::unix::{ffi::OsStrExt, fs::FileTypeExt},
    path::{Path, PathBuf},
};

/// A restore was made, or would be.
#[derive(Debug, Default, Serialize)]
pub struct RestoreDone {
    /// From which snapshot.
    pub snapshot: String,
    /// Where to.
    pub to: String,
    /// Nothing was done.
    pub dry_run: bool,
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Everything else.
    pub others: u64,
    /// Left as they are, by policy.
    pub kept: u64,
    /// Bytes that were, or would be, written.
    pub bytes_written: u64,
    /// Bytes that were there already.
    pub bytes_equal: u64,
    /// For a dry run: how much is in the way.
    pub in_the_way_count: u64,
    /// The first of it.
    pub in_the_way: Vec<String>,
    /// Entries compared afterwards; None if that was not asked for.
    pub verified: Option<u64>,
    /// Seconds it took.
    pub seconds: f64,
    /// What did not go as it should: how much in all.
    pub issue_count: u64,
    /// The first of it.
    pub issues: Vec<String>,
}

/// A part of the snapshot and where it goes.
struct Part {
    selection: Selection,
    target: PathBuf,
    bytes: u64,
}

/// Carries out `anshin restore`.
///
/// # Errors
/// What failed.
pub fn carry_out(asked: &Restore, out: &Out) -> Result<Ending, Problem> {
    for (given, option) in
        [(asked.at.is_some(), "--at"), (asked.from.is_some(), "--snapshot"), (asked.yes, "--yes")]
    {
        if given {
            let message = format!("{option} is for a service, and `{}` is a snapshot", asked.snapshot);
            return Err(Problem::new("restore-option", message).hint("name the service: service/NAME"));
        }
    }
    let begun = std::time::Instant::now();
    let desk = pick::open(&asked.which)?;
    let told = pick::one_with(&desk.session, &asked.snapshot, asked.paths.first().map(String::as_str))?;
    let to = match &asked.to {
        Some(to) => to.clone(),
        None => PathBuf::from("/"),
    };
    if to == Path::new("-") {
        return to_output(asked, &desk, &told);
    }
    let is_device = fs::metadata(&to).is_ok_and(|metadata| metadata.file_type().is_block_device());
    let mut done = RestoreDone {
        snapshot: told.clear.id.clone(),
        to: to.display().to_string(),
        dry_run: asked.dry_run,
        ..RestoreDone::default()
    };
    match is_device {
        true => to_device(asked, &desk, &told, &to, &mut done, out)?,
        false => to_directory(asked, &desk, &told, &to, &mut done, out)?,
    }
    done.seconds = begun.elapsed().as_secs_f64();
    out.show(&done, |style| show::restore_done(style, &done))?;
    Ok(if done.issue_count == 0 { Ending::Ok } else { Ending::Degraded })
}

/// The one thing in the snapshot that is meant where only one can be.
fn single(asked: &Restore, desk: &Desk, told: &Told) -> Result<Vec<u8>, Problem> {
    if let [path] = &asked.paths[..] {
        return Ok(path.clone().into_bytes());
    }
    // An image or stream is the only thing in its snapshot.
    let mut found: Vec<Vec<u8>> = Vec::new();
    browse::list(&desk.session, &told.root, b"", true, |path, entry| {
        if !entry.is_directory() {
            found.push(path.to_vec());
        }
        if found.len() > 1 { std::ops::ControlFlow::Break(()) } else { std::ops::ControlFlow::Continue(()) }
    })?;
    match (asked.paths.is_empty(), found.len()) {
        (true, 1) => Ok(found.remove(0)),
        _ => Err(Problem::new("restore-one", "only one file or image can be restored there")
            .hint("name it: anshin restore SNAPSHOT PATH --to …")),
    }
}

fn to_output(asked: &Restore, desk: &Desk, told: &Told) -> Result<Ending, Problem> {
    let path = single(asked, desk, told)?;
    let (monitor, _line) = progress::Line::monitor(false, told.clear.bytes);
    progress::stop_on_signal(monitor.clone())?;
    restore_stream(&desk.session, &told.root, &path, &mut io::stdout().lock(), &monitor)?;
    Ok(Ending::Ok)
}

fn to_device(
    asked: &Restore,
    desk: &Desk,
    told: &Told,
    device: &Path,
    done: &mut RestoreDone,
    out: &Out,
) -> Result<(), Problem> {
    let path = single(asked, desk, told)?;
    let entry = browse::show(&desk.session, &told.root, &path)?;
    let bytes = entry.content().map_or(0, anshin_capture::tree::Content::data);
    if asked.dry_run {
        done.others = 1;
        done.bytes_written = bytes;
        return Ok(());
    }
    if asked.conflict != OnConflict::Overwrite {
        let message = format!("everything on {} would be overwritten", device.display());
        return Err(
            Problem::refused("restore-conflict", message).hint("if that is meant: --conflict overwrite")
        );
    }
    let (monitor, _line) = progress::Line::monitor(out.is_json(), bytes);
    progress::stop_on_signal(monitor.clone())?;
    let naming = |plain: &[u8]| desk.session.keys().name_of_data(plain);
    let report = restore_image(&desk.session, &told.root, &path, device, Some(&naming), workers(), &monitor)?;
    done.others = 1;
    done.bytes_written = report.bytes_written;
    done.bytes_equal = report.bytes_equal;
    Ok(())
}

fn workers() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 16)
}

fn to_directory(
    asked: &Restore,
    desk: &Desk,
    told: &Told,
    to: &Path,
    done: &mut RestoreDone,
    out: &Out,
) -> Result<(), Problem> {
    let parts = parts(asked, desk, told, to)?;
    let naming = |plain: &[u8]| -> ChunkId { desk.session.keys().name_of_data(plain) };
    let options = RestoreOptions {
        conflict: match asked.conflict {
            OnConflict::Refuse => Conflict::Refuse,
            OnConflict::Skip => Conflict::Skip,
            OnConflict::IfDifferent => Conflict::IfDifferent,
            OnConflict::Overwrite => Conflict::Overwrite,
            OnConflict::KeepNewer => Conflict::KeepNewer,
        },
        owners: match asked.owners {
            OwnersAre::Numbers => Owners::Numbers,
            OwnersAre::Names => Owners::Names,
            OwnersAre::Caller => Owners::Caller,
        },
        in_place: asked.in_place,
        naming: Some(&naming),
        workers: 0,
    };
    let total = parts.iter().map(|part| part.bytes).sum();
    let (monitor, _line) = progress::Line::monitor(out.is_json(), total);
    progress::stop_on_signal(monitor.clone())?;
    if asked.conflict == OnConflict::Refuse && parts.len() > 1 && !asked.dry_run {
        // All or nothing also across several parts.
        for part in &parts {
            let planned =
                plan(&desk.session, &told.root, &part.selection, &part.target, &options, &Monitor::new())?;
            if let Some(first) = planned.in_the_way.first() {
                let path = part.target.join(OsStr::from_bytes(first));
                let message = format!("{} is there already; nothing was restored", path.display());
                return Err(Problem::refused("restore-conflict", message).hint(
                    "say what happens to such files: --conflict skip, if-different, overwrite or keep-newer",
                ));
            }
        }
    }
    for part in &parts {
        if asked.dry_run {
            add_plan(
                done,
                plan(&desk.session, &told.root, &part.selection, &part.target, &options, &monitor)?,
                part,
            );
            continue;
        }
        let report = restore(&desk.session, &told.root, &part.selection, &part.target, &options, &monitor)?;
        done.files += report.files;
        done.directories += report.directories;
        done.others += report.others;
        done.kept += report.kept;
        done.bytes_written += report.bytes_written;
        done.bytes_equal += report.bytes_equal;
        add_issues(done, &report.issues);
    }
    if asked.verify {
        for part in &parts {
            let compared =
                verify(&desk.session, &told.root, &part.selection, &part.target, &options, &monitor)?;
            *done.verified.get_or_insert(0) += compared.entries;
            add_issues(done, &compared.issues);
        }
    }
    if monitor.is_cancelled() {
        return Err(CaptureError::Cancelled.into());
    }
    Ok(())
}

fn add_plan(done: &mut RestoreDone, planned: RestorePlan, part: &Part) {
    done.files += planned.files;
    done.directories += planned.directories;
    done.others += planned.others;
    done.kept += planned.kept;
    done.bytes_written += planned.bytes_to_write;
    done.bytes_equal += planned.bytes_equal;
    done.in_the_way_count += planned.in_the_way_count;
    let shown = |path: &Vec<u8>| part.target.join(OsStr::from_bytes(path)).display().to_string();
    done.in_the_way.extend(planned.in_the_way.iter().map(shown));
}

/// What stays because that was asked for is counted by itself and is no issue.
fn add_issues(done: &mut RestoreDone, issues: &Issues) {
    done.issue_count += issues.counts.values().sum::<u64>() - issues.count(IssueKind::Kept);
    let told = issues.first.iter().filter(|issue| issue.kind != IssueKind::Kept);
    done.issues.extend(told.map(ToString::to_string));
}

/// What is asked for, each part with the directory that it goes into. A path that is in the snapshot as it stands is fetched
/// without looking at anything beside it; the rest are patterns.
fn parts(asked: &Restore, desk: &Desk, told: &Told, to: &Path) -> Result<Vec<Part>, Problem> {
    if asked.paths.is_empty() {
        return Ok(vec![Part {
            selection: Selection::all(),
            target: to.to_path_buf(),
            bytes: told.clear.bytes,
        }]);
    }
    let (mut parts, mut patterns): (Vec<Part>, Vec<&str>) = (Vec::new(), Vec::new());
    for path in &asked.paths {
        let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty() && *name != ".").collect();
        if names.contains(&"..") {
            return Err(Problem::new("restore-path", format!("`{path}` has `..` in it")));
        }
        match browse::show(&desk.session, &told.root, names.join("/").as_bytes()) {
            Ok(entry) => parts.push(literal(&names, &entry, to)),
            Err(_) if path.contains(['*', '?', '[', '{']) => patterns.push(path),
            Err(error) => {
                return Err(Problem::from(error)
                    .hint(format!("see what is there: anshin snapshots show {} -r", told.short())));
            }
        }
    }
    if !patterns.is_empty() {
        let selection = Selection::all().only(patterns)?;
        parts.push(Part { selection, target: to.to_path_buf(), bytes: 0 });
    }
    Ok(parts)
}

/// A directory goes with its contents where it lies; a file into the directory it lies in.
fn literal(names: &[&str], entry: &Entry, to: &Path) -> Part {
    let above = match entry.is_directory() {
        true => names,
        false => &names[..names.len() - 1],
    };
    let bytes = match &entry.kind {
        EntryKind::Directory(Listing::Stored { totals, .. }) => totals.bytes,
        _ => entry.content().map_or(0, anshin_capture::tree::Content::data),
    };
    let target = above.iter().fold(to.to_path_buf(), |path, name| path.join(name));
    Part { selection: Selection::beneath(names.join("/").as_bytes()), target, bytes }
}
