//! Points and lengths of time as plans and records carry them.

use anshin_base::Problem;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::{fmt, str::FromStr};

/// Milliseconds since 1970 by the clock of the node that leads. For calendars, ages and people; who may write or seal
/// never rests on it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMillis(pub i64);

impl UnixMillis {
    /// The point `span` later.
    #[must_use]
    pub fn after(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.millis()))
    }

    /// The point `span` earlier.
    #[must_use]
    pub fn before(self, span: Span) -> Self {
        Self(self.0.saturating_sub(span.millis()))
    }

    /// How long after `earlier` this is; nothing if that lies ahead. Rounded down to seconds.
    #[must_use]
    pub fn since(self, earlier: Self) -> Span {
        Span(u64::try_from(self.0.saturating_sub(earlier.0) / 1_000).unwrap_or(0))
    }

    /// As the time library has it; None outside of years -9999..9999.
    #[must_use]
    pub fn timestamp(self) -> Option<Timestamp> {
        Timestamp::from_millisecond(self.0).ok()
    }
}

impl From<Timestamp> for UnixMillis {
    fn from(at: Timestamp) -> Self {
        Self(at.as_millisecond())
    }
}

impl fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.timestamp() {
            Some(at) => write!(f, "{}", at.strftime("%Y-%m-%d %H:%M:%S UTC")),
            None => write!(f, "{} ms", self.0),
        }
    }
}

impl fmt::Debug for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A length of time in whole seconds, written as people write it: `90s`, `15m`, `2h30m`, `7d`, `5w`, `1y` (365 days).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(pub u64);

/// Longest span accepted: a thousand years, so that no sum of times overflows.
const SPAN_MAX: u64 = 1_000 * 365 * 86_400;
const UNITS: [(char, u64); 6] =
    [('y', 365 * 86_400), ('w', 7 * 86_400), ('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

impl Span {
    /// This many minutes.
    #[must_use]
    pub const fn minutes(minutes: u64) -> Self {
        Self(minutes * 60)
    }

    /// This many hours.
    #[must_use]
    pub const fn hours(hours: u64) -> Self {
        Self(hours * 3_600)
    }

    /// This many days of 24 hours.
    #[must_use]
    pub const fn days(days: u64) -> Self {
        Self(days * 86_400)
    }

    /// The same in milliseconds.
    #[must_use]
    pub fn millis(self) -> i64 {
        i64::try_from(self.0.min(SPAN_MAX) * 1_000).unwrap_or(i64::MAX)
    }

    /// This and `other` together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0).min(SPAN_MAX))
    }

    /// For people: the largest unit that fits, as `3 days`, `1 hour`.
    #[must_use]
    pub fn rough(self) -> String {
        let names = [("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)];
        // Two of a unit or more: "47 hours" says more than "1 day".
        let (name, unit) = names.into_iter().find(|(_, unit)| self.0 >= 2 * unit).unwrap_or(("second", 1));
        let unit = if name == "second" && self.0 >= 60 { ("minute", 60) } else { (name, unit) };
        let count = self.0 / unit.1;
        format!("{count} {}{}", unit.0, if count == 1 { "" } else { "s" })
    }
}

impl FromStr for Span {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let bad = || {
            Problem::new("span-format", format!("`{text}` is not a length of time"))
                .hint("write numbers with s, m, h, d, w or y, for example 90s, 15m, 2h30m, 7d")
        };
        let mut rest = text.trim();
        let mut total: u64 = 0;
        let mut above = u64::MAX;
        if rest.is_empty() {
            return Err(bad());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
            let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
            let letter = rest[digits..].chars().next().ok_or_else(bad)?;
            let unit = UNITS.iter().find(|(name, _)| *name == letter).ok_or_else(bad)?.1;
            if unit >= above {
                return Err(bad());
            }
            above = unit;
            total = number.checked_mul(unit).and_then(|part| total.checked_add(part)).ok_or_else(bad)?;
            rest = rest[digits + letter.len_utf8()..].trim_start();
        }
        if total > SPAN_MAX { Err(bad()) } else { Ok(Self(total)) }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.0;
        for (name, unit) in UNITS {
            if rest >= unit {
                write!(f, "{}{name}", rest / unit)?;
                rest %= unit;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_u64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            text.parse().map_err(|problem: Problem| D::Error::custom(problem.message))
        } else {
            Ok(Self(u64::deserialize(deserializer)?.min(SPAN_MAX)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spans_are_read_as_people_write_them() {
        for (text, seconds) in
            [("90s", 90), ("15m", 900), ("2h30m", 9_000), ("7d", 604_800), ("1w 2d", 777_600)]
        {
            assert_eq!(text.parse::<Span>().unwrap(), Span(seconds), "{text}");
        }
        for bad in ["", "5", "h", "-1h", "1.5h", "30m2h", "1h1h", "99999999999999y", "2000y", "5 minutes"] {
            let problem = bad.parse::<Span>().unwrap_err();
            assert!(problem.hint.is_some(), "{bad}");
        }
    }

    #[test]
    fn ages_are_said_roughly() {
        for (seconds, text) in [
            (0, "0 seconds"),
            (1, "1 second"),
            (59, "59 seconds"),
            (61, "1 minute"),
            (7_000, "116 minutes"),
            (86_400, "24 hours"),
            (300_000, "3 days"),
        ] {
            assert_eq!(Span(seconds).rough(), text);
        }
    }

    proptest! {
        #[test]
        fn a_span_reads_back_as_written(seconds in 0..=SPAN_MAX) {
            prop_assert_eq!(Span(seconds).to_string().parse::<Span>().unwrap(), Span(seconds));
        }

        #[test]
        fn reading_a_span_never_panics(text in ".{0,40}") {
            let _ = text.parse::<Span>();
        }
    }
}
