//! What every catalog must do, as a suite that takes a way to make an empty one.
//!
//! Panics where an implementation differs.

use super::{
    Catalog, CatalogError, Ended, Fact, Filter, FindQuery, Label, PathChange, PathEntry, PathKind, Pattern,
    Rebuild, VaultSnapshot,
};
use crate::{
    record::{Cause, Drill, DrillKind, Event, EventKind, Outcome, Passed, Place, RunReport, Sealed, Why},
    retention::Standing,
    time::{Span, UnixMillis},
    words::{Attempt, Position, RunId, SnapshotId, TargetKey},
};
use anshin_base::NodeId;
use std::collections::BTreeMap;

const HOUR: i64 = 3_600_000;
const START: i64 = 1_795_000_000_000;

/// Runs the whole suite; `make` gives a new empty catalog each time.
pub fn all(make: &mut dyn FnMut() -> Box<dyn Catalog>) {
    events_are_applied_once_in_order(make().as_mut());
    runs_and_snapshots_are_found_by_what_they_are(make().as_mut());
    holds_and_forgetting_show(make().as_mut());
    a_rebuilt_catalog_says_the_same(make);
    from_the_vault_alone_every_snapshot_is_back(make().as_mut());
    a_gap_is_completed_from_what_the_vault_lists(make().as_mut());
    files_are_found_across_snapshots(make().as_mut());
    a_full_list_is_compared_with_what_is_known(make().as_mut());
    the_index_agrees_with_plain_sets(make);
}

fn at(hour: i64) -> UnixMillis {
    UnixMillis(START + hour * HOUR)
}

fn sealed(run: u64) -> Sealed {
    Sealed {
        snapshot: format!("s{run}").as_str().into(),
        files: run,
        bytes: run * 10,
        new_bytes: run,
        warnings: 0,
    }
}

fn report(run: u64, outcome: Outcome) -> RunReport {
    let hour = run as i64;
    RunReport {
        run: RunId(run),
        plan: "nightly".into(),
        target: if run.is_multiple_of(2) { "service/db".into() } else { "files/web1".into() },
        vault: "main".into(),
        cause: if run == 1 { Cause::CatchUp(3) } else { Cause::Calendar },
        occurrence: Some(at(hour)),
        due: at(hour),
        begun: Some(at(hour)),
        point: Some(at(hour)),
        ended: UnixMillis(at(hour).0 + 60_000),
        attempt: Attempt(1),
        place: Some(Place::Node(NodeId(2))),
        outcome,
    }
}

/// A small history: runs 1 to 6, of which 3 failed and 5 was cancelled; missed occurrences; a drill.
fn history() -> Vec<Event> {
    let mut kinds = Vec::new();
    for run in 1..=6 {
        let outcome = match run {
            3 => Outcome::Failed("no space".into()),
            5 => Outcome::Cancelled("kim".into()),
            run => Outcome::Sealed(sealed(run)),
        };
        kinds.push(EventKind::Ended(report(run, outcome)));
    }
    let passed = Passed {
        plan: "nightly".into(),
        target: "service/db".into(),
        first: at(7),
        last: at(9),
        count: 3,
        why: Why::Missed,
        reason: "nobody was there".into(),
    };
    kinds.push(EventKind::Passed(passed));
    kinds.push(EventKind::Drilled(Drill {
        target: "service/db".into(),
        kind: DrillKind::Restore,
        at: at(10),
        snapshot: Some("s6".into()),
        good: true,
        rpo: Some(Span(60)),
        rto: Some(Span(9)),
        summary: "restored".into(),
    }));
    let event = |(n, kind)| Event { position: Position(n as u64 + 1), at: at(n as i64 + 1), kind };
    kinds.into_iter().enumerate().map(event).collect()
}

fn vault_lists(run: u64) -> Fact {
    let report = report(run, Outcome::Sealed(sealed(run)));
    Fact::Snapshot(VaultSnapshot {
        vault: report.vault,
        plan: report.plan,
        label: Label { run: report.run, attempt: report.attempt, target: report.target },
        at: report.ended,
        sealed: sealed(run),
    })
}

fn filled(catalog: &mut dyn Catalog) {
    for event in history() {
        assert!(catalog.apply(&event).expect("applies"));
    }
}

fn ids(catalog: &dyn Catalog, filter: &Filter) -> Vec<String> {
    catalog.snapshots(filter).expect("lists").into_iter().map(|row| row.snapshot.0).collect()
}

fn events_are_applied_once_in_order(catalog: &mut dyn Catalog) {
    assert_eq!(catalog.position().expect("has a position"), Position(0));
    filled(catalog);
    assert_eq!(catalog.position().expect("has a position"), Position(8));
    assert!(!catalog.apply(&history()[3]).expect("is known"), "an event that comes twice changes nothing");
    let late = Event { position: Position(10), ..history()[0].clone() };
    let error = catalog.apply(&late).expect_err("a gap is refused");
    assert!(matches!(error, CatalogError::Gap { have: Position(8), got: Position(10) }));
    assert_eq!(catalog.position().expect("has a position"), Position(8));
}

fn runs_and_snapshots_are_found_by_what_they_are(catalog: &mut dyn Catalog) {
    filled(catalog);
    let runs = catalog.runs(&Filter::default()).expect("lists");
    assert_eq!(runs.iter().map(|run| run.run.0).collect::<Vec<_>>(), [6, 5, 4, 3, 2, 1], "newest first");
    let first = catalog.run(RunId(1)).expect("looks").expect("is there");
    assert_eq!(first.cause, Some(Cause::CatchUp(3)));
    assert_eq!(first.place, Some(Place::Node(NodeId(2))));
    assert_eq!(first.snapshot, Some("s1".into()));
    let failed = catalog.run(RunId(3)).expect("looks").expect("is there");
    assert_eq!((failed.outcome, failed.reason.as_deref()), (Ended::Failed, Some("no space")));
    assert!(catalog.run(RunId(99)).expect("looks").is_none());
    assert_eq!(ids(catalog, &Filter::default()), ["s6", "s4", "s2", "s1"]);
    let of_target = Filter { target: Some("files/web1".into()), ..Filter::default() };
    assert_eq!(ids(catalog, &of_target), ["s1"]);
    let between = Filter { from: Some(at(2)), to: Some(at(6)), ..Filter::default() };
    assert_eq!(ids(catalog, &between), ["s4", "s2"]);
    assert_eq!(ids(catalog, &Filter { max: Some(1), ..Filter::default() }), ["s6"]);
    assert_eq!(ids(catalog, &Filter { vault: Some("other".into()), ..Filter::default() }), [""; 0]);
    let passed =
        catalog.passed(&Filter { plan: Some("nightly".into()), ..Filter::default() }).expect("lists");
    assert_eq!((passed.len(), passed[0].passed.count, passed[0].passed.why), (1, 3, Why::Missed));
    let drills =
        catalog.drills(&Filter { target: Some("service/db".into()), ..Filter::default() }).expect("lists");
    assert_eq!((drills.len(), drills[0].good, drills[0].rto), (1, true, Some(Span(9))));
}

fn holds_and_forgetting_show(catalog: &mut dyn Catalog) {
    filled(catalog);
    let kinds = [
        EventKind::Held { snapshot: "s1".into(), vault: "main".into(), reason: "kim: court".into() },
        EventKind::Held { snapshot: "s2".into(), vault: "main".into(), reason: "kim: court".into() },
        EventKind::Released { snapshot: "s2".into(), by: "kim".into() },
        EventKind::Forgotten { vault: "main".into(), snapshots: vec!["s2".into()], reason: "no rule".into() },
    ];
    for (n, kind) in kinds.into_iter().enumerate() {
        catalog.apply(&Event { position: Position(9 + n as u64), at: at(20), kind }).expect("applies");
    }
    let row = |id: &str| catalog.snapshot(&id.into()).expect("looks").expect("is there");
    assert_eq!(row("s1").held.as_deref(), Some("kim: court"));
    assert_eq!(row("s2").held, None);
    assert_eq!(row("s2").forgotten, Some(at(20)));
    assert_eq!(ids(catalog, &Filter::default()), ["s6", "s4", "s1"]);
    assert_eq!(ids(catalog, &Filter { forgotten: true, ..Filter::default() }), ["s6", "s4", "s2", "s1"]);
}

fn a_rebuilt_catalog_says_the_same(make: &mut dyn FnMut() -> Box<dyn Catalog>) {
    let mut original = make();
    filled(original.as_mut());
    let mut facts: Vec<Fact> = history().into_iter().map(Fact::Event).collect();
    facts.extend([1, 2, 4, 6].map(vault_lists));
    let how = Rebuild { keep: false, complete: vec!["main".into()], position: Position(8) };
    for reversed in [false, true] {
        if reversed {
            facts.reverse();
        }
        let mut rebuilt = make();
        rebuilt.apply(&history()[0]).expect("applies: what was there before is dropped");
        assert_eq!(rebuilt.rebuild(&how, &mut facts.clone().into_iter()).expect("rebuilds"), 12);
        let filter = Filter { forgotten: true, ..Filter::default() };
        assert_eq!(rebuilt.runs(&filter).expect("lists"), original.runs(&filter).expect("lists"));
        assert_eq!(rebuilt.snapshots(&filter).expect("lists"), original.snapshots(&filter).expect("lists"));
        assert_eq!(rebuilt.passed(&filter).expect("lists"), original.passed(&filter).expect("lists"));
        assert_eq!(rebuilt.drills(&filter).expect("lists"), original.drills(&filter).expect("lists"));
        assert_eq!(rebuilt.position().expect("has a position"), Position(8));
    }
}

fn from_the_vault_alone_every_snapshot_is_back(catalog: &mut dyn Catalog) {
    let how = Rebuild { keep: false, complete: vec!["main".into()], position: Position(8) };
    let mut facts: Vec<Fact> = [1, 2, 4, 6].map(vault_lists).into();
    // An attempt of run 6 that was left behind.
    let Fact::Snapshot(mut left) = vault_lists(6) else { return };
    left.label.attempt = Attempt(0);
    left.sealed.snapshot = "left".into();
    facts.push(Fact::Snapshot(left));
    catalog.rebuild(&how, &mut facts.into_iter()).expect("rebuilds");
    let rows = catalog.snapshots(&Filter::default()).expect("lists");
    assert_eq!(rows.len(), 5);
    for row in rows {
        assert_eq!(row.standing == Standing::Good, row.snapshot.0 != "left", "{row:?}");
    }
    let run = catalog.run(RunId(6)).expect("looks").expect("is there");
    assert_eq!((run.outcome, run.snapshot, run.cause), (Ended::Sealed, Some("s6".into()), None));
    // The next event follows.
    let next = Event { position: Position(9), ..history()[2].clone() };
    assert!(catalog.apply(&next).expect("applies"));
}

fn a_gap_is_completed_from_what_the_vault_lists(catalog: &mut dyn Catalog) {
    filled(catalog);
    let facts = [2, 4, 6, 8].map(vault_lists);
    let how = Rebuild { keep: true, complete: vec!["main".into()], position: Position(50) };
    catalog.rebuild(&how, &mut facts.into_iter()).expect("rebuilds");
    assert_eq!(ids(catalog, &Filter::default()), ["s8", "s6", "s4", "s2"], "s1 is no longer listed");
    assert_eq!(catalog.runs(&Filter::default()).expect("lists").len(), 7, "what was known stays known");
    assert_eq!(catalog.position().expect("has a position"), Position(50));
}

fn entry(size: u64) -> PathEntry {
    PathEntry { kind: PathKind::File, size, modified: 1 }
}

fn change(path: &str, size: Option<u64>) -> PathChange {
    PathChange { path: path.into(), entry: size.map(entry) }
}

/// A path, and per version first and last snapshot and size.
type FoundPath = (String, Vec<(String, String, u64)>);

fn find(catalog: &dyn Catalog, pattern: &str) -> Vec<FoundPath> {
    let pattern = Pattern::new(pattern, false).expect("is a pattern");
    let found = catalog.find(&FindQuery { pattern, target: None, max: 1_000 }).expect("finds");
    let version =
        |version: &super::Version| (version.first.0.clone(), version.last.0.clone(), version.entry.size);
    let hit = |hit: &super::Hit| {
        (String::from_utf8_lossy(&hit.path).into_owned(), hit.versions.iter().map(version).collect())
    };
    found.hits.iter().map(hit).collect()
}

fn files_are_found_across_snapshots(catalog: &mut dyn Catalog) {
    filled(catalog);
    let target = TargetKey::from("service/db");
    assert_eq!(catalog.unindexed(9).expect("lists"), ["s1", "s2", "s4", "s6"].map(SnapshotId::from));
    assert_eq!(catalog.index_base(&target).expect("looks"), None);
    let id = |name: &str| SnapshotId::from(name);
    let mut index = |snapshot: &str, base: Option<&str>, changes: &[PathChange]| {
        catalog.index(&id(snapshot), base.map(SnapshotId::from).as_ref(), &mut changes.iter().cloned())
    };
    index("s2", None, &[change("etc/a", Some(1)), change("srv/Report.odt", Some(2))]).expect("indexes");
    index("s4", Some("s2"), &[change("srv/Report.odt", Some(3))]).expect("indexes");
    assert!(matches!(index("s6", Some("s2"), &[]), Err(CatalogError::Store(_))), "not the base");
    let unordered = [change("b", Some(1)), change("a", Some(1))];
    assert!(matches!(index("s6", Some("s4"), &unordered), Err(CatalogError::Order(_))));
    assert!(matches!(index("s77", None, &[]), Err(CatalogError::NoSnapshot(_))));
    index("s6", Some("s4"), &[change("etc/a", None), change("srv/new", Some(9))]).expect("indexes");
    let versions = |list: &[(&str, &str, u64)]| -> Vec<(String, String, u64)> {
        list.iter().map(|(first, last, size)| ((*first).to_owned(), (*last).to_owned(), *size)).collect()
    };
    assert_eq!(
        find(catalog, "report.odt"),
        [("srv/Report.odt".to_owned(), versions(&[("s2", "s2", 2), ("s4", "s6", 3)]))]
    );
    assert_eq!(find(catalog, "etc/*"), [("etc/a".to_owned(), versions(&[("s2", "s4", 1)]))]);
    assert_eq!(find(catalog, "none*"), []);
    // The answer names the snapshots it says nothing of.
    let everything =
        FindQuery { pattern: Pattern::new("*", false).expect("is a pattern"), target: None, max: 2 };
    let found = catalog.find(&everything).expect("finds");
    assert_eq!((found.hits.len(), found.more, found.unindexed), (2, true, vec![id("s1")]));
    // What only a forgotten snapshot had is not found.
    let kind = EventKind::Forgotten {
        vault: "main".into(),
        snapshots: vec![id("s2"), id("s4")],
        reason: "r".into(),
    };
    catalog.apply(&Event { position: Position(9), at: at(20), kind }).expect("applies");
    assert_eq!(find(catalog, "etc/*"), []);
    assert_eq!(find(catalog, "report*"), [("srv/Report.odt".to_owned(), versions(&[("s6", "s6", 3)]))]);
}

fn a_full_list_is_compared_with_what_is_known(catalog: &mut dyn Catalog) {
    filled(catalog);
    let lists: [&[PathChange]; 3] = [
        &[change("a", Some(1)), change("b", Some(1)), change("c", Some(1))],
        &[change("b", Some(1)), change("c", Some(2)), change("d", Some(1))],
        &[change("a", Some(1)), change("d", Some(1))],
    ];
    for (snapshot, list) in ["s2", "s4", "s6"].into_iter().zip(lists) {
        catalog.index(&snapshot.into(), None, &mut list.iter().cloned()).expect("indexes");
    }
    let names: Vec<_> =
        find(catalog, "*").into_iter().map(|(path, versions)| (path, versions.len())).collect();
    let expected = [("a", 2), ("b", 1), ("c", 2), ("d", 1)].map(|(path, count)| (path.to_owned(), count));
    assert_eq!(names, expected);
}

/// Many snapshots with random changes, some forgotten in between, against a map per snapshot.
fn the_index_agrees_with_plain_sets(make: &mut dyn FnMut() -> Box<dyn Catalog>) {
    let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut below = move |n: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 11) % n
    };
    let mut catalog = make();
    let mut position = 0;
    let mut apply = |catalog: &mut dyn Catalog, kind| {
        position += 1;
        catalog
            .apply(&Event { position: Position(position), at: at(position as i64), kind })
            .expect("applies");
    };
    let mut state: BTreeMap<Vec<u8>, PathEntry> = BTreeMap::new();
    let mut plain: BTreeMap<String, BTreeMap<Vec<u8>, PathEntry>> = BTreeMap::new();
    let mut last: Option<SnapshotId> = None;
    for n in 1..=60_u64 {
        let mut report = report(2 * n, Outcome::Sealed(sealed(2 * n)));
        report.target = "files/big".into();
        apply(catalog.as_mut(), EventKind::Ended(report));
        let before = state.clone();
        for _ in 0..below(200) {
            let path = format!("d{}/f{}", below(30), below(60)).into_bytes();
            if below(3) == 0 {
                state.remove(&path);
            } else {
                state.insert(path, entry(below(5)));
            }
        }
        let snapshot = sealed(2 * n).snapshot;
        let full = below(5) == 0;
        let mut changes: Vec<PathChange> = state
            .iter()
            .filter(|(path, entry)| full || before.get(*path) != Some(entry))
            .map(|(path, entry)| PathChange { path: path.clone(), entry: Some(*entry) })
            .collect();
        if !full {
            let gone = before.keys().filter(|path| !state.contains_key(*path));
            changes.extend(gone.map(|path| PathChange { path: path.clone(), entry: None }));
            changes.sort_by(|a, b| a.path.cmp(&b.path));
        }
        let base = if full { None } else { last.clone() };
        catalog.index(&snapshot, base.as_ref(), &mut changes.into_iter()).expect("indexes");
        plain.insert(snapshot.0.clone(), state.clone());
        last = Some(snapshot);
        if below(3) == 0 {
            let victim = plain.keys().nth(below(plain.len() as u64) as usize).cloned().unwrap_or_default();
            plain.remove(&victim);
            let snapshots = vec![SnapshotId(victim)];
            apply(
                catalog.as_mut(),
                EventKind::Forgotten { vault: "main".into(), snapshots, reason: String::new() },
            );
        }
    }
    let mut expected: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    for snapshot in plain.values() {
        for path in snapshot.keys() {
            *expected.entry(path.clone()).or_default() += 1;
        }
    }
    let pattern = Pattern::new("*", false).expect("is a pattern");
    let found = catalog.find(&FindQuery { pattern, target: None, max: 100_000 }).expect("finds");
    let counted: BTreeMap<Vec<u8>, u64> = found
        .hits
        .iter()
        .map(|hit| (hit.path.clone(), hit.versions.iter().map(|v| v.snapshots).sum()))
        .collect();
    assert_eq!(counted, expected);
    for hit in &found.hits {
        for version in &hit.versions {
            for id in [&version.first, &version.last] {
                assert_eq!(plain[&id.0].get(&hit.path), Some(&version.entry), "{hit:?}");
            }
        }
    }
}
