use super::{suspicion::unlike, *};
use crate::plan::Keep;
use jiff::tz::TimeZone;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn at(text: &str) -> UnixMillis {
    text.parse::<jiff::Timestamp>().unwrap().into()
}

fn snapshot(name: &str, sealed: &str) -> Candidate {
    Candidate {
        snapshot: name.into(),
        plan: "nightly".into(),
        target: "service/db".into(),
        sealed: at(sealed),
        tags: vec![],
        own_bytes: Some(1 << 20),
        standing: Standing::Good,
        held: None,
    }
}

fn kept(snapshots: &[Candidate], keep: &Keep, now: UnixMillis) -> Vec<String> {
    let zone = TimeZone::get("Europe/Berlin").unwrap();
    decide(snapshots, keep, true, &zone, now).into_iter().filter(|v| v.keep).map(|v| v.snapshot.0).collect()
}

#[test]
fn each_rule_keeps_the_newest_of_each_of_its_newest_periods() {
    let all = [
        snapshot("a", "2025-12-31T22:30:00Z"), // 2025 in Berlin
        snapshot("b", "2025-12-31T23:30:00Z"), // 2026 in Berlin
        snapshot("c", "2026-11-01T12:00:00Z"),
        snapshot("d", "2026-11-22T12:00:00Z"), // Sunday
        snapshot("e", "2026-11-23T10:10:00Z"), // Monday
        snapshot("f", "2026-11-23T10:50:00Z"),
        snapshot("g", "2026-11-23T11:05:00Z"),
    ];
    let now = at("2026-11-23T12:00:00Z");
    for (keep, expected) in [
        (Keep { last: 2, ..Keep::default() }, "gf"),
        (Keep { hourly: 3, ..Keep::default() }, "gfd"),
        (Keep { daily: 2, ..Keep::default() }, "gd"),
        (Keep { weekly: 2, ..Keep::default() }, "gd"),
        (Keep { monthly: 3, ..Keep::default() }, "gba"),
        (Keep { yearly: 2, ..Keep::default() }, "ga"),
        (Keep { within: Some(Span::minutes(20)), ..Keep::default() }, "gf"),
        (Keep { last: 1, yearly: 9, ..Keep::default() }, "ga"),
        (Keep::default(), "g"),
    ] {
        assert_eq!(kept(&all, &keep, now).concat(), expected, "{keep:?}");
    }
}

#[test]
fn the_two_hours_of_one_name_in_autumn_are_two_hours() {
    let all = [snapshot("a", "2026-10-25T00:30:00Z"), snapshot("b", "2026-10-25T01:30:00Z")];
    assert_eq!(kept(&all, &Keep { hourly: 2, ..Keep::default() }, at("2026-11-01T00:00:00Z")).concat(), "ba");
}

#[test]
fn tags_holds_damage_and_suspicion_keep_what_no_rule_wants() {
    let mut all: Vec<_> =
        (1..=7).map(|n| snapshot(&n.to_string(), &format!("2026-11-0{n}T12:00:00Z"))).collect();
    all[0].tags = vec!["audit".into()];
    all[1].held = Some("kim: a case at court".into());
    all[2].standing = Standing::Damaged("pack 7".into());
    all[3].standing = Standing::Suspicious("odd".into());
    let keep = Keep { last: 1, tags: vec!["audit".into()], ..Keep::default() };
    let zone = TimeZone::UTC;
    let preview = Preview { verdicts: decide(&all, &keep, true, &zone, at("2026-11-23T00:00:00Z")) };
    assert_eq!(preview.removed(), [SnapshotId::from("6"), SnapshotId::from("5")]);
    assert_eq!(
        preview.lines(&zone),
        [
            "keep   7 2026-11-07 12:00  one of the last 1; the newest good one of something still planned",
            "remove 6 2026-11-06 12:00  no rule keeps it",
            "remove 5 2026-11-05 12:00  no rule keeps it",
            "keep   4 2026-11-04 12:00  suspicious: odd; counts for no rule, stays until somebody decides",
            "keep   3 2026-11-03 12:00  damaged: pack 7; counts for no rule, stays until somebody decides",
            "keep   2 2026-11-02 12:00  held by kim: a case at court",
            "keep   1 2026-11-01 12:00  tagged audit",
        ]
    );
    assert_eq!(preview.summary(), "keeps 5 of 7 snapshots, removes 2 (2 MiB at least)");
}

#[test]
fn what_is_no_longer_planned_may_be_removed_to_the_last_by_rules_that_want_none() {
    let all = [snapshot("a", "2026-11-01T12:00:00Z")];
    let verdicts = decide(&all, &Keep::default(), false, &TimeZone::UTC, at("2026-11-23T00:00:00Z"));
    assert!(!verdicts[0].keep);
}

#[test]
fn only_the_recorded_result_of_a_run_is_good() {
    let sealed = Sealed { snapshot: "s1".into(), ..Sealed::default() };
    let seen = InVault { run: RunId(1), attempt: Attempt(1), sealed };
    assert_eq!(standing(&seen, Some(&"s1".into())), Standing::Good);
    assert!(matches!(standing(&seen, Some(&"s2".into())), Standing::Suspicious(_)));
    assert!(matches!(standing(&seen, None), Standing::Suspicious(_)));
}

#[test]
fn a_snapshot_much_smaller_or_much_newer_than_usual_is_suspicious() {
    let usual = Content { files: 10_000, bytes: 10 << 30, new_bytes: 100 << 20 };
    let before = [usual; 5];
    assert_eq!(unlike(&usual, &before), None);
    assert!(unlike(&Content { files: 4_000, ..usual }, &before).unwrap().contains("4000 files"));
    assert!(unlike(&Content { bytes: 1 << 30, ..usual }, &before).unwrap().contains("1 GiB"));
    assert!(unlike(&Content { new_bytes: 9 << 30, ..usual }, &before).unwrap().contains("90 %"));
    // Little is known, or little is there: nothing is odd.
    assert_eq!(unlike(&Content { files: 1, ..usual }, &before[..2]), None);
    assert_eq!(
        unlike(
            &Content { files: 1, bytes: 9, new_bytes: 9 },
            &[Content { files: 9, bytes: 99, new_bytes: 1 }; 5]
        ),
        None
    );
}

#[test]
fn what_is_odd_is_usual_after_weeks_however_often_it_is_backed_up() {
    let (large, small) = (
        Content { files: 10_000, bytes: 10 << 30, new_bytes: 100 << 20 },
        Content { files: 1_000, bytes: 1 << 30, new_bytes: 1 << 20 },
    );
    let hour = |number: u64, content| (UnixMillis(0).after(Span::hours(number)), content);
    let mut all: Vec<_> = (0..24 * 30).map(|number| hour(number, large)).collect();
    let odd_days = (24 * 30..24 * 80).take_while(|number| {
        all.push(hour(*number, small));
        odd(&all).is_some()
    });
    let days = odd_days.count() / 24;
    assert!((17..21).contains(&days), "{days}");
    // Made by hand within some hours, without any day before.
    let few: Vec<_> = (0..3).map(|number| hour(number, large)).chain([hour(4, small)]).collect();
    assert!(odd(&few).is_some());
    assert!(odd(&few[1..]).is_none());
}

fn any_candidate() -> impl Strategy<Value = Candidate> {
    (0..1_899_000_000_i64, 0..6_u8, 0..10_u8).prop_map(|(seconds, standing, extra)| Candidate {
        snapshot: String::new().as_str().into(),
        plan: "p".into(),
        target: "t".into(),
        sealed: UnixMillis(seconds * 1_000),
        tags: if extra == 1 { vec!["audit".into()] } else { vec![] },
        own_bytes: None,
        standing: match standing {
            0 => Standing::Suspicious("odd".into()),
            1 => Standing::Damaged("bad".into()),
            _ => Standing::Good,
        },
        held: (extra == 2).then(|| "kim".into()),
    })
}

fn any_keep() -> impl Strategy<Value = Keep> {
    (0..4_u32, 0..4_u32, 0..9_u32, 0..6_u32, 0..13_u32, 0..4_u32, proptest::option::of(0..90_000_000_u64))
        .prop_map(|(last, hourly, daily, weekly, monthly, yearly, within)| Keep {
            last,
            hourly,
            daily,
            weekly,
            monthly,
            yearly,
            within: within.map(Span),
            tags: vec!["audit".into()],
        })
}

fn named(mut all: Vec<Candidate>) -> Vec<Candidate> {
    for (n, candidate) in all.iter_mut().enumerate() {
        candidate.snapshot = format!("s{n:03}").as_str().into();
    }
    all
}

const NOW: UnixMillis = UnixMillis(1_900_000_000_000);

fn removed(all: &[Candidate], keep: &Keep, planned: bool, now: UnixMillis) -> BTreeSet<String> {
    let zone = TimeZone::get("America/New_York").unwrap();
    decide(all, keep, planned, &zone, now).into_iter().filter(|v| !v.keep).map(|v| v.snapshot.0).collect()
}

proptest! {
    #[test]
    fn fake_snapshots_never_push_out_good_ones(
        all in proptest::collection::vec(any_candidate(), 1..40), fakes in proptest::collection::vec(any_candidate(), 0..40),
        future in any::<bool>(), keep in any_keep(),
    ) {
        let all = named(all);
        let before = removed(&all, &keep, true, NOW);
        let mut more = all;
        for (n, mut fake) in fakes.into_iter().enumerate() {
            fake.snapshot = format!("fake{n}").as_str().into();
            if future {
                fake.standing = Standing::Good;
                fake.sealed = NOW.after(Span(7_200 + n as u64 * 86_400));
            } else {
                fake.standing = Standing::Suspicious("not ordered".into());
            }
            more.push(fake);
        }
        prop_assert_eq!(removed(&more, &keep, true, NOW), before);
    }

    #[test]
    fn what_must_stay_stays_whatever_the_rules_and_the_clock_say(
        all in proptest::collection::vec(any_candidate(), 1..40), keep in any_keep(), now in 0..4_000_000_000_000_i64,
    ) {
        let all = named(all);
        let gone = removed(&all, &keep, true, UnixMillis(now));
        for candidate in &all {
            if candidate.held.is_some() || candidate.standing != Standing::Good || !candidate.tags.is_empty() {
                prop_assert!(!gone.contains(&candidate.snapshot.0));
            }
        }
        let newest = all.iter().filter(|c| c.standing == Standing::Good).max_by_key(|c| (c.sealed, c.snapshot.clone()));
        if let Some(newest) = newest {
            prop_assert!(!gone.contains(&newest.snapshot.0));
        }
        // A clock that runs ahead removes nothing more than one that is right.
        let right = removed(&all, &keep, true, NOW);
        prop_assert_eq!(removed(&all, &keep, true, UnixMillis(i64::MAX / 2)), right.clone());
        // One that runs behind removes nothing that the right one would keep.
        prop_assert!(gone.is_subset(&right));
    }

    #[test]
    fn counts_are_kept_and_deciding_again_removes_nothing_more(
        all in proptest::collection::vec(any_candidate(), 1..40), keep in any_keep(),
    ) {
        let all = named(all);
        let gone = removed(&all, &keep, true, NOW);
        let good = all.iter().filter(|c| c.standing == Standing::Good).count();
        let stay: Vec<_> = all.into_iter().filter(|c| !gone.contains(&c.snapshot.0)).collect();
        let good_stay = stay.iter().filter(|c| c.standing == Standing::Good).count();
        prop_assert!(good_stay >= good.min(keep.last as usize));
        prop_assert!(removed(&stay, &keep, true, NOW).is_empty());
    }
}
