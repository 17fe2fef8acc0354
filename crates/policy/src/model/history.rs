//! What was done on a node, and how it ended.

use super::{Agent, UnixSeconds};
use crate::Score;

/// Whether an operation came to an end, and how its execution (not the agent) judged it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordStatus {
    /// Still running, or its result was lost.
    Pending,
    /// The agent ended; its exit code tells.
    Done,
    /// Cancelled.
    Cancelled,
    /// Did not end in time.
    TimedOut,
    /// Not supported there.
    NotSupported,
    /// Could not be executed.
    Error,
    /// Failed in a way that is the same everywhere on that node.
    ErrorHard,
    /// Failed in a way that is the same on every node.
    ErrorFatal,
    /// The agent or its tools are missing.
    NotInstalled,
}

/// One operation with its result.
#[derive(Clone, Debug, PartialEq)]
pub struct OperationRecord {
    /// `RESOURCE_OPERATION_INTERVAL`.
    pub key: String,
    /// Start, stop, monitor, promote, demote, migrate_to, migrate_from, …
    pub operation: String,
    /// 0 for one-off operations.
    pub interval_ms: u64,
    /// Order of calls on the node.
    pub call_id: i64,
    /// Exit code of the agent (OCF numbers: 0 well, 7 not running, 8 running promoted, …).
    pub exit_code: i32,
    /// How the execution ended.
    pub status: RecordStatus,
    /// The exit code that was expected (7 for probes of something that should not run).
    pub expected: i32,
    /// When the result came or last changed.
    pub changed: Option<UnixSeconds>,
    /// When the operation was last begun.
    pub last_run: Option<UnixSeconds>,
    /// Digest of all parameters of that call.
    pub digest: Option<String>,
    /// Digest of those parameters whose change needs a restart, and their names.
    pub restart_digest: Option<(String, Vec<String>)>,
    /// Names in the restart list mean "these may be reloaded" instead, if this is false.
    pub migrate_source: Option<String>,
    /// Where a migration went.
    pub migrate_target: Option<String>,
    /// The agent's own words.
    pub exit_reason: String,
}

impl OperationRecord {
    /// An operation that ended with `exit_code`.
    #[must_use]
    pub fn done(resource: &str, operation: &str, interval_ms: u64, call_id: i64, exit_code: i32) -> Self {
        Self {
            key: format!("{resource}_{operation}_{interval_ms}"),
            operation: operation.into(),
            interval_ms,
            call_id,
            exit_code,
            status: RecordStatus::Done,
            expected: 0,
            changed: None,
            last_run: None,
            digest: None,
            restart_digest: None,
            migrate_source: None,
            migrate_target: None,
            exit_reason: String::new(),
        }
    }

    /// The same operation with another expected exit code.
    #[must_use]
    pub fn expecting(mut self, exit_code: i32) -> Self {
        self.expected = exit_code;
        self
    }

    /// The same operation with the time its result came.
    #[must_use]
    pub fn at(mut self, when: UnixSeconds) -> Self {
        self.changed = Some(when);
        self.last_run = Some(when);
        self
    }
}

/// All that is remembered of one resource on one node.
#[derive(Clone, Debug, PartialEq)]
pub struct ResourceHistory {
    /// Name under which it ran (of a clone's instance: with or without number).
    pub resource: String,
    /// What ran.
    pub agent: Agent,
    /// The node that was to be shut down holds the resource until this time (shutdown lock).
    pub locked_since: Option<UnixSeconds>,
    /// Results; one per operation and interval, the newest.
    pub records: Vec<OperationRecord>,
}

impl ResourceHistory {
    /// An empty history.
    #[must_use]
    pub fn new(resource: &str, agent: Agent) -> Self {
        Self { resource: resource.into(), agent, locked_since: None, records: Vec::new() }
    }

    /// Adds a record in place of an older one of the same operation and interval.
    pub fn add(&mut self, record: OperationRecord) {
        self.records.retain(|r| (&r.operation, r.interval_ms) != (&record.operation, record.interval_ms));
        self.records.push(record);
    }
}

/// Failures of one operation of one resource on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailCount {
    /// The resource (without instance number for anonymous clones).
    pub resource: String,
    /// `OPERATION_INTERVAL`, or empty for failures that are not told apart.
    pub operation: String,
    /// How many; INFINITY for "do not try again".
    pub count: Score,
    /// When the last one happened.
    pub last: Option<UnixSeconds>,
}
