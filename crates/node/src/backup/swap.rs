//! Putting restored data where a service has it: at once if its program does not run, else when it is started next.
//!
//! Data is restored beside the place where it belongs while the program goes on. What is left then is two renames, and they
//! must neither happen under a running program nor be forgotten half done. So they are written down beside the data, on the
//! service's volume ([`Swap::leave`]), and the program is stopped. Whoever starts it next, on whatever node, carries them out
//! first ([`before_start`]): a daemon or server that dies in between leaves a service that is started by the usual rules, on
//! data that is whole.

use anshin_base::Problem;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

/// Where a swap is written down, below the mount point of the service's volume.
const MARK: &str = ".anshin/restore.json";

/// The renames that put restored data in place. All paths are absolute and on one file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swap {
    /// The part of the service before whose start it is carried out: `db.postgresql`.
    pub resource: String,
    /// What was restored.
    pub ready: PathBuf,
    /// Where it belongs.
    pub place: PathBuf,
    /// Where that which is there goes; nothing is thrown away.
    pub before: PathBuf,
    /// Whether there is anything in that place now.
    #[serde(default)]
    pub replaces: bool,
    /// What else belongs to the earlier life of the data and is kept elsewhere: from, to.
    #[serde(default)]
    pub aside: Vec<(PathBuf, PathBuf)>,
}

impl Swap {
    /// The file of the service whose volume is mounted there.
    #[must_use]
    pub fn mark(mount: &Path) -> PathBuf {
        mount.join(MARK)
    }

    /// Writes it down for the next start of the program.
    ///
    /// # Errors
    /// If that cannot be written, or another one waits already.
    pub fn leave(&self, mount: &Path) -> Result<(), Problem> {
        let mark = Self::mark(mount);
        let failed = |error: io::Error| Problem::new("restore-place", format!("{}: {error}", mark.display()));
        if there(&mark) {
            let message = format!("another restore waits to be put in place: {}", mark.display());
            return Err(Problem::new("restore-busy", message).hint("it is when the service is started next"));
        }
        let bytes = serde_json::to_vec(self).map_err(|error| failed(io::Error::other(error)))?;
        let parent = mark.parent().unwrap_or(mount);
        fs::create_dir_all(parent).map_err(failed)?;
        let new = mark.with_extension("new");
        fs::write(&new, bytes).and_then(|()| fs::File::open(&new)?.sync_all()).map_err(failed)?;
        fs::rename(&new, &mark).and_then(|()| sync(parent)).map_err(|error| {
            // What is said to have failed must not happen later.
            let _ = fs::remove_file(&mark);
            failed(error)
        })
    }

    /// Carries it out, from wherever an earlier attempt got to. The program does not run.
    ///
    /// # Errors
    /// If something is not where it should be, or cannot be renamed.
    pub fn carry_out(&self) -> Result<(), Problem> {
        let (ready, place, before) = (there(&self.ready), there(&self.place), there(&self.before));
        match (ready, place, before) {
            (false, false, _) => return Err(self.lost(format!("{} is gone", self.ready.display()))),
            // What is in the place is what was there before.
            (false, true, false) if self.replaces => {
                return Err(self.lost(format!("{} is gone", self.ready.display())));
            }
            (true, true, true) => {
                let both = format!("{} and {} are both there", self.place.display(), self.before.display());
                return Err(self.lost(both));
            }
            _ => {}
        }
        for (from, to) in &self.aside {
            if there(from) && !there(to) {
                self.rename(from, to)?;
            }
        }
        if ready && place {
            self.rename(&self.place, &self.before)?;
        }
        // Else it was done before, but for what comes after.
        if ready {
            self.rename(&self.ready, &self.place)?;
        }
        // Whoever did it before may have died before it was durable, and the mark goes next.
        let moved = [&self.ready, &self.place, &self.before].into_iter();
        let all = moved.chain(self.aside.iter().flat_map(|(from, to)| [from, to]));
        for parent in all.filter_map(|path| path.parent()).collect::<BTreeSet<_>>() {
            match sync(parent) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(self.lost(format!("{} cannot be flushed: {error}", parent.display())));
                }
                _ => {}
            }
        }
        // What else was restored stays if the data refers to it; an empty rest goes.
        let _ = self.ready.parent().map(fs::remove_dir);
        Ok(())
    }

    /// The volume may belong to somebody who must not have root rename what he likes: the file is root's, and every path in it
    /// lies on the volume.
    fn is_ours(&self, mount: &Path) -> Result<(), &'static str> {
        let mark = fs::symlink_metadata(Self::mark(mount));
        let own =
            |found: &fs::Metadata| found.is_file() && found.uid() == rustix::process::geteuid().as_raw();
        if !mark.is_ok_and(|found| own(&found)) {
            return Err("it is not this program's own file");
        }
        let aside = self.aside.iter().flat_map(|(from, to)| [from, to]);
        let mut paths = [&self.ready, &self.place, &self.before].into_iter().chain(aside);
        let beneath = |path: &Path| {
            path.starts_with(mount) && !path.components().any(|part| part == Component::ParentDir)
        };
        if paths.all(|path| beneath(path)) { Ok(()) } else { Err("it names a place outside of the volume") }
    }

    /// The one that waits on the volume that is mounted there, if it can be read.
    #[must_use]
    pub fn waiting(mount: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(Self::mark(mount)).ok()?).ok()
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Problem> {
        let both = [from, to].map(|path| path.parent().unwrap_or(Path::new("/")));
        // Each before the next: a loss of power leaves a state that is known here.
        fs::rename(from, to).and_then(|()| both.into_iter().try_for_each(sync)).map_err(|error| {
            self.lost(format!("{} cannot be renamed to {}: {error}", from.display(), to.display()))
        })
    }

    fn lost(&self, why: String) -> Problem {
        let message = format!("restored data cannot be put at {}: {why}", self.place.display());
        Problem::refused("restore-place", message).hint(format!(
            "what was restored is in {}, what was there before in {}",
            self.ready.display(),
            self.before.display()
        ))
    }
}

/// Before `resource` of the service whose volume is mounted there is started: carries out what was left for that. Gives what was
/// done.
///
/// # Errors
/// Why it could not be: then the program must not be started.
pub fn before_start(mount: &Path, resource: &str) -> Result<Option<Swap>, Problem> {
    let mark = Swap::mark(mount);
    let unreadable = |error: String| {
        Problem::refused("restore-place", format!("{} cannot be read: {error}", mark.display())).hint(
            "it says where restored data goes before the service is started; remove it to start without that",
        )
    };
    let bytes = match fs::read(&mark) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error.to_string())),
    };
    let swap: Swap = serde_json::from_slice(&bytes).map_err(|error| unreadable(error.to_string()))?;
    if swap.resource != resource {
        return Ok(None);
    }
    swap.is_ours(mount).map_err(|why| unreadable(why.to_owned()))?;
    swap.carry_out()?;
    let removed = fs::remove_file(&mark).and_then(|()| sync(mark.parent().unwrap_or(mount)));
    removed.map_err(|error| unreadable(error.to_string()))?;
    Ok(Some(swap))
}

fn there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

fn sync(directory: &Path) -> io::Result<()> {
    fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Volume(PathBuf);

    impl Volume {
        fn new(name: &str) -> Self {
            let mount = std::env::temp_dir().join(format!("anshin-swap-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&mount);
            for (directory, content) in [("pg", "now"), ("pg.restore-1/data", "then"), (".anshin/log", "log")]
            {
                fs::create_dir_all(mount.join(directory)).unwrap();
                fs::write(mount.join(directory).join("content"), content).unwrap();
            }
            Self(mount)
        }

        fn swap(&self) -> Swap {
            let at = |name: &str| self.0.join(name);
            Swap {
                resource: "db.postgresql".into(),
                ready: at("pg.restore-1/data"),
                place: at("pg"),
                before: at("pg.before-restore-1"),
                replaces: true,
                aside: vec![(at(".anshin/log"), at(".anshin/log.before-restore-1"))],
            }
        }

        fn content(&self, directory: &str) -> Option<String> {
            fs::read_to_string(self.0.join(directory).join("content")).ok()
        }
    }

    impl Drop for Volume {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn is_done(volume: &Volume) {
        assert_eq!(volume.content("pg").as_deref(), Some("then"));
        assert_eq!(volume.content("pg.before-restore-1").as_deref(), Some("now"));
        assert_eq!(volume.content(".anshin/log.before-restore-1").as_deref(), Some("log"));
        assert_eq!(volume.content(".anshin/log"), None);
    }

    #[test]
    fn it_is_carried_out_once_before_the_start_of_its_program_and_of_no_other() {
        let volume = Volume::new("start");
        volume.swap().leave(&volume.0).unwrap();
        assert!(volume.swap().leave(&volume.0).is_err(), "one waits already");
        assert_eq!(before_start(&volume.0, "db.other").unwrap(), None);
        assert_eq!(volume.content("pg").as_deref(), Some("now"));
        assert_eq!(before_start(&volume.0, "db.postgresql").unwrap(), Some(volume.swap()));
        is_done(&volume);
        assert_eq!(before_start(&volume.0, "db.postgresql").unwrap(), None);
        is_done(&volume);
    }

    #[test]
    fn it_goes_on_from_wherever_a_server_died() {
        let swap = |volume: &Volume| volume.swap();
        let steps: [fn(&Swap); 4] = [
            |_| {},
            |swap| fs::rename(&swap.aside[0].0, &swap.aside[0].1).unwrap(),
            |swap| fs::rename(&swap.place, &swap.before).unwrap(),
            |swap| fs::rename(&swap.ready, &swap.place).unwrap(),
        ];
        for done in 0..=steps.len() {
            let volume = Volume::new(&format!("died-{done}"));
            swap(&volume).leave(&volume.0).unwrap();
            steps[..done].iter().for_each(|step| step(&swap(&volume)));
            before_start(&volume.0, "db.postgresql").unwrap();
            is_done(&volume);
        }
    }

    #[test]
    fn nobody_has_root_rename_something_elsewhere() {
        let volume = Volume::new("elsewhere");
        for place in ["/etc/cron.d", "../pg"] {
            let swap = Swap { place: volume.0.join(place), ..volume.swap() };
            swap.leave(&volume.0).unwrap();
            let problem = before_start(&volume.0, "db.postgresql").unwrap_err();
            assert!(problem.message.contains("outside of the volume"), "{problem}");
            fs::remove_file(Swap::mark(&volume.0)).unwrap();
        }
        volume.swap().leave(&volume.0).unwrap();
        let mark = Swap::mark(&volume.0);
        fs::rename(&mark, mark.with_extension("real")).unwrap();
        std::os::unix::fs::symlink(mark.with_extension("real"), &mark).unwrap();
        let problem = before_start(&volume.0, "db.postgresql").unwrap_err();
        assert!(problem.message.contains("own file"), "{problem}");
        assert_eq!(volume.content("pg").as_deref(), Some("now"));
    }

    #[test]
    fn nothing_is_started_where_the_restored_data_is_lost() {
        let volume = Volume::new("lost");
        volume.swap().leave(&volume.0).unwrap();
        fs::remove_dir_all(volume.0.join("pg.restore-1")).unwrap();
        let problem = before_start(&volume.0, "db.postgresql").unwrap_err();
        assert!(problem.refused_for_safety && problem.message.contains("is gone"), "{problem}");
        assert_eq!(volume.content(".anshin/log").as_deref(), Some("log"), "nothing was touched");
        fs::rename(volume.0.join("pg"), volume.0.join("pg.before-restore-1")).unwrap();
        let problem = before_start(&volume.0, "db.postgresql").unwrap_err();
        assert!(problem.refused_for_safety && problem.message.contains("is gone"), "{problem}");
        fs::write(Swap::mark(&volume.0), "{").unwrap();
        assert!(before_start(&volume.0, "db.postgresql").unwrap_err().message.contains("cannot be read"));
    }
}
