//! Points of the volume: carries out what [`Keeper`] says, and leads a point through its life.
//!
//! ```text
//!   asked ──► Reserving ──► Stilling ──► Thawing ──► Attaching ──► open ──► closed
//!   (helper: side file,    (mutations    (helper     (helper: FUSE   (asked for, the owner
//!    freeze)                wait, ≤ 2 s)  thaws)      and loop)       hung up, role lost)
//! ```
//!
//! Whatever goes wrong ends the point, never a request of the volume.

use super::Engine;
use crate::{
    control::{PointStatus, Reply},
    front::{
        FRONTS, FUSE, Front, POINT,
        fuse::Fuse,
        loopdev::{Busy, Places},
        nbd::{self, Nbd},
    },
    io::Tag,
    point::{
        freeze::{Frozen, mount_of},
        keeper::{Keeper, PointId, Room, Step, UNIT},
        side::{Ended, Side, reserve},
    },
    ring::{Done, Fd},
    stream::accepted,
};
use anshin_base::{Millis, Mono, Problem};
use anshin_mirror::{FrontError, FrontOp, Input, RequestId};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, VecDeque},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, Sender, channel},
    time::Duration,
};

/// Open points of one volume.
const POINTS_MAX: usize = 4;
/// Mutations wait no longer for those before them, or the point is given up.
const STILL_MAX: Millis = Millis(2_000);
/// Fronts of points are numbered from here, far above those of devices: the numbers tell completions apart.
const FIRST_NUMBER: u64 = 1 << 24;
/// Units of a side file (64 GiB): what is known of them is locked memory, 32 bytes each.
const SLOTS_MAX: u32 = 1 << 20;
/// Ended points whose reason is remembered for an owner that asks late.
const ENDED_KEPT: usize = 16;

/// What helper threads report.
enum News {
    /// What a point needs, and whether a file system is held still.
    Reserved(PointId, Result<Reserved, Problem>),
    /// The file system is thawed; None: before anyone said so.
    Thawed(PointId, Option<Duration>),
    /// The FUSE mount stands: its requests must be answered from now on.
    Mounted(PointId),
    /// The loop device is there, or not.
    Attached(PointId, Result<PathBuf, Problem>),
    /// Everything of the device is gone.
    Detached(PointId),
}

struct Reserved {
    file: OwnedFd,
    room: Room,
    frozen: bool,
}

enum Stage {
    Reserving,
    Stilling { needs: Option<(OwnedFd, Room)>, until: Mono },
    Thawing,
    Attaching,
}

struct Opening {
    id: PointId,
    client: u64,
    slots: u32,
    stage: Stage,
    frozen: bool,
    frozen_for: Option<Duration>,
    /// Tells the helper to thaw; dropping it does so too.
    thaw: Sender<()>,
}

struct Served {
    client: u64,
    nbd: Option<Nbd>,
    fuse: Option<Fuse>,
    places: Places,
    status: PointStatus,
    attaching: bool,
    closing: bool,
}

/// See the module.
pub(super) struct Points {
    keeper: Keeper,
    side: Side,
    opening: Option<Opening>,
    served: BTreeMap<PointId, Served>,
    ended: VecDeque<(PointId, String)>,
    next: u64,
    /// Whether this replica serves as primary.
    primary: bool,
    /// Whether its device is being given up.
    leaving: bool,
    steps: Vec<Step>,
    sender: Sender<News>,
    receiver: Receiver<News>,
    wake: Fd,
}

impl Points {
    pub(super) fn new(volume_bytes: u64, wake: Fd) -> Self {
        let (sender, receiver) = channel();
        Self {
            keeper: Keeper::new(volume_bytes),
            side: Side::default(),
            opening: None,
            served: BTreeMap::new(),
            ended: VecDeque::new(),
            next: 1,
            primary: false,
            leaving: false,
            steps: Vec::new(),
            sender,
            receiver,
            wake,
        }
    }

    pub(super) fn set_primary(&mut self, primary: bool) {
        self.primary = primary;
        self.leaving = false;
    }

    /// The device is being given up; false: it stays after all.
    pub(super) fn set_leaving(&mut self, leaving: bool) {
        self.leaving = leaving;
    }

    /// A mutation on its way to the core; see [`Keeper::admit`].
    pub(super) fn admit(&mut self, id: RequestId, op: FrontOp) -> Option<FrontOp> {
        self.keeper.admit(id, op, &mut self.steps)
    }

    /// The core answered a mutation.
    pub(super) fn answered(&mut self) {
        self.keeper.answered();
    }

    pub(super) fn statuses(&self) -> Vec<PointStatus> {
        self.served.keys().filter_map(|id| self.status(*id)).collect()
    }

    fn status(&self, id: PointId) -> Option<PointStatus> {
        let served = self.served.get(&id).filter(|served| !served.closing)?;
        Some(PointStatus { copied_bytes: self.keeper.copied_bytes(id), ..served.status.clone() })
    }

    /// Runs `work` in a helper thread that can report.
    fn help(&self, work: impl FnOnce(&dyn Fn(News)) + Send + 'static) -> std::io::Result<()> {
        let sender = self.sender.clone();
        let wake: OwnedFd = self.wake.try_clone()?;
        let report = move |news| {
            let _ = sender.send(news);
            let _ = rustix::io::write(&wake, &1u64.to_ne_bytes());
        };
        std::thread::Builder::new().name("point".into()).spawn(move || work(&report)).map(drop)
    }

    /// Takes what the points' readers ask.
    fn collect(&mut self) -> Vec<(PointId, RequestId, FrontOp)> {
        let mut asked = Vec::new();
        for (id, served) in &mut self.served {
            let fronts = [
                served.nbd.as_mut().map(|nbd| nbd as &mut dyn Front),
                served.fuse.as_mut().map(|fuse| fuse as &mut dyn Front),
            ];
            for front in fronts.into_iter().flatten() {
                asked.extend(front.requests().queue.drain(..).map(|(request, op)| (*id, request, op)));
            }
        }
        asked
    }
}

/// The helper's work for a new point: its side file, and holding the file system still.
fn prepare(
    id: PointId,
    directory: &Path,
    slots: u32,
    device: Option<&Path>,
    told: &Receiver<()>,
    report: &dyn Fn(News),
) {
    let frozen = reserve(directory, slots).and_then(|file| {
        let room = Room::new(slots);
        let mount = device.and_then(mount_of);
        Ok((file, room, mount.map(|mount| Frozen::freeze(&mount)).transpose()?))
    });
    match frozen {
        Err(problem) => report(News::Reserved(id, Err(problem))),
        Ok((file, room, None)) => report(News::Reserved(id, Ok(Reserved { file, room, frozen: false }))),
        Ok((file, room, Some(frozen))) => {
            report(News::Reserved(id, Ok(Reserved { file, room, frozen: true })));
            report(News::Thawed(id, frozen.thaw_when_told(told)));
        }
    }
}

impl Engine {
    /// A client asks for a point; it is answered when the point can be read, or when it cannot be had.
    pub(super) fn point_open(&mut self, client: u64, limit_bytes: u64, freeze: bool) {
        let refusal = match (&self.points.opening, self.points.served.len()) {
            _ if !self.points.primary || self.points.leaving => {
                Some("this replica does not serve the volume now")
            }
            (Some(_), _) => Some("another point is being opened"),
            (_, POINTS_MAX..) => Some("as many points are open as a volume may have"),
            _ => None,
        };
        if let Some(why) = refusal {
            let problem = Problem::new("point-busy", format!("no point of {}: {why}", self.geometry.name));
            let problem = problem.hint("try again in a moment");
            return self.control.answer(&mut self.io, client, &Reply::Problem { problem });
        }
        // More than the whole volume is never copied.
        let units = (limit_bytes / UNIT).min(self.geometry.bytes.div_ceil(UNIT));
        let slots = u32::try_from(units).unwrap_or(u32::MAX).clamp(1, SLOTS_MAX);
        let id = PointId(self.points.next);
        self.points.next += 1;
        let (thaw, told) = channel();
        let directory = self.options.directory.clone();
        let device = self.device.node().filter(|_| freeze);
        let started =
            self.points.help(move |report| prepare(id, &directory, slots, device.as_deref(), &told, report));
        let stage = Stage::Reserving;
        let opening = Opening { id, client, slots, stage, frozen: false, frozen_for: None, thaw };
        self.points.opening = Some(opening);
        if let Err(error) = started {
            self.refuse_point(Problem::new("point-open", error.to_string()));
        }
    }

    /// A client asks how its point is.
    pub(super) fn point_status(&mut self, client: u64, id: PointId) {
        let reply = match self.points.status(id) {
            Some(point) => Reply::Point { point: Box::new(point) },
            None => Reply::Problem { problem: self.no_point(id) },
        };
        self.control.answer(&mut self.io, client, &reply);
    }

    fn no_point(&self, id: PointId) -> Problem {
        let ended = self.points.ended.iter().find(|(ended, _)| *ended == id);
        let why = ended.map_or("there is none of that number", |(_, why)| why);
        Problem::new("point-broken", format!("point {} of {}: {why}", id.0, self.geometry.name))
    }

    /// Ends the opening of a point; the file system thaws by that.
    fn refuse_point(&mut self, problem: Problem) {
        let Some(opening) = self.points.opening.take() else { return };
        tracing::warn!(%problem, "no point");
        match opening.stage {
            Stage::Reserving => {}
            Stage::Stilling { .. } => self.with_keeper(Keeper::abandon),
            Stage::Thawing | Stage::Attaching => self.point_close(opening.id, &problem.message),
        }
        self.control.answer(&mut self.io, opening.client, &Reply::Problem { problem });
    }

    /// Closes a point; nothing happens if it is closed.
    pub(super) fn point_close(&mut self, id: PointId, why: &str) {
        self.with_keeper(|keeper, steps| keeper.close(id, steps));
        self.points.side.remove(id);
        let Some(served) = self.points.served.get_mut(&id).filter(|served| !served.closing) else { return };
        tracing::info!(point = id.0, why, "a point is closed");
        served.closing = true;
        if let Some(mut nbd) = served.nbd.take() {
            nbd.stop(&mut self.io);
        }
        self.points.ended.push_back((id, why.to_owned()));
        if self.points.ended.len() > ENDED_KEPT {
            self.points.ended.pop_front();
        }
        self.point_detach(id);
    }

    /// Takes the closed point's device away, unless it is just being made.
    fn point_detach(&mut self, id: PointId) {
        let Some(served) = self.points.served.get(&id).filter(|served| served.closing) else { return };
        if served.attaching {
            return;
        }
        let places = served.places.clone();
        let started = served.fuse.is_some()
            && self
                .points
                .help(move |report| {
                    if let Err(problem) = places.detach(Busy::Goes) {
                        tracing::warn!(%problem, "the device of a closed point stays and gives errors only");
                    }
                    places.unmount();
                    report(News::Detached(id));
                })
                .is_ok();
        if !started {
            self.points.served.remove(&id);
        }
    }

    /// All points end: the replica does not serve any more, or is about not to.
    pub(super) fn points_end(&mut self, why: &str) {
        self.refuse_point(Problem::new("point-broken", why));
        let ids: Vec<_> = self.points.served.keys().copied().collect();
        ids.into_iter().for_each(|id| self.point_close(id, why));
    }

    /// A client hung up: what it asked for goes with it.
    pub(super) fn point_owner_gone(&mut self, client: u64) {
        if self.points.opening.as_ref().is_some_and(|opening| opening.client == client) {
            self.refuse_point(Problem::new("point-broken", "its owner hung up"));
        }
        let owned = self.points.served.iter().filter(|(_, served)| served.client == client);
        let ids: Vec<_> = owned.map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.point_close(id, "its owner hung up"));
    }

    fn with_keeper(&mut self, act: impl FnOnce(&mut Keeper, &mut Vec<Step>)) {
        act(&mut self.points.keeper, &mut self.points.steps);
        self.carry_points();
    }

    /// Carries out what the keeper said.
    pub(super) fn carry_points(&mut self) {
        while !self.points.steps.is_empty() {
            for step in std::mem::take(&mut self.points.steps) {
                self.carry_point(step);
            }
        }
    }

    fn carry_point(&mut self, step: Step) {
        let points = &mut self.points;
        let ended = match step {
            Step::Pass { id, op } => {
                self.inputs.push(Input::Front { id, op });
                None
            }
            Step::Fetch { job, offset, length } => {
                let id = RequestId(job.0 * FRONTS + POINT);
                self.inputs.push(Input::Front { id, op: FrontOp::Read { offset, length } });
                None
            }
            Step::Save { point, job, offset, data } => {
                points.side.save(&mut self.io, point, job, offset, data)
            }
            Step::Load { point, job, offset, length } => {
                points.side.load(&mut self.io, point, job, offset, length)
            }
            Step::Answer { point, id, result } => {
                self.answer_reader(point, id, result);
                None
            }
            Step::Broken { point, why } => {
                tracing::warn!(point = point.0, why, "a point broke; the volume goes on");
                points.side.remove(point);
                if let Some(served) = points.served.get_mut(&point) {
                    served.status.broken = Some(why);
                }
                None
            }
        };
        self.side_ended(ended);
    }

    fn answer_reader(&mut self, point: PointId, id: RequestId, result: Result<Bytes, FrontError>) {
        let Some(served) = self.points.served.get_mut(&point) else { return };
        if id.0 % FRONTS == FUSE {
            if let Some(fuse) = &mut served.fuse {
                fuse.answer(&mut self.io, id, result);
            }
        } else if let Some(nbd) = &mut served.nbd {
            nbd.answer(&mut self.io, id, result);
        }
    }

    fn side_ended(&mut self, ended: Option<Ended>) {
        let (keeper, steps) = (&mut self.points.keeper, &mut self.points.steps);
        match ended {
            None => {}
            Some(Ended::Saved(job, result)) => keeper.saved(job, result, steps),
            Some(Ended::Loaded(job, result)) => keeper.loaded(job, result, steps),
        }
    }

    /// The core answered a read that was made for the points.
    pub(super) fn point_fetched(&mut self, id: RequestId, result: Result<Bytes, FrontError>) {
        let job = crate::point::keeper::Job(id.0 / FRONTS);
        self.with_keeper(|keeper, steps| keeper.fetched(job, result, steps));
    }

    /// Completions of side files and of the points' fronts.
    pub(super) fn point_completed(&mut self, done: Done<Tag>) {
        let number = match done.tag {
            Tag::Point(tag) => {
                let ended = self.points.side.completed(&mut self.io, tag, done);
                self.side_ended(ended);
                return self.carry_points();
            }
            Tag::Nbd(tag) => tag.server(),
            Tag::Fuse(tag) => tag.0,
            _ => return,
        };
        let id = PointId(number.saturating_sub(FIRST_NUMBER));
        let Some(served) = self.points.served.get_mut(&id) else {
            // A client that came while its server went.
            if let (Tag::Nbd(nbd::Tag::Accept(_)), Ok(fd)) = (done.tag, &done.result) {
                drop(accepted(*fd));
            }
            return;
        };
        let front = match done.tag {
            Tag::Nbd(_) => served.nbd.as_mut().map(|nbd| nbd as &mut dyn Front),
            _ => served.fuse.as_mut().map(|fuse| fuse as &mut dyn Front),
        };
        if let Some(front) = front {
            front.completed(&mut self.io, done);
        }
    }

    /// Takes the readers' requests, and opens the point that waits for stillness.
    pub(super) fn points_turn(&mut self) {
        if self.points.served.is_empty() && self.points.opening.is_none() {
            return;
        }
        loop {
            let asked = self.points.collect();
            if asked.is_empty() {
                break;
            }
            for (point, id, op) in asked {
                match op {
                    FrontOp::Read { offset, length } => {
                        self.with_keeper(|keeper, steps| keeper.read(point, id, offset, length, steps));
                    }
                    FrontOp::Flush => self.answer_reader(point, id, Ok(Bytes::new())),
                    _ => self.answer_reader(point, id, Err(FrontError::Range)),
                }
            }
        }
        self.point_still();
    }

    /// Looks after slow clients and a point that cannot be had.
    pub(super) fn points_tick(&mut self) {
        for served in self.points.served.values_mut() {
            if let Some(nbd) = &mut served.nbd {
                nbd.tick(&mut self.io);
            }
        }
        let now = self.io.now();
        let stage = self.points.opening.as_ref().map(|opening| &opening.stage);
        if let Some(Stage::Stilling { until, .. }) = stage
            && now > *until
        {
            let message =
                format!("requests of {} take too long to have a point between them", self.geometry.name);
            self.refuse_point(
                Problem::new("point-busy", message)
                    .hint("see whether the volume is suspended, then try again"),
            );
        }
    }

    fn point_still(&mut self) {
        if !self.points.keeper.still() {
            return;
        }
        let Some(opening) = &mut self.points.opening else { return };
        let Stage::Stilling { needs, .. } = &mut opening.stage else { return };
        let Some((file, room)) = needs.take() else { return };
        opening.stage = Stage::Thawing;
        let (id, frozen) = (opening.id, opening.frozen);
        self.points.side.add(id, file);
        self.with_keeper(|keeper, steps| keeper.open(id, room, steps));
        let Some(opening) = &self.points.opening else { return };
        let _ = opening.thaw.send(());
        if !frozen {
            self.point_attach();
        }
    }

    pub(super) fn point_news(&mut self) {
        while let Ok(news) = self.points.receiver.try_recv() {
            match news {
                News::Reserved(id, result) => self.point_reserved(id, result),
                News::Thawed(id, held) => self.point_thawed(id, held),
                News::Mounted(id) => {
                    if let Some(fuse) =
                        self.points.served.get_mut(&id).and_then(|served| served.fuse.as_mut())
                    {
                        fuse.start(&mut self.io);
                    }
                }
                News::Attached(id, result) => self.point_attached(id, result),
                News::Detached(id) => {
                    if let Some(mut served) = self.points.served.remove(&id)
                        && let Some(fuse) = &mut served.fuse
                    {
                        fuse.stop(&mut self.io);
                    }
                }
            }
        }
    }

    fn opening(&mut self, id: PointId) -> Option<&mut Opening> {
        self.points.opening.as_mut().filter(|opening| opening.id == id)
    }

    fn point_reserved(&mut self, id: PointId, result: Result<Reserved, Problem>) {
        let until = self.io.now().after(STILL_MAX);
        let Some(opening) = self.opening(id) else { return };
        match result {
            Err(problem) => self.refuse_point(problem),
            Ok(Reserved { file, room, frozen }) => {
                opening.frozen = frozen;
                opening.stage = Stage::Stilling { needs: Some((file, room)), until };
                self.points.keeper.gate();
                self.point_still();
            }
        }
    }

    fn point_thawed(&mut self, id: PointId, held: Option<Duration>) {
        let Some(opening) = self.opening(id) else { return };
        opening.frozen_for = held;
        match held {
            Some(_) => self.point_attach(),
            None => {
                let message =
                    "the file system was frozen for as long as allowed and the point was not open yet";
                self.refuse_point(Problem::new("point-freeze", message));
            }
        }
    }

    /// Makes the fronts of the point that is open by now.
    fn point_attach(&mut self) {
        let Some(opening) = &mut self.points.opening else { return };
        opening.stage = Stage::Attaching;
        let (id, client) = (opening.id, opening.client);
        let status = PointStatus {
            point: id.0,
            bytes: self.geometry.bytes,
            nbd: self.options.point_socket(id.0),
            device: None,
            frozen_ms: opening.frozen_for.map(|held| u64::try_from(held.as_millis()).unwrap_or(u64::MAX)),
            limit_bytes: u64::from(opening.slots) * UNIT,
            copied_bytes: 0,
            broken: None,
        };
        let places = Places::of_point(&self.options.run, &self.options.devices, &self.options.name, id.0);
        let mut served =
            Served { client, nbd: None, fuse: None, places, status, attaching: false, closing: false };
        let made = self.point_fronts(id, &mut served);
        let waits = served.attaching;
        self.points.served.insert(id, served);
        match made {
            Err(error) => {
                self.refuse_point(Problem::new("point-open", format!("cannot serve the point: {error}")))
            }
            Ok(()) if waits => {}
            Ok(()) => self.point_opened(id),
        }
    }

    fn point_fronts(&mut self, id: PointId, served: &mut Served) -> std::io::Result<()> {
        let mut geometry = self.geometry.clone();
        geometry.read_only = true;
        let mut nbd = Nbd::open(&served.status.nbd, geometry.clone(), FIRST_NUMBER + id.0)?;
        nbd.start(&mut self.io);
        served.nbd = Some(nbd);
        if !self.options.block_device {
            return Ok(());
        }
        let block_bytes = geometry.block_bytes.max(4096);
        let fuse = Fuse::open(geometry, FIRST_NUMBER + id.0)?;
        let fd = fuse.fd().try_clone()?;
        let places = served.places.clone();
        self.points.help(move |report| {
            if let Err(problem) = places.mount(fd.as_fd()) {
                return report(News::Attached(id, Err(problem)));
            }
            drop(fd);
            report(News::Mounted(id));
            report(News::Attached(id, places.attach(block_bytes)));
        })?;
        served.fuse = Some(fuse);
        served.attaching = true;
        Ok(())
    }

    fn point_attached(&mut self, id: PointId, result: Result<PathBuf, Problem>) {
        let Some(served) = self.points.served.get_mut(&id) else { return };
        served.attaching = false;
        match result {
            Ok(_) => served.status.device = Some(served.places.device.clone()),
            Err(problem) => tracing::warn!(%problem, "the point has no device; its NBD socket serves"),
        }
        if served.closing {
            return self.point_detach(id);
        }
        self.point_opened(id);
    }

    fn point_opened(&mut self, id: PointId) {
        let Some(opening) = self.points.opening.take_if(|opening| opening.id == id) else { return };
        let Some(status) = self.points.status(id) else { return };
        tracing::info!(point = id.0, frozen_ms = status.frozen_ms, "a point is open");
        self.control.answer(&mut self.io, opening.client, &Reply::Point { point: Box::new(status) });
    }
}
