//! Whether the files of this node's replicas are there. Pure: the looking is done elsewhere.
//!
//! A disk that hangs answers not even that question, and whoever asks it stands still until it does. So it is asked beside
//! everything else, one question at a time per volume, and what counts meanwhile is the last answer.

use anshin_base::{Millis, Mono};
use std::collections::BTreeMap;

/// Time between two looks.
const LOOK_EVERY: Millis = Millis(1_000);

#[derive(Clone, Copy, Debug, Default)]
struct Look {
    /// The last answer.
    there: Option<bool>,
    /// The number of the question that is open, and when the last one was asked.
    open: Option<u64>,
    asked: Option<Mono>,
}

/// What is known of every replica's files.
#[derive(Debug, Default)]
pub struct Files {
    looks: BTreeMap<String, Look>,
    last: u64,
}

impl Files {
    /// The last answer; None before the first.
    #[must_use]
    pub fn there(&self, volume: &str) -> Option<bool> {
        self.looks.get(volume)?.there
    }

    /// The number under which somebody is to look now, if it is time.
    pub fn ask(&mut self, volume: &str, now: Mono) -> Option<u64> {
        let look = self.looks.entry(volume.to_owned()).or_default();
        let due = look.asked.is_none_or(|asked| now.since(asked) >= LOOK_EVERY);
        if look.open.is_some() || !due {
            return None;
        }
        self.last += 1;
        (look.open, look.asked) = (Some(self.last), Some(now));
        look.open
    }

    /// Somebody has looked.
    pub fn answered(&mut self, volume: &str, number: u64, there: bool) {
        if let Some(look) = self.looks.get_mut(volume).filter(|look| look.open == Some(number)) {
            look.open = None;
            look.there = Some(there);
        }
    }

    /// The files were made, which whoever is looking may not have seen yet.
    pub fn made(&mut self, volume: &str) {
        let look = self.looks.entry(volume.to_owned()).or_default();
        (look.there, look.open) = (Some(true), None);
    }

    /// Nothing is asked of volumes that are not configured here.
    pub fn keep(&mut self, configured: impl Fn(&str) -> bool) {
        self.looks.retain(|volume, _| configured(volume));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Mono {
        Mono(0).after(Millis(ms))
    }

    #[test]
    fn a_disk_that_does_not_answer_is_asked_once_and_what_it_said_last_counts() {
        let mut files = Files::default();
        let first = files.ask("data", at(10)).unwrap();
        assert_eq!((files.there("data"), files.ask("data", at(20))), (None, None));
        files.answered("data", first, true);
        let second = files.ask("data", at(1_010)).unwrap();
        for ms in [2_000, 20_000, 200_000] {
            assert_eq!((files.there("data"), files.ask("data", at(ms))), (Some(true), None));
        }
        files.answered("data", second, false);
        assert_eq!(files.there("data"), Some(false));
        assert!(files.ask("data", at(200_000)).is_some(), "other disks are not waited for");
    }

    #[test]
    fn an_answer_from_before_the_files_were_made_is_too_late() {
        let mut files = Files::default();
        let before = files.ask("data", at(10)).unwrap();
        files.made("data");
        files.answered("data", before, false);
        assert_eq!(files.there("data"), Some(true));
    }
}
