//! The catalog of a data node: a projection that catches up by itself, and is made anew when it cannot.
//!
//! A thread of its own, because a database and a vault are waited for. What it needs is the newest world; what it holds can be
//! lost at any time (docs/decisions/0007).

use super::retain;
use crate::{
    backup::job::VaultAccess,
    daemon::world::World,
    keep::{link::Patience, open::open_patiently},
    paths::Paths,
    setup::Propose,
};
use anshin_base::Problem;
use anshin_director::{
    PlanName, RunId, SnapshotId, UnixMillis, VaultName,
    catalog::{
        Catalog, CatalogError, Fact, Filter, Rebuild, RunRow, SnapshotRow, SqliteCatalog, VaultSnapshot,
    },
    record::{Change, Records, Sealed},
};
use anshin_ledger::Command;
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// How often it is looked for news.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it is compared with what the vaults list: snapshots that were forgotten by hand show then.
const COMPARE_EVERY: Duration = Duration::from_secs(3_600);
/// After a comparison that could not be made.
const COMPARE_AGAIN: Duration = Duration::from_secs(60);
/// How often the rules of retention are applied.
const RETAIN_EVERY: Duration = Duration::from_secs(60);

/// A vault that cannot be reached now is compared with later.
const HASTE: Patience = Patience { first: Duration::from_secs(5), resume: Duration::from_secs(10) };

/// A request to make it anew, and where the answer goes.
type Wish = SyncSender<Result<u64, Problem>>;

/// The catalog of this node.
pub struct Catalogue {
    /// None until its thread has opened it. Whoever may not wait for a disk asks with [`Catalogue::at_once`].
    catalog: Mutex<Option<SqliteCatalog>>,
    wishes: SyncSender<Wish>,
}

struct Keeping {
    shared: Arc<Catalogue>,
    world: watch::Receiver<Arc<World>>,
    propose: Propose,
    runtime: tokio::runtime::Handle,
    paths: Paths,
    compare_at: Instant,
    retain_at: Instant,
    /// Vaults whose own list of snapshots, with their own clocks, the catalog was last compared with.
    listed: BTreeSet<VaultName>,
    /// What was said last, so that it is said once.
    told: Option<String>,
}

impl Catalogue {
    /// Has a thread of its own open the file, make it anew if it cannot be used, and keep it up from then on: a disk that
    /// fails or hangs costs the catalog, never the daemon.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(
        paths: Paths,
        world: watch::Receiver<Arc<World>>,
        propose: Propose,
    ) -> Result<Arc<Self>, Problem> {
        let (wishes, wished) = sync_channel(8);
        let shared = Arc::new(Self { catalog: Mutex::new(None), wishes });
        let now = Instant::now();
        let keeping = Keeping {
            shared: shared.clone(),
            world,
            propose,
            runtime: tokio::runtime::Handle::current(),
            paths,
            compare_at: now,
            retain_at: now,
            listed: BTreeSet::new(),
            told: None,
        };
        std::thread::Builder::new()
            .name("catalog".into())
            .spawn(move || match open(&file(&keeping.paths)) {
                Ok(catalog) => {
                    *keeping.shared.lock() = Some(catalog);
                    keeping.run(&wished);
                }
                Err(problem) => {
                    tracing::error!("there is no catalog until the daemon is restarted: {problem}")
                }
            })
            .map_err(|error| Problem::new("catalog", format!("its thread cannot be started: {error}")))?;
        Ok(shared)
    }

    fn lock(&self) -> MutexGuard<'_, Option<SqliteCatalog>> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the catalog; waits for whoever uses it.
    fn with<T>(
        &self,
        act: impl FnOnce(&mut SqliteCatalog) -> Result<T, CatalogError>,
    ) -> Result<T, CatalogError> {
        match self.lock().as_mut() {
            Some(catalog) => act(catalog),
            None => Err(CatalogError::Store("the catalog is not open".into())),
        }
    }

    /// As [`Self::with`], but None where that would have to wait.
    fn at_once<T>(
        &self,
        act: impl FnOnce(&mut SqliteCatalog) -> Result<Option<T>, CatalogError>,
    ) -> Result<Option<T>, CatalogError> {
        match self.catalog.try_lock() {
            Ok(mut catalog) => catalog.as_mut().map_or(Ok(None), act),
            Err(_) => Ok(None),
        }
    }

    /// Makes it anew from the ledger and the vaults; answers how many facts it was made from. Waits for it.
    ///
    /// # Errors
    /// What kept it from that.
    pub fn rebuild(&self) -> Result<u64, Problem> {
        let (answer, answered) = sync_channel(1);
        let busy = |_| Problem::new("catalog-busy", "the catalog is being made anew already");
        self.wishes.try_send(answer).map_err(busy)?;
        answered.recv().map_err(|_| Problem::new("catalog", "the catalog's thread has ended"))?
    }

    /// A run that has ended; None also while the catalog cannot be asked without waiting.
    ///
    /// # Errors
    /// The catalog's.
    pub fn run(&self, run: RunId) -> Result<Option<(RunRow, Option<SnapshotRow>)>, Problem> {
        let found = self.at_once(|catalog| {
            let Some(row) = catalog.run(run)? else { return Ok(None) };
            let snapshot = row.snapshot.as_ref().map(|id| catalog.snapshot(id)).transpose()?.flatten();
            Ok(Some((row, snapshot)))
        });
        Ok(found?)
    }

    /// Every snapshot that is not forgotten.
    ///
    /// # Errors
    /// The catalog's.
    pub fn snapshots(&self) -> Result<Vec<SnapshotRow>, Problem> {
        Ok(self.with(|catalog| catalog.snapshots(&Filter::default()))?)
    }
}

/// The catalog in the file, or where the file system cannot hold one, in memory: it is a projection and made anew at each start.
fn open(file: &Path) -> Result<SqliteCatalog, CatalogError> {
    match SqliteCatalog::open(file) {
        Ok(opened) => {
            if let Some(note) = opened.note {
                tracing::warn!(note, "catalog");
            }
            Ok(opened.catalog)
        }
        Err(error) => {
            tracing::warn!(%error, file = %file.display(), "the catalog is kept in memory only");
            SqliteCatalog::in_memory()
        }
    }
}

fn file(paths: &Paths) -> PathBuf {
    paths.var.join("catalog.sqlite")
}

impl Keeping {
    fn run(mut self, wishes: &Receiver<Wish>) {
        loop {
            match wishes.recv_timeout(LOOK_EVERY) {
                Ok(wish) => {
                    let world = self.world.borrow().clone();
                    let _ = wish.send(self.rebuild(&world, false));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.world.has_changed().is_err() {
                return;
            }
            let world = self.world.borrow().clone();
            if world.state.site.is_none() {
                continue;
            }
            let looked = self.look(&world);
            self.tell(looked.err());
        }
    }

    fn tell(&mut self, problem: Option<Problem>) {
        let text = problem.map(|problem| problem.to_string());
        if let Some(text) = text.as_ref().filter(|text| self.told.as_ref() != Some(text)) {
            tracing::warn!("the catalog is behind: {text}");
        }
        self.told = text;
    }

    fn look(&mut self, world: &World) -> Result<(), Problem> {
        let records = world.state.director.records();
        self.catch_up(world, records)?;
        let now = Instant::now();
        if now >= self.compare_at && !records.vaults.is_empty() {
            self.compare_at = now + COMPARE_AGAIN;
            self.rebuild(world, true)?;
            self.compare_at = now + COMPARE_EVERY;
        }
        if now >= self.retain_at && world.leads() {
            self.retain_at = now + RETAIN_EVERY;
            self.retain(world, records)?;
        }
        Ok(())
    }

    fn catch_up(&mut self, world: &World, records: &Records) -> Result<(), Problem> {
        let position = self.shared.with(|catalog| catalog.position())?;
        if position == records.position {
            return Ok(());
        }
        // Ahead of the ledger: that was taken back to an earlier state, and what was projected since is not true.
        let events = if position > records.position { None } else { records.events_after(position) };
        let Some(events) = events else {
            return self.rebuild(world, position < records.position).map(|_| ());
        };
        for event in events {
            match self.shared.with(|catalog| catalog.apply(event)) {
                Ok(_) => {}
                Err(CatalogError::Gap { .. }) => return self.rebuild(world, true).map(|_| ()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Makes it anew, or completes it, from the events that the ledger still has and from what the vaults list.
    fn rebuild(&mut self, world: &World, keep: bool) -> Result<u64, Problem> {
        let records = world.state.director.records();
        let mut facts: Vec<Fact> = records.events.iter().cloned().map(Fact::Event).collect();
        let (mut complete, mut missing) = (Vec::new(), None);
        self.listed.clear();
        for vault in records.vaults.keys() {
            match self.list(world, vault) {
                Ok(snapshots) => {
                    facts.extend(snapshots.into_iter().map(Fact::Snapshot));
                    complete.push(vault.clone());
                }
                Err(problem) => missing = Some(problem.context(format_args!("vault {vault}"))),
            }
        }
        let how = Rebuild { keep, complete, position: records.position };
        let taken = self.shared.with(|catalog| catalog.rebuild(&how, &mut facts.into_iter()))?;
        self.listed.extend(how.complete);
        match missing {
            // What is there is right, but not all of it may be there.
            Some(problem) => Err(problem),
            None => Ok(taken),
        }
    }

    fn list(&self, world: &World, name: &VaultName) -> Result<Vec<VaultSnapshot>, Problem> {
        let unknown = || Problem::new("vault-unknown", format!("vault {name} is not known here"));
        let record = world.state.director.records().vaults.get(name).ok_or_else(unknown)?;
        let node = world.state.nodes.get(&record.node).ok_or_else(unknown)?;
        let at = |address: &String| Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, node.ports.vault));
        let access = VaultAccess {
            name: name.clone(),
            server: node.id,
            addresses: node.addresses.iter().filter_map(at).collect(),
        };
        let (session, _) = open_patiently(&self.paths, &access, HASTE)?;
        let all = session.keeper().snapshots()?;
        Ok(all.iter().filter_map(|snapshot| listed(name, snapshot)).collect())
    }

    /// Gives up what no rule keeps. The vault is told by the daemon of its node, once the ledger has it.
    fn retain(&mut self, world: &World, records: &Records) -> Result<(), Problem> {
        let now = UnixMillis(jiff::Timestamp::now().as_millisecond());
        if retain::changes(records, &self.shared.snapshots()?, now).is_empty() {
            return Ok(());
        }
        // What is new has its date from the leader's clock alone until the vault is asked; one that is ahead would push others
        // out. A vault that does not answer gives up nothing until it does.
        let missing = self.rebuild(world, true).err();
        let rows = self.shared.snapshots()?;
        let listed = |change: &Change| match change {
            Change::Forget { vault, .. } => self.listed.contains(vault),
            _ => false,
        };
        for change in retain::changes(records, &rows, now).into_iter().filter(listed) {
            let proposed = self.runtime.block_on((self.propose)(Command::Director(change)))?;
            if let Err(refused) = proposed {
                tracing::warn!(%refused, "snapshots are not given up");
            }
        }
        missing.map_or(Ok(()), Err)
    }
}

/// A snapshot that names a run and is not forgotten, as the vault lists it.
fn listed(vault: &VaultName, snapshot: &anshin_vault::Snapshot) -> Option<VaultSnapshot> {
    let record = &snapshot.record;
    let label = record.run.parse().ok()?;
    let seconds = i64::try_from(snapshot.sealed).ok()?;
    snapshot.forgotten.is_none().then(|| VaultSnapshot {
        vault: vault.clone(),
        plan: PlanName(record.plan.clone()),
        label,
        at: UnixMillis(seconds.saturating_mul(1_000)),
        sealed: Sealed {
            snapshot: SnapshotId(record.id.to_string()),
            files: record.stats.entries,
            bytes: record.stats.bytes,
            new_bytes: record.stats.new_bytes,
            warnings: 0,
        },
    })
}
