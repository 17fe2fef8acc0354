//! Several segments read side by side.

use super::{History, PathEntry};
use std::iter::Peekable;

/// Histories of several segments, joined by path. Segments in ascending order of their ordinals.
pub struct Merged<I: Iterator<Item = Result<History, E>>, E> {
    segments: Vec<Peekable<I>>,
}

impl<I: Iterator<Item = Result<History, E>>, E> Merged<I, E> {
    /// Joins segments.
    #[must_use]
    pub fn new(segments: Vec<I>) -> Self {
        Self { segments: segments.into_iter().map(Iterator::peekable).collect() }
    }
}

impl<I: Iterator<Item = Result<History, E>>, E> Iterator for Merged<I, E> {
    type Item = Result<History, E>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut least: Option<Vec<u8>> = None;
        for segment in &mut self.segments {
            match segment.peek() {
                Some(Err(_)) => return segment.next(),
                Some(Ok(history)) if least.as_ref().is_none_or(|least| history.path < *least) => {
                    least = Some(history.path.clone());
                }
                Some(Ok(_)) | None => {}
            }
        }
        let path = least?;
        let mut changes = Vec::new();
        for segment in &mut self.segments {
            let here = |next: &Result<History, E>| next.as_ref().is_ok_and(|history| history.path == path);
            if let Some(Ok(history)) = segment.next_if(here) {
                changes.extend(history.changes);
            }
        }
        Some(Ok(History { path, changes }))
    }
}

/// Drops changes that no living snapshot sees. `oldest`: no segment lies before these changes, so that nothing has to be
/// marked as gone at their beginning. The newest change always stays: snapshots to come see it.
pub fn prune(history: &mut History, living: &[u64], oldest: bool) {
    let ends: Vec<u64> =
        history.changes.iter().skip(1).map(|(ordinal, _)| *ordinal).chain([u64::MAX]).collect();
    let last = history.changes.len().saturating_sub(1);
    let mut at = 0;
    history.changes.retain(|(from, entry)| {
        let seen = at == last || sees(living, *from, ends[at]);
        // Without its mark a path that went would be back, for what lies in segments before.
        let mark = entry.is_none() && !oldest;
        at += 1;
        seen || mark
    });
    if oldest {
        let gone = history.changes.iter().take_while(|(_, entry)| entry.is_none()).count();
        history.changes.drain(..gone);
    }
}

fn sees(living: &[u64], from: u64, until: u64) -> bool {
    let at = living.partition_point(|&ordinal| ordinal < from);
    living.get(at).is_some_and(|&ordinal| ordinal < until)
}

/// Versions of a path in living snapshots: first and last ordinal, how many, and what it is.
#[must_use]
pub fn versions(history: &History, living: &[u64]) -> Vec<(u64, u64, u64, PathEntry)> {
    let ends = history.changes.iter().skip(1).map(|(ordinal, _)| *ordinal).chain([u64::MAX]);
    let version = |((from, entry), until): (&(u64, Option<PathEntry>), u64)| {
        let entry = (*entry)?;
        let first = living.partition_point(|ordinal| ordinal < from);
        let after = living.partition_point(|&ordinal| ordinal < until);
        (first < after).then(|| (living[first], living[after - 1], (after - first) as u64, entry))
    };
    history.changes.iter().zip(ends).filter_map(version).collect()
}
