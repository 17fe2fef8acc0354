//! The volatile cache of one file (pure): what reads see, what a flush makes durable, what a crash leaves.

use crate::rng::Rng;
use std::collections::{BTreeMap, btree_map::Entry};
use std::io;

/// Smallest unit that a disk writes as a whole.
pub const SECTOR: usize = 512;
/// Beyond this much unflushed data the cache writes its oldest half out, as real ones do.
const LIMIT_BYTES: usize = 64 << 20;

/// Content that survives a crash.
pub trait Durable {
    /// Fills `buffer` from `offset`; what lies behind the end reads as zeroes.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Overwrites at `offset`, growing if needed.
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Length in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Grows or cuts to `len` bytes.
    fn set_len(&mut self, len: u64) -> io::Result<()>;
}

/// One write that no flush has covered yet.
#[derive(Clone, Debug)]
struct Write {
    offset: u64,
    data: Vec<u8>,
    /// A flush failed over it: later flushes succeed without it, as after a failed `fsync` on Linux.
    forgotten: bool,
}

/// What a crash did to the unflushed writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Toll {
    /// Reached the disk whole.
    pub kept: u64,
    /// Vanished.
    pub lost: u64,
    /// Reached the disk in part.
    pub torn: u64,
}

/// The cache of one file.
#[derive(Debug, Default)]
pub struct Cache {
    /// What reads see where it may differ from the durable content, by sector number.
    overlay: BTreeMap<u64, Box<[u8; SECTOR]>>,
    pending: Vec<Write>,
    pending_bytes: usize,
    /// Length that programs see while something is pending.
    len: u64,
}

impl Cache {
    /// Writes that a crash could still take.
    pub fn unflushed(&self) -> usize {
        self.pending.len()
    }

    /// Length in bytes as programs see it.
    pub fn size(&self, durable: &impl Durable) -> io::Result<u64> {
        Ok(durable.size()?.max(self.len))
    }

    /// Reads what was last written, durable or not; returns the bytes before the end of the file.
    pub fn read(&self, durable: &impl Durable, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.size(durable)?.saturating_sub(offset);
        let count = buffer.len().min(usize::try_from(available).unwrap_or(usize::MAX));
        let buffer = &mut buffer[..count];
        durable.read_at(offset, buffer)?;
        for (sector, content) in self.overlay.range(sectors(offset, count)) {
            copy_overlap(sector * SECTOR as u64, content.as_slice(), offset, buffer);
        }
        Ok(count)
    }

    /// Takes a write into the cache.
    pub fn write(&mut self, durable: &mut impl Durable, offset: u64, data: &[u8]) -> io::Result<()> {
        for sector in sectors(offset, data.len()) {
            let start = sector * SECTOR as u64;
            let content = match self.overlay.entry(sector) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    let mut content = Box::new([0; SECTOR]);
                    durable.read_at(start, content.as_mut_slice())?;
                    new.insert(content)
                }
            };
            copy_overlap(offset, data, start, content.as_mut_slice());
        }
        self.len = self.len.max(offset + data.len() as u64);
        self.pending_bytes += data.len();
        self.pending.push(Write { offset, data: data.to_vec(), forgotten: false });
        if self.pending_bytes > LIMIT_BYTES { self.write_back(durable) } else { Ok(()) }
    }

    /// Makes everything durable, except what an earlier failed flush forgot.
    pub fn flush(&mut self, durable: &mut impl Durable) -> io::Result<()> {
        for write in self.pending.iter().filter(|write| !write.forgotten) {
            durable.write_at(write.offset, &write.data)?;
        }
        self.pending.retain(|write| write.forgotten);
        self.pending_bytes = self.pending.iter().map(|write| write.data.len()).sum();
        if self.pending.is_empty() {
            self.overlay.clear();
        }
        Ok(())
    }

    /// A flush that failed: nothing pending will ever become durable, though reads still see it.
    pub fn fail_flush(&mut self) {
        self.pending.iter_mut().for_each(|write| write.forgotten = true);
    }

    /// Cuts or grows the file; like names, lengths set on purpose are durable at once.
    pub fn set_len(&mut self, durable: &mut impl Durable, len: u64) -> io::Result<()> {
        self.flush(durable)?;
        self.pending.clear();
        self.pending_bytes = 0;
        self.overlay.clear();
        self.len = 0;
        durable.set_len(len)
    }

    /// Power fails: each unflushed write is kept, lost or torn, in an order of the disk's own.
    pub fn crash(&mut self, durable: &mut impl Durable, rng: &mut Rng) -> io::Result<Toll> {
        let mut toll = Toll::default();
        let mut writes = std::mem::take(&mut self.pending);
        *self = Self::default();
        for last in (1..writes.len()).rev() {
            writes.swap(last, usize::try_from(rng.below(last as u64 + 1)).unwrap_or(0));
        }
        for write in writes {
            let fate = rng.below(3);
            if write.forgotten || fate == 0 {
                toll.lost += 1;
            } else if fate == 1 || write.data.len() <= SECTOR {
                durable.write_at(write.offset, &write.data)?;
                toll.kept += 1;
            } else {
                tear(durable, &write, rng)?;
                toll.torn += 1;
            }
        }
        Ok(toll)
    }

    fn write_back(&mut self, durable: &mut impl Durable) -> io::Result<()> {
        let half = self.pending.len().div_ceil(2);
        for write in self.pending.drain(..half).filter(|write| !write.forgotten) {
            self.pending_bytes -= write.data.len();
            durable.write_at(write.offset, &write.data)?;
        }
        if self.pending.is_empty() {
            self.overlay.clear();
        }
        Ok(())
    }
}

/// Writes a random part of a write's units, of 512 or of 4,096 bytes, aligned as on a disk.
fn tear(durable: &mut impl Durable, write: &Write, rng: &mut Rng) -> io::Result<()> {
    let unit = if rng.chance(500) { SECTOR as u64 } else { 4096 };
    let end = write.offset + write.data.len() as u64;
    let mut at = write.offset;
    while at < end {
        let next = ((at / unit + 1) * unit).min(end);
        if rng.chance(500) {
            let part = (at - write.offset) as usize..(next - write.offset) as usize;
            durable.write_at(at, &write.data[part])?;
        }
        at = next;
    }
    Ok(())
}

fn sectors(offset: u64, len: usize) -> std::ops::Range<u64> {
    offset / SECTOR as u64..(offset + len as u64).div_ceil(SECTOR as u64)
}

/// Copies the part of `source` (at `source_at`) that overlaps `target` (at `target_at`).
fn copy_overlap(source_at: u64, source: &[u8], target_at: u64, target: &mut [u8]) {
    let start = source_at.max(target_at);
    let end = (source_at + source.len() as u64).min(target_at + target.len() as u64);
    if start < end {
        let length = (end - start) as usize;
        let (from, to) = ((start - source_at) as usize, (start - target_at) as usize);
        target[to..to + length].copy_from_slice(&source[from..from + length]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Durable for Vec<u8> {
        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
            for (index, byte) in buffer.iter_mut().enumerate() {
                *byte = self.get(offset as usize + index).copied().unwrap_or(0);
            }
            Ok(())
        }
        fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
            let end = offset as usize + data.len();
            if self.len() < end {
                self.resize(end, 0);
            }
            self[offset as usize..end].copy_from_slice(data);
            Ok(())
        }
        fn size(&self) -> io::Result<u64> {
            Ok(Vec::len(self) as u64)
        }
        fn set_len(&mut self, len: u64) -> io::Result<()> {
            self.resize(len as usize, 0);
            Ok(())
        }
    }

    fn content(cache: &Cache, durable: &Vec<u8>) -> Vec<u8> {
        let mut bytes = vec![0; cache.size(durable).unwrap() as usize];
        assert_eq!(cache.read(durable, 0, &mut bytes).unwrap(), bytes.len());
        bytes
    }

    #[test]
    fn reads_see_unflushed_writes_and_the_disk_does_not() {
        let (mut cache, mut disk) = (Cache::default(), vec![1; 2000]);
        cache.write(&mut disk, 700, &[9; 600]).unwrap();
        let seen = content(&cache, &disk);
        assert_eq!(&seen[..700], &[1; 700]);
        assert_eq!(&seen[700..1300], &[9; 600]);
        assert_eq!(&seen[1300..], &[1; 700]);
        assert_eq!(disk, vec![1; 2000]);
    }

    #[test]
    fn what_was_flushed_survives_every_crash() {
        for seed in 0..200 {
            let (mut cache, mut disk, mut rng) = (Cache::default(), vec![0; 8192], Rng::new(seed));
            cache.write(&mut disk, 0, &[1; 8192]).unwrap();
            cache.flush(&mut disk).unwrap();
            assert_eq!(cache.crash(&mut disk, &mut rng).unwrap(), Toll::default());
            assert_eq!(disk, vec![1; 8192]);
        }
    }

    #[test]
    fn unflushed_writes_are_kept_lost_torn_and_reordered_but_never_invented() {
        let (mut whole, mut none, mut part, mut older_on_top) = (0, 0, 0, 0);
        for seed in 0..200 {
            let (mut cache, mut disk, mut rng) = (Cache::default(), vec![0; 16384], Rng::new(seed));
            cache.write(&mut disk, 0, &[1; 16384]).unwrap();
            cache.write(&mut disk, 0, &[2; 16384]).unwrap();
            let toll = cache.crash(&mut disk, &mut rng).unwrap();
            assert_eq!(toll.kept + toll.lost + toll.torn, 2);
            assert!(disk.chunks(SECTOR).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
            assert!(disk.iter().all(|byte| *byte <= 2));
            match (disk.contains(&0), disk.contains(&1), disk.contains(&2)) {
                (false, false, true) => whole += 1,
                (true, false, false) => none += 1,
                _ => part += 1,
            }
            older_on_top += u64::from(toll.kept == 2 && disk[0] == 1);
            assert_eq!(content(&cache, &disk), disk, "after a crash programs see the disk and nothing else");
        }
        assert!(whole > 0 && none > 0 && part > 0 && older_on_top > 0);
    }

    #[test]
    fn a_failed_flush_poisons_what_it_should_have_covered() {
        let (mut cache, mut disk, mut rng) = (Cache::default(), vec![0; 1024], Rng::new(1));
        cache.write(&mut disk, 0, &[1; 512]).unwrap();
        cache.fail_flush();
        cache.write(&mut disk, 512, &[2; 512]).unwrap();
        cache.flush(&mut disk).unwrap();
        assert_eq!(&content(&cache, &disk)[..512], &[1; 512], "reads still see it");
        cache.crash(&mut disk, &mut rng).unwrap();
        assert_eq!(&disk[..512], &[0; 512], "the later success proved nothing about it");
        assert_eq!(&disk[512..], &[2; 512]);
    }
}
