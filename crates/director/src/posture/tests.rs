use super::*;
use crate::{
    plan::{Inventory, Plan, ServiceInfo, nightly},
    record::{Cause, Change, DrillKind, LastEnd, NewRun, Place, Records, Sealed, TargetRecord, VaultRecord},
    run::VaultSeen,
    words::{Attempt, RunId, VaultName},
};
use anshin_base::NodeId;
use proptest::prelude::*;

const DAY: i64 = 86_400_000;
const START: UnixMillis = UnixMillis(1_795_392_000_000);

fn inventory() -> Inventory {
    Inventory {
        services: vec![ServiceInfo {
            name: "db".into(),
            volume: Some("data".into()),
            ..ServiceInfo::default()
        }],
        volumes: vec!["data".into()],
    }
}

fn records(change: impl FnOnce(&mut Plan)) -> Records {
    let mut records = Records::default();
    let vault =
        VaultRecord { name: "main".into(), id: "1".into(), url: "/v".into(), node: NodeId(3), concurrent: 0 };
    records.apply(&Change::SetVault(vault)).unwrap();
    let mut plan = nightly(&VaultName::from("main"), "UTC");
    change(&mut plan);
    let set = Change::SetPlan {
        plan: plan.name.clone(),
        text: plan.to_json(),
        vault: "main".into(),
        expect: 0,
        at: START,
        restart: true,
    };
    records.apply(&set).unwrap();
    records
}

fn backed_up(records: &mut Records, at: UnixMillis) {
    let run = NewRun {
        plan: "nightly".into(),
        target: "service/db".into(),
        locus: crate::plan::Locus::Service("db".into()),
        cause: Cause::Operator("kim".into()),
        occurrence: None,
        due: at,
    };
    records.apply(&Change::Open { run, expect: at, passed: None, at }).unwrap();
    let (run, place) = (records.run_last, Place::Node(NodeId(1)));
    records.apply(&Change::Begin { run, expect: Attempt(0), place, session: 1, at }).unwrap();
    let sealed = Sealed { snapshot: format!("s{}", run.0).as_str().into(), ..Sealed::default() };
    records.apply(&Change::Seal { run, attempt: Attempt(1), sealed, at: at.after(Span(60)) }).unwrap();
}

fn target(records: &mut Records) -> &mut TargetRecord {
    records.targets.get_mut(&("nightly".into(), "service/db".into())).unwrap()
}

fn seen() -> Settings {
    let mut settings = Settings::default();
    settings.vaults.insert("main".into(), VaultSeen::default());
    settings
}

fn one(records: &Records, settings: &Settings, now: UnixMillis) -> Protected {
    let mut all = posture(records, &inventory(), settings, Freshness::Current, now);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn day(days: i64, hours: i64) -> UnixMillis {
    UnixMillis(START.0 + days * DAY + hours * DAY / 24)
}

#[test]
fn a_young_good_backup_is_green_and_says_its_age() {
    let mut records = records(|_| {});
    backed_up(&mut records, day(0, 1));
    let thing = one(&records, &seen(), day(0, 4));
    assert_eq!(thing.colour, Colour::Green);
    assert_eq!(thing.reasons, ["the newest good backup is 3 hours old", "no restore was rehearsed yet"]);
    assert_eq!(thing.age, Some(Span::hours(3)));
    assert!(thing.next.unwrap() > day(0, 4));
}

#[test]
fn a_log_that_is_not_in_the_vault_is_amber() {
    let mut records = records(|_| {});
    backed_up(&mut records, day(0, 1));
    let mut settings = seen();
    settings.logs.insert("service/db".into(), "its log has a gap".into());
    let thing = one(&records, &settings, day(0, 4));
    assert_eq!((thing.colour, thing.reasons[0].as_str()), (Colour::Amber, "its log has a gap"));
}

#[test]
fn time_alone_makes_a_backup_amber_and_then_red() {
    let mut records = records(|_| {});
    backed_up(&mut records, day(0, 1));
    for (now, colour) in [(day(1, 6), Colour::Green), (day(1, 12), Colour::Amber), (day(3, 0), Colour::Red)] {
        let thing = one(&records, &seen(), now);
        assert_eq!(thing.colour, colour, "{:?}", thing.reasons);
    }
    assert!(
        one(&records, &seen(), day(3, 0)).reasons[0]
            .starts_with("the newest good backup is 2 days old, expected is")
    );
}

#[test]
fn what_was_never_backed_up_is_amber_first_and_red_once_it_should_have_been() {
    let records = records(|_| {});
    assert_eq!(one(&records, &seen(), day(0, 1)).colour, Colour::Amber);
    let late = one(&records, &seen(), day(2, 0));
    assert_eq!(
        (late.colour, late.reasons[0].as_str()),
        (Colour::Red, "it was never backed up, for 2 days now")
    );
}

#[test]
fn failures_misses_drills_damage_and_vaults_are_said_worst_first() {
    let mut records = records(|_| {});
    backed_up(&mut records, day(0, 1));
    target(&mut records).last_end =
        Some(LastEnd { run: RunId(9), at: day(0, 2), trouble: Some("no space".into()) });
    target(&mut records).failures = 1;
    target(&mut records).missed = 2;
    let now = day(0, 4);
    let thing = one(&records, &seen(), now);
    assert_eq!(thing.colour, Colour::Amber);
    assert_eq!(
        thing.reasons,
        ["run-9 did not end well: no space", "2 planned runs were missed since the last good one"]
    );
    let drill = Drill {
        target: "service/db".into(),
        kind: DrillKind::Restore,
        at: day(0, 3),
        snapshot: None,
        good: false,
        rpo: None,
        rto: None,
        summary: "pack 7 is missing".into(),
    };
    records.apply(&Change::Drilled(drill)).unwrap();
    let thing = one(&records, &seen(), now);
    assert_eq!(
        (thing.colour, thing.reasons[0].as_str()),
        (Colour::Red, "its last drill, 60 minutes ago, failed: pack 7 is missing")
    );
    let mut settings = seen();
    settings.damaged.insert("s1".into(), "2 chunks".into());
    assert!(
        one(&records, &settings, now)
            .reasons
            .iter()
            .any(|why| why == "the newest good backup is damaged: 2 chunks")
    );
    target(&mut records).failures = 3;
    assert!(one(&records, &seen(), now).reasons[0].contains("3 in a row"));
}

#[test]
fn what_is_unknown_is_not_green() {
    let mut records = records(|_| {});
    backed_up(&mut records, day(0, 1));
    let now = day(0, 4);
    assert_eq!(one(&records, &seen(), now).colour, Colour::Green);
    assert_eq!(one(&records, &Settings::default(), now).colour, Colour::Amber, "a vault that is not seen");
    let cut_off = posture(&records, &inventory(), &seen(), Freshness::AsOf(day(0, 2)), now);
    assert_eq!(cut_off[0].colour, Colour::Amber);
    assert!(one(&records, &seen(), day(-1, 0)).reasons[0].contains("in the future"));
    records.plans.get_mut(&"nightly".into()).unwrap().text = "{}".into();
    for thing in posture(&records, &inventory(), &seen(), Freshness::Current, now) {
        assert_eq!(thing.colour, Colour::Amber, "{thing:?}");
    }
}

#[test]
fn what_no_plan_names_is_red_unless_its_volume_is_backed_up() {
    let bare = posture(&Records::default(), &inventory(), &seen(), Freshness::Current, START);
    assert_eq!((bare[0].colour, bare[0].reasons[0].as_str()), (Colour::Red, "no plan backs it up"));
    let volume = crate::plan::Source::Volume {
        volume: "data".into(),
        form: crate::plan::VolumeForm::Image,
        exclude: vec![],
    };
    let records = records(|plan| plan.what = vec![volume]);
    assert_eq!(one(&records, &seen(), START).target.0, "volume-image/data");
}

#[test]
fn the_calendar_shows_what_was_what_is_open_and_what_will_be() {
    let mut records = records(|plan| plan.spread = Span(0));
    backed_up(&mut records, day(0, 1));
    let run = NewRun {
        plan: "nightly".into(),
        target: "service/db".into(),
        locus: crate::plan::Locus::Service("db".into()),
        cause: Cause::Calendar,
        occurrence: Some(day(0, 23)),
        due: day(0, 23),
    };
    records.apply(&Change::Open { run, expect: START, passed: None, at: day(0, 23) }).unwrap();
    let mut catalog = crate::catalog::SqliteCatalog::in_memory().unwrap();
    for event in &records.events {
        crate::catalog::Catalog::apply(&mut catalog, event).unwrap();
    }
    let rows = crate::catalog::Catalog::runs(&catalog, &crate::catalog::Filter::default()).unwrap();
    let (slots, more) = timeline(&records, &inventory(), &rows, &[], day(0, 23), (START, day(3, 0)));
    let marks: Vec<_> = slots.iter().map(|slot| (slot.at, slot.mark.clone())).collect();
    assert_eq!(
        marks,
        [
            (day(0, 1), Mark::Sealed(RunId(1))),
            (day(0, 23), Mark::Open(RunId(2))),
            (day(1, 23), Mark::Planned),
            (day(2, 23), Mark::Planned),
        ]
    );
    assert!(!more);
}

proptest! {
    /// I17: green is said only if a good backup is young enough, its vault is seen, and nothing went wrong since.
    #[test]
    fn green_is_only_said_on_evidence(
        hours in 0..200_i64, failures in 0..4_u32, missed in 0..3_u64, trouble in any::<bool>(), vault in any::<bool>(),
        backed in any::<bool>(), drill in proptest::option::of(any::<bool>()), cut in any::<bool>(), damaged in any::<bool>(),
    ) {
        let mut records = records(|_| {});
        if backed {
            backed_up(&mut records, day(0, 0));
            target(&mut records).failures = failures;
            target(&mut records).missed = missed;
            if trouble {
                target(&mut records).last_end = Some(LastEnd { run: RunId(9), at: day(0, 1), trouble: Some("x".into()) });
            }
        }
        if let Some(good) = drill {
            let drill = Drill { target: "service/db".into(), kind: DrillKind::Restore, at: day(0, 0), snapshot: None, good, rpo: None, rto: None, summary: "s".into() };
            records.apply(&Change::Drilled(drill)).unwrap();
        }
        let mut settings = if vault { seen() } else { Settings::default() };
        if damaged {
            settings.damaged.insert("s1".into(), "x".into());
        }
        let fresh = if cut { Freshness::AsOf(day(0, 0)) } else { Freshness::Current };
        let all = posture(&records, &inventory(), &settings, fresh, day(0, hours));
        prop_assert!(all.iter().all(|thing| !thing.reasons.is_empty()));
        let thing = &all[0];
        let well = backed && !trouble && missed == 0 && vault && !cut && !damaged && drill != Some(false)
            && thing.age.unwrap() <= thing.expected.unwrap();
        prop_assert_eq!(thing.colour == Colour::Green, well, "{:?}", thing);
    }
}

#[test]
fn a_backup_unlike_those_before_is_amber_and_says_why() {
    let mut records = records(|_| {});
    for (number, new_bytes) in [(1, 1 << 20), (2, 1 << 20), (3, 1 << 20), (4, 1 << 30)] {
        let at = day(number, 1);
        let run = NewRun {
            plan: "nightly".into(),
            target: "service/db".into(),
            locus: crate::plan::Locus::Service("db".into()),
            cause: Cause::Operator("kim".into()),
            occurrence: None,
            due: at,
        };
        records.apply(&Change::Open { run, expect: at, passed: None, at }).unwrap();
        let (run, place) = (records.run_last, Place::Node(NodeId(1)));
        records.apply(&Change::Begin { run, expect: Attempt(0), place, session: 1, at }).unwrap();
        let snapshot = format!("s{number}").as_str().into();
        let sealed = Sealed { snapshot, files: 1_000, bytes: 1 << 30, new_bytes, warnings: 0 };
        records.apply(&Change::Seal { run, attempt: Attempt(1), sealed, at: at.after(Span(60)) }).unwrap();
        let settings = Settings { doubts: doubts(&records), ..seen() };
        let thing = one(&records, &settings, day(number, 4));
        assert_eq!(
            thing.colour,
            if number < 4 { Colour::Green } else { Colour::Amber },
            "{number}: {thing:?}"
        );
        assert!(number < 4 || thing.reasons[0].contains("unlike those before"), "{thing:?}");
    }
}
