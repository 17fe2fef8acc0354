//! The replicas of this node: their processes, their events, and what a lost primary role leaves behind (R12).

use super::{Core, Event, MAKE_AGAIN, TAKE_DOWN_AGAIN, VolumeHere};
use crate::daemon::{
    messages::{CANNOT_MAKE, Work},
    parts::{self, services},
    volumes::{self, Leftovers},
};
use anshin_base::{ByteSize, GroupId, Problem};
use anshin_device::control::{DeviceState, Request, SILENT, VolumeEvent, VolumeStatus};
use anshin_ledger::Command as LedgerCommand;
use anshin_mirror::RoleName;
use std::{path::PathBuf, time::Duration};

/// How long ending a failed replica's process may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

impl Core {
    /// Starts what should run here and is not known yet: a process per replica, made first if it has no files.
    pub(super) fn keep_volumes(&mut self) {
        let state = self.world.state.clone();
        for volume in state.volumes.values() {
            let Some(replica) = volume.replicas.get(&self.setup.me) else { continue };
            self.look_for_files(&volume.name);
            match self.files.there(&volume.name) {
                Some(true) => {}
                Some(false) => {
                    self.make_replica(volume.name.clone(), volume.size, volume.group);
                    continue;
                }
                None => continue,
            }
            if !self.volumes.contains_key(&volume.name) {
                let timing = state.site.as_ref().map(|site| site.timing.clone()).unwrap_or_default();
                volumes::want(&mut self.supervisor, &volume.name, replica.port, &timing);
                self.volumes.insert(volume.name.clone(), VolumeHere::default());
                self.follow(&volume.name);
            }
            let here = self.volumes.get(&volume.name).and_then(|here| here.status.as_ref());
            let on_disk = here.and_then(|status| status.replica.as_ref()).map(|replica| replica.replica);
            if let Some(id) = on_disk.filter(|&id| replica.replica != Some(id)) {
                let command = LedgerCommand::ReplicaMade {
                    volume: volume.name.clone(),
                    node: self.setup.me,
                    replica: id,
                };
                self.propose_quietly(command);
            }
        }
    }

    /// Beside everything else: a disk that hangs would hold up the whole daemon.
    fn look_for_files(&mut self, volume: &str) {
        if self.formatting.contains(volume) {
            return;
        }
        let now = self.now();
        let Some(number) = self.files.ask(volume, now) else { return };
        let (paths, events, volume) =
            (self.setup.paths.clone(), self.setup.events.clone(), volume.to_owned());
        tokio::task::spawn_blocking(move || {
            let there = volumes::exists(&paths, &volume);
            let _ = events.blocking_send(Event::Looked(volume, number, there));
        });
    }

    pub(super) fn make_replica(&mut self, volume: String, bytes: ByteSize, group: GroupId) {
        if !self.formatting.insert(volume.clone()) {
            return;
        }
        let (directory, events) = (self.setup.paths.volume(&volume), self.setup.events.clone());
        tokio::spawn(async move {
            let hot_extents = anshin_device::HOT_EXTENTS;
            // A replica whose disk fills up later would fail in the middle of a write (R17).
            let what = anshin_device::Create { bytes, group, hot_extents, preallocate: true };
            let made = volumes::blocking(move || anshin_device::create(&directory, &what)).await;
            if made.is_err() {
                tokio::time::sleep(MAKE_AGAIN).await;
            }
            let _ = events.send(Event::ReplicaMade(volume, made.map(|_| ()))).await;
        });
    }

    pub(super) fn replica_made(&mut self, volume: &str, made: Result<(), Problem>) {
        self.formatting.remove(volume);
        match made {
            Ok(()) => {
                self.files.made(volume);
                self.keep_volumes();
            }
            Err(problem) => {
                tracing::error!(volume, %problem, "cannot make a replica");
                self.note(volume, CANNOT_MAKE, &problem.message);
            }
        }
    }

    /// Two threads per volume: one waits for events, one asks for the status.
    pub(super) fn follow(&self, volume: &str) {
        let path = self.setup.paths.volume_control(volume);
        let (events, name) = (self.setup.events.clone(), volume.to_owned());
        std::thread::spawn(move || {
            volumes::follow(&path, |event| {
                events.blocking_send(Event::Volume(name.clone(), event.map(Box::new))).is_ok()
            });
        });
        let (paths, events, name) = (self.setup.paths.clone(), self.setup.events.clone(), volume.to_owned());
        tokio::spawn(async move {
            loop {
                let status = volumes::status(&paths, &name).await.ok().map(Box::new);
                if events.send(Event::VolumeStatus(name.clone(), status)).await.is_err() {
                    return;
                }
                tokio::time::sleep(volumes::STATUS_EVERY).await;
            }
        });
    }

    pub(super) fn volume_event(&mut self, volume: &str, event: Option<VolumeEvent>) {
        let Some(event) = event else {
            let Some(here) = self.volumes.get_mut(volume) else { return };
            // Its process is gone, or will say again what it is.
            here.failed = false;
            if here.status.take().is_some() {
                self.look_at_once(volume);
                self.refresh_own_report();
            }
            return;
        };
        match event {
            VolumeEvent::State { status } => {
                let replica = status.replica.as_ref();
                let role = replica.map(|replica| replica.role);
                let suspended = replica.is_some_and(|replica| replica.suspended.is_some());
                if let Some(here) = self.volumes.get_mut(volume) {
                    here.heard = true;
                    here.suspended = suspended;
                    here.status = Some(*status);
                }
                self.refresh_own_report();
                match role {
                    Some(RoleName::Deposed) => self.begin_take_down(volume),
                    Some(RoleName::Failed) => self.volume_failed(volume),
                    _ => {}
                }
            }
            VolumeEvent::Deposed { generation } => {
                let why = format!("generation {generation} has another primary");
                self.note(volume, "is deposed here: its users are stopped", &why);
                self.begin_take_down(volume);
            }
            VolumeEvent::Suspended { why } => {
                self.set_suspended(volume, true);
                self.note(volume, "holds its I/O", &why);
            }
            VolumeEvent::Resumed => {
                self.set_suspended(volume, false);
                self.note(volume, "takes I/O again", "");
            }
            VolumeEvent::Serve { generation } => {
                self.set_suspended(volume, false);
                self.note(volume, &format!("serves in generation {generation}"), "")
            }
            VolumeEvent::ResyncDone { target, compared, sent } => {
                let name = self.replica_name(volume, target);
                let why = format!("{compared} bytes compared, {sent} bytes sent");
                self.note(volume, &format!("the copy on {name} is in sync again"), &why);
            }
            VolumeEvent::OldImage { replica, presented, seen } => {
                let name = self.replica_name(volume, replica);
                let why = format!("it presents progress {presented}, {seen} was seen");
                self.note(
                    volume,
                    &format!("the copy on {name} is an old image and is compared in full"),
                    &why,
                );
            }
            VolumeEvent::Failed { why } => {
                self.note(volume, "the copy here failed", &why);
                self.look_at_once(volume);
                self.volume_failed(volume);
            }
            VolumeEvent::DeviceFailed { problem } => self.note(volume, "the device failed", &problem.message),
            VolumeEvent::Note { text } => tracing::info!(volume, text, "volume"),
            VolumeEvent::DevicePresent { .. }
            | VolumeEvent::DeviceGone
            | VolumeEvent::Demoted
            | VolumeEvent::Quiesced => {}
        }
    }

    /// The status that is asked for regularly. What it shows is acted upon like the events, which nobody hears while the daemon
    /// restarts or the volume's process is replaced: a role that was lost, a replica that failed, and what still stands
    /// on a volume that has its primary elsewhere. Twice in a row, as one status may be older than what was done meanwhile.
    pub(super) fn volume_status(&mut self, volume: &str, status: Option<VolumeStatus>) {
        let role = status.as_ref().and_then(|status| Some(status.replica.as_ref()?.role));
        let stands = role == Some(RoleName::Secondary) && self.stands_on_lost(volume);
        let Some(here) = self.volumes.get_mut(volume) else { return };
        here.heard |= status.is_some();
        here.status = status;
        here.failed &= matches!(role, Some(RoleName::Failed) | None);
        let amiss = match role {
            Some(RoleName::Deposed) => true,
            Some(RoleName::Failed) => !here.failed,
            _ => stands,
        };
        here.amiss = if amiss && !here.cleaning { here.amiss + 1 } else { 0 };
        let act = here.amiss == 2;
        self.refresh_own_report();
        match role {
            Some(RoleName::Failed) if act => self.volume_failed(volume),
            Some(_) if act => self.begin_take_down(volume),
            _ => {}
        }
    }

    /// Whether another node is primary of the volume, while programs or the mount on it are taken for running here and
    /// nothing is under way that would end them.
    fn stands_on_lost(&self, volume: &str) -> bool {
        let primary = self.world.state.volumes.get(volume).and_then(|volume| self.world.primary_node(volume));
        let elsewhere = primary.is_some_and(|primary| primary != self.setup.me);
        let stands =
            |part: &parts::Part| matches!(part.work, Work::Agent(_)) && !self.busy.contains_key(&part.id);
        elsewhere && self.running_parts(volume).iter().any(stands)
    }

    /// The parts of the services on a volume that run here as far as is known.
    fn running_parts(&self, volume: &str) -> Vec<parts::Part> {
        let reports = self.local.reports();
        let runs = |part: &parts::Part| {
            reports.iter().any(|report| report.id == part.id && report.running() == Some(true))
        };
        let services = services(&self.world.state);
        let on_volume = services.iter().filter(|service| service.volume.as_deref() == Some(volume));
        on_volume.flat_map(|service| parts::parts(&self.world.state, service)).filter(runs).collect()
    }

    /// A failed replica is started again in a new session. What stands on it is taken down first, as when it is deposed: its
    /// held I/O would keep programs and the mount for ever, and another copy takes over meanwhile.
    fn volume_failed(&mut self, volume: &str) {
        let stands = !self.running_parts(volume).is_empty();
        let Some(here) = self.volumes.get_mut(volume) else { return };
        if std::mem::replace(&mut here.failed, true) {
            return;
        }
        let device = here.status.as_ref().is_some_and(|status| status.device != DeviceState::Absent);
        if device || stands {
            self.begin_take_down(volume);
        } else if !here.cleaning {
            self.restart(volume);
        }
    }

    /// Ends the volume's process, which is started again.
    fn restart(&self, volume: &str) {
        let (paths, volume) = (self.setup.paths.clone(), volume.to_owned());
        tokio::spawn(async move {
            while let Err(problem) = volumes::ask(&paths, &volume, Request::Stop, ANSWER_LIMIT).await {
                if ["volume-unreachable", SILENT].contains(&problem.code.as_str()) {
                    break;
                }
                tracing::warn!(volume, %problem, "a failed replica cannot be restarted yet");
                tokio::time::sleep(TAKE_DOWN_AGAIN).await;
            }
        });
    }

    fn set_suspended(&mut self, volume: &str, suspended: bool) {
        if let Some(here) = self.volumes.get_mut(volume) {
            here.suspended = suspended;
        }
    }

    pub(super) fn replica_name(&self, volume: &str, replica: anshin_base::ReplicaId) -> String {
        let volume = self.world.state.volumes.get(volume);
        let node = volume.and_then(|volume| self.world.node_of(volume, replica));
        node.map_or_else(|| replica.to_string(), |node| self.world.name_of(node))
    }

    /// Monitors of what stands on a volume are not waited for when its process ended or failed.
    pub(super) fn look_at_once(&mut self, volume: &str) {
        for order in self.local.recurring() {
            if matches!(&order.work, Work::Volume { volume: name } if name == volume)
                && !self.busy.contains_key(&order.resource)
            {
                self.run_order(None, order);
            }
        }
    }

    pub(super) fn begin_take_down(&mut self, volume: &str) {
        let Some(here) = self.volumes.get_mut(volume) else { return };
        if here.cleaning {
            return;
        }
        here.cleaning = true;
        self.leave_volume(volume);
        self.refresh_own_report();
        self.take_down(volume);
    }

    pub(super) fn take_down(&mut self, volume: &str) {
        let mut resources = Vec::new();
        let mut mount = self.world.state.volumes.get(volume).and_then(|volume| volume.mount.clone());
        for service in
            services(&self.world.state).iter().filter(|service| service.volume.as_deref() == Some(volume))
        {
            mount = service.mount.clone().or(mount);
            for part in parts::parts(&self.world.state, service) {
                if let Work::Agent(resource) = part.work {
                    resources.push(resource);
                }
            }
        }
        let what = Leftovers { volume: volume.to_owned(), resources, mount: mount.map(PathBuf::from) };
        let (paths, runner, events) =
            (self.setup.paths.clone(), self.setup.runner.clone(), self.setup.events.clone());
        tokio::spawn(async move {
            let result = volumes::take_down(&paths, &runner, &what).await;
            if result.is_err() {
                tokio::time::sleep(TAKE_DOWN_AGAIN).await;
            }
            let _ = events.send(Event::TakenDown(what.volume, result)).await;
        });
    }

    pub(super) fn taken_down(&mut self, volume: &str, result: Result<(), Problem>) {
        if let Err(problem) = result {
            tracing::warn!(volume, %problem, "what stood on a deposed volume is not down yet");
            self.take_down(volume);
            return;
        }
        let now = jiff::Timestamp::now().as_second();
        // What is known of parts that did not run, such as that their agent is not there, holds on.
        for part in self.running_parts(volume) {
            self.local.taken_down(&part.id, now);
            self.local.clean_up(&part.id, false);
        }
        let here = self.volumes.get_mut(volume);
        let failed = here.is_some_and(|here| {
            (here.cleaning, here.amiss) = (false, 0);
            here.failed
        });
        if failed {
            self.restart(volume);
        }
        self.note(volume, "is a secondary here again: its former users are gone", "");
        self.refresh_own_report();
    }
}
