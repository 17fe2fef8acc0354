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
    catalog::{LOG_RUN, Label, VaultSnapshot},
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
    /// Pieces of services' logs that no snapshot needs any more.
    pub logs_done: Vec<SnapshotId>,
}

/// The vault process of a vault that this node serves.
pub trait Keeper: Send + Sync + 'static {
    /// What it says.
    fn look<'a>(&'a self, vault: &'a VaultName) -> Answer<'a, KeeperSeen>;

    /// Has it give up snapshots. One that is gone already is no failure.
    fn forget<'a>(&'a self, vault: &'a VaultName, snapshots: Vec<SnapshotId>, why: &'a str)
    -> Answer<'a, ()>;
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
            let settings = VaultSettings::load(&self.paths, vault)?;
            let all = self.snapshots(vault).await?;
            let logs_done = logs_done(&all);
            let mut snapshots: Vec<VaultSnapshot> =
                all.iter().filter_map(|snapshot| named(vault, snapshot)).collect();
            snapshots.sort_by_key(|snapshot| (snapshot.label.run, snapshot.label.attempt));
            let trouble = settings.and_then(|settings| trouble(&settings.url));
            Ok(KeeperSeen { trouble, snapshots, logs_done })
        })
    }

    fn forget<'a>(&'a self, vault: &'a VaultName, wanted: Vec<SnapshotId>, why: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let all = self.snapshots(vault).await?;
            let asked = |snapshot: &&ClearSnapshot| {
                snapshot.forgotten.is_none() && wanted.iter().any(|wanted| wanted.0 == snapshot.id)
            };
            let snapshots: Vec<String> =
                all.iter().filter(asked).map(|snapshot| snapshot.id.clone()).collect();
            if !snapshots.is_empty() {
                tracing::info!(%vault, ?snapshots, why, "snapshots are given up");
                self.ask(vault, Task::Forget { snapshots }).await?;
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
        let oldest = snapshot.run.strip_prefix(LOG_RUN).and_then(|target| oldest.get(target));
        oldest.is_some_and(|oldest| snapshot.sealed.saturating_add(CLOCKS_SECONDS) < *oldest)
    };
    let done = all.iter().filter(there).filter(done);
    done.map(|snapshot| SnapshotId(snapshot.id.clone())).collect()
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
    fn only_what_names_a_run_and_is_not_forgotten_is_seen() {
        let vault = VaultName::from("main");
        let seen = named(&vault, &snapshot("s", "run-7/2:service/db", 3)).unwrap();
        assert_eq!((seen.label.run.0, seen.label.attempt.0, seen.at), (7, 2, UnixMillis(3 * 3_600_000)));
        assert!(named(&vault, &snapshot("s", "log:service/db", 3)).is_none());
        let forgotten = ClearSnapshot { forgotten: Some(9), ..snapshot("s", "run-7/2:service/db", 3) };
        assert!(named(&vault, &forgotten).is_none());
    }
}
