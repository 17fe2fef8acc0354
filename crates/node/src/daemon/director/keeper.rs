//! The daemon and the vault processes of its node.

use super::DirectorEvent;
use crate::{
    control::Answer,
    keep::{
        VaultSettings,
        administer::{Answer as Answered, ClearSnapshot, Task},
        control,
    },
    paths::Paths,
};
use anshin_base::{ByteSize, Problem};
use anshin_director::{
    PlanName, SnapshotId, UnixMillis, VaultName,
    catalog::{Label, LogLabel, VaultSnapshot},
    record::Sealed,
};
use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// With less space than this nothing is begun: a backup that fills the disk helps nobody.
const FREE_MIN: u64 = 64 << 20;
/// How often a vault is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A look that takes longer finds a vault that does not answer.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// What a vault process says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeeperSeen {
    /// Why it cannot be written, if so.
    pub trouble: Option<String>,
    /// Its snapshots that name a run and are not forgotten, oldest run first.
    pub snapshots: Vec<VaultSnapshot>,
    /// Pieces of services' logs that nothing needs any more.
    pub logs_done: Vec<SnapshotId>,
    /// Pieces of services' logs that a later one holds too.
    pub logs_held_twice: Vec<SnapshotId>,
}

/// The vault process of a vault that this node serves.
pub trait Keeper: Send + Sync + 'static {
    /// What it says.
    fn look<'a>(&'a self, vault: &'a VaultName) -> Answer<'a, KeeperSeen>;

    /// Has it give up snapshots. One that is gone already is no failure. With `for_good` they cannot be taken back once
    /// garbage was collected.
    fn forget<'a>(
        &'a self,
        vault: &'a VaultName,
        snapshots: Vec<SnapshotId>,
        for_good: bool,
        why: &'a str,
    ) -> Answer<'a, ()>;
}

/// The vault processes of this node, by their control sockets.
pub struct Processes {
    paths: Paths,
}

impl Processes {
    /// Those of the node whose directories these are.
    #[must_use]
    pub fn new(paths: Paths) -> Self {
        Self { paths }
    }

    async fn ask(&self, vault: &VaultName, task: Task) -> Result<Answered, Problem> {
        let (path, name) = (self.paths.vault_control(&vault.0), vault.clone());
        let asked = tokio::task::spawn_blocking(move || control::ask(&path, &task));
        let answer = asked.await.map_err(|error| Problem::new("vault-control", error.to_string()))??;
        match answer {
            None => {
                Err(Problem::new("vault-unreachable", format!("the process of vault {name} does not run")))
            }
            Some(Answered::Failed(problem)) => Err(problem),
            Some(answer) => Ok(answer),
        }
    }

    async fn snapshots(&self, vault: &VaultName) -> Result<Vec<ClearSnapshot>, Problem> {
        match self.ask(vault, Task::Snapshots).await? {
            Answered::Snapshots { snapshots } => Ok(snapshots),
            _ => Err(Problem::new("vault-control", "the vault's process answered with something else")),
        }
    }
}

impl Keeper for Processes {
    fn look<'a>(&'a self, vault: &'a VaultName) -> Answer<'a, KeeperSeen> {
        Box::pin(async move {
            // The disk of a vault may hang; the daemon must not.
            let (paths, name) = (self.paths.clone(), vault.clone());
            let looked = tokio::task::spawn_blocking(move || {
                Ok::<_, Problem>(
                    VaultSettings::load(&paths, &name)?.and_then(|settings| trouble(&settings.url)),
                )
            });
            let trouble =
                looked.await.map_err(|error| Problem::new("vault-control", error.to_string()))??;
            let all = self.snapshots(vault).await?;
            let (logs_held_twice, later) = logs_held_twice(&all);
            let logs_done = logs_done(&all).into_iter().chain(later).collect();
            let mut snapshots: Vec<VaultSnapshot> =
                all.iter().filter_map(|snapshot| named(vault, snapshot)).collect();
            snapshots.sort_by_key(|snapshot| (snapshot.label.run, snapshot.label.attempt));
            Ok(KeeperSeen { trouble, snapshots, logs_done, logs_held_twice })
        })
    }

    fn forget<'a>(
        &'a self,
        vault: &'a VaultName,
        wanted: Vec<SnapshotId>,
        for_good: bool,
        why: &'a str,
    ) -> Answer<'a, ()> {
        Box::pin(async move {
            let all = self.snapshots(vault).await?;
            let asked = |snapshot: &&ClearSnapshot| {
                snapshot.forgotten.is_none() && wanted.iter().any(|wanted| wanted.0 == snapshot.id)
            };
            let snapshots: Vec<String> =
                all.iter().filter(asked).map(|snapshot| snapshot.id.clone()).collect();
            if !snapshots.is_empty() {
                tracing::info!(%vault, ?snapshots, why, "snapshots are given up");
                self.ask(vault, Task::Forget { snapshots, for_good }).await?;
            }
            Ok(())
        })
    }
}

/// A snapshot that names a run and is not forgotten.
fn named(vault: &VaultName, snapshot: &ClearSnapshot) -> Option<VaultSnapshot> {
    let label: Label = snapshot.run.parse().ok()?;
    let sealed = Sealed {
        snapshot: SnapshotId(snapshot.id.clone()),
        files: snapshot.entries,
        bytes: snapshot.bytes,
        new_bytes: snapshot.new_bytes,
        // Only the executor counted them; what it said of a run that is sealed stands in the ledger.
        warnings: 0,
    };
    let seconds = i64::try_from(snapshot.sealed).ok()?;
    snapshot.forgotten.is_none().then(|| VaultSnapshot {
        vault: vault.clone(),
        plan: PlanName(snapshot.plan.clone()),
        label,
        at: UnixMillis(seconds.saturating_mul(1_000)),
        sealed,
    })
}

/// The clocks of two nodes that write one log differ by less.
const CLOCKS_SECONDS: u64 = 3_600;

/// A piece of a log is needed as long as a snapshot of its target is there that is older, also one that is forgotten and can
/// still be taken back. Of a target without any other snapshot nothing is given up: its first one may be on its way.
fn logs_done(all: &[ClearSnapshot]) -> Vec<SnapshotId> {
    let there = |snapshot: &&ClearSnapshot| snapshot.forgotten.is_none();
    let mut oldest: BTreeMap<String, u64> = BTreeMap::new();
    for snapshot in all {
        let Ok(label) = snapshot.run.parse::<Label>() else { continue };
        let began = u64::try_from(snapshot.time / 1_000_000_000).unwrap_or(0);
        let known = oldest.entry(label.target.0).or_insert(began);
        *known = began.min(*known);
    }
    let done = |snapshot: &&ClearSnapshot| {
        let label = snapshot.run.parse::<LogLabel>().ok();
        let oldest = label.and_then(|label| oldest.get(&label.target.0).copied());
        oldest.is_some_and(|oldest| snapshot.sealed.saturating_add(CLOCKS_SECONDS) < oldest)
    };
    let done = all.iter().filter(there).filter(done);
    done.map(|snapshot| SnapshotId(snapshot.id.clone())).collect()
}

/// Within this two snapshots of a roll are made when there is something new.
const ROLL_SECONDS: u64 = 2 * 3_600;

/// All but the last of each roll: those that can be given up for good, and those that are forgotten like any other, because what
/// says that it holds them came much later: whoever may add snapshots must not be able to have older ones destroyed. They are
/// counted, because clocks go back.
fn logs_held_twice(all: &[ClearSnapshot]) -> (Vec<SnapshotId>, Vec<SnapshotId>) {
    let there = all.iter().filter(|snapshot| snapshot.forgotten.is_none());
    let mut rolls: BTreeMap<_, BTreeMap<u64, &ClearSnapshot>> = BTreeMap::new();
    for snapshot in there {
        let Ok(LogLabel { target, roll: Some((roll, number)) }) = snapshot.run.parse() else { continue };
        let of = (&snapshot.domain, &snapshot.client, target.0, roll);
        rolls.entry(of).or_default().insert(number, snapshot);
    }
    let (mut for_good, mut later) = (Vec::new(), Vec::new());
    for mut roll in rolls.into_values() {
        let Some((_, last)) = roll.pop_last() else { continue };
        for snapshot in roll.into_values() {
            let soon = last.sealed.abs_diff(snapshot.sealed) <= ROLL_SECONDS;
            let list = if soon { &mut for_good } else { &mut later };
            list.push(SnapshotId(snapshot.id.clone()));
        }
    }
    (for_good, later)
}

/// Why a vault in a directory can hardly be written.
fn trouble(url: &str) -> Option<String> {
    let path = Path::new(url).is_absolute().then(|| Path::new(url))?;
    let space = rustix::fs::statvfs(path).ok()?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    (free < FREE_MIN).then(|| format!("only {} of its disk are free", ByteSize(free)))
}

/// Looks at a vault from now on, and tells what it sees.
pub fn watch(
    keeper: Arc<dyn Keeper>,
    vault: VaultName,
    events: mpsc::Sender<DirectorEvent>,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let seen = match tokio::time::timeout(LOOK_LIMIT, keeper.look(&vault)).await {
                Ok(Ok(seen)) => seen,
                Ok(Err(problem)) => KeeperSeen { trouble: Some(problem.message), ..KeeperSeen::default() },
                Err(_) => KeeperSeen {
                    trouble: Some("its process does not answer".into()),
                    ..KeeperSeen::default()
                },
            };
            if events.send(DirectorEvent::Vault { vault: vault.clone(), seen }).await.is_err() {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(id: &str, run: &str, hour: u64) -> ClearSnapshot {
        ClearSnapshot {
            id: id.into(),
            run: run.into(),
            plan: "nightly".into(),
            time: (hour * 3_600 * 1_000_000_000) as i64,
            sealed: hour * 3_600,
            ..ClearSnapshot::default()
        }
    }

    #[test]
    fn a_log_is_kept_as_long_as_an_older_snapshot_of_its_target() {
        let mut all = vec![
            snapshot("l1", "log:service/db", 1),
            snapshot("b", "run-1/1:service/db", 5),
            snapshot("l4", "log:service/db", 4),
            snapshot("l9", "log:service/db", 9),
            snapshot("other", "log:service/web", 1),
            snapshot("hand", "", 1),
        ];
        let ids = |all: &[ClearSnapshot]| logs_done(all).into_iter().map(|id| id.0).collect::<Vec<_>>();
        assert_eq!(ids(&all), ["l1"], "l4 is within what clocks may differ");
        all.push(snapshot("later", "run-2/1:service/db", 20));
        all[1].forgotten = Some(1);
        assert_eq!(ids(&all), ["l1"], "what is forgotten may be taken back, and needs its log then");
        all.remove(1);
        assert_eq!(ids(&all), ["l1", "l4", "l9"], "it is removed");
        all.pop();
        assert!(ids(&all).is_empty(), "no snapshot of its target is there: it may be on its way");
    }

    #[test]
    fn of_each_roll_of_a_log_only_the_last_is_kept() {
        let mut all = vec![
            snapshot("a1", "log:service/db#0a.1", 3),
            snapshot("a10", "log:service/db#0a.10", 1),
            snapshot("a9", "log:service/db#0a.9", 2),
            snapshot("b1", "log:service/db#0b.1", 4),
            snapshot("w1", "log:service/web#0a.1", 4),
            snapshot("alone", "log:service/db", 1),
            snapshot("run", "run-1/1:service/db", 5),
        ];
        let names = |ids: Vec<SnapshotId>| {
            let mut names: Vec<_> = ids.into_iter().map(|id| id.0).collect();
            names.sort();
            names
        };
        let ids = |all: &[ClearSnapshot]| names(logs_held_twice(all).0);
        assert_eq!(ids(&all), ["a1", "a9"], "the clock of a10 went back");
        all[1].forgotten = Some(1);
        assert_eq!(ids(&all), ["a1"], "one that is forgotten holds nothing for the others");
        all.push(ClearSnapshot { client: "mallory".into(), ..snapshot("other", "log:service/db#0a.99", 3) });
        assert_eq!(ids(&all), ["a1"], "nor does one of somebody else");
        all.push(snapshot("late", "log:service/db#0a.99", 30));
        assert!(ids(&all).is_empty(), "nothing old is destroyed because something new says that it holds it");
        assert_eq!(names(logs_held_twice(&all).1), ["a1", "a9"], "it can be taken back for a while");
    }

    #[test]
    fn only_what_names_a_run_and_is_not_forgotten_is_seen() {
        let vault = VaultName::from("main");
        let seen = named(&vault, &snapshot("s", "run-7/2:service/db", 3)).unwrap();
        assert_eq!((seen.label.run.0, seen.label.attempt.0, seen.at), (7, 2, UnixMillis(3 * 3_600_000)));
        assert!(named(&vault, &snapshot("s", "log:service/db", 3)).is_none());
        let forgotten = ClearSnapshot { forgotten: Some(9), ..snapshot("s", "run-7/2:service/db", 3) };
        assert!(named(&vault, &forgotten).is_none());
    }
}
