//! Why a backup or restore ended early.

use crate::tree::ReadError;
use anshin_base::Problem;
use anshin_vault::VaultError;
use rustix::io::Errno;

/// A reason to stop. Whatever concerns only some files is an issue in the report instead.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// Somebody asked to stop.
    #[error("it was cancelled")]
    Cancelled,
    /// The vault did not take an object.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The snapshot cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A system call on something that the user named failed.
    #[error("{what} `{}`: {error}", path.escape_ascii())]
    Io {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: Vec<u8>,
        /// Why it failed.
        error: Errno,
    },
    /// The target has no room for more.
    #[error("the target is full at `{}`, after {written} bytes", path.escape_ascii())]
    Full {
        /// The file that was being written.
        path: Vec<u8>,
        /// How much had been written in all.
        written: u64,
    },
    /// What was asked for makes no sense, or would overwrite something.
    #[error(transparent)]
    Refused(#[from] Box<Problem>),
}

impl CaptureError {
    pub(crate) fn io(what: &'static str, path: &[u8], error: impl Into<Errno>) -> Self {
        Self::Io { what, path: path.into(), error: error.into() }
    }

    pub(crate) fn problem(problem: Problem) -> Self {
        Self::Refused(Box::new(problem))
    }
}

impl From<CaptureError> for Problem {
    fn from(error: CaptureError) -> Self {
        let message = error.to_string();
        match error {
            CaptureError::Cancelled => Self::new("cancelled", message),
            CaptureError::Vault(error) | CaptureError::Read(ReadError::Vault(error)) => error.into(),
            CaptureError::Read(ReadError::Damaged { .. }) => Self::new("snapshot-damaged", message)
                .hint("run `anshin vault verify` to see which snapshots and files are concerned"),
            CaptureError::Io { .. } => Self::new("capture-io", message),
            CaptureError::Full { .. } => Self::new("target-full", message)
                .hint("make room and start again with the policy `if-different`: what is complete is not written again"),
            CaptureError::Refused(problem) => *problem,
        }
    }
}
