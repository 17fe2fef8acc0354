//! Reading a schedule line, word by word.

use super::{
    schedule::{Days, Schedule},
    time_zone,
};
use anshin_base::Problem;

/// Longest line, in bytes.
const LINE_BYTES_MAX: usize = 200;
const WEEKDAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const ORDINALS: [&str; 5] = ["first", "second", "third", "fourth", "fifth"];
const EXAMPLES: &str = "known forms: `daily 23:00`, `mon..fri 22:30`, `first sunday 03:00`, `last day 18:00`, `hourly :15`, \
     `every 15m`, `*-*-1,15 04:00`, each with a time zone at the end if wanted";
/// Years that can be named.
const YEARS: (u32, u32) = (1970, 2200);

/// Bit of an ordinal list that means *last*.
const LAST: u32 = 1;

#[derive(Default)]
struct Words {
    keyword: Option<Keyword>,
    weekdays: u8,
    /// Bits 1..=31, and [`LAST`].
    ordinals: u32,
    day_numbers: u32,
    /// `day` stood in the line: ordinals count days, not weekdays.
    counts_days: bool,
    months: u16,
    years: Vec<i16>,
    date: Option<Days>,
    times: Vec<u16>,
    time_has_hours: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Keyword {
    Hourly,
    Daily,
    Weekly,
    Monthly,
    Yearly,
}

pub(crate) fn parse(line: &str) -> Result<Schedule, Problem> {
    if line.len() > LINE_BYTES_MAX {
        return Err(problem("a schedule", format!("is longer than {LINE_BYTES_MAX} bytes")));
    }
    let mut tokens: Vec<&str> = line.split_whitespace().collect();
    let text = tokens.join(" ");
    let zone = match tokens.last() {
        Some(&last) if is_zone(last) => {
            tokens.pop();
            let name = if last.eq_ignore_ascii_case("utc") { "UTC" } else { last };
            Some((name.to_owned(), time_zone(name)?))
        }
        _ => None,
    };
    if tokens.is_empty() {
        return Err(problem(&format!("`{text}`"), "says nothing of when".to_owned()));
    }
    let lower: Vec<String> = tokens.iter().map(|token| token.to_ascii_lowercase()).collect();
    let words = read(&text, &lower)?;
    build(words, text, zone)
}

/// A zone has a slash and begins with a letter (`Europe/Berlin`), or is `UTC`.
fn is_zone(token: &str) -> bool {
    token.eq_ignore_ascii_case("utc")
        || (token.contains('/') && token.starts_with(|c: char| c.is_ascii_alphabetic()))
}

fn read(text: &str, tokens: &[String]) -> Result<Words, Problem> {
    let mut words = Words::default();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        at += 1;
        let next = tokens.get(at).map(String::as_str);
        match token.as_str() {
            "at" | "on" | "of" | "the" | "in" | "and" => {}
            "every" => {
                if let Some((step, used)) = every(text, next, tokens.get(at + 1).map(String::as_str))? {
                    add_times(&mut words.times, (0..1440).step_by(step));
                    words.time_has_hours = true;
                    at += used;
                }
            }
            "hourly" => words.keyword = Some(Keyword::Hourly),
            "daily" => words.keyword = Some(Keyword::Daily),
            "weekly" => words.keyword = Some(Keyword::Weekly),
            "monthly" => words.keyword = Some(Keyword::Monthly),
            "yearly" | "annually" => words.keyword = Some(Keyword::Yearly),
            "weekdays" | "workdays" => words.weekdays |= 0b001_1111,
            "weekends" | "weekend" => words.weekdays |= 0b110_0000,
            "midnight" => add_times(&mut words.times, [0]),
            "noon" => add_times(&mut words.times, [720]),
            "day" | "days" => words.counts_days = true,
            token => read_list(text, token, &mut words)?,
        }
    }
    Ok(words)
}

/// Words that are lists of something: times, dates, weekdays, months, ordinals, days of the month.
fn read_list(text: &str, token: &str, words: &mut Words) -> Result<(), Problem> {
    let whole = || format!("`{text}`");
    if token.contains(':') {
        let (times, has_hours) = times(token).map_err(|why| problem(&whole(), why))?;
        words.time_has_hours |= has_hours;
        add_times(&mut words.times, times);
        return Ok(());
    }
    if let Some(bits) = named(token, &WEEKDAYS) {
        words.weekdays |= bits as u8;
        return Ok(());
    }
    if let Some(bits) = named(token, &MONTHS) {
        words.months |= (bits << 1) as u16;
        return Ok(());
    }
    if let Some(bits) = ordinals(token) {
        words.ordinals |= bits;
        return Ok(());
    }
    if token.contains(['-', '~']) && !token.starts_with(|c: char| c.is_ascii_alphabetic()) {
        if words.date.is_some() {
            return Err(problem(&whole(), "has two dates".to_owned()));
        }
        return date(token, words).map_err(|why| problem(&whole(), why));
    }
    let days_expected = words.counts_days || words.keyword == Some(Keyword::Monthly);
    if days_expected && token.starts_with(|c: char| c.is_ascii_digit()) {
        words.day_numbers |=
            numbers(token, 1, 31, Wrap::No, "day").map_err(|why| problem(&whole(), why))? as u32;
        return Ok(());
    }
    Err(unknown(text, token))
}

fn unknown(text: &str, token: &str) -> Problem {
    let mut problem = problem(&format!("`{text}`"), format!("has a word that is not understood: `{token}`"));
    if token.ends_with("am") || token.ends_with("pm") {
        problem.hint = Some("write times with 24 hours, for example 23:00".into());
    } else if token.chars().all(|c| c.is_ascii_digit() || ",.".contains(c)) {
        problem.hint = Some(format!("write `day {token}` for a day of the month or `{token}:00` for a time"));
    }
    problem
}

/// `every 15m`, `every 4h`, `every 2 hours`: minutes between two, and words used. None if no number follows.
fn every(text: &str, next: Option<&str>, after: Option<&str>) -> Result<Option<(usize, usize)>, Problem> {
    let (value, unit, used) = match next {
        Some("hour") => (1, "h", 1),
        Some("minute") => (1, "m", 1),
        Some(next) if next.starts_with(|c: char| c.is_ascii_digit()) => {
            let digits = next.find(|c: char| !c.is_ascii_digit()).unwrap_or(next.len());
            let (value, unit) = next.split_at(digits);
            let value: usize = value.parse().unwrap_or(0);
            if unit.is_empty() { (value, after.unwrap_or(""), 2) } else { (value, unit, 1) }
        }
        _ => return Ok(None),
    };
    let step = match unit {
        "m" | "min" | "minutes" if value > 0 && 60 % value == 0 => Some(value),
        "h" | "hours" if value > 0 && 24 % value == 0 => Some(value * 60),
        _ => None,
    };
    step.map(|step| Some((step, used))).ok_or_else(|| {
        problem(&format!("`{text}`"), "has a step that does not divide the day evenly".to_owned())
            .hint("minutes must divide 60 (every 5m, 10m, 15m, 20m, 30m), hours must divide 24 (every 2h, 4h, 6h, 8h, 12h)")
    })
}

fn add_times(times: &mut Vec<u16>, more: impl IntoIterator<Item = u16>) {
    times.extend(more);
    times.sort_unstable();
    times.dedup();
}

/// `23:00`, `6:00,12:00`, `8..18:30`, `*:0/15`, `:15`, `23:00:00`; and whether the hours were given.
fn times(token: &str) -> Result<(Vec<u16>, bool), String> {
    let parts: Vec<&str> = token.split(',').collect();
    let patterns = if parts.iter().all(|part| part.contains(':')) { parts } else { vec![token] };
    let mut out = Vec::new();
    let mut has_hours = true;
    for pattern in patterns {
        let mut fields = pattern.split(':');
        let (hours, minutes) = (fields.next().unwrap_or(""), fields.next().unwrap_or(""));
        if fields.next().is_some_and(|seconds| seconds.is_empty() || seconds.bytes().any(|b| b != b'0'))
            || fields.next().is_some()
        {
            return Err(format!("has the time `{pattern}`: schedules are exact to the minute"));
        }
        has_hours &= !hours.is_empty() && hours != "*";
        let hours = if hours.is_empty() { "*" } else { hours };
        let hours = numbers(hours, 0, 23, Wrap::Yes, "hour")?;
        let minutes = numbers(minutes, 0, 59, Wrap::No, "minute")?;
        for hour in bits(hours) {
            add_times(&mut out, bits(minutes).map(|minute| (hour * 60 + minute) as u16));
        }
    }
    Ok((out, has_hours))
}

/// `2027-01-01`, `*-*-1,15`, `12-24`, `*-*~1` (the last day), `*-02~1`.
fn date(token: &str, words: &mut Words) -> Result<(), String> {
    let (front, days, from_end) = match token.rsplit_once('~') {
        Some((front, days)) => (front, days, true),
        None => {
            let (front, days) = token.rsplit_once('-').ok_or_else(|| format!("has the date `{token}`"))?;
            (front, days, false)
        }
    };
    let (years, months) = front.rsplit_once('-').unwrap_or(("*", front));
    let days = numbers(days, 1, 31, Wrap::No, "day")? as u32;
    words.date = Some(if from_end {
        Days { from_start: 0, from_end: days }
    } else {
        Days { from_start: days, from_end: 0 }
    });
    words.months |= numbers(months, 1, 12, Wrap::No, "month")? as u16;
    if years != "*" {
        let first = YEARS.0;
        let bad = || format!("has the year `{years}`; years are {first} to {}", YEARS.1);
        for part in years.split(',') {
            let (from, to) = part.split_once("..").unwrap_or((part, part));
            let from: u32 = from.parse().map_err(|_| bad())?;
            let to: u32 = to.parse().map_err(|_| bad())?;
            if from < first || to > YEARS.1 || from > to {
                return Err(bad());
            }
            words.years.extend((from..=to).map(|year| year as i16));
        }
        words.years.sort_unstable();
        words.years.dedup();
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Wrap {
    Yes,
    No,
}

/// `*`, `3`, `1,15`, `8..18`, `0/15`, `8..18/2` as bits.
fn numbers(list: &str, min: u32, max: u32, wrap: Wrap, what: &str) -> Result<u64, String> {
    let mut out = 0;
    for part in list.split(',') {
        let bad = || format!("has the {what} `{part}`; {what}s are {min} to {max}");
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step.parse::<u32>().map_err(|_| bad())?)),
            None => (part, None),
        };
        let read = |number: &str| {
            let digits = number.len() <= 2 && number.bytes().all(|b| b.is_ascii_digit());
            let number: Option<u32> = number.parse().ok().filter(|_| digits);
            number.filter(|&number| number >= min && number <= max).ok_or_else(bad)
        };
        let (from, to) = if range == "*" {
            (min, max)
        } else if let Some((from, to)) = range.split_once("..").or_else(|| range.split_once('-')) {
            (read(from)?, read(to)?)
        } else {
            let from = read(range)?;
            (from, if step.is_some() { max } else { from })
        };
        let step = step.unwrap_or(1);
        if step == 0 || (from > to && wrap == Wrap::No) {
            return Err(bad());
        }
        let to = if from > to { to + max + 1 - min } else { to };
        for number in (from..=to).step_by(step as usize) {
            out |= 1 << if number > max { number - (max + 1 - min) } else { number };
        }
    }
    Ok(out)
}

fn bits(set: u64) -> impl Iterator<Item = u32> {
    (0..64).filter(move |bit| set & (1 << bit) != 0)
}

/// `mon`, `mon..fri`, `fri-mon`, `mon,wed`: bits from 0. None if a part is no such name.
fn named(list: &str, names: &[&str]) -> Option<u32> {
    let read = |name: &str| {
        let name = name.strip_suffix('.').unwrap_or(name);
        let long_enough = name.len() >= 3;
        names.iter().position(|full| {
            long_enough
                && (full[..3] == *name
                    || *full == name
                    || full.strip_suffix("day") == Some(name)
                    || (name.len() > 3 && full.starts_with(name)))
        })
    };
    let mut out = 0;
    for part in list.split(',') {
        let (from, to) = part.split_once("..").or_else(|| part.split_once('-')).unwrap_or((part, part));
        let (from, to) = (read(from)?, read(to)?);
        let to = if from > to { to + names.len() } else { to };
        for bit in from..=to {
            out |= 1 << (bit % names.len());
        }
    }
    Some(out)
}

/// `first`, `1st,3rd`, `first..third`, `last`, `15th`.
fn ordinals(list: &str) -> Option<u32> {
    let read = |word: &str| {
        if word == "last" {
            return Some(0);
        }
        if let Some(at) = ORDINALS.iter().position(|name| *name == word) {
            return Some(at as u32 + 1);
        }
        let digits = word.strip_suffix("st").or_else(|| word.strip_suffix("nd"));
        let digits = digits.or_else(|| word.strip_suffix("rd")).or_else(|| word.strip_suffix("th"))?;
        digits.parse().ok().filter(|number| (1..=31).contains(number))
    };
    let mut out = 0;
    for part in list.split(',') {
        let (from, to) = part.split_once("..").or_else(|| part.split_once('-')).unwrap_or((part, part));
        let (from, to) = (read(from)?, read(to)?);
        if from > to || (from == 0 && to != 0) {
            return None;
        }
        for number in from..=to {
            out |= 1 << number;
        }
    }
    Some(out)
}

fn build(
    words: Words,
    text: String,
    zone: Option<(String, jiff::tz::TimeZone)>,
) -> Result<Schedule, Problem> {
    let whole = format!("`{text}`");
    let mut words = words;
    let mut ordinals = 0;
    let mut days = words.date;
    let mut numbers = words.day_numbers;
    if words.ordinals != 0 {
        if words.weekdays != 0 && !words.counts_days {
            if words.ordinals >> 6 != 0 {
                return Err(problem(&whole, "counts weekdays beyond the fifth of a month".to_owned()));
            }
            ordinals = words.ordinals as u8;
        } else {
            numbers |= words.ordinals;
        }
    } else if words.counts_days && numbers == 0 && words.date.is_none() && words.keyword.is_none() {
        // "every day", "mon..fri days": no restriction.
        words.keyword = Some(Keyword::Daily);
    }
    if numbers != 0 {
        if days.is_some() {
            return Err(problem(&whole, "has two dates".to_owned()));
        }
        days = Some(Days { from_start: numbers & !LAST, from_end: if numbers & LAST != 0 { 2 } else { 0 } });
    }
    let times = match (words.times.is_empty(), words.keyword) {
        (false, Some(Keyword::Hourly)) if words.time_has_hours && !text.contains("..") => {
            return Err(problem(&whole, "is hourly and names an hour".to_owned())
                .hint("write `hourly :15` for a minute of every hour, or `daily 03:00`"));
        }
        (false, _) => words.times,
        (true, Some(Keyword::Hourly)) => (0..24).map(|hour| hour * 60).collect(),
        (true, Some(_)) => vec![0],
        (true, None) => {
            return Err(
                problem(&whole, "says no time of day".to_owned()).hint(format!("add one: `{text} 03:00`"))
            );
        }
    };
    match words.keyword {
        Some(Keyword::Weekly) if words.weekdays == 0 => words.weekdays = 1,
        Some(Keyword::Monthly | Keyword::Yearly) if days.is_none() && words.weekdays == 0 => {
            days = Some(Days { from_start: 2, from_end: 0 });
        }
        _ => {}
    }
    if words.keyword == Some(Keyword::Monthly) && words.weekdays != 0 && ordinals == 0 && days.is_none() {
        ordinals = 1 << 1;
    }
    if words.keyword == Some(Keyword::Yearly) && words.months == 0 {
        words.months = 1 << 1;
    }
    Ok(Schedule {
        weekdays: if words.weekdays == 0 { 0b111_1111 } else { words.weekdays },
        ordinals,
        days: days.unwrap_or(Days::EVERY),
        months: if words.months == 0 { 0x1ffe } else { words.months },
        years: words.years,
        times,
        zone,
        text,
    })
}

fn problem(subject: &str, why: String) -> Problem {
    Problem::new("schedule-format", format!("{subject} {why}")).hint(EXAMPLES)
}
