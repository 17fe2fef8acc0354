//! A unit as systemd describes it.

use super::bus::Bus;
use crate::resource::{OperationResult, Rc, Status};
use anshin_base::Problem;
use std::collections::HashMap;
use zbus::{OwnedObjectPath, OwnedVariant};

/// One command of `ExecStart`: program, arguments, whether failure is ignored, four times, pid, code, status.
type Exec = (String, Vec<String>, bool, u64, u64, u64, u64, u32, i32, i32);

/// What anshin wants to know of a unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unit {
    /// Its full name.
    pub name: String,
    /// `loaded`, `not-found`, `masked`, `error`, …
    pub load_state: String,
    /// `active`, `reloading`, `inactive`, `failed`, `activating`, `deactivating`.
    pub active_state: String,
    /// The state in the unit's own terms, such as `running` or `exited`.
    pub sub_state: String,
    /// Of a service: `simple`, `notify`, `forking`, `oneshot`, …
    pub service_type: String,
    /// The programs and arguments it starts.
    pub exec_start: Vec<Vec<String>>,
    /// Its main process; 0 if it has none.
    pub main_pid: u32,
    /// `success` or how it failed.
    pub result: String,
    /// Its cgroup.
    pub control_group: String,
    /// Units that say they are part of it.
    pub consists_of: Vec<String>,
    /// `enabled`, `disabled`, `static`, `indirect`, …
    pub file_state: String,
}

impl Unit {
    pub(super) async fn read(bus: &Bus, name: &str, path: &OwnedObjectPath) -> Result<Self, Problem> {
        let general = bus.properties(path, "org.freedesktop.systemd1.Unit").await?;
        let mut unit = Self {
            name: text(&general, "Id").unwrap_or_else(|| name.to_owned()),
            load_state: text(&general, "LoadState").unwrap_or_default(),
            active_state: text(&general, "ActiveState").unwrap_or_default(),
            sub_state: text(&general, "SubState").unwrap_or_default(),
            consists_of: value::<Vec<String>>(&general, "ConsistsOf").unwrap_or_default(),
            file_state: text(&general, "UnitFileState").unwrap_or_default(),
            ..Self::default()
        };
        // Sockets, mounts and timers have no process of the kind that is asked for here.
        if unit.name.ends_with(".service") && (unit.load_state == "loaded" || !unit.is_down()) {
            let service = bus.properties(path, "org.freedesktop.systemd1.Service").await?;
            let exec: Vec<Exec> = value(&service, "ExecStart").unwrap_or_default();
            unit.exec_start = exec.into_iter().map(|exec| exec.1).collect();
            unit.service_type = text(&service, "Type").unwrap_or_default();
            unit.result = text(&service, "Result").unwrap_or_default();
            unit.control_group = text(&service, "ControlGroup").unwrap_or_default();
            unit.main_pid = value(&service, "MainPID").unwrap_or_default();
        }
        Ok(unit)
    }

    /// Refuses a unit that systemd would not start, with what can be done about it.
    pub(super) fn check_startable(&self) -> Result<(), Problem> {
        let name = &self.name;
        Err(match self.load_state.as_str() {
            "not-found" => Problem::new("no-such-unit", format!("this node has no unit {name}"))
                .hint("systemctl list-unit-files shows what there is"),
            "masked" => Problem::new("unit-masked", format!("{name} is masked on this node"))
                .hint(format!("systemctl unmask {name}")),
            "bad-setting" | "error" => {
                let message = format!("systemd cannot read the file of {name} ({})", self.load_state);
                Problem::new("unit-invalid", message).hint(format!("systemd-analyze verify {name} shows why"))
            }
            _ => return Ok(()),
        })
    }

    /// False for a unit that only stands for others: a oneshot whose commands all do nothing, or that has none.
    #[must_use]
    pub fn runs_a_process(&self) -> bool {
        const NOTHING: [&str; 4] = ["/bin/true", "/usr/bin/true", "/bin/echo", "/usr/bin/echo"];
        if !self.name.ends_with(".service") || self.main_pid > 0 {
            return self.main_pid > 0;
        }
        self.service_type != "oneshot"
            || self.exec_start.iter().any(|exec| {
                exec.first().is_some_and(|program| !NOTHING.contains(&program.trim_start_matches('-')))
            })
    }

    /// Refuses a unit that systemd starts by itself when the node boots: on whatever lies below the mount point then, and
    /// perhaps on two nodes at once.
    pub(super) fn check_not_enabled(&self) -> Result<(), Problem> {
        // `static` and `indirect` units are started by others only. `enabled-runtime` is what a generator says, as Debian's of every
        // cluster of PostgreSQL: it cannot be disabled, and without its data on the node it ends at boot.
        if self.file_state != "enabled" {
            return Ok(());
        }
        let name = &self.name;
        let message = format!("{name} is {}: systemd would start it by itself at boot", self.file_state);
        Err(Problem::refused("unit-enabled", message)
            .hint(format!("on every data node: systemctl disable {name}; anshin starts it where it belongs")))
    }

    /// What it does, for a message.
    #[must_use]
    pub fn what_it_does(&self) -> String {
        let commands: Vec<String> = self.exec_start.iter().map(|exec| exec.join(" ")).collect();
        match commands.as_slice() {
            [] if self.service_type.is_empty() => "it is not a service".to_owned(),
            [] => format!("Type={}, no ExecStart", self.service_type),
            _ => format!("Type={}, ExecStart={}", self.service_type, commands.join("; ")),
        }
    }

    /// True if it is stopped and nothing is under way.
    #[must_use]
    pub fn is_down(&self) -> bool {
        matches!(self.active_state.as_str(), "inactive" | "failed")
    }

    /// The state as the answer of a monitor.
    pub(super) fn as_monitor(&self) -> OperationResult {
        let state = format!("{} is {} ({})", self.name, self.active_state, self.sub_state);
        match self.active_state.as_str() {
            // A service that should run a process and has none left is not up, whatever it is called.
            "active" if self.sub_state == "exited" && self.service_type != "oneshot" => {
                OperationResult::failed(Rc::GENERIC, Status::Done, state)
            }
            "active" | "reloading" | "refreshing" => OperationResult::done(Rc::OK),
            "inactive" => OperationResult::done(Rc::NOT_RUNNING),
            "failed" => {
                let why = format!("{}: {}", state, self.result);
                let hint = Some(format!("journalctl -u {} shows why", self.name));
                OperationResult { hint, ..OperationResult::failed(Rc::NOT_RUNNING, Status::Done, why) }
            }
            _ => OperationResult::failed(Rc::GENERIC, Status::Done, state),
        }
    }
}

type Properties = HashMap<String, OwnedVariant>;

fn value<T: TryFrom<OwnedVariant>>(properties: &Properties, name: &str) -> Option<T> {
    T::try_from(properties.get(name)?.try_clone().ok()?).ok()
}

fn text(properties: &Properties, name: &str) -> Option<String> {
    value(properties, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(kind: &str, exec: &[&str]) -> Unit {
        Unit {
            name: "x.service".to_owned(),
            load_state: "loaded".to_owned(),
            service_type: kind.to_owned(),
            exec_start: exec.iter().map(|line| line.split(' ').map(str::to_owned).collect()).collect(),
            ..Unit::default()
        }
    }

    #[test]
    fn an_umbrella_runs_no_process() {
        assert!(!service("oneshot", &["/bin/true"]).runs_a_process());
        assert!(!service("oneshot", &[]).runs_a_process());
        assert!(service("oneshot", &["/usr/sbin/exportfs -a"]).runs_a_process());
        assert!(service("forking", &["/usr/bin/pg_ctlcluster 15-main start"]).runs_a_process());
        assert!(!Unit { name: "x.socket".to_owned(), ..Unit::default() }.runs_a_process());
        let message = service("oneshot", &["/bin/true"]).what_it_does();
        assert_eq!(message, "Type=oneshot, ExecStart=/bin/true");
    }

    #[test]
    fn states_become_ocf_codes() {
        let code = |active: &str, sub: &str| {
            let unit =
                Unit { active_state: active.into(), sub_state: sub.into(), ..service("simple", &["/x"]) };
            unit.as_monitor().rc
        };
        assert_eq!(code("active", "running"), Rc::OK);
        assert_eq!(code("reloading", "reload"), Rc::OK);
        assert_eq!(code("inactive", "dead"), Rc::NOT_RUNNING);
        assert_eq!(code("failed", "failed"), Rc::NOT_RUNNING);
        assert_eq!(code("activating", "start"), Rc::GENERIC);
        assert_eq!(code("active", "exited"), Rc::GENERIC);
    }
}
