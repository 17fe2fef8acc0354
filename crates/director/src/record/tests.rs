use super::*;
use crate::{
    plan::{Locus, nightly},
    time::{Span, UnixMillis},
    words::{Attempt, RunId},
};
use anshin_base::NodeId;
use proptest::prelude::*;

const T: UnixMillis = UnixMillis(1_795_392_000_000);

fn at(seconds: u64) -> UnixMillis {
    T.after(Span(seconds))
}

fn site() -> Records {
    let mut records = Records::default();
    let vault =
        VaultRecord { name: "main".into(), id: "1".into(), url: "/v".into(), node: NodeId(3), concurrent: 0 };
    records.apply(&Change::SetVault(vault)).unwrap();
    records.apply(&set_plan(0, 0)).unwrap();
    records
}

fn set_plan(expect: u64, seconds: u64) -> Change {
    let plan = nightly(&"main".into(), "UTC");
    let text = plan.to_json();
    Change::SetPlan { plan: plan.name, text, vault: "main".into(), expect, at: at(seconds), restart: true }
}

fn open(occurrence: Option<UnixMillis>, expect: UnixMillis) -> Change {
    let run = NewRun {
        plan: "nightly".into(),
        target: "service/db".into(),
        locus: Locus::Service("db".into()),
        cause: Cause::Calendar,
        occurrence,
        due: occurrence.unwrap_or(T),
    };
    Change::Open { run, expect, passed: None, at: at(10) }
}

fn begin(run: u64, expect: u32) -> Change {
    let place = Place::Node(NodeId(1));
    Change::Begin {
        run: RunId(run),
        expect: Attempt(expect),
        place,
        session: 1,
        at: at(u64::from(expect) + 20),
    }
}

fn seal(run: u64, attempt: u32, snapshot: &str) -> Change {
    let sealed = Sealed { snapshot: snapshot.into(), files: 1, bytes: 2, new_bytes: 1, warnings: 0 };
    Change::Seal { run: RunId(run), attempt: Attempt(attempt), sealed, at: at(100) }
}

fn lost(run: u64, attempt: u32) -> Change {
    let reason = "node a is down".to_owned();
    Change::Lost { run: RunId(run), attempt: Attempt(attempt), reason, at: at(50), not_before: at(50) }
}

#[test]
fn an_occurrence_gets_one_run() {
    let mut records = site();
    assert_eq!(records.apply(&open(Some(at(60)), T)), Ok(Applied::Run(RunId(1))));
    assert!(
        matches!(records.apply(&open(Some(at(60)), T)), Err(Refused::Stale(_))),
        "the same proposal twice"
    );
    assert!(matches!(records.apply(&open(Some(at(60)), at(60))), Err(Refused::Stale(_))));
    assert_eq!(records.apply(&open(Some(at(120)), at(60))), Ok(Applied::Run(RunId(2))));
    assert_eq!(records.cursor(&"nightly".into(), &"service/db".into()), Some(at(120)));
    assert_eq!(records.apply(&open(None, T)), Ok(Applied::Run(RunId(3))), "by hand at any time");
}

#[test]
fn only_the_present_attempt_is_admitted_and_sealed() {
    let mut records = site();
    records.apply(&open(Some(at(60)), T)).unwrap();
    assert!(records.apply(&seal(1, 0, "s")).is_err(), "before the first attempt");
    assert_eq!(records.apply(&begin(1, 0)), Ok(Applied::Attempt(Attempt(1))));
    assert!(records.apply(&begin(1, 0)).is_err(), "the same proposal twice");
    assert!(records.admits(RunId(1), Attempt(1)).is_ok());
    records.apply(&lost(1, 1)).unwrap();
    assert!(records.admits(RunId(1), Attempt(1)).is_err(), "between two attempts the vault admits none");
    records.apply(&begin(1, 1)).unwrap();
    assert!(records.admits(RunId(1), Attempt(1)).is_err());
    assert!(records.apply(&seal(1, 1, "old")).is_err());
    assert!(records.apply(&lost(1, 1)).is_err());
    records.apply(&seal(1, 2, "new")).unwrap();
    assert!(records.admits(RunId(1), Attempt(2)).is_err());
    assert!(records.apply(&seal(1, 2, "newer")).is_err());
    let target = records.target(&"nightly".into(), &"service/db".into()).unwrap();
    assert_eq!(target.last_good.as_ref().unwrap().snapshot, "new".into());
    assert_eq!(target.last_good.as_ref().unwrap().point, at(21), "from when the sealed attempt began");
}

#[test]
fn the_newest_good_and_held_snapshots_cannot_be_forgotten() {
    let mut records = site();
    for run in 1..=2 {
        records.apply(&open(None, T)).unwrap();
        records.apply(&begin(run, 0)).unwrap();
        records.apply(&seal(run, 1, &format!("s{run}"))).unwrap();
    }
    let forget = |snapshot: &str| Change::Forget {
        vault: "main".into(),
        snapshots: vec![snapshot.into()],
        reason: "kim".into(),
        at: at(200),
    };
    assert!(matches!(records.apply(&forget("s2")), Err(Refused::InUse(_))));
    let hold = Change::Hold {
        snapshot: "s1".into(),
        vault: "main".into(),
        by: "kim".into(),
        reason: "court".into(),
        at: at(1),
    };
    records.apply(&hold).unwrap();
    let refused = records.apply(&forget("s1")).unwrap_err();
    assert!(refused.to_string().contains("held by kim: court"));
    assert!(anshin_base::Problem::from(refused).refused_for_safety);
    records.apply(&Change::Release { snapshot: "s1".into(), by: "kim".into(), at: at(2) }).unwrap();
    records.apply(&forget("s1")).unwrap();
}

#[test]
fn a_plan_is_changed_only_from_the_revision_that_was_seen_and_removing_it_cancels_its_runs() {
    let mut records = site();
    assert!(matches!(records.apply(&set_plan(0, 5)), Err(Refused::Stale(_))));
    records.apply(&set_plan(1, 5)).unwrap();
    records.apply(&open(Some(at(60)), at(5))).unwrap();
    assert!(matches!(records.apply(&Change::RemoveVault { vault: "main".into() }), Err(Refused::InUse(_))));
    records.apply(&Change::RemovePlan { plan: "nightly".into(), by: "kim".into(), at: at(70) }).unwrap();
    assert!(records.runs.is_empty() && records.targets.is_empty());
    let ended = records.events.iter().rev().find_map(|event| match &event.kind {
        EventKind::Ended(report) => Some(report),
        _ => None,
    });
    let cancelled = Outcome::Cancelled("plan nightly was removed by kim".into());
    assert_eq!(ended.map(|report| &report.outcome), Some(&cancelled));
    records.apply(&Change::RemoveVault { vault: "main".into() }).unwrap();
}

#[test]
fn a_client_token_is_used_once_and_not_after_it_expired() {
    let mut records = site();
    let token = |hash: &str| ClientToken { hash: hash.into(), name: Some("web1".into()), expires: at(60) };
    let join = |hash: &str, name: &str, seconds| Change::JoinClient {
        token: hash.into(),
        at: at(seconds),
        client: NewClient { name: name.into(), fingerprint: "f".into(), platform: "linux".into() },
    };
    for hash in ["a", "b", "c"] {
        records.apply(&Change::AddClientToken { token: token(hash), at: T }).unwrap();
    }
    assert!(matches!(records.apply(&join("a", "web2", 1)), Err(Refused::Token(_))), "it names its client");
    assert!(matches!(records.apply(&join("a", "web1", 60)), Err(Refused::Token(_))), "expired");
    assert_eq!(records.apply(&join("a", "web1", 1)), Ok(Applied::Client(ClientId(1))));
    assert!(matches!(records.apply(&join("a", "web1", 1)), Err(Refused::Token(_))), "used");
    assert!(matches!(records.apply(&join("b", "web1", 1)), Err(Refused::Exists(_))));
    records.apply(&Change::RevokeClient { client: ClientId(1), at: at(2) }).unwrap();
    assert_eq!(
        records.apply(&join("b", "web1", 3)),
        Ok(Applied::Client(ClientId(2))),
        "another one of that name"
    );
    assert_eq!(records.client_named("web1").unwrap().id, ClientId(2));
}

#[test]
fn events_are_numbered_and_only_the_newest_are_kept() {
    let mut records = site();
    for n in 0..EVENTS_MAX as u64 + 5 {
        let snapshot = SnapshotId(n.to_string());
        let hold = Change::Hold {
            snapshot: snapshot.clone(),
            vault: "main".into(),
            by: "k".into(),
            reason: String::new(),
            at: T,
        };
        records.apply(&hold).unwrap();
        if n > 0 {
            records.apply(&Change::Release { snapshot, by: "k".into(), at: T }).unwrap();
        }
    }
    assert_eq!(records.events.len(), EVENTS_MAX);
    let newest = records.position;
    assert_eq!(records.events_after(newest).unwrap().count(), 0);
    assert_eq!(records.events_after(Position(newest.0 - 7)).unwrap().count(), 7);
    assert_eq!(records.events_after(Position(newest.0 - EVENTS_MAX as u64)).unwrap().count(), EVENTS_MAX);
    assert!(records.events_after(Position(3)).is_none(), "some of them are gone: rebuild");
    assert_eq!(Records::default().events_after(Position(0)).unwrap().count(), 0);
}

#[test]
fn long_texts_are_cut_at_a_character() {
    assert_eq!(cut(&"ä".repeat(400)).len(), TEXT_BYTES_MAX);
    assert_eq!(cut(&format!("x{}", "ä".repeat(400))).len(), TEXT_BYTES_MAX - 1);
}

/// The bytes of version 1; a change of them is a change of the format.
#[test]
fn changes_have_the_bytes_of_version_one() {
    let changes = [
        (begin(7, 1), "01000d0701000101"),
        (lost(7, 1), "01000f07010e6e6f6465206120697320646f776e"),
        (seal(7, 2, "s"), "0100110702017301020100"),
        (Change::Release { snapshot: "s".into(), by: "k".into(), at: UnixMillis(1) }, "0100160173016b02"),
    ];
    for (change, hex) in changes {
        let bytes = change.encode();
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(text.starts_with(hex), "{change:?}: {text}");
        assert_eq!(Change::decode(&bytes).unwrap(), change);
    }
}

#[test]
fn records_read_back_as_written_and_another_version_is_named() {
    let mut records = site();
    records.apply(&open(Some(at(60)), T)).unwrap();
    records.apply(&begin(1, 0)).unwrap();
    let mut bytes = records.encode();
    assert_eq!(Records::decode(&bytes).unwrap(), records);
    assert_eq!(Records::decode(&[&bytes[..], &[0]].concat()), Err(CodecError::Trailing(1)));
    bytes[0] = 9;
    assert_eq!(Records::decode(&bytes), Err(CodecError::Version(9)));
    assert_eq!(Records::decode(&[1]), Err(CodecError::Short));
}

proptest! {
    #[test]
    fn no_bytes_break_the_decoders(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), versioned in any::<bool>()) {
        if versioned && bytes.len() > 1 {
            bytes[0] = 1;
            bytes[1] = 0;
        }
        let _ = (Records::decode(&bytes), Change::decode(&bytes));
    }
}
