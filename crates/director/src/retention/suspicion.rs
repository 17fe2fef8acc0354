//! Whether a snapshot looks unlike those before it: what ransomware or an emptied source would leave behind.

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
/// Below this little, any change is normal.
const FILES_MIN: u64 = 100;
const BYTES_MIN: u64 = 10 << 20;

/// Why the snapshot is suspicious beside the good ones `before` it (in any order); None if it is not. It only makes
/// retention careful, a backup is never refused for it.
#[must_use]
pub fn unlike(content: &Content, before: &[Content]) -> Option<String> {
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
