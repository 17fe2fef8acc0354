//! Restores of services on this node: into a directory, or in place.
//!
//! In place, everything that takes long happens beside the data while the service goes on: the restore, the log, the look whether
//! it is good. Then the renames are left for the next start of the service's program ([`crate::backup::swap`]), and the program is
//! stopped, so that the leader has it started again. A daemon that is started anew finishes what an earlier one left.

use super::{
    DirectorEvent, observed, program,
    restore::{access, plugin_restore},
    restore_asked::{exact, in_place, instant, no_keys, room},
    restore_book::millis,
    restore_choice::{Base, bases, choose, text},
    restore_process::RestoreProcess,
};
use crate::{
    backup::{
        restore_job::{
            AtStart, Conflict, Destination, Part as Selected, RestoreDone, RestoreJob, RestoreState,
            ServiceRestore,
        },
        swap::Swap,
    },
    control::{Answer, restores::Restores},
    daemon::{
        core::Event,
        drill::running_on,
        messages::ResourceReport,
        site::{Site, unknown},
        world::World,
    },
    view::{RestoreStart, RestoreView},
};
use anshin_agent::release;
use anshin_base::{NodeId, Problem};
use anshin_director::{
    PlanName, TargetKey, UnixMillis,
    plan::{Job, Plan},
    record::{Cause, Change, NewRun},
};
use anshin_ledger::{
    Command,
    state::{NodeState, Service, ServiceTarget},
};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// A restore of many terabytes may take days; one that takes longer than this never ends.
const RESTORE_LIMIT: Duration = Duration::from_secs(30 * 86_400);
/// What is in the spool is moved to the vault within this, or it is not waited for.
const FLUSH_LIMIT: Duration = Duration::from_secs(60);
/// A program stops and starts within this: the same bound as for a planned move.
const START_LIMIT: Duration = Duration::from_secs(180);
/// Between two looks for restores that an earlier daemon left.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Between two looks at the spool.
const LOOK_AT_SPOOL: Duration = Duration::from_millis(200);
/// A file in the spool that asks for something in the log (docs/formats/plugin.md).
const MARK: &str = ".mark";

/// Everything that a restore is made of.
struct Task {
    id: u64,
    service: Service,
    job: RestoreJob,
}

impl Site {
    fn begin(&self, request: &RestoreStart) -> Result<RestoreView, Problem> {
        let world = self.now();
        let hint = "list them: anshin service list";
        let service = world.state.services.get(&request.service);
        let service = service.cloned().ok_or_else(|| unknown("service", &request.service, hint))?;
        let at = request.at.as_deref().map(instant).transpose()?;
        let restore = plugin_restore(&world, &service.name).ok_or_else(|| {
            let message = format!("no plugin knows the program of service {}", service.name);
            Problem::new("restore-service-invalid", message)
                .hint("restore the files of a snapshot: anshin restore SNAPSHOT --to DIR")
        })?;
        let target = TargetKey(format!("service/{}", service.name));
        let rows = self.catalog.as_ref().ok_or_else(no_keys)?.snapshots()?;
        let bases = bases(&target, &rows, world.state.director.records());
        let base = choose(&target, &bases, at, request.snapshot.as_deref())?;
        let job = self.restore_job(&world, &service, restore, request, at, &base)?;
        let view = RestoreView {
            service: service.name.clone(),
            at: request.at.as_deref().and_then(exact),
            snapshot: base.snapshot.0.clone(),
            point: text(base.point),
            vault: base.vault.0.clone(),
            to: request.to.clone(),
            begun: text(wall()),
            doing: "begins".into(),
            ..RestoreView::default()
        };
        let (id, stop) = self.restores.open(view)?;
        let task = Task { id, service, job };
        let site = self.clone();
        tokio::spawn(async move { site.carry_out_restore(task, stop).await });
        self.restores.shown(id)
    }

    fn restore_job(
        &self,
        world: &World,
        service: &Service,
        mut restore: ServiceRestore,
        request: &RestoreStart,
        at: Option<UnixMillis>,
        base: &Base,
    ) -> Result<RestoreJob, Problem> {
        let to = match &request.to {
            Some(to) if Path::new(to).is_absolute() => {
                room(Path::new(to), base.bytes)?;
                Destination::Directory { path: PathBuf::from(to) }
            }
            Some(to) => {
                return Err(Problem::new("restore-to-invalid", format!("`{to}` is not an absolute path")));
            }
            None => {
                let mount = in_place(world, service, request, at, base)?;
                room(&mount, base.bytes)?;
                let resource = program::part_of(service).ok_or_else(|| {
                    Problem::new("restore-service-invalid", format!("{} has no program", service.name))
                })?;
                let aside = vec![mount.join(program::SPOOL)];
                restore.at_start = Some(AtStart { mount, resource, aside });
                Destination::InPlace
            }
        };
        restore.time = request.at.as_deref().and_then(exact);
        Ok(RestoreJob {
            vault: access(world, &base.vault)?,
            snapshot: base.snapshot.clone(),
            part: Selected::default(),
            to,
            conflict: Conflict::Refuse,
            verify: false,
            service: Some(restore),
        })
    }

    async fn carry_out_restore(self, task: Task, stop: oneshot::Receiver<Problem>) {
        let result = self.restore_service(&task, stop).await;
        if let Err(problem) = &result {
            tracing::warn!(service = task.service.name, %problem, "a restore failed");
        }
        self.restores.end(task.id, result);
    }

    async fn restore_service(&self, task: &Task, stop: oneshot::Receiver<Problem>) -> Result<(), Problem> {
        let job = &task.job;
        self.doing(task.id, "moves the newest of the log to the vault");
        self.flush(&task.service).await;
        let in_place = job.to == Destination::InPlace;
        let (book, id) = (self.restores.clone(), task.id);
        let told = move |state| {
            if let RestoreState::Working { files, bytes, doing } = state {
                book.change(id, |view| (view.files, view.bytes, view.doing) = (files, bytes, doing));
            }
        };
        let unwanted = async {
            tokio::select! {
                why = stop => match why {
                    Ok(why) => why,
                    Err(_) => std::future::pending().await,
                },
                why = self.left(&task.service, in_place) => why,
            }
        };
        let log = self.paths.run.join("restore.log");
        let process = RestoreProcess { executable: &self.executable, log: &log, limit: RESTORE_LIMIT };
        let done = process.run(job, unwanted, told).await?;
        self.restores.settle(task.id);
        let before = done.before.clone();
        self.restores.change(task.id, |view| note(view, done));
        if !in_place {
            return Ok(());
        }
        self.doing(task.id, "starts the service's program from what was restored");
        let begun = Instant::now();
        self.put_in_place(&task.service).await?;
        self.restores.change(task.id, |view| view.pause_ms = Some(millis(begun.elapsed())));
        let here = running_on(&self.now(), &task.service) == Some(self.now().me);
        let missing = before.filter(|before| here && std::fs::symlink_metadata(before).is_err());
        if let Some(before) = missing {
            let message = format!("what was there before is not in {}", before.display());
            return Err(Problem::new("restore-place", message).hint("look into the service's volume"));
        }
        self.doing(task.id, "asks for a new base");
        let run = self.new_base(&task.service).await;
        self.restores.change(task.id, |view| match run {
            Ok(run) => view.run = run,
            Err(problem) => view.warnings.push(format!(
                "no backup of what is there now could be asked for, run its plan by hand: {problem}"
            )),
        });
        Ok(())
    }

    fn doing(&self, id: u64, what: &str) {
        self.restores.change(id, |view| what.clone_into(&mut view.doing));
    }

    /// Has the log of a service that runs here moved to the vault up to now. If it cannot be, the restore tells how far it is.
    async fn flush(&self, service: &Service) {
        let world = self.now();
        if running_on(&world, service) != Some(world.me) {
            return;
        }
        if let Some(mount) = &service.mount {
            let mark = Path::new(mount).join(program::SPOOL).join(MARK);
            let made = tokio::fs::write(&mark, b"").await.is_ok();
            let until = Instant::now() + FLUSH_LIMIT;
            while made && Instant::now() < until && tokio::fs::try_exists(&mark).await.unwrap_or(false) {
                tokio::time::sleep(LOOK_AT_SPOOL).await;
            }
        }
        let (done, flushed) = oneshot::channel();
        let flush = DirectorEvent::Flush { service: service.name.clone(), done };
        if self.core.send(Event::Director(flush)).await.is_ok() {
            let moved = tokio::time::timeout(FLUSH_LIMIT, flushed).await;
            tracing::info!(service = service.name, ?moved, "the log is moved before a restore");
        }
    }

    /// Why a restore in place can no longer go on here, once that is so.
    async fn left(&self, service: &Service, in_place: bool) -> Problem {
        if !in_place {
            return std::future::pending().await;
        }
        let mut world = self.world.clone();
        loop {
            let now = world.borrow_and_update().clone();
            if leaves(&now, &service.name) {
                let message = format!("service {} leaves this node", service.name);
                let problem = Problem::new("restore-left", message);
                return problem.hint("nothing of it was changed; restore it where it runs then");
            }
            if world.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Has the service's program started anew; whoever starts it puts what was restored in place.
    async fn put_in_place(&self, service: &Service) -> Result<(), Problem> {
        let Some(mount) = service.mount.as_ref().map(PathBuf::from) else { return Ok(()) };
        // What rests on the program is stopped before it, as always.
        for resource in service.resources.iter().rev() {
            let part = format!("{}.{}", service.name, resource.name);
            let world = self.now();
            let me = world.me;
            let before = last_call(&world, me, &part);
            if !runs(&world, me, &part) {
                continue;
            }
            let why = "restored data takes the place of what it has".to_owned();
            let stop = DirectorEvent::StopPart { resource: part.clone(), why };
            let sent = self.core.send(Event::Director(stop)).await;
            sent.map_err(|_| Problem::new("internal", "the daemon ends"))?;
            let stopped = |world: &World| !runs(world, me, &part) || last_stop(world, me, &part) > before;
            self.wait_for(START_LIMIT, stopped).await;
        }
        let until = Instant::now() + START_LIMIT;
        while Instant::now() < until {
            let world = self.now();
            let left = std::fs::symlink_metadata(Swap::mark(&mount)).is_ok() && release::is_mounted(&mount);
            if !left && running_on(&world, service).is_some() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let message = format!(
            "service {} was not started from what was restored within {} s",
            service.name,
            START_LIMIT.as_secs()
        );
        Err(Problem::new("restore-start", message).hint(format!(
            "it is put in place when the program is started next; see: anshin explain {}",
            service.name
        )))
    }

    /// Later restores begin with what is there now.
    async fn new_base(&self, service: &Service) -> Result<Option<u64>, Problem> {
        let world = self.now();
        let Some((plan, job)) = planned(&world, &service.name) else { return Ok(None) };
        let at = wall();
        let run = NewRun {
            plan,
            target: job.key,
            locus: job.locus,
            cause: Cause::Operator("a restore in place".into()),
            occurrence: None,
            due: at,
        };
        let change = Change::Open { run, expect: UnixMillis(0), passed: None, at };
        match (self.propose)(Command::Director(change)).await? {
            Ok(anshin_ledger::Applied::Director(anshin_director::record::Applied::Run(run))) => {
                Ok(Some(run.0))
            }
            Ok(_) => Ok(None),
            Err(refused) => Err(crate::daemon::site::refusal(&refused)),
        }
    }

    /// Finishes what a daemon that died left between the last word of a restore and the start of the program.
    pub(in crate::daemon) async fn finish_restores(self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let world = self.now();
            let here =
                world.state.services.values().filter(|service| running_on(&world, service) == Some(world.me));
            for service in here {
                let Some(mount) = service.mount.clone() else { continue };
                // Nobody would start its program again.
                if self.restores.in_place(&service.name) || !world.quorate || leaves(&world, &service.name) {
                    continue;
                }
                let look = move || Swap::waiting(Path::new(&mount)).map(|swap| swap.resource);
                let waits = tokio::task::spawn_blocking(look).await.ok().flatten();
                // One that no start of this service would carry out is left to a person.
                if waits.is_some() && waits == program::part_of(service) {
                    tracing::info!(
                        service = service.name,
                        "restored data waits; its program is started anew"
                    );
                    let done = match self.put_in_place(service).await {
                        Ok(()) => self.new_base(service).await.map(drop),
                        Err(problem) => Err(problem),
                    };
                    if let Err(problem) = done {
                        tracing::warn!(service = service.name, %problem, "a restore in place is not finished");
                    }
                }
            }
        }
    }
}

impl Restores for Site {
    fn restore_list(&self) -> Answer<'_, Vec<RestoreView>> {
        Box::pin(async { Ok(self.restores.all()) })
    }

    fn restore_start(&self, request: RestoreStart) -> Answer<'_, RestoreView> {
        Box::pin(async move {
            let site = self.clone();
            // The catalog is read from a disk.
            let begun = tokio::task::spawn_blocking(move || site.begin(&request)).await;
            begun.map_err(|error| Problem::new("internal", error.to_string()))?
        })
    }

    fn restore_show(&self, id: u64) -> Answer<'_, RestoreView> {
        Box::pin(async move { self.restores.shown(id) })
    }

    fn restore_cancel(&self, id: u64) -> Answer<'_, RestoreView> {
        Box::pin(async move { self.restores.cancel(id) })
    }
}

fn note(view: &mut RestoreView, done: RestoreDone) {
    let shown = |path: PathBuf| path.display().to_string();
    (view.files, view.bytes) = (done.files, done.bytes_written + done.bytes_equal);
    view.log_pieces = done.log_pieces;
    (view.reached, view.checked) = (done.reached, done.checked);
    (view.place, view.before) = (done.place.map(shown), done.before.map(shown));
    view.warnings = done.warnings;
}

/// Whether the volume of a service is, or is to be, somewhere else than here. That its program is down for a moment is no matter:
/// what is restored lies beside its data.
fn leaves(world: &World, name: &str) -> bool {
    let Some(service) = world.state.services.get(name) else { return true };
    let volume = service.volume.as_ref().and_then(|volume| world.state.volumes.get(volume));
    let active = world.state.nodes.get(&world.me).is_some_and(|node| node.state == NodeState::Active);
    !active
        || service.target != ServiceTarget::Started
        // One that is dead takes nothing over.
        || service.preferred.is_some_and(|node| node != world.me && world.alive(node))
        || volume.and_then(|volume| world.primary_node(volume)) != Some(world.me)
}

/// The first plan that backs a service up.
fn planned(world: &World, service: &str) -> Option<(PlanName, Job)> {
    let (records, inventory) = (world.state.director.records(), observed(world).inventory);
    let plans = records.plans.values().filter_map(|plan| Plan::from_json(&plan.text).ok());
    let key = TargetKey(format!("service/{service}"));
    plans.filter(|plan| plan.enabled).find_map(|plan| {
        let job = inventory.jobs(&plan.what).into_iter().find(|job| job.key == key)?;
        Some((plan.name, job))
    })
}

fn runs(world: &World, node: NodeId, part: &str) -> bool {
    world.resource(node, part).and_then(ResourceReport::running) == Some(true)
}

fn last_call(world: &World, node: NodeId, part: &str) -> u64 {
    let records = world.resource(node, part).map(|resource| resource.records.as_slice()).unwrap_or_default();
    records.iter().map(|record| record.call).max().unwrap_or(0)
}

fn last_stop(world: &World, node: NodeId, part: &str) -> u64 {
    let records = world.resource(node, part).map(|resource| resource.records.as_slice()).unwrap_or_default();
    let stops = records.iter().filter(|record| record.operation == "stop");
    stops.map(|record| record.call).max().unwrap_or(0)
}

fn wall() -> UnixMillis {
    UnixMillis(jiff::Timestamp::now().as_millisecond())
}
