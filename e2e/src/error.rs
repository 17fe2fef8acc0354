//! Errors of the lab: what was being done, and why it did not work.

use std::{fmt::Display, io};

/// Why the lab could not do something.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The operating system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A tool ended with an error.
    #[error("{command}: {output}")]
    Tool {
        /// The command as run.
        command: String,
        /// Its last words.
        output: String,
    },
    /// The request makes no sense in the lab's present state, or a check found what must not be.
    #[error("{0}")]
    Refused(String),
    /// Something this machine lacks; a check that needs it is skipped, not failed.
    #[error("{0}")]
    Missing(String),
}

/// Result of the lab.
pub type Result<T> = std::result::Result<T, LabError>;

/// Adds what was being done to a system error.
pub trait Context<T> {
    /// The same result with a description of the attempt.
    fn at(self, what: impl Display) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn at(self, what: impl Display) -> Result<T> {
        self.map_err(|source| LabError::Io { what: what.to_string(), source })
    }
}

impl<T> Context<T> for rustix::io::Result<T> {
    fn at(self, what: impl Display) -> Result<T> {
        self.map_err(|errno| LabError::Io { what: what.to_string(), source: errno.into() })
    }
}

impl<T> Context<T> for serde_json::Result<T> {
    fn at(self, what: impl Display) -> Result<T> {
        self.map_err(|error| LabError::Refused(format!("{what}: {error}")))
    }
}

/// A refusal in one expression.
pub fn refuse<T>(message: impl Into<String>) -> Result<T> {
    Err(LabError::Refused(message.into()))
}
