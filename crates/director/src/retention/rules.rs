//! [`decide`]: the rules.

use super::{Candidate, FUTURE_TOLERANCE, Standing};
use crate::{
    plan::Keep,
    time::{Span, UnixMillis},
    words::SnapshotId,
};
use jiff::{Zoned, tz::TimeZone};
use std::fmt;

/// Why a snapshot is kept or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// One of the newest so many.
    Last(u32),
    /// The newest of an hour, day, week, month or year: which, and the how many-th of them.
    Period {
        /// `hourly`, `daily`, …
        rule: &'static str,
        /// `2026-11-23`, `2026-W48`, …
        period: String,
        /// From the newest on, starting with 1.
        number: u32,
    },
    /// Made within the time that is kept whole.
    Within(Span),
    /// It has a tag that is kept.
    Tag(String),
    /// Somebody holds it.
    Held(String),
    /// The newest good one of something still planned.
    LastGood,
    /// It is damaged or suspicious: rules do not touch it.
    Set(Standing),
    /// No rule wants it.
    NoRule,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Last(count) => write!(f, "one of the last {count}"),
            Self::Period { rule, period, number } => write!(f, "{rule} {number}: newest of {period}"),
            Self::Within(span) => write!(f, "within {span} of the newest"),
            Self::Tag(tag) => write!(f, "tagged {tag}"),
            Self::Held(why) => write!(f, "held by {why}"),
            Self::LastGood => f.write_str("the newest good one of something still planned"),
            Self::Set(Standing::Suspicious(why)) => {
                write!(f, "suspicious: {why}; counts for no rule, stays until somebody decides")
            }
            Self::Set(Standing::Damaged(why)) => {
                write!(f, "damaged: {why}; counts for no rule, stays until somebody decides")
            }
            Self::Set(Standing::Good) | Self::NoRule => f.write_str("no rule keeps it"),
        }
    }
}

/// What becomes of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Which.
    pub snapshot: SnapshotId,
    /// When it was sealed.
    pub sealed: UnixMillis,
    /// Bytes that removing it would free, if known.
    pub own_bytes: Option<u64>,
    /// Whether it stays.
    pub keep: bool,
    /// Why; at least one reason.
    pub reasons: Vec<Reason>,
}

/// Decides over the snapshots of **one** target in one plan, newest first in the answer. `planned`: whether the plan
/// still names the target. `zone` tells where days begin. `now` serves only to recognise dates in the future.
#[must_use]
pub fn decide(
    snapshots: &[Candidate],
    keep: &Keep,
    planned: bool,
    zone: &TimeZone,
    now: UnixMillis,
) -> Vec<Verdict> {
    let mut sorted: Vec<&Candidate> = snapshots.iter().collect();
    sorted.sort_by(|a, b| (b.sealed, &b.snapshot).cmp(&(a.sealed, &a.snapshot)));
    let standings: Vec<Standing> = sorted.iter().map(|candidate| standing_now(candidate, now)).collect();
    let good: Vec<usize> = (0..sorted.len()).filter(|&at| standings[at] == Standing::Good).collect();
    let mut reasons: Vec<Vec<Reason>> = vec![Vec::new(); sorted.len()];
    for (at, reason) in good.iter().zip(std::iter::repeat_n(Reason::Last(keep.last), keep.last as usize)) {
        reasons[*at].push(reason);
    }
    for (rule, count, name) in periods(keep) {
        by_period(rule, count, name, &good, &sorted, zone, &mut reasons);
    }
    if let (Some(within), Some(&newest)) = (keep.within, good.first()) {
        let from = sorted[newest].sealed.before(within);
        for &at in good.iter().filter(|&&at| sorted[at].sealed >= from) {
            reasons[at].push(Reason::Within(within));
        }
    }
    if let Some(&newest) = good.first().filter(|_| planned) {
        reasons[newest].push(Reason::LastGood);
    }
    let verdict = |(at, candidate): (usize, &&Candidate)| {
        let mut reasons = std::mem::take(&mut reasons[at]);
        let tag = candidate.tags.iter().find(|tag| keep.tags.contains(tag));
        reasons.extend(tag.map(|tag| Reason::Tag(tag.clone())));
        reasons.extend(candidate.held.clone().map(Reason::Held));
        if standings[at] != Standing::Good {
            reasons.push(Reason::Set(standings[at].clone()));
        }
        let keep = !reasons.is_empty();
        if !keep {
            reasons.push(Reason::NoRule);
        }
        let Candidate { snapshot, sealed, own_bytes, .. } = candidate;
        Verdict { snapshot: snapshot.clone(), sealed: *sealed, own_bytes: *own_bytes, keep, reasons }
    };
    sorted.iter().enumerate().map(verdict).collect()
}

fn standing_now(candidate: &Candidate, now: UnixMillis) -> Standing {
    if candidate.standing == Standing::Good && candidate.sealed > now.after(FUTURE_TOLERANCE) {
        return Standing::Suspicious(format!("dated {}, which is in the future", candidate.sealed));
    }
    candidate.standing.clone()
}

type Name = fn(&Zoned) -> String;

fn periods(keep: &Keep) -> [(&'static str, u32, Name); 5] {
    [
        // The offset tells the two hours of one name apart when clocks are set back.
        ("hourly", keep.hourly, |at| at.strftime("%Y-%m-%d %H:00 %z").to_string()),
        ("daily", keep.daily, |at| at.strftime("%Y-%m-%d").to_string()),
        ("weekly", keep.weekly, |at| at.strftime("%G-W%V").to_string()),
        ("monthly", keep.monthly, |at| at.strftime("%Y-%m").to_string()),
        ("yearly", keep.yearly, |at| at.strftime("%Y").to_string()),
    ]
}

/// The newest good snapshot of each of the newest `count` periods that have one.
fn by_period(
    rule: &'static str,
    count: u32,
    name: Name,
    good: &[usize],
    sorted: &[&Candidate],
    zone: &TimeZone,
    reasons: &mut [Vec<Reason>],
) {
    let mut number = 0;
    let mut last = None;
    for &at in good {
        if number >= count {
            return;
        }
        let Some(sealed) = sorted[at].sealed.timestamp() else { continue };
        let period = name(&sealed.to_zoned(zone.clone()));
        if last.as_ref() != Some(&period) {
            number += 1;
            reasons[at].push(Reason::Period { rule, period: period.clone(), number });
            last = Some(period);
        }
    }
}
