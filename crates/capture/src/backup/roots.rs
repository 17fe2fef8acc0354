//! What is captured, and where it appears in the snapshot.

use crate::{
    error::CaptureError,
    sys::{OwnerNames, Stat, open_path, stat_fd},
    tree::{Attributes, ChunkId, DirectoryWriter, Entry, EntryKind, write_root},
};
use anshin_base::Problem;
use anshin_vault::Sink;
use std::{
    collections::BTreeMap,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// A directory or file to capture.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackupRoot {
    /// Where it is read.
    pub source: PathBuf,
    /// Where it appears in the snapshot; usually the same. Different if, for example, a frozen image of a volume is read
    /// instead of the volume itself.
    pub path: PathBuf,
}

impl BackupRoot {
    /// A root that appears where it is. The path must be absolute.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self { source: path.clone(), path }
    }
}

/// Roots, checked and arranged.
pub(crate) struct Plan {
    pub roots: Vec<PlannedRoot>,
    /// Roots beneath other roots: there, another file system is entered whatever was said.
    pub inner: Vec<Vec<u8>>,
}

pub(crate) struct PlannedRoot {
    pub source: PathBuf,
    /// Names from the top of the snapshot.
    pub names: Vec<Vec<u8>>,
}

impl PlannedRoot {
    /// Path in the snapshot, without a leading slash.
    pub fn path(&self) -> Vec<u8> {
        self.names.join(&b'/')
    }
}

pub(super) fn names_of(path: &Path) -> Result<Vec<Vec<u8>>, CaptureError> {
    let refuse = |why: &str| {
        let path = path.display();
        CaptureError::problem(Problem::new("backup-root", format!("`{path}` cannot be backed up: {why}")))
    };
    if !path.is_absolute() {
        return Err(refuse("the path does not begin with a slash"));
    }
    path.components()
        .filter(|part| !matches!(part, std::path::Component::RootDir))
        .map(|part| match part {
            std::path::Component::Normal(name) => Ok(name.as_bytes().to_vec()),
            _ => Err(refuse("the path has `..` in it")),
        })
        .collect()
}

impl Plan {
    pub fn new(roots: &[BackupRoot]) -> Result<Self, CaptureError> {
        let mut planned: Vec<PlannedRoot> = Vec::new();
        for root in roots {
            planned.push(PlannedRoot { source: root.source.clone(), names: names_of(&root.path)? });
        }
        if planned.is_empty() {
            return Err(CaptureError::problem(Problem::new("backup-root", "there is nothing to back up")));
        }
        planned.sort_by(|a, b| a.names.cmp(&b.names));
        let mut outer: Vec<PlannedRoot> = Vec::new();
        let mut inner = Vec::new();
        for root in planned {
            let Some(above) = outer.iter().find(|above| root.names.starts_with(&above.names)) else {
                outer.push(root);
                continue;
            };
            let rest = root.names[above.names.len()..]
                .iter()
                .fold(above.source.clone(), |path, name| path.join(std::ffi::OsStr::from_bytes(name)));
            if rest != root.source {
                let path = root.path();
                return Err(CaptureError::problem(Problem::new(
                    "backup-root",
                    format!("`/{}` lies in another root but is read elsewhere", path.escape_ascii()),
                )));
            }
            inner.push(root.path());
        }
        Ok(Self { roots: outer, inner })
    }

    /// Arranges the captured roots in directories up to the top.
    pub fn assemble(
        &self,
        sink: &dyn Sink,
        captured: Vec<Entry>,
        owners: &OwnerNames,
    ) -> Result<ChunkId, CaptureError> {
        let mut top = Branch::default();
        for (root, entry) in self.roots.iter().zip(captured) {
            let mut at = &mut top;
            let mut own = true;
            let mut path = PathBuf::from("/");
            let whole = root
                .names
                .iter()
                .fold(PathBuf::from("/"), |path, name| path.join(std::ffi::OsStr::from_bytes(name)));
            own &= whole == root.source;
            for name in &root.names {
                if at.attributes.is_none() && own {
                    at.attributes = attributes_of(&path, owners);
                }
                path.push(std::ffi::OsStr::from_bytes(name));
                at = at.children.entry(name.clone()).or_default();
            }
            at.captured = Some(entry);
        }
        let entry = top.seal(sink, Vec::new())?;
        Ok(write_root(sink, &entry)?)
    }
}

/// Puts one entry at a place in an otherwise empty snapshot; gives the root.
pub(crate) fn place(sink: &dyn Sink, path: &Path, entry: Entry) -> Result<ChunkId, CaptureError> {
    let plan = Plan::new(&[BackupRoot { source: PathBuf::new(), path: path.into() }])?;
    if plan.roots[0].names.is_empty() {
        let problem = Problem::new("backup-root", "an image or stream needs a name in the snapshot");
        return Err(CaptureError::problem(problem));
    }
    plan.assemble(sink, vec![entry], &OwnerNames::default())
}

/// A directory on the way to a root, or a root.
#[derive(Default)]
pub(super) struct Branch {
    attributes: Option<Attributes>,
    pub(super) captured: Option<Entry>,
    pub(super) children: BTreeMap<Vec<u8>, Branch>,
}

impl Branch {
    /// Depth is that of the paths a user typed, so recursion is bounded by `PATH_MAX`.
    pub(super) fn seal(self, sink: &dyn Sink, name: Vec<u8>) -> Result<Entry, CaptureError> {
        if let Some(entry) = self.captured {
            return Ok(Entry { name: name.into(), ..entry });
        }
        let mut writer = DirectoryWriter::new();
        for (name, branch) in self.children {
            writer.push(sink, &branch.seal(sink, name)?)?;
        }
        let (listing, _) = writer.finish(sink)?;
        let attributes = self.attributes.unwrap_or(Attributes { mode: 0o755, ..Attributes::default() });
        Ok(Entry { name: name.into(), kind: EntryKind::Directory(listing), attributes, link: None })
    }
}

/// Owner, mode and times of a directory on the way. Its ctime is left out: it would change the id of every snapshot whenever
/// something beside the roots changes; so is mtime.
fn attributes_of(path: &Path, owners: &OwnerNames) -> Option<Attributes> {
    let stat: Stat = stat_fd(open_path(path).ok()?).ok()?;
    Some(Attributes { mode: stat.mode, owner: owners.get(stat.uid, stat.gid), ..Attributes::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roots(paths: &[&str]) -> Result<(Vec<String>, usize), CaptureError> {
        let roots: Vec<BackupRoot> = paths.iter().map(BackupRoot::at).collect();
        let plan = Plan::new(&roots)?;
        let outer = plan.roots.iter().map(|root| String::from_utf8(root.path()).unwrap()).collect();
        Ok((outer, plan.inner.len()))
    }

    #[test]
    fn a_root_within_another_is_captured_once() {
        assert_eq!(
            roots(&["/srv/b", "/srv/a", "/srv/a/x"]).unwrap(),
            (vec!["srv/a".into(), "srv/b".into()], 1)
        );
        assert_eq!(roots(&["/srv", "/", "/home"]).unwrap(), (vec![String::new()], 2));
        assert_eq!(
            roots(&["/srv-1", "/srv"]).unwrap().0.len(),
            2,
            "a common prefix of names is no common directory"
        );
    }

    #[test]
    fn roots_that_make_no_sense_are_refused() {
        assert!(roots(&[]).is_err());
        assert!(roots(&["srv"]).is_err());
        assert!(roots(&["/srv/../etc"]).is_err());
        let elsewhere = BackupRoot { source: "/other".into(), path: "/srv/a".into() };
        assert!(Plan::new(&[BackupRoot::at("/srv"), elsewhere]).is_err());
    }
}
