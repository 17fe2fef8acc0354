//! Schedules against a search without cleverness: every minute of the wall, mapped to its instant.

use super::{schedule::wall_minutes, *};
use jiff::{
    Timestamp, ToSpan as _,
    civil::{Date, DateTime, date},
    tz::AmbiguousOffset,
};
use proptest::prelude::*;

const ZONES: [&str; 9] = [
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "Asia/Tokyo",
    "UTC",
    "Pacific/Apia",
    "America/Havana",
    "Asia/Gaza",
];

fn at(text: &str) -> UnixMillis {
    text.parse::<Timestamp>().unwrap().into()
}

fn calendar(line: &str, zone: &str) -> Calendar {
    Calendar::parse(&[line], zone).unwrap()
}

fn shown(times: &[UnixMillis], zone: &str) -> Vec<String> {
    let zone = time_zone(zone).unwrap();
    times
        .iter()
        .map(|at| {
            at.timestamp().unwrap().to_zoned(zone.clone()).strftime("%a %Y-%m-%d %H:%M %:z").to_string()
        })
        .collect()
}

/// The specification: walk the instants minute by minute; a wall minute happens when the wall first shows it, and one
/// that is jumped over happens at the jump. One list per case.
fn brute(first: Date, days: i64, zone: &str) -> Vec<Vec<UnixMillis>> {
    let zone = time_zone(zone).unwrap();
    let start = zone.to_ambiguous_zoned(first.at(0, 0, 0, 0)).later().unwrap().timestamp();
    let mut newest = zone.to_datetime(start).checked_sub(1.minute()).unwrap();
    let cases = cases();
    let mut out = vec![Vec::new(); cases.len()];
    for minute in 0..days * 1440 {
        let instant = start.checked_add((minute * 60).seconds()).unwrap();
        let wall = zone.to_datetime(instant);
        // Every wall minute up to the one shown now that has never been shown: usually one; after a gap all of it;
        // while a fold repeats none.
        while newest < wall {
            newest = newest.checked_add(1.minute()).unwrap();
            for ((_, wanted), out) in cases.iter().zip(&mut out) {
                if wanted(newest) && out.last() != Some(&instant.into()) {
                    out.push(instant.into());
                }
            }
        }
    }
    out
}

type Wanted = fn(DateTime) -> bool;

fn cases() -> Vec<(&'static str, Wanted)> {
    use jiff::civil::Weekday::{Friday, Sunday};
    vec![
        ("daily 23:00", |t| (t.hour(), t.minute()) == (23, 0)),
        ("daily 02:30", |t| (t.hour(), t.minute()) == (2, 30)),
        ("daily 00:00,02:00,02:15", |t| matches!((t.hour(), t.minute()), (0, 0) | (2, 0 | 15))),
        ("mon..fri 22:30", |t| t.weekday().to_monday_zero_offset() < 5 && (t.hour(), t.minute()) == (22, 30)),
        ("first sunday 03:00", |t| t.weekday() == Sunday && t.day() <= 7 && (t.hour(), t.minute()) == (3, 0)),
        ("last friday 00:30", |t| {
            t.weekday() == Friday && t.day() > t.days_in_month() - 7 && (t.hour(), t.minute()) == (0, 30)
        }),
        ("last day 02:59", |t| t.day() == t.days_in_month() && (t.hour(), t.minute()) == (2, 59)),
        ("hourly :15", |t| t.minute() == 15),
        ("every 10m", |t| t.minute() % 10 == 0),
        ("sun *-*-* *:0/20", |t| t.weekday() == Sunday && t.minute() % 20 == 0),
        ("*-*-1,15,31 0..4:45", |t| matches!(t.day(), 1 | 15 | 31) && t.hour() <= 4 && t.minute() == 45),
        ("*-02~1 12:00", |t| {
            t.month() == 2 && t.day() == t.days_in_month() && (t.hour(), t.minute()) == (12, 0)
        }),
    ]
}

#[test]
fn occurrences_equal_a_walk_minute_by_minute_in_every_zone() {
    for zone in ZONES {
        // Apia jumped over a whole day in December 2011; Gaza changes in Ramadan; Casablanca has negative summer time.
        let first = if zone == "Pacific/Apia" { date(2011, 7, 1) } else { date(2025, 1, 1) };
        let days = 800;
        for ((line, _), expected) in cases().into_iter().zip(brute(first, days, zone)) {
            let calendar = calendar(line, zone);
            let start = expected.first().copied().unwrap();
            let found = calendar.between(UnixMillis(start.0 - 1), *expected.last().unwrap(), usize::MAX);
            if found != expected {
                let odd = found.iter().zip(&expected).find(|(a, b)| a != b);
                panic!("{line} in {zone}: {odd:?}, {} and {}", found.len(), expected.len());
            }
            // Backwards the same.
            let mut back = Vec::new();
            let mut until = *expected.last().unwrap();
            while let Some(at) = calendar.last(until).filter(|&at| at >= start) {
                back.push(at);
                until = UnixMillis(at.0 - 1);
            }
            back.reverse();
            assert_eq!(back, expected, "{line} in {zone}, backwards");
        }
    }
}

#[test]
fn the_instant_of_the_wall_never_goes_back() {
    for zone in ZONES {
        let zone = time_zone(zone).unwrap();
        let mut before = UnixMillis(i64::MIN);
        for day in
            date(2011, 10, 1).series(1.day()).take(100).chain(date(2026, 1, 1).series(1.day()).take(330))
        {
            for wall in wall_minutes(day) {
                let now = civil::instant(wall, &zone).unwrap();
                assert!(now >= before, "{wall}");
                if let AmbiguousOffset::Unambiguous { .. } = zone.to_ambiguous_zoned(wall).offset() {
                    assert_eq!(zone.to_datetime(now.timestamp().unwrap()), wall);
                }
                before = now;
            }
        }
    }
}

#[test]
fn a_time_inside_the_gap_runs_at_the_first_instant_after_it() {
    let calendar = calendar("daily 02:30", "Europe/Berlin");
    let found = calendar.between(at("2026-03-27T12:00:00Z"), at("2026-03-30T12:00:00Z"), 9);
    assert_eq!(
        shown(&found, "Europe/Berlin"),
        ["Sat 2026-03-28 02:30 +01:00", "Sun 2026-03-29 03:00 +02:00", "Mon 2026-03-30 02:30 +02:00"]
    );
}

#[test]
fn a_doubled_time_runs_once_at_its_first_instant() {
    let calendar = calendar("daily 02:30", "Europe/Berlin");
    let found = calendar.between(at("2026-10-24T12:00:00Z"), at("2026-10-26T12:00:00Z"), 9);
    assert_eq!(
        shown(&found, "Europe/Berlin"),
        ["Sun 2026-10-25 02:30 +02:00", "Mon 2026-10-26 02:30 +01:00"]
    );
}

#[test]
fn a_line_may_name_its_own_zone_and_lines_that_meet_run_once() {
    let calendar = Calendar::parse(
        &["daily 12:00 UTC", "daily 13:00 Europe/Berlin", "daily 21:00 Asia/Tokyo"],
        "Europe/Berlin",
    )
    .unwrap();
    let found = calendar.between(at("2026-01-01T00:00:00Z"), at("2026-01-03T00:00:00Z"), 9);
    assert_eq!(found, [at("2026-01-01T12:00:00Z"), at("2026-01-02T12:00:00Z")]);
}

#[test]
fn known_forms_mean_what_people_expect() {
    let from = at("2026-11-23T05:00:00Z"); // a Monday
    for (line, next) in [
        ("hourly", "Mon 2026-11-23 06:00"),
        ("hourly :15", "Mon 2026-11-23 05:15"),
        ("every 4h", "Mon 2026-11-23 08:00"),
        ("every 90 minutes", ""),
        ("daily", "Tue 2026-11-24 00:00"),
        ("every day at 23:00", "Mon 2026-11-23 23:00"),
        ("daily 6:00 18:00", "Mon 2026-11-23 06:00"),
        ("weekly", "Mon 2026-11-30 00:00"),
        ("weekly sun 03:00", "Sun 2026-11-29 03:00"),
        ("Sat,Sun 12:00", "Sat 2026-11-28 12:00"),
        ("fri..mon 04:00", "Fri 2026-11-27 04:00"),
        ("weekdays 8..18:30", "Mon 2026-11-23 08:30"),
        ("monthly", "Tue 2026-12-01 00:00"),
        ("monthly 15 04:00", "Tue 2026-12-15 04:00"),
        ("monthly on first monday at 04:00", "Mon 2026-12-07 04:00"),
        ("day 1,15 04:00", "Tue 2026-12-01 04:00"),
        ("15th 04:00", "Tue 2026-12-15 04:00"),
        ("last day 18:00", "Mon 2026-11-30 18:00"),
        ("last day of feb 18:00", "Sun 2027-02-28 18:00"),
        ("first sunday 03:00", "Sun 2026-12-06 03:00"),
        ("1st,3rd sun 23:05", "Sun 2026-12-06 23:05"),
        ("second..fourth saturday 10:00", "Sat 2026-11-28 10:00"),
        ("first sunday of jan,apr,jul,oct 03:00", "Sun 2027-01-03 03:00"),
        ("yearly", "Fri 2027-01-01 00:00"),
        ("12-24 16:00", "Thu 2026-12-24 16:00"),
        ("2027-01-01 00:00", "Fri 2027-01-01 00:00"),
        ("Mon..Fri *-*-* 22:30:00", "Mon 2026-11-23 22:30"),
        ("*-*~1 12:00", "Mon 2026-11-30 12:00"),
        ("feb 29th 12:00", "Tue 2028-02-29 12:00"),
        ("22..2:00", "Mon 2026-11-23 22:00"),
        ("nov..feb 1st 05:00", "Tue 2026-12-01 05:00"),
        ("midnight", "Tue 2026-11-24 00:00"),
    ] {
        match Calendar::parse(&[line], "UTC") {
            Ok(calendar) => {
                let found = calendar.next(from).map(|at| shown(&[at], "UTC")[0].clone()).unwrap_or_default();
                assert_eq!(found.trim_end_matches(" +00:00"), next, "{line}");
            }
            Err(problem) => assert!(next.is_empty(), "{line}: {problem}"),
        }
    }
}

#[test]
fn a_date_in_the_past_has_no_next_occurrence_but_a_last_one() {
    let calendar = calendar("2020-01-01 10:00", "UTC");
    assert_eq!(calendar.next(at("2026-01-01T00:00:00Z")), None);
    assert_eq!(calendar.last(at("2026-01-01T00:00:00Z")), Some(at("2020-01-01T10:00:00Z")));
}

#[test]
fn what_is_not_understood_is_named_and_helped() {
    for (line, part) in [
        ("", "nothing of when"),
        ("daily 25:00", "`25`"),
        ("daily 23:60", "`60`"),
        ("daily 23:00:30", "exact to the minute"),
        ("daily 11pm", "`11pm`"),
        ("sundey 03:00", "`sundey`"),
        ("first sunday", "no time of day"),
        ("feb 30th 03:00", "never happens"),
        ("last sunday *-*-1..7 03:00", "never happens"),
        ("sixth sunday 03:00", "`sixth`"),
        ("6th sunday 03:00", "beyond the fifth"),
        ("hourly 03:00", "hourly and names an hour"),
        ("every 7m", "does not divide"),
        ("every 0m", "does not divide"),
        ("daily 23:00 Europe/Berln", "no time zone"),
        ("15 04:00", "`15`"),
        ("1800-01-01 10:00", "1800"),
        ("*-*-* *-*-* 10:00", "two dates"),
        ("5..2:5..2", "`5..2`"),
    ] {
        let problem = Calendar::parse(&[line], "UTC").unwrap_err();
        assert!(problem.message.contains(part), "{line}: {}", problem.message);
        assert!(problem.hint.is_some(), "{line}");
    }
}

#[test]
fn a_target_is_always_delayed_by_the_same_time_and_targets_spread_evenly() {
    let width = crate::Span::minutes(30);
    let delays: Vec<u64> =
        (0..1000).map(|n| spread("nightly", &format!("files/web{n}"), width).0.0).collect();
    assert!(delays.iter().all(|&delay| delay < width.0));
    for third in 0..3 {
        let inside = delays.iter().filter(|&&delay| delay / 600 == third).count();
        assert!((250..420).contains(&inside), "{inside}");
    }
    assert_eq!(spread("nightly", "files/web1", width), spread("nightly", "files/web1", width));
    assert_ne!(spread("a", "bc", width), spread("ab", "c", width));
}

proptest! {
    #[test]
    fn parsing_never_panics_and_errors_always_help(line in "[a-z0-9:,.*/~ -]{0,40}|.{0,60}") {
        match Calendar::parse(&[&line], "Europe/Berlin") {
            Ok(calendar) => prop_assert!(calendar.next(UnixMillis(0)).is_none_or(|at| at.0 > 0)),
            Err(problem) => prop_assert!(problem.hint.is_some()),
        }
    }

    #[test]
    fn next_and_last_are_inverse(
        case in 0..12_usize, zone in 0..ZONES.len(), seconds in 1_000_000_000..2_500_000_000_i64,
    ) {
        let calendar = calendar(cases()[case].0, ZONES[zone]);
        let now = UnixMillis(seconds * 1_000);
        let next = calendar.next(now).unwrap();
        prop_assert!(next > now);
        prop_assert_eq!(calendar.last(next), Some(next));
        let last = calendar.last(now).unwrap();
        prop_assert!(last <= now);
        // Nothing lies between them.
        prop_assert_eq!(calendar.next(last), Some(next));
        prop_assert_eq!(calendar.last(UnixMillis(next.0 - 1)), Some(last));
    }

    #[test]
    fn far_times_do_not_panic(millis in any::<i64>()) {
        let calendar = calendar("first sunday 03:00", "Europe/Berlin");
        let _ = (calendar.next(UnixMillis(millis)), calendar.last(UnixMillis(millis)));
    }
}
