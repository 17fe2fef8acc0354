//! The states in words, for everything that shows them to people.

use super::{Level, NodeState, ReplicaState, Role, RunState};

impl ReplicaState {
    /// For people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::InSync => "in sync",
            Self::Resyncing => "resyncing",
            Self::Behind => "behind",
            Self::Unknown => "unknown",
            Self::OldImage => "old image",
            Self::Failed => "failed",
        }
    }
}

impl RunState {
    /// For people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Starting => "starting",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Blocked => "blocked",
            Self::Unknown => "unknown",
        }
    }
}

impl NodeState {
    /// For people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "silent",
            Self::Standby => "standby",
            Self::Maintenance => "maintenance",
        }
    }
}

impl Role {
    /// For people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Witness => "witness",
            Self::Vault => "vault",
        }
    }
}

impl Level {
    /// For people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Green => "protected",
            Self::Amber => "at risk",
            Self::Unknown => "not known",
            Self::Red => "broken",
        }
    }
}
