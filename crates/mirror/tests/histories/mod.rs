//! Random runs: writes, flushes, crashes with torn disks, cuts, promotions; then everything heals. Checked against a
//! model of what was acknowledged.

use crate::world::disk::Keep;
use crate::world::{Bugs, Dice, GROUP, World, id};
use anshin_base::{GroupChange, Member};
use anshin_mirror::{Command, FrontOp, RequestId, RoleName};
use bytes::Bytes;
use std::collections::BTreeMap;

const BLOCKS: u64 = 40;

/// Block to offset: spread over ten extents, more than the seven that may be hot.
fn offset(block: u64) -> u64 {
    (block % 10) * (4 << 20) + (block / 10) * 4096
}

#[derive(Default)]
struct Model {
    /// Per block: values that may be read. The first is the last acknowledged one.
    allowed: BTreeMap<u64, Vec<u8>>,
    /// What could be read when the last answered flush was asked for, and every value written since.
    flushed: BTreeMap<u64, Vec<u8>>,
    written: Vec<(u64, u8)>,
    flushed_at: usize,
    open: BTreeMap<RequestId, Pending>,
    value: u8,
}

#[derive(Clone)]
enum Pending {
    Write(u64, u8),
    Flush(BTreeMap<u64, Vec<u8>>, usize),
}

impl Model {
    fn allowed(&mut self, block: u64) -> &mut Vec<u8> {
        self.allowed.entry(block).or_insert_with(|| vec![0])
    }

    fn collect(&mut self, world: &World) {
        for (request, pending) in self.open.clone() {
            let answer = (0..world.nodes.len()).find_map(|node| world.answer(node, request));
            let Some(answer) = answer else { continue };
            self.open.remove(&request);
            match (pending, answer) {
                (Pending::Write(block, value), Ok(_)) => {
                    let allowed = self.allowed(block);
                    // Acknowledged: what was written before it must not come back.
                    let at = allowed.iter().position(|known| *known == value).unwrap();
                    allowed.drain(..at);
                }
                (Pending::Flush(covered, at), Ok(_)) if at >= self.flushed_at => {
                    self.flushed = covered;
                    self.flushed_at = at;
                }
                _ => {}
            }
        }
    }

    /// A crash of every holder at once may take back what was not flushed.
    fn total_loss(&mut self) {
        for (block, values) in &mut self.allowed {
            let mut all = self.flushed.get(block).cloned().unwrap_or_else(|| vec![0]);
            let since = self.written[self.flushed_at..].iter().filter(|(written, _)| written == block);
            all.extend(since.map(|(_, value)| *value));
            all.extend(values.iter().copied());
            *values = all;
        }
    }
}

fn alive(world: &World, node: usize) -> bool {
    world.nodes[node].replica.is_some()
}

/// As the policy would: if the primary is gone, promote a member; its recorded session first.
fn promote(world: &mut World) {
    let entry = world.entry.clone().unwrap();
    let primary = entry.primary.map(|member| member.replica);
    let gone = (0..world.nodes.len()).all(|node| {
        Some(id(node)) != primary
            || !alive(world, node)
            || !world.nodes[node].hears_ledger
            || world.status(node).session != entry.primary.unwrap().session
    });
    if !gone {
        return;
    }
    let usable = |node: &usize| {
        alive(world, *node) && world.nodes[*node].hears_ledger && world.nodes[*node].promotable
    };
    let same = world.set().into_iter().filter(usable).find(|node| world.member(*node));
    // Only when every member restarted, and all of them are there to be compared.
    let all_back = world.set().iter().all(|node| usable(node) && !world.member(*node));
    let best = || world.set().into_iter().max_by_key(|node| world.highest.get(&id(*node)).copied());
    let candidate = same.or_else(|| if all_back { best() } else { None });
    if let Some(node) = candidate {
        let candidate = Member { replica: id(node), session: world.nodes[node].session };
        let expect = entry.generation;
        world.change(&GroupChange::Promote { group: GROUP, expect, candidate }).unwrap();
    }
}

fn serving(world: &World) -> Vec<usize> {
    (0..world.nodes.len())
        .filter(|node| alive(world, *node) && world.role_or_opening(*node) == RoleName::Primary)
        .collect()
}

fn leased(world: &World) -> Vec<usize> {
    serving(world).into_iter().filter(|node| world.nodes[*node].lease_until > world.now).collect()
}

fn front(world: &mut World, model: &mut Model, dice: &mut Dice) {
    let nodes = serving(world);
    if nodes.is_empty() {
        return;
    }
    let node = nodes[usize::try_from(dice.roll(nodes.len() as u64)).unwrap()];
    match dice.roll(10) {
        0..=6 => {
            let block = dice.roll(BLOCKS);
            // One write per block at a time, so that the order of values is known.
            if model.open.values().any(|open| matches!(open, Pending::Write(b, _) if *b == block)) {
                return;
            }
            let zero = dice.roll(8) == 0;
            model.value = if model.value >= 250 { 1 } else { model.value + 1 };
            let value = if zero { 0 } else { model.value };
            model.allowed(block).push(value);
            model.written.push((block, value));
            let offset = offset(block);
            let op = if zero {
                FrontOp::WriteZeroes { offset, length: 4096, unmap: true, fua: false }
            } else {
                FrontOp::Write { offset, data: Bytes::from(vec![value; 4096]), fua: dice.roll(8) == 0 }
            };
            let request = world.request(node, op);
            model.open.insert(request, Pending::Write(block, value));
        }
        7 => {
            let covered = model.allowed.clone();
            let request = world.request(node, FrontOp::Flush);
            let at = model.written.len();
            model.open.insert(request, Pending::Flush(covered, at));
        }
        _ => {
            if leased(world) == [node] && model.open.is_empty() {
                let block = dice.roll(BLOCKS);
                let request = world.request(node, FrontOp::Read { offset: offset(block), length: 4096 });
                world.settle();
                if let Some(Ok(data)) = world.answer(node, request) {
                    let allowed = model.allowed(block).clone();
                    let known = data.iter().all(|byte| allowed.contains(byte));
                    assert!(known, "block {block}: read {} of {allowed:?} {}", data[0], world.dump());
                }
            }
        }
    }
}

fn fault(world: &mut World, model: &mut Model, dice: &mut Dice) {
    let count = world.nodes.len();
    let node = usize::try_from(dice.roll(count as u64)).unwrap();
    let other = (node + 1 + usize::try_from(dice.roll(count as u64 - 1)).unwrap()) % count;
    match dice.roll(12) {
        0..=2 if alive(world, node) => {
            let keep = [Keep::All, Keep::Nothing, Keep::Torn][usize::try_from(dice.roll(3)).unwrap()];
            world.crash(node, keep);
            // Whatever the set says: if no member of it is alive in its session, unflushed writes may be lost.
            if !world.set().iter().any(|node| alive(world, *node) && world.member(*node)) {
                model.total_loss();
            }
        }
        3 | 4 if !alive(world, node) => world.start(node),
        5 => world.cut(node, other),
        6 | 7 => world.heal(node, other),
        8 => world.isolate(node),
        9 => world.rejoin(node),
        10 => {
            let on = dice.roll(2) == 0;
            world.hold(node, other, on);
        }
        _ => {
            let on = dice.roll(3) > 0;
            world.quorate = on;
            world.views();
        }
    }
}

/// What the node's daemon does with a deposed primary.
fn daemon(world: &mut World) {
    for node in 0..world.nodes.len() {
        if alive(world, node) && world.role_or_opening(node) == RoleName::Deposed {
            world.command(node, Command::FailSuspended);
            world.command(node, Command::DeviceGone);
        }
    }
}

fn heal(world: &mut World) {
    world.quorate = true;
    for a in 0..world.nodes.len() {
        world.rejoin(a);
        for b in 0..world.nodes.len() {
            if a != b {
                world.hold(a, b, false);
            }
        }
        if !alive(world, a) {
            world.start(a);
        }
    }
    world.views();
    world.settle();
    for _ in 0..40 {
        world.run(200);
        daemon(world);
        promote(world);
        world.settle();
        if world.set().len() == world.nodes.len() && !leased(world).is_empty() {
            break;
        }
    }
}

/// One history. Panics where a promise is broken.
pub fn history(seed: u64, count: usize, bugs: Bugs) {
    let mut dice = Dice(seed);
    let mut world = World::sized(count, 40 << 20, 7);
    world.bugs = bugs;
    world.bring_in_sync();
    world.dice = Some(Dice(seed ^ 0x5eed));
    let mut model = Model::default();
    for _ in 0..150 {
        match dice.roll(10) {
            0 => fault(&mut world, &mut model, &mut dice),
            1..=6 => front(&mut world, &mut model, &mut dice),
            7 => {
                world.run(10 * (1 + dice.roll(30)));
                daemon(&mut world);
                promote(&mut world);
            }
            _ => {
                for _ in 0..dice.roll(40) {
                    world.step();
                }
            }
        }
        model.collect(&world);
        assert!(leased(&world).len() <= 1, "two nodes may serve");
        if dice.roll(4) == 0 {
            world.assert_covered();
        }
    }
    heal(&mut world);
    model.collect(&world);
    world.assert_covered();
    assert_eq!(world.set(), (0..count).collect::<Vec<_>>(), "everyone is in sync again: {}", world.dump());
    let primary = *leased(&world).first().unwrap_or_else(|| panic!("someone serves: {}", world.dump()));
    world.settle();
    model.collect(&world);
    for block in 0..BLOCKS {
        let request = world.request(primary, FrontOp::Read { offset: offset(block), length: 4096 });
        world.settle();
        let data = world.answer(primary, request).expect("reads are answered").expect("and succeed");
        let allowed = model.allowed(block).clone();
        // By bytes: a write that was never acknowledged may be torn.
        let known = data.iter().all(|byte| allowed.contains(byte));
        assert!(known, "block {block}: {} is not one of {allowed:?} {}", data[0], world.dump());
    }
    world.flush(primary);
    world.assert_equal();
}
