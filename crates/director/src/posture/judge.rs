//! [`posture`]: the judgement.

use super::{Colour, Freshness, Protected};
use crate::{
    calendar::Calendar,
    plan::{Inventory, Job, Plan},
    record::{Records, TargetRecord},
    run::VaultSeen,
    time::{Span, UnixMillis},
    words::{PlanName, SnapshotId, TargetKey, VaultName},
};
use std::collections::{BTreeMap, BTreeSet};

/// What else is known.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The vaults as they are seen; a vault that is not among them is not known.
    pub vaults: BTreeMap<VaultName, VaultSeen>,
    /// Snapshots that verification found damaged, and what it said.
    pub damaged: BTreeMap<SnapshotId, String>,
    /// Snapshots that look unlike those before them ([`super::doubts`]), and how.
    pub doubts: BTreeMap<SnapshotId, String>,
    /// Targets whose continuous log is not in the vault, and why.
    pub logs: BTreeMap<TargetKey, String>,
}

/// Reasons as they are found.
#[derive(Default)]
struct Reasons(Vec<(Colour, String)>);

impl Reasons {
    fn add(&mut self, colour: Colour, reason: impl Into<String>) {
        self.0.push((colour, reason.into()));
    }

    fn finish(mut self) -> (Colour, Vec<String>) {
        self.0.sort_by_key(|(colour, _)| std::cmp::Reverse(*colour));
        let worst = self.0.first().map_or(Colour::Amber, |(colour, _)| *colour);
        // Beside trouble what is well is not worth a line.
        let keep = |(colour, reason): (Colour, String)| {
            (worst == Colour::Green || colour > Colour::Green).then_some(reason)
        };
        let reasons: Vec<String> = self.0.into_iter().filter_map(keep).collect();
        (worst, reasons)
    }
}

/// How safe every protected thing is, worst first. Things that no plan names are among them.
#[must_use]
pub fn posture(
    records: &Records,
    inventory: &Inventory,
    settings: &Settings,
    fresh: Freshness,
    now: UnixMillis,
) -> Vec<Protected> {
    let mut out = Vec::new();
    let mut named: BTreeSet<TargetKey> = BTreeSet::new();
    let mut unreadable = false;
    for (name, record) in &records.plans {
        let read =
            Plan::from_json(&record.text).and_then(|plan| plan.calendar().map(|calendar| (plan, calendar)));
        let Ok((plan, calendar)) = read else {
            unreadable = true;
            out.extend(known_of_unreadable(records, name));
            continue;
        };
        for job in inventory.jobs(&plan.what) {
            if plan.enabled || plan.expect.is_some() {
                named.insert(job.key.clone());
            }
            out.push(judge(records, settings, fresh, now, &plan, &calendar, &job));
        }
    }
    // What a service stands on is safe with the service, and the other way round.
    let everything = inventory.jobs(&[crate::plan::Source::Protected { except: Vec::new() }]);
    for job in everything.into_iter().filter(|job| !covered(&job.key, &named, inventory)) {
        let (colour, reason) = if unreadable {
            (Colour::Amber, "no plan that this build can read backs it up")
        } else {
            (Colour::Red, "no plan backs it up")
        };
        out.push(bare(job.key, None, colour, reason.into()));
    }
    out.sort_by(|a, b| {
        (std::cmp::Reverse(a.colour), &a.target, &a.plan).cmp(&(
            std::cmp::Reverse(b.colour),
            &b.target,
            &b.plan,
        ))
    });
    out
}

fn covered(key: &TargetKey, named: &BTreeSet<TargetKey>, inventory: &Inventory) -> bool {
    let service = key.0.strip_prefix("service/");
    let volume = service
        .and_then(|name| inventory.services.iter().find(|service| service.name == name)?.volume.as_deref())
        .or(key.0.strip_prefix("volume/"));
    let forms = volume.map(|volume| [format!("volume/{volume}"), format!("volume-image/{volume}")]);
    named.contains(key) || forms.into_iter().flatten().any(|form| named.contains(&TargetKey(form)))
}

fn known_of_unreadable<'a>(records: &'a Records, name: &'a PlanName) -> impl Iterator<Item = Protected> + 'a {
    let of_plan = records.targets.keys().filter(move |(plan, _)| plan == name);
    of_plan.map(move |(_, target)| {
        let reason = format!("plan {name} cannot be read by this build; upgrade this node");
        bare(target.clone(), Some(name.clone()), Colour::Amber, reason)
    })
}

fn bare(target: TargetKey, plan: Option<PlanName>, colour: Colour, reason: String) -> Protected {
    Protected {
        target,
        plan,
        colour,
        reasons: vec![reason],
        last_good: None,
        age: None,
        expected: None,
        drill: None,
        next: None,
    }
}

fn judge(
    records: &Records,
    settings: &Settings,
    fresh: Freshness,
    now: UnixMillis,
    plan: &Plan,
    calendar: &Calendar,
    job: &Job,
) -> Protected {
    let mut reasons = Reasons::default();
    let known = records.target(&plan.name, &job.key);
    let last_good = known.and_then(|known| known.last_good.clone());
    let expected = plan.expected_age(calendar, now);
    // A clock that went back makes nothing younger than nothing.
    let age = last_good.as_ref().map(|good| now.since(good.point));
    let since = records.plans.get(&plan.name).map_or(now, |record| record.since);
    judge_age(&mut reasons, age, expected, now.since(since));
    if last_good.as_ref().is_some_and(|good| good.point > now.after(Span::hours(1))) {
        reasons.add(Colour::Amber, "the newest good backup is dated in the future: a clock is or was wrong");
    }
    if let Some(known) = known {
        judge_runs(&mut reasons, known);
    }
    if let Some(good) = &last_good {
        if let Some(why) = settings.damaged.get(&good.snapshot) {
            reasons.add(Colour::Red, format!("the newest good backup is damaged: {why}"));
        }
        if let Some(why) = settings.doubts.get(&good.snapshot) {
            reasons.add(Colour::Amber, format!("the newest good backup looks unlike those before: {why}"));
        }
        if good.warnings > 0 {
            reasons.add(
                Colour::Green,
                format!("{} files could not be read or changed while read", good.warnings),
            );
        }
    }
    judge_vault(&mut reasons, settings, plan);
    if let Some(why) = settings.logs.get(&job.key) {
        reasons.add(Colour::Amber, why.clone());
    }
    let drill = records.drills.get(&job.key).cloned();
    judge_drill(&mut reasons, drill.as_ref(), plan, now.since(since), now);
    if !plan.enabled {
        reasons.add(Colour::Amber, format!("plan {} is disabled", plan.name));
    }
    if let Freshness::AsOf(at) = fresh {
        reasons.add(Colour::Amber, format!("this node is cut off: what it knows is of {at}"));
    }
    let (colour, reasons) = reasons.finish();
    let next = plan.enabled.then(|| next(plan, calendar, &job.key, now)).flatten();
    let (target, plan) = (job.key.clone(), Some(plan.name.clone()));
    Protected { target, plan, colour, reasons, last_good, age, expected, drill, next }
}

fn next(plan: &Plan, calendar: &Calendar, target: &TargetKey, now: UnixMillis) -> Option<UnixMillis> {
    let spread = plan.spread_of(target);
    calendar.next(spread.passed(now)).map(|at| spread.due(at))
}

fn judge_age(reasons: &mut Reasons, age: Option<Span>, expected: Option<Span>, planned: Span) {
    match (age, expected) {
        (Some(age), Some(expected)) if age > Span(expected.0.saturating_mul(2)) => reasons.add(
            Colour::Red,
            format!(
                "the newest good backup is {} old, expected is at most {}",
                age.rough(),
                expected.rough()
            ),
        ),
        (Some(age), Some(expected)) if age > expected => reasons.add(
            Colour::Amber,
            format!(
                "the newest good backup is {} old, expected is at most {}",
                age.rough(),
                expected.rough()
            ),
        ),
        (Some(age), Some(_)) => {
            reasons.add(Colour::Green, format!("the newest good backup is {} old", age.rough()));
        }
        (Some(age), None) => reasons.add(
            Colour::Amber,
            format!("it is backed up by hand only, last {} ago, and no age is expected", age.rough()),
        ),
        (None, Some(expected)) if planned > expected => {
            reasons.add(Colour::Red, format!("it was never backed up, for {} now", planned.rough()));
        }
        (None, _) => reasons.add(Colour::Amber, "it was not backed up yet"),
    }
}

fn judge_runs(reasons: &mut Reasons, known: &TargetRecord) {
    if let Some(trouble) =
        known.last_end.as_ref().and_then(|end| end.trouble.as_ref().map(|why| (end.run, why)))
    {
        let (run, why) = trouble;
        let colour = if known.failures >= 3 { Colour::Red } else { Colour::Amber };
        let times = match known.failures {
            0 | 1 => String::new(),
            times => format!(", {times} in a row"),
        };
        reasons.add(colour, format!("{run} did not end well{times}: {why}"));
    }
    if known.missed > 0 {
        reasons
            .add(Colour::Amber, format!("{} planned runs were missed since the last good one", known.missed));
    }
}

fn judge_vault(reasons: &mut Reasons, settings: &Settings, plan: &Plan) {
    match settings.vaults.get(&plan.vault) {
        None => reasons.add(
            Colour::Amber,
            format!("vault {} is not reachable: whether its backups are whole is not known", plan.vault),
        ),
        Some(VaultSeen { trouble: Some(why), .. }) => {
            reasons.add(Colour::Amber, format!("vault {} cannot be written: {why}", plan.vault));
        }
        Some(_) => {}
    }
}

fn judge_drill(
    reasons: &mut Reasons,
    drill: Option<&crate::record::Drill>,
    plan: &Plan,
    planned: Span,
    now: UnixMillis,
) {
    let every = plan.drill_every();
    match drill {
        Some(drill) if !drill.good => reasons.add(
            Colour::Red,
            format!("its last drill, {} ago, failed: {}", now.since(drill.at).rough(), drill.summary),
        ),
        Some(drill) if now.since(drill.at) > every => {
            reasons.add(Colour::Amber, format!("its last drill is {} ago", now.since(drill.at).rough()));
        }
        Some(drill) => {
            reasons.add(
                Colour::Green,
                format!("its last drill, {} ago, went well", now.since(drill.at).rough()),
            );
        }
        // Young plans need not have been rehearsed yet, but it is said.
        None if planned > every => reasons.add(Colour::Amber, "no restore was ever rehearsed"),
        None => reasons.add(Colour::Green, "no restore was rehearsed yet"),
    }
}
