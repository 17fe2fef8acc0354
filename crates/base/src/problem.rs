//! What a user is told when something cannot be done.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A refusal or failure as the user sees it: a stable code, what failed on what and why, and what to do.
/// The same value travels through the API and is printed by the CLI.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Stable, kebab-case, never reused for another meaning.
    pub code: String,
    /// What failed, on what, and why; one sentence without a full stop.
    pub message: String,
    /// What the user can do about it, printed as `hint: …`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// True if the request was understood and refused because carrying it out could lose data.
    #[serde(default)]
    pub refused_for_safety: bool,
}

impl Problem {
    /// A problem without a hint.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), hint: None, refused_for_safety: false }
    }

    /// A request that is refused because it could lose data (exit code 3).
    pub fn refused(code: &str, message: impl Into<String>) -> Self {
        Self { refused_for_safety: true, ..Self::new(code, message) }
    }

    /// The same problem with what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same problem with where it happened put before the message.
    #[must_use]
    pub fn context(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.message, self.code)?;
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}
