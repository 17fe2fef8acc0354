//! What a long run has done, kept in a file, so that it goes on where it was interrupted.
//!
//! The first line names the executable (by its hash) and what was asked of it; with any other first line the run starts
//! over, because another build has proven nothing about this one. Each further line is a range of seeds that ran without
//! a violation; one that is not whole, as a crash can leave it, counts as not run.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Write},
    ops::Range,
    path::Path,
};

/// What came of some seeds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// How many.
    pub seeds: u64,
    /// Of these, run twice with the same result.
    pub twice: u64,
    /// Simulated time in nanoseconds.
    pub simulated: u128,
    /// Seeds that violated something.
    pub violations: u64,
    /// How often things happened.
    pub counts: BTreeMap<String, u64>,
}

impl Total {
    /// Adds what came of other seeds.
    pub fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.twice += other.twice;
        self.simulated += other.simulated;
        self.violations += other.violations;
        for (what, count) in &other.counts {
            *self.counts.entry(what.clone()).or_insert(0) += count;
        }
    }
}

/// The ranges that were done, and the file that names them.
#[derive(Debug, Default)]
pub struct Progress {
    file: Option<File>,
    done: Vec<Range<u64>>,
    /// What came of them.
    pub earlier: Total,
}

impl Progress {
    /// Reads the file and goes on with it; if it is of another build or for another `plan`, or there is none, begins it.
    ///
    /// # Errors
    /// If the executable cannot be read or the file not written.
    pub fn open(path: &Path, plan: &str) -> io::Result<Self> {
        let build = blake3::hash(&std::fs::read(std::env::current_exe()?)?);
        Self::open_for(path, &format!("anshin-sim 1 {} {plan}", build.to_hex()))
    }

    fn open_for(path: &Path, first: &str) -> io::Result<Self> {
        let text = match std::fs::read(path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let mut found = Self::default();
        let mut kept = format!("{first}\n");
        if text.lines().next() == Some(first) {
            for line in text.split_inclusive('\n').skip(1) {
                let whole = line.strip_suffix('\n').and_then(parse);
                let Some((range, total)) = whole.filter(|(range, _)| !found.holds(range)) else { continue };
                found.done.push(range);
                found.earlier.add(&total);
                kept.push_str(line);
            }
        }
        // Replaced as a whole, so that a line which is not whole is never continued by the next one.
        let beside = path.with_extension("new");
        std::fs::write(&beside, kept)?;
        std::fs::rename(&beside, path)?;
        found.file = Some(OpenOptions::new().append(true).open(path)?);
        Ok(found)
    }

    fn holds(&self, range: &Range<u64>) -> bool {
        self.done.iter().any(|done| done.start < range.end && range.start < done.end)
    }

    /// What is left of `all`, in pieces of at most `piece` seeds.
    #[must_use]
    pub fn left(&self, all: Range<u64>, piece: u64) -> Vec<Range<u64>> {
        let mut done = self.done.clone();
        done.sort_unstable_by_key(|range| range.start);
        let mut pieces = Vec::new();
        let mut from = all.start;
        for range in done.into_iter().chain(std::iter::once(all.end..all.end)) {
            let until = range.start.min(all.end);
            while from < until {
                let end = until.min(from.saturating_add(piece.max(1)));
                pieces.push(from..end);
                from = end;
            }
            from = from.max(range.end);
        }
        pieces
    }

    /// Notes a range that ran without a violation.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn done(&mut self, range: &Range<u64>, total: &Total) -> io::Result<()> {
        match &mut self.file {
            Some(file) => file.write_all(line(range, total).as_bytes()),
            None => Ok(()),
        }
    }
}

fn line(range: &Range<u64>, total: &Total) -> String {
    let counts: String = total.counts.iter().map(|(what, count)| format!("\t{what}={count}")).collect();
    format!("{}..{}\t{}\t{}{counts}\tend\n", range.start, range.end, total.simulated, total.twice)
}

fn parse(line: &str) -> Option<(Range<u64>, Total)> {
    let mut parts = line.strip_suffix("\tend")?.split('\t');
    let (start, end) = parts.next()?.split_once("..")?;
    let range = start.parse::<u64>().ok()?..end.parse::<u64>().ok()?;
    let seeds = range.end.checked_sub(range.start)?;
    let simulated = parts.next()?.parse().ok()?;
    let twice = parts.next()?.parse().ok()?;
    let counts = parts.map(|part| {
        let (what, count) = part.split_once('=')?;
        Some((what.to_owned(), count.parse().ok()?))
    });
    let counts = counts.collect::<Option<_>>()?;
    Some((range, Total { seeds, twice, simulated, violations: 0, counts }))
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "a list of one range is meant")]
mod tests {
    use super::*;

    fn total(seeds: u64) -> Total {
        let counts = BTreeMap::from([("total losses".into(), 3)]);
        Total { seeds, twice: 1, simulated: 12_345_678_901_234_567_890, violations: 0, counts }
    }

    #[test]
    fn an_interrupted_run_goes_on_with_what_is_left() {
        let dir = tempdir();
        let path = dir.join("progress");
        let mut progress = Progress::open_for(&path, "build 1").unwrap();
        assert_eq!(progress.left(0..250, 100), [0..100, 100..200, 200..250]);
        progress.done(&(100..200), &total(100)).unwrap();
        progress.done(&(0..10), &total(10)).unwrap();
        let again = Progress::open_for(&path, "build 1").unwrap();
        assert_eq!(again.left(0..250, 100), [10..100, 200..250]);
        assert_eq!(again.left(50..150, 100), [50..100]);
        assert_eq!((again.earlier.seeds, again.earlier.counts["total losses"]), (110, 6));
    }

    #[test]
    fn another_build_starts_over() {
        let dir = tempdir();
        let path = dir.join("progress");
        Progress::open_for(&path, "build 1").unwrap().done(&(0..9), &total(9)).unwrap();
        assert_eq!(Progress::open_for(&path, "build 2").unwrap().left(0..9, 9), [0..9]);
        assert_eq!(Progress::open_for(&path, "build 1").unwrap().left(0..9, 9), [0..9]);
    }

    #[test]
    fn a_line_that_is_not_whole_counts_as_not_run() {
        let dir = tempdir();
        let path = dir.join("progress");
        let whole = line(&(0..10), &total(10));
        for cut in 0..whole.len() {
            std::fs::write(&path, format!("build 1\n{}", &whole[..cut])).unwrap();
            let mut progress = Progress::open_for(&path, "build 1").unwrap();
            assert_eq!(progress.left(0..10, 10), [0..10]);
            progress.done(&(0..10), &total(10)).unwrap();
            assert_eq!(Progress::open_for(&path, "build 1").unwrap().earlier, total(10));
        }
    }

    #[test]
    fn a_range_that_is_named_twice_counts_once() {
        let dir = tempdir();
        let path = dir.join("progress");
        let text = format!("build 1\n{}{}", line(&(0..10), &total(10)), line(&(5..15), &total(10)));
        std::fs::write(&path, text).unwrap();
        assert_eq!(Progress::open_for(&path, "build 1").unwrap().earlier.seeds, 10);
    }

    /// A directory that goes with the test.
    struct Dir(std::path::PathBuf);

    impl Dir {
        fn join(&self, name: &str) -> std::path::PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn tempdir() -> Dir {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("anshin-sim-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }
}
