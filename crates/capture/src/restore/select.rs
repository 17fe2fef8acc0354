//! Which part of a tree is meant.

use anshin_base::Problem;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

/// A subtree, and optionally patterns of what is wanted of it.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// The directory whose contents, or the file which, is wanted; names from the top of the snapshot.
    pub(crate) base: Vec<Vec<u8>>,
    /// What is wanted beneath it; everything if there are none.
    patterns: Option<GlobSet>,
}

impl Selection {
    /// Everything.
    pub fn all() -> Self {
        Self::default()
    }

    /// What lies at `path` in the snapshot: the contents of a directory, or one file.
    pub fn beneath(path: &[u8]) -> Self {
        let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".");
        Self { base: names.map(<[u8]>::to_vec).collect(), patterns: None }
    }

    /// Only what matches one of these globs (relative to the subtree), with everything beneath it. `*` does not match a
    /// slash, `**` does.
    ///
    /// # Errors
    /// If one is not a glob; the message names it.
    pub fn only<'p>(mut self, globs: impl IntoIterator<Item = &'p str>) -> Result<Self, Problem> {
        let mut set = GlobSetBuilder::new();
        for glob in globs {
            let bad = |error: globset::Error| {
                Problem::new("glob", format!("`{glob}` is not a pattern: {error}"))
                    .hint("write for example etc/**/*.conf; * does not match a slash")
            };
            set.add(
                GlobBuilder::new(glob.trim_start_matches('/'))
                    .literal_separator(true)
                    .build()
                    .map_err(bad)?,
            );
        }
        let set = set.build().map_err(|error| Problem::new("glob", error.to_string()))?;
        self.patterns = (!set.is_empty()).then_some(set);
        Ok(self)
    }

    /// Whether everything beneath the base is meant.
    pub fn is_whole(&self) -> bool {
        self.patterns.is_none()
    }

    /// Whether a path beneath the base is meant itself.
    pub(crate) fn matches(&self, path: &[u8]) -> bool {
        self.patterns.as_ref().is_none_or(|set| set.is_match(Path::new(OsStr::from_bytes(path))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_within_names_unless_doubled() {
        let selection = Selection::all().only(["etc/*.conf", "**/deep", "/srv"]).unwrap();
        let cases: [(&[u8], bool); 6] = [
            (b"etc/a.conf", true),
            (b"etc/b/a.conf", false),
            (b"a/b/deep", true),
            (b"srv", true),
            (b"x/srv", false),
            (b"\xff/deep", true),
        ];
        for (path, expected) in cases {
            assert_eq!(selection.matches(path), expected, "{}", path.escape_ascii());
        }
        assert!(Selection::all().matches(b"anything"));
        assert!(Selection::all().only(["a["]).is_err());
        assert_eq!(Selection::beneath(b"/srv//data/./x/").base, [&b"srv"[..], b"data", b"x"]);
    }
}
