//! Names and identifiers of the director. Each is a type of its own.

use anshin_base::Problem;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest name of a plan, vault, client, service or volume, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            /// The name, checked.
            ///
            /// # Errors
            /// `name-format` if it is empty, too long, or has characters that names do not have.
            pub fn checked(name: &str) -> Result<Self, Problem> {
                check_name($what, name)?;
                Ok(Self(name.to_owned()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                Self(name.to_owned())
            }
        }
    };
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $repr:ty, $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $repr);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    };
}

name!(
    /// Name of a plan.
    PlanName,
    "plan"
);
name!(
    /// Name of a vault.
    VaultName,
    "vault"
);
name!(
    /// Name of a machine whose data is backed up and that is no node of the site.
    ClientName,
    "client"
);
name!(
    /// What a run backs up, as one stable word: `service/db`, `volume/data`, `files/web1`. Runs and snapshots of one
    /// target follow each other; the key of everything that is remembered per protected thing.
    TargetKey,
    "target"
);
name!(
    /// A snapshot in a vault, by the identifier that the vault gave it.
    SnapshotId,
    "snapshot"
);

number!(
    /// One execution of a plan for one target. Given by the records, never used again.
    RunId, u64, "run-{}"
);
number!(
    /// Number of an attempt within its run; the first is 1. It is the epoch that decides whose seal counts.
    Attempt, u32, "{}"
);
number!(
    /// A client, for ever: a client that was removed and joined again under its old name is another one.
    ClientId, u64, "c{}"
);
number!(
    /// Position of an event in the director's history; grows by one with each.
    Position, u64, "{}"
);

impl Attempt {
    /// The attempt after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// Letters, digits, `-`, `_`, `.`, `@`; not at the front: `-` and `.`.
fn check_name(what: &str, name: &str) -> Result<(), Problem> {
    let good = |c: char| c.is_alphanumeric() || "-_.@".contains(c);
    let problem = if name.is_empty() {
        "is empty".to_owned()
    } else if name.len() > NAME_BYTES_MAX {
        format!("is longer than {NAME_BYTES_MAX} bytes")
    } else if name.starts_with(['-', '.']) {
        "begins with `-` or `.`".to_owned()
    } else if let Some(bad) = name.chars().find(|&c| !good(c)) {
        format!("contains {bad:?}")
    } else {
        return Ok(());
    };
    Err(Problem::new("name-format", format!("the {what} name {name:?} {problem}"))
        .hint("use letters, digits, `-`, `_`, `.` and `@`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_letters_digits_and_a_few_marks() {
        for good in ["nightly", "postgresql@15-main", "büro", "a.b_c"] {
            assert_eq!(PlanName::checked(good).unwrap().0, good);
        }
        let long = "x".repeat(65);
        for bad in ["", "a b", "a/b", "-x", ".x", "a\n", long.as_str()] {
            let problem = PlanName::checked(bad).unwrap_err();
            assert_eq!(problem.code, "name-format", "{bad:?}");
            assert!(problem.hint.is_some());
        }
    }
}
