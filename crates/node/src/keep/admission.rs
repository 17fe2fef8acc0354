//! Which snapshots may come to be: of a run only those of its present attempt, by the ledger's records.

use super::{link::Admission, members::LedgerView};
use anshin_director::{
    PlanName, TargetKey,
    catalog::{Label, LogLabel},
    record::Refused,
};
use anshin_link::Party;
use anshin_vault::SnapshotRecord;
use std::time::{Duration, Instant};

/// An attempt may be sealed by an executor that knows more of the ledger than this node does: this long it is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Asks the ledger's records, as this node knows them. A snapshot that names no run (made by hand) may always come to be.
pub struct RunAdmission {
    ledger: LedgerView,
    patience: Duration,
}

/// What the records say.
enum Verdict {
    Yes,
    /// What this node knows may be old.
    Perhaps(String),
    No(String),
}

impl RunAdmission {
    /// Goes by `ledger`.
    #[must_use]
    pub fn new(ledger: LedgerView) -> Self {
        Self { ledger, patience: PATIENCE }
    }

    fn look(&self, label: &Label, plan: &str) -> Verdict {
        let Some(state) = self.ledger.state() else {
            return Verdict::Perhaps("the site's ledger has not been read yet".into());
        };
        let records = state.director.records();
        match records.admits(label.run, label.attempt) {
            Ok(run) if run.target != label.target || run.plan.0 != plan => Verdict::No(format!(
                "{} is of {} in plan {}, not of {} in plan {plan}",
                label.run, run.target, run.plan, label.target
            )),
            Ok(_) => Verdict::Yes,
            Err(refused) => {
                // A run that was never opened, or an attempt that was not begun, as far as is known here.
                let ahead = match records.runs.get(&label.run) {
                    Some(run) => label.attempt > run.attempt,
                    None => label.run > records.run_last,
                };
                let why = match refused {
                    Refused::Missing(_) => format!("{} is not open", label.run),
                    refused => refused.to_string(),
                };
                if ahead { Verdict::Perhaps(why) } else { Verdict::No(why) }
            }
        }
    }
}

impl Admission for RunAdmission {
    fn may_seal(&self, party: &Party, record: &SnapshotRecord) -> Result<(), String> {
        let judged = match party {
            // By its name a run's snapshot counts as the site's backup, whoever made it.
            Party::Client(client) if !record.run.is_empty() => {
                Err(format!("client {} works on no run of the site", client.name))
            }
            _ => self.judge(&record.run, &record.plan),
        };
        judged.inspect_err(|why| {
            tracing::info!(%party, run = record.run, why, "a snapshot is not let in");
        })
    }
}

impl RunAdmission {
    /// The continuous archive of a service's log belongs to no run; it is let in as long as its plan is there.
    fn judge_log(&self, target: &TargetKey, plan: &str) -> Result<(), String> {
        let state = self.ledger.state().ok_or("the site's ledger has not been read yet; try again")?;
        match state.director.records().plans.contains_key(&PlanName(plan.to_owned())) {
            true => Ok(()),
            false => Err(format!("there is no plan {plan} to which the log of {target} would belong")),
        }
    }

    fn judge(&self, run: &str, plan: &str) -> Result<(), String> {
        if run.is_empty() {
            return Ok(());
        }
        if let Ok(log) = run.parse::<LogLabel>() {
            return self.judge_log(&log.target, plan);
        }
        let label = run.parse::<Label>().map_err(|_| format!("{run:?} names no run"))?;
        let until = Instant::now() + self.patience;
        loop {
            match self.look(&label, plan) {
                Verdict::Yes => return Ok(()),
                Verdict::No(why) => return Err(why),
                Verdict::Perhaps(_) if Instant::now() < until => {
                    std::thread::sleep(LOOK_AGAIN);
                }
                Verdict::Perhaps(why) => return Err(why),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anshin_base::{LedgerIndex, NodeId};
    use anshin_director::{
        Attempt, RunId, UnixMillis,
        plan::{Locus, nightly},
        record::{Cause, Change, NewRun, Place, VaultRecord},
    };
    use anshin_ledger::{Command, State};
    use anshin_link::{ClientIdentity, PeerIdentity, SiteId};
    use anshin_vault::{ChunkId, SnapshotStats};

    const AT: UnixMillis = UnixMillis(1_000);

    fn begin(expect: u32) -> Change {
        let place = Place::Node(NodeId(1));
        Change::Begin { run: RunId(1), expect: Attempt(expect), place, session: 1, at: AT }
    }

    /// A site whose run 1 is in its attempt 2.
    fn state() -> State {
        let plan = nightly(&"main".into(), "UTC");
        let (name, id, url) = ("main".into(), "1".to_owned(), "/v".to_owned());
        let run = NewRun {
            plan: plan.name.clone(),
            target: "service/db".into(),
            locus: Locus::Service("db".into()),
            cause: Cause::Calendar,
            occurrence: None,
            due: AT,
        };
        let lost = Change::Lost {
            run: RunId(1),
            attempt: Attempt(1),
            reason: "node a is down".into(),
            at: AT,
            not_before: AT,
        };
        let set = Change::SetPlan {
            plan: plan.name.clone(),
            text: plan.to_json(),
            vault: "main".into(),
            expect: 0,
            at: AT,
            restart: true,
        };
        let mut state = State::default();
        for change in [
            Change::SetVault(VaultRecord { name, id, url, node: NodeId(3), concurrent: 0 }),
            set,
            Change::Open { run, expect: UnixMillis(0), passed: None, at: AT },
            begin(0),
            lost,
            begin(1),
        ] {
            state.apply(LedgerIndex(9), &Command::Director(change)).unwrap();
        }
        state
    }

    fn admission() -> RunAdmission {
        let ledger = LedgerView::new();
        ledger.show(state());
        RunAdmission { ledger, patience: Duration::ZERO }
    }

    fn may(admission: &RunAdmission, run: &str, plan: &str) -> Result<(), String> {
        admission.judge(run, plan)
    }

    #[test]
    fn only_the_present_attempt_leaves_a_snapshot() {
        let admission = admission();
        assert_eq!(may(&admission, "run-1/2:service/db", "nightly"), Ok(()));
        let old = may(&admission, "run-1/1:service/db", "nightly").unwrap_err();
        assert!(old.contains("was replaced by attempt 2"), "{old}");
        for (run, plan) in [
            ("run-1/3:service/db", "nightly"),
            ("run-2/1:service/db", "nightly"),
            ("run-1/2:service/web", "nightly"),
            ("run-1/2:service/db", "other"),
            ("whatever", "nightly"),
        ] {
            assert!(may(&admission, run, plan).is_err(), "{run} {plan}");
        }
    }

    #[test]
    fn a_client_from_outside_seals_nothing_that_counts_as_a_backup_of_the_site() {
        let admission = admission();
        let (site, name) = (SiteId([1; 16]), "a".to_owned());
        let client = Party::Client(ClientIdentity { site, client: 1, name: name.clone() });
        let node = Party::Node(PeerIdentity { site, node: NodeId(1), name });
        let record = |run: &str| SnapshotRecord {
            id: anshin_vault::SnapshotId([1; 16]),
            client: "a".into(),
            plan: "nightly".into(),
            run: run.into(),
            time: 0,
            root: ChunkId([0; 32]),
            stats: SnapshotStats::default(),
            meta: Vec::new(),
        };
        for run in ["run-1/2:service/db", "log:service/db"] {
            assert_eq!(admission.may_seal(&node, &record(run)), Ok(()));
            assert!(admission.may_seal(&client, &record(run)).is_err(), "{run}");
        }
        assert_eq!(admission.may_seal(&client, &record("")), Ok(()));
    }

    #[test]
    fn what_was_made_by_hand_names_no_run_and_is_let_in() {
        assert_eq!(may(&admission(), "", "manual"), Ok(()));
    }

    #[test]
    fn the_log_of_a_service_is_let_in_while_its_plan_is_there() {
        assert_eq!(may(&admission(), "log:service/db", "nightly"), Ok(()));
        assert!(may(&admission(), "log:service/db", "gone").is_err());
    }

    /// The executor learned of its attempt from a node that is ahead of this one.
    #[test]
    fn an_attempt_that_is_not_known_here_yet_is_waited_for() {
        let ledger = LedgerView::new();
        ledger.show(State::default());
        let admission = RunAdmission { ledger: ledger.clone(), patience: Duration::from_secs(60) };
        let later = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            ledger.show(state());
        });
        assert_eq!(may(&admission, "run-1/2:service/db", "nightly"), Ok(()));
        later.join().unwrap();
    }
}
