//! Configured operations.

use super::Role;
use std::collections::BTreeMap;

/// What a failure of an operation leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OnFail {
    /// Nothing.
    Ignore,
    /// Stop and start, possibly elsewhere.
    Restart,
    /// Stop and stay stopped everywhere.
    Stop,
    /// Touch the resource no more.
    Block,
    /// Demote, then promote again.
    Demote,
    /// Put the node into standby.
    Standby,
    /// Fence the node.
    Fence,
}

impl OnFail {
    /// Reads the documented words.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "ignore" | "nothing" => Some(Self::Ignore),
            "restart" => Some(Self::Restart),
            "stop" => Some(Self::Stop),
            "block" => Some(Self::Block),
            "demote" => Some(Self::Demote),
            "standby" => Some(Self::Standby),
            "fence" => Some(Self::Fence),
            _ => None,
        }
    }
}

/// An operation of a resource as configured.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Operation {
    /// Start, stop, monitor, promote, …
    pub name: String,
    /// 0 for one-off operations.
    pub interval_ms: u64,
    /// How long it may take; the default of the cluster if missing.
    pub timeout_ms: Option<u64>,
    /// What a failure leads to; the documented default of the operation if missing.
    pub on_fail: Option<OnFail>,
    /// Recurring monitors: the role in which it runs.
    pub role: Option<Role>,
    /// False keeps it from running.
    pub enabled: bool,
    /// Further options (`start-delay`, `record-pending`, …).
    pub meta: BTreeMap<String, String>,
    /// Parameters for this operation only.
    pub parameters: BTreeMap<String, String>,
}

impl Operation {
    /// A recurring monitor.
    #[must_use]
    pub fn monitor(interval_ms: u64, timeout_ms: u64) -> Self {
        Self::new("monitor", timeout_ms).every(interval_ms)
    }

    /// An operation with its timeout.
    #[must_use]
    pub fn new(name: &str, timeout_ms: u64) -> Self {
        Self { name: name.into(), timeout_ms: Some(timeout_ms), enabled: true, ..Self::default() }
    }

    /// The same operation, repeated.
    #[must_use]
    pub fn every(mut self, interval_ms: u64) -> Self {
        self.interval_ms = interval_ms;
        self
    }

    /// The same operation with another consequence of its failure.
    #[must_use]
    pub fn on_fail(mut self, on_fail: OnFail) -> Self {
        self.on_fail = Some(on_fail);
        self
    }
}
