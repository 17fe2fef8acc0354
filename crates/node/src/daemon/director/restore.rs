//! Rehearsing a restore: the newest good snapshot of a thing is brought back into a scratch directory on this node and judged
//! there, by the plugin that knows its program where there is one. What runs is not touched.

use super::{observed, program, restore_process::RestoreProcess, view};
use crate::{
    backup::{
        job::{PluginSubject, VaultAccess},
        restore_job::{Conflict, Destination, Part, RestoreDone, RestoreJob, ServiceRestore},
    },
    daemon::{site::Site, world::World},
    view::RestoreDrill,
};
use anshin_base::{ByteSize, Problem};
use anshin_director::{
    Span, TargetKey, UnixMillis, VaultName,
    record::{Change, Drill, DrillKind, LastGood},
};
use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// A rehearsal that takes longer is broken off.
const REHEARSAL_LIMIT: Duration = Duration::from_secs(6 * 3_600);
/// For the ledger to show a drill here.
const APPLY_LIMIT: Duration = Duration::from_secs(5);
/// Left free beside what is restored.
const FREE_MIN: u64 = 256 << 20;

/// Something that can be rehearsed.
struct Subject {
    target: TargetKey,
    good: LastGood,
    job: RestoreJob,
}

impl Site {
    /// Rehearses the restore of a service and of its volume, or of everything if no service is named; empty if nothing of it
    /// was backed up yet. Each result is recorded in the ledger.
    ///
    /// # Errors
    /// If it cannot be tried here at all.
    pub(in crate::daemon) async fn rehearse(
        &self,
        service: Option<&str>,
    ) -> Result<Vec<RestoreDrill>, Problem> {
        let world = self.now();
        let mut done = Vec::new();
        for (target, good) in newest_good(&world, service) {
            let scratch = self.paths.var.join("drill").join(target.0.replace(['/', ':'], "-"));
            let subject = subject(&world, target, good, &scratch)?;
            done.push(self.rehearse_one(subject, &scratch).await?);
        }
        Ok(done)
    }

    async fn rehearse_one(&self, subject: Subject, scratch: &Path) -> Result<RestoreDrill, Problem> {
        let failed = |what: &str, error: std::io::Error| {
            Problem::new("drill-scratch", format!("{what} {}: {error}", scratch.display()))
        };
        // Left by a rehearsal that was broken off.
        remove(scratch).await.map_err(|error| failed("cannot remove", error))?;
        tokio::fs::create_dir_all(scratch).await.map_err(|error| failed("cannot make", error))?;
        if let Some(why) = too_full(scratch, subject.good.bytes, FREE_MIN) {
            return Err(
                Problem::new("drill-space-busy", why).hint("rehearse on another data node, or make room")
            );
        }
        let (at, begun) = (wall(), Instant::now());
        let restored = self.restore(&subject.job).await;
        let took = rounded_up(begun.elapsed());
        // What was restored is a second copy of the user's data: it does not stay.
        if let Err(error) = remove(scratch).await {
            tracing::warn!(%error, scratch = %scratch.display(), "what was restored for a drill is still there");
        }
        let (good, summary) = judge(&restored, took);
        let drill = Drill {
            target: subject.target.clone(),
            kind: DrillKind::Restore,
            at,
            snapshot: Some(subject.good.snapshot.clone()),
            good,
            rpo: Some(rounded_up(Duration::from_millis(at.0.abs_diff(subject.good.point.0)))),
            rto: good.then_some(took),
            summary,
        };
        let shown = view::drill(&drill);
        let target = subject.target;
        let shows = move |world: &World| {
            world.state.director.records().drills.get(&target).is_some_and(|known| known.at >= at)
        };
        self.direct(Change::Drilled(drill), |_| true).await?;
        self.wait_for(APPLY_LIMIT, shows).await;
        Ok(shown)
    }

    async fn restore(&self, job: &RestoreJob) -> Result<RestoreDone, String> {
        let log = self.paths.run.join("restore.log");
        let process = RestoreProcess { executable: &self.executable, log: &log, limit: REHEARSAL_LIMIT };
        process.run(job, std::future::pending(), |_| {}).await.map_err(|problem| problem.to_string())
    }
}

/// What is shown is never less than what is true (I17).
fn rounded_up(time: Duration) -> Span {
    Span(time.as_secs() + u64::from(time.subsec_nanos() > 0))
}

/// Whether a rehearsal went well, in one sentence.
fn judge(restored: &Result<RestoreDone, String>, took: Span) -> (bool, String) {
    let done = match restored {
        Ok(done) => done,
        Err(why) => return (false, why.clone()),
    };
    if done.verified == Some(false) {
        let first = done.warnings.first().cloned().unwrap_or_default();
        return (false, format!("what was restored is not what was backed up: {first}"));
    }
    if let Some(first) = done.warnings.first() {
        return (false, format!("{} things were not wholly restored: {first}", done.warnings.len()));
    }
    let what = format!("{} files, {} restored in {}", done.files, ByteSize(done.bytes_written), took.rough());
    let judged = match (&done.checked, done.verified) {
        (Some(checked), _) => format!("; its program was started from it: {checked}"),
        (None, Some(true)) => ", and all of it is as it was backed up".to_owned(),
        (None, _) => String::new(),
    };
    (true, format!("{what}{judged}"))
}

/// The newest good snapshot of each thing that is asked for.
fn newest_good(world: &World, service: Option<&str>) -> Vec<(TargetKey, LastGood)> {
    let wanted: Option<Vec<String>> = service.map(|service| {
        let volume = world.state.services.get(service).and_then(|service| service.volume.clone());
        let volume = volume.map(|volume| format!("volume/{volume}"));
        std::iter::once(format!("service/{service}")).chain(volume).collect()
    });
    let mut newest: std::collections::BTreeMap<TargetKey, LastGood> = std::collections::BTreeMap::new();
    for ((_, target), known) in &world.state.director.records().targets {
        let Some(good) = &known.last_good else { continue };
        let asked = wanted.as_ref().is_none_or(|wanted| wanted.contains(&target.0));
        if asked && newest.get(target).is_none_or(|known| known.point < good.point) {
            newest.insert(target.clone(), good.clone());
        }
    }
    newest.into_iter().collect()
}

fn subject(world: &World, target: TargetKey, good: LastGood, scratch: &Path) -> Result<Subject, Problem> {
    let here = world.state.nodes.get(&world.me).is_some_and(|node| node.roles.data);
    if !here {
        let problem = Problem::new(
            "drill-here-invalid",
            "this node has no key of the site's data, so it can restore none",
        );
        return Err(problem.hint("ask a data node"));
    }
    let access = access(world, &good.vault)?;
    let service = target.0.strip_prefix("service/").and_then(|name| plugin_restore(world, name));
    let job = RestoreJob {
        vault: access,
        snapshot: good.snapshot.clone(),
        part: Part::default(),
        to: Destination::Directory { path: scratch.join("restored") },
        conflict: Conflict::Refuse,
        verify: true,
        service,
    };
    Ok(Subject { target, good, job })
}

/// How a vault is reached from here.
pub(super) fn access(world: &World, name: &VaultName) -> Result<VaultAccess, Problem> {
    let unknown = || Problem::new("vault-unknown", format!("vault {name} is not known here"));
    let vault = world.state.director.records().vaults.get(name).ok_or_else(unknown)?;
    let node = world.state.nodes.get(&vault.node).ok_or_else(unknown)?;
    let at = |address: &String| Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, node.ports.vault));
    Ok(VaultAccess {
        name: vault.name.clone(),
        server: node.id,
        addresses: node.addresses.iter().filter_map(at).collect(),
    })
}

/// A service whose program a plugin knows is started from what was restored, seen by nobody.
pub(super) fn plugin_restore(world: &World, name: &str) -> Option<ServiceRestore> {
    let known = observed(world).inventory.services.into_iter().find(|service| service.name == name)?;
    let service = world.state.services.get(name)?;
    let plugin = PluginSubject { plugin: known.plugin?, facts: program::facts(service) };
    Some(ServiceRestore {
        service: name.to_owned(),
        plugin,
        time: None,
        log: true,
        check: true,
        at_start: None,
    })
}

/// Why what is restored does not fit there with so much to spare, if it does not.
pub(super) fn too_full(to: &Path, bytes: u64, spare: u64) -> Option<String> {
    let there = to.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let space = rustix::fs::statvfs(there).ok()?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    (free < bytes.saturating_add(spare)).then(|| {
        let [bytes, spare, free] = [bytes, spare, free].map(ByteSize);
        format!("{bytes} are needed under {}, and {spare} to spare; {free} are free", there.display())
    })
}

async fn remove(scratch: &Path) -> std::io::Result<()> {
    let path = PathBuf::from(scratch);
    match tokio::fs::remove_dir_all(path).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn wall() -> UnixMillis {
    UnixMillis(jiff::Timestamp::now().as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(change: impl FnOnce(&mut RestoreDone)) -> Result<RestoreDone, String> {
        let mut done =
            RestoreDone { files: 3, bytes_written: 5, verified: Some(true), ..RestoreDone::default() };
        change(&mut done);
        Ok(done)
    }

    #[test]
    fn times_are_never_shown_shorter_than_they_are() {
        assert_eq!(rounded_up(Duration::from_millis(1)), Span(1));
        assert_eq!(rounded_up(Duration::from_millis(2_000)), Span(2));
        assert_eq!(rounded_up(Duration::from_millis(2_001)), Span(3));
    }

    #[test]
    fn only_what_was_restored_whole_and_compared_is_good() {
        let good = |restored: &Result<RestoreDone, String>| judge(restored, Span(74)).0;
        assert!(good(&done(|_| {})));
        assert!(good(&done(|done| done.checked = Some("12 tables".into()))));
        assert!(!good(&done(|done| done.verified = Some(false))));
        assert!(!good(&done(|done| done.warnings.push("a file is missing".into()))));
        assert!(!good(&Err("object 12ab of the vault is damaged".into())));
        let (_, summary) = judge(&done(|done| done.checked = Some("12 tables".into())), Span(74));
        assert!(summary.contains("started from it: 12 tables"), "{summary}");
    }
}
