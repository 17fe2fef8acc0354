//! Values as administrators write them: truth, lengths of time, points in time.

/// Reads a boolean; nothing for anything else.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "on" | "yes" | "y" | "1" => Some(true),
        "false" | "off" | "no" | "n" | "0" => Some(false),
        _ => None,
    }
}

/// Reads a length of time (`10`, `10s`, `500ms`, `5min`, `PT1M30S`) as milliseconds; a bare number is seconds.
pub(crate) fn milliseconds(text: &str) -> Option<u64> {
    let text = text.trim();
    if let Some(iso) = text.strip_prefix('P') {
        return iso_duration(iso);
    }
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    if end == 0 {
        return None;
    }
    let number: u64 = text[..end].parse().unwrap_or(u64::MAX);
    let unit = match text[end..].trim().to_ascii_lowercase().as_str() {
        "" | "s" | "sec" => 1_000,
        "ms" | "msec" => 1,
        "us" | "usec" => return Some(number / 1_000),
        "m" | "min" => 60_000,
        "h" | "hr" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some(number.saturating_mul(unit))
}

fn iso_duration(text: &str) -> Option<u64> {
    let (mut total, mut number, mut in_time) = (0u64, 0u64, false);
    for c in text.chars() {
        let unit = match c {
            '0'..='9' => {
                number = number.saturating_mul(10).saturating_add(u64::from(c as u32 - '0' as u32));
                continue;
            }
            'T' => {
                in_time = true;
                continue;
            }
            'S' => 1,
            'M' if in_time => 60,
            'H' => 3_600,
            'D' => 86_400,
            'W' => 604_800,
            'M' => 2_592_000,
            'Y' => 31_536_000,
            _ => return None,
        };
        total = total.saturating_add(number.saturating_mul(unit));
        number = 0;
    }
    Some(total.saturating_mul(1_000))
}

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar.
pub(crate) fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Year, month and day of a number of days since 1970-01-01.
pub(crate) fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Reads `2005-01-20`, `2005-020`, `20050120`, with optional `T` or space, time and zone, as seconds since 1970 (UTC).
pub(crate) fn instant(text: &str) -> Option<i64> {
    let text = text.trim();
    if !text.is_ascii() {
        return None;
    }
    let (date, time) = match text.find(['T', ' ']) {
        Some(at) => (&text[..at], text[at + 1..].trim()),
        None if text.contains(':') => return None,
        None => (text, ""),
    };
    let days = date_days(date)?;
    Some(days * 86_400 + clock_seconds(time)?)
}

fn date_days(date: &str) -> Option<i64> {
    let parts: Vec<&str> = date.split('-').collect();
    let number = |s: &str| if s.len() > 6 { None } else { s.parse::<i64>().ok() };
    match parts.as_slice() {
        [y, d] if d.len() == 3 => Some(days_from_civil(number(y)?, 1, 1) + number(d)? - 1),
        [y, m] => Some(days_from_civil(number(y)?, number(m)?.clamp(1, 12), 1)),
        [y, m, d] => Some(days_from_civil(number(y)?, number(m)?.clamp(1, 12), number(d)?)),
        [y] if y.len() == 8 => {
            Some(days_from_civil(number(&y[..4])?, number(&y[4..6])?.clamp(1, 12), number(&y[6..])?))
        }
        [y] if y.len() == 4 => Some(days_from_civil(number(y)?, 1, 1)),
        _ => None,
    }
}

/// Seconds of day of `12:30[:15][Z|±hh[:mm]]`, moved to UTC.
fn clock_seconds(text: &str) -> Option<i64> {
    let text = text.trim_end_matches('Z').trim();
    if text.is_empty() {
        return Some(0);
    }
    let (clock, offset) = match text.find(['+', '-']) {
        Some(at) => {
            let sign = if text.as_bytes()[at] == b'-' { -1 } else { 1 };
            (text[..at].trim(), sign * hours_minutes(&text[at + 1..])?)
        }
        None => (text, 0),
    };
    Some(hours_minutes(clock)? - offset)
}

fn hours_minutes(text: &str) -> Option<i64> {
    let mut seconds = 0;
    if text.contains(':') {
        for (part, unit) in text.split(':').zip([3_600, 60, 1]) {
            let whole = part.split('.').next()?;
            seconds += whole.get(..whole.len().min(4))?.parse::<i64>().ok()? * unit;
        }
        return Some(seconds);
    }
    for (at, unit) in [(0, 3_600), (2, 60), (4, 1)] {
        match text.get(at..at + 2) {
            Some(part) => seconds += part.parse::<i64>().ok()? * unit,
            None => break,
        }
    }
    Some(seconds)
}

/// `2023-06-21 00:59:59Z`.
pub(crate) fn show_instant(seconds: i64) -> String {
    let (year, month, day) = civil_from_days(seconds.div_euclid(86_400));
    let clock = seconds.rem_euclid(86_400);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}Z", clock / 3_600, clock / 60 % 60, clock % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_in_time_are_read_in_the_usual_spellings() {
        assert_eq!(instant("1970-01-02"), Some(86_400));
        assert_eq!(instant("2005-020"), Some(1_106_179_200));
        assert_eq!(instant("2005-020T12:30"), Some(1_106_179_200 + 45_000));
        assert_eq!(instant("2005-01-20 12:30:01 +02:00"), Some(1_106_179_200 + 45_001 - 7_200));
        assert_eq!(instant("noon"), None);
        assert_eq!(show_instant(1_106_179_200), "2005-01-20 00:00:00Z");
    }

    #[test]
    fn lengths_of_time_have_units() {
        assert_eq!(milliseconds("10"), Some(10_000));
        assert_eq!(milliseconds("250ms"), Some(250));
        assert_eq!(milliseconds("2min"), Some(120_000));
        assert_eq!(milliseconds("PT1M30S"), Some(90_000));
        assert_eq!(milliseconds("soon"), None);
    }
}
