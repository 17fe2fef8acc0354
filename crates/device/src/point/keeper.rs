//! Which old content is copied before which write, and where a point's reads come from. No I/O.
//!
//! ```text
//!   mutation ──admit──► nothing to copy ───────────────────────► Step::Pass
//!                └────► Fetch (through the core) ─► Save (side file) ─┘
//!   read of a point ──► units copied: Load (side file); others: Fetch, looked at again when it is back
//! ```
//!
//! A unit that is being copied still has its old content in the volume, because the mutation waits; so a read that
//! comes back while the unit is not copied *completely* was not disturbed. One that comes back later may have met the mutation,
//! and is done again from the side file.

use anshin_mirror::{FrontError, FrontOp, RequestId};
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, HashMap, VecDeque};

/// What is copied at once. Larger ones copy more than small writes need, smaller ones make more of them.
pub const UNIT: u64 = 64 << 10;
/// The longest piece that is fetched, saved or loaded at once: the largest buffer of the pool.
const PIECE_UNITS: u64 = 16;
/// Copies under way; further ones wait, so that their buffers stay within 64 MiB.
const COPIES_MAX: usize = 64;

/// Names a point for as long as its process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PointId(pub u64);

/// Names an operation of the keeper until its completion is handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Job(pub u64);

/// Something to do.
#[derive(Debug)]
pub enum Step {
    /// Hand the mutation to the core.
    Pass {
        /// The front's request.
        id: RequestId,
        /// What it asks.
        op: FrontOp,
    },
    /// Read what the volume holds; [`Keeper::fetched`].
    Fetch {
        /// For the completion.
        job: Job,
        /// First byte.
        offset: u64,
        /// How many.
        length: u32,
    },
    /// Write to the point's side file; [`Keeper::saved`].
    Save {
        /// Whose file.
        point: PointId,
        /// For the completion.
        job: Job,
        /// Position in the file.
        offset: u64,
        /// What.
        data: Bytes,
    },
    /// Read from the point's side file; [`Keeper::loaded`].
    Load {
        /// Whose file.
        point: PointId,
        /// For the completion.
        job: Job,
        /// Position in the file.
        offset: u64,
        /// How many.
        length: u32,
    },
    /// Answer a reader of the point.
    Answer {
        /// Which point.
        point: PointId,
        /// Its request.
        id: RequestId,
        /// The content, or an error if the point is broken.
        result: Result<Bytes, FrontError>,
    },
    /// The point is of no use any more; everything that reads it gets errors.
    Broken {
        /// Which.
        point: PointId,
        /// Why, for humans.
        why: String,
    },
}

/// Memory for what is known of a point's units, made by a helper thread: it is large, and locked.
pub struct Room {
    map: HashMap<u64, Copied>,
    slots: u32,
}

impl Room {
    /// For a side file of so many units. It never grows on the write path.
    #[must_use]
    pub fn new(slots: u32) -> Self {
        Self { map: HashMap::with_capacity(slots as usize), slots }
    }
}

/// What is known of a copied unit.
#[derive(Clone, Copy)]
enum Copied {
    /// Being copied by this job.
    Under(Job),
    /// Complete, in this slot of the side file.
    Slot(u32),
}

struct Point {
    /// By unit of the volume; see [`Room`].
    map: HashMap<u64, Copied>,
    slots: u32,
    used: u32,
    broken: bool,
    readers: HashMap<RequestId, Reader>,
}

struct Reader {
    pieces: BTreeMap<u64, Bytes>,
    left: usize,
}

enum Work {
    Copy {
        point: PointId,
        first: u64,
        units: u64,
        slot: u32,
        waiters: Vec<RequestId>,
    },
    /// A piece of a point's read; `fetched` if it comes from the volume.
    Read {
        point: PointId,
        id: RequestId,
        offset: u64,
        length: u64,
    },
}

struct Held {
    op: FrontOp,
    left: usize,
}

/// See the module.
pub struct Keeper {
    volume_bytes: u64,
    points: BTreeMap<PointId, Point>,
    works: HashMap<Job, Work>,
    next: u64,
    held: HashMap<RequestId, Held>,
    /// Mutations that arrived while a point is about to open.
    gated: VecDeque<(RequestId, FrontOp)>,
    gate: bool,
    /// Mutations that the core has and has not answered.
    under_way: usize,
    copying: usize,
    queued: VecDeque<Job>,
}

/// Whether the request changes the volume.
#[must_use]
pub fn mutates(op: &FrontOp) -> bool {
    matches!(op, FrontOp::Write { .. } | FrontOp::Trim { .. } | FrontOp::WriteZeroes { .. })
}

fn range(op: &FrontOp) -> (u64, u64) {
    match op {
        FrontOp::Write { offset, data, .. } => (*offset, data.len() as u64),
        FrontOp::Trim { offset, length } | FrontOp::WriteZeroes { offset, length, .. } => (*offset, *length),
        FrontOp::Read { offset, length } => (*offset, u64::from(*length)),
        FrontOp::Flush => (0, 0),
    }
}

impl Keeper {
    /// Without points.
    #[must_use]
    pub fn new(volume_bytes: u64) -> Self {
        Self {
            volume_bytes,
            points: BTreeMap::new(),
            works: HashMap::new(),
            next: 0,
            held: HashMap::new(),
            gated: VecDeque::new(),
            gate: false,
            under_way: 0,
            copying: 0,
            queued: VecDeque::new(),
        }
    }

    /// A mutation on its way to the core: given back if it may go at once, else it comes later as [`Step::Pass`].
    pub fn admit(&mut self, id: RequestId, op: FrontOp, out: &mut Vec<Step>) -> Option<FrontOp> {
        if self.gate {
            self.gated.push_back((id, op));
            return None;
        }
        if self.points.is_empty() {
            self.under_way += 1;
            return Some(op);
        }
        let (offset, length) = range(&op);
        let end = offset.saturating_add(length).min(self.volume_bytes);
        let mut left = 0;
        if offset < end {
            let ids: Vec<_> = self.points.keys().copied().collect();
            for point in ids {
                left += self.copy_before(point, id, offset / UNIT, end.div_ceil(UNIT), out);
            }
        }
        if left == 0 {
            self.under_way += 1;
            return Some(op);
        }
        self.held.insert(id, Held { op, left });
        None
    }

    /// Makes `id` wait for the copies of these units; gives the number of jobs it waits for.
    fn copy_before(
        &mut self,
        id: PointId,
        waiter: RequestId,
        first: u64,
        end: u64,
        out: &mut Vec<Step>,
    ) -> usize {
        let Some(point) = self.points.get_mut(&id).filter(|point| !point.broken) else { return 0 };
        let new = (first..end).filter(|unit| !point.map.contains_key(unit)).count();
        if new > (point.slots - point.used) as usize {
            let bound = (u64::from(point.slots) * UNIT) >> 20;
            let why = format!("more than {bound} MiB of the volume changed while it was open");
            self.break_point(id, &why, out);
            return 0;
        }
        let mut jobs: Vec<Job> = Vec::new();
        let mut unit = first;
        while unit < end {
            match point.map.get(&unit) {
                Some(Copied::Slot(_)) => unit += 1,
                Some(Copied::Under(job)) => {
                    if jobs.last() != Some(job) {
                        jobs.push(*job);
                    }
                    unit += 1;
                }
                None => {
                    let most = (unit + PIECE_UNITS).min(end);
                    let stop = (unit..most).find(|unit| point.map.contains_key(unit)).unwrap_or(most);
                    let job = Job(self.next);
                    self.next += 1;
                    point.map.extend((unit..stop).map(|unit| (unit, Copied::Under(job))));
                    let units = stop - unit;
                    let slot = point.used;
                    point.used += u32::try_from(units).expect("invariant: at most PIECE_UNITS");
                    let work = Work::Copy { point: id, first: unit, units, slot, waiters: Vec::new() };
                    self.works.insert(job, work);
                    self.queued.push_back(job);
                    jobs.push(job);
                    unit = stop;
                }
            }
        }
        jobs.sort_unstable();
        jobs.dedup();
        for job in &jobs {
            if let Some(Work::Copy { waiters, .. }) = self.works.get_mut(job) {
                waiters.push(waiter);
            }
        }
        self.start_copies(out);
        jobs.len()
    }

    fn start_copies(&mut self, out: &mut Vec<Step>) {
        while self.copying < COPIES_MAX {
            let Some(job) = self.queued.pop_front() else { return };
            let Some(Work::Copy { first, units, .. }) = self.works.get(&job) else { continue };
            let offset = first * UNIT;
            let length = (units * UNIT).min(self.volume_bytes - offset);
            let length = u32::try_from(length).expect("invariant: at most PIECE_UNITS");
            self.copying += 1;
            out.push(Step::Fetch { job, offset, length });
        }
    }

    /// The core answered a mutation.
    pub fn answered(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// From now on mutations wait, until [`Self::open`] or [`Self::abandon`].
    pub fn gate(&mut self) {
        self.gate = true;
    }

    /// Whether a point that opens now is one instant: no mutation is under way.
    #[must_use]
    pub fn still(&self) -> bool {
        self.gate && self.under_way == 0 && self.held.is_empty()
    }

    /// The point is now.
    pub fn open(&mut self, id: PointId, room: Room, out: &mut Vec<Step>) {
        assert!(self.still(), "a point opens only between mutations");
        let Room { map, slots } = room;
        self.points.insert(id, Point { map, slots, used: 0, broken: false, readers: HashMap::new() });
        self.abandon(out);
    }

    /// Lets the mutations go that wait at the gate.
    pub fn abandon(&mut self, out: &mut Vec<Step>) {
        self.gate = false;
        for (id, op) in std::mem::take(&mut self.gated) {
            if let Some(op) = self.admit(id, op, out) {
                out.push(Step::Pass { id, op });
            }
        }
    }

    /// Reads of the point fail from now on; its side file is not needed any more.
    pub fn break_point(&mut self, id: PointId, why: &str, out: &mut Vec<Step>) {
        let Some(point) = self.points.get_mut(&id).filter(|point| !point.broken) else { return };
        point.broken = true;
        point.map = HashMap::new();
        for (reader, _) in point.readers.drain() {
            out.push(Step::Answer { point: id, id: reader, result: Err(FrontError::Io) });
        }
        out.push(Step::Broken { point: id, why: why.to_owned() });
        // Fetches that are out still count against the limit until they come back; what waited for them goes on now.
        let jobs: Vec<_> =
            self.works.iter().filter(|(_, work)| work.point() == id).map(|(job, _)| *job).collect();
        for job in jobs {
            let Some(work) = self.works.get_mut(&job) else { continue };
            if let Work::Copy { waiters, .. } = work {
                let waiters = std::mem::take(waiters);
                self.release(&waiters, out);
                if let Some(at) = self.queued.iter().position(|queued| *queued == job) {
                    self.queued.remove(at);
                    self.works.remove(&job);
                }
            }
        }
    }

    /// As [`Self::break_point`], and the point is forgotten.
    pub fn close(&mut self, id: PointId, out: &mut Vec<Step>) {
        let before = out.len();
        self.break_point(id, "closed", out);
        let mut at = before;
        while at < out.len() {
            if matches!(out[at], Step::Broken { .. }) {
                out.remove(at);
            } else {
                at += 1;
            }
        }
        self.points.remove(&id);
    }

    /// Bytes of the volume whose old content is in the point's side file.
    #[must_use]
    pub fn copied_bytes(&self, id: PointId) -> u64 {
        self.points.get(&id).map_or(0, |point| u64::from(point.used) * UNIT)
    }

    fn release(&mut self, waiters: &[RequestId], out: &mut Vec<Step>) {
        for id in waiters {
            let Some(held) = self.held.get_mut(id) else { continue };
            held.left -= 1;
            if held.left == 0
                && let Some(Held { op, .. }) = self.held.remove(id)
            {
                self.under_way += 1;
                out.push(Step::Pass { id: *id, op });
            }
        }
    }

    /// A reader of the point asks.
    pub fn read(&mut self, point: PointId, id: RequestId, offset: u64, length: u32, out: &mut Vec<Step>) {
        let end = offset.checked_add(u64::from(length)).filter(|end| *end <= self.volume_bytes);
        let known = self.points.get_mut(&point).filter(|point| !point.broken);
        let (Some(known), Some(end)) = (known, end.filter(|_| length > 0)) else {
            return out.push(Step::Answer { point, id, result: Err(FrontError::Io) });
        };
        known.readers.insert(id, Reader { pieces: BTreeMap::new(), left: 0 });
        self.plan_read(point, id, offset, end, out);
    }

    /// Cuts a read at the borders between what is copied and what is not.
    fn plan_read(&mut self, id: PointId, reader: RequestId, offset: u64, end: u64, out: &mut Vec<Step>) {
        let Some(point) = self.points.get_mut(&id) else { return };
        let slot = |unit: u64| match point.map.get(&unit) {
            Some(Copied::Slot(slot)) => Some(*slot),
            _ => None,
        };
        let mut at = offset;
        let mut parts = 0;
        while at < end {
            let first = at / UNIT;
            let from = slot(first);
            let mut units = 1;
            while (first + units) * UNIT < end
                && units < PIECE_UNITS
                && slot(first + units)
                    == from.map(|slot| slot + u32::try_from(units).expect("invariant: at most PIECE_UNITS"))
            {
                units += 1;
            }
            let stop = ((first + units) * UNIT).min(end);
            let job = Job(self.next);
            self.next += 1;
            let length = u32::try_from(stop - at).expect("invariant: at most PIECE_UNITS");
            self.works.insert(job, Work::Read { point: id, id: reader, offset: at, length: stop - at });
            out.push(match from {
                None => Step::Fetch { job, offset: at, length },
                Some(slot) => {
                    let offset = u64::from(slot) * UNIT + at % UNIT;
                    Step::Load { point: id, job, offset, length }
                }
            });
            parts += 1;
            at = stop;
        }
        if let Some(reader) = point.readers.get_mut(&reader) {
            reader.left += parts;
        }
    }

    /// A [`Step::Fetch`] came back.
    pub fn fetched(&mut self, job: Job, result: Result<Bytes, FrontError>, out: &mut Vec<Step>) {
        let copy = match self.works.get(&job) {
            Some(Work::Copy { point, slot, .. }) => Some((*point, *slot)),
            Some(Work::Read { .. }) => None,
            None => return,
        };
        if let Some((point, slot)) = copy {
            let live = self.points.get(&point).is_some_and(|point| !point.broken);
            return match result {
                Ok(data) if live => {
                    out.push(Step::Save { point, job, offset: u64::from(slot) * UNIT, data });
                }
                result => {
                    // First, for breaking lets go what waits for this copy.
                    if result.is_err() {
                        self.break_point(point, "the volume could not be read for a copy", out);
                    }
                    self.end_copy(job, out);
                }
            };
        }
        let Some(Work::Read { point: id, id: reader, offset, length }) = self.works.remove(&job) else {
            return;
        };
        let Some(point) = self.points.get_mut(&id).filter(|point| !point.broken) else { return };
        let end = offset + length;
        let complete = |unit: u64| matches!(point.map.get(&unit), Some(Copied::Slot(_)));
        match result {
            Err(error) => self.fail_reader(id, reader, error, out),
            Ok(_) if (offset / UNIT..end.div_ceil(UNIT)).any(complete) => {
                if point.readers.contains_key(&reader) {
                    self.plan_read(id, reader, offset, end, out);
                    self.piece_done(id, reader, None, out);
                }
            }
            Ok(data) => self.piece_done(id, reader, Some((offset, data)), out),
        }
    }

    /// A [`Step::Save`] came back.
    pub fn saved(&mut self, job: Job, result: Result<(), String>, out: &mut Vec<Step>) {
        let Some(Work::Copy { point: id, first, units, slot, waiters }) = self.end_copy(job, out) else {
            return;
        };
        match result {
            Err(why) => self.break_point(id, &format!("its side file failed: {why}"), out),
            Ok(()) => {
                if let Some(point) = self.points.get_mut(&id).filter(|point| !point.broken) {
                    for (unit, slot) in (first..first + units).zip(slot..) {
                        point.map.insert(unit, Copied::Slot(slot));
                    }
                }
            }
        }
        self.release(&waiters, out);
    }

    fn end_copy(&mut self, job: Job, out: &mut Vec<Step>) -> Option<Work> {
        let work = self.works.remove(&job)?;
        self.copying -= 1;
        self.start_copies(out);
        if let Work::Copy { .. } = &work { Some(work) } else { None }
    }

    /// A [`Step::Load`] came back.
    pub fn loaded(&mut self, job: Job, result: Result<Bytes, String>, out: &mut Vec<Step>) {
        let Some(Work::Read { point: id, id: reader, offset, .. }) = self.works.remove(&job) else { return };
        if self.points.get(&id).is_none_or(|point| point.broken) {
            return;
        }
        match result {
            Ok(data) => self.piece_done(id, reader, Some((offset, data)), out),
            Err(why) => self.break_point(id, &format!("its side file failed: {why}"), out),
        }
    }

    fn fail_reader(&mut self, point: PointId, id: RequestId, error: FrontError, out: &mut Vec<Step>) {
        if self.points.get_mut(&point).is_some_and(|point| point.readers.remove(&id).is_some()) {
            out.push(Step::Answer { point, id, result: Err(error) });
        }
    }

    fn piece_done(
        &mut self,
        id: PointId,
        reader: RequestId,
        piece: Option<(u64, Bytes)>,
        out: &mut Vec<Step>,
    ) {
        let Some(point) = self.points.get_mut(&id) else { return };
        let Some(waiting) = point.readers.get_mut(&reader) else { return };
        waiting.left -= 1;
        waiting.pieces.extend(piece);
        if waiting.left == 0
            && let Some(Reader { pieces, .. }) = point.readers.remove(&reader)
        {
            out.push(Step::Answer { point: id, id: reader, result: Ok(joined(pieces)) });
        }
    }
}

impl Work {
    fn point(&self) -> PointId {
        match self {
            Self::Copy { point, .. } | Self::Read { point, .. } => *point,
        }
    }
}

/// One piece as it is; several in one buffer, for a reader takes its answer in one.
fn joined(mut pieces: BTreeMap<u64, Bytes>) -> Bytes {
    if pieces.len() == 1
        && let Some((_, only)) = pieces.pop_first()
    {
        return only;
    }
    let mut whole = BytesMut::with_capacity(pieces.values().map(Bytes::len).sum());
    pieces.values().for_each(|piece| whole.extend_from_slice(piece));
    whole.freeze()
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
