//! [`Pattern`]: which names or paths are looked for.

use anshin_base::Problem;

/// Longest pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 4_096;

/// `*` stands for any bytes, `?` for one. Without a slash it is matched with the last name of a path, with one with the
/// whole path; a slash in front means the same as none. Letters A–Z match in both cases unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    glob: Vec<u8>,
    whole: bool,
    exact_case: bool,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// `pattern` if it is empty or too long.
    pub fn new(text: &str, exact_case: bool) -> Result<Self, Problem> {
        if text.is_empty() || text.len() > PATTERN_BYTES_MAX {
            return Err(Problem::new("pattern", "an empty pattern, or one that is too long")
                .hint("a name (`report.odt`), with `*` and `?` (`*.odt`), or a path (`srv/data/*`)"));
        }
        let whole = text.contains('/');
        let mut glob = text.strip_prefix('/').unwrap_or(text).as_bytes().to_vec();
        if !exact_case {
            glob.make_ascii_lowercase();
        }
        // Several stars on end are one; it saves going back over them.
        glob.dedup_by(|a, b| *a == b'*' && *b == b'*');
        Ok(Self { glob, whole, exact_case })
    }

    /// Whether `path` is looked for.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        let start =
            if self.whole { 0 } else { path.iter().rposition(|&b| b == b'/').map_or(0, |slash| slash + 1) };
        let text = &path[start..];
        let same = |a: u8, b: u8| a == b || (!self.exact_case && a == b.to_ascii_lowercase());
        // The newest star and how far into the text it reached: where to go on when the rest does not match.
        let (mut at, mut in_text, mut star) = (0, 0, None);
        while in_text < text.len() {
            match self.glob.get(at) {
                Some(b'*') => {
                    star = Some((at, in_text));
                    at += 1;
                }
                Some(b'?') => (at, in_text) = (at + 1, in_text + 1),
                Some(&wanted) if same(wanted, text[in_text]) => (at, in_text) = (at + 1, in_text + 1),
                _ => match star {
                    Some((star_at, reached)) => {
                        star = Some((star_at, reached + 1));
                        (at, in_text) = (star_at + 1, reached + 1);
                    }
                    None => return false,
                },
            }
        }
        self.glob[at..].iter().all(|&b| b == b'*')
    }
}
