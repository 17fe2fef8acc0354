//! Rules: trees of conditions on nodes, time, agents and operations.

use super::Reader;
use crate::words;
use crate::{Agent, UnixSeconds};
use roxmltree::Node as Xml;
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// What a rule may ask about.
#[derive(Clone, Copy, Default)]
pub(crate) struct Facts<'a> {
    /// The point in time.
    pub(crate) now: UnixSeconds,
    /// Attributes of the node in question, with `#uname` and the like.
    pub(crate) node: Option<&'a BTreeMap<String, String>>,
    /// The agent in question.
    pub(crate) agent: Option<&'a Agent>,
    /// Name and interval of the operation in question.
    pub(crate) operation: Option<(&'a str, u64)>,
    /// Parameters and meta attributes of the resource in question.
    pub(crate) parameters: Option<&'a BTreeMap<String, String>>,
    /// Meta attributes of the resource in question.
    pub(crate) meta: Option<&'a BTreeMap<String, String>>,
}

/// Bound on the depth of nested rules.
const DEPTH_MAX: usize = 32;

/// True if the rule holds.
pub(crate) fn holds(reader: &Reader<'_>, rule: Xml<'_, '_>, facts: &Facts<'_>) -> bool {
    check_rule(reader, rule, facts, 0)
}

fn check_rule(reader: &Reader<'_>, rule: Xml<'_, '_>, facts: &Facts<'_>, depth: usize) -> bool {
    if depth > DEPTH_MAX {
        return false;
    }
    let target = rule.attribute("id-ref").and_then(|id| reader.by_id.get(id).copied());
    if let Some(target) = target {
        return target != rule && check_rule(reader, target, facts, depth + 1);
    }
    let any = rule.attribute("boolean-op").is_some_and(|op| op.eq_ignore_ascii_case("or"));
    let mut conditions = rule
        .children()
        .filter(Xml::is_element)
        .filter_map(|c| match c.tag_name().name() {
            "rule" => Some(check_rule(reader, c, facts, depth + 1)),
            "expression" => Some(check_attribute(c, facts)),
            "date_expression" => Some(check_date(c, facts.now)),
            "rsc_expression" => Some(check_agent(c, facts.agent)),
            "op_expression" => Some(check_operation(c, facts.operation)),
            _ => None,
        })
        .peekable();
    if conditions.peek().is_none() {
        return !any;
    }
    if any { conditions.any(|c| c) } else { conditions.all(|c| c) }
}

fn check_attribute(expression: Xml<'_, '_>, facts: &Facts<'_>) -> bool {
    let Some(node) = facts.node else { return false };
    let name = expression.attribute("attribute").unwrap_or_default();
    let operation = expression.attribute("operation").unwrap_or_default();
    let actual = node.get(name).map(String::as_str);
    let written = expression.attribute("value");
    let wanted = match expression.attribute("value-source") {
        Some("param") => written.and_then(|v| facts.parameters?.get(v)).map(String::as_str),
        Some("meta") => written.and_then(|v| facts.meta?.get(v)).map(String::as_str),
        _ => written,
    };
    match operation {
        "defined" => return actual.is_some(),
        "not_defined" => return actual.is_none(),
        _ => {}
    }
    let (Some(a), Some(w)) = (actual, wanted) else {
        return operation == "ne" && actual != wanted;
    };
    let order = compare(a, w, expression.attribute("type"), operation);
    match operation {
        "eq" => order == Ordering::Equal,
        "ne" => order != Ordering::Equal,
        "lt" => order == Ordering::Less,
        "lte" => order != Ordering::Greater,
        "gt" => order == Ordering::Greater,
        "gte" => order != Ordering::Less,
        _ => false,
    }
}

fn compare(actual: &str, wanted: &str, kind: Option<&str>, operation: &str) -> Ordering {
    let kind = kind.unwrap_or(if matches!(operation, "lt" | "lte" | "gt" | "gte") {
        if actual.contains('.') || wanted.contains('.') { "number" } else { "integer" }
    } else {
        "string"
    });
    let text = || actual.to_ascii_lowercase().cmp(&wanted.to_ascii_lowercase());
    match kind {
        "integer" => match (integer(actual), integer(wanted)) {
            (Some(a), Some(w)) => a.cmp(&w),
            _ => text(),
        },
        "number" => match (number(actual), number(wanted)) {
            (Some(a), Some(w)) => a.partial_cmp(&w).unwrap_or(Ordering::Equal),
            _ => text(),
        },
        "version" => versions(actual, wanted),
        _ => text(),
    }
}

/// Whole part of a number; what follows the digits is ignored, as in `3.7`.
fn integer(text: &str) -> Option<i64> {
    let text = text.trim();
    let unsigned = text.trim_start_matches(['-', '+']);
    let end = unsigned.find(|c: char| !c.is_ascii_digit()).unwrap_or(unsigned.len());
    if end == 0 || unsigned.len() + 1 < text.len() {
        return None;
    }
    let size: i64 = unsigned[..end].parse().unwrap_or(i64::MAX);
    Some(if text.starts_with('-') { -size } else { size })
}

fn number(text: &str) -> Option<f64> {
    let text = text.trim();
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-' | '+' | 'e' | 'E')))
        .unwrap_or(text.len());
    text[..end].parse().ok()
}

fn versions(a: &str, b: &str) -> Ordering {
    let parts = |s: &str| -> Vec<i64> { s.split('.').map(|p| integer(p).unwrap_or(0)).collect() };
    let (mut a, mut b) = (parts(a), parts(b));
    let len = a.len().max(b.len());
    a.resize(len, 0);
    b.resize(len, 0);
    a.cmp(&b)
}

fn check_agent(expression: Xml<'_, '_>, agent: Option<&Agent>) -> bool {
    let Some(agent) = agent else { return false };
    let matches = |name: &str, value: &str| expression.attribute(name).is_none_or(|want| want == value);
    matches("class", &agent.class) && matches("provider", &agent.provider) && matches("type", &agent.name)
}

fn check_operation(expression: Xml<'_, '_>, operation: Option<(&str, u64)>) -> bool {
    let Some((name, interval_ms)) = operation else { return false };
    expression.attribute("name").is_none_or(|n| n == name)
        && expression.attribute("interval").is_none_or(|i| words::milliseconds(i) == Some(interval_ms))
}

fn check_date(expression: Xml<'_, '_>, now: UnixSeconds) -> bool {
    let point = |name| expression.attribute(name).and_then(words::instant);
    let (start, end) = (point("start"), point("end"));
    match expression.attribute("operation").unwrap_or("in_range") {
        "gt" => start.is_some_and(|s| now.0 > s),
        "lt" => end.is_some_and(|e| now.0 < e),
        "date_spec" => {
            expression.children().find(|c| c.has_tag_name("date_spec")).is_some_and(|s| check_spec(s, now))
        }
        _ => {
            let duration = expression.children().find(|c| c.has_tag_name("duration"));
            let end = end.or_else(|| Some(add_duration(start?, duration?)));
            (start.is_some() || end.is_some())
                && start.is_none_or(|s| now.0 >= s)
                && end.is_none_or(|e| now.0 <= e)
        }
    }
}

fn add_duration(start: i64, duration: Xml<'_, '_>) -> i64 {
    let part = |name| duration.attribute(name).and_then(integer).unwrap_or(0).clamp(-1_000_000, 1_000_000);
    let days = start.div_euclid(86_400);
    let (year, month, day) = words::civil_from_days(days);
    let months = (year + part("years")) * 12 + month - 1 + part("months");
    let moved = words::days_from_civil(months.div_euclid(12), months.rem_euclid(12) + 1, day);
    (moved + part("weeks") * 7 + part("days")) * 86_400
        + start.rem_euclid(86_400)
        + part("hours") * 3_600
        + part("minutes") * 60
        + part("seconds")
}

fn check_spec(spec: Xml<'_, '_>, now: UnixSeconds) -> bool {
    let days = now.0.div_euclid(86_400);
    let clock = now.0.rem_euclid(86_400);
    let (year, month, day) = words::civil_from_days(days);
    let year_day = days - words::days_from_civil(year, 1, 1) + 1;
    // 1970-01-01 was a Thursday; Monday is 1.
    let week_day = (days + 3).rem_euclid(7) + 1;
    let (week_year, week) = week_of(days, week_day);
    let fields = [
        ("seconds", clock % 60),
        ("minutes", clock / 60 % 60),
        ("hours", clock / 3_600),
        ("monthdays", day),
        ("weekdays", week_day),
        ("yeardays", year_day),
        ("months", month),
        ("weeks", week),
        ("years", year),
        ("weekyears", week_year),
    ];
    fields.iter().all(|(name, value)| spec.attribute(*name).is_none_or(|range| in_range(range, *value)))
}

/// ISO week: the year and week of the Thursday of the same week.
fn week_of(days: i64, week_day: i64) -> (i64, i64) {
    let thursday = days + 4 - week_day;
    let (year, _, _) = words::civil_from_days(thursday);
    (year, (thursday - words::days_from_civil(year, 1, 1)) / 7 + 1)
}

fn in_range(range: &str, value: i64) -> bool {
    let bound = |s: &str| s.trim().parse::<i64>().ok();
    match range.split_once('-') {
        None => bound(range) == Some(value),
        Some((low, high)) => {
            (low.trim().is_empty() || bound(low).is_some_and(|l| value >= l))
                && (high.trim().is_empty() || bound(high).is_some_and(|h| value <= h))
        }
    }
}
