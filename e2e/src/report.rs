//! What a check prints: rows of named values, and one line with its result.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Rows of one check, kept in a file as well, so that a long run can be read or resumed after an interruption.
#[derive(Clone, Debug)]
pub struct Report {
    check: String,
    file: Option<PathBuf>,
    rows: Vec<Vec<(String, f64)>>,
}

impl Report {
    /// A report of the named check; rows are also appended to `dir/NAME.rows` if given.
    pub fn new(check: &str, dir: Option<&Path>) -> Self {
        let file = dir.map(|dir| dir.join(format!("{check}.rows")));
        Self { check: check.to_owned(), file, rows: Vec::new() }
    }

    /// A sentence in passing.
    pub fn say(&self, text: &str) {
        println!("{}: {text}", self.check);
    }

    /// One row of numbers. Names say the unit.
    pub fn row(&mut self, values: &[(&str, f64)]) {
        let mut line = format!("{} {}", self.check, self.rows.len() + 1);
        for (name, value) in values {
            let _ = write!(line, " {name}={value:.1}");
        }
        println!("{line}");
        if let Some(file) = &self.file {
            use std::io::Write as _;
            let opened = std::fs::File::options().create(true).append(true).open(file);
            // The printed row is the result; the kept one is a convenience.
            let _kept = opened.and_then(|mut file| writeln!(file, "{line}"));
        }
        self.rows.push(values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect());
    }

    /// Median and maximum of every column, if there was more than one row.
    pub fn summary(&self) {
        if self.rows.len() < 2 {
            return;
        }
        let Some(first) = self.rows.first() else { return };
        for (name, _) in first {
            let column = self.rows.iter().filter_map(|row| row.iter().find(|value| value.0 == *name));
            let column: Vec<f64> = column.map(|value| value.1).collect();
            println!("{}: {name} median {:.1}, maximum {:.1}", self.check, median(&column), largest(&column));
        }
    }

    /// Rows so far.
    pub fn count(&self) -> usize {
        self.rows.len()
    }
}

/// Milliseconds as a number.
pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The middle value; 0 of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        length if length % 2 == 1 => sorted[length / 2],
        length => f64::midpoint(sorted[length / 2 - 1], sorted[length / 2]),
    }
}

/// The largest value; 0 of nothing.
pub fn largest(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_middles() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }
}
