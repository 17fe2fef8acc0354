//! The volume process: the real replication core over simulated disk and links, and the little that its daemon does.

use crate::world::{At, Event, MS, World};
use anshin_base::{
    Member, Mono, SessionId,
    lease::LeaseRecord,
    local::{FromVoter, Outcome, ReplicaReport, ToVoter},
};
use anshin_mirror::{
    Command, Config, DiskError, Event as MirrorEvent, Input, LedgerView, Output, Region, Replica, Token,
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// A disk command under way.
enum Open {
    Read { token: Token, region: Region, offset: u64, length: u32 },
    Write { token: Token, region: Region, id: u64 },
    Flush { token: Token, region: Region, flush: crate::disk::Flush, fails: bool },
}

/// The running volume process of a node.
pub struct VolumeProcess {
    /// Number of this start.
    pub start: u64,
    /// Its session.
    pub session: SessionId,
    /// The replication core.
    pub replica: Replica,
    open: BTreeMap<u64, Open>,
    open_last: u64,
    wake: u64,
    proposals: BTreeSet<u64>,
    report: Option<ReplicaReport>,
    /// The voter start to which the report went.
    reported: u64,
    view: Option<LedgerView>,
    /// The generation in which it began to serve.
    pub serving: Option<u64>,
    /// The next flush of this process fails.
    pub flush_fails: bool,
}

impl VolumeProcess {
    /// Whether the set that its voter told it of last has this member.
    pub fn counts_on(&self, member: Member) -> bool {
        self.view.as_ref().and_then(|view| view.entry.as_ref()).is_some_and(|entry| entry.holds(member))
    }
}

impl World {
    /// Starts the volume process of a node.
    pub fn start_volume(&mut self, at: At) {
        let node = &self.nodes[at];
        if !node.powered || node.volume.is_some() || node.replica.is_none() || !self.scenario.volumes {
            return;
        }
        let session = SessionId(self.rng.id());
        let config = Config {
            volume_bytes: self.scenario.volume_bytes,
            session,
            peer_silent: anshin_base::Millis(1_000),
            lease: anshin_base::Millis(900),
            drift_permille: 20,
            heartbeat: anshin_base::Millis(100),
            hot_extents: self.scenario.hot_extents,
        };
        let start = self.new_start();
        let mut out = Vec::new();
        let replica = Replica::open_with_bugs(config, self.local(at), &mut out, self.scenario.bugs.mirror);
        self.nodes[at].volume = Some(VolumeProcess {
            start,
            session,
            replica,
            open: BTreeMap::new(),
            open_last: 0,
            wake: 0,
            proposals: BTreeSet::new(),
            report: None,
            reported: 0,
            view: None,
            serving: None,
            flush_fails: false,
        });
        let now = self.now;
        self.trace.line(now, || format!("node {at}: volume starts in {session}"));
        self.volume_outputs(at, out);
    }

    /// Hands an input to the core and carries out what it puts out.
    pub fn volume_input(&mut self, at: At, start: u64, input: Input) {
        let now = self.local(at);
        let Some(volume) = self.nodes[at].volume.as_mut().filter(|volume| volume.start == start) else {
            return;
        };
        let mut out = Vec::new();
        volume.replica.handle(now, input, &mut out);
        // Before anything is carried out: the disks are as they were when the replica decided.
        self.oracles.i4.watch(at, &self.nodes, &self.oracles.i10);
        self.volume_outputs(at, out);
    }

    fn volume_outputs(&mut self, at: At, out: Vec<Output>) {
        let Some(start) = self.nodes[at].volume.as_ref().map(|volume| volume.start) else { return };
        for output in out {
            if self.nodes[at].volume.as_ref().is_none_or(|volume| volume.start != start) {
                return;
            }
            self.volume_output(at, start, output);
        }
    }

    fn volume_output(&mut self, at: At, start: u64, output: Output) {
        match output {
            Output::DiskRead { token, region, offset, length } => {
                let delay = self.rng.between(20_000, 200_000);
                self.disk_open(at, start, delay, Open::Read { token, region, offset, length });
            }
            Output::DiskWrite { token, region, offset, data } => {
                let id = self.nodes[at].areas[area(region)].submit(offset, data);
                let delay = self.rng.between(20_000, 400_000);
                self.disk_open(at, start, delay, Open::Write { token, region, id });
            }
            Output::DiskZero { token, offset, length, .. } => {
                let zeroes = crate::disk::zeroes(usize::try_from(length).unwrap_or_default());
                let id = self.nodes[at].areas[0].submit(offset, zeroes);
                let delay = self.rng.between(20_000, 400_000);
                self.disk_open(at, start, delay, Open::Write { token, region: Region::Data, id });
            }
            Output::DiskFlush { token, region } => {
                let flush = self.nodes[at].areas[area(region)].flush();
                let slow = self.rng.permille(5);
                let delay = 100_000 + self.rng.below(if slow { 300 * MS } else { 3 * MS });
                let fails = self.nodes[at]
                    .volume
                    .as_mut()
                    .is_some_and(|volume| std::mem::take(&mut volume.flush_fails));
                self.disk_open(at, start, delay, Open::Flush { token, region, flush, fails });
            }
            Output::Send { link, message } => self.link_send(at, start, link, message),
            Output::Close { link, why } => {
                let now = self.now;
                self.trace.line(now, || format!("node {at}: closes {link:?}: {why}"));
                self.link_close(at, start, link);
            }
            Output::Propose { request, change } => self.volume_proposes(at, start, request, change),
            Output::FrontDone { id, result } => self.client_answered(at, start, id, result),
            Output::Report(report) => {
                if let Some(volume) = &mut self.nodes[at].volume {
                    volume.report = Some(report);
                    volume.reported = 0;
                }
                self.volume_reports(at);
            }
            Output::Lease(record) => self.lease_written(at, record),
            Output::WakeAt(mono) => self.wake_at(at, start, mono),
            Output::Event(event) => self.volume_event(at, start, event),
        }
    }

    fn disk_open(&mut self, at: At, start: u64, delay: u64, open: Open) {
        let Some(volume) = &mut self.nodes[at].volume else { return };
        volume.open_last += 1;
        let number = volume.open_last;
        volume.open.insert(number, open);
        let begins = self.now.max(self.nodes[at].stalled[0]);
        self.at(begins + delay, Event::VolumeDisk { at, start, number });
    }

    /// A disk command ended.
    pub fn volume_disk(&mut self, at: At, start: u64, number: u64) {
        let node = &mut self.nodes[at];
        let Some(volume) = node.volume.as_mut().filter(|volume| volume.start == start) else { return };
        let Some(open) = volume.open.remove(&number) else { return };
        let (token, result) = match open {
            Open::Read { token, region, offset, length } => {
                (token, Ok(node.areas[area(region)].read(offset, length as usize)))
            }
            Open::Write { token, region, id } => {
                node.areas[area(region)].complete(id);
                (token, Ok(Bytes::new()))
            }
            Open::Flush { token, region, flush, fails: true } => {
                node.areas[area(region)].flush_failed(&flush);
                (token, Err(DiskError::Io))
            }
            Open::Flush { token, region, flush, fails: false } => {
                node.areas[area(region)].flushed(&flush);
                (token, Ok(Bytes::new()))
            }
        };
        self.volume_input(at, start, Input::DiskDone { token, result });
    }

    fn wake_at(&mut self, at: At, start: u64, mono: Mono) {
        let time = self.nodes[at].clock.world(mono);
        let Some(volume) = &mut self.nodes[at].volume else { return };
        volume.wake += 1;
        let number = volume.wake;
        // A timer is never exact.
        let late = self.rng.below(MS);
        self.at(time + late, Event::VolumeWake { at, start, number });
    }

    /// The core's own timer.
    pub fn volume_wake(&mut self, at: At, start: u64, number: u64) {
        let due = self.nodes[at]
            .volume
            .as_ref()
            .is_some_and(|volume| (volume.start, volume.wake) == (start, number));
        if due {
            self.volume_input(at, start, Input::Tick);
        }
    }

    fn volume_proposes(&mut self, at: At, start: u64, request: u64, change: anshin_base::GroupChange) {
        let voter = self.nodes[at].voter.as_ref().map(|voter| voter.start);
        let Some(volume) = &mut self.nodes[at].volume else { return };
        volume.proposals.insert(request);
        self.oracles.i1.proposed(&change);
        match voter {
            Some(voter) => {
                let message = Box::new(ToVoter::Propose { request, change });
                self.after(20_000, Event::ToVoter { at, voter, volume: start, message });
            }
            None => {
                let message = Box::new(FromVoter::Outcome { request, outcome: Outcome::Unknown });
                self.after(MS, Event::FromVoter { at, voter: 0, volume: start, message });
            }
        }
    }

    /// Sends the report to the voter, if there is one that has not got it.
    pub fn volume_reports(&mut self, at: At) {
        let Some(voter) = self.nodes[at].voter.as_ref().map(|voter| voter.start) else { return };
        let Some(volume) = &mut self.nodes[at].volume else { return };
        let Some(report) = volume.report.clone() else { return };
        let start = volume.start;
        if std::mem::replace(&mut volume.reported, voter) == voter {
            return;
        }
        self.after(
            20_000,
            Event::ToVoter { at, voter, volume: start, message: Box::new(ToVoter::Report(report)) },
        );
    }

    /// The voter process died: open proposals are unknown, and nobody says who leads.
    pub fn volume_lost_voter(&mut self, at: At) {
        let Some(volume) = &mut self.nodes[at].volume else { return };
        let start = volume.start;
        volume.reported = 0;
        let view = volume.view.clone().map(|view| LedgerView { quorate: false, ..view });
        for request in std::mem::take(&mut volume.proposals) {
            let message = Box::new(FromVoter::Outcome { request, outcome: Outcome::Unknown });
            self.after(MS, Event::FromVoter { at, voter: 0, volume: start, message });
        }
        if let Some(view) = view {
            self.volume_input(at, start, Input::Ledger(view));
        }
    }

    /// The voter says something. `voter` is 0 for what the process concludes itself from a broken connection.
    pub fn volume_told(&mut self, at: At, voter: u64, start: u64, message: FromVoter) {
        let present = self.nodes[at].voter.as_ref().map(|voter| voter.start);
        if voter != 0 && present != Some(voter) {
            return;
        }
        let Some(volume) = self.nodes[at].volume.as_mut().filter(|volume| volume.start == start) else {
            return;
        };
        match message {
            FromVoter::View { epoch, index, entry, places, highest, quorate } => {
                let view = LedgerView { epoch, index, entry, places, highest, quorate };
                let now = self.now;
                self.trace.line(now, || {
                    let generation = view.entry.as_ref().map(|entry| entry.generation);
                    format!("node {at}: volume hears {generation:?} at {index}, quorate {quorate}")
                });
                volume.view = Some(view.clone());
                self.volume_input(at, start, Input::Ledger(view));
            }
            FromVoter::Outcome { request, outcome } => {
                if volume.proposals.remove(&request) || voter == 0 {
                    self.volume_input(at, start, Input::Proposed { request, outcome });
                }
            }
        }
    }

    fn volume_event(&mut self, at: At, start: u64, event: MirrorEvent) {
        let now = self.now;
        self.trace.line(now, || format!("node {at}: volume: {event:?}"));
        match event {
            MirrorEvent::Serve { generation } => {
                self.count("serves");
                if let Some(volume) = &mut self.nodes[at].volume {
                    volume.serving = Some(generation.0);
                    if let Some(status) = volume.replica.status() {
                        self.oracles.i5.serves(at, &status);
                    }
                }
                self.client_attach(at, start, generation.0);
            }
            MirrorEvent::Deposed { .. } => {
                self.count("deposed");
                let delay = self.rng.between(MS, 300 * MS);
                self.after(delay, Event::Cleaned { at, start });
            }
            MirrorEvent::Demoted => self.client_detach(at, start),
            MirrorEvent::ResyncDone { .. } => self.count("resyncs"),
            MirrorEvent::OldImage { replica, presented, seen } => {
                self.count("old images seen");
                self.oracles.i10.old_image(at, replica, presented, seen);
            }
            MirrorEvent::Failed { why } => {
                self.count("failed replicas");
                let replica = self.nodes[at].replica;
                self.oracles.i10.failed(at, replica, &why);
                self.kill_volume(at, false);
                let delay = self.rng.between(100 * MS, 1_000 * MS);
                self.after(delay, Event::StartVolume { at });
            }
            MirrorEvent::Suspended { .. }
            | MirrorEvent::Resumed
            | MirrorEvent::Quiesced
            | MirrorEvent::Note(_) => {}
        }
    }

    /// The daemon of a deposed node has killed the programs: the suspended requests fail, the device goes.
    pub fn volume_cleaned(&mut self, at: At, start: u64) {
        self.volume_input(at, start, Input::Command(Command::FailSuspended));
        self.client_detach(at, start);
        if let Some(volume) = self.nodes[at].volume.as_mut().filter(|volume| volume.start == start) {
            volume.serving = None;
        }
        self.volume_input(at, start, Input::Command(Command::DeviceGone));
    }

    /// A lease record was written: the guard holds the address as long as it is valid on this node's clock.
    fn lease_written(&mut self, at: At, record: LeaseRecord) {
        self.nodes[at].lease = Some(record);
        let holds = |world: &Self, at: At| {
            world.nodes[at].lease.is_some_and(|lease| lease.until > world.local(at) && lease.generation.0 > 0)
        };
        if holds(self, at)
            && let Some(other) = (0..self.nodes.len()).find(|other| *other != at && holds(self, *other))
        {
            self.oracles.i11.both(at, other);
        }
    }

    /// The volume process of a node dies.
    pub fn kill_volume(&mut self, at: At, power: bool) {
        let Some(volume) = self.nodes[at].volume.take() else { return };
        self.client_detach(at, volume.start);
        self.links_of_dead(at, volume.start, power);
        self.forget_report(at);
        if !power {
            for area in &mut self.nodes[at].areas {
                area.process_died(&mut self.rng);
                area.reopen_after_failure(&mut self.rng);
            }
        }
    }
}

fn area(region: Region) -> usize {
    match region {
        Region::Data => 0,
        Region::Meta => 1,
    }
}
