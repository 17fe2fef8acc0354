//! `anshin snapshots …`.

use super::{
    args::{Snapshots, Which},
    pick::{self, Desk, Told},
    show,
};
use crate::cli::out::{Ending, Out};
use anshin_base::Problem;
use anshin_capture::{
    browse::{self, Change},
    mount::{Access, mount},
    restore::Selection,
    tree::{Entry, EntryKind},
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, btree_map},
    ops::ControlFlow,
    path::Path,
    sync::Arc,
};

/// Carries out `anshin snapshots …`.
///
/// # Errors
/// What failed.
pub fn carry_out(command: Snapshots, out: &Out) -> Result<Ending, Problem> {
    match command {
        Snapshots::List { which, host, all } => {
            let pick::Look { all: mut told, locked, .. } = pick::look(&which)?;
            told.retain(|told| {
                (all || told.clear.forgotten.is_none())
                    && host.as_ref().is_none_or(|host| told.host() == host)
            });
            // There is one a minute of each.
            let count = told.len();
            told.retain(|told| all || !pick::is_log(told));
            let logs = count - told.len();
            out.show(&told, |style| show::snapshots(style, &told, logs))?;
            if let Some(problem) = locked {
                // What they are is counted; what is in them is not to be had here.
                out.problem(&problem);
                return Ok(Ending::Degraded);
            }
        }
        Snapshots::Show { snapshot, path: None, recursive: false, which } => {
            let desk = pick::open(&which)?;
            let told = pick::one(&desk.session, &snapshot)?;
            let top = entries(&desk, &told, "", false)?;
            let shown = SnapshotShown { told, top };
            out.show(&shown, |style| show::snapshot(style, &shown))?;
        }
        Snapshots::Show { snapshot, path, recursive, which } => {
            let desk = pick::open(&which)?;
            let told = pick::one_with(&desk.session, &snapshot, path.as_deref())?;
            list(&desk, &told, path.as_deref().unwrap_or_default(), recursive, out)?;
        }
        Snapshots::Find { patterns, snapshot, which } => find(&which, &patterns, snapshot.as_deref(), out)?,
        Snapshots::Diff { before, after, path, which } => {
            return diff(&which, (&before, &after), path.as_deref().unwrap_or_default(), out);
        }
        Snapshots::Mount { snapshot, directory, everyone, which } => {
            show_mounted(&which, &snapshot, &directory, everyone, out)?;
        }
    }
    Ok(Ending::Ok)
}

/// A snapshot and what lies at its top.
#[derive(Debug, Serialize)]
pub struct SnapshotShown {
    /// The snapshot.
    #[serde(flatten)]
    pub told: Told,
    /// What lies at its top.
    pub top: Vec<EntryShown>,
}

/// One entry of a snapshot.
#[derive(Clone, Debug, Serialize)]
pub struct EntryShown {
    /// Its path from the top; bytes that are no text are escaped.
    pub path: String,
    /// `file`, `directory`, …
    pub kind: &'static str,
    /// The letter of `ls -l`.
    #[serde(skip)]
    pub letter: char,
    /// Permission bits.
    pub mode: u16,
    /// Owner: name, else number.
    pub user: String,
    /// Group: name, else number.
    pub group: String,
    /// Bytes.
    pub size: u64,
    /// Time of last change, in seconds of Unix time.
    pub mtime: i64,
    /// Where a symbolic link leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

impl EntryShown {
    fn of(path: &[u8], entry: &Entry) -> Self {
        let owner = &entry.attributes.owner;
        let name = |name: &Option<Box<[u8]>>, number: u32| {
            name.as_ref().map_or_else(|| number.to_string(), |name| name.escape_ascii().to_string())
        };
        let target = match &entry.kind {
            EntryKind::Symlink(target) => Some(target.escape_ascii().to_string()),
            _ => None,
        };
        let kind = match &entry.kind {
            EntryKind::File(_) => "file",
            EntryKind::Directory(_) => "directory",
            EntryKind::Symlink(_) => "symlink",
            EntryKind::Fifo => "fifo",
            EntryKind::Socket => "socket",
            EntryKind::CharDevice(_) => "character-device",
            EntryKind::BlockDevice(_) => "block-device",
            EntryKind::Image(_) => "image",
        };
        Self {
            path: format!("/{}", path.escape_ascii()),
            kind,
            letter: entry.type_letter(),
            mode: entry.attributes.mode,
            user: name(&owner.user, owner.uid),
            group: name(&owner.group, owner.gid),
            size: entry.size(),
            mtime: entry.attributes.mtime.seconds,
            target,
        }
    }
}

fn entries(desk: &Desk, told: &Told, path: &str, recursive: bool) -> Result<Vec<EntryShown>, Problem> {
    let mut all = Vec::new();
    browse::list(&desk.session, &told.root, path.as_bytes(), recursive, |path, entry| {
        all.push(EntryShown::of(path, entry));
        ControlFlow::Continue(())
    })?;
    Ok(all)
}

/// Lists as it reads, so that a tree of any size needs little memory.
fn list(desk: &Desk, told: &Told, path: &str, recursive: bool, out: &Out) -> Result<(), Problem> {
    let mut stream = out.stream();
    browse::list(&desk.session, &told.root, path.as_bytes(), recursive, |path, entry| {
        let entry = EntryShown::of(path, entry);
        stream.item(&entry, || show::entry(&entry))
    })?;
    stream.end()
}

/// Something that was found in snapshots.
#[derive(Debug, Serialize)]
struct Found {
    /// In which snapshot.
    snapshot: String,
    /// The snapshot's time, in seconds of Unix time.
    sealed: u64,
    /// What.
    #[serde(flatten)]
    entry: EntryShown,
}

fn find(which: &Which, patterns: &[String], only: Option<&str>, out: &Out) -> Result<(), Problem> {
    let desk = pick::open(which)?;
    let snapshots = match only {
        Some(text) => vec![pick::one(&desk.session, text)?],
        None => {
            let mut all = pick::all(&desk.session)?;
            all.retain(|told| told.clear.forgotten.is_none());
            all
        }
    };
    let selection = Selection::all().only(patterns.iter().map(String::as_str))?;
    // Equal trees of several snapshots are walked once; what is found in them is told for each.
    let mut walked: BTreeMap<[u8; 32], Vec<EntryShown>> = BTreeMap::new();
    let mut stream = out.stream();
    for told in &snapshots {
        if let btree_map::Entry::Vacant(place) = walked.entry(told.root.0) {
            let mut found = Vec::new();
            browse::find(&desk.session, &told.root, &selection, |path, entry| {
                found.push(EntryShown::of(path, entry));
                ControlFlow::Continue(())
            })?;
            place.insert(found);
        }
        for entry in &walked[&told.root.0] {
            let found =
                Found { snapshot: told.clear.id.clone(), sealed: told.clear.sealed, entry: entry.clone() };
            let text =
                || format!("{}  {}  {}", told.short(), show::time(told.clear.sealed), show::entry(entry));
            if stream.item(&found, text).is_break() {
                return stream.end();
            }
        }
    }
    stream.end()
}

/// A difference between two snapshots.
#[derive(Debug, Serialize)]
struct Difference {
    /// `added`, `removed`, `contents`, `attributes`
    change: &'static str,
    /// Where.
    path: String,
    /// Bytes before; None if it was not there.
    before: Option<u64>,
    /// Bytes after; None if it is not there.
    after: Option<u64>,
}

fn diff(which: &Which, (before, after): (&str, &str), path: &str, out: &Out) -> Result<Ending, Problem> {
    let desk = pick::open(which)?;
    let all = pick::all(&desk.session)?;
    let before = pick::named(all.clone(), before)?;
    let after = pick::named(all, after)?;
    let mut stream = out.stream();
    browse::diff(&desk.session, &before.root, &after.root, path.as_bytes(), |path, change| {
        let (sign, change, sizes) = match change {
            Change::Added(entry) => ('+', "added", (None, Some(entry.size()))),
            Change::Removed(entry) => ('-', "removed", (Some(entry.size()), None)),
            Change::Contents(one, other) => ('M', "contents", (Some(one.size()), Some(other.size()))),
            Change::Attributes(one, other) => ('a', "attributes", (Some(one.size()), Some(other.size()))),
        };
        let path = format!("/{}", path.escape_ascii());
        let text = format!("{sign} {path}");
        stream.item(&Difference { change, path, before: sizes.0, after: sizes.1 }, || text)
    })?;
    stream.end()?;
    Ok(Ending::Ok)
}

fn show_mounted(
    which: &Which,
    snapshot: &str,
    directory: &Path,
    everyone: bool,
    out: &Out,
) -> Result<(), Problem> {
    let Desk { access, session, .. } = pick::open(which)?;
    let told = pick::one(&session, snapshot)?;
    let who = if everyone { Access::Everyone } else { Access::Owner };
    let mounted = mount(Arc::new(session), &told.root, directory, who)?;
    let said = serde_json::json!({ "snapshot": told.clear.id, "directory": directory.display().to_string() });
    out.show(&said, |_| {
        let directory = directory.display();
        format!("snapshot {} is at {directory} until: umount {directory}", told.short())
    })?;
    let ended = mounted.wait();
    drop(access);
    ended.map_err(|error| Problem::new("mount", format!("the mount failed: {error}")))
}
