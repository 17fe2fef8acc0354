//! Patterns of what to leave out, as in `.gitignore`.

use anshin_base::Problem;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path, sync::Arc};

/// Compiled patterns; they see paths within the snapshot. `*.tmp` matches anywhere, `/var/cache` from the top,
/// `build/` only directories, `!keep.tmp` takes back.
#[derive(Clone, Debug, Default)]
pub struct Excludes {
    compiled: Option<Arc<Gitignore>>,
}

impl Excludes {
    /// Compiles patterns; the last that matches a path decides.
    ///
    /// # Errors
    /// If one is not a pattern; the message names it.
    pub fn new<'p>(patterns: impl IntoIterator<Item = &'p str>) -> Result<Self, Problem> {
        let mut builder = GitignoreBuilder::new("");
        let mut any = false;
        for pattern in patterns {
            any = true;
            builder.add_line(None, pattern).map_err(|error| {
                Problem::new("exclude-pattern", format!("`{pattern}` is not a pattern: {error}"))
                    .hint("write patterns as in .gitignore, for example *.tmp or /var/cache/")
            })?;
        }
        let compiled = builder.build().map_err(|error| {
            Problem::new("exclude-pattern", format!("the patterns cannot be used: {error}"))
        })?;
        Ok(Self { compiled: any.then(|| Arc::new(compiled)) })
    }

    /// True if there are none, so that paths need not be known.
    pub fn is_empty(&self) -> bool {
        self.compiled.is_none()
    }

    /// Whether a path (without leading slash) is left out. What lies beneath an excluded directory is never asked for.
    pub fn matches(&self, path: &[u8], is_directory: bool) -> bool {
        let path = Path::new(OsStr::from_bytes(path));
        self.compiled.as_ref().is_some_and(|compiled| compiled.matched(path, is_directory).is_ignore())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_gitignore() {
        let excludes =
            Excludes::new(["*.tmp", "!keep.tmp", "/var/cache", "build/", "a/**/z", "\\#odd"]).unwrap();
        let cases: [(&[u8], bool, bool); 11] = [
            (b"x.tmp", false, true),
            (b"deep/er/x.tmp", false, true),
            (b"deep/keep.tmp", false, false),
            (b"var/cache", true, true),
            (b"srv/var/cache", true, false),
            (b"src/build", true, true),
            (b"src/build", false, false),
            (b"a/b/c/z", false, true),
            (b"#odd", false, true),
            (b"\xff\xfe.tmp", false, true),
            (b"\xff\xfe", false, false),
        ];
        for (path, directory, expected) in cases {
            assert_eq!(excludes.matches(path, directory), expected, "{}", path.escape_ascii());
        }
        assert!(Excludes::new([]).unwrap().is_empty());
        assert_eq!(Excludes::new(["a{b"]).unwrap_err().code, "exclude-pattern");
    }
}
