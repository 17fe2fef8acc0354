//! Whether a snapshot looks unlike those before it: what ransomware or an emptied source would leave behind.

use crate::time::UnixMillis;

/// What a snapshot holds, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Files and directories.
    pub files: u64,
    /// Bytes of the source.
    pub bytes: u64,
    /// Bytes that were new to the vault.
    pub new_bytes: u64,
}

/// Fewer snapshots than this before it say nothing.
const BEFORE_MIN: usize = 3;
const DAY_MS: i64 = 86_400_000;
/// Below this little, any change is normal.
const FILES_MIN: u64 = 100;
const BYTES_MIN: u64 = 10 << 20;

/// Days with snapshots that one is compared with: what changed for good becomes usual, but not within some hours.
const DAYS_MAX: usize = 20;

/// Why the last of these snapshots of a target, oldest first with the time of each, is suspicious beside the last ones of the
/// days before; None if it is not.
#[must_use]
pub fn odd(all: &[(UnixMillis, Content)]) -> Option<String> {
    let ((_, last), before) = all.split_last()?;
    let mut days: Vec<(i64, Content)> = Vec::new();
    for (at, content) in before.iter().rev() {
        let day = at.0.div_euclid(DAY_MS);
        if days.last().is_none_or(|(known, _)| *known != day) {
            if days.len() == DAYS_MAX {
                break;
            }
            days.push((day, *content));
        }
    }
    let mut measures: Vec<Content> = days.into_iter().rev().map(|(_, content)| content).collect();
    if measures.len() < BEFORE_MIN {
        measures = before.iter().map(|(_, content)| *content).collect();
    }
    // One that was odd itself is no measure for the next.
    let mut good: Vec<Content> = Vec::new();
    for content in measures {
        if unlike(&content, &good).is_none() {
            good.push(content);
        }
    }
    unlike(last, &good)
}

/// Why the snapshot is suspicious beside the good ones `before` it (in any order); None if it is not. It only makes
/// retention careful, a backup is never refused for it.
pub(super) fn unlike(content: &Content, before: &[Content]) -> Option<String> {
    if before.len() < BEFORE_MIN {
        return None;
    }
    let files = median(before.iter().map(|content| content.files).collect());
    let bytes = median(before.iter().map(|content| content.bytes).collect());
    if files >= FILES_MIN && content.files < files / 2 {
        return Some(format!("it has {} files where {files} are usual", content.files));
    }
    if bytes >= BYTES_MIN && content.bytes < bytes / 2 {
        let (has, usual) = (anshin_base::ByteSize(content.bytes), anshin_base::ByteSize(bytes));
        return Some(format!("it has {has} where {usual} are usual"));
    }
    let share = |content: &Content| content.new_bytes.saturating_mul(100) / content.bytes.max(1);
    let usual = median(before.iter().map(share).collect());
    let now = share(content);
    if content.bytes >= BYTES_MIN && now >= 60 && now >= usual.saturating_mul(5) {
        return Some(format!(
            "{now} % of it is new where {usual} % are usual: was it encrypted by somebody else?"
        ));
    }
    None
}

fn median(mut numbers: Vec<u64>) -> u64 {
    numbers.sort_unstable();
    numbers.get(numbers.len() / 2).copied().unwrap_or(0)
}
