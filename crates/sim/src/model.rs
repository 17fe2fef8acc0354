//! What may be read from each sector: the register that a block device promises to be.

use std::collections::BTreeMap;

/// One sector.
#[derive(Clone, Debug, Default)]
struct Sector {
    /// What a read may return now, apart from the write under way. Never empty.
    possible: Vec<u64>,
    /// What may be left after every replica's cache was lost: what was possible when the last completed flush began,
    /// and everything since.
    base: Vec<u64>,
    /// The write under way.
    busy: Option<u64>,
}

impl Sector {
    fn blank() -> Self {
        Self { possible: vec![0], base: vec![0], busy: None }
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Model {
    sectors: BTreeMap<u64, Sector>,
    flush_last: u64,
    /// Flushes under way: per sector what was possible at its beginning, and how much of `base` is older.
    flushes: BTreeMap<u64, BTreeMap<u64, (Vec<u64>, usize)>>,
}

impl Model {
    /// What a read may return now.
    #[must_use]
    pub fn may_read(&self, sector: u64) -> Vec<u64> {
        self.sectors
            .get(&sector)
            .map_or_else(|| vec![0], |known| known.possible.iter().copied().chain(known.busy).collect())
    }

    /// Whether a write is under way in the range.
    #[must_use]
    pub fn busy(&self, first: u64, count: u64) -> bool {
        self.sectors.range(first..first + count).any(|(_, sector)| sector.busy.is_some())
    }

    /// Sectors that were ever written.
    #[must_use]
    pub fn written(&self) -> Vec<u64> {
        self.sectors.keys().copied().collect()
    }

    /// A write begins.
    pub fn begins(&mut self, first: u64, count: u64, stamp: u64) {
        for sector in first..first + count {
            self.sectors.entry(sector).or_insert_with(Sector::blank).busy = Some(stamp);
        }
    }

    /// The write was acknowledged.
    pub fn acknowledged(&mut self, first: u64, count: u64, stamp: u64, fua: bool) {
        for (_, sector) in self.sectors.range_mut(first..first + count) {
            sector.busy = None;
            sector.possible = vec![stamp];
            if fua {
                // Flushes under way rest on an older `base`; they must not bring it back.
                sector.base.clear();
            }
            sector.base.push(stamp);
        }
        if fua {
            for flush in self.flushes.values_mut() {
                for (_, mark) in flush.range_mut(first..first + count) {
                    *mark = (vec![stamp], 0);
                }
            }
        }
    }

    /// Nobody knows what became of the write.
    pub fn unknown(&mut self, first: u64, count: u64, stamp: u64) {
        for (_, sector) in self.sectors.range_mut(first..first + count) {
            sector.busy = None;
            sector.possible.push(stamp);
            sector.base.push(stamp);
        }
    }

    /// A read, beside no write, returned this: from now on it is that.
    pub fn read(&mut self, sector: u64, stamp: u64) {
        if let Some(known) = self.sectors.get_mut(&sector)
            && known.busy.is_none()
        {
            known.possible = vec![stamp];
        }
    }

    /// A flush begins.
    pub fn flush_begins(&mut self) -> u64 {
        self.flush_last += 1;
        // Where `base` is what is possible already, the flush adds nothing to what is known.
        let open = self.sectors.iter().filter(|(_, sector)| sector.base != sector.possible);
        let marks = open.map(|(at, sector)| (*at, (sector.possible.clone(), sector.base.len())));
        self.flushes.insert(self.flush_last, marks.collect());
        self.flush_last
    }

    /// The flush was acknowledged: what was acknowledged before it began is durable.
    pub fn flushed(&mut self, number: u64) {
        let Some(marks) = self.flushes.remove(&number) else { return };
        for (at, (possible, older)) in marks {
            let Some(sector) = self.sectors.get_mut(&at) else { continue };
            let since = sector.base.split_off(older.min(sector.base.len()));
            sector.base = possible;
            sector.base.extend(since);
            sector.base.dedup();
            // Other flushes under way counted places in the old `base`: they keep all of the new one.
            let length = sector.base.len();
            for flush in self.flushes.values_mut() {
                if let Some((possible, older)) = flush.get_mut(&at) {
                    possible.extend(&sector.base);
                    *older = length;
                }
            }
        }
    }

    /// Nobody knows what became of the flush.
    pub fn flush_forgotten(&mut self, number: u64) {
        self.flushes.remove(&number);
    }

    /// Every in-sync replica lost its cache: anything since the last flush may be there or not.
    pub fn total_loss(&mut self) {
        self.flushes.clear();
        for sector in self.sectors.values_mut() {
            let mut possible = sector.base.clone();
            possible.extend(&sector.possible);
            possible.sort_unstable();
            possible.dedup();
            sector.possible.clone_from(&possible);
            sector.base = possible;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledged_write_is_all_that_may_be_read() {
        let mut model = Model::default();
        model.begins(0, 1, 1);
        assert_eq!(model.may_read(0), [0, 1]);
        model.acknowledged(0, 1, 1, false);
        assert_eq!(model.may_read(0), [1]);
    }

    #[test]
    fn a_flush_bounds_what_a_total_loss_takes() {
        let mut model = Model::default();
        for stamp in 1..4 {
            model.begins(0, 1, stamp);
            model.acknowledged(0, 1, stamp, false);
            if stamp == 2 {
                let flush = model.flush_begins();
                model.flushed(flush);
            }
        }
        model.total_loss();
        assert_eq!(model.may_read(0), [2, 3]);
    }

    #[test]
    fn an_unknown_write_is_settled_by_a_read() {
        let mut model = Model::default();
        model.begins(0, 1, 1);
        model.unknown(0, 1, 1);
        assert_eq!(model.may_read(0), [0, 1]);
        model.read(0, 0);
        assert_eq!(model.may_read(0), [0]);
    }
}
