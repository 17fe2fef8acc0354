//! [`Schedule`]: one line of a calendar.

use super::{civil::instant, parse};
use crate::time::UnixMillis;
use anshin_base::Problem;
use jiff::{
    civil::{Date, DateTime, time},
    tz::TimeZone,
};
use std::fmt;

/// The calendar repeats after 400 years: what does not happen in that time never does.
const DAYS_SEARCHED_MAX: u32 = 146_097 + 2;

/// Which days of a month.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Days {
    /// Bit n: the n-th day, 1..=31.
    pub from_start: u32,
    /// Bit n: the n-th day from the end, 1 = the last, ..=31.
    pub from_end: u32,
}

impl Days {
    pub(crate) const EVERY: Self = Self { from_start: 0xffff_fffe, from_end: 0 };
}

/// Which of a weekday's days in the month (bit 1 = first … bit 5 = fifth, bit 0 = last). Zero: all of them.
pub(crate) type Ordinals = u8;

/// One line of a calendar: days by weekday, ordinal, day, month and year, and times of the day, to the minute.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Bit n: weekday n, 0 = Monday.
    pub(crate) weekdays: u8,
    pub(crate) ordinals: Ordinals,
    pub(crate) days: Days,
    /// Bit n: month n, 1..=12.
    pub(crate) months: u16,
    /// Sorted; empty: every year.
    pub(crate) years: Vec<i16>,
    /// Minutes of the day, sorted, at least one.
    pub(crate) times: Vec<u16>,
    /// A zone of its own, by name.
    pub(crate) zone: Option<(String, TimeZone)>,
    /// As it was written, with single spaces.
    pub(crate) text: String,
}

impl Schedule {
    /// Reads one line.
    ///
    /// # Errors
    /// `schedule-format` with the part that was not understood and what can be written instead; `time-zone`.
    pub fn parse(line: &str) -> Result<Self, Problem> {
        let schedule = parse::parse(line)?;
        // Whether a year list lies in the past is not an error; a day that does not exist is.
        let mut timeless = schedule.clone();
        timeless.years.clear();
        let start = Date::constant(2000, 1, 1);
        if timeless.day_from(start, Direction::Later).is_none() {
            return Err(Problem::new("schedule-format", format!("`{}` never happens", schedule.text))
                .hint("there is no such day in any year; check day, month and weekday against each other"));
        }
        Ok(schedule)
    }

    /// The first occurrence after `after`; `zone` counts if the line names none.
    #[must_use]
    pub fn next(&self, after: UnixMillis, zone: &TimeZone) -> Option<UnixMillis> {
        let zone = self.zone.as_ref().map_or(zone, |(_, own)| own);
        // A day earlier than the wall shows: clocks set back over midnight make the wall run ahead of what is still to
        // come.
        let mut day = after.timestamp()?.to_zoned(zone.clone()).date().yesterday().ok()?;
        loop {
            day = self.day_from(day, Direction::Later)?;
            let passed = self.passed(day, after, zone);
            if let Some(&minute) = self.times.get(passed) {
                return at(day, minute, zone);
            }
            day = day.tomorrow().ok()?;
        }
    }

    /// The last occurrence at or before `until`; `zone` counts if the line names none.
    #[must_use]
    pub fn last(&self, until: UnixMillis, zone: &TimeZone) -> Option<UnixMillis> {
        let zone = self.zone.as_ref().map_or(zone, |(_, own)| own);
        let mut day = until.timestamp()?.to_zoned(zone.clone()).date().tomorrow().ok()?;
        loop {
            day = self.day_from(day, Direction::Earlier)?;
            let passed = self.passed(day, until, zone);
            if passed > 0 {
                return at(day, self.times[passed - 1], zone);
            }
            day = day.yesterday().ok()?;
        }
    }

    /// How many of the times of `day` have come by `now`. Instants never decrease along the wall, so halving finds it.
    fn passed(&self, day: Date, now: UnixMillis, zone: &TimeZone) -> usize {
        self.times.partition_point(|&minute| at(day, minute, zone).is_some_and(|at| at <= now))
    }

    /// Whether the line's day conditions hold on `day`.
    #[must_use]
    pub fn on(&self, day: Date) -> bool {
        let from_start = day.day() as u32;
        let from_end = (day.days_in_month() - day.day() + 1) as u32;
        let ordinal = (day.day() - 1) / 7 + 1;
        let is_last = from_end <= 7;
        self.months & (1 << day.month()) != 0
            && (self.days.from_start & (1 << from_start) != 0 || self.days.from_end & (1 << from_end) != 0)
            && self.weekdays & (1 << day.weekday().to_monday_zero_offset()) != 0
            && (self.ordinals == 0
                || self.ordinals & (1 << ordinal) != 0
                || (is_last && self.ordinals & 1 != 0))
            && (self.years.is_empty() || self.years.binary_search(&day.year()).is_ok())
    }

    /// The nearest day from `day` on that the line holds on.
    fn day_from(&self, mut day: Date, direction: Direction) -> Option<Date> {
        for _ in 0..DAYS_SEARCHED_MAX {
            if self.on(day) {
                return Some(day);
            }
            let in_month = self.months & (1 << day.month()) != 0;
            day = match direction {
                // A month that cannot match is passed in one step.
                Direction::Later if !in_month => day.last_of_month().tomorrow().ok()?,
                Direction::Later => day.tomorrow().ok()?,
                Direction::Earlier if !in_month => day.first_of_month().yesterday().ok()?,
                Direction::Earlier => day.yesterday().ok()?,
            };
            if let (Some(&first), Some(&last)) = (self.years.first(), self.years.last()) {
                match direction {
                    Direction::Later if day.year() > last => return None,
                    Direction::Later if day.year() < first => day = Date::new(first, 1, 1).ok()?,
                    Direction::Earlier if day.year() < first => return None,
                    Direction::Earlier if day.year() > last => day = Date::new(last, 12, 31).ok()?,
                    _ => {}
                }
            }
        }
        None
    }
}

#[derive(Clone, Copy, Debug)]
enum Direction {
    Later,
    Earlier,
}

fn at(day: Date, minute: u16, zone: &TimeZone) -> Option<UnixMillis> {
    let (hour, minute) = (minute / 60, minute % 60);
    let wall = DateTime::from_parts(day, time(hour as i8, minute as i8, 0, 0));
    instant(wall, zone)
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The wall's minutes of one day, for tests that search without cleverness.
#[cfg(test)]
pub(crate) fn wall_minutes(day: Date) -> impl Iterator<Item = DateTime> {
    let start = day.at(0, 0, 0, 0);
    (0..1440).filter_map(move |minute: i64| start.checked_add(jiff::Span::new().minutes(minute)).ok())
}
