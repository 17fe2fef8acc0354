//! Reading lease records: each file stays open, so that a look is one call that allocates nothing.

use super::core::LeaseReading;
use anshin_base::lease::LeaseRecord;
use std::{
    collections::BTreeMap,
    fs::File,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

/// How often a record that is being written is read again before the look gives up; the next look is soon.
const TRIES: usize = 3;
/// Open files kept: more than holds there can be would be leaks.
const OPEN_MAX: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Leases(BTreeMap<PathBuf, File>);

impl Leases {
    pub(super) fn read(&mut self, path: &Path) -> LeaseReading {
        // A volume process may replace the file instead of rewriting it; then the open one has no name any more.
        let stale = |file: &File| file.metadata().map_or(true, |at| at.nlink() == 0);
        if self.0.get(path).is_none_or(stale) {
            self.0.remove(path);
            let Ok(file) = File::open(path) else { return LeaseReading::Missing };
            if self.0.len() >= OPEN_MAX {
                self.0.clear();
            }
            self.0.insert(path.to_owned(), file);
        }
        let Some(file) = self.0.get(path) else { return LeaseReading::Missing };
        let mut bytes = [0; LeaseRecord::SIZE];
        for _ in 0..TRIES {
            let whole = file.read_exact_at(&mut bytes, 0).is_ok();
            if let Some(record) = LeaseRecord::decode(&bytes).filter(|_| whole) {
                return LeaseReading::Record(record);
            }
        }
        LeaseReading::Unreadable
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anshin_base::{Generation, GroupId, Mono};
    use std::fs;

    #[test]
    fn a_record_is_read_after_it_was_rewritten_or_replaced_and_missed_when_removed() {
        let dir = std::env::temp_dir().join(format!("anshin-lease-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("lease");
        let record = |until| LeaseRecord {
            group: GroupId(1),
            generation: Generation(1),
            until: Mono(until),
            sequence: 1,
        };
        let mut leases = Leases::default();
        assert_eq!(leases.read(&path), LeaseReading::Missing);
        fs::write(&path, record(1).encode()).unwrap();
        assert_eq!(leases.read(&path), LeaseReading::Record(record(1)));
        fs::write(&path, record(2).encode()).unwrap();
        assert_eq!(leases.read(&path), LeaseReading::Record(record(2)));
        fs::write(dir.join("new"), record(3).encode()).unwrap();
        fs::rename(dir.join("new"), &path).unwrap();
        assert_eq!(leases.read(&path), LeaseReading::Record(record(3)));
        fs::write(&path, [0; 10]).unwrap();
        assert_eq!(leases.read(&path), LeaseReading::Unreadable);
        fs::remove_file(&path).unwrap();
        assert_eq!(leases.read(&path), LeaseReading::Missing);
        fs::remove_dir_all(&dir).unwrap();
    }
}
