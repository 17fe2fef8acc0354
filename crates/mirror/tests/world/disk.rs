//! A disk in memory that loses, keeps or tears what was not flushed.

use super::Dice;
use anshin_mirror::{DiskError, MetaImage, Output, Region, Token};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

const SECTOR: u64 = 512;

/// What happens to writes that were not flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// A mere kill of the process: the page cache stays.
    All,
    /// A power loss that loses every unflushed write.
    Nothing,
    /// A power loss in which each unflushed sector is independently old or new.
    Torn,
}

#[derive(Clone)]
struct Area {
    /// What a read returns.
    now: BTreeMap<u64, [u8; 512]>,
    /// Unflushed sectors with their durable content.
    unflushed: BTreeMap<u64, [u8; 512]>,
}

impl Area {
    fn new() -> Self {
        Self { now: BTreeMap::new(), unflushed: BTreeMap::new() }
    }

    fn sector(&self, at: u64) -> [u8; 512] {
        self.now.get(&at).copied().unwrap_or([0; 512])
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        assert!(offset.is_multiple_of(SECTOR) && (data.len() as u64).is_multiple_of(SECTOR));
        for (index, chunk) in data.chunks_exact(512).enumerate() {
            let at = offset / SECTOR + index as u64;
            let before = self.sector(at);
            self.unflushed.entry(at).or_insert(before);
            self.now.insert(at, chunk.try_into().unwrap());
        }
    }

    fn read(&self, offset: u64, length: u64) -> Vec<u8> {
        (offset / SECTOR..(offset + length) / SECTOR).flat_map(|at| self.sector(at)).collect()
    }

    fn crash(&mut self, keep: Keep, dice: &mut Dice) {
        for (at, before) in std::mem::take(&mut self.unflushed) {
            let lost = match keep {
                Keep::All => false,
                Keep::Nothing => true,
                Keep::Torn => dice.roll(2) == 0,
            };
            if lost {
                self.now.insert(at, before);
            }
        }
    }
}

#[derive(Clone)]
pub struct Disk {
    data: Area,
    meta: Area,
    volume_bytes: u64,
    /// Commands stay in the queue.
    pub held: bool,
    /// Flushes of the data area fail.
    pub flush_fails: bool,
    /// Writes into the data area.
    pub writes: u64,
    /// Sectors of the data area that cannot be read before they are written.
    pub bad: BTreeSet<u64>,
}

impl Disk {
    pub fn new(volume_bytes: u64, image: &MetaImage) -> Self {
        let mut meta = Area::new();
        for (offset, bytes) in &image.writes {
            meta.write(*offset, bytes);
        }
        meta.unflushed.clear();
        Self {
            data: Area::new(),
            meta,
            volume_bytes,
            held: false,
            flush_fails: false,
            writes: 0,
            bad: BTreeSet::new(),
        }
    }

    pub fn crash(&mut self, keep: Keep, dice: &mut Dice) {
        self.data.crash(keep, dice);
        self.meta.crash(keep, dice);
        self.held = false;
    }

    pub fn carry_out(&mut self, command: &Output) -> (Token, Result<Bytes, DiskError>) {
        match command {
            Output::DiskRead { token, region, offset, length } => {
                let range = offset / SECTOR..(offset + u64::from(*length)) / SECTOR;
                if *region == Region::Data && self.bad.range(range).next().is_some() {
                    return (*token, Err(DiskError::Io));
                }
                let area = if *region == Region::Data { &self.data } else { &self.meta };
                (*token, Ok(area.read(*offset, u64::from(*length)).into()))
            }
            Output::DiskWrite { token, region, offset, data } => {
                if *region == Region::Data {
                    assert!(offset + data.len() as u64 <= self.volume_bytes);
                    self.writes += 1;
                    let range = offset / SECTOR..offset / SECTOR + data.len() as u64 / SECTOR;
                    self.bad.retain(|sector| !range.contains(sector));
                    self.data.write(*offset, data);
                } else {
                    self.meta.write(*offset, data);
                }
                (*token, Ok(Bytes::new()))
            }
            Output::DiskZero { token, offset, length, .. } => {
                assert!(offset + length <= self.volume_bytes);
                self.data.write(*offset, &vec![0; usize::try_from(*length).unwrap()]);
                (*token, Ok(Bytes::new()))
            }
            Output::DiskFlush { token, region } => {
                if *region == Region::Data && self.flush_fails {
                    return (*token, Err(DiskError::Io));
                }
                let area = if *region == Region::Data { &mut self.data } else { &mut self.meta };
                area.unflushed.clear();
                (*token, Ok(Bytes::new()))
            }
            _ => panic!("not a disk command"),
        }
    }

    /// The first byte of a block.
    pub fn byte(&self, offset: u64) -> u8 {
        self.data.sector(offset / SECTOR)[0]
    }

    /// Flips a bit of the data area behind everyone's back.
    pub fn damage(&mut self, offset: u64) {
        let at = offset / SECTOR;
        let mut sector = self.data.sector(at);
        sector[0] ^= 1;
        self.data.now.insert(at, sector);
    }

    pub fn differences(&self, other: &Self) -> BTreeSet<u64> {
        let sectors: BTreeSet<u64> = self.data.now.keys().chain(other.data.now.keys()).copied().collect();
        let differ = sectors.into_iter().filter(|at| self.data.sector(*at) != other.data.sector(*at));
        differ.map(|at| at * SECTOR / 4096 * 4096).collect()
    }
}
