//! Executors with real processes, and a site of them under a leader that changes.

mod executor;
mod process;
mod restores;
mod site;

use super::*;
use crate::{
    backup::job::{BackupJob, Subject, VaultAccess},
    daemon::{fixture, world::World},
    paths::Paths,
};
use anshin_base::NodeId;
use anshin_director::{
    Span, UnixMillis,
    plan::Source,
    record::{Change, LastGood, Records, Sealed, TargetRecord, VaultRecord},
    run::{Observed, VaultSeen, Work},
};
use anshin_ledger::{Command, state::State};
use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

/// A directory that is gone after the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("anshin-director-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// A program of this text.
    fn script(&self, text: &str) -> PathBuf {
        let path = self.0.join("executor");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn work(run: u64, attempt: u32) -> Work {
    Work {
        run: RunId(run),
        attempt: Attempt(attempt),
        plan: "nightly".into(),
        target: "service/db".into(),
        source: Source::Service { service: "db".into(), plugin: None },
        vault: "main".into(),
        previous: None,
        tags: Vec::new(),
        run_time: None,
        bandwidth: anshin_base::ByteSize(0),
        before: Vec::new(),
        after: Vec::new(),
    }
}

fn job_of(work: Work) -> BackupJob {
    let vault = VaultAccess { name: "main".into(), server: NodeId(3), addresses: Vec::new() };
    BackupJob { work, vault, subject: Subject::Machine }
}

fn register_vault(state: &mut State) {
    let vault = VaultRecord {
        name: "main".into(),
        id: "v1".into(),
        url: "/v".into(),
        node: NodeId(3),
        concurrent: 0,
    };
    state.apply(anshin_base::LedgerIndex(50), &Command::Director(Change::SetVault(vault))).unwrap();
}

/// A world in which volume and file system of service `db` are on node 1.
fn served() -> World {
    let mut world = fixture::site();
    register_vault(std::sync::Arc::make_mut(&mut world.state));
    fixture::set_primary(&mut world, "data", 1);
    fixture::serve(&mut world, "data", NodeId(1));
    world
}

fn ready(world: &World, work: &Work, mounted: bool) -> Result<BackupJob, NotReady> {
    job(world, &Paths::default(), &|path| mounted && path == Path::new("/srv/data"), work)
}

#[test]
fn a_job_names_vault_volume_and_mount_as_this_node_has_them() {
    let made = ready(&served(), &work(1, 1), true).unwrap();
    assert_eq!(made.vault.server, NodeId(3));
    assert_eq!(made.vault.addresses, ["192.0.2.3:7805".parse().unwrap()]);
    let Subject::Service { service, volume: Some(volume), plugin: None } = made.subject else { panic!() };
    assert_eq!(service, "db");
    assert_eq!(volume.device, Path::new("/dev/anshin/data"));
    assert_eq!(volume.control, Path::new("/run/anshin/volume-data.ctl"));
    assert_eq!(volume.mount.as_deref(), Some(Path::new("/srv/data")));
    assert_eq!(volume.filesystem.as_deref(), Some("ext4"));
}

#[test]
fn a_source_that_is_on_its_way_is_waited_for() {
    let yet = |world: &World, mounted| matches!(ready(world, &work(1, 1), mounted), Err(NotReady::Yet(_)));
    let world = served();
    assert!(yet(&world, false), "not mounted yet");
    let mut elsewhere = world.clone();
    fixture::set_primary(&mut elsewhere, "data", 2);
    assert!(yet(&elsewhere, true), "primary elsewhere");
    let mut silent = world.clone();
    silent.reports.get_mut(&NodeId(1)).unwrap().volumes.clear();
    assert!(yet(&silent, true), "no device");
    let mut program = work(1, 1);
    program.source = Source::Service { service: "db".into(), plugin: Some("postgresql".into()) };
    assert!(
        matches!(ready(&world, &program, true), Err(NotReady::Yet(why)) if why.contains("does not run here"))
    );
}

#[test]
fn a_vault_is_seen_with_every_reason_why_it_cannot_be_written() {
    let mut world = served();
    let trouble = |world: &World| observed(world).vaults[&"main".into()].trouble.clone();
    assert!(trouble(&world).unwrap().contains("does not say anything of it yet"));
    let report = |trouble: Option<&str>| VaultReport {
        name: "main".into(),
        trouble: trouble.map(str::to_owned),
        snapshots: Vec::new(),
    };
    world.reports.get_mut(&NodeId(3)).unwrap().vaults = vec![report(None)];
    assert_eq!(trouble(&world), None);
    world.reports.get_mut(&NodeId(3)).unwrap().vaults = vec![report(Some("its disk is full"))];
    assert_eq!(trouble(&world).as_deref(), Some("its disk is full"));
    world.heard.get_mut(&NodeId(3)).unwrap().alive = false;
    assert!(trouble(&world).unwrap().contains("is down"));
}

#[test]
fn a_newest_backup_that_its_vault_does_not_have_any_more_is_told() {
    let good = |run: u64| LastGood {
        run: RunId(run),
        snapshot: format!("s{run}").as_str().into(),
        vault: "main".into(),
        point: UnixMillis(0),
        sealed: UnixMillis(0),
        files: 1,
        bytes: 1,
        took: Span(1),
        warnings: 0,
    };
    let mut records = Records::default();
    let target = TargetRecord { last_good: Some(good(7)), ..TargetRecord::default() };
    records.targets.insert(("nightly".into(), "service/db".into()), target);
    let vault = |trouble: Option<&str>, runs: &[u64]| {
        let told = |run: &u64| {
            let sealed = Sealed { snapshot: format!("s{run}").as_str().into(), ..Sealed::default() };
            (RunId(*run), Attempt(1), sealed)
        };
        let snapshots = runs.iter().map(told).collect();
        let seen = VaultSeen { trouble: trouble.map(str::to_owned), snapshots };
        Observed { vaults: [("main".into(), seen)].into(), ..Observed::default() }
    };
    let later = UnixMillis(600_000);
    let lost = |seen: &Observed, at| view::lost(&records, seen, at).len();
    assert_eq!(lost(&vault(None, &[5, 7, 8]), later), 0);
    assert_eq!(lost(&vault(None, &[5, 8]), later), 1);
    assert_eq!(lost(&vault(None, &[]), later), 1);
    assert_eq!(lost(&vault(None, &[8, 9]), later), 0, "it tells of newer ones only");
    assert_eq!(lost(&vault(Some("its process does not answer"), &[]), later), 0);
    assert_eq!(lost(&vault(None, &[5]), UnixMillis(1_000)), 0, "it was sealed a moment ago");
    assert_eq!(lost(&Observed::default(), later), 0);
}

#[test]
fn a_log_that_does_not_come_into_the_vault_is_told_after_a_while_and_a_gap_at_once() {
    let mut world = served();
    let minute = |minutes: i64| UnixMillis(minutes * 60_000);
    let mut archive = ArchiveReport {
        service: "db".into(),
        began: minute(0),
        moved: Some(minute(2)),
        trouble: Some("the vault is away".into()),
        gap: None,
    };
    let told = |world: &mut World, archive: &ArchiveReport, at| {
        world.reports.get_mut(&NodeId(1)).unwrap().archives = vec![archive.clone()];
        view::logs(world, at).remove(&"service/db".into())
    };
    assert_eq!(told(&mut world, &archive, minute(11)), None);
    assert!(told(&mut world, &archive, minute(13)).unwrap().contains("the vault is away"));
    archive.trouble = None;
    assert!(told(&mut world, &archive, minute(13)).unwrap().contains("does not answer"));
    assert_eq!(told(&mut world, &archive, minute(11)), None);
    archive.gap = Some(crate::backup::Gap { at: minute(4), reason: "it was given up".into() });
    assert!(told(&mut world, &archive, minute(5)).unwrap().contains("a new backup: it was given up"));
}

#[test]
fn a_node_that_is_silent_for_a_moment_keeps_its_attempts() {
    let mut world = served();
    let heard = world.heard.get_mut(&NodeId(2)).unwrap();
    (heard.alive, heard.age_ms) = (false, Some(5_000));
    let seen = observed(&world).nodes[&NodeId(2)].clone();
    assert!(seen.alive && seen.session.is_none(), "{seen:?}");
    world.heard.get_mut(&NodeId(2)).unwrap().age_ms = Some(31_000);
    assert!(!observed(&world).nodes[&NodeId(2)].alive);
}
