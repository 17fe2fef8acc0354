//! What a resource is, which operations it knows, and what an operation answers. All of it is data.

use anshin_base::{Millis, Problem};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// Who knows how to run the resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// An OCF resource agent: a program under `/usr/lib/ocf/resource.d/PROVIDER/TYPE`.
    Ocf,
    /// A systemd unit, asked for over D-Bus.
    Systemd,
    /// A command line that anshin starts and supervises itself.
    Command,
    /// Part of anshin: `address` (held by the guard) and `demo`.
    Builtin,
}

/// One thing a node starts, stops and monitors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    /// The instance's name, unique in the site: letters, digits, `.`, `_`, `-`, `:` and `@`.
    pub name: String,
    /// Who knows how to run it.
    pub class: Class,
    /// Of an OCF agent: its provider, `heartbeat` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The agent's type, the unit's name, or the built-in's name; of a command any word.
    #[serde(rename = "type")]
    pub kind: String,
    /// The agent's parameters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
    /// Meta attributes, which OCF agents see as `OCF_RESKEY_CRM_meta_*`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, String>,
    /// Timeouts that differ from what the agent advises.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub timeouts: BTreeMap<Action, Millis>,
}

/// Longest name of a resource: it becomes part of file names.
const NAME_LENGTH_MAX: usize = 128;

impl Resource {
    /// A resource without parameters.
    pub fn new(name: impl Into<String>, class: Class, kind: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            class,
            provider: None,
            kind: kind.into(),
            parameters: BTreeMap::new(),
            meta: BTreeMap::new(),
            timeouts: BTreeMap::new(),
        }
    }

    /// The same resource with one more parameter.
    #[must_use]
    pub fn with(mut self, parameter: &str, value: impl Into<String>) -> Self {
        self.parameters.insert(parameter.to_owned(), value.into());
        self
    }

    /// The provider of an OCF agent.
    #[must_use]
    pub fn provider(&self) -> &str {
        self.provider.as_deref().unwrap_or("heartbeat")
    }

    /// A parameter's value, if it is given and not empty.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Refuses names that could leave the directories they become file names in.
    ///
    /// # Errors
    /// A problem with the code `bad-resource-name`.
    pub fn check_name(&self) -> Result<(), Problem> {
        let part = |text: &str| {
            !text.is_empty()
                && text.len() <= NAME_LENGTH_MAX
                && !text.starts_with('.')
                && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-:@".contains(c))
        };
        let agent = self.class != Class::Ocf || (part(self.provider()) && part(&self.kind));
        if part(&self.name) && agent {
            return Ok(());
        }
        Err(Problem::new(
            "bad-resource-name",
            format!("`{}` ({}) is not a usable name for a resource", self.name, self.label()),
        )
        .hint("use letters, digits, and . _ - : @; not a dot first"))
    }

    /// The resource's agent in the usual notation, such as `ocf:heartbeat:pgsql` or `systemd:nginx.service`.
    #[must_use]
    pub fn label(&self) -> String {
        match self.class {
            Class::Ocf => format!("ocf:{}:{}", self.provider(), self.kind),
            Class::Systemd => format!("systemd:{}", self.kind),
            Class::Command => format!("command:{}", self.kind),
            Class::Builtin => format!("builtin:{}", self.kind),
        }
    }
}

/// What is asked of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Bring it up; it is well when this answers 0.
    Start,
    /// Bring it down; answers 0 also if it is down already.
    Stop,
    /// Is it up? 0 running, 7 cleanly stopped, anything else failed.
    Monitor,
    /// Is it configured so that it can run here?
    ValidateAll,
    /// Describe yourself (OCF only).
    MetaData,
}

impl Action {
    /// The word an OCF agent is called with.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Monitor => "monitor",
            Self::ValidateAll => "validate-all",
            Self::MetaData => "meta-data",
        }
    }
}

/// One operation to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What is asked.
    pub action: Action,
    /// Of a repeated monitor: how often it is asked. 0 is a probe.
    pub interval: Millis,
    /// How long it may take; None asks the resource's timeouts, then the agent's advice, then 20 s.
    pub timeout: Option<Millis>,
    /// How deep a monitor looks (`OCF_CHECK_LEVEL`): 0, 10 or 20.
    pub depth: u8,
}

impl Operation {
    /// An operation with the resource's own timeout, not repeated.
    #[must_use]
    pub const fn new(action: Action) -> Self {
        Self { action, interval: Millis(0), timeout: None, depth: 0 }
    }

    /// The same operation with a timeout of its own.
    #[must_use]
    pub const fn within(mut self, timeout: Millis) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The same operation as one of a series.
    #[must_use]
    pub const fn every(mut self, interval: Millis) -> Self {
        self.interval = interval;
        self
    }
}

/// An OCF exit code. Results of the other classes are translated into the same codes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rc(pub u8);

impl Rc {
    /// Done; of a monitor: running.
    pub const OK: Self = Self(0);
    /// It failed; trying again may help.
    pub const GENERIC: Self = Self(1);
    /// A parameter is wrong on this node.
    pub const ARGUMENTS: Self = Self(2);
    /// The agent does not know the action.
    pub const UNIMPLEMENTED: Self = Self(3);
    /// Not permitted.
    pub const PERMISSION: Self = Self(4);
    /// Something it needs is not installed on this node.
    pub const NOT_INSTALLED: Self = Self(5);
    /// A parameter is wrong everywhere.
    pub const NOT_CONFIGURED: Self = Self(6);
    /// Cleanly stopped.
    pub const NOT_RUNNING: Self = Self(7);
    /// Running and promoted.
    pub const PROMOTED: Self = Self(8);
    /// Promoted and failed.
    pub const FAILED_PROMOTED: Self = Self(9);
    /// Running, but not as well as it should.
    pub const DEGRADED: Self = Self(190);
    /// Promoted, but not as well as it should.
    pub const DEGRADED_PROMOTED: Self = Self(191);

    /// The code in words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self.0 {
            0 => "ok",
            1 => "failed",
            2 => "wrong parameter here",
            3 => "not implemented",
            4 => "not permitted",
            5 => "not installed",
            6 => "wrong configuration",
            7 => "not running",
            8 => "running and promoted",
            9 => "promoted and failed",
            190 => "degraded",
            191 => "promoted and degraded",
            _ => "unknown exit code",
        }
    }
}

impl fmt::Display for Rc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.words(), self.0)
    }
}

impl fmt::Debug for Rc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rc({}, {})", self.0, self.words())
    }
}

/// How an operation ended, apart from its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// The agent answered; its code says what.
    Done,
    /// It was killed at its timeout.
    TimedOut,
    /// The agent could not be run, or died by a signal.
    Error,
    /// There is no such agent on this node.
    NotInstalled,
}

/// What one operation answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationResult {
    /// The answer as an OCF code.
    pub rc: Rc,
    /// How it ended.
    pub status: Status,
    /// Why it failed, in one line for the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the user can do about it, if anshin knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The end of what it printed, both streams together for all but `meta-data`; bounded.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
    /// How long it took.
    pub duration: Millis,
}

impl OperationResult {
    /// An answer without output.
    #[must_use]
    pub fn done(rc: Rc) -> Self {
        Self {
            rc,
            status: Status::Done,
            reason: None,
            hint: None,
            output: String::new(),
            duration: Millis(0),
        }
    }

    /// A failure that has a reason.
    pub fn failed(rc: Rc, status: Status, reason: impl Into<String>) -> Self {
        Self { status, reason: Some(reason.into()), ..Self::done(rc) }
    }

    /// A failure told as a problem.
    #[must_use]
    pub fn from_problem(rc: Rc, status: Status, problem: Problem) -> Self {
        Self { hint: problem.hint, ..Self::failed(rc, status, problem.message) }
    }

    /// True if the action did what it was asked for; for a monitor: running.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.status == Status::Done && self.rc == Rc::OK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_a_directory_are_refused() {
        for name in ["", "..", ".hidden", "a/b", "a b", "a\n"] {
            let problem = Resource::new(name, Class::Command, "x").check_name().unwrap_err();
            assert_eq!(problem.code, "bad-resource-name", "{name:?}");
        }
        let mut agent = Resource::new("a", Class::Ocf, "../../bin/sh");
        assert!(agent.check_name().is_err());
        agent.kind = "IPaddr2".to_owned();
        assert!(agent.check_name().is_ok());
        agent.provider = Some("../x".to_owned());
        assert!(agent.check_name().is_err());
    }

    #[test]
    fn a_resource_reads_as_the_json_it_is_written_as() {
        let text = r#"{"name":"db","class":"ocf","type":"pgsql","parameters":{"pgport":"5433"},
            "timeouts":{"start":60000,"validate-all":5000}}"#;
        let resource: Resource = serde_json::from_str(text).unwrap();
        assert_eq!(resource.label(), "ocf:heartbeat:pgsql");
        assert_eq!(resource.timeouts[&Action::Start], Millis(60_000));
        let again: Resource = serde_json::from_str(&serde_json::to_string(&resource).unwrap()).unwrap();
        assert_eq!(again, resource);
    }
}
