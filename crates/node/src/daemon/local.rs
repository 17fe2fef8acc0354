//! What this node remembers of its resources: results, failures, recurring monitors. Kept in the run directory, so that
//! a restarted daemon still knows what it started; gone after a reboot, when nothing runs any more.

use super::messages::{Failures, Order, Record, ResourceReport, Work};
use crate::supervise::write_whole;
use anshin_agent::{OperationResult, Rc};
use anshin_base::{Millis, Problem};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, path::PathBuf};

/// A monitor that is repeated until its resource is stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recurring {
    /// How often.
    pub interval: Millis,
    /// How long one may take.
    pub timeout: Millis,
    /// The exit code that means "as expected".
    pub expected: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    work: Work,
    records: Vec<Record>,
    failures: Vec<Failures>,
    recurring: Vec<Recurring>,
}

/// The node's memory of its resources.
#[derive(Debug)]
pub struct LocalResources {
    file: PathBuf,
    known: BTreeMap<String, Known>,
    /// Order of calls; continues over restarts of the daemon because records carry it.
    call: u64,
}

impl LocalResources {
    /// What an earlier daemon of this boot left in `file`; empty if there is none.
    ///
    /// # Errors
    /// A file that cannot be read. One that is damaged counts as none: everything is then probed again.
    pub fn load(file: PathBuf) -> Result<Self, Problem> {
        let known: BTreeMap<String, Known> = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                let what = format!("cannot read {}: {error}", file.display());
                return Err(Problem::new("resources-read", what));
            }
        };
        let calls = known.values().flat_map(|known| known.records.iter().map(|record| record.call));
        let call = calls.max().unwrap_or(0);
        Ok(Self { file, known, call })
    }

    /// An operation ended. Returns true if the result was the expected one.
    pub fn ended(&mut self, order: &Order, result: OperationResult, at: i64) -> bool {
        self.call += 1;
        let well = result.status == anshin_agent::Status::Done && result.rc.0 == order.expected;
        let probe = order.operation == "monitor" && order.interval.0 == 0;
        let known = self.known.entry(order.resource.clone()).or_insert_with(|| Known {
            work: order.work.clone(),
            records: Vec::new(),
            failures: Vec::new(),
            recurring: Vec::new(),
        });
        known.work.clone_from(&order.work);
        if order.operation == "stop" && well {
            // Of something stopped nothing is watched any more, and what its monitors said is past.
            known.recurring.clear();
            known.records.retain(|record| record.operation != "monitor");
        }
        // A probe that finds what it did not expect is knowledge, not a failure of the resource.
        let told = probe && result.rc != Rc::GENERIC;
        if !well && !told {
            count_failure(&mut known.failures, order, at);
        }
        let operation = order.operation.clone();
        known.records.retain(|record| (&record.operation, record.interval) != (&operation, order.interval));
        known.records.push(Record {
            operation,
            interval: order.interval,
            call: self.call,
            expected: order.expected,
            result,
            at,
        });
        if order.interval.0 > 0
            && !known.recurring.iter().any(|recurring| recurring.interval == order.interval)
        {
            known.recurring.push(Recurring {
                interval: order.interval,
                timeout: order.timeout,
                expected: order.expected,
            });
        }
        self.save();
        well
    }

    /// Whether a recurring monitor is still wanted.
    #[must_use]
    pub fn recurs(&self, resource: &str, interval: Millis) -> bool {
        let recurring = self.known.get(resource).map(|known| &known.recurring);
        recurring.is_some_and(|all| all.iter().any(|recurring| recurring.interval == interval))
    }

    /// Ends a recurring monitor and forgets what it said.
    pub fn cancel(&mut self, resource: &str, interval: Millis) {
        if let Some(known) = self.known.get_mut(resource) {
            known.recurring.retain(|recurring| recurring.interval != interval);
            known.records.retain(|record| record.interval != interval || record.interval.0 == 0);
            self.save();
        }
    }

    /// Forgets the failures of a resource, and with `everything` its results too, so that it is looked for anew.
    pub fn clean_up(&mut self, resource: &str, everything: bool) {
        if let Some(known) = self.known.get_mut(resource) {
            known.failures.clear();
            if everything {
                known.records.clear();
                known.recurring.clear();
            } else {
                let well = |record: &Record| record.result.rc.0 == record.expected;
                known.records.retain(|record| record.interval.0 == 0 || well(record));
            }
            self.save();
        }
    }

    /// Forgets resources that are no longer configured; what watches them ends. Returns what they were.
    pub fn keep(&mut self, configured: impl Fn(&str) -> bool) -> Vec<Work> {
        let (kept, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.known).into_iter().partition(|(id, _)| configured(id));
        self.known = kept;
        if !gone.is_empty() {
            self.save();
        }
        gone.into_values().map(|known| known.work).collect()
    }

    /// The resource was taken down outside of any order (R12): its state is what a stop would have left.
    pub fn taken_down(&mut self, resource: &str, at: i64) {
        let Some(known) = self.known.get(resource) else { return };
        let order = Order {
            request: 0,
            resource: resource.to_owned(),
            work: known.work.clone(),
            operation: "stop".into(),
            interval: Millis(0),
            timeout: Millis(0),
            expected: 0,
            needs_mount: None,
        };
        self.ended(&order, OperationResult::done(Rc::OK), at);
    }

    /// Recurring monitors to take up again after a restart of the daemon, as orders.
    #[must_use]
    pub fn recurring(&self) -> Vec<Order> {
        let orders = self.known.iter().flat_map(|(resource, known)| {
            known.recurring.iter().map(|recurring| Order {
                request: 0,
                resource: resource.clone(),
                work: known.work.clone(),
                operation: "monitor".into(),
                interval: recurring.interval,
                timeout: recurring.timeout,
                expected: recurring.expected,
                needs_mount: None,
            })
        });
        orders.collect()
    }

    /// What the others are told.
    #[must_use]
    pub fn reports(&self) -> Vec<ResourceReport> {
        let reports = self.known.iter().map(|(id, known)| ResourceReport {
            id: id.clone(),
            records: known.records.clone(),
            failures: known.failures.clone(),
        });
        reports.collect()
    }

    fn save(&self) {
        let bytes = serde_json::to_vec(&self.known).expect("invariant: plain data is JSON");
        // Losing this file only means that everything is probed again.
        if let Err(error) = write_whole(&self.file, &bytes) {
            tracing::warn!(file = %self.file.display(), %error, "cannot keep the state of resources");
        }
    }
}

fn count_failure(failures: &mut Vec<Failures>, order: &Order, at: i64) {
    let same = |known: &&mut Failures| known.operation == order.operation && known.interval == order.interval;
    match failures.iter_mut().find(same) {
        Some(known) => {
            known.count = known.count.saturating_add(1);
            known.last = at;
        }
        None => failures.push(Failures {
            operation: order.operation.clone(),
            interval: order.interval,
            count: 1,
            last: at,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(operation: &str, interval: u64, expected: u8) -> Order {
        Order {
            request: 1,
            resource: "db.program".into(),
            work: Work::Volume { volume: "data".into() },
            operation: operation.into(),
            interval: Millis(interval),
            timeout: Millis(1_000),
            expected,
            needs_mount: None,
        }
    }

    fn scratch(name: &str) -> PathBuf {
        let file = std::env::temp_dir().join(format!("anshin-local-{name}-{}.json", std::process::id()));
        let _ = fs::remove_file(&file);
        file
    }

    #[test]
    fn a_failed_monitor_is_counted_and_a_stop_forgets_what_monitors_said() {
        let file = scratch("monitor");
        let mut local = LocalResources::load(file.clone()).unwrap();
        assert!(local.ended(&order("start", 0, 0), OperationResult::done(Rc::OK), 1));
        assert!(local.ended(&order("monitor", 5_000, 0), OperationResult::done(Rc::OK), 2));
        assert!(!local.ended(&order("monitor", 5_000, 0), OperationResult::done(Rc::NOT_RUNNING), 3));
        assert_eq!(local.reports()[0].failures[0].count, 1);
        assert!(local.recurs("db.program", Millis(5_000)));
        assert!(local.ended(&order("stop", 0, 0), OperationResult::done(Rc::OK), 4));
        assert!(!local.recurs("db.program", Millis(5_000)));
        assert!(local.reports()[0].records.iter().all(|record| record.operation != "monitor"));
        assert_eq!(local.reports()[0].running(), Some(false));
        fs::remove_file(file).unwrap();
    }

    #[test]
    fn a_restarted_daemon_knows_what_runs_and_what_is_watched() {
        let file = scratch("restart");
        let mut local = LocalResources::load(file.clone()).unwrap();
        local.ended(&order("start", 0, 0), OperationResult::done(Rc::OK), 1);
        local.ended(&order("monitor", 5_000, 0), OperationResult::done(Rc::OK), 2);
        let again = LocalResources::load(file.clone()).unwrap();
        assert_eq!(again.reports()[0].running(), Some(true));
        assert_eq!(again.recurring()[0].interval, Millis(5_000));
        assert_eq!(again.call, 2);
        fs::remove_file(file).unwrap();
    }

    #[test]
    fn what_is_no_longer_configured_is_forgotten_and_told() {
        let file = scratch("keep");
        let mut local = LocalResources::load(file.clone()).unwrap();
        local.ended(&order("start", 0, 0), OperationResult::done(Rc::OK), 1);
        assert!(local.keep(|_| true).is_empty());
        assert_eq!(local.keep(|_| false), [Work::Volume { volume: "data".into() }]);
        assert!(local.keep(|_| false).is_empty() && local.reports().is_empty());
        fs::remove_file(file).unwrap();
    }

    #[test]
    fn a_probe_that_finds_nothing_is_no_failure() {
        let file = scratch("probe");
        let mut local = LocalResources::load(file.clone()).unwrap();
        local.ended(&order("monitor", 0, 7), OperationResult::done(Rc::OK), 1);
        assert!(local.reports()[0].failures.is_empty());
        assert_eq!(local.reports()[0].running(), Some(true));
        fs::remove_file(file).unwrap();
    }
}
