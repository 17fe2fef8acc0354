//! Everything that is wrong with a plan, said at once.

use super::{Hook, Plan, Source};
use crate::{
    calendar::time_zone,
    record::TARGET_BYTES_MAX,
    words::{PlanName, VaultName},
};
use anshin_base::Problem;
use std::collections::{BTreeMap, BTreeSet};

/// Most sources, hooks, tags of one plan.
const ENTRIES_MAX: usize = 1_000;
/// Most attempts a plan may ask for.
const RETRY_ATTEMPTS_MAX: u32 = 100;

/// Names that the site knows. A None is not checked.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Vaults.
    pub vaults: Option<BTreeSet<String>>,
    /// Nodes and clients.
    pub machines: Option<BTreeSet<String>>,
    /// Services.
    pub services: Option<BTreeSet<String>>,
    /// Volumes.
    pub volumes: Option<BTreeSet<String>>,
    /// Plugins.
    pub plugins: Option<BTreeSet<String>>,
}

impl Plan {
    /// Everything that is wrong; empty if nothing is.
    #[must_use]
    pub fn check(&self, known: &Known) -> Vec<Problem> {
        let mut found = Vec::new();
        found.extend(PlanName::checked(&self.name.0).err());
        found.extend(VaultName::checked(&self.vault.0).err());
        found.extend(missing("vault", &self.vault.0, known.vaults.as_ref()));
        found.extend(time_zone(&self.zone).err());
        // One line at a time, so that each bad one is named.
        for line in &self.when {
            found.extend(super::Calendar::parse(&[line], "UTC").err());
        }
        self.check_sources(known, &mut found);
        self.check_keep(&mut found);
        self.check_limits(&mut found);
        for (place, hooks) in [("before", &self.before), ("after", &self.after)] {
            hooks.iter().for_each(|hook| check_hook(place, hook, &mut found));
        }
        for (what, length) in [
            ("entries of `what`", self.what.len()),
            ("schedules", self.when.len() * ENTRIES_MAX / crate::calendar::SCHEDULES_MAX),
            ("commands", self.before.len().max(self.after.len())),
            ("tags", self.tags.len().max(self.keep.tags.len())),
        ] {
            if length > ENTRIES_MAX {
                found.push(problem(format!("has too many {what}")).hint("split it into several plans"));
            }
        }
        found.into_iter().map(|problem| problem.context(format_args!("plan {}", self.name))).collect()
    }

    fn check_sources(&self, known: &Known, found: &mut Vec<Problem>) {
        if self.what.is_empty() {
            found.push(
                problem("backs up nothing")
                    .hint("add `[[what]]` with `kind = \"protected\"` for everything protected"),
            );
        }
        let mut keys = BTreeMap::new();
        for source in &self.what {
            check_source(source, known, found);
            let Some(key) = source.key() else { continue };
            if key.0.len() > TARGET_BYTES_MAX {
                found.push(
                    problem(format!("has a source whose key is longer than {TARGET_BYTES_MAX} bytes: {key}"))
                        .hint("give it a shorter `name`, or use a shorter path to the device"),
                );
            }
            if keys.insert(key.clone(), source).is_some() {
                found.push(
                    problem(format!("names {key} twice"))
                        .hint("merge the two, or give one of them a `name` of its own"),
                );
            }
        }
    }

    fn check_keep(&self, found: &mut Vec<Problem>) {
        if self.keep.keeps_nothing() {
            found.push(
                problem("keeps nothing but the newest snapshot")
                    .hint("add keep-rules, for example `keep = { daily = 7, weekly = 5, monthly = 12 }`; `last = 1` if that is meant"),
            );
        }
    }

    fn check_limits(&self, found: &mut Vec<Problem>) {
        if self.retry.attempts == 0 || self.retry.attempts > RETRY_ATTEMPTS_MAX {
            found.push(
                problem(format!("asks for {} attempts", self.retry.attempts))
                    .hint(format!("1 (no retry) to {RETRY_ATTEMPTS_MAX}")),
            );
        }
        for (name, span) in [
            ("run_time", self.limits.run_time),
            ("wait", self.limits.wait),
            ("expect", self.expect),
            ("drill", self.drill),
        ] {
            if span.is_some_and(|span| span.0 == 0) {
                found.push(
                    problem(format!("has `{name}` of no time at all")).hint("leave it out for no limit"),
                );
            }
        }
        if self.limits.bandwidth.0 != 0 && self.limits.bandwidth.0 < 1_024 {
            found.push(
                problem(format!("limits the bandwidth to {} a second", self.limits.bandwidth))
                    .hint("a number is bytes a second; 10 MiB a second is 10485760"),
            );
        }
    }
}

fn check_source(source: &Source, known: &Known, found: &mut Vec<Problem>) {
    match source {
        Source::Protected { .. } => {}
        Source::Service { service, plugin } => {
            found.extend(missing("service", service, known.services.as_ref()));
            if let Some(plugin) = plugin {
                found.extend(missing("plugin", plugin, known.plugins.as_ref()));
            }
        }
        Source::Volume { volume, .. } => found.extend(missing("volume", volume, known.volumes.as_ref())),
        Source::Files { on, paths, .. } => {
            found.extend(missing("machine", on, known.machines.as_ref()));
            if paths.is_empty() {
                found
                    .push(problem(format!("names no paths on {on}")).hint("`paths = [\"/\"]` is everything"));
            }
            paths.iter().for_each(|path| absolute(path, found));
        }
        Source::Image { on, device } => {
            found.extend(missing("machine", on, known.machines.as_ref()));
            absolute(device, found);
        }
        Source::Command { on, name, command } => {
            found.extend(missing("machine", on, known.machines.as_ref()));
            if command.is_empty() || name.is_empty() || name.contains('/') {
                found.push(
                    problem(format!(
                        "has a command on {on} without program, or whose name is empty or has a slash"
                    ))
                    .hint("`kind = \"command\"`, `name = \"all.sql\"`, `command = [\"pg_dumpall\"]`"),
                );
            }
        }
    }
}

fn check_hook(place: &str, hook: &Hook, found: &mut Vec<Problem>) {
    if hook.run.first().is_none_or(String::is_empty) {
        found.push(
            problem(format!("has an empty command in `{place}`"))
                .hint("`run = [\"/usr/local/bin/quiesce\", \"--now\"]`; there is no shell in between"),
        );
    }
}

fn absolute(path: &str, found: &mut Vec<Problem>) {
    if !path.starts_with('/') || path.contains('\0') {
        found.push(problem(format!("has the path {path:?}")).hint("paths are absolute, as in `/srv/data`"));
    }
}

fn missing(what: &str, name: &str, known: Option<&BTreeSet<String>>) -> Option<Problem> {
    let known = known?;
    if known.contains(name) {
        return None;
    }
    let list: Vec<&str> = known.iter().take(10).map(String::as_str).collect();
    let hint = if list.is_empty() {
        format!("there is no {what} yet")
    } else {
        format!("known: {}", list.join(", "))
    };
    Some(problem(format!("names the {what} `{name}`, which is not known")).hint(hint))
}

fn problem(message: impl Into<String>) -> Problem {
    Problem::new("plan-check", message)
}
