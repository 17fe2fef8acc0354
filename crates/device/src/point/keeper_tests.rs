//! Points against a model: a volume whose writes, fetches and copies happen block by block in any order.

use super::*;
use proptest::prelude::*;
use std::collections::HashSet;

const BLOCK: u64 = 4096;
/// Not a multiple of the unit: the last one is short.
const VOLUME: u64 = 40 * UNIT + 3 * BLOCK;

/// What is under way in the world around the keeper.
enum Busy {
    Mutation { op: FrontOp, at: u64 },
    Fetch { job: Job, offset: u64, got: Vec<u8>, length: u64, fail: bool },
    Save { point: PointId, job: Job, offset: u64, data: Bytes, fail: bool },
    Load { point: PointId, job: Job, offset: u64, length: u64 },
}

struct World {
    keeper: Keeper,
    disk: Vec<u8>,
    /// What the disk is to be when everything has ended; only for mutations that do not overlap.
    wanted: Vec<u8>,
    busy: Vec<Busy>,
    side: HashMap<PointId, Vec<u8>>,
    /// What the disk was when the point opened.
    frozen: HashMap<PointId, Vec<u8>>,
    broken: HashSet<PointId>,
    asked: HashMap<(PointId, RequestId), (u64, u64)>,
    open: Vec<(RequestId, u64, u64)>,
    next: u64,
    slots: u32,
}

fn apply(disk: &mut [u8], op: &FrontOp, from: u64, to: u64) {
    let (offset, _) = range(op);
    let target = &mut disk[(offset + from) as usize..(offset + to) as usize];
    match op {
        FrontOp::Write { data, .. } => target.copy_from_slice(&data[from as usize..to as usize]),
        _ => target.fill(0),
    }
}

impl World {
    fn new(slots: u32) -> Self {
        let disk: Vec<u8> = (0..VOLUME).map(|at| (at / BLOCK % 251) as u8).collect();
        Self {
            keeper: Keeper::new(VOLUME),
            wanted: disk.clone(),
            disk,
            busy: Vec::new(),
            side: HashMap::new(),
            frozen: HashMap::new(),
            broken: HashSet::new(),
            asked: HashMap::new(),
            open: Vec::new(),
            next: 1,
            slots,
        }
    }

    fn mutate(&mut self, op: FrontOp, out: &mut Vec<Step>) {
        let (offset, length) = range(&op);
        // What overlaps and is unanswered has no defined order, so the model could not say what the disk becomes.
        if self.open.iter().any(|(_, at, size)| offset < at + size && *at < offset + length) {
            return;
        }
        let id = RequestId(self.next);
        self.next += 1;
        apply(&mut self.wanted, &op, 0, length);
        self.open.push((id, offset, length));
        if let Some(op) = self.keeper.admit(id, op, out) {
            self.busy.push(Busy::Mutation { op, at: 0 });
        }
    }

    fn carry_out(&mut self, steps: &mut Vec<Step>) {
        for step in steps.drain(..) {
            match step {
                Step::Pass { op, .. } => self.busy.push(Busy::Mutation { op, at: 0 }),
                Step::Fetch { job, offset, length } => {
                    self.busy.push(Busy::Fetch {
                        job,
                        offset,
                        got: vec![],
                        length: u64::from(length),
                        fail: false,
                    });
                }
                Step::Save { point, job, offset, data } => {
                    self.busy.push(Busy::Save { point, job, offset, data, fail: false });
                }
                Step::Load { point, job, offset, length } => {
                    self.busy.push(Busy::Load { point, job, offset, length: u64::from(length) });
                }
                Step::Answer { point, id, result } => {
                    let (offset, length) = self.asked.remove(&(point, id)).expect("answered once");
                    match result {
                        Ok(data) => {
                            let frozen = &self.frozen[&point][offset as usize..(offset + length) as usize];
                            assert!(data == frozen, "a point reads as the volume was when it opened");
                        }
                        Err(_) => assert!(self.keeper.points.get(&point).is_none_or(|point| point.broken)),
                    }
                }
                Step::Broken { point, .. } => assert!(self.broken.insert(point), "told once"),
            }
        }
    }

    /// Moves one thing on by one block; `fail` lets copies fail.
    fn advance(&mut self, choice: usize, fail: bool, out: &mut Vec<Step>) {
        if self.busy.is_empty() {
            return;
        }
        let index = choice % self.busy.len();
        match &mut self.busy[index] {
            Busy::Mutation { op, at } => {
                let (offset, length) = range(op);
                if *at < length {
                    apply(&mut self.disk, op, *at, *at + BLOCK);
                    *at += BLOCK;
                    return;
                }
                let gone =
                    self.open.iter().position(|(_, at, size)| (*at, *size) == (offset, length)).unwrap();
                self.open.remove(gone);
                self.keeper.answered();
            }
            Busy::Fetch { job, offset, got, length, fail: failing } => {
                *failing |= fail;
                if (got.len() as u64) < *length {
                    let at = (*offset + got.len() as u64) as usize;
                    got.extend_from_slice(&self.disk[at..at + BLOCK as usize]);
                    return;
                }
                let result =
                    if *failing { Err(FrontError::Io) } else { Ok(Bytes::from(std::mem::take(got))) };
                let is_copy = matches!(self.keeper.works.get(job), Some(Work::Copy { .. }));
                // A failed read of the volume is answered to the point's reader as it is, which the model does not expect.
                let result = if is_copy { result } else { result.or_else(|_| Ok(self.reread(index))) };
                let job = self.job(index);
                self.keeper.fetched(job, result, out);
            }
            Busy::Save { point, job, offset, data, fail: failing } => {
                *failing |= fail;
                let (job, failing) = (*job, *failing);
                let side = self.side.get_mut(point).unwrap();
                side[*offset as usize..*offset as usize + data.len()].copy_from_slice(data);
                let result = if failing { Err("no".to_owned()) } else { Ok(()) };
                self.keeper.saved(job, result, out);
            }
            Busy::Load { point, job, offset, length } => {
                let data = self.side[point][*offset as usize..(*offset + *length) as usize].to_vec();
                let job = *job;
                self.keeper.loaded(job, Ok(data.into()), out);
            }
        }
        self.busy.swap_remove(index);
    }

    fn job(&self, index: usize) -> Job {
        match &self.busy[index] {
            Busy::Fetch { job, .. } | Busy::Save { job, .. } | Busy::Load { job, .. } => *job,
            Busy::Mutation { .. } => unreachable!(),
        }
    }

    fn reread(&self, index: usize) -> Bytes {
        match &self.busy[index] {
            Busy::Fetch { offset, length, .. } => {
                Bytes::copy_from_slice(&self.disk[*offset as usize..(*offset + *length) as usize])
            }
            _ => unreachable!(),
        }
    }

    /// As the engine does it: gate, wait until still, open.
    fn open_point(&mut self, out: &mut Vec<Step>) {
        self.keeper.gate();
        let mut turn = 0;
        while !self.keeper.still() {
            self.advance(turn, false, out);
            self.carry_out(out);
            turn += 1;
        }
        let id = PointId(self.next);
        self.next += 1;
        self.frozen.insert(id, self.disk.clone());
        self.side.insert(id, vec![0; (u64::from(self.slots) * UNIT) as usize]);
        self.keeper.open(id, Room::new(self.slots), out);
    }

    fn read(&mut self, which: usize, offset: u64, length: u64, out: &mut Vec<Step>) {
        let points: Vec<_> = self.keeper.points.keys().copied().collect();
        let Some(point) = points.get(which % points.len().max(1)) else { return };
        let id = RequestId(self.next);
        self.next += 1;
        self.asked.insert((*point, id), (offset, length));
        self.keeper.read(*point, id, offset, u32::try_from(length).unwrap(), out);
    }

    fn finish(&mut self) {
        let mut steps = Vec::new();
        while !self.busy.is_empty() {
            self.advance(0, false, &mut steps);
            self.carry_out(&mut steps);
        }
        assert!(self.asked.is_empty(), "every read is answered");
        assert!(self.open.is_empty() && self.keeper.held.is_empty(), "no mutation waits for ever");
        assert!(self.keeper.under_way == 0 && self.keeper.copying == 0 && self.keeper.queued.is_empty());
        assert!(self.disk == self.wanted, "every mutation was carried out once");
    }
}

#[derive(Clone, Debug)]
enum Act {
    Write(u64, u64, u8),
    Zero(u64, u64, bool),
    Read(usize, u64, u64),
    Open,
    Close(usize),
    Advance(usize),
    Fail(usize),
}

fn span() -> impl Strategy<Value = (u64, u64)> {
    let blocks = VOLUME / BLOCK;
    (0..blocks, prop_oneof![3 => 1u64..4, 2 => 1u64..40, 1 => 1u64..200])
        .prop_map(move |(at, length)| (at * BLOCK, length.min(blocks - at).min(256) * BLOCK))
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (span(), any::<u8>()).prop_map(|((at, length), fill)| Act::Write(at, length, fill)),
        1 => (span(), any::<bool>()).prop_map(|((at, length), trim)| Act::Zero(at, length, trim)),
        3 => (any::<usize>(), span()).prop_map(|(which, (at, length))| Act::Read(which, at, length)),
        1 => Just(Act::Open),
        1 => any::<usize>().prop_map(Act::Close),
        30 => any::<usize>().prop_map(Act::Advance),
        1 => any::<usize>().prop_map(Act::Fail),
    ]
}

fn play(acts: Vec<Act>, slots: u32, failures: bool) -> World {
    let mut world = World::new(slots);
    let mut steps = Vec::new();
    for act in acts {
        match act {
            Act::Write(offset, length, fill) => {
                let data = Bytes::from(vec![fill; length as usize]);
                world.mutate(FrontOp::Write { offset, data, fua: false }, &mut steps);
            }
            Act::Zero(offset, length, true) => world.mutate(FrontOp::Trim { offset, length }, &mut steps),
            Act::Zero(offset, length, false) => {
                let op = FrontOp::WriteZeroes { offset, length, unmap: false, fua: false };
                world.mutate(op, &mut steps);
            }
            Act::Read(which, offset, length) => world.read(which, offset, length, &mut steps),
            Act::Open if world.keeper.points.len() < 3 => world.open_point(&mut steps),
            Act::Open => {}
            Act::Close(which) => {
                let ids: Vec<_> = world.keeper.points.keys().copied().collect();
                if let Some(id) = ids.get(which % ids.len().max(1)) {
                    world.keeper.close(*id, &mut steps);
                }
            }
            Act::Advance(choice) => world.advance(choice, false, &mut steps),
            Act::Fail(choice) => world.advance(choice, failures, &mut steps),
        }
        world.carry_out(&mut steps);
    }
    world.finish();
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]

    #[test]
    fn a_point_reads_as_the_volume_was_while_writes_go_on(acts in prop::collection::vec(act(), 1..400)) {
        let world = play(acts, 64, false);
        prop_assert!(world.broken.is_empty(), "a side file with room for everything is enough");
    }

    #[test]
    fn a_point_that_is_too_small_or_fails_breaks_and_no_write_is_lost(
        acts in prop::collection::vec(act(), 1..400),
        slots in 0u32..20,
    ) {
        play(acts, slots, true);
    }
}

#[test]
fn without_a_point_a_write_passes_at_once() {
    let mut keeper = Keeper::new(VOLUME);
    let mut steps = Vec::new();
    let op = FrontOp::Trim { offset: 0, length: BLOCK };
    assert_eq!(keeper.admit(RequestId(1), op.clone(), &mut steps), Some(op));
    assert!(steps.is_empty());
}

#[test]
fn a_second_write_to_the_same_place_is_not_copied_again() {
    let mut world = World::new(64);
    let mut steps = Vec::new();
    world.open_point(&mut steps);
    for fill in 0..5 {
        let data = Bytes::from(vec![fill; BLOCK as usize]);
        world.mutate(FrontOp::Write { offset: 5 * UNIT, data, fua: false }, &mut steps);
        world.carry_out(&mut steps);
        while !world.busy.is_empty() {
            world.advance(0, false, &mut steps);
            world.carry_out(&mut steps);
        }
    }
    let point = *world.keeper.points.keys().next().unwrap();
    assert_eq!(world.keeper.copied_bytes(point), UNIT);
}

#[test]
fn the_bound_breaks_the_point_and_says_so() {
    let mut world = World::new(2);
    let mut steps = Vec::new();
    world.open_point(&mut steps);
    world.mutate(FrontOp::Trim { offset: 0, length: 3 * UNIT }, &mut steps);
    assert!(
        matches!(&steps[0], Step::Broken { why, .. } if why.contains("changed while it was open")),
        "{steps:?}"
    );
    world.carry_out(&mut steps);
    world.finish();
}
