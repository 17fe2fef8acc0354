//! When plans run: schedules that people know, in a time zone.
//!
//! A [`Schedule`] is one line (`daily 23:00`, `first sunday 03:00`, `hourly :15`, `mon..fri 8..18:30`,
//! `*-*-1,15 04:00`); a [`Calendar`] is several of them in one zone. Where the clocks change: a time that does not exist
//! runs at the first instant after the gap, a time that exists twice runs once, at its first instant. Occurrences are a
//! set of instants, so times that fall together run once.

mod civil;
mod parse;
mod schedule;
mod spread;

#[cfg(test)]
mod tests;

pub use schedule::Schedule;
pub use spread::{Spread, spread};

use crate::time::UnixMillis;
use anshin_base::Problem;
use jiff::tz::TimeZone;

/// Most lines of one calendar.
pub const SCHEDULES_MAX: usize = 32;

/// When something happens: schedules in a time zone. Without a schedule it never happens by itself.
#[derive(Clone, Debug)]
pub struct Calendar {
    schedules: Vec<Schedule>,
    zone: TimeZone,
}

impl Calendar {
    /// Reads schedule lines. `zone` is a name as in `Europe/Berlin`; a line may end in a zone of its own.
    ///
    /// # Errors
    /// `schedule-format`, `time-zone` with what is wrong and a hint.
    pub fn parse<S: AsRef<str>>(lines: &[S], zone: &str) -> Result<Self, Problem> {
        if lines.len() > SCHEDULES_MAX {
            return Err(Problem::new("schedule-format", format!("{} schedules are too many", lines.len()))
                .hint(format!(
                    "a plan has at most {SCHEDULES_MAX}; several times fit into one: `daily 6:00,12:00,18:00`"
                )));
        }
        let schedules = lines.iter().map(|line| Schedule::parse(line.as_ref())).collect::<Result<_, _>>()?;
        Ok(Self { schedules, zone: time_zone(zone)? })
    }

    /// The first occurrence after `after`.
    #[must_use]
    pub fn next(&self, after: UnixMillis) -> Option<UnixMillis> {
        self.schedules.iter().filter_map(|schedule| schedule.next(after, &self.zone)).min()
    }

    /// The last occurrence at or before `until`.
    #[must_use]
    pub fn last(&self, until: UnixMillis) -> Option<UnixMillis> {
        self.schedules.iter().filter_map(|schedule| schedule.last(until, &self.zone)).max()
    }

    /// Occurrences in `(after, until]`, at most `max` of them, oldest first.
    #[must_use]
    pub fn between(&self, after: UnixMillis, until: UnixMillis, max: usize) -> Vec<UnixMillis> {
        let mut out = Vec::new();
        let mut at = after;
        while out.len() < max
            && let Some(next) = self.next(at).filter(|&next| next <= until)
        {
            out.push(next);
            at = next;
        }
        out
    }

    /// The time zone of lines that name none.
    #[must_use]
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// Whether it never happens by itself.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.schedules.is_empty()
    }

    /// The lines, in their normal form.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.schedules.iter().map(ToString::to_string).collect()
    }
}

/// The zone of this name.
///
/// # Errors
/// `time-zone` if there is none.
pub fn time_zone(name: &str) -> Result<TimeZone, Problem> {
    if name == "UTC" {
        return Ok(TimeZone::UTC);
    }
    TimeZone::get(name).map_err(|_| {
        Problem::new("time-zone", format!("there is no time zone `{name}`"))
            .hint("use a name of the zone database, for example Europe/Berlin, Asia/Tokyo or UTC")
    })
}
