//! Backups on the page: runs in words, and the calendar as a grid of days.

use crate::words::Words;
use anshin_base::ByteSize;
use anshin_node::view::{CalendarEntry, CalendarMark, Facts, RunStand, RunView, age};
use jiff::{Span, Timestamp, civil::Date, tz::TimeZone};

/// Days before today, and days after it.
const DAYS_BEFORE: i32 = 6;
const DAYS_AFTER: i32 = 1;
/// Signs of one day and target; with more, the last ones stand for the day.
const SIGNS_MAX: usize = 6;

/// The calendar.
pub struct Grid {
    /// `Mo 02`, oldest first.
    pub days: Vec<String>,
    /// One per target.
    pub rows: Vec<Row>,
}

/// A target's days.
pub struct Row {
    /// What.
    pub target: String,
    /// What stands on each day.
    pub cells: Vec<Vec<Sign>>,
}

/// One run, or what stands for it.
pub struct Sign {
    /// Its colour in the style sheet.
    pub class: &'static str,
    /// Its shape.
    pub sign: &'static str,
    /// The same in words.
    pub words: String,
}

/// The calendar of the facts, by days of UTC as all times of the page.
pub fn grid(w: &Words, facts: &Facts) -> Grid {
    let today = facts.at.parse::<Timestamp>().unwrap_or_default();
    let today = today.to_zoned(TimeZone::UTC).date();
    let days: Vec<Date> = (-DAYS_BEFORE..=DAYS_AFTER)
        .filter_map(|offset| today.checked_add(Span::new().try_days(offset).ok()?).ok())
        .collect();
    let mut targets: Vec<&str> = facts.backups.calendar.iter().map(|entry| entry.target.as_str()).collect();
    targets.sort_unstable();
    targets.dedup();
    let rows = targets.into_iter().map(|target| Row {
        target: target.to_owned(),
        cells: days.iter().map(|day| cell(w, &facts.backups.calendar, target, *day)).collect(),
    });
    let rows = rows.collect();
    Grid { days: days.iter().map(|day| day.strftime("%a %d").to_string()).collect(), rows }
}

fn cell(w: &Words, entries: &[CalendarEntry], target: &str, day: Date) -> Vec<Sign> {
    let on_day = |entry: &&CalendarEntry| {
        let at = entry.at.parse::<Timestamp>().map(|at| at.to_zoned(TimeZone::UTC).date());
        entry.target == target && at.is_ok_and(|at| at == day)
    };
    let all: Vec<&CalendarEntry> = entries.iter().filter(on_day).collect();
    all[all.len().saturating_sub(SIGNS_MAX)..].iter().map(|entry| sign(w, entry)).collect()
}

fn sign(w: &Words, entry: &CalendarEntry) -> Sign {
    let (class, sign, word) = match entry.mark {
        CalendarMark::Sealed => ("green", "✓", w.done),
        CalendarMark::Failed => ("red", "✕", w.failed),
        CalendarMark::Cancelled => ("amber", "–", w.cancelled),
        CalendarMark::Open => ("unknown", "…", w.going_on),
        CalendarMark::Passed => ("amber", "!", w.no_run),
        CalendarMark::Planned => ("planned", "·", w.planned),
    };
    let time = entry.at.get(11..16).unwrap_or_default();
    let why = entry.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    Sign { class, sign, words: format!("{time} {word}{why}") }
}

/// Where a run stands.
pub fn run_words(w: &Words, run: &RunView) -> String {
    match run.stand {
        RunStand::Planned => format!("{} {}", w.planned, crate::page::clock(&run.due)),
        RunStand::Waiting => run.why.clone().unwrap_or_else(|| w.waits.to_owned()),
        RunStand::Running => {
            let mut words = vec![format!("{} {}", w.runs_on, run.on.as_deref().unwrap_or(w.nowhere))];
            words.push(ByteSize(run.bytes).to_string());
            words.extend(
                (run.bytes_per_s > 0).then(|| format!("{}{}", ByteSize(run.bytes_per_s), w.per_second)),
            );
            let left = |seconds: u64| format!("{} {}", age(seconds.saturating_mul(1_000)), w.left);
            words.extend(run.seconds_left.map(left));
            words.join(", ")
        }
    }
}
