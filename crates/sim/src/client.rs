//! The user of the volume: reads, writes and flushes with unique content, and a model of what may be read.

use crate::{
    model::Model,
    scenario::Scenario,
    world::{At, Event, MS, World},
};
use anshin_base::Member;
use anshin_mirror::{FrontError, FrontOp, Input, RequestId};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Requests under way at once.
const DEPTH: usize = 6;
/// Bytes of a sector, the unit in which content is stamped.
pub const SECTOR: u64 = 512;

#[derive(Clone, Copy, Debug)]
struct Attached {
    number: u64,
    at: At,
    start: u64,
    generation: u64,
}

#[derive(Clone, Debug)]
enum Op {
    Read { first: u64, count: u64, may: Vec<Vec<u64>>, quiet: bool },
    Write { first: u64, count: u64, stamp: u64, fua: bool },
    Flush { number: u64 },
}

/// See the module.
pub struct Client {
    attached: Option<Attached>,
    attach_last: u64,
    request_last: u64,
    stamp_last: u64,
    open: BTreeMap<u64, (Op, u64)>,
    volume_sectors: u64,
    /// What may be read.
    pub model: Model,
    /// No new requests.
    pub stopped: bool,
    /// When a request was last answered well.
    pub served_at: u64,
}

impl Client {
    /// A client of the scenario's volume.
    #[must_use]
    pub fn new(scenario: &Scenario) -> Self {
        Self {
            attached: None,
            attach_last: 0,
            request_last: 0,
            stamp_last: 0,
            open: BTreeMap::new(),
            volume_sectors: scenario.volume_bytes / SECTOR,
            model: Model::default(),
            stopped: false,
            served_at: 0,
        }
    }

    /// The node that the client of this attachment runs on.
    #[must_use]
    pub fn node(&self, number: u64) -> Option<At> {
        self.attached.filter(|attached| attached.number == number).map(|attached| attached.at)
    }

    /// Requests under way.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Where the volume is used, if it is.
    #[must_use]
    pub fn serving(&self) -> Option<At> {
        self.attached.map(|attached| attached.at)
    }

    /// Nobody will answer what is under way: it may have happened or not.
    fn abandon(&mut self) {
        for (op, _) in std::mem::take(&mut self.open).into_values() {
            match op {
                Op::Write { first, count, stamp, .. } => self.model.unknown(first, count, stamp),
                Op::Flush { number } => self.model.flush_forgotten(number),
                Op::Read { .. } => {}
            }
        }
    }
}

impl World {
    /// A primary serves: the programs start there. Whoever had the volume before has lost it.
    pub fn client_attach(&mut self, at: At, start: u64, generation: u64) {
        let same = self.client.attached.is_some_and(|attached| attached.start == start);
        if same {
            return;
        }
        if let Some(before) = self.client.attached {
            self.client_detach(before.at, before.start);
        }
        if self.oracles.i1.take_total_loss(generation) {
            self.count("total losses");
            self.client.model.total_loss();
        }
        self.client.attach_last += 1;
        let number = self.client.attach_last;
        self.client.attached = Some(Attached { number, at, start, generation });
        self.after(MS, Event::Client { attached: number });
    }

    /// The programs of this process's volume are gone.
    pub fn client_detach(&mut self, at: At, start: u64) {
        if self.client.attached.is_some_and(|attached| (attached.at, attached.start) == (at, start)) {
            self.client.attached = None;
            self.client.abandon();
        }
    }

    /// The client does something, and again later.
    pub fn client_think(&mut self, number: u64) {
        let Some(attached) = self.client.attached.filter(|attached| attached.number == number) else {
            return;
        };
        let pause = if self.rng.permille(50) { self.rng.below(600 * MS) } else { self.rng.below(40 * MS) };
        self.after(pause, Event::Client { attached: number });
        if self.client.stopped || self.client.open.len() >= DEPTH {
            return;
        }
        let Some((op, front)) = self.client_choose() else { return };
        self.client.request_last += 1;
        let request = self.client.request_last;
        self.client.open.insert(request, (op, self.now));
        self.trace.note(&[2, request]);
        self.volume_input(attached.at, attached.start, Input::Front { id: RequestId(request), op: front });
    }

    fn client_choose(&mut self) -> Option<(Op, FrontOp)> {
        let (first, count) = self.client_range();
        let range = (first * SECTOR, u32::try_from(count * SECTOR).ok()?);
        let kind = self.rng.below(100);
        if kind < 12 {
            let number = self.client.model.flush_begins();
            return Some((Op::Flush { number }, FrontOp::Flush));
        }
        if kind < 45 {
            let quiet = !self.client.model.busy(first, count);
            if !quiet && self.rng.permille(700) {
                return None;
            }
            let may = (first..first + count).map(|sector| self.client.model.may_read(sector)).collect();
            return Some((
                Op::Read { first, count, may, quiet },
                FrontOp::Read { offset: range.0, length: range.1 },
            ));
        }
        // Nobody sane writes over a write that is under way, nor under a read.
        if self.client.model.busy(first, count) || self.client_reads(first, count) {
            return None;
        }
        let fua = kind > 94;
        if (90..=94).contains(&kind) {
            self.client.model.begins(first, count, 0);
            let front = FrontOp::WriteZeroes {
                offset: range.0,
                length: u64::from(range.1),
                unmap: self.rng.permille(500),
                fua: false,
            };
            return Some((Op::Write { first, count, stamp: 0, fua: false }, front));
        }
        self.client.stamp_last += 1;
        let stamp = self.client.stamp_last;
        self.client.model.begins(first, count, stamp);
        let mut data = Vec::with_capacity(range.1 as usize);
        for sector in first..first + count {
            data.extend(sector_content(stamp, sector));
        }
        Some((
            Op::Write { first, count, stamp, fua },
            FrontOp::Write { offset: range.0, data: data.into(), fua },
        ))
    }

    fn client_reads(&self, first: u64, count: u64) -> bool {
        self.client.open.values().any(|(op, _)| match op {
            Op::Read { first: other, count: length, .. } => *other < first + count && first < other + length,
            _ => false,
        })
    }

    /// A range near one of a few places: programs write the same places again and again.
    fn client_range(&mut self) -> (u64, u64) {
        let sectors = self.client.volume_sectors;
        let count = if self.rng.permille(300) { self.rng.between(1, 24) } else { 8 };
        let spots = (sectors / 64).clamp(1, 40);
        let spot = self.rng.below(spots) * (sectors / spots);
        let near = self.rng.below(4) * 8 + if count == 8 { 0 } else { self.rng.below(8) };
        let count = count.min(sectors);
        ((spot + near).min(sectors - count), count)
    }

    /// A request was answered.
    pub fn client_answered(&mut self, at: At, start: u64, id: RequestId, result: Result<Bytes, FrontError>) {
        let Some(attached) = self.client.attached.filter(|attached| attached.start == start) else {
            return self.client_ghost(at, start, result.is_ok());
        };
        let Some((op, _)) = self.client.open.remove(&id.0) else { return };
        self.trace.note(&[3, id.0, u64::from(result.is_ok())]);
        let Ok(content) = result else {
            match op {
                Op::Write { first, count, stamp, .. } => self.client.model.unknown(first, count, stamp),
                Op::Flush { number } => self.client.model.flush_forgotten(number),
                Op::Read { .. } => {}
            }
            return;
        };
        self.client.served_at = self.now;
        self.count("answers");
        let generation = attached.generation;
        match op {
            Op::Read { first, count, may, quiet } => {
                self.client_read(at, first, count, &may, quiet, &content)
            }
            Op::Write { first, count, stamp, fua } => {
                self.acknowledged(start, at, generation, "write");
                self.client.model.acknowledged(first, count, stamp, fua);
            }
            Op::Flush { number } => {
                self.acknowledged(start, at, generation, "flush");
                self.client.model.flushed(number);
            }
        }
    }

    /// An answer from a process whose client is gone already: harmless, but not after its successor answered.
    fn client_ghost(&mut self, at: At, start: u64, well: bool) {
        let serving = self.nodes[at].volume.as_ref().and_then(|volume| volume.serving);
        if let Some(generation) = serving
            && well
        {
            self.oracles.i2.acknowledged(start, at, generation, "request");
        }
    }

    /// Something that must last was answered well.
    fn acknowledged(&mut self, start: u64, at: At, generation: u64, what: &str) {
        self.oracles.i2.acknowledged(start, at, generation, what);
        let node = &self.nodes[at];
        if let (Some(replica), Some(volume)) = (node.replica, &node.volume) {
            self.oracles.i1.acknowledged(Member { replica, session: volume.session });
        }
    }

    fn client_read(&mut self, at: At, first: u64, count: u64, may: &[Vec<u64>], quiet: bool, content: &[u8]) {
        if content.len() as u64 != count * SECTOR {
            return self
                .oracles
                .i7
                .violate(&format!("a read of {count} sectors returned {} bytes", content.len()));
        }
        for (place, sector) in (first..).zip(content.chunks_exact(SECTOR as usize)) {
            let now = self.client.model.may_read(place);
            let before = usize::try_from(place - first).ok().and_then(|at| may.get(at));
            match stamp_of(sector, place) {
                None => {
                    let what = format!("sector {place} on node {at} holds what nobody wrote there");
                    return self.oracles.i7.violate(&what);
                }
                Some(stamp) if now.contains(&stamp) || before.is_some_and(|may| may.contains(&stamp)) => {
                    if quiet && now.contains(&stamp) {
                        self.client.model.read(place, stamp);
                    }
                }
                Some(stamp) => {
                    let what = format!(
                        "sector {place} on node {at} reads as write {stamp} where {now:?} may be read"
                    );
                    return self.oracles.i1.violate(&what);
                }
            }
        }
    }

    /// After the end: every sector ever written, as the disk of the last primary holds it.
    pub fn client_check_disk(&mut self, at: At) {
        for sector in self.client.model.written() {
            let content = self.nodes[at].areas[0].read(sector * SECTOR, SECTOR as usize);
            let may = self.client.model.may_read(sector);
            match stamp_of(&content, sector) {
                Some(stamp) if may.contains(&stamp) => {}
                found => {
                    let what = format!(
                        "at the end sector {sector} on node {at} holds {found:?} where {may:?} may be"
                    );
                    return self.oracles.i1.violate(&what);
                }
            }
        }
    }
}

/// The content of a sector: stamp and place, again and again. Stamp 0 is zeroes.
fn sector_content(stamp: u64, sector: u64) -> [u8; SECTOR as usize] {
    let mut out = [0; SECTOR as usize];
    if stamp != 0 {
        for pair in out.chunks_exact_mut(16) {
            pair[..8].copy_from_slice(&stamp.to_le_bytes());
            pair[8..].copy_from_slice(&sector.to_le_bytes());
        }
    }
    out
}

/// The stamp of a sector's content; None if it is not whole, or of another place.
fn stamp_of(content: &[u8], sector: u64) -> Option<u64> {
    let stamp = u64::from_le_bytes(content.first_chunk::<8>().copied()?);
    (content == sector_content(stamp, sector)).then_some(stamp)
}
