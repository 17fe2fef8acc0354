//! The replica: the one owner of all state.

use crate::api::{Config, Input, Output};
use crate::status::Status;
use anshin_base::Mono;

/// One node's copy of a volume.
#[derive(Debug)]
pub struct Replica {
    config: Config,
}

impl Replica {
    /// Starts a replica that was made by [`crate::Format`]. It reads its metadata through `out` and greets nobody
    /// before that is done and its new session is durable.
    #[must_use]
    pub fn open(config: Config, now: Mono, out: &mut Vec<Output>) -> Self {
        let _ = (now, out);
        Self { config }
    }

    /// Takes one input at the time `now` and appends what is to be done to `out`, in order. `now` never goes back.
    pub fn handle(&mut self, now: Mono, input: Input, out: &mut Vec<Output>) {
        let _ = (now, input, out, &self.config);
    }
}

impl Replica {
    /// What it is now; None while its metadata is still being read.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        None
    }
}
